"""Noise features drawn where they are used: out[l, i, r] = std[l] * x(lane key, row, stream, i).

Axes: [L, n, R], feature-major, so that a layer can multiply from the left and rows are neighbours
in memory. Nothing is stored: the same (key, row, stream) gives the same noise again.

Source: Grooten et al. 2023, arXiv 2302.06548, section 4 (extremely noisy environments).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastanf.kernels.philox import (
    EMPIRICAL,
    NORMAL,
    draw_,
    is_drawn_fast,
    random_bits_ref,
    random_normal_ref,
)

NUM_BINS = 256


def noise_ref(
    key: Tensor, row: Tensor, stream: int, n: int, std: Tensor, quantiles: Tensor | None = None
) -> Tensor:
    """The noise that `noise_` writes, [L, n, R] float32, in plain torch."""
    if quantiles is None:
        return random_normal_ref(key, row, stream, n) * std[:, None, None]
    bits = random_bits_ref(key, row, stream, n)
    bin, fraction = bits >> 24, (bits & 0xFFFFFF).to(torch.float32) * 2.0**-24
    table = torch.arange(n, device=key.device)[None, :, None] % quantiles.shape[0]
    low, high = quantiles[table, bin], quantiles[table, bin + 1]
    return (low + fraction * (high - low)) * std[:, None, None]


def noise_(
    out: Tensor,
    key: Tensor,
    row: Tensor,
    stream: int,
    std: Tensor,
    quantiles: Tensor | None = None,
) -> Tensor:
    """Fills `out` with noise features, Gaussian or of given distributions.

    Gaussian: std[l] times normal i of the row (Box and Muller on words 2 k, 2 k + 1). With
    `quantiles`, feature i follows row i mod D of it: the top 8 bits of word i choose one of 256
    equally likely bins, the others a place in it, and std scales the value.

    Args:
        out: [L, n, R] float32, possibly a slice x[:, D:F, :]; its last axis must be contiguous.
        key: [L] int64 lane keys.
        row: [L, R] int64, distinct for rows that are to see independent noise.
        stream: in [0, 2^32).
        std: [L] float32, the Gaussian's standard deviation or the factor on the quantiles.
        quantiles: [D, 257] float32, non-decreasing along the last axis, or None for Gaussian.

    Returns:
        out.

    Raises:
        ValueError: on shapes or types other than these.
    """
    if out.ndim != 3 or row.shape != (out.shape[0], out.shape[2]):
        raise ValueError(
            f"out, row have shapes {[*out.shape]}, {[*row.shape]}: need [L, n, R], [L, R]"
        )
    if key.shape != row.shape[:1] or std.shape != row.shape[:1]:
        raise ValueError(f"key, std have shapes {[*key.shape]}, {[*std.shape]}: must be [L] each")
    if key.dtype != torch.int64 or row.dtype != torch.int64:
        raise ValueError(f"key, row are {key.dtype}, {row.dtype}: must be torch.int64")
    if quantiles is not None and (quantiles.ndim != 2 or quantiles.shape[1] != NUM_BINS + 1):
        raise ValueError(f"quantiles has shape {[*quantiles.shape]}: must be [D, {NUM_BINS + 1}]")
    if not 0 <= stream < 2**32:
        raise ValueError(f"stream={stream}: must be in [0, 2^32)")
    is_float32 = out.dtype == torch.float32 and std.dtype == torch.float32
    if quantiles is not None:
        is_float32 = is_float32 and quantiles.dtype == torch.float32
    if not (is_drawn_fast(out) and is_float32 and (out.stride(2) == 1 or out.shape[2] == 1)):
        return out.copy_(noise_ref(key, row, stream, out.shape[1], std, quantiles))
    draw = NORMAL if quantiles is None else EMPIRICAL
    return draw_(out, key, row, stream, draw, std=std, quantiles=quantiles)
