// Gradients of weights and biases: dW = dz x^T, of all weights or of active connections only, and
// db = the sum of dz over the minibatch.
//
// Axes: L lanes, G = L * copies matrices (a lane's copies share its input), O outputs, I inputs,
// B columns (rows of the minibatch). Tensors are feature-major. Noise in the input is drawn again.
#pragma once

#include "dense.h"
#include "layer_input.h"
#include "row_sums.h"

namespace {

using fastanf::CsrWeightGradArgs;
using fastanf::WeightGradArgs;

constexpr int64_t kRowsAtATime = 256;   // of the minibatch
constexpr int64_t kBlockColumns = 128;  // inputs at a time
constexpr int64_t kFewOutputs = 8;      // below this it is made of dot products

// dW = dz x^T and db = the sum of dz over the minibatch.
void weight_grad(const WeightGradArgs& a) {
    const int64_t B = a.input.rows, O = a.outputs, I = a.inputs;
    int64_t blocks = (I + kBlockColumns - 1) / kBlockColumns;
    if (a.lanes * blocks % a.threads != 0 && a.lanes * blocks < 4 * a.threads) {
        blocks = (blocks + a.threads - 1) / a.threads * a.threads;
    }
    const int64_t width = padded((I + blocks - 1) / blocks);
    blocks = (I + width - 1) / width;
    const int64_t tasks = a.lanes * blocks;
    const bool is_thin = O < kFewOutputs;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (tasks > 1 && a.threads > 1)
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t lane = task / blocks, first = task % blocks * width;
        const int64_t n = I - first < width ? I - first : width;
        // Columns that end inside a vector go through scratch memory.
        const Columns shape(n);
        const bool is_cut = n % 4 != 0 || (shape.tail == 0 && n % kWidth != 0);
        for (int64_t row = 0; row < B; row += kRowsAtATime) {
            const int64_t depth = B - row < kRowsAtATime ? B - row : kRowsAtATime, stride = padded(depth);
            float* tile = tile_scratch.floats(n * stride);
            fill_tile(a.input, lane, first, first + n, row, depth, tile, stride);
            float* flipped = nullptr;
            if (!is_thin) {
                flipped = flip_scratch.floats(depth * padded(n));
                transpose(tile, stride, n, depth, flipped, padded(n));
            }
            for (int64_t copy = 0; copy < a.copies; ++copy) {
                const int64_t g = lane * a.copies + copy;
                const float* grad = a.grad + g * O * B + row;
                float* out = a.weight_grad + g * O * I + first;
                if (is_thin) {
                    for (int64_t o = 0; o < O; ++o) {
                        dots(grad + o * B, depth, tile, stride, nullptr, n, out + o * I, row > 0);
                    }
                    continue;
                }
                const Start start = row > 0 ? Start::kSums : Start::kZero;
                Product product{grad, B, 1, flipped, padded(n), out, I, O, depth, start, nullptr};
                if (!is_cut) {
                    multiply(product, n);
                    continue;
                }
                const int64_t whole = n / kWidth * kWidth;
                if (whole > 0) multiply(product, whole);
                float* rest = sum_scratch.floats(O * kPad);
                if (row > 0) {
                    for (int64_t o = 0; o < O; ++o) {
                        copy_padded(rest + o * kPad, out + o * I + whole, n - whole, kPad);
                    }
                }
                product.t += whole;
                product.c = rest;
                product.c_stride = kPad;
                multiply(product, n - whole);
                for (int64_t o = 0; o < O; ++o) {
                    std::memcpy(out + o * I + whole, rest + o * kPad,
                                (size_t)(n - whole) * sizeof(float));
                }
            }
        }
        if (first == 0) {
            row_sums(a.grad + lane * a.copies * O * B, a.copies * O, B,
                     a.bias_grad + lane * a.copies * O);
        }
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

}  // namespace
