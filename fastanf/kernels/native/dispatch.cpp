// Plain C entry points for ctypes, and the choice of the instruction-set variant.
#include "kernels.h"

#if defined(_WIN32)
#define FASTANF_EXPORT extern "C" __declspec(dllexport)
#else
#define FASTANF_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace fastanf {
extern const KernelTable table_baseline;
#if defined(FASTANF_X86_VARIANTS)
extern const KernelTable table_avx2;
extern const KernelTable table_avx512;
#endif
}  // namespace fastanf

namespace {

using namespace fastanf;

// 0 baseline, 1 AVX2 with FMA, 2 AVX-512 (F, BW, DQ, VL).
int best_variant() {
#if defined(FASTANF_X86_VARIANTS)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx2 && avx512) return 2;
    if (avx2) return 1;
#endif
    return 0;
}

const int kBest = best_variant();
int chosen = kBest;

const KernelTable& kernels() {
#if defined(FASTANF_X86_VARIANTS)
    if (chosen == 2) return table_avx512;
    if (chosen == 1) return table_avx2;
#endif
    return table_baseline;
}

}  // namespace

// Version of the C interface; the Python side refuses a library of another version.
FASTANF_EXPORT int fastanf_abi(void) { return 3; }

FASTANF_EXPORT int fastanf_variant(void) { return chosen; }

// Picks a variant for tests; values above what this processor has are lowered. Returns the choice.
FASTANF_EXPORT int fastanf_set_variant(int variant) {
    chosen = variant < 0 ? 0 : (variant > kBest ? kBest : variant);
    return chosen;
}

FASTANF_EXPORT void fastanf_random(void* out, int64_t lane_stride, int64_t feature_stride,
                                   int64_t lanes, int64_t features, int64_t rows,
                                   const int64_t* key, const int64_t* row, uint32_t stream,
                                   int64_t first_word, const float* scale, const float* quantiles,
                                   int64_t num_tables, int draw, int threads) {
    kernels().random({out, lane_stride, feature_stride, lanes, features, rows, key, row, stream,
                      first_word, scale, quantiles, num_tables, draw, threads});
}

FASTANF_EXPORT void fastanf_adam(const AdamArgs* args) { kernels().adam(*args); }

FASTANF_EXPORT void fastanf_polyak(float* target, const float* weight, const float* tau,
                                   const uint8_t* mask, int64_t lanes, int64_t n, int threads) {
    kernels().polyak({target, weight, tau, mask, lanes, n, threads});
}

FASTANF_EXPORT void fastanf_forward(const ForwardArgs* args) { kernels().forward(*args); }

FASTANF_EXPORT void fastanf_backward(const BackwardArgs* args) { kernels().backward(*args); }

FASTANF_EXPORT void fastanf_weight_grad(const WeightGradArgs* args) { kernels().weight_grad(*args); }

FASTANF_EXPORT void fastanf_csr_weight_grad(const CsrWeightGradArgs* args) { kernels().csr_weight_grad(*args); }

FASTANF_EXPORT void fastanf_evolve(const EvolveArgs* args) { kernels().evolve(*args); }

FASTANF_EXPORT void fastanf_transpose(const TransposeArgs* args) { kernels().transpose(*args); }

FASTANF_EXPORT void fastanf_gather(const GatherArgs* args) { kernels().gather(*args); }

FASTANF_EXPORT void fastanf_squash(const SquashArgs* args) { kernels().squash(*args); }

FASTANF_EXPORT void fastanf_squash_grad(const SquashGradArgs* args) { kernels().squash_grad(*args); }
