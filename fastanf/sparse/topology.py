"""How the connections of a layer change while it learns: when, how many, which leave, which grow.

                when and how many       which leave           which grow
    set         a share, each period    of smallest |weight|  uniformly among all inactive
    rigl        likewise                of smallest |weight|  inactive of largest |dense gradient|
    pruning     the cubic schedule      of smallest |weight|  none; the start is dense
    static      never

SET is Mocanu et al. 2018, arXiv 1707.04780, with the drop by magnitude of Grooten et al. 2023,
arXiv 2302.06548; RigL Evci et al. 2020, arXiv 1911.11134, Alg. 1; gradual magnitude pruning Zhu and
Gupta 2017, arXiv 1710.01878. sparse/schedule.py says when and how many. Connections that have just
left are among the inactive; one that leaves and grows again at once starts fresh. The number of
active connections of a row never changes, but by pruning.

Random numbers are arguments: the smallest keys win a draw, so that the caller decides the streams.
Counts that lie on a GPU are not checked: the host would have to wait for it.

Axes: M rows (one layer of one lane and critic), n = H*F connections.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from fastanf.kernels.select import magnitude_bits
from fastanf.sparse.masks import RowCounts, select_in_rows
from fastanf.sparse.schedule import (
    Clock,
    RowSize,
    Schedule,
    num_pruned,
    num_replaced,
    pruning_is_due,
    replacement_is_due,
)

NEW_WEIGHTS = ("zero", "unif", "xavier")
"""How a connection that grows starts, by the name the option takes."""

WhenRule = Callable[[Clock, int], bool]
"""(clock, update) -> whether connections change after this update."""
CountRule = Callable[[Schedule, RowSize, int], int]
"""(schedule, row, update) -> connections of a row that leave at an update that is due."""
LeaveRule = Callable[[Tensor, Tensor, RowCounts, Tensor], Tensor]
"""(weight, mask, num_drop, random_keys) -> [M, n] bool, active connections that leave."""
GrowRule = Callable[[Tensor, RowCounts, Tensor, Tensor | None], Tensor]
"""(mask_after_drop, num_grow, random_keys, gradient) -> [M, n] bool, inactive connections that
grow."""


@dataclass(frozen=True)
class Evolution:
    """What one evolution changed, [M, n] bool; they overlap where one came back at once."""

    dropped: Tensor
    grown: Tensor


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


def grow_random(
    mask_after_drop: Tensor,
    num_grow: RowCounts,
    random_keys: Tensor,
    gradient: Tensor | None = None,
) -> Tensor:
    """The inactive connections of smallest key in each row: with independent keys, a uniform draw.

    A connection that has just left may come back.

    Args:
        mask_after_drop: [M, n] bool.
        num_grow: [M] in 0..inactive.
        random_keys: [M, n] independent draws, integer or float without NaN.
        gradient: not looked at.

    Returns:
        [M, n] bool.

    Raises:
        ValueError: a count outside 0..inactive.
    """
    return select_in_rows("num_grow", num_grow, ~mask_after_drop, random_keys)


def grow_by_gradient(
    mask_after_drop: Tensor, num_grow: RowCounts, random_keys: Tensor, gradient: Tensor | None
) -> Tensor:
    """The inactive connections of largest |gradient| in each row; equal ones grow at random, such
    as those of units that are off for the whole minibatch.

    A connection that has just left may come back. A NaN counts as larger than infinity.

    Args:
        mask_after_drop: [M, n] bool.
        num_grow: [M] in 0..inactive.
        random_keys: [M, n] independent draws, integer or float without NaN.
        gradient: [M, n] of the loss, inactive connections included.

    Returns:
        [M, n] bool.

    Raises:
        ValueError: a count outside 0..inactive, or no gradient.
    """
    if gradient is None:
        raise ValueError("gradient must be [M, n] where connections grow by it, got none")
    largest_first = -magnitude_bits(gradient)
    return select_in_rows("num_grow", num_grow, ~mask_after_drop, largest_first, random_keys)


@dataclass(frozen=True)
class Topology:
    """One way of changing connections, by its answers to the four questions."""

    name: str
    leave: LeaveRule | None
    """None: no connection ever leaves."""
    grow: GrowRule | None
    """None: no connection ever grows."""
    when: WhenRule = replacement_is_due
    how_many: CountRule = num_replaced
    """As many grow, if any."""
    needs_gradient: bool = False
    """Whether the dense gradient says which grow."""
    starts_dense: bool = False
    """Whether all connections are there at first."""

    @property
    def evolves(self) -> bool:
        """Whether connections ever change."""
        return self.leave is not None


SET = Topology("set", drop_smallest, grow_random)
STATIC = Topology("static", None, None)
RIGL = Topology("rigl", drop_smallest, grow_by_gradient, needs_gradient=True)
PRUNING = Topology("pruning", drop_smallest, None, pruning_is_due, num_pruned, starts_dense=True)
TOPOLOGIES = MappingProxyType(
    {topology.name: topology for topology in (SET, STATIC, RIGL, PRUNING)}
)


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
    gradient: Tensor | None = None,
) -> Evolution:
    """Let num_drop[m] connections of each row leave and as many grow (none by pruning), in place.

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
        gradient: [M, n] where the topology needs it.

    Returns:
        The connections that left and those that grew.

    Raises:
        ValueError: a count outside 0..active, or no gradient where one is needed.
    """
    nothing = torch.zeros_like(mask)
    if topology.leave is None:
        return Evolution(nothing, nothing)
    dropped = topology.leave(weight, mask, num_drop, drop_keys)
    kept = mask & ~dropped
    grown = topology.grow(kept, num_drop, grow_keys, gradient) if topology.grow else nothing
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
