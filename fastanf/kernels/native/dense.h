// A tile of a product, kept in registers: c[m, n] = start + sum over k of a[m, k] * t[k, n].
//
// Every element is one chain of fused multiply-adds in ascending k, so its bits depend neither on
// how the product is cut nor on what is computed beside it.
#pragma once

#include <type_traits>

#include "simd.h"

namespace {

// Where the sums begin.
enum class Start { kZero, kBias, kSums };

template <int kRows, int kFull, class Tail>
FASTANF_INLINE void multiply_tile(const float* a, int64_t a_row, int64_t a_column, const float* t,
                                  int64_t t_stride, int64_t depth, float* c, int64_t c_stride,
                                  Start start, const float* bias) {
    constexpr bool kHasTail = Tail::kSize > 0;
    constexpr int kVectors = kFull > 0 ? kFull : 1;
    Full sum[kRows][kVectors];
    Tail rest[kRows];
    for (int m = 0; m < kRows; ++m) {
        const float first = start == Start::kBias ? bias[m] : 0.0f;
        for (int v = 0; v < kFull; ++v) {
            if (start == Start::kSums) load(sum[m][v], c + m * c_stride + v * kWidth);
            else splat(sum[m][v], first);
        }
        if constexpr (kHasTail) {
            if (start == Start::kSums) load(rest[m], c + m * c_stride + kFull * kWidth);
            else splat(rest[m], first);
        }
    }
    for (int64_t k = 0; k < depth; ++k) {
        Full x[kVectors];
        Tail x_rest;
#pragma GCC unroll 8
        for (int v = 0; v < kFull; ++v) load(x[v], t + k * t_stride + v * kWidth);
        if constexpr (kHasTail) load(x_rest, t + k * t_stride + kFull * kWidth);
#pragma GCC unroll 16
        for (int m = 0; m < kRows; ++m) {
            const float scalar = a[m * a_row + k * a_column];
            if constexpr (kFull > 0) {
                Full w;
                splat(w, scalar);
#pragma GCC unroll 8
                for (int v = 0; v < kFull; ++v) sum[m][v] = fma(w, x[v], sum[m][v]);
            }
            if constexpr (kHasTail) {
                Tail w;
                splat(w, scalar);
                rest[m] = fma(w, x_rest, rest[m]);
            }
        }
    }
    for (int m = 0; m < kRows; ++m) {
        for (int v = 0; v < kFull; ++v) store(c + m * c_stride + v * kWidth, sum[m][v]);
        if constexpr (kHasTail) store(c + m * c_stride + kFull * kWidth, rest[m]);
    }
}

struct Product {
    const float* a;  // [rows, depth] by its strides
    int64_t a_row, a_column;
    const float* t;  // [depth, columns]
    int64_t t_stride;
    float* c;  // [rows, columns], written up to the end of the last vector
    int64_t c_stride, rows, depth;
    Start start;
    const float* bias;
};

template <int kFull, class Tail>
void multiply_panel(const Product& p, int64_t column) {
    constexpr int kRows = rows_of_panel(kFull + (Tail::kSize > 0));
    int64_t m = 0;
    const auto tile = [&](auto rows) {
        multiply_tile<decltype(rows)::value, kFull, Tail>(
            p.a + m * p.a_row, p.a_row, p.a_column, p.t + column, p.t_stride, p.depth,
            p.c + m * p.c_stride + column, p.c_stride, p.start, p.bias ? p.bias + m : nullptr);
        m += decltype(rows)::value;
    };
    while (m + kRows <= p.rows) tile(std::integral_constant<int, kRows>{});
    while (m + 2 <= p.rows) tile(std::integral_constant<int, 2>{});
    while (m < p.rows) tile(std::integral_constant<int, 1>{});
}

template <class Tail>
void multiply_panel(const Product& p, int64_t column, int full) {
    switch (full) {
        case 0:
            if constexpr (Tail::kSize > 0) multiply_panel<0, Tail>(p, column);
            break;
        case 1: multiply_panel<1, Tail>(p, column); break;
        case 2: multiply_panel<2, Tail>(p, column); break;
        case 3:
            if constexpr (3 + (Tail::kSize > 0) <= kPanel) multiply_panel<3, Tail>(p, column);
            break;
        case 4:
            if constexpr (4 + (Tail::kSize > 0) <= kPanel) multiply_panel<4, Tail>(p, column);
            break;
    }
}

// c[:, column : column + columns], in panels of nearly equal width.
inline void multiply(const Product& p, int64_t columns, int64_t column = 0) {
    const Columns shape(columns);
    const int units = shape.units(), panels = (units + kPanel - 1) / kPanel;
    for (int i = 0; i < panels; ++i) {
        const int from = units * i / panels, to = units * (i + 1) / panels;
        const bool has_tail = to == units && shape.tail > 0;
        const int full = to - from - (has_tail ? 1 : 0);
        const int64_t at = column + (int64_t)from * kWidth;
        if (has_tail && shape.tail == 4 && kWidth > 4) {
            multiply_panel<F4>(p, at, full);
#if defined(__AVX512F__)
        } else if (has_tail && shape.tail == 8) {
            multiply_panel<F8>(p, at, full);
#endif
        } else {
            multiply_panel<F0>(p, at, full);
        }
    }
}

}  // namespace
