// A squashed Gaussian: action and log-density from mean, log of the deviation and a standard normal
// number, and their gradients.
//
// Equations in squashed_gaussian.py. Functions of the standard library are not used, because their
// vector and scalar forms differ; these here have an error of a few units in the last place.
#pragma once

#include "elements.h"

namespace {

using fastanf::SquashArgs;
using fastanf::SquashGradArgs;

// exp(x) for -87 < x < 88, beyond that of the nearest of these: 2^k p(r), r = x - k ln 2.
inline __attribute__((always_inline)) float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float shifted = __builtin_fmaf(x, 1.44269504f, 12582912.0f);  // k in the low bits
    const float k = shifted - 12582912.0f;
    float r = __builtin_fmaf(k, -0.693359375f, x);
    r = __builtin_fmaf(k, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = __builtin_fmaf(p, r, 1.3981999507e-3f);
    p = __builtin_fmaf(p, r, 8.3334519073e-3f);
    p = __builtin_fmaf(p, r, 4.1665795894e-2f);
    p = __builtin_fmaf(p, r, 1.6666665459e-1f);
    p = __builtin_fmaf(p, r, 5.0000001201e-1f);
    p = __builtin_fmaf(p * r, r, r) + 1.0f;
    const int32_t exponent = bits_of(shifted) << 23;  // k 2^23, the rest shifted out
    return float_of(bits_of(p) + exponent);
}

// ln(1 + e) for 0 <= e <= 1, to an absolute error of 1e-7.
inline __attribute__((always_inline)) float log_one_plus(float e) {
    const int32_t sqrt_half = 0x3F3504F3;
    const int32_t shifted = bits_of(1.0f + e) - sqrt_half;
    const float exponent = (float)(shifted >> 23);
    const float x = float_of((shifted & 0x7FFFFF) + sqrt_half) - 1.0f;
    // -2 log1p(x) = x (x q - 2), as in variates.h.
    float q = -0.174696822f;
    q = __builtin_fmaf(q, x, 0.286150420f);
    q = __builtin_fmaf(q, x, -0.298359479f);
    q = __builtin_fmaf(q, x, 0.331410166f);
    q = __builtin_fmaf(q, x, -0.399241442f);
    q = __builtin_fmaf(q, x, 0.500035105f);
    q = __builtin_fmaf(q, x, -0.666679004f);
    q = __builtin_fmaf(q, x, 0.999999832f);
    const float minus_twice = x * __builtin_fmaf(x, q, -2.0f);
    return __builtin_fmaf(exponent, 0.693147181f, -0.5f * minus_twice);
}

// x where the bits of `keep` are set, else y.
inline __attribute__((always_inline)) float choose(int32_t keep, float x, float y) {
    return float_of((bits_of(x) & keep) | (bits_of(y) & ~keep));
}

// tanh(u) and ln(1 - tanh(u)^2) = 2 (ln 2 - |u| - ln(1 + exp(-2 |u|))).
inline __attribute__((always_inline)) void squash(float u, float& t, float& log_slope) {
    const float magnitude = float_of(bits_of(u) & 0x7FFFFFFF);
    const float e = exponential(-2.0f * magnitude);
    const float far = (1.0f - e) / (1.0f + e);
    const float z = magnitude * magnitude;
    float p = -5.70498872745e-3f;
    p = __builtin_fmaf(p, z, 2.06390887954e-2f);
    p = __builtin_fmaf(p, z, -5.37397155531e-2f);
    p = __builtin_fmaf(p, z, 1.33314422036e-1f);
    p = __builtin_fmaf(p, z, -3.33332819422e-1f);
    const float near = __builtin_fmaf(p * z, magnitude, magnitude);
    const int32_t is_near = (bits_of(magnitude) - 0x3F200000) >> 31;  // below 0.625
    const float value = choose(is_near, near, far);
    t = float_of(bits_of(value) | (bits_of(u) & (int32_t)0x80000000));
    log_slope = 2.0f * ((0.693147181f - magnitude) - log_one_plus(e));
}

void squash_forward(const SquashArgs& a) {
    const int64_t A = a.actions, B = a.rows;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (a.lanes > 3 && a.threads > 1)
    for (int64_t lane = 0; lane < a.lanes; ++lane) {
        float* __restrict density = a.log_density + lane * B;
        for (int64_t b = 0; b < B; ++b) density[b] = 0.0f;
        for (int64_t i = 0; i < A; ++i) {
            const float* __restrict mean = a.head + (lane * 2 * A + i) * B;
            const float* __restrict log_std = mean + A * B;
            const float* __restrict normal = a.normal + (lane * A + i) * B;
            float* __restrict action = a.action + (lane * A + i) * B;
            const float scale = a.scale[i], offset = a.offset[i], constant = a.constant[i];
#pragma omp simd
            for (int64_t b = 0; b < B; ++b) {
                float s = log_std[b];
                s = s < a.low ? a.low : s;
                s = s > a.high ? a.high : s;
                const float n = normal[b];
                float t, log_slope;
                squash(__builtin_fmaf(exponential(s), n, mean[b]), t, log_slope);
                action[b] = __builtin_fmaf(scale, t, offset);
                density[b] += (__builtin_fmaf(-0.5f * n, n, constant) - s) - log_slope;
            }
        }
    }
}

void squash_backward(const SquashGradArgs& a) {
    const int64_t A = a.actions, B = a.rows;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (a.lanes > 3 && a.threads > 1)
    for (int64_t lane = 0; lane < a.lanes; ++lane) {
        const float* __restrict density_grad = a.density_grad + lane * B;
        for (int64_t i = 0; i < A; ++i) {
            const float* __restrict mean = a.head + (lane * 2 * A + i) * B;
            const float* __restrict log_std = mean + A * B;
            const float* __restrict normal = a.normal + (lane * A + i) * B;
            const float* __restrict action_grad = a.action_grad + (lane * A + i) * B;
            float* __restrict mean_grad = a.head_grad + (lane * 2 * A + i) * B;
            float* __restrict log_std_grad = mean_grad + A * B;
            const float scale = a.scale[i];
#pragma omp simd
            for (int64_t b = 0; b < B; ++b) {
                const float raw = log_std[b];
                float s = raw < a.low ? a.low : raw;
                s = s > a.high ? a.high : s;
                const float deviation = exponential(s), n = normal[b];
                float t, log_slope;
                squash(__builtin_fmaf(deviation, n, mean[b]), t, log_slope);
                const float du = __builtin_fmaf(action_grad[b] * scale, __builtin_fmaf(-t, t, 1.0f),
                                                2.0f * t * density_grad[b]);
                mean_grad[b] = du;
                const float through = __builtin_fmaf(du, deviation * n, -density_grad[b]);
                log_std_grad[b] = raw == s ? through : 0.0f;
            }
        }
    }
}

}  // namespace
