"""Connections that change where they are stored: SET on csr layers, in place.

Axes: L lanes, G = L * C matrices, O outputs, I inputs, K stored values. The number of connections
of a matrix never changes, so values, moments and targets stay where they are in memory and follow
their connection to its new place in the order.

The rules, and the random numbers that decide, are those of sparse/topology.py on masks; the
compiled form draws only the words that it needs. It gives the same connections as the masks do.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastanf.kernels.csr import Connections
from fastanf.kernels.linear import is_native
from fastanf.kernels.native import EvolveArgs
from fastanf.kernels.stack import native


@dataclass(frozen=True)
class EvolutionKeys:
    """Random words of one change: word c * O * I + o * I + i of the row `step` belongs to the place
    (o, i) of copy c.
    """

    key: Tensor
    """[L] int64 lane keys."""
    step: int
    drop: int
    """Stream that decides between equal magnitudes."""
    grow: int
    """Stream that decides which grow."""
    value: int
    """Stream of grown values."""


def can_evolve_in_place(value: Tensor) -> bool:
    """Whether `csr_evolve_` takes these values."""
    return is_native(value)


def csr_evolve_(
    value: Tensor,
    at: Connections,
    num_drop: Sequence[int],
    keys: EvolutionKeys,
    new_bound: Sequence[float],
    moments: Sequence[Tensor] = (),
    target: Tensor | None = None,
) -> None:
    """Let num_drop[g] connections of each matrix leave and as many grow, in place.

    Grown connections start at zero, or uniformly within +-new_bound[g]; their moments are zero. A
    target keeps its values where the connection stays, or comes back at once, and is zero where it
    is new.

    Args:
        value: [G, K] contiguous.
        at: where they are; changed.
        num_drop: [G] in 0..count.
        keys: random words.
        new_bound: [G].
        moments: none or two, [G, K].
        target: [G, K], or None.

    Raises:
        ValueError: a number outside 0..count, or more than two moments.
    """
    counts = at.counts.tolist()
    for count, num in zip(counts, num_drop, strict=True):
        if not 0 <= num <= count:
            raise ValueError(f"num_drop={num} is not allowed; {count} connections allow 0..{count}")
    if len(moments) not in (0, 2):
        raise ValueError(f"{len(moments)} moments are not allowed; allowed are none or two")
    drops = torch.tensor(list(num_drop), dtype=torch.int64)
    bounds = torch.tensor(list(new_bound), dtype=torch.float32)
    pointers = [moment.data_ptr() for moment in moments] or [None, None]
    with torch.no_grad():
        native().fastanf_evolve(
            ctypes.byref(
                EvolveArgs(
                    at.start.data_ptr(), at.column.data_ptr(), value.data_ptr(), *pointers,
                    None if target is None else target.data_ptr(), drops.data_ptr(),
                    bounds.data_ptr(), keys.key.data_ptr(), at.num_matrices,
                    at.num_matrices // keys.key.shape[0], at.num_outputs, at.num_inputs,
                    at.num_stored, at.num_blocks, at.block_size, keys.step, keys.drop, keys.grow,
                    keys.value, torch.get_num_threads(),
                )
            )
        )  # fmt: skip
    at.changed()
    for tensor in (value, *moments, *([] if target is None else [target])):
        torch.autograd.graph.increment_version(tensor)
