"""Targets, errors and the smallest of the critics, in one launch each; a program does a part of one
lane's minibatch.

Axes: L lanes, C critics, B minibatch.
"""

# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# Python numbers are passed for constexpr parameters, and ranges are unrolled.
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 128


@triton.jit
def _smallest(q, lane, b, is_row, B, C: tl.constexpr):
    at = q + lane * C * B + b
    smallest = tl.load(at, mask=is_row, other=0.0)
    for c in tl.static_range(1, C):
        other = tl.load(at + c * B, mask=is_row, other=0.0)
        # As torch's minimum: what is not a number stays visible.
        smallest = tl.where((other < smallest) | (other != other), other, smallest)
    return smallest


@triton.jit
def _bellman_target(
    q_next, reward, not_terminated, discount, log_density, temperature, out, B,
    IS_SOFT: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(1).to(tl.int64)
    b = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = b < B
    value = _smallest(q_next, lane, b, is_row, B, C)
    at = lane * B + b
    if IS_SOFT:
        weight = tl.load(temperature + lane)
        value -= weight * tl.load(log_density + at, mask=is_row, other=0.0)
    factor = tl.load(discount + lane) * tl.load(not_terminated + at, mask=is_row, other=0.0)
    y = tl.load(reward + at, mask=is_row, other=0.0) + factor * value
    tl.store(out + at, y, mask=is_row)


@triton.jit
def _squared_error(q, target, error, grad, slope, B, C: tl.constexpr, ROWS: tl.constexpr):
    lane = tl.program_id(1).to(tl.int64)
    b = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = b < B
    y = tl.load(target + lane * B + b, mask=is_row, other=0.0)
    for c in tl.static_range(C):
        at = (lane * C + c) * B + b
        difference = tl.load(q + at, mask=is_row, other=0.0) - y
        tl.store(error + at, difference, mask=is_row)
        tl.store(grad + at, difference * slope, mask=is_row)


@triton.jit
def _smallest_value(q, out, grad, slope, B, C: tl.constexpr, ROWS: tl.constexpr):
    lane = tl.program_id(1).to(tl.int64)
    b = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = b < B
    smallest = _smallest(q, lane, b, is_row, B, C)
    tl.store(out + lane * B + b, smallest, mask=is_row)
    count = tl.zeros((ROWS,), tl.float32)
    for c in tl.static_range(C):
        value = tl.load(q + (lane * C + c) * B + b, mask=is_row, other=0.0)
        count += (value == smallest).to(tl.float32)
    for c in tl.static_range(C):
        at = (lane * C + c) * B + b
        value = tl.load(q + at, mask=is_row, other=0.0)
        tl.store(grad + at, (value == smallest).to(tl.float32) * slope / count, mask=is_row)


def _grid(num_lanes: int, num_rows: int) -> tuple[int, int]:
    return triton.cdiv(num_rows, _ROWS), num_lanes


def bellman_target(
    q_next: Tensor,
    reward: Tensor,
    not_terminated: Tensor,
    discount: Tensor,
    soft: tuple[Tensor, ...],
) -> Tensor:
    """[L, B]; `soft` is log-density and temperature, or empty."""
    L, C, B = q_next.shape
    q_next, reward, not_terminated = (t.contiguous() for t in (q_next, reward, not_terminated))
    log_density, temperature = (t.contiguous() for t in soft or (reward, reward))
    out = torch.empty(L, B, device=q_next.device)
    _bellman_target[_grid(L, B)](
        q_next, reward, not_terminated, discount.contiguous(), log_density, temperature, out, B,
        IS_SOFT=bool(soft), C=C, ROWS=_ROWS,
    )  # fmt: skip
    return out


def squared_error(q: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Errors and gradients, [L, C, B] each."""
    L, C, B = q.shape
    q = q.contiguous()
    error, grad = torch.empty_like(q), torch.empty_like(q)
    _squared_error[_grid(L, B)](q, target.contiguous(), error, grad, 2 / B, B, C=C, ROWS=_ROWS)
    return error, grad


def smallest_value(q: Tensor) -> tuple[Tensor, Tensor]:
    """[L, B] and [L, C, B]."""
    L, C, B = q.shape
    q = q.contiguous()
    out, grad = torch.empty(L, B, device=q.device), torch.empty_like(q)
    _smallest_value[_grid(L, B)](q, out, grad, -1 / B, B, C=C, ROWS=_ROWS)
    return out, grad
