"""How the connections of a layer change while it learns: which leave, which grow, and when.

A topology answers three questions:

    when            every `topology_period` updates, at updates 2, 2 + period, 2 + 2*period, ...
    which leave     SET: the floor(drop_fraction * active) connections of smallest |weight|
    which grow      SET: as many, uniformly among all that are inactive after the drop

SET is Mocanu et al. 2018, arXiv 1707.04780, with the drop by magnitude of Grooten et al. 2023,
arXiv 2302.06548. A static topology answers "none". The number of active connections of a row never
changes. A connection that leaves and grows again at once starts fresh.

Random numbers are arguments: the smallest keys win a draw, so that the caller decides the streams.
Counts that lie on a GPU are not checked: the host would have to wait for it.

Axes: M rows (one layer of one lane and critic), n = H*F connections, L lanes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType

import torch
from torch import Tensor

from fastanf.kernels.select import magnitude_bits
from fastanf.sparse.masks import RowCounts, select_in_rows

FIRST_UPDATE = 2
"""Number of the first update after which the published agents evolve (ANF, code)."""

NEW_WEIGHTS = ("zero", "unif", "xavier")
"""How a connection that grows starts, by the name the option takes."""

LeaveRule = Callable[[Tensor, Tensor, RowCounts, Tensor], Tensor]
"""(weight, mask, num_drop, random_keys) -> [M, n] bool, active connections that leave."""
GrowRule = Callable[[Tensor, RowCounts, Tensor], Tensor]
"""(mask_after_drop, num_grow, keys) -> [M, n] bool, inactive connections that grow."""


@dataclass(frozen=True)
class Evolution:
    """What one evolution changed, [M, n] bool; they overlap where one came back at once."""

    dropped: Tensor
    grown: Tensor


def is_due(update: int, period: int) -> bool:
    """Whether the topology evolves after this update: 2, 2 + period, 2 + 2*period, ...

    Args:
        update: number of the update, the first is 1.
        period: updates from one evolution to the next, >= 1.

    Raises:
        ValueError: period < 1.
    """
    if period < 1:
        raise ValueError(f"topology_period={period} is not allowed; it must be 1 or more updates")
    return update >= FIRST_UPDATE and (update - FIRST_UPDATE) % period == 0


def due_lanes(update: int, periods: RowCounts) -> list[bool]:
    """`is_due` for each lane, whose periods may differ: [L] periods -> [L] bool."""
    return [is_due(update, int(period)) for period in periods]


def num_to_drop(active_count: int, drop_fraction: float) -> int:
    """floor(drop_fraction * active_count), as if the fraction were the decimal that was typed.

    Args:
        active_count: active connections of the row, >= 0.
        drop_fraction: in [0, 1], the zeta of SET.

    Raises:
        ValueError: drop_fraction outside [0, 1].
    """
    if not 0 <= drop_fraction <= 1:
        raise ValueError(f"drop_fraction={drop_fraction} is not allowed; it must lie in 0..1")
    return math.floor(Fraction(repr(float(drop_fraction))) * active_count)


def drop_smallest(weight: Tensor, mask: Tensor, num_drop: RowCounts, random_keys: Tensor) -> Tensor:
    """The active connections of smallest |weight| in each row; equal magnitudes leave at random.

    A NaN counts as larger than infinity, so that a broken row keeps its number of connections.

    Args:
        weight: [M, n] float.
        mask: [M, n] bool, active connections.
        num_drop: [M] in 0..active.
        random_keys: [M, n] independent draws, integer or float without NaN.

    Returns:
        [M, n] bool.

    Raises:
        ValueError: a count outside 0..active.
    """
    return select_in_rows("num_drop", num_drop, mask, magnitude_bits(weight), random_keys)


def grow_random(mask_after_drop: Tensor, num_grow: RowCounts, random_keys: Tensor) -> Tensor:
    """The inactive connections of smallest key in each row: with independent keys, a uniform draw.

    A connection that has just left may come back.

    Args:
        mask_after_drop: [M, n] bool.
        num_grow: [M] in 0..inactive.
        random_keys: [M, n] independent draws, integer or float without NaN.

    Returns:
        [M, n] bool.

    Raises:
        ValueError: a count outside 0..inactive.
    """
    return select_in_rows("num_grow", num_grow, ~mask_after_drop, random_keys)


@dataclass(frozen=True)
class Topology:
    """One way of changing connections, by its answers to which leave and which grow."""

    name: str
    leave: LeaveRule | None
    """None: no connection ever leaves."""
    grow: GrowRule | None

    @property
    def evolves(self) -> bool:
        """Whether connections ever change."""
        return self.leave is not None

    def num_to_drop(self, active_count: int, drop_fraction: float) -> int:
        """Connections that leave one row at an evolution; 0 for a topology that never evolves."""
        return num_to_drop(active_count, drop_fraction) if self.evolves else 0


SET = Topology("set", drop_smallest, grow_random)
STATIC = Topology("static", None, None)
TOPOLOGIES = MappingProxyType({topology.name: topology for topology in (SET, STATIC)})


@torch.no_grad()
def evolve_(
    weight: Tensor,
    mask: Tensor,
    num_drop: RowCounts,
    drop_keys: Tensor,
    grow_keys: Tensor,
    new_values: Tensor | None = None,
    moments: Sequence[Tensor] = (),
    fresh_moments: Tensor | None = None,
    topology: Topology = SET,
) -> Evolution:
    """Let num_drop[m] connections of each row leave and as many grow, in place.

    Where a connection left or grew the weight becomes 0, or its new value if it grew. Nothing else
    changes: a row with num_drop 0 keeps every bit.

    Args:
        weight: [M, n] float, 0 where inactive.
        mask: [M, n] bool.
        num_drop: [M] in 0..active; 0 for rows that are not due.
        drop_keys: [M, n], draws that break ties among those that leave.
        grow_keys: [M, n], draws that decide which grow.
        new_values: [M, n] weights for connections that grow; None for 0.
        moments: optimizer moments, each [M, n]; 0 where a connection left or grew.
        fresh_moments: [M] bool, the rows whose moments are zeroed there; None for all.
        topology: the rules; a static one changes nothing, whatever num_drop.

    Returns:
        The connections that left and those that grew.

    Raises:
        ValueError: a count outside 0..active.
    """
    if topology.leave is None or topology.grow is None:
        return Evolution(torch.zeros_like(mask), torch.zeros_like(mask))
    dropped = topology.leave(weight, mask, num_drop, drop_keys)
    kept = mask & ~dropped
    grown = topology.grow(kept, num_drop, grow_keys)
    mask.copy_(kept | grown)
    changed = dropped | grown
    weight.masked_fill_(changed, 0)
    if new_values is not None:
        weight.copy_(torch.where(grown, new_values, weight))
    if fresh_moments is not None:
        changed = changed & fresh_moments[:, None]
    for moment in moments:
        moment.masked_fill_(changed, 0)
    return Evolution(dropped, grown)


def new_weight_bound(method: str, fan_in: int, fan_out: int) -> float:
    """Weights of connections that grow are uniform within plus and minus this.

    `xavier` is sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010, eq. 16), `unif` is
    1 / sqrt(fan_in), the start of torch.nn.Linear, `zero` is 0. Fans are those of the dense layer.

    Args:
        method: one of NEW_WEIGHTS.
        fan_in: inputs of the layer.
        fan_out: outputs of the layer.

    Raises:
        ValueError: another method.
    """
    if method not in NEW_WEIGHTS:
        raise ValueError(
            f"init_new_weights_method={method!r} is not one of {', '.join(NEW_WEIGHTS)}"
        )
    if method == "zero":
        return 0.0
    return math.sqrt(6 / (fan_in + fan_out)) if method == "xavier" else 1 / math.sqrt(fan_in)


def new_weight_values(method: str, uniforms: Tensor, fan_in: int, fan_out: int) -> Tensor | None:
    """Candidate weights for connections that grow, one draw each; see `new_weight_bound`.

    Args:
        method, fan_in, fan_out: as `new_weight_bound`.
        uniforms: [M, n] in (0, 1).

    Returns:
        [M, n], or None for `zero`.

    Raises:
        ValueError: another method.
    """
    bound = new_weight_bound(method, fan_in, fan_out)
    return None if bound == 0 else (2 * uniforms - 1) * bound
