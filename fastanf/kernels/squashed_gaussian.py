"""Sampling from a squashed Gaussian: a = offset + scale * tanh(u), u = mean + exp(s) n, and the
log-density of a.

    log pi = sum_i [-n_i^2 / 2 - s_i - log(2 pi) / 2] - [log scale_i + log(1 - tanh(u_i)^2)]
    log(1 - tanh(u)^2) = 2 (log 2 - u + log sigmoid(2 u))

s is the log of the deviation, kept within its limits. The gradients, with the limits' own:

    du = da scale (1 - tanh(u)^2) + 2 tanh(u) dlogpi
    dmean = du       ds = du exp(s) n - dlogpi

Axes: [L, A, B] lanes, actions, columns (rows of the minibatch).

Source: Haarnoja et al. 2018, arXiv 1812.05905, App. C.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastanf import kernels
from fastanf.kernels.linear import is_native
from fastanf.kernels.native import SquashArgs, SquashGradArgs
from fastanf.kernels.stack import native


class Squashing(NamedTuple):
    """What does not change: the range of the actions and the limits of s."""

    scale: Tensor
    """[A, 1]."""
    offset: Tensor
    """[A, 1]."""
    constant: Tensor
    """[A, 1] -log(2 pi) / 2 - log scale."""
    low: float
    high: float

    @staticmethod
    def of(scale: Tensor, offset: Tensor, low: float, high: float) -> Squashing:
        """For actions within offset +- scale and s within [low, high]."""
        constant = -0.5 * math.log(2 * math.pi) - scale.log()
        return Squashing(scale.contiguous(), offset.contiguous(), constant, low, high)


def sample_squashed_ref(head: Tensor, normal: Tensor, to: Squashing) -> tuple[Tensor, Tensor]:
    """Plain-torch definition of `sample_squashed`."""
    mean, log_std = head.chunk(2, dim=1)
    log_std = log_std.clamp(to.low, to.high)
    u = mean + log_std.exp() * normal
    # Not softplus: torch computes it in another way at the end of a tensor, where other lanes may
    # or may not follow.
    log_slope = 2 * (math.log(2) - u + torch.nn.functional.logsigmoid(2 * u))
    log_density = (to.constant - 0.5 * normal.square() - log_std - log_slope).sum(1)
    return to.offset + to.scale * torch.tanh(u), log_density


def sample_squashed(head: Tensor, normal: Tensor, to: Squashing) -> tuple[Tensor, Tensor]:
    """Action and log-density, differentiable in `head`.

    Args:
        head: [L, 2 A, B], means, then logs of the deviations.
        normal: [L, A, B] standard normal numbers.
        to: range of the actions.

    Returns:
        [L, A, B] and [L, B].
    """
    if not (is_native(head, normal) or kernels.is_triton(head, normal)):
        return sample_squashed_ref(head, normal, to)
    return _Sample.apply(head, normal, to)  # pyright: ignore[reportReturnType]


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, head: Tensor, normal: Tensor, to: Squashing) -> tuple[Tensor, Tensor]:
        head, normal = head.contiguous(), normal.contiguous()
        ctx.save_for_backward(head, normal)
        ctx.to = to
        if kernels.is_triton(head):
            from fastanf.kernels.gpu import squashed_gaussian as gpu

            return gpu.forward(head, normal, to)
        L, A, B = normal.shape
        action, log_density = torch.empty(L, A, B), torch.empty(L, B)
        native().fastanf_squash(
            ctypes.byref(
                SquashArgs(
                    head.data_ptr(), normal.data_ptr(), to.scale.data_ptr(), to.offset.data_ptr(),
                    to.constant.data_ptr(), to.low, to.high, action.data_ptr(),
                    log_density.data_ptr(), L, A, B, torch.get_num_threads(),
                )
            )
        )  # fmt: skip
        return action, log_density

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        head, normal = ctx.saved_tensors
        if kernels.is_triton(head):
            from fastanf.kernels.gpu import squashed_gaussian as gpu

            return gpu.backward(head, normal, ctx.to, *grads), None, None
        action_grad, density_grad = (grad.contiguous() for grad in grads)
        L, A, B = normal.shape
        head_grad = torch.empty(L, 2 * A, B)
        native().fastanf_squash_grad(
            ctypes.byref(
                SquashGradArgs(
                    head.data_ptr(), normal.data_ptr(), ctx.to.scale.data_ptr(), ctx.to.low,
                    ctx.to.high, action_grad.data_ptr(), density_grad.data_ptr(),
                    head_grad.data_ptr(), L, A, B, torch.get_num_threads(),
                )
            )
        )  # fmt: skip
        return head_grad, None, None
