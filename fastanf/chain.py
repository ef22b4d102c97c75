"""A run of layers as one node of autograd: y = W_n act(... act(W_1 x + b_1) ...) + b_n.

Axes: L lanes, G = L * C matrices, I inputs, O outputs, B columns.

The gradients are written out, because the layers know them in a form that no general rule finds:
noise in the input is drawn again and not stored, an activation's derivative is read off its output,
and only what is asked for is computed, such as the action's part of a critic's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastanf.kernels.layer_input import LayerInput
from fastanf.sparse.layers import StackedLinear


def run_layers(layers: Sequence[StackedLinear], slope: float, x: LayerInput) -> Tensor:
    """The output of the last layer.

    Gradients flow to the layers' own tensors, and to `x.extra`, or where there is none to
    `x.stored`, as far as these require them.

    Args:
        layers: from input to output.
        slope: of the activation between them below zero, in [0, 1].
        x: [L, I, B].

    Returns:
        [G, O, B].
    """
    wanted = x.stored if x.extra is None else x.extra
    tensors = [tensor for layer in layers for tensor in (layer.trained, layer.bias)]
    return _Chain.apply(layers, slope, x, wanted, *tensors)  # pyright: ignore[reportReturnType]


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        layers: Sequence[StackedLinear],
        slope: float,
        x: LayerInput,
        wanted: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        ctx.layers, ctx.slope, ctx.inputs = layers, slope, [x]
        for layer in layers[:-1]:
            ctx.inputs.append(LayerInput(layer.forward(ctx.inputs[-1], slope)))
        return layers[-1].forward(ctx.inputs[-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        wants_input = ctx.needs_input_grad[3]
        wants_weights = ctx.needs_input_grad[4:]
        lowest = 0 if wants_input else _lowest(wants_weights)
        found: list[Tensor | None] = [None] * len(wants_weights)
        for index in reversed(range(lowest, len(ctx.layers))):
            layer, x = ctx.layers[index], ctx.inputs[index]
            if any(wants_weights[2 * index : 2 * index + 2]):
                found[2 * index : 2 * index + 2] = layer.weight_grad(x, grad)
            if index > lowest:
                grad = layer.input_grad(grad, activated=x.stored, slope=ctx.slope)
        input_grad = _wanted_part(ctx.layers[0], ctx.inputs[0], grad) if wants_input else None
        return None, None, None, input_grad, *found


def _lowest(wants_weights: Sequence[bool]) -> int:
    """The first layer that learns."""
    return next(i for i, wants in enumerate(wants_weights) if wants) // 2


def _wanted_part(layer: StackedLinear, x: LayerInput, grad: Tensor) -> Tensor:
    """The gradient of what follows the features, or of all inputs, summed over the copies that
    share them.
    """
    last = x.num_inputs
    inputs = slice(0, last) if x.extra is None else slice(last - x.extra.shape[1], last)
    own = layer.input_grad(grad, inputs)
    L = x.num_lanes
    return own if own.shape[0] == L else own.unflatten(0, (L, -1)).sum(1)
