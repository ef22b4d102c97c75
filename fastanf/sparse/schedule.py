"""When the connections of a lane change, and how many leave then: functions of the update's number.

They count whole connections and carry nothing from one change to the next, so that a resumed run
goes on as the unbroken one. With t the number of the update, T the last one of the changes, f the
drop fraction, n active connections of a row and m connections that pruning takes away in all:

    when       t = 2, 2 + period, 2 + 2*period, ... up to T; pruning at T too
    constant   floor(f * n) are replaced
    cosine     floor(f/2 * (1 + cos(pi * t / T)) * n) are replaced
    pruning    floor(m * (1 - (1 - t/T)^3)) are gone after t

Sources: SET, Mocanu et al. 2018, arXiv 1707.04780; cosine, Dettmers and Zettlemoyer 2019,
arXiv 1907.04840, and Evci et al. 2020, arXiv 1911.11134, eq. 1; pruning, Zhu and Gupta 2017,
arXiv 1710.01878, eq. 1, from a dense start.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

FIRST_UPDATE = 2
"""Number of the first update after which the published agents evolve (ANF, code)."""

CONSTANT, COSINE = "constant", "cosine"
DROP_SCHEDULES = (CONSTANT, COSINE)
"""How the drop fraction goes on, by the name the option takes."""


class RowSize(NamedTuple):
    """Connections of one matrix."""

    possible: int
    active: int
    """At the end of the run; for all topologies but pruning at any time."""


@dataclass(frozen=True)
class Clock:
    """When the connections of one lane change.

    Raises:
        ValueError: a value outside what its field allows.
    """

    period: int
    """Updates from one change to the next, >= 1."""
    end_share: float
    """In (0, 1], share of the run's updates after which connections stay. At 1, replacement goes on
    for as long as there are updates.
    """
    num_updates: int
    """Of the whole run, >= 1."""

    def __post_init__(self) -> None:
        if self.period < 1:
            raise ValueError(
                f"topology_period={self.period} is not allowed; it must be 1 or more updates"
            )
        if not 0 < self.end_share <= 1:
            raise ValueError(
                f"topology_end={self.end_share} is not allowed; it must be above 0 and at most 1"
            )
        if self.num_updates < 1:
            raise ValueError(f"num_updates={self.num_updates} is not allowed; it must be 1 or more")

    @cached_property
    def end(self) -> int:
        """T, the number of the last update after which connections may change: the share of the
        run's updates, as if it were the decimal that was typed, rounded up.
        """
        return math.ceil(Fraction(repr(float(self.end_share))) * self.num_updates)

    def is_on_grid(self, update: int) -> bool:
        """Whether this is update 2, 2 + period, 2 + 2*period, ...; the first update is 1."""
        return update >= FIRST_UPDATE and (update - FIRST_UPDATE) % self.period == 0

    def next_on_grid(self, update: int) -> int:
        """The first update on the grid that is this one or comes after it."""
        passed = max(0, update - FIRST_UPDATE)
        return FIRST_UPDATE - (-passed // self.period) * self.period


@dataclass(frozen=True)
class Schedule:
    """When and how much the connections of one lane change.

    Raises:
        ValueError: no such decay.
    """

    clock: Clock
    drop_fraction: float
    """In [0, 1], the zeta of SET; a cosine starts there."""
    decay: str
    """One of DROP_SCHEDULES."""

    def __post_init__(self) -> None:
        if self.decay not in DROP_SCHEDULES:
            raise ValueError(
                f"drop_schedule={self.decay!r} is not one of {', '.join(DROP_SCHEDULES)}"
            )

    @property
    def varies(self) -> bool:
        """Whether the share that is replaced depends on the update."""
        return self.decay == COSINE

    def share_left(self, update: int) -> float:
        """What is left of the drop fraction, in [0, 1]; the cosine in float64."""
        if not self.varies:
            return 1.0
        end = self.clock.end
        return (1 + math.cos(math.pi * update / end)) / 2 if update < end else 0.0


def replacement_is_due(clock: Clock, update: int) -> bool:
    """Whether connections are replaced after this update; the first is 1."""
    is_over = clock.end_share < 1 and update > clock.end
    return not is_over and clock.is_on_grid(update)


def pruning_is_due(clock: Clock, update: int) -> bool:
    """Whether connections are pruned after this update: the last time at T, so that the sparsity is
    reached there.
    """
    return update == clock.end or (update < clock.end and clock.is_on_grid(update))


def num_to_drop(active_count: int, drop_fraction: float, share_left: float = 1.0) -> int:
    """floor(drop_fraction * share_left * active_count), as if the fraction were the decimal that
    was typed.

    Args:
        active_count: active connections of the row, >= 0.
        drop_fraction: in [0, 1], the zeta of SET.
        share_left: of the fraction, in [0, 1], as it is in binary.

    Raises:
        ValueError: drop_fraction outside [0, 1].
    """
    if not 0 <= drop_fraction <= 1:
        raise ValueError(f"drop_fraction={drop_fraction} is not allowed; it must lie in 0..1")
    fraction = Fraction(repr(float(drop_fraction))) * Fraction(share_left)
    return math.floor(fraction * active_count)


def num_replaced(schedule: Schedule, row: RowSize, update: int) -> int:
    """Connections that leave a row for as many that grow, at an update that is due; none of a row
    without inactive ones.
    """
    if row.active == row.possible:
        return 0
    return num_to_drop(row.active, schedule.drop_fraction, schedule.share_left(update))


def num_pruned(schedule: Schedule, row: RowSize, update: int) -> int:
    """Connections that leave a row for good at an update that is due: what is to be gone after it,
    less what was gone after the pruning before.
    """
    clock, num_inactive = schedule.clock, row.possible - row.active
    since_first = update - 1 - FIRST_UPDATE
    before = update - 1 - since_first % clock.period if since_first >= 0 else 0
    return num_pruned_by(num_inactive, update, clock.end) - num_pruned_by(
        num_inactive, before, clock.end
    )


def num_pruned_by(num_inactive: int, update: int, end: int) -> int:
    """floor(num_inactive * (1 - (1 - update/end)^3)) in whole numbers; all of them from `end` on.

    Args:
        num_inactive: connections that are to be gone at the end, >= 0.
        update: number of an update, >= 0.
        end: T >= 1.
    """
    left = max(0, end - update)
    return num_inactive * (end**3 - left**3) // end**3
