"""Blocks on slots: which one waits for which, and when the last one ends.

List scheduling, longest processing time first (Graham 1969, "Bounds on multiprocessing timing
anomalies"): at most 4/3 - 1/(3m) times as long as the best schedule on m slots.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """A block's time on its slot, in seconds from the beginning."""

    index: int
    """Of the block."""
    begin_s: float
    end_s: float


@dataclass(frozen=True)
class Schedule:
    """What each slot does, one after the other."""

    slots: tuple[tuple[Turn, ...], ...]

    @property
    def makespan_s(self) -> float:
        """When the last block ends."""
        return max((turns[-1].end_s for turns in self.slots if turns), default=0.0)

    @property
    def busy_share(self) -> float:
        """Of all slots' time until the last block ends, in [0, 1]; 0 where nothing is to do."""
        worked_s = sum(turn.end_s - turn.begin_s for turns in self.slots for turn in turns)
        whole_s = len(self.slots) * self.makespan_s
        return worked_s / whole_s if whole_s else 0.0

    @property
    def num_used(self) -> int:
        """Slots that have a block."""
        return sum(bool(turns) for turns in self.slots)


def schedule(costs_s: Sequence[float], slots: int) -> Schedule:
    """The longest block first, each on the slot that is free first.

    Args:
        costs_s: of each block, finite and not negative.
        slots: blocks that train at the same time.

    Raises:
        ValueError: a cost that is no such number, or no slot for what there is to do.
    """
    if not all(math.isfinite(cost) and cost >= 0 for cost in costs_s):
        raise ValueError(f"costs_s must be finite and not negative, got {list(costs_s)}")
    if slots < 1 and costs_s:
        raise ValueError(f"slots must be at least 1 for {len(costs_s)} blocks, got {slots}")
    turns: list[list[Turn]] = [[] for _ in range(slots)]
    free = [(0.0, slot) for slot in range(slots)]
    for index in sorted(range(len(costs_s)), key=lambda index: -costs_s[index]):
        begin_s, slot = free[0]
        end_s = begin_s + costs_s[index]
        turns[slot].append(Turn(index, begin_s, end_s))
        heapq.heapreplace(free, (end_s, slot))
    return Schedule(tuple(map(tuple, turns)))


def makespan_s(classes: Sequence[tuple[float, int]], slots: int, enough_s: float) -> float:
    """When the last block ends in `schedule`, or `enough_s` where it ends no earlier.

    Args:
        classes: costs in seconds, each with the number of blocks that cost as much.
        slots: blocks that train at the same time, at least 1.
        enough_s: what is not worth to know more of; bounds that are found sooner tell.

    Returns:
        At most `enough_s`.
    """
    ordered = sorted(classes, reverse=True)
    # Of the first r * slots + 1 blocks some slot has r + 1, none shorter than the last of them.
    num_before = 0
    for cost, number in ordered:
        num_before += number
        rounds = -(-num_before // slots)
        if rounds * cost >= enough_s:
            return enough_s
    loads = [0.0] * slots
    for cost, number in ordered:
        for _ in range(number):
            heapq.heapreplace(loads, loads[0] + cost)
    return min(max(loads), enough_s)
