// Vectors of floats for the instruction set at hand, and narrower ones for what is left of a row.
//
// Full is the widest vector. Where the columns of a product are not a multiple of it, the rest is
// one vector of a smaller width (Tail), or the full width over zeros. fma(a, b, c) is a * b + c
// with one rounding, except in the x86 baseline, which has no such instruction and rounds twice.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define FASTANF_INLINE inline __attribute__((always_inline))

namespace {

// No tail.
struct F0 {
    static constexpr int kSize = 0;
};

#if defined(__AVX2__)
struct F4 {
    static constexpr int kSize = 4;
    __m128 v;
};
FASTANF_INLINE void load(F4& x, const float* p) { x.v = _mm_loadu_ps(p); }
FASTANF_INLINE void store(float* p, F4 x) { _mm_storeu_ps(p, x.v); }
FASTANF_INLINE void splat(F4& x, float value) { x.v = _mm_set1_ps(value); }
FASTANF_INLINE F4 fma(F4 a, F4 b, F4 c) { return {_mm_fmadd_ps(a.v, b.v, c.v)}; }
FASTANF_INLINE F4 add(F4 a, F4 b) { return {_mm_add_ps(a.v, b.v)}; }

struct F8 {
    static constexpr int kSize = 8;
    __m256 v;
};
FASTANF_INLINE void load(F8& x, const float* p) { x.v = _mm256_loadu_ps(p); }
FASTANF_INLINE void store(float* p, F8 x) { _mm256_storeu_ps(p, x.v); }
FASTANF_INLINE void splat(F8& x, float value) { x.v = _mm256_set1_ps(value); }
FASTANF_INLINE F8 fma(F8 a, F8 b, F8 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
#else
struct F4 {
    static constexpr int kSize = 4;
    typedef float Vector __attribute__((vector_size(16)));
    Vector v;
};
FASTANF_INLINE void load(F4& x, const float* p) { std::memcpy(&x.v, p, 16); }
FASTANF_INLINE void store(float* p, F4 x) { std::memcpy(p, &x.v, 16); }
FASTANF_INLINE void splat(F4& x, float value) { x.v = F4::Vector{value, value, value, value}; }
#if defined(__ARM_FEATURE_FMA)
FASTANF_INLINE F4 fma(F4 a, F4 b, F4 c) {
    for (int i = 0; i < 4; ++i) c.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
    return c;
}
#else
FASTANF_INLINE F4 fma(F4 a, F4 b, F4 c) { return {a.v * b.v + c.v}; }
#endif
FASTANF_INLINE F4 add(F4 a, F4 b) { return {a.v + b.v}; }
#endif

#if defined(__AVX512F__)
struct F16 {
    static constexpr int kSize = 16;
    __m512 v;
};
FASTANF_INLINE void load(F16& x, const float* p) { x.v = _mm512_loadu_ps(p); }
FASTANF_INLINE void store(float* p, F16 x) { _mm512_storeu_ps(p, x.v); }
FASTANF_INLINE void splat(F16& x, float value) { x.v = _mm512_set1_ps(value); }
FASTANF_INLINE F16 fma(F16 a, F16 b, F16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
#endif

// kPanel: vectors of columns that one product keeps in registers, the tail counting as one.
// kRow: the same where a product works on a single row.
#if defined(__AVX512F__)
using Full = F16;
constexpr int kPanel = 4, kRow = 8;
// Rows of a panel of n vectors: n * rows accumulators beside n operands and one broadcast.
constexpr int rows_of_panel(int n) { return n >= 4 ? 6 : (n == 3 ? 8 : (n == 2 ? 12 : 14)); }
#elif defined(__AVX2__)
using Full = F8;
constexpr int kPanel = 3, kRow = 8;
constexpr int rows_of_panel(int n) { return n >= 3 ? 4 : (n == 2 ? 6 : 8); }
#else
using Full = F4;
constexpr int kPanel = 3, kRow = 8;
constexpr int rows_of_panel(int n) { return n >= 3 ? 4 : (n == 2 ? 6 : 8); }
#endif

constexpr int kWidth = Full::kSize;
// Rows of scratch memory are padded to this many floats, whatever the variant.
constexpr int64_t kPad = 16;

inline int64_t padded(int64_t n) { return (n + kPad - 1) / kPad * kPad; }

// Width of the vector that holds `rest` < kWidth columns: 0, 4, 8, or kWidth itself.
inline int tail_width(int64_t rest) {
    if (rest == 0) return 0;
    if (kWidth > 4 && rest <= 4) return 4;
    if (kWidth > 8 && rest <= 8) return 8;
    return kWidth;
}

// Columns as full vectors and a tail of 0, 4 or 8.
struct Columns {
    int full, tail;

    explicit Columns(int64_t n) {
        full = (int)(n / kWidth);
        tail = tail_width(n % kWidth);
        if (tail == kWidth) {
            ++full;
            tail = 0;
        }
    }
    int units() const { return full + (tail > 0); }
};

// Sixteen partial sums, whatever the variant: element i of a row is added to partial i mod 16.
struct Partials {
    static constexpr int kCount = 16 / kWidth;
    Full part[kCount];
};

// Four quarter sums of sixteen: quarter i is (p_i + p_i+8) + (p_i+4 + p_i+12).
FASTANF_INLINE F4 quarters(const Partials& p) {
#if defined(__AVX512F__)
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(p.part[0].v),
                                      _mm512_extractf32x8_ps(p.part[0].v, 1));
    return {_mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1))};
#elif defined(__AVX2__)
    const __m256 half = _mm256_add_ps(p.part[0].v, p.part[1].v);
    return {_mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1))};
#else
    return add(add(p.part[0], p.part[2]), add(p.part[1], p.part[3]));
#endif
}

// (q_0 + q_1) + (q_2 + q_3).
FASTANF_INLINE float sum_of(F4 q) {
#if defined(__AVX2__)
    const __m128 pairs = _mm_hadd_ps(q.v, q.v);
    return _mm_cvtss_f32(_mm_hadd_ps(pairs, pairs));
#endif
    float x[4];
    store(x, q);
    return (x[0] + x[1]) + (x[2] + x[3]);
}

// The same of four vectors at once.
FASTANF_INLINE F4 sums_of(F4 a, F4 b, F4 c, F4 d) {
#if defined(__AVX2__)
    _MM_TRANSPOSE4_PS(a.v, b.v, c.v, d.v);
    return add(add(a, b), add(c, d));
#else
    const float x[4] = {sum_of(a), sum_of(b), sum_of(c), sum_of(d)};
    F4 sums;
    load(sums, x);
    return sums;
#endif
}

// The first n >= 0 numbers from p, zeros behind them; all of the vector if n is larger.
#if defined(__AVX2__)
FASTANF_INLINE void load_first(F4& x, const float* p, int64_t n) {
    const __m128i index = _mm_setr_epi32(0, 1, 2, 3);
    x.v = _mm_maskload_ps(p, _mm_cmpgt_epi32(_mm_set1_epi32((int)(n < 4 ? n : 4)), index));
}
FASTANF_INLINE void load_first(F8& x, const float* p, int64_t n) {
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    x.v = _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n < 8 ? n : 8)), index));
}
#else
FASTANF_INLINE void load_first(F4& x, const float* p, int64_t n) {
    float first[4] = {};
    for (int i = 0; i < 4 && i < n; ++i) first[i] = p[i];
    load(x, first);
}
#endif
#if defined(__AVX512F__)
FASTANF_INLINE void load_first(F16& x, const float* p, int64_t n) {
    x.v = _mm512_maskz_loadu_ps(n >= 16 ? 0xFFFF : (__mmask16)((1u << n) - 1u), p);
}
#endif

// The first n numbers of a row, zeros behind them.
FASTANF_INLINE void copy_padded(float* to, const float* from, int64_t n, int64_t up_to) {
    std::memcpy(to, from, (size_t)n * sizeof(float));
    for (int64_t i = n; i < up_to; ++i) to[i] = 0.0f;
}

// to[j][i] = from[i][j] for i < rows and j < columns, in squares of four.
inline void transpose(const float* from, int64_t from_stride, int64_t rows, int64_t columns,
                      float* to, int64_t to_stride) {
    int64_t i = 0;
#if defined(__AVX2__)
    for (; i + 8 <= rows; i += 8) {
        int64_t j = 0;
        for (; j + 8 <= columns; j += 8) {
            __m256 r[8], s[8];
            const float* p = from + i * from_stride + j;
            // Rows k and k + 4 share a vector, so that the last exchange is in the loads.
            for (int k = 0; k < 4; ++k) {
                r[k] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p + k * from_stride)),
                                            _mm_loadu_ps(p + (k + 4) * from_stride), 1);
                r[k + 4] = _mm256_insertf128_ps(
                    _mm256_castps128_ps256(_mm_loadu_ps(p + k * from_stride + 4)),
                    _mm_loadu_ps(p + (k + 4) * from_stride + 4), 1);
            }
            for (int h = 0; h < 8; h += 4) {
                s[0] = _mm256_unpacklo_ps(r[h], r[h + 1]);
                s[1] = _mm256_unpackhi_ps(r[h], r[h + 1]);
                s[2] = _mm256_unpacklo_ps(r[h + 2], r[h + 3]);
                s[3] = _mm256_unpackhi_ps(r[h + 2], r[h + 3]);
                float* q = to + (j + h) * to_stride + i;
                _mm256_storeu_ps(q, _mm256_shuffle_ps(s[0], s[2], 0x44));
                _mm256_storeu_ps(q + to_stride, _mm256_shuffle_ps(s[0], s[2], 0xEE));
                _mm256_storeu_ps(q + 2 * to_stride, _mm256_shuffle_ps(s[1], s[3], 0x44));
                _mm256_storeu_ps(q + 3 * to_stride, _mm256_shuffle_ps(s[1], s[3], 0xEE));
            }
        }
        for (; j < columns; ++j) {
            for (int k = 0; k < 8; ++k) to[j * to_stride + i + k] = from[(i + k) * from_stride + j];
        }
    }
#endif
    for (; i < rows; ++i) {
        for (int64_t j = 0; j < columns; ++j) to[j * to_stride + i] = from[i * from_stride + j];
    }
}

}  // namespace
