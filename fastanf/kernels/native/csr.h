// Stacked linear layers that store active connections only.
//
// Every connection multiplies one row of the input by one number: the minibatch lies along the
// vectors, and the sums of an output stay in registers while its connections pass. Inputs are
// taken in blocks that fit the nearest cache; noise features are drawn into the block.
//
// An output's sum is one chain of fused multiply-adds in ascending input, as in the dense product
// (dense.h), so both layouts give the same bits.
#pragma once

#include "dense.h"
#include "layer_input.h"
#include "row_sums.h"

namespace {

using fastanf::Connections;
using fastanf::CsrInputGradArgs;
using fastanf::CsrLinearArgs;
using fastanf::CsrWeightGradArgs;

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

// y = act(b + W x).
void csr_linear(const CsrLinearArgs& a) {
    const int64_t B = a.input.rows, O = a.outputs, I = a.inputs;
    const Parts parts(a.lanes, B, a.threads);
    const int64_t tasks = a.lanes * parts.count;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (tasks > 1 && a.threads > 1)
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t lane = task / parts.count, part = task % parts.count;
        const int64_t begin = parts.begin(part), n = parts.size(part), stride = padded(n);
        float* tile = tile_scratch.floats(a.at.block_size * stride);
        float* sums = sum_scratch.floats(a.copies * O * stride);
        for (int64_t block = 0; block < a.at.blocks; ++block) {
            const int64_t first = block * a.at.block_size;
            const int64_t last = first + a.at.block_size < I ? first + a.at.block_size : I;
            fill_tile(a.input, lane, first, last, begin, n, tile, stride);
            for (int64_t copy = 0; copy < a.copies; ++copy) {
                const int64_t g = lane * a.copies + copy;
                const Start start =
                    block > 0 ? Start::kSums : (a.bias ? Start::kBias : Start::kZero);
                const Rows rows{a.at.start + g * a.at.start_stride + block * O,
                                a.at.column + g * a.at.stride,
                                nullptr,
                                a.value + g * a.at.stride,
                                tile - first * stride,
                                stride,
                                sums + copy * O * stride,
                                O,
                                start,
                                a.bias ? a.bias + g * a.bias_stride : nullptr};
                multiply_rows<false>(rows, n);
            }
        }
        store_activated(sums, stride, a.copies * O, n, a.slope,
                        a.output + lane * a.copies * O * B + begin, B);
    }
}

// The gradient of each value, dz_o . x_i, and of the biases.
void csr_weight_grad(const CsrWeightGradArgs& a) {
    const int64_t B = a.input.rows, O = a.outputs, I = a.inputs;
    const int64_t tasks = a.lanes * a.at.blocks;
    constexpr int64_t kChunk = 16 * kRowVectors;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (tasks > 1 && a.threads > 1)
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t lane = task / a.at.blocks, block = task % a.at.blocks;
        const int64_t first = block * a.at.block_size;
        const int64_t last = first + a.at.block_size < I ? first + a.at.block_size : I;
        for (int64_t row = 0; row < B; row += kChunk) {
            const int64_t n = B - row < kChunk ? B - row : kChunk, stride = padded(n);
            float* tile = tile_scratch.floats(a.at.block_size * stride);
            fill_tile(a.input, lane, first, last, row, n, tile, stride);
            for (int64_t copy = 0; copy < a.copies; ++copy) {
                const int64_t g = lane * a.copies + copy;
                const int32_t* start = a.at.start + g * a.at.start_stride + block * O;
                const int32_t* column = a.at.column + g * a.at.stride;
                float* out = a.value_grad + g * a.at.stride;
                for (int64_t o = 0; o < O; ++o) {
                    const int32_t j = start[o];
                    dots_up_to_128(a.grad + (g * O + o) * B + row, n, tile - first * stride, stride,
                                   column + j, start[o + 1] - j, out + j, row > 0);
                }
            }
        }
        if (block == 0) {
            row_sums(a.grad + lane * a.copies * O * B, a.copies * O, B,
                     a.bias_grad + lane * a.copies * O);
        }
    }
}

// dx = W^T dz, through the activation that made x.
void csr_input_grad(const CsrInputGradArgs& a) {
    const int64_t B = a.rows, O = a.outputs, I = a.inputs;
    const Parts parts(a.matrices, B, a.threads);
    const int64_t tasks = a.matrices * parts.count;
    const PartArgs grad{a.grad, O, O * B, B, 1};
#pragma omp parallel for num_threads(a.threads) schedule(static) if (tasks > 1 && a.threads > 1)
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t g = task / parts.count, part = task % parts.count;
        const int64_t begin = parts.begin(part), n = parts.size(part), stride = padded(n);
        float* tile = tile_scratch.floats(a.at.block_size * stride);
        float* sums = sum_scratch.floats(a.num * stride);
        for (int64_t block = 0; block < a.at.blocks; ++block) {
            const int64_t first = block * a.at.block_size;
            const int64_t last = first + a.at.block_size < O ? first + a.at.block_size : O;
            copy_part(grad, g, first, last, begin, n, tile, stride);
            const Rows rows{a.at.start + g * a.at.start_stride + block * I + a.first,
                            a.at.column + g * a.at.stride,
                            a.source + g * a.at.stride,
                            a.value + g * a.at.stride,
                            tile - first * stride,
                            stride,
                            sums,
                            a.num,
                            block > 0 ? Start::kSums : Start::kZero,
                            nullptr};
            multiply_rows<true>(rows, n);
        }
        const int64_t at = g * a.num * B + begin;
        store_through_activation(sums, stride, a.num, n, a.activated ? a.activated + at : nullptr,
                                 B, a.slope, a.input_grad + at, B);
    }
}

}  // namespace
