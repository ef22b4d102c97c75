// The product of a layer that stores active connections only.
//
// Every connection multiplies one row of the input by one number: the minibatch lies along the
// vectors, and the sums of an output stay in registers while its connections pass. Inputs are
// taken in blocks that fit the nearest cache.
//
// An output's sum is one chain of fused multiply-adds in ascending input, as in the dense product
// (dense.h), so both layouts give the same bits.
#pragma once

#include "dense.h"

namespace {

using fastanf::Connections;

struct Rows {
    const int32_t* start;   // of the first row's connections
    const int32_t* column;
    const int32_t* source;  // where values are, or null: in the same place
    const float* value;
    const float* tile;  // inputs; row `column` of it
    int64_t stride;     // of tile and sums
    float* sums;        // [count, stride]
    int64_t count;
    Start begin;
    const float* bias;
};

// kFull vectors and a tail of the columns from `at`, of all rows.
template <int kFull, class Tail, bool kIndirect>
void multiply_rows(const Rows& p, int64_t at) {
    constexpr bool kHasTail = Tail::kSize > 0;
    constexpr int kVectors = kFull > 0 ? kFull : 1;
    const float* tile = p.tile + at;
    for (int64_t o = 0; o < p.count; ++o) {
        float* sums = p.sums + o * p.stride + at;
        int32_t j = p.start[o];
        const int32_t end = p.start[o + 1];
        if (j == end && p.begin == Start::kSums) continue;
        Full sum[kVectors];
        Tail rest;
        const float first = p.begin == Start::kBias ? p.bias[o] : 0.0f;
#pragma GCC unroll 8
        for (int v = 0; v < kFull; ++v) {
            if (p.begin == Start::kSums) load(sum[v], sums + v * kWidth);
            else splat(sum[v], first);
        }
        if constexpr (kHasTail) {
            if (p.begin == Start::kSums) load(rest, sums + kFull * kWidth);
            else splat(rest, first);
        }
        for (; j < end; ++j) {
            const float scalar = p.value[kIndirect ? p.source[j] : j];
            const float* x = tile + p.column[j] * p.stride;
            if constexpr (kFull > 0) {
                Full w;
                splat(w, scalar);
#pragma GCC unroll 8
                for (int v = 0; v < kFull; ++v) {
                    Full part;
                    load(part, x + v * kWidth);
                    sum[v] = fma(w, part, sum[v]);
                }
            }
            if constexpr (kHasTail) {
                Tail w, part;
                splat(w, scalar);
                load(part, x + kFull * kWidth);
                rest = fma(w, part, rest);
            }
        }
#pragma GCC unroll 8
        for (int v = 0; v < kFull; ++v) store(sums + v * kWidth, sum[v]);
        if constexpr (kHasTail) store(sums + kFull * kWidth, rest);
    }
}

template <class Tail, bool kIndirect>
void multiply_rows(const Rows& p, int64_t at, int full) {
    switch (full) {
        case 0:
            if constexpr (Tail::kSize > 0) multiply_rows<0, Tail, kIndirect>(p, at);
            break;
        case 1: multiply_rows<1, Tail, kIndirect>(p, at); break;
        case 2: multiply_rows<2, Tail, kIndirect>(p, at); break;
        case 3: multiply_rows<3, Tail, kIndirect>(p, at); break;
        case 4: multiply_rows<4, Tail, kIndirect>(p, at); break;
        case 5: multiply_rows<5, Tail, kIndirect>(p, at); break;
        case 6: multiply_rows<6, Tail, kIndirect>(p, at); break;
        case 7: multiply_rows<7, Tail, kIndirect>(p, at); break;
        case 8:
            if constexpr (Tail::kSize == 0) multiply_rows<8, Tail, kIndirect>(p, at);
            break;
    }
}

template <bool kIndirect>
void multiply_rows(const Rows& p, int64_t columns) {
    const Columns shape(columns);
    const int units = shape.units(), passes = (units + kRow - 1) / kRow;
    for (int i = 0; i < passes; ++i) {
        const int from = units * i / passes, to = units * (i + 1) / passes;
        const bool has_tail = to == units && shape.tail > 0;
        const int full = to - from - (has_tail ? 1 : 0);
        const int64_t at = (int64_t)from * kWidth;
        if (has_tail && shape.tail == 4 && kWidth > 4) {
            multiply_rows<F4, kIndirect>(p, at, full);
#if defined(__AVX512F__)
        } else if (has_tail && shape.tail == 8) {
            multiply_rows<F8, kIndirect>(p, at, full);
#endif
        } else {
            multiply_rows<F0, kIndirect>(p, at, full);
        }
    }
}

}  // namespace
