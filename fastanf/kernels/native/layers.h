// Layers that follow each other, forward and back, each part of the minibatch through all of them
// before the next: what one layer gives is still in the cache when the next one takes it.
//
//     forward   y = act(b + W x)            back   dx = act'(x) W^T dy
//
// Axes: L lanes, G = L * copies matrices (a lane's copies share the first layer's input), O outputs,
// I inputs, B columns (rows of the minibatch). Tensors are feature-major.
#pragma once

#include "csr.h"
#include "dense.h"
#include "layer_input.h"

namespace {

using fastanf::BackLayerArgs;
using fastanf::BackwardArgs;
using fastanf::ForwardArgs;
using fastanf::LayerArgs;

constexpr int64_t kDepth = 256;  // inputs of a dense product at a time

// A part of the minibatch: columns [begin, begin + n), in scratch memory with this stride.
struct Part {
    int64_t begin, n, stride;
};

inline int64_t inputs_at_a_time(const Connections& at) { return at.start ? at.block_size : kDepth; }

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Adds what the inputs [first, last) give to the sums of matrix g; `tile` begins with input `first`.
inline void add_inputs(const LayerArgs& layer, int64_t g, int64_t first, int64_t last,
                       const float* tile, const Part& part, float* sums) {
    const float* bias = layer.bias ? layer.bias + g * layer.bias_stride : nullptr;
    const Start start = first > 0 ? Start::kSums : (bias ? Start::kBias : Start::kZero);
    const float* weight = layer.weight + g * layer.weight_stride;
    if (!layer.at.start) {
        multiply({weight + first, layer.inputs, 1, tile, part.stride, sums, part.stride,
                  layer.outputs, last - first, start, bias},
                 part.n);
        return;
    }
    const int64_t block = first / layer.at.block_size;
    multiply_rows<false>({layer.at.start + g * layer.at.start_stride + block * layer.outputs,
                          layer.at.column + g * layer.at.stride, nullptr, weight,
                          tile - first * part.stride, part.stride, sums, layer.outputs, start,
                          bias},
                         part.n);
}

// row <- row where `sign` > 0, slope * row elsewhere, and the same to a tensor. With the row z
// itself as the sign this is act(z); with what the activation gave, it takes dy back to dz.
inline void scale_row(float* row, const float* sign, float slope, int64_t n, float* __restrict to) {
    if (slope == 1.0f) {
        std::memcpy(to, row, (size_t)n * sizeof(float));
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        const float value = sign[i] > 0.0f ? row[i] : slope * row[i];
        row[i] = value;
        to[i] = value;
    }
}

void forward_part(const ForwardArgs& a, int64_t lane, const Part& part) {
    int64_t widest = 0;
    for (int64_t k = 0; k < a.count; ++k) {
        widest = a.layers[k].outputs > widest ? a.layers[k].outputs : widest;
    }
    float* sums = sum_scratch.floats(a.copies * widest * part.stride);
    float* other = a.count > 1 ? flip_scratch.floats(a.copies * widest * part.stride) : nullptr;
    for (int64_t k = 0; k < a.count; ++k) {
        const LayerArgs& layer = a.layers[k];
        const int64_t I = layer.inputs, O = layer.outputs, chunk = inputs_at_a_time(layer.at);
        for (int64_t first = 0; first < I; first += chunk) {
            const int64_t last = least(first + chunk, I);
            float* tile = nullptr;
            if (k == 0) {
                tile = tile_scratch.floats(least(chunk, I) * part.stride);
                fill_tile(a.input, lane, first, last, part.begin, part.n, tile, part.stride);
            }
            for (int64_t copy = 0; copy < a.copies; ++copy) {
                const float* from =
                    k == 0 ? tile : other + (copy * I + first) * part.stride;
                add_inputs(layer, lane * a.copies + copy, first, last, from, part,
                           sums + copy * O * part.stride);
            }
        }
        const int64_t rows = a.copies * O, B = a.input.rows;
        float* const output = layer.output + lane * rows * B + part.begin;
        for (int64_t row = 0; row < rows; ++row) {
            float* const z = sums + row * part.stride;
            scale_row(z, z, layer.slope, part.n, output + row * B);
        }
        float* const given = sums;
        sums = other;
        other = given;
    }
}

void run_forward(const ForwardArgs& a) {
    const Parts parts(a.lanes, a.input.rows, a.threads);
    const int64_t tasks = a.lanes * parts.count;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (tasks > 1 && a.threads > 1)
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t part = task % parts.count, n = parts.size(part);
        forward_part(a, task / parts.count, {parts.begin(part), n, padded(n)});
    }
}

void backward_part(const BackwardArgs& a, int64_t g, const Part& part) {
    int64_t widest = a.layers[0].outputs;
    for (int64_t k = 0; k < a.count; ++k) {
        widest = a.layers[k].num > widest ? a.layers[k].num : widest;
    }
    float* grad = tile_scratch.floats(widest * part.stride);
    float* sums = sum_scratch.floats(widest * part.stride);
    const int64_t B = a.rows;
    const PartArgs given{a.grad, a.layers[0].outputs, a.layers[0].outputs * B, B, 1};
    copy_part(given, g, 0, a.layers[0].outputs, part.begin, part.n, grad, part.stride);
    for (int64_t k = 0; k < a.count; ++k) {
        const BackLayerArgs& layer = a.layers[k];
        const int64_t O = layer.outputs, chunk = inputs_at_a_time(layer.turned);
        const float* weight = layer.weight + g * layer.weight_stride;
        for (int64_t first = 0; first < O; first += chunk) {
            const Start start = first > 0 ? Start::kSums : Start::kZero;
            if (!layer.turned.start) {
                multiply({weight + first * layer.inputs + layer.first, 1, layer.inputs,
                          grad + first * part.stride, part.stride, sums, part.stride, layer.num,
                          least(chunk, O - first), start, nullptr},
                         part.n);
                continue;
            }
            const Connections& at = layer.turned;
            const int64_t block = first / at.block_size;
            multiply_rows<true>(
                {at.start + g * at.start_stride + block * layer.inputs + layer.first,
                 at.column + g * at.stride, layer.source + g * at.stride, weight, grad,
                 part.stride, sums, layer.num, start, nullptr},
                part.n);
        }
        const float slope = layer.activated ? layer.slope : 1.0f;
        for (int64_t row = 0; row < layer.num; ++row) {
            const int64_t to = (g * layer.num + row) * B + part.begin;
            float* const dy = sums + row * part.stride;
            const float* const x = layer.activated ? layer.activated + to : dy;
            scale_row(dy, x, slope, part.n, layer.input_grad + to);
        }
        float* const next = sums;
        sums = grad;
        grad = next;
    }
}

void run_backward(const BackwardArgs& a) {
    const Parts parts(a.matrices, a.rows, a.threads);
    const int64_t tasks = a.matrices * parts.count;
#pragma omp parallel for num_threads(a.threads) schedule(static) if (tasks > 1 && a.threads > 1)
    for (int64_t task = 0; task < tasks; ++task) {
        const int64_t part = task % parts.count, n = parts.size(part);
        backward_part(a, task / parts.count, {parts.begin(part), n, padded(n)});
    }
}

}  // namespace
