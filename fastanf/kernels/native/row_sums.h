// Sums over the minibatch: of rows, and of products of two rows.
//
// Element b is added to partial sum b mod 16, and the sixteen are added up as a tree (simd.h); one to
// four elements behind the last whole sixteen join its quarter sums. Every thread, lane and variant
// with fused multiply-adds gives the same bits.
#pragma once

#include <type_traits>

#include "simd.h"

namespace {

constexpr int kRowVectors = 8;  // of sixteen floats: the most that `dots` takes at a time

// Up to 128 numbers of one row in registers: pieces of sixteen, the last with zeros behind its
// numbers; or one to four more behind the last piece, which are added to the quarter sums.
template <int kPieces, bool kHasFew>
struct Row {
    static constexpr int kVectors = kPieces * Partials::kCount;
    static constexpr int64_t kWhole = 16 * kPieces;
    Full x[kVectors > 0 ? kVectors : 1];
    F4 few;

    FASTANF_INLINE Row(const float* row, int64_t n) {
#pragma GCC unroll 32
        for (int v = 0; v < kVectors; ++v) load_first(x[v], row + v * kWidth, n - v * kWidth);
        if constexpr (kHasFew) load_first(few, row + kWhole, n - kWhole);
    }

    // Products with another row, in four quarter sums.
    FASTANF_INLINE F4 times(const float* other) const {
        Partials sum;
        for (int i = 0; i < Partials::kCount; ++i) splat(sum.part[i], 0.0f);
#pragma GCC unroll 32
        for (int v = 0; v < kVectors; ++v) {
            Full y;
            load(y, other + v * kWidth);
            sum.part[v % Partials::kCount] = fma(x[v], y, sum.part[v % Partials::kCount]);
        }
        F4 quarter = quarters(sum);
        if constexpr (kHasFew) {
            F4 y;
            load(y, other + kWhole);
            quarter = fma(few, y, quarter);
        }
        return quarter;
    }
};

template <int kPieces, bool kHasFew>
void dots_of(const float* d, int64_t n, const float* tile, int64_t stride, const int32_t* column,
             int64_t count, float* out, bool accumulates) {
    const Row<kPieces, kHasFew> row(d, n);
    const auto other = [&](int64_t j) { return tile + (column ? column[j] : j) * stride; };
    int64_t j = 0;
    for (; j + 4 <= count; j += 4) {
        F4 result = sums_of(row.times(other(j)), row.times(other(j + 1)), row.times(other(j + 2)),
                            row.times(other(j + 3)));
        if (accumulates) {
            F4 before;
            load(before, out + j);
            result = add(before, result);
        }
        store(out + j, result);
    }
    for (; j < count; ++j) {
        const float result = sum_of(row.times(other(j)));
        out[j] = accumulates ? out[j] + result : result;
    }
}

// out[j] (+)= sum over b < n of d[b] * tile[column[j], b], n at most 128; without columns, of
// tile[j, b]. The tile is zero from column n up to the next multiple of sixteen.
inline void dots_up_to_128(const float* d, int64_t n, const float* tile, int64_t stride,
                           const int32_t* column, int64_t count, float* out, bool accumulates) {
    const auto run = [&](auto pieces) {
        constexpr int kPieces = decltype(pieces)::value;
        if (n > 16 * kPieces) {
            dots_of<kPieces, true>(d, n, tile, stride, column, count, out, accumulates);
        } else if constexpr (kPieces > 0) {
            dots_of<kPieces, false>(d, n, tile, stride, column, count, out, accumulates);
        }
    };
    switch (n % 16 == 0 || n % 16 > 4 ? (n + 15) / 16 : n / 16) {
        case 0: return run(std::integral_constant<int, 0>{});
        case 1: return run(std::integral_constant<int, 1>{});
        case 2: return run(std::integral_constant<int, 2>{});
        case 3: return run(std::integral_constant<int, 3>{});
        case 4: return run(std::integral_constant<int, 4>{});
        case 5: return run(std::integral_constant<int, 5>{});
        case 6: return run(std::integral_constant<int, 6>{});
        case 7: return run(std::integral_constant<int, 7>{});
        case 8: return run(std::integral_constant<int, 8>{});
    }
}

// The same for any n: 128 at a time, added in ascending order.
inline void dots(const float* d, int64_t n, const float* tile, int64_t stride,
                 const int32_t* column, int64_t count, float* out, bool accumulates) {
    for (int64_t b = 0; b < n; b += 16 * kRowVectors) {
        const int64_t here = n - b < 16 * kRowVectors ? n - b : 16 * kRowVectors;
        dots_up_to_128(d + b, here, tile + b, stride, column, count, out, accumulates || b > 0);
    }
}

// out[i] = sum over b of row i.
inline void row_sums(const float* rows, int64_t count, int64_t n, float* out) {
    for (int64_t i = 0; i < count; ++i) {
        const float* row = rows + i * n;
        alignas(64) float sum[16] = {};
        int64_t b = 0;
        for (; b + 16 <= n; b += 16) {
#pragma omp simd
            for (int k = 0; k < 16; ++k) sum[k] += row[b + k];
        }
        for (int k = 0; b + k < n; ++k) sum[k] += row[b + k];
        float q[4];
        for (int k = 0; k < 4; ++k) q[k] = (sum[k] + sum[k + 8]) + (sum[k + 4] + sum[k + 12]);
        out[i] = (q[0] + q[1]) + (q[2] + q[3]);
    }
}

}  // namespace
