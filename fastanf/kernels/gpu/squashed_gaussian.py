"""Sampling from a squashed Gaussian in one launch, and its gradients in another. Equations in
kernels/squashed_gaussian.py.

One program takes all A actions of some columns of one lane: a tile [AA, BB], AA the power of two
above A. The functions are the polynomials of the compiled CPU kernels, with their fused steps, not
the hardware's approximations: exp(x) by 2^x of the hardware is off by |x| 6e-8 of itself.

Neither how the tile is cut nor the order in which actions are added depends on the number of lanes.
"""

# pyright: reportArgumentType=false, reportCallIssue=false
# Python numbers are passed for constexpr parameters, and options of the launch beside them.
from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastanf.kernels.gpu.logarithm import split_log

if TYPE_CHECKING:
    from fastanf.kernels.squashed_gaussian import Squashing

_TILE = 512
_MAX_COLUMNS = 128
_WARPS = 4


@triton.jit
def exponential(x):
    """exp(x) for -87 < x < 88, beyond that of the nearest of these: 2^k p(r), r = x - k ln 2."""
    x = tl.where(x < -87.0, -87.0, x)
    x = tl.where(x > 88.0, 88.0, x)
    shifted = tl.fma(x, 1.44269504, 12582912.0)  # k in the low bits
    k = shifted - 12582912.0
    r = tl.fma(k, -0.693359375, x)
    r = tl.fma(k, 2.12194440e-4, r)
    p = tl.fma(r, 1.9875691500e-4, 1.3981999507e-3)
    p = tl.fma(p, r, 8.3334519073e-3)
    p = tl.fma(p, r, 4.1665795894e-2)
    p = tl.fma(p, r, 1.6666665459e-1)
    p = tl.fma(p, r, 5.0000001201e-1)
    p = tl.fma(p * r, r, r) + 1.0
    # A product with 2^k, not a sum of exponents: NaN stays NaN whatever its bits.
    return p * ((shifted.to(tl.int32, bitcast=True) << 23) + 0x3F800000).to(
        tl.float32, bitcast=True
    )


@triton.jit
def log_one_plus(e):
    """ln(1 + e) for 0 <= e <= 1, to an absolute error of 1e-7."""
    exponent, minus_2_log_mantissa = split_log(1.0 + e, 0)
    return tl.fma(exponent, 0.693147181, -0.5 * minus_2_log_mantissa)


@triton.jit
def _tanh(u, magnitude, e):
    """tanh(u), with e = exp(-2 |u|)."""
    z = magnitude * magnitude
    p = tl.fma(z, -5.70498872745e-3, 2.06390887954e-2)
    p = tl.fma(p, z, -5.37397155531e-2)
    p = tl.fma(p, z, 1.33314422036e-1)
    p = tl.fma(p, z, -3.33332819422e-1)
    near = tl.fma(p * z, magnitude, magnitude)
    value = tl.where(magnitude < 0.625, near, (1.0 - e) / (1.0 + e))
    return tl.where(u < 0, -value, value)


@triton.jit
def _inputs(head, normal, low, high, i, b, A, B, is_inside):
    """Mean, log of the deviation before and within its limits, normal number; [AA, BB] each."""
    lane = tl.program_id(1).to(tl.int64)
    at = i[:, None] * B + b[None, :]
    mean = tl.load(head + 2 * lane * A * B + at, mask=is_inside, other=0.0)
    raw = tl.load(head + (2 * lane + 1) * A * B + at, mask=is_inside, other=0.0)
    n = tl.load(normal + lane * A * B + at, mask=is_inside, other=0.0)
    s = tl.where(raw < low, low, raw)
    return mean, raw, tl.where(s > high, high, s), n


@triton.jit
def _forward(
    head, normal, scale, offset, constant, low, high, action, log_density, A, B,
    AA: tl.constexpr, BB: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(1).to(tl.int64)
    i, b = tl.arange(0, AA), tl.program_id(0) * BB + tl.arange(0, BB)
    is_inside = (i < A)[:, None] & (b < B)[None, :]
    mean, _, s, n = _inputs(head, normal, low, high, i, b, A, B, is_inside)
    range_scale = tl.load(scale + i, mask=i < A, other=0.0)[:, None]
    range_offset = tl.load(offset + i, mask=i < A, other=0.0)[:, None]
    density_constant = tl.load(constant + i, mask=i < A, other=0.0)[:, None]
    u = tl.fma(exponential(s), n, mean)
    magnitude = tl.abs(u)
    e = exponential(-2.0 * magnitude)
    y = tl.fma(range_scale, _tanh(u, magnitude, e), range_offset)
    tl.store(action + lane * A * B + i[:, None] * B + b[None, :], y, mask=is_inside)
    log_slope = 2.0 * ((0.693147181 - magnitude) - log_one_plus(e))
    term = (tl.fma(-0.5 * n, n, density_constant) - s) - log_slope
    total = tl.sum(tl.where(is_inside, term, 0.0), axis=0)
    tl.store(log_density + lane * B + b, total, mask=b < B)


@triton.jit
def _backward(
    head, normal, scale, low, high,
    action_grad, action_lane, action_action, action_row, density_grad, density_lane, density_row,
    head_grad, A, B,
    AA: tl.constexpr, BB: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(1).to(tl.int64)
    i, b = tl.arange(0, AA), tl.program_id(0) * BB + tl.arange(0, BB)
    is_inside = (i < A)[:, None] & (b < B)[None, :]
    mean, raw, s, n = _inputs(head, normal, low, high, i, b, A, B, is_inside)
    range_scale = tl.load(scale + i, mask=i < A, other=0.0)[:, None]
    action_at = i[:, None] * action_action + b[None, :] * action_row
    da = tl.load(action_grad + lane * action_lane + action_at, mask=is_inside, other=0.0)
    dp = tl.load(density_grad + lane * density_lane + b * density_row, mask=b < B, other=0.0)
    deviation = exponential(s)
    u = tl.fma(deviation, n, mean)
    magnitude = tl.abs(u)
    e = exponential(-2.0 * magnitude)
    # 1 - tanh^2 without a difference: right also where tanh is one.
    inverse = 1.0 / (1.0 + e)
    slope = 4.0 * e * inverse * inverse
    du = tl.fma(da * range_scale, slope, 2.0 * _tanh(u, magnitude, e) * dp[None, :])
    ds = tl.where(raw == s, tl.fma(du, deviation * n, -dp[None, :]), 0.0)
    at = i[:, None] * B + b[None, :]
    tl.store(head_grad + 2 * lane * A * B + at, du, mask=is_inside)
    tl.store(head_grad + (2 * lane + 1) * A * B + at, ds, mask=is_inside)


def _tile(A: int) -> tuple[int, int]:
    rows = triton.next_power_of_2(A)
    return rows, min(_MAX_COLUMNS, max(8, _TILE // rows))


def forward(head: Tensor, normal: Tensor, to: Squashing) -> tuple[Tensor, Tensor]:
    """Action and log-density; arguments as `kernels.squashed_gaussian.sample_squashed`,
    contiguous.
    """
    L, A, B = normal.shape
    action, log_density = torch.empty_like(normal), normal.new_empty(L, B)
    rows, columns = _tile(A)
    if normal.numel():
        _forward[(triton.cdiv(B, columns), L)](
            head, normal, to.scale, to.offset, to.constant, to.low, to.high, action, log_density,
            A, B, AA=rows, BB=columns, num_warps=_WARPS,
        )  # fmt: skip
    return action, log_density


def backward(
    head: Tensor, normal: Tensor, to: Squashing, action_grad: Tensor, density_grad: Tensor
) -> Tensor:
    """Gradient of `head`, given those of the action [L, A, B] and of the log-density [L, B], of any
    strides.
    """
    L, A, B = normal.shape
    head_grad = torch.empty_like(head)
    rows, columns = _tile(A)
    if normal.numel():
        action_lane, action_action, action_row = action_grad.stride()
        density_lane, density_row = density_grad.stride()
        _backward[(triton.cdiv(B, columns), L)](
            head, normal, to.scale, to.low, to.high,
            action_grad, action_lane, action_action, action_row,
            density_grad, density_lane, density_row, head_grad, A, B,
            AA=rows, BB=columns, num_warps=_WARPS,
        )  # fmt: skip
    return head_grad
