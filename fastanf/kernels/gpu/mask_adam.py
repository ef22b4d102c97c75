"""Optimizer steps of all layers and lanes in one launch: MaskAdam, plain gradient descent, and the
targets' average alone. Equations in kernels/mask_adam.py.

Axes: K tensors, each [L, n] with an n of its own. A program changes one block of one tensor in one
lane; blocks are counted through all tensors of a lane. Each element is computed alone, by constants
of its lane: where the block lies and which lanes there are shows in no bit.

The number of the step is read from the device, so that a CUDA graph of the step goes on counting.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportOperatorIssue=false
# Python numbers are passed for constexpr parameters, and options of the launch beside them.
# What a constexpr condition leaves out is not looked at, and static_range unrolls.
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from fastanf.kernels.mask_adam import TrainedTensor

_FOLLOW, _SGD, _ADAM = (tl.constexpr(rule) for rule in range(3))
_BLOCK = 1024
_WARPS = 4


@triton.jit
def correction(step, LOG2_BETA: tl.constexpr):
    """1 - beta^step, float64."""
    return 1.0 - tl.exp2(step.to(tl.float64) * tl.full((), LOG2_BETA, tl.float64))


@triton.jit
def _change_block(
    weight, grad, exp_avg, exp_avg_sq, mask, target, offset, n,
    step, lr, weight_decay, mask_moments, tau,
    RULE: tl.constexpr, UNIT: tl.constexpr, IS_MASKED: tl.constexpr, HAS_LANES: tl.constexpr,
    HAS_TARGET: tl.constexpr, BETA1: tl.constexpr, BETA2: tl.constexpr, LOG2_BETA1: tl.constexpr,
    LOG2_BETA2: tl.constexpr, EPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Elements of one lane from `offset`, of which there are n."""
    lane = tl.program_id(1).to(tl.int64)
    # By units: a thread takes 16 bytes at a time where a lane begins at a multiple of 4 elements,
    # and not more of the mask, which has smaller ones.
    e = offset + UNIT * tl.arange(0, BLOCK // UNIT)[:, None] + tl.arange(0, UNIT)[None, :]
    first, is_inside = lane * n, e < n
    # All that comes from memory is asked for before anything is computed.
    w = tl.load(weight + first + e, mask=is_inside)
    if RULE != _FOLLOW:
        g = tl.load(grad + first + e, mask=is_inside)
    if RULE == _ADAM:
        m = tl.load(exp_avg + first + e, mask=is_inside)
        v = tl.load(exp_avg_sq + first + e, mask=is_inside)
    if IS_MASKED:
        is_active = tl.load(mask + first + e, mask=is_inside, other=0) != 0
        if HAS_LANES:
            masks_moments = tl.load(mask_moments + lane) != 0
    if HAS_TARGET:
        t = tl.load(target + first + e, mask=is_inside)
        rate = tl.load(tau + lane)
    if RULE != _FOLLOW:
        step_size = tl.load(lr + lane)
        g += tl.load(weight_decay + lane) * w
    if RULE == _ADAM:
        num_steps = tl.load(step)
        step_size = tl.div_rn(step_size, correction(num_steps, LOG2_BETA1).to(tl.float32))
        root = tl.sqrt(correction(num_steps, LOG2_BETA2)).to(tl.float32)
        m = BETA1 * m + (1 - BETA1) * g
        v = BETA2 * v + ((1 - BETA2) * g) * g
        if IS_MASKED:
            learns = is_active
            if HAS_LANES:
                learns = learns | ~masks_moments
            m, v = tl.where(learns, m, 0.0), tl.where(learns, v, 0.0)
        tl.store(exp_avg + first + e, m, mask=is_inside)
        tl.store(exp_avg_sq + first + e, v, mask=is_inside)
        w -= (step_size * m) / (tl.sqrt(v) / root + EPS)
    if RULE == _SGD:
        w -= step_size * g
    if RULE != _FOLLOW:
        if IS_MASKED:
            w = tl.where(is_active, w, 0.0)
        tl.store(weight + first + e, w, mask=is_inside)
    if HAS_TARGET:
        mixed = t + rate * (w - t)
        t = tl.where(rate == 1, w, tl.where(rate == 0, t, mixed))
        if IS_MASKED:
            t = tl.where(is_active, t, 0.0)
        tl.store(target + first + e, t, mask=is_inside)


@triton.jit
def _change(
    weights, grads, exp_avgs, exp_avg_sqs, masks, targets, num_units,
    step, lr, weight_decay, mask_moments, tau,
    RULE: tl.constexpr, UNITS: tl.constexpr, ARE_MASKED: tl.constexpr, HAS_LANES: tl.constexpr,
    HAS_TARGET: tl.constexpr, BETA1: tl.constexpr, BETA2: tl.constexpr, LOG2_BETA1: tl.constexpr,
    LOG2_BETA2: tl.constexpr, EPS: tl.constexpr, NUM_TENSORS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    for k in tl.static_range(NUM_TENSORS):
        n = num_units[k] * UNITS[k]
        num_blocks = tl.cdiv(n, BLOCK)
        if (block >= 0) & (block < num_blocks):
            _change_block(
                weights[k], grads[k], exp_avgs[k], exp_avg_sqs[k], masks[k], targets[k],
                block * BLOCK, n, step, lr, weight_decay, mask_moments, tau,
                RULE, UNITS[k], ARE_MASKED[k], HAS_LANES, HAS_TARGET, BETA1, BETA2, LOG2_BETA1,
                LOG2_BETA2, EPS, BLOCK,
            )  # fmt: skip
        block -= num_blocks


def step_(
    tensors: Sequence[TrainedTensor],
    grads: Sequence[Tensor],
    step: Tensor | None,
    lr: Tensor,
    weight_decay: Tensor,
    mask_moments: Tensor | None,
    tau: Tensor | None,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """One step of all tensors; arguments as `kernels.mask_adam.FusedStep.run_`, step on the device
    or None for plain gradient descent.
    """
    rule = _SGD if step is None else _ADAM
    _launch_(tensors, grads, rule, step, lr, weight_decay, mask_moments, tau, beta1, beta2, eps)


def follow_(tensors: Sequence[TrainedTensor], tau: Tensor) -> None:
    """The average of the targets alone; arguments as `kernels.mask_adam.follow_`."""
    weights = [tensor.weight for tensor in tensors]
    _launch_(tensors, weights, _FOLLOW, None, tau, tau, None, tau, 0.0, 0.0, 0.0)


def _launch_(
    tensors: Sequence[TrainedTensor],
    grads: Sequence[Tensor],
    rule: tl.constexpr,
    step: Tensor | None,
    lr: Tensor,
    weight_decay: Tensor,
    mask_moments: Tensor | None,
    tau: Tensor | None,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    L = tensors[0].weight.shape[0]
    sizes = [tensor.weight.numel() // max(L, 1) for tensor in tensors]
    num_blocks = sum(triton.cdiv(n, _BLOCK) for n in sizes)
    if num_blocks == 0:
        return
    units = tuple(math.gcd(n, 4) if n else 1 for n in sizes)  # a lane begins at a multiple of these
    lr, weight_decay = lr.contiguous(), weight_decay.contiguous()
    # Where there is none, another tensor stands for it and is not read.
    _change[(num_blocks, L)](
        tuple(tensor.weight for tensor in tensors),
        tuple(grads),
        tuple(_or(tensor.exp_avg, tensor.weight) for tensor in tensors),
        tuple(_or(tensor.exp_avg_sq, tensor.weight) for tensor in tensors),
        tuple(
            tensor.weight if tensor.mask is None else tensor.mask.view(torch.uint8)
            for tensor in tensors
        ),
        tuple(_or(tensor.target, tensor.weight) for tensor in tensors),
        tuple(n // unit for n, unit in zip(sizes, units, strict=True)),
        _or(step, lr), lr, weight_decay,
        lr if mask_moments is None else mask_moments.contiguous().view(torch.uint8),
        lr if tau is None else tau.contiguous(),
        RULE=rule, UNITS=units, ARE_MASKED=tuple(tensor.mask is not None for tensor in tensors),
        HAS_LANES=mask_moments is not None, HAS_TARGET=tau is not None,
        BETA1=beta1, BETA2=beta2, LOG2_BETA1=log2_of(beta1), LOG2_BETA2=log2_of(beta2), EPS=eps,
        NUM_TENSORS=len(tensors), BLOCK=_BLOCK, num_warps=_WARPS,
    )  # fmt: skip


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    return other if tensor is None else tensor


def log2_of(beta: float) -> float:
    """Of 0: a power so negative that its exponential is 0."""
    return math.log2(beta) if beta > 0 else -float(2**20)
