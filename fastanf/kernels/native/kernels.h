// The table of kernels that one instruction-set variant offers.
//
// variant.cpp is compiled once for each instruction set with FASTANF_VARIANT naming it;
// dispatch.cpp picks one table when the library is first used. All tensors are dense in their
// last axis unless a stride says otherwise; strides are counted in elements. Every kernel gives the
// same bits for any number of threads, any set of lanes and any alignment, and so does every
// variant that has fused multiply-adds: they are written out, and the compiler is told to contract
// nothing by itself. (Products of the x86 baseline, which has none, round twice.)
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

// One trained tensor; n numbers a lane.
struct AdamTensor {
    float* weight;      // [L, n]
    const float* grad;  // [L, n]
    float* exp_avg;     // [L, n]; null means plain gradient descent
    float* exp_avg_sq;  // [L, n]
    const uint8_t* mask;  // [L, n] or null
    float* target;        // [L, n] or null
    int64_t n;
};

struct AdamArgs {
    const AdamTensor* tensors;
    int64_t count, lanes;
    const float* step_size;       // [L]
    const float* weight_decay;    // [L]
    const uint8_t* mask_moments;  // [L] or null, which means every lane
    const float* tau;             // [L], where there are targets
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

// One stored part of a layer's input, [L, num, rows] by its strides.
struct PartArgs {
    const float* data;
    int64_t num, lane_stride, feature_stride, row_stride;
};

// A layer's input: real features, then noise that is drawn where it is wanted, then what else there
// is (actions).
struct InputArgs {
    PartArgs real, extra;
    int64_t rows, num_noise;
    const int64_t* key;        // [L]
    const int64_t* noise_row;  // [L, rows]
    const float* std;          // [L]
    const float* quantiles;    // [num_tables, 257] or null
    int64_t num_tables;
    uint32_t stream;
};

// Where the active connections of a stacked layer are. Row g holds its values in the order
// (block of inputs, output, input); those of block k and output o are at start[k * O + o] up to
// start[k * O + o + 1]. What follows the last one is not in use.
struct Connections {
    const int32_t* start;   // [G, blocks * O + 1]
    const int32_t* column;  // [G, stored] inputs
    int64_t start_stride, stride;  // from matrix to matrix, of start and of all that is stored
    int64_t blocks, block_size;
};

// A stacked layer of G = L * copies matrices, on its way forward.
struct LayerArgs {
    const float* weight;  // [G, O, I], or the values [G, stored] where connections are given
    const float* bias;    // [G, O] or null
    int64_t weight_stride, bias_stride;  // from matrix to matrix
    int64_t outputs, inputs;
    Connections at;  // at.start is null where the weights are dense
    float slope;     // of the activation below zero; 1 for none
    float* output;   // [G, O, rows]
};

// Layers that follow each other; copies of a lane share the first one's input.
struct ForwardArgs {
    InputArgs input;
    const LayerArgs* layers;
    int64_t count, lanes, copies;
    int threads;
};

// A stacked layer on the way back: the gradient of the inputs [first, first + num) of each matrix.
struct BackLayerArgs {
    const float* weight;    // as in LayerArgs
    int64_t weight_stride;  // from matrix to matrix
    int64_t outputs, inputs, first, num;
    Connections turned;     // of the transposed layer, its outputs are columns; or start is null
    const int32_t* source;  // [G, stored] where its values are among those of the layer
    const float* activated;  // [G, num, rows] what entered the layer, or null
    float slope;             // of the activation that made it
    float* input_grad;       // [G, num, rows]
};

// Layers from the last to the first; each takes the gradient that the one before it gives.
struct BackwardArgs {
    const float* grad;  // [G, O, rows] of the first layer's output, before its activation
    const BackLayerArgs* layers;
    int64_t count, matrices, rows;
    int threads;
};

// Gradients of weights and biases.
struct WeightGradArgs {
    InputArgs input;
    const float* grad;  // [G, O, rows], of the layer's output before its activation
    int64_t lanes, copies, outputs, inputs;
    float* weight_grad;  // [G, O, I]
    float* bias_grad;    // [G, O]
    int threads;
};

struct CsrWeightGradArgs {
    InputArgs input;
    Connections at;
    const float* grad;  // [G, O, rows]
    int64_t lanes, copies, outputs, inputs;
    float* value_grad;  // [G, stored]
    float* bias_grad;   // [G, O]
    int threads;
};

// One change of connections of a stacked layer, in place.
struct EvolveArgs {
    int32_t* start;   // [G, blocks * O + 1]
    int32_t* column;  // [G, stored]
    float* value;     // [G, stored]
    float* exp_avg;   // [G, stored] or null
    float* exp_avg_sq;
    float* target;            // [G, stored] or null
    const int64_t* num_drop;  // [G]
    const float* new_bound;   // [G] grown values are uniform within +-bound
    const int64_t* key;       // [L]
    int64_t matrices, copies, outputs, inputs, stored, blocks, block_size, step;
    uint32_t drop_stream, grow_stream, value_stream;
    int threads;
};

struct TransposeArgs {
    const int32_t* start;   // [G, blocks * O + 1]
    const int32_t* column;  // [G, stored]
    int32_t* turned_start;  // [G, turned blocks * I + 1]
    int32_t* turned_column;  // [G, stored]
    int32_t* source;         // [G, stored]
    int64_t matrices, outputs, inputs, stored, blocks, turned_size;
    int threads;
};

struct GatherArgs {
    const float* obs;              // [L, T, E, D]
    const float* action;           // [L, T, E, A]
    const float* reward;           // [L, T, E]
    const uint8_t* not_terminated;  // [L, T, E]
    const int32_t* final_slot;     // [L, T, E], -1 where no episode ended
    const float* final_obs;        // [L, S, D]
    const int64_t* time;           // [L, B]
    const int64_t* env;            // [L, B]
    float *out_obs, *out_action, *out_reward, *out_not_terminated, *out_next_obs;
    int64_t *out_obs_id, *out_next_obs_id;
    int64_t lanes, slots, envs, finals, features, actions, batch;
    int threads;
};

struct SquashArgs {
    const float* head;    // [L, 2 A, B] means, then logs of deviations
    const float* normal;  // [L, A, B]
    const float *scale, *offset, *constant;  // [A]
    float low, high;      // limits of the logs
    float* action;        // [L, A, B]
    float* log_density;   // [L, B]
    int64_t lanes, actions, rows;
    int threads;
};

struct SquashGradArgs {
    const float* head;    // [L, 2 A, B]
    const float* normal;  // [L, A, B]
    const float* scale;   // [A]
    float low, high;
    const float* action_grad;   // [L, A, B]
    const float* density_grad;  // [L, B]
    float* head_grad;           // [L, 2 A, B]
    int64_t lanes, actions, rows;
    int threads;
};

struct KernelTable {
    void (*random)(const RandomArgs&);
    void (*adam)(const AdamArgs&);
    void (*polyak)(const PolyakArgs&);
    void (*forward)(const ForwardArgs&);
    void (*backward)(const BackwardArgs&);
    void (*weight_grad)(const WeightGradArgs&);
    void (*csr_weight_grad)(const CsrWeightGradArgs&);
    void (*evolve)(const EvolveArgs&);
    void (*transpose)(const TransposeArgs&);
    void (*gather)(const GatherArgs&);
    void (*squash)(const SquashArgs&);
    void (*squash_grad)(const SquashGradArgs&);
};

}  // namespace fastanf
