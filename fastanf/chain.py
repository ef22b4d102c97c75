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
from fastanf.kernels.linear import is_native
from fastanf.kernels.stack import BackStep, run_backward, run_forward
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
        outputs = _outputs(layers, slope, x)
        ctx.layers, ctx.slope = layers, slope
        ctx.inputs = [x, *(LayerInput(output) for output in outputs[:-1])]
        return outputs[-1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        layers, inputs = ctx.layers, ctx.inputs
        wants_input = ctx.needs_input_grad[3]
        wants_weights = ctx.needs_input_grad[4:]
        lowest = 0 if wants_input else _lowest(wants_weights)
        above = layers[lowest + 1 :], inputs[lowest + 1 :]
        part = _wanted_part(inputs[0]) if wants_input else None
        # The gradient of every layer's output before its activation, and of the inputs wanted.
        of_outputs = [*_way_back(*above, ctx.slope, grad, layers[0], part), grad]
        found: list[Tensor | None] = [None] * len(wants_weights)
        for index, of_output in zip(
            range(lowest, len(layers)), of_outputs[-len(layers) + lowest :], strict=True
        ):
            if any(wants_weights[2 * index : 2 * index + 2]):
                found[2 * index : 2 * index + 2] = layers[index].weight_grad(
                    inputs[index], of_output
                )
        if not wants_input:
            return None, None, None, None, *found
        own, L = of_outputs[0], inputs[0].num_lanes
        # Copies share the input.
        shared = own if own.shape[0] == L else own.unflatten(0, (L, -1)).sum(1)
        return None, None, None, shared, *found


def _outputs(layers: Sequence[StackedLinear], slope: float, x: LayerInput) -> list[Tensor]:
    """What every layer gives; the last one has no activation."""
    if x.num_columns and x.is_native and _are_native(layers):
        slopes = [slope] * (len(layers) - 1) + [1.0]
        return run_forward(x, [layer.weights for layer in layers], slopes)
    outputs = []
    for layer in layers[:-1]:
        outputs.append(layer.forward(x, slope))
        x = LayerInput(outputs[-1])
    return [*outputs, layers[-1].forward(x)]


def _way_back(
    layers: Sequence[StackedLinear],
    inputs: Sequence[LayerInput],
    slope: float,
    grad: Tensor,
    first_layer: StackedLinear,
    part: slice | None,
) -> list[Tensor]:
    """Gradients of the inputs of `layers`, each before the activation that made it, from the first
    layer to the last; before them that of a part of the first layer's inputs, if it is wanted.
    """
    if grad.numel() and is_native(grad) and _are_native([*layers, first_layer]):
        steps = [
            BackStep(layer.weights, 0, layer.shape[2], x.stored, slope)
            for layer, x in zip(reversed(layers), reversed(inputs), strict=True)
        ]
        if part is not None:
            weights = first_layer.weights
            steps.append(BackStep(weights, part.start, part.stop - part.start, None, 1.0))
        return run_backward(grad, steps)[::-1] if steps else []
    grads = []
    for layer, x in zip(reversed(layers), reversed(inputs), strict=True):
        grad = layer.input_grad(grad, activated=x.stored, slope=slope)
        grads.append(grad)
    if part is not None:
        grads.append(first_layer.input_grad(grad, part))
    return grads[::-1]


def _are_native(layers: Sequence[StackedLinear]) -> bool:
    return all(is_native(layer.trained, layer.bias) for layer in layers)


def _lowest(wants_weights: Sequence[bool]) -> int:
    """The first layer that learns."""
    return next(i for i, wants in enumerate(wants_weights) if wants) // 2


def _wanted_part(x: LayerInput) -> slice:
    """The inputs that follow the features, or all of them."""
    last = x.num_inputs
    return slice(0 if x.extra is None else last - x.extra.shape[1], last)
