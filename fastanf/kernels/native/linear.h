// Stacked linear layers with dense weights: output, weight gradient and input gradient.
//
// Axes: L lanes, G = L * copies matrices (a lane's copies share its input), O outputs, I inputs,
// B columns (rows of the minibatch). Tensors are feature-major.
#pragma once

#include <type_traits>

#include "dense.h"
#include "layer_input.h"
#include "row_sums.h"

namespace {

using fastanf::InputGradArgs;
using fastanf::LinearArgs;
using fastanf::WeightGradArgs;

constexpr int64_t kDepth = 256;        // inputs (or rows) of a product at a time
constexpr int64_t kBlockColumns = 128;  // inputs of a weight gradient at a time
constexpr int64_t kFewOutputs = 8;      // below this a weight gradient is made of dot products

// y = act(b + W x).
void linear(const LinearArgs& a) {
    const int64_t B = a.input.rows, O = a.outputs, I = a.inputs;
    const Parts parts(a.lanes, B, a.threads);
    const int64_t tasks = a.lanes * parts.count;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (tasks > 1 && a.threads > 1)
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t lane = task / parts.count, part = task % parts.count;
        const int64_t begin = parts.begin(part), n = parts.size(part), stride = padded(n);
        float* tile = tile_scratch.floats((I < kDepth ? I : kDepth) * stride);
        float* sums = sum_scratch.floats(a.copies * O * stride);
        for (int64_t first = 0; first < I; first += kDepth) {
            const int64_t depth = I - first < kDepth ? I - first : kDepth;
            fill_tile(a.input, lane, first, first + depth, begin, n, tile, stride);
            for (int64_t copy = 0; copy < a.copies; ++copy) {
                const int64_t g = lane * a.copies + copy;
                const Start start =
                    first > 0 ? Start::kSums : (a.bias ? Start::kBias : Start::kZero);
                multiply({a.weight + g * a.weight_stride + first, I, 1, tile, stride, sums + copy * O * stride,
                          stride, O, depth, start, a.bias ? a.bias + g * a.bias_stride : nullptr},
                         n);
            }
        }
        store_activated(sums, stride, a.copies * O, n, a.slope,
                        a.output + lane * a.copies * O * B + begin, B);
    }
}

// dW = dz x^T and db = the sum of dz over the minibatch.
void linear_weight_grad(const WeightGradArgs& a) {
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
        for (int64_t row = 0; row < B; row += kDepth) {
            const int64_t depth = B - row < kDepth ? B - row : kDepth, stride = padded(depth);
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

// dx = W^T dz, through the activation that made x.
void linear_input_grad(const InputGradArgs& a) {
    const int64_t B = a.rows, O = a.outputs;
    const Parts parts(a.matrices, B, a.threads);
    const int64_t tasks = a.matrices * parts.count;
    const PartArgs grad{a.grad, O, O * B, B, 1};
#pragma omp parallel for num_threads(a.threads) schedule(static) if (tasks > 1 && a.threads > 1)
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t g = task / parts.count, part = task % parts.count;
        const int64_t begin = parts.begin(part), n = parts.size(part), stride = padded(n);
        float* tile = tile_scratch.floats((O < kDepth ? O : kDepth) * stride);
        float* sums = sum_scratch.floats(a.num * stride);
        for (int64_t first = 0; first < O; first += kDepth) {
            const int64_t depth = O - first < kDepth ? O - first : kDepth;
            copy_part(grad, g, first, first + depth, begin, n, tile, stride);
            multiply({a.weight + g * a.weight_stride + first * a.inputs + a.first, 1, a.inputs, tile, stride,
                      sums, stride, a.num, depth, first > 0 ? Start::kSums : Start::kZero, nullptr},
                     n);
        }
        const int64_t at = g * a.num * B + begin;
        store_through_activation(sums, stride, a.num, n, a.activated ? a.activated + at : nullptr,
                                 B, a.slope, a.input_grad + at, B);
    }
}

}  // namespace
