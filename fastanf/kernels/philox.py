"""Counter-based random numbers: a pure function of (lane key, row, stream, word).

Philox4x32 with 7 rounds, the smallest count for which the generator passes BigCrush. The key is
the 64-bit lane seed (low word, high word), the counter is (block, row low, row high, stream), and
block b gives words 4 b to 4 b + 3. Nothing is stored and no order of calls matters, so a number can
be drawn again wherever it is needed, on any device.

Axes: [L, n, R] with word (or feature) i of row r of lane l.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, table 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastanf import kernels

ROUNDS = 7
_LOW = 0xFFFFFFFF
_MUL = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)

# The values of `enum class Draw` in native/kernels.h.
BITS, UNIFORM, NORMAL, EMPIRICAL = 0, 1, 2, 3


def philox_ref(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor], rounds: int = ROUNDS
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The Philox4x32 bijection of a counter under a key.

    Args:
        counter: four int64 tensors of one broadcast shape, each in [0, 2^32).
        key: two int64 tensors in [0, 2^32).
        rounds: how often the counter is mixed.

    Returns:
        Four int64 tensors in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        # int64 products wrap; their bit pattern is that of the unsigned product.
        p0, p1 = c0 * _MUL[0], c2 * _MUL[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _LOW) ^ c1 ^ k0,
            p1 & _LOW,
            ((p0 >> 32) & _LOW) ^ c3 ^ k1,
            p0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def random_bits_ref(
    key: Tensor, row: Tensor, stream: int, num_words: int, first_word: int = 0
) -> Tensor:
    """Words first_word to first_word + num_words - 1 of each row; see `random_bits`."""
    L, R = row.shape
    begin, end = first_word // 4, -(-(first_word + num_words) // 4)
    block = torch.arange(begin, end, device=row.device)[None, :, None]
    id = row[:, None, :]
    words = philox_ref(
        (block, id & _LOW, (id >> 32) & _LOW, torch.full_like(block, stream)),
        (key[:, None, None] & _LOW, (key[:, None, None] >> 32) & _LOW),
    )
    shape = (L, end - begin, R)
    flat = torch.stack([word.expand(shape) for word in words], dim=2).reshape(
        L, 4 * (end - begin), R
    )
    return flat[:, first_word - 4 * begin :][:, :num_words]


def uniform_of_bits(bits: Tensor) -> Tensor:
    """u = (2 floor(w / 2^9) + 1) 2^-24: exact in float32, in (0, 1), symmetric about 1/2."""
    return ((bits >> 8) | 1).to(torch.float32) * 2.0**-24


def normal_of_bits(bits: Tensor) -> Tensor:
    """Standard normals by Box and Muller from [L, 4 m, R] words, in float64 rounded to float32.

    Words 2 k and 2 k + 1 give n_2k = sqrt(-2 ln u_2k) cos(2 pi u_2k+1) and the same with sin.
    """
    u = uniform_of_bits(bits).double()
    radius, angle = (-2.0 * u[:, 0::2].log()).sqrt(), 2.0 * math.pi * u[:, 1::2]
    pair = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=2)
    return pair.reshape(bits.shape).float()


def random_uniform_ref(key: Tensor, row: Tensor, stream: int, n: int) -> Tensor:
    """[L, n, R] uniforms in (0, 1); see `random_uniform`."""
    return uniform_of_bits(random_bits_ref(key, row, stream, n))


def random_normal_ref(key: Tensor, row: Tensor, stream: int, n: int) -> Tensor:
    """[L, n, R] standard normals; see `random_normal`."""
    return normal_of_bits(random_bits_ref(key, row, stream, -(-n // 4) * 4))[:, :n]


def random_bits(
    key: Tensor, row: Tensor, stream: int, num_words: int, first_word: int = 0
) -> Tensor:
    """Words first_word to first_word + num_words - 1 of each row.

    Args:
        key: [L] int64 lane keys.
        row: [L, R] int64 row identifiers.
        stream: in [0, 2^32); streams are independent of each other.
        num_words: how many words of each row.
        first_word: the first of them, in [0, 2^34).

    Returns:
        [L, num_words, R] int64 in [0, 2^32).

    Raises:
        ValueError: on shapes or a stream outside these bounds.
    """
    L, R = _check(key, row, stream, num_words)
    if not 0 <= first_word <= 2**34 - num_words:
        raise ValueError(f"first_word={first_word}: must be in [0, 2^34 - num_words]")
    if not is_drawn_fast(key):
        return random_bits_ref(key, row, stream, num_words, first_word)
    out = torch.empty(L, num_words, R, dtype=torch.int64, device=key.device)
    return draw_(out, key, row, stream, BITS, first_word=first_word)


def random_uniform(key: Tensor, row: Tensor, stream: int, n: int) -> Tensor:
    """Uniforms in (0, 1) from words 0 to n - 1, the same bits from every implementation.

    Args, raises: as `random_bits`. Returns: [L, n, R] float32, multiples of 2^-24.
    """
    L, R = _check(key, row, stream, n)
    if not is_drawn_fast(key):
        return random_uniform_ref(key, row, stream, n)
    out = torch.empty(L, n, R, dtype=torch.float32, device=key.device)
    return draw_(out, key, row, stream, UNIFORM)


def random_normal(key: Tensor, row: Tensor, stream: int, n: int) -> Tensor:
    """Standard normals from words 0 to n - 1, equal among implementations within 6 ulp.

    Args, raises: as `random_bits`. Returns: [L, n, R] float32, at most 5.77 in magnitude.
    """
    L, R = _check(key, row, stream, n)
    if not is_drawn_fast(key):
        return random_normal_ref(key, row, stream, n)
    out = torch.empty(L, n, R, dtype=torch.float32, device=key.device)
    return draw_(out, key, row, stream, NORMAL)


def is_native(tensor: Tensor) -> bool:
    """Whether the compiled kernels compute on this tensor's device."""
    return kernels.NATIVE is not None and tensor.device.type == "cpu"


def is_drawn_fast(tensor: Tensor) -> bool:
    """Whether `draw_` computes on this tensor's device."""
    return is_native(tensor) or kernels.is_triton(tensor)


def draw_(
    out: Tensor,
    key: Tensor,
    row: Tensor,
    stream: int,
    draw: int,
    first_word: int = 0,
    std: Tensor | None = None,
    quantiles: Tensor | None = None,
) -> Tensor:
    """Fills out [L, n, R], dense in its last axis, with what `draw` makes of the words."""
    L, n, R = out.shape
    key = key.contiguous()
    std = None if std is None else std.contiguous()
    quantiles = None if quantiles is None else quantiles.contiguous()
    if kernels.is_triton(out):
        from fastanf.kernels.gpu import random

        return random.fill_(out, key, row, stream, draw, first_word, std, quantiles)
    assert kernels.NATIVE is not None
    row = row.contiguous()
    kernels.NATIVE.fastanf_random(
        out.data_ptr(),
        out.stride(0),
        out.stride(1),
        L,
        n,
        R,
        key.data_ptr(),
        row.data_ptr(),
        stream,
        first_word,
        None if std is None else std.data_ptr(),
        None if quantiles is None else quantiles.data_ptr(),
        0 if quantiles is None else quantiles.shape[0],
        draw,
        torch.get_num_threads(),
    )
    torch.autograd.graph.increment_version(out)
    return out


def _check(key: Tensor, row: Tensor, stream: int, n: int) -> tuple[int, int]:
    if key.dtype != torch.int64 or row.dtype != torch.int64:
        raise ValueError(f"key, row are {key.dtype}, {row.dtype}: must be torch.int64")
    if row.ndim != 2 or key.shape != row.shape[:1]:
        raise ValueError(
            f"key, row have shapes {[*key.shape]}, {[*row.shape]}: must be [L], [L, R]"
        )
    if not 0 <= stream < 2**32:
        raise ValueError(f"stream={stream}: must be in [0, 2^32)")
    if n < 0:
        raise ValueError(f"{n} words: must be at least 0")
    return row.shape[0], row.shape[1]
