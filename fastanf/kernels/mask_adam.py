"""Optimizer steps that keep inactive connections at zero, fused with the target's average.

One pass over memory updates the weight, both moments and the target of a stacked parameter.
Per element, with lane constants lr, decay (weight_decay) and tau, and t the step:

    g = grad + decay * w                        coupled L2, as torch.optim.Adam
    m = beta1 * m + (1 - beta1) * g             0 where inactive, if the lane masks its moments
    v = beta2 * v + (1 - beta2) * g * g         likewise
    w = w - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)      0 where inactive
    target = target + tau * (w - target)        0 where inactive

Inactive elements are selected, not multiplied: whatever their gradient holds, they become zero.

Axes: [L, ...] parameters of any further shape, [L] lane constants.

Source: Kingma and Ba 2014, arXiv 1412.6980, Alg. 1; masking of the moments: Grooten et al. 2023,
arXiv 2302.06548 (MaskAdam).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastanf import kernels
from fastanf.kernels.native import AdamArgs, AdamTensor


def _per_lane(lane: Tensor, like: Tensor) -> Tensor:
    return lane.view(-1, *[1] * (like.ndim - 1))


def _select(mask: Tensor | None, value: Tensor) -> Tensor:
    return value if mask is None else torch.where(mask, value, 0.0)


def _corrections(
    step: int | Tensor, beta1: float, beta2: float
) -> tuple[float, float] | tuple[Tensor, Tensor]:
    """1 - beta1^t and sqrt(1 - beta2^t), in float64 and where the number of the step lies."""
    if isinstance(step, Tensor):
        step = step.double()
        return 1 - beta1**step, (1 - beta2**step).sqrt()
    return 1 - beta1**step, math.sqrt(1 - beta2**step)


@torch.no_grad()
def polyak_ref_(target: Tensor, weight: Tensor, tau: Tensor, mask: Tensor | None = None) -> None:
    """Plain-torch definition of `polyak_`."""
    t = _per_lane(tau, target)
    mixed = target + t * (weight - target)
    mixed = torch.where(t == 1, weight, torch.where(t == 0, target, mixed))
    target.copy_(_select(mask, mixed))


@torch.no_grad()
def mask_adam_ref_(
    weight: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: int | Tensor,
    lr: Tensor,
    weight_decay: Tensor,
    mask: Tensor | None = None,
    mask_moments: Tensor | None = None,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    target: Tensor | None = None,
    tau: Tensor | None = None,
) -> None:
    """Plain-torch definition of `mask_adam_`."""
    g = grad + _per_lane(weight_decay, weight) * weight
    m = beta1 * exp_avg + (1 - beta1) * g
    v = beta2 * exp_avg_sq + ((1 - beta2) * g) * g
    if mask is not None:
        learns = mask if mask_moments is None else mask | ~_per_lane(mask_moments, weight)
        m, v = _select(learns, m), _select(learns, v)
    exp_avg.copy_(m)
    exp_avg_sq.copy_(v)
    correction, root = _corrections(step, beta1, beta2)
    step_size = _per_lane(lr / correction, weight)
    updated = weight - (step_size * m) / (v.sqrt() / root + eps)
    weight.copy_(_select(mask, updated))
    if target is not None:
        assert tau is not None
        polyak_ref_(target, weight, tau, mask)


@torch.no_grad()
def mask_sgd_ref_(
    weight: Tensor,
    grad: Tensor,
    lr: Tensor,
    weight_decay: Tensor,
    mask: Tensor | None = None,
    target: Tensor | None = None,
    tau: Tensor | None = None,
) -> None:
    """Plain-torch definition of `mask_sgd_`."""
    g = grad + _per_lane(weight_decay, weight) * weight
    weight.copy_(_select(mask, weight - _per_lane(lr, weight) * g))
    if target is not None:
        assert tau is not None
        polyak_ref_(target, weight, tau, mask)


def mask_adam_(
    weight: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: int | Tensor,
    lr: Tensor,
    weight_decay: Tensor,
    mask: Tensor | None = None,
    mask_moments: Tensor | None = None,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    target: Tensor | None = None,
    tau: Tensor | None = None,
) -> None:
    """One step of Adam with coupled L2 on the active connections, then the target's average.

    The equations stand at the top of this file.

    Args:
        weight: [L, ...] float32 (the reference also float64), changed in place.
        grad: like weight.
        exp_avg: like weight, changed in place.
        exp_avg_sq: like weight, changed in place.
        step: the number of this step, from 1: a Python number, or [] int64 where the weight is,
            which a CUDA graph reads anew at every replay.
        lr: [L] learning rates, at least 0.
        weight_decay: [L] coefficients of L2, at least 0.
        mask: bool like weight, true where active; None means all are.
        mask_moments: [L] bool, lanes whose moments are zero where inactive; None means all lanes.
            Without it (plain Adam) moments move everywhere, and only the weight is kept at zero.
        beta1: in [0, 1).
        beta2: in [0, 1).
        eps: added to the root of the second moment.
        target: like weight, changed in place, or None.
        tau: [L] in [0, 1]; 0 leaves the active target as it is, to the bit, and 1 copies.

    Raises:
        ValueError: on shapes, types or layouts other than these.
    """
    _check(weight, [grad, exp_avg, exp_avg_sq], [lr, weight_decay], mask, target, tau)
    if not isinstance(step, Tensor) and step < 1:
        raise ValueError(f"step={step}: must be at least 1")
    if not is_fused(weight):
        return mask_adam_ref_(
            weight, grad, exp_avg, exp_avg_sq, step, lr, weight_decay, mask, mask_moments,
            beta1, beta2, eps, target, tau,
        )  # fmt: skip
    tensor = TrainedTensor(weight, exp_avg, exp_avg_sq, mask, target)
    fused = FusedStep([tensor], beta1, beta2, eps)
    return fused.run_([grad], step, lr, weight_decay, mask_moments, tau)


def mask_sgd_(
    weight: Tensor,
    grad: Tensor,
    lr: Tensor,
    weight_decay: Tensor,
    mask: Tensor | None = None,
    target: Tensor | None = None,
    tau: Tensor | None = None,
) -> None:
    """w = w - lr * (grad + weight_decay * w), 0 where inactive, then the target's average.

    Args, raises: as `mask_adam_`.
    """
    _check(weight, [grad], [lr, weight_decay], mask, target, tau)
    if not is_fused(weight):
        return mask_sgd_ref_(weight, grad, lr, weight_decay, mask, target, tau)
    tensor = TrainedTensor(weight, None, None, mask, target)
    return FusedStep([tensor]).run_([grad], None, lr, weight_decay, None, tau)


def polyak_(target: Tensor, weight: Tensor, tau: Tensor, mask: Tensor | None = None) -> None:
    """target = target + tau * (weight - target), 0 where inactive.

    Args:
        target: [L, ...] float32 (the reference also float64), changed in place.
        weight: like target.
        tau: [L] in [0, 1]; 0 leaves the active target as it is, to the bit, and 1 copies.
        mask: bool like target, true where active; None means all are.

    Raises:
        ValueError: on shapes, types or layouts other than these.
    """
    _check(target, [weight], [tau], mask, None, None)
    return follow_([TrainedTensor(weight, None, None, mask, target)], tau)


class TrainedTensor(NamedTuple):
    """What a step of one tensor reads and changes, all like the weight."""

    weight: Tensor
    """[L, ...]."""
    exp_avg: Tensor | None
    exp_avg_sq: Tensor | None
    mask: Tensor | None
    target: Tensor | None


def is_fused(weight: Tensor) -> bool:
    """Whether a step of this tensor is one pass over memory."""
    if kernels.NATIVE is not None and weight.is_cpu:
        return weight.dtype == torch.float32
    return kernels.is_triton(weight)


def follow_(tensors: Sequence[TrainedTensor], tau: Tensor) -> None:
    """`polyak_` of each tensor's target; on CUDA in one launch.

    Args:
        tensors: with a target each; their moments do not matter.
        tau: [L] in [0, 1].
    """
    if not tensors:
        return
    if kernels.is_triton(tensors[0].weight):
        from fastanf.kernels.gpu import mask_adam as gpu

        gpu.follow_(tensors, tau)
        torch.autograd.graph.increment_version([t.target for t in tensors if t.target is not None])
        return
    for tensor in tensors:
        assert tensor.target is not None
        if is_fused(tensor.weight):
            _native_polyak_(tensor.target, tensor.weight, tau.contiguous(), tensor.mask)
        else:
            polyak_ref_(tensor.target, tensor.weight, tau, tensor.mask)


def _native_polyak_(target: Tensor, weight: Tensor, tau: Tensor, mask: Tensor | None) -> None:
    assert kernels.NATIVE is not None
    L = target.shape[0]
    if target.numel() == 0:
        return
    kernels.NATIVE.fastanf_polyak(
        target.data_ptr(), weight.data_ptr(), tau.data_ptr(), _pointer(mask),
        L, target.numel() // L, torch.get_num_threads(),
    )  # fmt: skip
    torch.autograd.graph.increment_version(target)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class FusedStep:
    """A step of several tensors in one pass over memory: by the compiled kernels on the CPU, in one
    launch of a Triton kernel on CUDA.

    The tensors' places in memory are read once: they must stay where they are.

    Args:
        tensors: each with its exp_avg and exp_avg_sq (None for plain gradient descent), its mask
            and its target, or None; [L, ...] float32 contiguous, such that `is_fused`.
        beta1: of Adam, in [0, 1), as the others.
        beta2: in [0, 1).
        eps: added to the root of the second moment.
    """

    def __init__(
        self,
        tensors: Sequence[TrainedTensor],
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
    ):
        self._tensors = list(tensors)
        self._lanes = tensors[0].weight.shape[0]
        self._betas, self._eps = (beta1, beta2), eps
        self._changed = [
            held for t in tensors for held in (t.weight, t.exp_avg, t.exp_avg_sq, t.target)
            if held is not None
        ]  # fmt: skip
        self._is_native = kernels.NATIVE is not None and tensors[0].weight.is_cpu
        self._args = (AdamTensor * len(tensors))(
            *(
                AdamTensor(
                    t.weight.data_ptr(), None, _pointer(t.exp_avg), _pointer(t.exp_avg_sq),
                    _pointer(t.mask), _pointer(t.target), t.weight.numel() // max(self._lanes, 1),
                )
                for t in tensors
            )
        )  # fmt: skip

    def run_(
        self,
        grads: Sequence[Tensor],
        step: int | Tensor | None,
        lr: Tensor,
        weight_decay: Tensor,
        mask_moments: Tensor | None,
        tau: Tensor | None,
    ) -> None:
        """One step.

        Args:
            grads: like the tensors, contiguous.
            step: the number of this step of Adam, as in `mask_adam_`; None for plain gradient
                descent.
            lr: [L].
            weight_decay: [L].
            mask_moments: [L] bool, or None for all lanes.
            tau: [L], or None where no tensor has a target.
        """
        if self._is_native:
            self._run_native_(grads, step, lr, weight_decay, mask_moments, tau)
        else:
            from fastanf.kernels.gpu import mask_adam as gpu

            if isinstance(step, int):
                step = torch.full((), step, dtype=torch.int64, device=lr.device)
            gpu.step_(
                self._tensors, grads, step, lr, weight_decay, mask_moments, tau,
                *self._betas, self._eps,
            )  # fmt: skip
        torch.autograd.graph.increment_version(self._changed)

    def _run_native_(
        self,
        grads: Sequence[Tensor],
        step: int | Tensor | None,
        lr: Tensor,
        weight_decay: Tensor,
        mask_moments: Tensor | None,
        tau: Tensor | None,
    ) -> None:
        assert kernels.NATIVE is not None
        step_size, constants = lr, _SGD_CONSTANTS
        if step is not None:
            beta1, beta2 = self._betas
            correction, root = _corrections(int(step), beta1, beta2)
            step_size = lr / correction
            constants = beta1, 1 - beta1, beta2, 1 - beta2, root, self._eps
        # Held in variables so that the copies, where contiguous() makes any, outlive the call.
        step_size, weight_decay = step_size.contiguous(), weight_decay.contiguous()
        mask_moments = None if mask_moments is None else mask_moments.contiguous()
        tau = None if tau is None else tau.contiguous()
        for args, grad in zip(self._args, grads, strict=True):
            args.grad = grad.data_ptr()
        kernels.NATIVE.fastanf_adam(
            ctypes.byref(
                AdamArgs(
                    ctypes.addressof(self._args), len(self._args), self._lanes,
                    step_size.data_ptr(), weight_decay.data_ptr(), _pointer(mask_moments),
                    _pointer(tau), *constants, torch.get_num_threads(),
                )
            )
        )  # fmt: skip


# What the compiled step of plain gradient descent is told in place of Adam's constants.
_SGD_CONSTANTS = (0.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def _check(
    weight: Tensor,
    alike: list[Tensor],
    per_lane: list[Tensor],
    mask: Tensor | None,
    target: Tensor | None,
    tau: Tensor | None,
) -> None:
    if (target is None) != (tau is None):
        raise ValueError("target and tau: give both or neither")
    alike = [*alike] if target is None else [*alike, target]
    per_lane = [*per_lane] if tau is None else [*per_lane, tau]
    for tensor in alike:
        if tensor.shape != weight.shape or tensor.dtype != weight.dtype:
            raise ValueError(
                f"a tensor of {[*tensor.shape]} {tensor.dtype}: must be like the parameter, "
                f"{[*weight.shape]} {weight.dtype}"
            )
    for tensor in per_lane:
        if tensor.shape != weight.shape[:1] or tensor.dtype != weight.dtype:
            raise ValueError(
                f"a lane constant of {[*tensor.shape]} {tensor.dtype}: must be "
                f"[{weight.shape[0]}] {weight.dtype}"
            )
    if mask is not None and (mask.shape != weight.shape or mask.dtype != torch.bool):
        raise ValueError(f"mask of {[*mask.shape]} {mask.dtype}: must be {[*weight.shape]} bool")
    held = [weight, *alike] if mask is None else [weight, *alike, mask]
    if not all(tensor.is_contiguous() for tensor in held):
        raise ValueError("a parameter, its gradient, moments, mask or target is not contiguous")
