"""A learned gate for every feature, multiplied into the columns of the first layer's weights.

    g = (1 + t / sqrt(1 + t^2)) / 2 in (0, 1)          W_eff = W * g

    dW = dW_eff * g          dt = g'(t) * sum over outputs of dW_eff * W
    g'(t) = 1 / (2 (1 + t^2)^(3/2))

Gating the weights is gating the features, and leaves these as they are: noise is still drawn where
it is multiplied. The sigmoid is algebraic because arithmetic and roots have the same bits at every
place of a tensor, which an exponential of torch may not have.

Axes: G matrices, O outputs, F features, I >= F inputs; inputs behind the features (a critic's
actions) have no gate.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastanf.kernels.tree_sum import tree_sum

FIRST_GATE = 2.0
"""First value of t: g = 0.947."""


def gate_of(t: Tensor) -> Tensor:
    """g in (0, 1), like t."""
    return (1 + t / (1 + t * t).sqrt()) / 2


def gated_weight(weight: Tensor, t: Tensor) -> Tensor:
    """The weights with their feature columns multiplied by the gates.

    Args:
        weight: [G, O, I].
        t: [G, F], F at most I.

    Returns:
        [G, O, I], contiguous.

    Raises:
        ValueError: on shapes that do not fit each other.
    """
    if t.ndim != 2 or t.shape[0] != weight.shape[0] or t.shape[1] > weight.shape[2]:
        raise ValueError(
            f"t has shape {[*t.shape]}: weights {[*weight.shape]} need [{weight.shape[0]}, F], "
            f"F at most {weight.shape[2]}"
        )
    return _GatedWeight.apply(weight, t)  # pyright: ignore[reportReturnType]


class _GatedWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, t: Tensor) -> Tensor:
        ctx.save_for_backward(weight, t)
        return _scaled(weight, gate_of(t))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        weight, t = ctx.saved_tensors
        of_weight = of_t = None
        if ctx.needs_input_grad[0]:
            of_weight = _scaled(grad, gate_of(t))
        if ctx.needs_input_grad[1]:
            F, squared = t.shape[1], 1 + t * t
            of_gate = tree_sum(grad[:, :, :F] * weight[:, :, :F], 1).squeeze(1)
            of_t = of_gate / (2 * (squared * squared.sqrt()))
        return of_weight, of_t


def _scaled(weight: Tensor, gate: Tensor) -> Tensor:
    scaled = weight.clone(memory_format=torch.contiguous_format)
    scaled[:, :, : gate.shape[1]].mul_(gate.unsqueeze(1))
    return scaled
