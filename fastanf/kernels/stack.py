"""Layers that follow each other, in one call of the compiled kernels.

Each part of a minibatch goes through all layers before the next part does: what a layer gives is
still in the cache when the next one takes it. One layer alone is a stack of one; the definitions
are those of linear.py and csr.py, layer by layer.

Axes: L lanes, G = L * C matrices, O outputs, I inputs, B columns, K stored values a matrix.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from fastanf import kernels
from fastanf.kernels.layer_input import LayerInput
from fastanf.kernels.native import (
    BackLayerArgs,
    BackwardArgs,
    ConnectionArgs,
    ForwardArgs,
    LayerArgs,
)

if TYPE_CHECKING:
    from fastanf.kernels.csr import Connections

_DENSE = ConnectionArgs(None, None, 0, 0, 0, 0)


class Weights(NamedTuple):
    """A stacked layer's numbers, and where they are."""

    weight: Tensor
    """[G, O, I]; or the values [G, K], with the strides of the connections' columns."""
    bias: Tensor
    """[G, O], dense but in its first axis, as is a dense weight."""
    at: Connections | None
    """Where the values are; None for dense weights."""
    shape: tuple[int, int, int]
    """(G, O, I)."""


class BackStep(NamedTuple):
    """What the way back wants of a layer."""

    weights: Weights
    first: int
    """First of the inputs whose gradient is wanted."""
    num: int
    activated: Tensor | None
    """[G, num, B] contiguous, what entered the layer, where an activation made it."""
    slope: float
    """Of that activation below zero."""


def run_forward(x: LayerInput, layers: Sequence[Weights], slopes: Sequence[float]) -> list[Tensor]:
    """The output [G, O, B] of every layer.

    Args:
        x: [L, I, B], of the first layer; float32 on the CPU.
        layers: from input to output.
        slopes: of each layer's activation below zero; 1 for none.

    Raises:
        ValueError: layers that do not fit the input or each other.
    """
    L, G, B = x.num_lanes, layers[0].shape[0], x.num_columns
    num_inputs = x.num_inputs
    for layer in layers:
        if layer.shape[2] != num_inputs or layer.shape[0] != G or G % L:
            raise ValueError(
                f"{layer.shape[0]} matrices of {layer.shape[1]} x {layer.shape[2]} on "
                f"{num_inputs} inputs of {L} lanes: need {num_inputs} columns, and as many "
                f"matrices in each layer, a multiple of {L}"
            )
        num_inputs = layer.shape[1]
    outputs = [torch.empty(*layer.shape[:2], B) for layer in layers]
    args = (LayerArgs * len(layers))(
        *(
            LayerArgs(
                layer.weight.data_ptr(), layer.bias.data_ptr(), layer.weight.stride(0),
                layer.bias.stride(0), layer.shape[1], layer.shape[2],
                _DENSE if layer.at is None else layer.at.args, slope, output.data_ptr(),
            )
            for layer, slope, output in zip(layers, slopes, outputs, strict=True)
        )
    )  # fmt: skip
    native().fastanf_forward(
        ctypes.byref(
            ForwardArgs(
                x.args, ctypes.addressof(args), len(layers), L, G // L, torch.get_num_threads()
            )
        )
    )
    return outputs


def run_backward(grad: Tensor, steps: Sequence[BackStep]) -> list[Tensor]:
    """The gradient [G, num, B] of every layer's inputs, each through the activation that made them.

    Args:
        grad: [G, O, B] of the first step's outputs, before an activation; float32 on the CPU.
        steps: from the last layer to the first; each but the last step of all its inputs.
    """
    G, _, B = grad.shape
    grad = grad.contiguous()
    grads = [torch.empty(G, step.num, B) for step in steps]
    args = (BackLayerArgs * len(steps))(
        *(_back_args(step, out) for step, out in zip(steps, grads, strict=True))
    )
    native().fastanf_backward(
        ctypes.byref(
            BackwardArgs(
                grad.data_ptr(), ctypes.addressof(args), len(steps), G, B, torch.get_num_threads()
            )
        )
    )
    return grads


def _back_args(step: BackStep, out: Tensor) -> BackLayerArgs:
    layer = step.weights
    turned, source = _DENSE, None
    if layer.at is not None:
        connections, places = layer.at.transposed
        turned, source = connections.args, places.data_ptr()
    return BackLayerArgs(
        layer.weight.data_ptr(), layer.weight.stride(0), layer.shape[1], layer.shape[2],
        step.first, step.num, turned, source,
        None if step.activated is None else step.activated.data_ptr(), step.slope, out.data_ptr(),
    )  # fmt: skip


def native() -> ctypes.CDLL:
    """The compiled kernels, known to be there."""
    assert kernels.NATIVE is not None
    return kernels.NATIVE


def dense_rows(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where anything but its first axis has gaps."""
    dense = 1
    for size, stride in zip(tensor.shape[:0:-1], tensor.stride()[:0:-1], strict=True):
        if stride != dense and size != 1:
            return tensor.contiguous()
        dense *= size
    return tensor
