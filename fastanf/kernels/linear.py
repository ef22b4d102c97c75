"""Stacked linear layers with dense weights: y = act(b + W x), and the gradients of its parts.

Axes: L lanes, G = L * C matrices (C copies share a lane's input: twin critics), O outputs,
I inputs, B columns (rows of the minibatch). Tensors are feature-major: x [L, I, B], y [G, O, B].

act is z for z > 0 and slope * z else, with slope in [0, 1]: 1 is no activation, 0 is relu. With
dz = act'(z) dL/dy the gradients are

    dW = dz x^T       db = sum over columns of dz       dx = W^T dz

and act'(z) can be read off y, so z is not kept. Results of the compiled form have the same bits
for any number of threads and any other lanes, those of the Triton form for any other lanes; those
of plain torch on one or two threads and for B a multiple of 4.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from fastanf import kernels
from fastanf.kernels.layer_input import LayerInput
from fastanf.kernels.native import WeightGradArgs
from fastanf.kernels.stack import (
    BackStep,
    Weights,
    dense_rows,
    native,
    run_backward,
    run_forward,
)

# Up to this many rows MKL 2024.2 may take another route for a single product than for a batch of
# them, with other rounding (tried: 1..512 rows, 17 to 256 inputs, B = 16..256).
_SMALL_SIDE = 16


def is_native(*tensors: Tensor) -> bool:
    """Whether the compiled kernels take these tensors."""
    if kernels.NATIVE is None:
        return False
    for tensor in tensors:  # noqa: SIM110  this runs for every call, and a generator is slower
        if tensor.dtype != torch.float32 or not tensor.is_cpu:
            return False
    return True


def linear_ref(x: LayerInput, weight: Tensor, bias: Tensor, slope: float = 1.0) -> Tensor:
    """Plain-torch definition of `linear`."""
    G, O, I = weight.shape
    inputs = x.written_out
    L = inputs.shape[0]
    z = stacked_product(weight.reshape(L, -1, I), inputs, bias.reshape(L, -1, 1)).view(G, O, -1)
    return activate_ref(z, slope)


def linear_weight_grad_ref(x: LayerInput, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Plain-torch definition of `linear_weight_grad`."""
    inputs = x.written_out
    L, I, B = inputs.shape
    G, O, _ = grad.shape
    joint = stacked_product(grad.reshape(L, -1, B), inputs.transpose(1, 2))
    return joint.view(G, O, I), grad.sum(-1)


def linear_input_grad_ref(
    weight: Tensor,
    grad: Tensor,
    inputs: slice = slice(None),
    activated: Tensor | None = None,
    slope: float = 1.0,
) -> Tensor:
    """Plain-torch definition of `linear_input_grad`."""
    product = stacked_product(weight[:, :, inputs].transpose(1, 2), grad)
    return product if activated is None else through_activation_ref(product, activated, slope)


def activate_ref(z: Tensor, slope: float) -> Tensor:
    """z where positive, slope * z elsewhere."""
    return z if slope == 1 else torch.where(z > 0, z, slope * z)


def through_activation_ref(grad: Tensor, activated: Tensor, slope: float) -> Tensor:
    """The gradient before an activation from that behind it, with the activation's output."""
    return grad if slope == 1 else torch.where(activated > 0, grad, slope * grad)


def stacked_product(a: Tensor, b: Tensor, start: Tensor | None = None) -> Tensor:
    """start + a @ b of stacked matrices, with the same bits for a row alone and among others."""
    if a.shape[0] == 1 and min(a.shape[1], b.shape[2]) <= _SMALL_SIDE:
        twice = None if start is None else start.expand(2, -1, -1)
        return stacked_product(a.expand(2, -1, -1), b.expand(2, -1, -1), twice)[:1]
    return torch.bmm(a, b) if start is None else torch.baddbmm(start, a, b)


def linear(x: LayerInput, weight: Tensor, bias: Tensor, slope: float = 1.0) -> Tensor:
    """y = act(b + W x).

    Args:
        x: input of L lanes, [L, I, B].
        weight: [G, O, I], G a multiple of L; dense but in its first axis.
        bias: [G, O], likewise.
        slope: of the activation below zero, in [0, 1]; 1 for none.

    Returns:
        [G, O, B].

    Raises:
        ValueError: on shapes that do not fit each other.
    """
    G, O, I = weight.shape
    L, B = x.num_lanes, x.num_columns
    if G % L or x.num_inputs != I or bias.shape != (G, O):
        raise ValueError(
            f"weight, bias have shapes {[*weight.shape]}, {[*bias.shape]}: "
            f"an input [{L}, {x.num_inputs}, {B}] needs [G, O, {x.num_inputs}], [G, O], "
            f"G a multiple of {L}"
        )
    if B and x.is_triton and kernels.is_triton(weight, bias):
        from fastanf.kernels.gpu import linear as gpu

        return gpu.forward(x, weight, bias, slope)
    if B == 0 or not (x.is_native and is_native(weight, bias)):
        return linear_ref(x, weight, bias, slope)
    weights = Weights(dense_rows(weight), dense_rows(bias), None, (G, O, I))
    return run_forward(x, [weights], [slope])[0]


def linear_weight_grad(x: LayerInput, grad: Tensor) -> tuple[Tensor, Tensor]:
    """dW = dz x^T and db = sum over columns of dz.

    Args:
        x: what entered the layer, [L, I, B].
        grad: [G, O, B], dz.

    Returns:
        [G, O, I] and [G, O].

    Raises:
        ValueError: on shapes that do not fit each other.
    """
    G, O, B = grad.shape
    check_grad(x, grad, G, O, x.num_inputs)
    if B and x.is_triton and kernels.is_triton(grad):
        from fastanf.kernels.gpu import linear as gpu

        return gpu.weight_grad(x, grad)
    if B == 0 or not (x.is_native and is_native(grad)):
        return linear_weight_grad_ref(x, grad)
    L, I = x.num_lanes, x.num_inputs
    grad = grad.contiguous()
    weight_grad, bias_grad = torch.empty(G, O, I), torch.empty(G, O)
    native().fastanf_weight_grad(
        ctypes.byref(
            WeightGradArgs(
                x.args, grad.data_ptr(), L, G // L, O, I, weight_grad.data_ptr(),
                bias_grad.data_ptr(), torch.get_num_threads(),
            )
        )
    )  # fmt: skip
    return weight_grad, bias_grad


def linear_input_grad(
    weight: Tensor,
    grad: Tensor,
    inputs: slice = slice(None),
    activated: Tensor | None = None,
    slope: float = 1.0,
) -> Tensor:
    """dx = W^T dz of some inputs, taken on through the activation that made them.

    Args:
        weight: [G, O, I].
        grad: [G, O, B], dz.
        inputs: a contiguous range of the I inputs.
        activated: [G, n, B] the inputs of that range, where an activation made them.
        slope: of that activation below zero.

    Returns:
        [G, n, B].

    Raises:
        ValueError: on shapes that do not fit each other.
    """
    G, O, _ = grad.shape
    first, last = check_input_grad(tuple(weight.shape), grad, inputs, activated)
    if grad.numel() and last > first and kernels.is_triton(weight, grad):
        from fastanf.kernels.gpu import linear as gpu

        return gpu.input_grad(weight, grad, first, last - first, activated, slope)
    if grad.numel() == 0 or not is_native(weight, grad):
        return linear_input_grad_ref(weight, grad, inputs, activated, slope)
    activated = None if activated is None else activated.contiguous()
    # The bias has no part in this.
    weights = Weights(dense_rows(weight), weight, None, (G, O, weight.shape[2]))
    return run_backward(grad, [BackStep(weights, first, last - first, activated, slope)])[0]


def check_grad(x: LayerInput, grad: Tensor, G: int, O: int, I: int) -> None:
    """Whether a gradient dz belongs to G matrices [O, I] on this input.

    Raises:
        ValueError: if not.
    """
    L, B = x.num_lanes, x.num_columns
    if grad.shape != (G, O, B) or G % L or x.num_inputs != I:
        raise ValueError(
            f"grad has shape {[*grad.shape]} and the input [{L}, {x.num_inputs}, {B}]: "
            f"{G} matrices of {O} x {I} need [{G}, {O}, B] and [L, {I}, B], L a divisor of {G}"
        )


def check_input_grad(
    matrices: tuple[int, ...], grad: Tensor, inputs: slice, activated: Tensor | None
) -> tuple[int, int]:
    """First and last of a range of inputs of matrices (G, O, I).

    Raises:
        ValueError: a gradient or activated inputs of another shape, a range with gaps.
    """
    G, O, I = matrices
    first, last, gap = inputs.indices(I)
    last = max(first, last)
    B = grad.shape[-1]
    if grad.shape != (G, O, B) or gap != 1:
        raise ValueError(
            f"grad has shape {[*grad.shape]}, inputs a step of {gap}: must be [{G}, {O}, B], 1"
        )
    if activated is not None and activated.shape != (G, last - first, B):
        raise ValueError(
            f"activated has shape {[*activated.shape]}: must be {[G, last - first, B]}"
        )
    return first, last
