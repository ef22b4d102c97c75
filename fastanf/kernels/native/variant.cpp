// All kernels, compiled for the one instruction set that FASTANF_VARIANT names.
#include "kernels.h"

// Everything below has internal linkage but the table, so variants never share a function.
#include "philox.h"
#include "mask_adam.h"
#include "layers.h"
#include "weight_grad.h"
#include "evolve.h"
#include "replay.h"
#include "squashed.h"

#define FASTANF_TABLE_NAME(name) table_##name
#define FASTANF_TABLE(name) FASTANF_TABLE_NAME(name)

namespace fastanf {
extern const KernelTable FASTANF_TABLE(FASTANF_VARIANT);
const KernelTable FASTANF_TABLE(FASTANF_VARIANT) = {
    draw_random,   step_adam,   step_polyak,        run_forward,
    run_backward,  weight_grad, csr_weight_grad,    evolve,
    transpose_connections,      gather_transitions, squash_forward,
    squash_backward};
}  // namespace fastanf
