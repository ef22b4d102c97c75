"""Products of stacked linear layers: forward, gradient of the weights, gradient of the inputs.

Axes: L lanes, J outputs of a lane (the C copies of a network that share an input stand below each
other: J = C * O), I = D + N + A inputs (stored, noise, extra), B columns. Noise is drawn in the
registers of the program that multiplies it, forward and again for the weights' gradient; stored and
extra inputs are loaded as one run of D + A, so that few of them fill one tile and not two.

One program computes a tile [BJ, BB], [BJ, BI] or [BN, BB] alone: sums run over inputs, columns or
outputs in one order, whatever else the launch computes.
"""

# pyright: reportArgumentType=false, reportCallIssue=false
# Python numbers are passed for constexpr parameters, and options of the launch beside them.
from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastanf import kernels
from fastanf.kernels.gpu.philox import key_halves, noise_tile
from fastanf.kernels.layer_input import LayerInput

_NO_NOISE, _GAUSSIAN, _EMPIRICAL = (tl.constexpr(kind) for kind in range(3))


class _Tile(NamedTuple):
    """Sizes of a program's tile: rows and columns of its result, and the step of its sum."""

    rows: int
    columns: int
    step: int
    warps: int


_FEW = 48
"""Up to so many outputs a layer is a head: exact, because its result is a loss's or a policy's."""


# profiling/gpu_code.py shows the registers and shared memory that these take on sm_90, where none
# spills. Exact products keep both factors in registers, so they take shorter steps.


def _product_tile(num_outputs: int, rows: int, is_noisy: bool) -> _Tile:
    """Of a product with `num_outputs` rows a matrix, `rows` rows a lane."""
    is_exact = _is_exact(num_outputs)
    step = 16 if is_exact else 32
    if num_outputs <= _FEW:
        return _Tile(16, 32, step, 4) if is_noisy else _Tile(16, 32, 64, 4)
    if not is_noisy:
        return _Tile(64, 64, step, 4)
    # Every program of a lane that computes other outputs draws the same noise again, so there are
    # to be few. With TF32, 256 x 32 takes 143 registers, 256 x 64 218.
    most = 128 if is_exact else 256
    return _Tile(min(most, max(64, triton.next_power_of_2(rows))), 32, step, 8)


def _input_grad_tile(num_outputs: int, num_inputs: int) -> _Tile:
    if num_outputs <= _FEW:
        return _Tile(64, 32, 16, 4)
    if num_inputs <= _FEW:
        return _Tile(16, 32, 64, 4)
    return _Tile(64, 64, 16 if _is_exact(num_outputs) else 32, 4)


def _is_exact(num_outputs: int) -> bool:
    return num_outputs <= _FEW or kernels.PRECISION == "float32"


def _precision(num_outputs: int) -> str:
    return "ieee" if _is_exact(num_outputs) else "tf32"


@triton.jit
def _loaded_tile(
    stored, stored_feature, stored_row, D, extra, extra_feature, extra_row, A, k, b, B,
    HAS_EXTRA: tl.constexpr,
):  # fmt: skip
    """[K, BB] of the D + A inputs that are in memory, zero outside of them."""
    in_columns = (b < B)[None, :]
    b = b[None, :].to(tl.int64)
    k = k[:, None].to(tl.int64)
    x = tl.load(stored + k * stored_feature + b * stored_row, mask=(k < D) & in_columns, other=0.0)
    if HAS_EXTRA:
        is_extra = (k >= D) & (k < D + A)
        x += tl.load(
            extra + (k - D) * extra_feature + b * extra_row, mask=is_extra & in_columns, other=0.0
        )
    return x


@triton.jit
def _row_halves(row, row_lane, row_row, lane, b, B):
    return key_halves(
        tl.load(row + lane * row_lane + b.to(tl.int64) * row_row, mask=b < B, other=0)
    )


@triton.jit
def _forward(
    stored, stored_lane, stored_feature, stored_row, D,
    extra, extra_lane, extra_feature, extra_row, A,
    key, row, row_lane, row_row, stream, std, quantiles, num_tables, N,
    weight, weight_lane, I, bias, bias_lane, slope, out, J, num_units,
    NOISE: tl.constexpr, HAS_EXTRA: tl.constexpr, ACTIVATES: tl.constexpr,
    PRECISION: tl.constexpr, BJ: tl.constexpr, BB: tl.constexpr, BK: tl.constexpr,
    UNIT: tl.constexpr, STORED_UNIT: tl.constexpr,
):  # fmt: skip
    B = num_units * UNIT
    stored_lane, stored_feature = stored_lane * STORED_UNIT, stored_feature * STORED_UNIT
    lane = tl.program_id(2).to(tl.int64)
    j = tl.program_id(0) * BJ + tl.arange(0, BJ)
    b = tl.program_id(1) * BB + tl.arange(0, BB)
    weight_rows = weight + lane * weight_lane + j[:, None].to(tl.int64) * I
    is_row = (j < J)[:, None]
    total = tl.zeros((BJ, BB), tl.float32)
    for first in range(0, D + A, BK):
        k = first + tl.arange(0, BK)
        x = _loaded_tile(
            stored + lane * stored_lane, stored_feature, stored_row, D,
            extra + lane * extra_lane, extra_feature, extra_row, A, k, b, B, HAS_EXTRA,
        )  # fmt: skip
        input = tl.where(k < D, k, k + N) if HAS_EXTRA else k
        w = tl.load(weight_rows + input[None, :], mask=is_row & (k < D + A)[None, :], other=0.0)
        total = tl.dot(w, x, total, input_precision=PRECISION)
    if NOISE != _NO_NOISE:
        row_low, row_high = _row_halves(row, row_lane, row_row, lane, b, B)
        key_low, key_high = key_halves(tl.load(key + lane))
        scale = tl.load(std + lane)
        for first in range(0, N, BK):
            x = noise_tile(
                first // 4, row_low, row_high, stream, key_low, key_high, scale, quantiles,
                num_tables, NOISE == _EMPIRICAL, BK,
            )  # fmt: skip
            n = first + tl.arange(0, BK)
            w = tl.load(weight_rows + (D + n)[None, :], mask=is_row & (n < N)[None, :], other=0.0)
            total = tl.dot(w, x, total, input_precision=PRECISION)
    y = total + tl.load(bias + lane * bias_lane + j, mask=j < J, other=0.0)[:, None]
    if ACTIVATES:
        y = tl.where(y > 0, y, slope * y)
    at = out + (lane * J + j[:, None]) * B + b[None, :]
    tl.store(at, y, mask=is_row & (b < B)[None, :])


@triton.jit
def _weight_grad(
    stored, stored_lane, stored_feature, stored_row, D,
    extra, extra_lane, extra_feature, extra_row, A,
    key, row, row_lane, row_row, stream, std, quantiles, num_tables, N,
    grad, weight_grad, bias_grad, I, J, num_units,
    NOISE: tl.constexpr, HAS_EXTRA: tl.constexpr,
    PRECISION: tl.constexpr, BJ: tl.constexpr, BI: tl.constexpr, BB: tl.constexpr,
    UNIT: tl.constexpr, STORED_UNIT: tl.constexpr,
):  # fmt: skip
    B = num_units * UNIT
    stored_lane, stored_feature = stored_lane * STORED_UNIT, stored_feature * STORED_UNIT
    lane = tl.program_id(2).to(tl.int64)
    j = tl.program_id(0) * BJ + tl.arange(0, BJ)
    is_row = (j < J)[:, None]
    grad_rows = grad + (lane * J + j[:, None]) * B
    first = tl.program_id(1) * BI
    num_loaded = tl.cdiv(D + A, BI) * BI
    i = first + tl.arange(0, BI)
    total = tl.zeros((BJ, BI), tl.float32)
    if first < num_loaded:
        bias_total = tl.zeros((BJ,), tl.float32)
        for first_column in range(0, B, BB):
            b = first_column + tl.arange(0, BB)
            dz = tl.load(grad_rows + b[None, :], mask=is_row & (b < B)[None, :], other=0.0)
            x = _loaded_tile(
                stored + lane * stored_lane, stored_feature, stored_row, D,
                extra + lane * extra_lane, extra_feature, extra_row, A, i, b, B, HAS_EXTRA,
            )  # fmt: skip
            total = tl.dot(dz, tl.trans(x), total, input_precision=PRECISION)
            bias_total += tl.sum(dz, axis=1)
        if first == 0:
            tl.store(bias_grad + lane * J + j, bias_total, mask=j < J)
        input = tl.where(i < D, i, i + N) if HAS_EXTRA else i
        is_input = i < D + A
    else:
        input = i - num_loaded + D
        is_input = i - num_loaded < N
        if NOISE != _NO_NOISE:
            key_low, key_high = key_halves(tl.load(key + lane))
            scale = tl.load(std + lane)
            for first_column in range(0, B, BB):
                b = first_column + tl.arange(0, BB)
                dz = tl.load(grad_rows + b[None, :], mask=is_row & (b < B)[None, :], other=0.0)
                row_low, row_high = _row_halves(row, row_lane, row_row, lane, b, B)
                x = noise_tile(
                    (first - num_loaded) // 4, row_low, row_high, stream, key_low, key_high,
                    scale, quantiles, num_tables, NOISE == _EMPIRICAL, BI,
                )  # fmt: skip
                total = tl.dot(dz, tl.trans(x), total, input_precision=PRECISION)
    at = weight_grad + (lane * J + j[:, None]) * I + input[None, :]
    tl.store(at, total, mask=is_row & is_input[None, :])


@triton.jit
def _input_grad(
    weight, weight_matrix, I, grad, activated, slope, out, O, num_units, first_input, num_inputs,
    THROUGH_ACTIVATION: tl.constexpr, PRECISION: tl.constexpr,
    BN: tl.constexpr, BB: tl.constexpr, BO: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    B = num_units * UNIT
    g = tl.program_id(2).to(tl.int64)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    b = tl.program_id(1) * BB + tl.arange(0, BB)
    weight_columns = weight + g * weight_matrix + first_input + n[None, :]
    is_input, is_column = (n < num_inputs)[None, :], (b < B)[None, :]
    total = tl.zeros((BN, BB), tl.float32)
    for first in range(0, O, BO):
        o = first + tl.arange(0, BO)[:, None].to(tl.int64)
        w = tl.load(weight_columns + o * I, mask=(o < O) & is_input, other=0.0)
        dz = tl.load(grad + (g * O + o) * B + b[None, :], mask=(o < O) & is_column, other=0.0)
        total = tl.dot(tl.trans(w), dz, total, input_precision=PRECISION)
    at = (g * num_inputs + n[:, None]) * B + b[None, :]
    mask = (n < num_inputs)[:, None] & is_column
    if THROUGH_ACTIVATION:
        total = tl.where(tl.load(activated + at, mask=mask, other=0.0) > 0, total, slope * total)
    tl.store(out + at, total, mask=mask)


def forward(x: LayerInput, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
    """act(b + W x) [G, O, B]; arguments as `kernels.linear.linear`."""
    (G, O, _), L, B = weight.shape, x.num_lanes, x.num_columns
    C = G // L
    weight, bias = _copies_together(weight, C), _copies_together(bias, C)
    out = torch.empty(G, O, B, device=weight.device)
    J, unit = C * O, _unit(B)
    tile = _product_tile(O, J, x.noise is not None)
    grid = (triton.cdiv(J, tile.rows), triton.cdiv(B, tile.columns), L)
    _forward[grid](
        *_input_arguments(x), weight, C * weight.stride(0), x.num_inputs, bias,
        C * bias.stride(0), slope, out, J, B // unit,
        NOISE=_noise_kind(x), HAS_EXTRA=x.extra is not None, ACTIVATES=slope != 1,
        PRECISION=_precision(O), BJ=tile.rows, BB=tile.columns, BK=tile.step,
        UNIT=unit, STORED_UNIT=_stored_unit(x), num_warps=tile.warps,
    )  # fmt: skip
    return out


def weight_grad(x: LayerInput, grad: Tensor) -> tuple[Tensor, Tensor]:
    """dW [G, O, I] and db [G, O]; arguments as `kernels.linear.linear_weight_grad`."""
    (G, O, B), L, I = grad.shape, x.num_lanes, x.num_inputs
    grad = grad.contiguous()
    J, unit = G // L * O, _unit(B)
    tile = _product_tile(O, J, x.noise is not None)
    of_weight = torch.empty(G, O, I, device=grad.device)
    of_bias = torch.empty(G, O, device=grad.device)
    num_noise = 0 if x.noise is None else x.noise.num
    num_tiles = triton.cdiv(I - num_noise, tile.columns) + triton.cdiv(num_noise, tile.columns)
    _weight_grad[(triton.cdiv(J, tile.rows), num_tiles, L)](
        *_input_arguments(x), grad, of_weight, of_bias, I, J, B // unit,
        NOISE=_noise_kind(x), HAS_EXTRA=x.extra is not None,
        PRECISION=_precision(O), BJ=tile.rows, BI=tile.columns, BB=tile.step,
        UNIT=unit, STORED_UNIT=_stored_unit(x), num_warps=tile.warps,
    )  # fmt: skip
    return of_weight, of_bias


def input_grad(
    weight: Tensor, grad: Tensor, first: int, num: int, activated: Tensor | None, slope: float
) -> Tensor:
    """[G, num, B] of the inputs from `first` on; see `kernels.linear.linear_input_grad`."""
    (G, O, B), I = grad.shape, weight.shape[2]
    weight, grad = _rows_dense(weight), grad.contiguous()
    out = torch.empty(G, num, B, device=grad.device)
    tile = _input_grad_tile(O, num)
    unit = _unit(B)
    if slope == 1:
        activated = None
    through = activated is not None
    _input_grad[(triton.cdiv(num, tile.rows), triton.cdiv(B, tile.columns), G)](
        weight, weight.stride(0), I, grad,
        grad if activated is None else activated.contiguous(), slope, out, O, B // unit,
        first, num, THROUGH_ACTIVATION=through, PRECISION=_precision(O),
        BN=tile.rows, BB=tile.columns, BO=tile.step, UNIT=unit, num_warps=tile.warps,
    )  # fmt: skip
    return out


def _unit(num_columns: int) -> int:
    """What the columns are counted in: of four, a compiler knows that rows begin at 16 bytes."""
    return 4 if num_columns % 4 == 0 else 1


def _stored_unit(x: LayerInput) -> int:
    """The same of the strides of the stored part."""
    lane, feature, _ = x.stored.stride()
    return 4 if lane % 4 == 0 and feature % 4 == 0 else 1


def _noise_kind(x: LayerInput) -> int:
    if x.noise is None:
        return _NO_NOISE.value
    return (_GAUSSIAN if x.noise.quantiles is None else _EMPIRICAL).value


def _input_arguments(x: LayerInput) -> tuple[Tensor | int, ...]:
    """The parts of an input as the kernels take them; what is missing is never read."""
    stored, noise = x.stored, x.noise
    extra = stored[:, :0] if x.extra is None else x.extra
    unit = _stored_unit(x)
    parts = (
        stored, stored.stride(0) // unit, stored.stride(1) // unit, stored.stride(2),
        stored.shape[1],
        extra, extra.stride(0), extra.stride(1), extra.stride(2), extra.shape[1],
    )  # fmt: skip
    if noise is None:
        return (*parts, stored, stored, 0, 0, 0, stored, stored, 1, 0)
    quantiles = noise.std if noise.quantiles is None else noise.quantiles
    return (
        *parts, noise.key, noise.row, noise.row.stride(0), noise.row.stride(1), noise.stream,
        noise.std, quantiles, quantiles.shape[0], noise.num,
    )  # fmt: skip


def _copies_together(tensor: Tensor, num_copies: int) -> Tensor:
    """A tensor [G, ...] whose C copies of a lane follow each other without gaps."""
    tensor = _rows_dense(tensor)
    if num_copies > 1 and tensor.stride(0) != tensor[0].numel():
        return tensor.contiguous()
    return tensor


def _rows_dense(tensor: Tensor) -> Tensor:
    return tensor if tensor[0].is_contiguous() else tensor.contiguous()
