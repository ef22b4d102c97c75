"""The kernels as operators of torch: `torch.ops.fastanf.*`, with autograd and shapes for tracing.

    from fastanf.kernels import ops
    y = ops.linear(x, weight, bias, slope=0.0)                 # dense weights
    y = ops.csr_linear(x, value, connections, bias, slope=0.0)  # active connections only
    z = ops.noise(key, row, stream, n, std)
    ops.mask_adam_(weight, grad, exp_avg, exp_avg_sq, step, lr, weight_decay, mask)

Axes and equations are those of linear.py, csr.py, noise.py and mask_adam.py. Gradients flow to
weights and biases, to the stored part of the input and to the extra part; noise has none. The
learner calls the functions of those files itself, because torch's dispatcher costs more than the
smallest of them (profiling/bench_kernels.py); what they compute is the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, library

from fastanf.kernels import csr as csr_kernels
from fastanf.kernels import linear as linear_kernels
from fastanf.kernels.csr import Connections
from fastanf.kernels.layer_input import LayerInput, Noise
from fastanf.kernels.mask_adam import mask_adam_ as mask_adam_function
from fastanf.kernels.noise import noise_

# torch infers the operators' schemas from annotations that are types, not strings.
OptionalTensor = Tensor | None


def linear(x: LayerInput, weight: Tensor, bias: Tensor, slope: float = 1.0) -> Tensor:
    """y = act(b + W x), differentiable; see `kernels.linear.linear`."""
    return torch.ops.fastanf.linear(*_flat(x), weight, bias, slope)


def csr_linear(
    x: LayerInput, value: Tensor, at: Connections, bias: Tensor, slope: float = 1.0
) -> Tensor:
    """y = act(b + W x) of active connections, differentiable; see `kernels.csr.csr_linear`."""
    wants_input = x.stored.requires_grad or (x.extra is not None and x.extra.requires_grad)
    turned = _turned(at) if wants_input else (None, None, None)
    return torch.ops.fastanf.csr_linear(*_flat(x), value, *_places(at), *turned, bias, slope)


def noise(
    key: Tensor, row: Tensor, stream: int, n: int, std: Tensor, quantiles: Tensor | None = None
) -> Tensor:
    """[L, n, R] noise features; see `kernels.noise.noise_`."""
    return torch.ops.fastanf.noise(key, row, stream, n, std, quantiles)


def mask_adam_(
    weight: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: int,
    lr: Tensor,
    weight_decay: Tensor,
    mask: Tensor | None = None,
    mask_moments: Tensor | None = None,
    target: Tensor | None = None,
    tau: Tensor | None = None,
) -> None:
    """One step in place; see `kernels.mask_adam.mask_adam_`."""
    torch.ops.fastanf.mask_adam_(
        weight, grad, exp_avg, exp_avg_sq, step, lr, weight_decay, mask, mask_moments, target, tau
    )


def _flat(x: LayerInput) -> tuple[Any, ...]:
    n = x.noise
    parts = (None, None, 0, 0, None, None)
    if n is not None:
        parts = (n.key, n.row, n.stream, n.num, n.std, n.quantiles)
    return (x.stored, *parts, x.extra)


def _input(flat: tuple[Any, ...]) -> LayerInput:
    stored, key, row, stream, num, std, quantiles, extra = flat
    noise = None if key is None else Noise(key, row, stream, num, std, quantiles)
    return LayerInput(stored, noise, extra)


def _places(at: Connections) -> tuple[Any, ...]:
    return at.start, at.column, at.counts, at.num_inputs, at.block_size


def _turned(at: Connections) -> tuple[Tensor, Tensor, Tensor]:
    turned, source = at.transposed
    return turned.start, turned.column, source


def _connections(
    bias: Tensor, places: tuple[Any, ...], turned: tuple[Any, ...] = (None, None, None)
) -> Connections:
    start, column, counts, num_inputs, block_size = places
    num_outputs = bias.shape[1]
    at = Connections(start, column, counts, num_outputs, num_inputs, block_size)
    turned_start, turned_column, source = turned
    if turned_start is not None:
        size = csr_kernels.block_size_for(at.num_stored / (num_outputs * num_inputs), num_outputs)
        of_turned = Connections(turned_start, turned_column, counts, num_inputs, num_outputs, size)
        at.__dict__["transposed"] = (of_turned, source)
    return at


@library.custom_op("fastanf::noise", mutates_args=())
def _noise_op(
    key: Tensor, row: Tensor, stream: int, n: int, std: Tensor, quantiles: OptionalTensor
) -> Tensor:
    out = torch.empty(row.shape[0], n, row.shape[1], device=row.device)
    return noise_(out, key, row, stream, std, quantiles)


@_noise_op.register_fake
def _(key, row, stream, n, std, quantiles):
    return std.new_empty(row.shape[0], n, row.shape[1])


@library.custom_op(
    "fastanf::mask_adam_", mutates_args=("weight", "exp_avg", "exp_avg_sq", "target")
)
def _mask_adam_op(
    weight: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: int,
    lr: Tensor,
    weight_decay: Tensor,
    mask: OptionalTensor,
    mask_moments: OptionalTensor,
    target: OptionalTensor,
    tau: OptionalTensor,
) -> None:
    mask_adam_function(
        weight, grad, exp_avg, exp_avg_sq, step, lr, weight_decay, mask, mask_moments,
        target=target, tau=tau,
    )  # fmt: skip


@library.custom_op("fastanf::linear", mutates_args=())
def _linear_op(
    stored: Tensor,
    key: OptionalTensor,
    row: OptionalTensor,
    stream: int,
    num_noise: int,
    std: OptionalTensor,
    quantiles: OptionalTensor,
    extra: OptionalTensor,
    weight: Tensor,
    bias: Tensor,
    slope: float,
) -> Tensor:
    x = _input((stored, key, row, stream, num_noise, std, quantiles, extra))
    return linear_kernels.linear(x, weight, bias, slope)


@_linear_op.register_fake
def _(stored, key, row, stream, num_noise, std, quantiles, extra, weight, bias, slope):
    return stored.new_empty(weight.shape[0], weight.shape[1], stored.shape[2])


@library.custom_op("fastanf::linear_weight_grad", mutates_args=())
def _linear_weight_grad_op(
    stored: Tensor,
    key: OptionalTensor,
    row: OptionalTensor,
    stream: int,
    num_noise: int,
    std: OptionalTensor,
    quantiles: OptionalTensor,
    extra: OptionalTensor,
    grad: Tensor,
) -> tuple[Tensor, Tensor]:
    x = _input((stored, key, row, stream, num_noise, std, quantiles, extra))
    return linear_kernels.linear_weight_grad(x, grad)


@_linear_weight_grad_op.register_fake
def _(stored, key, row, stream, num_noise, std, quantiles, extra, grad):
    num_inputs = stored.shape[1] + num_noise + (0 if extra is None else extra.shape[1])
    return grad.new_empty(*grad.shape[:2], num_inputs), grad.new_empty(grad.shape[:2])


@library.custom_op("fastanf::linear_input_grad", mutates_args=())
def _linear_input_grad_op(weight: Tensor, grad: Tensor, first: int, num: int) -> Tensor:
    return linear_kernels.linear_input_grad(weight, grad, slice(first, first + num))


@_linear_input_grad_op.register_fake
def _(weight, grad, first, num):
    return grad.new_empty(grad.shape[0], num, grad.shape[2])


@library.custom_op("fastanf::csr_linear", mutates_args=())
def _csr_linear_op(
    stored: Tensor,
    key: OptionalTensor,
    row: OptionalTensor,
    stream: int,
    num_noise: int,
    std: OptionalTensor,
    quantiles: OptionalTensor,
    extra: OptionalTensor,
    value: Tensor,
    start: Tensor,
    column: Tensor,
    counts: Tensor,
    num_inputs: int,
    block_size: int,
    turned_start: OptionalTensor,
    turned_column: OptionalTensor,
    source: OptionalTensor,
    bias: Tensor,
    slope: float,
) -> Tensor:
    x = _input((stored, key, row, stream, num_noise, std, quantiles, extra))
    at = _connections(bias, (start, column, counts, num_inputs, block_size))
    return csr_kernels.csr_linear(x, value, at, bias, slope)


@_csr_linear_op.register_fake
def _(
    stored, key, row, stream, num_noise, std, quantiles, extra, value, start, column, counts,
    num_inputs, block_size, turned_start, turned_column, source, bias, slope,
):  # fmt: skip
    return stored.new_empty(bias.shape[0], bias.shape[1], stored.shape[2])


@library.custom_op("fastanf::csr_weight_grad", mutates_args=())
def _csr_weight_grad_op(
    stored: Tensor,
    key: OptionalTensor,
    row: OptionalTensor,
    stream: int,
    num_noise: int,
    std: OptionalTensor,
    quantiles: OptionalTensor,
    extra: OptionalTensor,
    grad: Tensor,
    start: Tensor,
    column: Tensor,
    counts: Tensor,
    num_inputs: int,
    block_size: int,
) -> tuple[Tensor, Tensor]:
    x = _input((stored, key, row, stream, num_noise, std, quantiles, extra))
    at = _connections(grad, (start, column, counts, num_inputs, block_size))
    return csr_kernels.csr_weight_grad(x, grad, at)


@_csr_weight_grad_op.register_fake
def _(
    stored, key, row, stream, num_noise, std, quantiles, extra, grad, start, column, counts,
    num_inputs, block_size,
):  # fmt: skip
    return grad.new_empty(column.shape), grad.new_empty(grad.shape[:2])


@library.custom_op("fastanf::csr_input_grad", mutates_args=())
def _csr_input_grad_op(
    value: Tensor,
    start: Tensor,
    column: Tensor,
    counts: Tensor,
    num_inputs: int,
    block_size: int,
    turned_start: Tensor,
    turned_column: Tensor,
    source: Tensor,
    grad: Tensor,
    first: int,
    num: int,
) -> Tensor:
    at = _connections(
        grad,
        (start, column, counts, num_inputs, block_size),
        (turned_start, turned_column, source),
    )
    return csr_kernels.csr_input_grad(value, at, grad, slice(first, first + num))


@_csr_input_grad_op.register_fake
def _(
    value, start, column, counts, num_inputs, block_size, turned_start, turned_column, source,
    grad, first, num,
):  # fmt: skip
    return grad.new_empty(grad.shape[0], num, grad.shape[2])


_NUM_FLAT = 8  # arguments that a LayerInput becomes


def _keep_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.flat, (weight, _, ctx.slope) = inputs[:_NUM_FLAT], inputs[_NUM_FLAT:]
    ctx.save_for_backward(weight, output)


def _linear_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    weight, output = ctx.saved_tensors
    grad = linear_kernels.through_activation_ref(grad, output, ctx.slope).contiguous()
    weight_grad = bias_grad = None
    if any(ctx.needs_input_grad[_NUM_FLAT : _NUM_FLAT + 2]):
        weight_grad, bias_grad = torch.ops.fastanf.linear_weight_grad(*ctx.flat, grad)
    inputs = _input_grads(
        ctx, lambda first, num: torch.ops.fastanf.linear_input_grad(weight, grad, first, num)
    )
    return *inputs, weight_grad, bias_grad, None


def _keep_csr(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.flat, rest = inputs[:_NUM_FLAT], inputs[_NUM_FLAT:]
    value, *ctx.places = rest[:6]
    ctx.turned, ctx.slope = rest[6:9], rest[10]
    ctx.save_for_backward(value, output)


def _csr_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    value, output = ctx.saved_tensors
    grad = linear_kernels.through_activation_ref(grad, output, ctx.slope).contiguous()
    value_grad = bias_grad = None
    if ctx.needs_input_grad[_NUM_FLAT] or ctx.needs_input_grad[_NUM_FLAT + 9]:
        value_grad, bias_grad = torch.ops.fastanf.csr_weight_grad(*ctx.flat, grad, *ctx.places)
    inputs = _input_grads(
        ctx,
        lambda first, num: torch.ops.fastanf.csr_input_grad(
            value, *ctx.places, *ctx.turned, grad, first, num
        ),
    )
    return *inputs, value_grad, *[None] * 8, bias_grad, None


def _input_grads(ctx: Any, of_range: Any) -> list[Tensor | None]:
    """Gradients of the arguments that a LayerInput became, summed over the copies."""
    stored, num_noise, extra = ctx.flat[0], ctx.flat[4], ctx.flat[7]
    grads: list[Tensor | None] = [None] * _NUM_FLAT
    parts = [(0, 0, stored), (7, stored.shape[1] + num_noise, extra)]
    for index, first, part in parts:
        if part is not None and ctx.needs_input_grad[index]:
            own = of_range(first, part.shape[1])
            grads[index] = own.unflatten(0, (part.shape[0], -1)).sum(1)
    return grads


_linear_op.register_autograd(_linear_backward, setup_context=_keep_linear)
_csr_linear_op.register_autograd(_csr_backward, setup_context=_keep_csr)
