// Values drawn from 32-bit words: uniform, normal, and from a table of quantiles.
#pragma once

#include "elements.h"

namespace {

constexpr int kTablePoints = 257;  // of a distribution function given by its quantiles

// u = (2 floor(w / 2^9) + 1) 2^-24, exact in float32, in (0, 1).
inline __attribute__((always_inline)) float uniform(uint32_t w) {
    return (float)(int32_t)((w >> 8) | 1u) * 0x1p-24f;
}

// Inverse of a distribution function given at 257 points: the top 8 bits choose the bin.
inline __attribute__((always_inline)) float quantile(uint32_t w, const float* table, float scale) {
    const uint32_t bin = w >> 24;
    const float fraction = (float)(int32_t)(w & 0xFFFFFFu) * 0x1p-24f;
    const float low = table[bin];
    return (low + fraction * (table[bin + 1] - low)) * scale;
}

// scale * sqrt(-2 ln u1) * (cos, sin)(2 pi u2), each within 6 units in the last place.
inline __attribute__((always_inline)) void box_muller(uint32_t w1, uint32_t w2, float scale,
                                                      float& n0, float& n1) {
    // ln u1: mantissa in [sqrt(1/2), sqrt(2)), minimax polynomial of log1p, relative error 3e-8.
    // u1 = t 2^-24 with an odd integer t; the 24 leaves the exponent with sqrt(1/2).
    const int32_t sqrt_half = 0x3F3504F3;
    const int32_t shifted =
        bits_of((float)(int32_t)((w1 >> 8) | 1u)) - (sqrt_half + (24 << 23));
    const float exponent = (float)(shifted >> 23);
    const float x = float_of((shifted & 0x7FFFFF) + sqrt_half) - 1.0f;
    float q = -0.174696822f;
    q = __builtin_fmaf(q, x, 0.286150420f);
    q = __builtin_fmaf(q, x, -0.298359479f);
    q = __builtin_fmaf(q, x, 0.331410166f);
    q = __builtin_fmaf(q, x, -0.399241442f);
    q = __builtin_fmaf(q, x, 0.500035105f);
    q = __builtin_fmaf(q, x, -0.666679004f);
    q = __builtin_fmaf(q, x, 0.999999832f);
    const float log1p_part = x * __builtin_fmaf(x, q, -2.0f);  // of -2 ln u1
    const float radius =
        scale * __builtin_sqrtf(__builtin_fmaf(exponent, -1.38629436f, log1p_part));

    // Angle: 2 pi u2 = quadrant * pi / 2 + angle, angle in [-pi / 4, pi / 4], exact in integers.
    const uint32_t turn = (w2 & 0xFFFFFF00u) | 0x100u;  // 2^32 u2
    const float angle = (float)(int32_t)(turn << 2) * 3.65729520e-10f;  // pi / 2^33
    const uint32_t quadrant = turn + 0x20000000u;  // in bits 31 and 30
    const float z = angle * angle;
    float s = -1.95152831e-4f;
    s = __builtin_fmaf(s, z, 8.33216076e-3f);
    s = __builtin_fmaf(s, z, -0.166666546f);
    s = __builtin_fmaf(s * z, angle, angle);
    float c = 2.44384513e-5f;
    c = __builtin_fmaf(c, z, -1.38873675e-3f);
    c = __builtin_fmaf(c, z, 4.16666469e-2f);
    c = __builtin_fmaf(c, z, -0.5f);
    c = __builtin_fmaf(c, z, 1.0f);
    // Where the quadrant is odd the two change places, by exclusive or of their bits.
    const int32_t is_odd = (int32_t)(quadrant << 1) >> 31;
    const int32_t change = (bits_of(s) ^ bits_of(c)) & is_odd;
    const int32_t cosine = bits_of(c) ^ change, sine = bits_of(s) ^ change;
    const uint32_t cosine_sign = (quadrant + 0x40000000u) & 0x80000000u;
    const uint32_t sine_sign = quadrant & 0x80000000u;
    n0 = radius * float_of(cosine ^ (int32_t)cosine_sign);
    n1 = radius * float_of(sine ^ (int32_t)sine_sign);
}

}  // namespace
