// Adam (or plain gradient descent), connection masks and target averaging in one pass over memory.
//
// Each element is computed alone, in the order of the reference in mask_adam.py.
//
// Source of Adam: Kingma and Ba, arXiv 1412.6980, Alg. 1, with L2 regularisation in the gradient.
#pragma once

#include "elements.h"

namespace {

using fastanf::AdamArgs;
using fastanf::AdamTensor;
using fastanf::PolyakArgs;

constexpr int64_t kElementsPerPiece = 8192;

// All bits where a connection is active, none where not; x & bits selects x or +0, NaN or not.
inline __attribute__((always_inline)) uint32_t bits_of_mask(uint8_t active) {
    return 0u - (uint32_t)active;
}

inline __attribute__((always_inline)) float select(float x, uint32_t keep) {
    return float_of(bits_of(x) & (int32_t)keep);
}

enum class Average { kNone, kKeep, kMix, kCopy };  // of the target: tau 0, between, 1

inline Average average_of(const float* target, float tau) {
    if (!target) return Average::kNone;
    return tau == 0.0f ? Average::kKeep : (tau == 1.0f ? Average::kCopy : Average::kMix);
}

template <Average kAverage, bool kMasked>
inline __attribute__((always_inline)) void average(float* __restrict target, float weight,
                                                   float tau, uint32_t keep, int64_t i) {
    if constexpr (kAverage == Average::kNone) return;
    float value = target[i];
    if constexpr (kAverage == Average::kMix) value = value + tau * (weight - value);
    if constexpr (kAverage == Average::kCopy) value = weight;
    if constexpr (kMasked) value = select(value, keep);
    if constexpr (kAverage != Average::kKeep || kMasked) target[i] = value;
}

// Elements [0, n) of one lane.
template <Average kAverage, bool kMasked, bool kMoments>
void adam_piece(const AdamArgs& a, const AdamTensor& t, int64_t lane, int64_t offset, int64_t n) {
    float* __restrict weight = t.weight + offset;
    const float* __restrict grad = t.grad + offset;
    float* __restrict exp_avg = kMoments ? t.exp_avg + offset : nullptr;
    float* __restrict exp_avg_sq = kMoments ? t.exp_avg_sq + offset : nullptr;
    const uint8_t* __restrict mask = kMasked ? t.mask + offset : nullptr;
    float* __restrict target = kAverage != Average::kNone ? t.target + offset : nullptr;
    const float decay = a.weight_decay[lane], step = a.step_size[lane];
    const float tau = kAverage != Average::kNone ? a.tau[lane] : 0.0f;
    // All bits where the moments move everywhere, none where they follow the mask.
    const uint32_t moves = bits_of_mask(kMasked && a.mask_moments && !a.mask_moments[lane]);
    const float beta1 = a.beta1, rest1 = a.one_minus_beta1, beta2 = a.beta2;
    const float rest2 = a.one_minus_beta2, correction = a.sqrt_correction2, eps = a.eps;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const uint32_t keep = kMasked ? bits_of_mask(mask[i]) : ~0u;
        const float w = weight[i];
        const float g = grad[i] + decay * w;
        float updated;
        if constexpr (kMoments) {
            float m = beta1 * exp_avg[i] + rest1 * g;
            float v = beta2 * exp_avg_sq[i] + (rest2 * g) * g;
            if constexpr (kMasked) {
                m = select(m, keep | moves);
                v = select(v, keep | moves);
            }
            exp_avg[i] = m;
            exp_avg_sq[i] = v;
            updated = w - (step * m) / (__builtin_sqrtf(v) / correction + eps);
        } else {
            updated = w - step * g;
        }
        if constexpr (kMasked) updated = select(updated, keep);
        weight[i] = updated;
        average<kAverage, kMasked>(target, updated, tau, keep, i);
    }
}

template <Average kAverage>
void adam_by_mask(const AdamArgs& a, const AdamTensor& t, int64_t lane, int64_t offset, int64_t n) {
    if (t.exp_avg) {
        if (t.mask) return adam_piece<kAverage, true, true>(a, t, lane, offset, n);
        return adam_piece<kAverage, false, true>(a, t, lane, offset, n);
    }
    if (t.mask) return adam_piece<kAverage, true, false>(a, t, lane, offset, n);
    return adam_piece<kAverage, false, false>(a, t, lane, offset, n);
}

inline int64_t pieces_of(int64_t n) { return (n + kElementsPerPiece - 1) / kElementsPerPiece; }

void step_adam(const AdamArgs& a) {
    int64_t tasks = 0;
    for (int64_t i = 0; i < a.count; ++i) tasks += pieces_of(a.tensors[i].n) * a.lanes;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (tasks > 1 && a.threads > 1)
    for (int64_t task = 0; task < tasks; ++task) {
        const AdamTensor* t = a.tensors;
        int64_t rest = task;
        while (rest >= pieces_of(t->n) * a.lanes) rest -= pieces_of(t++->n) * a.lanes;
        const int64_t pieces = pieces_of(t->n);
        const int64_t lane = rest / pieces, first = rest % pieces * kElementsPerPiece;
        const int64_t n = t->n - first < kElementsPerPiece ? t->n - first : kElementsPerPiece;
        const int64_t offset = lane * t->n + first;
        switch (average_of(t->target, t->target ? a.tau[lane] : 0.0f)) {
            case Average::kNone: adam_by_mask<Average::kNone>(a, *t, lane, offset, n); break;
            case Average::kKeep: adam_by_mask<Average::kKeep>(a, *t, lane, offset, n); break;
            case Average::kMix: adam_by_mask<Average::kMix>(a, *t, lane, offset, n); break;
            case Average::kCopy: adam_by_mask<Average::kCopy>(a, *t, lane, offset, n); break;
        }
    }
}

template <Average kAverage, bool kMasked>
void polyak_piece(const PolyakArgs& a, int64_t lane, int64_t offset, int64_t n) {
    float* __restrict target = a.target + offset;
    const float* __restrict weight = a.weight + offset;
    const uint8_t* __restrict mask = kMasked ? a.mask + offset : nullptr;
    const float tau = a.tau[lane];
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        average<kAverage, kMasked>(target, weight[i], tau, kMasked ? bits_of_mask(mask[i]) : ~0u,
                                   i);
    }
}

template <Average kAverage>
void polyak_by_mask(const PolyakArgs& a, int64_t lane, int64_t offset, int64_t n) {
    if (a.mask) return polyak_piece<kAverage, true>(a, lane, offset, n);
    return polyak_piece<kAverage, false>(a, lane, offset, n);
}

void step_polyak(const PolyakArgs& a) {
    const int64_t pieces = (a.n + kElementsPerPiece - 1) / kElementsPerPiece;
    const int64_t tasks = pieces * a.lanes;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (tasks > 1 && a.threads > 1)
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t lane = task / pieces, first = task % pieces * kElementsPerPiece;
        const int64_t n = a.n - first < kElementsPerPiece ? a.n - first : kElementsPerPiece;
        const int64_t offset = lane * a.n + first;
        switch (average_of(a.target, a.tau[lane])) {
            case Average::kKeep: polyak_by_mask<Average::kKeep>(a, lane, offset, n); break;
            case Average::kMix: polyak_by_mask<Average::kMix>(a, lane, offset, n); break;
            default: polyak_by_mask<Average::kCopy>(a, lane, offset, n); break;
        }
    }
}

}  // namespace
