"""The smallest keys of every row at once, and SET on masked layers by them, without the host.

How many leave and grow is read on the device, no shape depends on values, and temporary tensors
hold a chunk of rows: a change of connections costs no wait for the device. The rules, and the
random numbers that decide, are those of sparse/topology.py; kernels/csr_evolve.py is the same on
stored connections.

Axes: L lanes, M = L * C rows (one layer of one lane and copy), n connections.

Source: SET, Mocanu et al. 2018, arXiv 1707.04780; Grooten et al. 2023, arXiv 2302.06548, Alg. 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fastanf.kernels import is_triton
from fastanf.kernels.csr_evolve import EvolutionKeys
from fastanf.kernels.philox import random_bits_ref, uniform_of_bits

CHUNK_BYTES = 2**28
"""Temporary memory of a chunk of rows."""

# Candidates, sorted values and their places are eight bytes each, and the sort needs as much again.
_SELECT_BYTES = 64
# Philox holds its counters and two products as int64.
_EVOLVE_BYTES = 160
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def magnitude_bits(weight: Tensor) -> Tensor:
    """Integers that order as |weight| does, with NaN above infinity and -0 equal to 0.

    Args:
        weight: float16, bfloat16, float32 or float64 of any shape.

    Returns:
        Integers of the same size.
    """
    bits = _BITS[weight.element_size()]
    return weight.contiguous().view(bits) & torch.iinfo(bits).max


def select_smallest_rows(
    counts: Tensor, eligible: Tensor, *keys: Tensor, chunk_bytes: int = CHUNK_BYTES
) -> Tensor:
    """Mark the counts[m] eligible connections of smallest (keys[0], keys[1], ..., position).

    A row chooses what lies below its counts[m]-th smallest key; what equals it is left to the next
    keys and then to the position. That is what a stable lexicographic sort would choose.

    Args:
        counts: [M] int64, on the device; 0 takes none, more than are eligible takes all of those.
        eligible: [M, n] bool.
        keys: each [M, n], integer or float without NaN.
        chunk_bytes: temporary memory, but for one row at least; the result does not depend on it.

    Returns:
        [M, n] bool.

    Raises:
        ValueError: on shapes other than these.
    """
    M, n = _rows_of(eligible)
    for name, tensor, shape in [("counts", counts, [M]), *(("a key", k, [M, n]) for k in keys)]:
        if [*tensor.shape] != shape:
            raise ValueError(f"{name} has shape {[*tensor.shape]}: must be {shape}")
    chosen = torch.zeros_like(eligible)
    for rows in _chunks(M, n * _SELECT_BYTES, chunk_bytes):
        if n:
            chosen[rows] = _select(counts[rows], eligible[rows], [key[rows] for key in keys])
    return chosen


def _select(counts: Tensor, eligible: Tensor, keys: Sequence[Tensor]) -> Tensor:
    missing, tied = counts[:, None], eligible
    chosen = torch.zeros_like(eligible)
    for key in keys:
        # Keys as large as what fills the places of the others are told apart by `tied`.
        candidates = key.masked_fill(~tied, _largest(key.dtype))
        place = (missing - 1).clamp(0, key.shape[1] - 1)
        threshold = candidates.sort(dim=1).values.gather(1, place)
        below = tied & (key < threshold)
        chosen |= below
        tied = tied & (key == threshold)
        missing = missing - below.sum(1, keepdim=True)
    return chosen | (tied & (tied.cumsum(1) <= missing))


def _largest(dtype: torch.dtype) -> float | int:
    return float("inf") if dtype.is_floating_point else torch.iinfo(dtype).max


@torch.no_grad()
def masked_evolve_ref_(
    weight: Tensor,
    mask: Tensor,
    num_drop: Tensor,
    keys: EvolutionKeys,
    new_bound: Tensor,
    moments: Sequence[Tensor] = (),
    fresh_moments: Tensor | None = None,
    target: Tensor | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> None:
    """Plain-torch definition of `masked_evolve_`."""
    L, (M, n) = keys.key.shape[0], weight.shape
    C = M // L
    fresh = torch.ones_like(keys.key, dtype=torch.bool) if fresh_moments is None else fresh_moments
    fresh = fresh[:, None].expand(L, C).reshape(M)
    for lanes in _chunks(L, C * n * _EVOLVE_BYTES, chunk_bytes):
        rows = slice(C * lanes.start, C * lanes.stop)
        key = keys.key[lanes]
        step = torch.full_like(key, keys.step)[:, None]

        def words(stream: int, key: Tensor = key, step: Tensor = step) -> Tensor:
            return random_bits_ref(key, step, stream, C * n).reshape(-1, n)

        count, w, active = num_drop[rows], weight[rows], mask[rows]
        dropped = select_smallest_rows(
            count, active, magnitude_bits(w), words(keys.drop), chunk_bytes=chunk_bytes
        )
        kept = active & ~dropped
        grown = select_smallest_rows(count, ~kept, words(keys.grow), chunk_bytes=chunk_bytes)
        bound = new_bound[rows, None]
        value = (2 * uniform_of_bits(words(keys.value)) - 1) * bound
        value = torch.where(bound > 0, value, 0.0).to(w.dtype)
        active.copy_(kept | grown)
        changed = dropped | grown
        w.copy_(torch.where(grown, value, w.masked_fill(changed, 0)))
        for moment in moments:
            moment[rows].masked_fill_(changed & fresh[rows, None], 0)
        if target is not None:
            target[rows].masked_fill_(~active & (count > 0)[:, None], 0)


def masked_evolve_(
    weight: Tensor,
    mask: Tensor,
    num_drop: Tensor,
    keys: EvolutionKeys,
    new_bound: Tensor,
    moments: Sequence[Tensor] = (),
    fresh_moments: Tensor | None = None,
    target: Tensor | None = None,
) -> None:
    """Let num_drop[m] connections of each row leave and as many grow, in place.

    The active connections of smallest |weight| leave, then the inactive ones of smallest random
    word grow: equal ones go by a random word (of those that leave), then by position. A grown
    connection starts at zero, or uniformly within +-new_bound[m]. Rows with num_drop 0 keep every
    bit.

    Args:
        weight: [M, n] contiguous; 0 where inactive. Triton's kernels take float32.
        mask: [M, n] bool contiguous.
        num_drop: [M] int64 on the device, at most the active connections of the row (not checked:
            the host would have to wait).
        keys: random words.
        new_bound: [M] float32; 0 for rows whose connections start at zero.
        moments: none or two, [M, n]; 0 where a connection left or grew.
        fresh_moments: [L] bool, the lanes whose moments are zeroed there; None for all.
        target: [M, n], or None; keeps its values where the connection stays, or comes back at once,
            and is 0 elsewhere.

    Raises:
        ValueError: on shapes, types or layouts other than these.
    """
    M, n = _rows_of(weight)
    L = keys.key.shape[0]
    if L == 0 or M % L:
        raise ValueError(f"{M} rows for {L} lanes: must be as many for each lane")
    held = [weight, *moments, *([] if target is None else [target])]
    if mask.dtype != torch.bool or any(t.dtype != weight.dtype for t in held):
        raise ValueError(
            f"a mask of {mask.dtype}, or moments or a target unlike the weight's {weight.dtype}: "
            "must be torch.bool, and all alike"
        )
    if any(t.shape != weight.shape or not t.is_contiguous() for t in [*held, mask]):
        raise ValueError(f"a mask, moment or target: must be contiguous and {[M, n]}")
    if len(moments) not in (0, 2):
        raise ValueError(f"{len(moments)} moments are not allowed; allowed are none or two")
    lane = [] if fresh_moments is None else [("fresh_moments", fresh_moments, L, torch.bool)]
    for name, tensor, size, dtype in [
        ("num_drop", num_drop, M, torch.int64),
        ("new_bound", new_bound, M, torch.float32),
        *lane,
    ]:
        if [*tensor.shape] != [size] or tensor.dtype != dtype or not tensor.is_contiguous():
            raise ValueError(
                f"{name} is {[*tensor.shape]} {tensor.dtype}: must be contiguous [{size}] {dtype}"
            )
    if weight.dtype == torch.float32 and is_triton(*held, mask):
        from fastanf.kernels.gpu import select

        select.masked_evolve_(
            weight, mask, num_drop, keys, new_bound, moments, fresh_moments, target
        )
        return
    masked_evolve_ref_(weight, mask, num_drop, keys, new_bound, moments, fresh_moments, target)


def _rows_of(tensor: Tensor) -> tuple[int, int]:
    if tensor.ndim != 2:
        raise ValueError(f"a tensor of {[*tensor.shape]}: must be [M, n]")
    return tensor.shape[0], tensor.shape[1]


def _chunks(num: int, bytes_each: int, chunk_bytes: int) -> Iterator[slice]:
    step = max(1, chunk_bytes // max(1, bytes_each))
    for begin in range(0, num, step):
        yield slice(begin, min(begin + step, num))
