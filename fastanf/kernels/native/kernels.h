// The table of kernels that one instruction-set variant offers.
//
// variant.cpp is compiled once for each instruction set with FASTANF_VARIANT naming it;
// dispatch.cpp picks one table when the library is first used. All tensors are dense in their
// last axis; strides are counted in elements. Every kernel gives the same bits for any number of
// threads, any set of lanes, any alignment and any variant: fused multiply-adds are written out,
// and the compiler is told to contract nothing by itself.
#pragma once

#include <cstdint>

namespace fastanf {

// What a 32-bit word becomes.
enum class Draw : int { kBits = 0, kUniform = 1, kNormal = 2, kEmpirical = 3 };

struct RandomArgs {
    void* out;               // kBits: int64, else float32; [L, n, R]
    int64_t lane_stride;     // of out
    int64_t feature_stride;  // of out
    int64_t lanes, features, rows;
    const int64_t* key;      // [L]
    const int64_t* row;      // [L, R]
    uint32_t stream;
    int64_t first_word;
    const float* scale;      // [L] or null, kNormal and kEmpirical only
    const float* quantiles;  // [num_tables, 257], kEmpirical only
    int64_t num_tables;
    int draw;
    int threads;
};

struct AdamArgs {
    float* weight;            // [L, n]
    const float* grad;        // [L, n]
    float* exp_avg;           // [L, n]; null means plain gradient descent
    float* exp_avg_sq;        // [L, n]
    const float* step_size;   // [L]
    const float* weight_decay;  // [L]
    const uint8_t* mask;      // [L, n] or null
    const uint8_t* mask_moments;  // [L] or null, which means every lane
    float* target;            // [L, n] or null
    const float* tau;         // [L]
    int64_t lanes, n;
    float beta1, one_minus_beta1, beta2, one_minus_beta2, sqrt_correction2, eps;
    int threads;
};

struct PolyakArgs {
    float* target;        // [L, n]
    const float* weight;  // [L, n]
    const float* tau;     // [L]
    const uint8_t* mask;  // [L, n] or null
    int64_t lanes, n;
    int threads;
};

struct KernelTable {
    void (*random)(const RandomArgs&);
    void (*adam)(const AdamArgs&);
    void (*polyak)(const PolyakArgs&);
};

}  // namespace fastanf
