"""Who owns the rows of a replay's side table: the host's list of free ones, and of those that a
time in the ring still needs.

Axes: L lanes, S rows of a lane's side table.
"""

from __future__ import annotations


class FinalSlots:
    """Rows of the side tables of all lanes; the lowest that are free go first.

    Args:
        num_lanes: L.
        num_slots: S, rows of each lane.
    """

    def __init__(self, num_lanes: int, num_slots: int):
        self._free = [list(range(num_slots))[::-1] for _ in range(num_lanes)]
        self._used_at: dict[int, list[tuple[int, int]]] = {}

    def has_free(self, lane: int) -> bool:
        """Whether a lane has a row left."""
        return bool(self._free[lane])

    def take_(self, lane: int, time: int) -> int:
        """A free row of a lane, for a transition that started at `time`."""
        row = self._free[lane].pop()
        self._used_at.setdefault(time, []).append((lane, row))
        return row

    def release_(self, time: int) -> None:
        """The transitions of `time` have left the ring."""
        for lane, row in self._used_at.pop(time, ()):
            self._free[lane].append(row)

    def grow_(self, old_slots: int, new_slots: int) -> None:
        """The side tables have more rows from here on."""
        for free in self._free:
            free[:0] = range(new_slots - 1, old_slots - 1, -1)
