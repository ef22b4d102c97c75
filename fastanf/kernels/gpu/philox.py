"""Counter-based random numbers as device functions: the words, uniforms and normals of
kernels/philox.py and the noise of kernels/noise.py, in registers.

Words and uniforms are those of the definition to the bit. Normals follow the polynomials of the
compiled CPU kernels, with the same fused steps; the hardware's square root makes them differ by a
few units in the last place.

Tiles are [n, R]: word (or feature) 4 block + i of rows.
"""

# pyright: reportArgumentType=false
# Python numbers are passed for constexpr parameters.
from __future__ import annotations

import triton
import triton.language as tl

from fastanf.kernels.gpu.logarithm import split_log

ROUNDS = tl.constexpr(7)


@triton.jit
def key_halves(key):
    """Low and high word of int64 keys, row ids or the like, as uint32."""
    return (key & 0xFFFFFFFF).to(tl.uint32), ((key >> 32) & 0xFFFFFFFF).to(tl.uint32)


@triton.jit
def philox4(block, row_low, row_high, stream, key_low, key_high):
    """The four words of counters (block, row, stream), uint32; shapes broadcast late, so that what
    rounds 1 and 2 owe to the block or to the row alone is computed once.
    """
    # A stream of 1 arrives as a constant, others as values.
    stream = tl.full((), stream, tl.uint32)
    return tl.philox_impl(block.to(tl.uint32), row_low, row_high, stream, key_low, key_high, ROUNDS)


@triton.jit
def uniform_of_bits(word):
    """u = (2 floor(w / 2^9) + 1) 2^-24, exact, in (0, 1)."""
    return ((word >> 8) | 1).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08


@triton.jit
def box_muller(word1, word2, scale):
    """scale * sqrt(-2 ln u1) * (cos, sin)(2 pi u2) of two words."""
    # u1 = t 2^-24 with an odd integer t.
    t = ((word1 >> 8) | 1).to(tl.int32).to(tl.float32)
    exponent, minus_2_log_mantissa = split_log(t, 24)
    minus_2_log = tl.fma(exponent, -1.38629436, minus_2_log_mantissa)
    radius = scale * tl.sqrt(minus_2_log)
    # 2 pi u2 = quadrant pi / 2 + angle, angle in [-pi / 4, pi / 4], exact in integers.
    turn = (word2 & 0xFFFFFF00) | 0x100
    angle = (turn << 2).to(tl.int32, bitcast=True).to(tl.float32) * 3.65729520e-10
    quadrant = turn + 0x20000000
    z = angle * angle
    s = tl.fma(z, -1.95152831e-4, 8.33216076e-3)
    s = tl.fma(s, z, -0.166666546)
    s = tl.fma(s * z, angle, angle)
    c = tl.fma(z, 2.44384513e-5, -1.38873675e-3)
    c = tl.fma(c, z, 4.16666469e-2)
    c = tl.fma(c, z, -0.5)
    c = tl.fma(c, z, 1.0)
    is_odd = (quadrant & 0x40000000) != 0
    cosine, sine = tl.where(is_odd, s, c), tl.where(is_odd, c, s)
    cosine = tl.where(((quadrant + 0x40000000) & 0x80000000) != 0, -cosine, cosine)
    sine = tl.where((quadrant & 0x80000000) != 0, -sine, sine)
    return radius * cosine, radius * sine


@triton.jit
def four_rows(a, b, c, d):
    """Four tiles [n, R] as one [4 n, R], a's row before b's, c's and d's."""
    n: tl.constexpr = a.shape[0]
    R: tl.constexpr = a.shape[1]
    quads = tl.join(tl.join(a, b), tl.join(c, d))  # [n, R, 2 (a | b), 2 (ab | cd)]
    return tl.reshape(tl.permute(quads, (0, 3, 2, 1)), (4 * n, R))


@triton.jit
def noise_tile(
    first_block, row_low, row_high, stream, key_low, key_high, scale, quantiles, num_tables,
    IS_EMPIRICAL: tl.constexpr, NUM_FEATURES: tl.constexpr,
):  # fmt: skip
    """[NUM_FEATURES, R] noise features 4 first_block, ... of rows [R].

    Gaussian: scale times the row's normals. Empirical: feature i by table i mod num_tables of
    [num_tables, 257] quantiles, times scale.
    """
    block = first_block + tl.arange(0, NUM_FEATURES // 4)
    w0, w1, w2, w3 = philox4(
        block[:, None], row_low[None, :], row_high[None, :], stream, key_low, key_high
    )
    if IS_EMPIRICAL:
        feature = 4 * block[:, None]
        a = _quantile(w0, quantiles, feature, num_tables, scale)
        b = _quantile(w1, quantiles, feature + 1, num_tables, scale)
        c = _quantile(w2, quantiles, feature + 2, num_tables, scale)
        d = _quantile(w3, quantiles, feature + 3, num_tables, scale)
    else:
        a, b = box_muller(w0, w1, scale)
        c, d = box_muller(w2, w3, scale)
    return four_rows(a, b, c, d)


@triton.jit
def _quantile(word, quantiles, feature, num_tables, scale):
    bin = (word >> 24).to(tl.int32)
    fraction = (word & 0xFFFFFF).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08
    table = quantiles + (feature % num_tables) * 257 + bin
    low, high = tl.load(table), tl.load(table + 1)
    return (low + fraction * (high - low)) * scale
