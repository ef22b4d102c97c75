"""Random numbers and noise written to memory: out [L, n, R] of words, uniforms, normals or noise.

One program writes a tile of one lane: 32 words by up to 64 rows. Few words are drawn this way
(actions, picks); a layer's noise is drawn inside its product (linear.py).
"""

# pyright: reportArgumentType=false
# Python numbers are passed for constexpr parameters.
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from fastanf.kernels.gpu.philox import (
    four_rows,
    key_halves,
    noise_tile,
    philox4,
    uniform_of_bits,
)

_WORDS = 32
_MAX_ROWS = 64

# The values of BITS, UNIFORM, NORMAL and EMPIRICAL in kernels/philox.py.
_BITS, _UNIFORM, _NORMAL, _EMPIRICAL = (tl.constexpr(draw) for draw in range(4))


@triton.jit
def _fill(
    out, out_lane, out_word, out_row, key, row, row_lane, row_row, std, quantiles, num_tables,
    stream, first_word, n, R,
    DRAW: tl.constexpr, HAS_STD: tl.constexpr, WORDS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(2).to(tl.int64)
    r = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    row_id = tl.load(row + lane * row_lane + r.to(tl.int64) * row_row, mask=r < R, other=0)
    row_low, row_high = key_halves(row_id)
    key_low, key_high = key_halves(tl.load(key + lane))
    # Words are counted from the block that holds the first one.
    first_block = first_word // 4 + tl.program_id(0) * (WORDS // 4)
    if DRAW == _NORMAL or DRAW == _EMPIRICAL:  # noqa: SIM109  Triton has no `in`
        scale = tl.load(std + lane) if HAS_STD else 1.0
        tile = noise_tile(
            first_block, row_low, row_high, stream, key_low, key_high, scale, quantiles,
            num_tables, DRAW == _EMPIRICAL, WORDS,
        )  # fmt: skip
    else:
        block = first_block + tl.arange(0, WORDS // 4)
        w0, w1, w2, w3 = philox4(
            block[:, None], row_low[None, :], row_high[None, :], stream, key_low, key_high
        )
        tile = four_rows(w0, w1, w2, w3)
        tile = tile.to(tl.int64) if DRAW == _BITS else uniform_of_bits(tile)
    word = tl.program_id(0) * WORDS + tl.arange(0, WORDS) - first_word % 4
    at = out + lane * out_lane + word[:, None].to(tl.int64) * out_word
    tl.store(
        at + r[None, :].to(tl.int64) * out_row,
        tile,
        mask=((word >= 0) & (word < n))[:, None] & (r < R)[None, :],
    )


def fill_(
    out: Tensor,
    key: Tensor,
    row: Tensor,
    stream: int,
    draw: int,
    first_word: int = 0,
    std: Tensor | None = None,
    quantiles: Tensor | None = None,
) -> Tensor:
    """Fills out [L, n, R], of any strides, with what `draw` makes of the words.

    Args:
        out: int64 for words, float32 else.
        key: [L] int64, contiguous.
        row: [L, R] int64, any strides.
        stream: in [0, 2^32).
        draw: BITS, UNIFORM, NORMAL or EMPIRICAL of kernels/philox.py.
        first_word: of each row; 0 for normals and noise.
        std: [L] float32, or None for 1.
        quantiles: [D, 257] float32 contiguous, for EMPIRICAL.

    Returns:
        out.
    """
    L, n, R = out.shape
    if out.numel() == 0:
        return out
    rows = min(_MAX_ROWS, max(8, triton.next_power_of_2(R)))
    grid = (triton.cdiv(n + first_word % 4, _WORDS), triton.cdiv(R, rows), L)
    _fill[grid](
        out, out.stride(0), out.stride(1), out.stride(2), key, row, row.stride(0), row.stride(1),
        key if std is None else std, key if quantiles is None else quantiles,
        1 if quantiles is None else quantiles.shape[0], stream, first_word, n, R,
        DRAW=draw, HAS_STD=std is not None, WORDS=_WORDS, ROWS=rows,
    )  # fmt: skip
    return out
