"""Layer normalisation of stacked hidden layers, y = scale * n + shift, and its gradients.

    n = (h - mean h) / sqrt(var h + eps)

with mean and (biased) variance over the H units of one column. With dn = scale * dy,

    dscale = sum over columns of n dy          dshift = sum over columns of dy
    dh = (dn - mean dn - n mean(n dn)) / sqrt(var h + eps)

Sums are trees of additions (tree_sum.py) and all else is arithmetic and a root: a matrix has the
same bits alone and among others.

Axes: G matrices, H units, B columns (rows of the minibatch). Source: Ba et al. 2016, arXiv
1607.06450, eq. 4; eps as in torch.nn.LayerNorm.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastanf.kernels.tree_sum import tree_sum

EPS = 1e-5


def layer_norm(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Every column of h normalised, then scaled and shifted unit by unit.

    Args:
        h: [G, H, B], before the activation.
        scale: [G, H, 1].
        shift: [G, H, 1].

    Returns:
        [G, H, B].

    Raises:
        ValueError: on shapes that do not fit each other.
    """
    G, H, _ = h.shape
    if scale.shape != (G, H, 1) or shift.shape != (G, H, 1):
        raise ValueError(
            f"scale, shift have shapes {[*scale.shape]}, {[*shift.shape]}: must be [{G}, {H}, 1]"
        )
    return _LayerNorm.apply(h, scale, shift)  # pyright: ignore[reportReturnType]


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        centred = h - _mean(h)
        deviation = (_mean(centred * centred) + EPS).sqrt()
        normal = centred / deviation
        ctx.save_for_backward(normal, deviation, scale)
        return normal * scale + shift

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        normal, deviation, scale = ctx.saved_tensors
        of_h = of_scale = of_shift = None
        if ctx.needs_input_grad[0]:
            inner = grad * scale
            of_h = (inner - _mean(inner) - normal * _mean(inner * normal)) / deviation
        if ctx.needs_input_grad[1]:
            of_scale = tree_sum(grad * normal, 2)
        if ctx.needs_input_grad[2]:
            of_shift = tree_sum(grad, 2)
        return of_h, of_scale, of_shift


def _mean(h: Tensor) -> Tensor:
    """[G, H, B] -> [G, 1, B]."""
    return tree_sum(h, 1) / h.shape[1]
