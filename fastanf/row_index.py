"""Where the rows of each lane stand in a table, in whatever order lanes have written.

Blocks may train at the same time, each with lanes of its own: what belongs to a block is found by
its lanes, not by its place in the file. Axes: rows of one table. 24 bytes a row.
"""

import os
from array import array
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import numpy as np


class Place(NamedTuple):
    """What a row is about, and how long its line is."""

    lane: int
    step: int
    num_bytes: int


class RowIndex:
    """Lane, step and end of every row.

    Args:
        header_bytes: where the first row begins.
    """

    def __init__(self, header_bytes: int) -> None:
        self._header_bytes = header_bytes
        self._lanes, self._steps, self._ends = array("q"), array("q"), array("q")

    def __len__(self) -> int:
        return len(self._lanes)

    @property
    def num_bytes(self) -> int:
        """Of the header and all rows."""
        return self._ends[-1] if self._ends else self._header_bytes

    def extend(self, places: Iterable[Place]) -> None:
        """Further rows, behind the others."""
        end = self.num_bytes
        for lane, step, num_bytes in places:
            end += num_bytes
            self._lanes.append(lane)
            self._steps.append(step)
            self._ends.append(end)

    def cut(self, num_rows: int) -> None:
        """Forget what comes behind so many rows."""
        for column in (self._lanes, self._steps, self._ends):
            del column[num_rows:]

    def spans_of(self, lanes: Collection[int], last_step: int) -> list[tuple[int, int, int]]:
        """(lane, start, end) in bytes of these lanes' rows up to a step, in the table's order.

        Neighbours of one lane are one span.
        """
        lane, step, start, end = self._columns()
        at = np.flatnonzero(np.isin(lane, list(lanes)) & (step <= last_step))
        spans: list[tuple[int, int, int]] = []
        for one, first, last in zip(
            lane[at].tolist(), start[at].tolist(), end[at].tolist(), strict=True
        ):
            if spans and spans[-1][0] == one and spans[-1][2] == first:
                spans[-1] = (one, spans[-1][1], last)
            else:
                spans.append((one, first, last))
        return spans

    def without(self, lanes: Collection[int], last_step: int) -> "Kept":
        """What is left without these lanes' rows beyond a step."""
        lane, step, start, end = self._columns()
        is_kept = ~(np.isin(lane, list(lanes)) & (step > last_step))
        return self._picked(np.flatnonzero(is_kept), lane, step, start, end)

    def sorted_by(self, position: dict[int, int]) -> "Kept":
        """All rows ordered by their lane's position; those of one position keep their order.

        Args:
            position: by lane; a lane that is not in it comes last.
        """
        lane, step, start, end = self._columns()
        keys = np.array([position.get(one, len(position)) for one in lane.tolist()], dtype=np.int64)
        return self._picked(np.argsort(keys, kind="stable"), lane, step, start, end)

    def _picked(
        self, at: np.ndarray, lane: np.ndarray, step: np.ndarray, start: np.ndarray, end: np.ndarray
    ) -> "Kept":
        index = RowIndex(self._header_bytes)
        places = zip(lane[at].tolist(), step[at].tolist(), (end - start)[at].tolist(), strict=True)
        index.extend(Place(*place) for place in places)
        spans: list[tuple[int, int]] = [(0, self._header_bytes)]
        for first, last in zip(start[at].tolist(), end[at].tolist(), strict=True):
            if spans[-1][1] == first:
                spans[-1] = (spans[-1][0], last)
            else:
                spans.append((first, last))
        return Kept(index, spans)

    def _columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Lane, step, start and end of every row; copies, so that rows may come meanwhile."""
        lane, step, end = (
            np.array(column, dtype=np.int64) for column in (self._lanes, self._steps, self._ends)
        )
        start = np.concatenate([[self._header_bytes], end[:-1]])[: len(end)]
        return lane, step, start, end


class Kept(NamedTuple):
    """Rows of a table that is going to be replaced, and where they are in the old one."""

    index: RowIndex
    spans: list[tuple[int, int]]
    """(start, end) in bytes, the header first; neighbours are one."""

    @property
    def is_beginning(self) -> bool:
        """Whether they are the old table's first bytes."""
        return len(self.spans) == 1


def read_spans(file: int, spans: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """The bytes of each (start, end); fewer where the file ends before."""
    for start, end in spans:
        yield os.pread(file, end - start, start)
