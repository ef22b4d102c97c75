"""Where the rows of each lane stand in a table, in whatever order lanes have written.

Blocks may train at the same time, each with lanes of its own: what belongs to a block is found by
its lanes, not by its place in the file. Axes: rows of one table. 32 bytes a row. What is asked of
some lanes takes time by their rows alone.
"""

import errno
import os
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

_PIECE = 1 << 20


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
        self._rows_of: dict[int, array[int]] = {}  # by lane, in the table's order

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
            self._rows_of.setdefault(lane, array("q")).append(len(self._lanes))
            self._lanes.append(lane)
            self._steps.append(step)
            self._ends.append(end)

    def cut(self, num_rows: int) -> None:
        """Forget what comes behind so many rows."""
        for lane in set(self._lanes[num_rows:]):
            rows = self._rows_of[lane]
            while rows and rows[-1] >= num_rows:
                rows.pop()
        for column in (self._lanes, self._steps, self._ends):
            del column[num_rows:]

    def rows_of(self, lanes: Collection[int]) -> list[int]:
        """Numbers of these lanes' rows, from 0, in the table's order."""
        return sorted(row for lane in set(lanes) for row in self._rows_of.get(lane, ()))

    def lane(self, row: int) -> int:
        """That a row is about."""
        return self._lanes[row]

    def span(self, row: int) -> tuple[int, int]:
        """(start, end) of a row in bytes."""
        return self._ends[row - 1] if row else self._header_bytes, self._ends[row]

    def spans_of(self, lanes: Collection[int], last_step: int) -> list[tuple[int, int, int]]:
        """(lane, start, end) in bytes of these lanes' rows up to a step, in the table's order.

        Neighbours of one lane are one span.
        """
        spans: list[tuple[int, int, int]] = []
        for row in self.rows_of(lanes):
            if self._steps[row] <= last_step:
                lane, (first, last) = self._lanes[row], self.span(row)
                if spans and spans[-1][0] == lane and spans[-1][2] == first:
                    first = spans.pop()[1]
                spans.append((lane, first, last))
        return spans

    def beyond(self, last_steps: Mapping[int, int]) -> list[int]:
        """Numbers of the rows of some lanes beyond a step.

        Args:
            last_steps: the step by lane.
        """
        return [
            row
            for lane, last_step in last_steps.items()
            for row in self._rows_of.get(lane, ())
            if self._steps[row] > last_step
        ]

    def without(self, rows: Collection[int]) -> "Kept":
        """What is left without some rows, by their numbers."""
        is_kept = np.ones(len(self), dtype=bool)
        is_kept[list(rows)] = False
        return self._picked(np.flatnonzero(is_kept))

    def sorted_by(self, position: Mapping[int, int]) -> "Kept":
        """All rows ordered by their lane's position; those of one position keep their order.

        Args:
            position: by lane; a lane that is not in it comes last.
        """
        lanes = np.array(self._lanes, dtype=np.int64)
        found, which = np.unique(lanes, return_inverse=True)
        keys = np.array([position.get(lane, len(position)) for lane in found.tolist()], np.int64)
        return self._picked(np.argsort(keys[which], kind="stable"))

    def _picked(self, at: np.ndarray) -> "Kept":
        """These rows in this order."""
        lane, step, end = (
            np.array(column, dtype=np.int64) for column in (self._lanes, self._steps, self._ends)
        )
        start = np.concatenate([[self._header_bytes], end[:-1]])[: len(end)]
        lane, step, start, end = lane[at], step[at], start[at], end[at]
        index = RowIndex(self._header_bytes)
        index._lanes, index._steps = _array(lane), _array(step)
        index._ends = _array(self._header_bytes + np.cumsum(end - start))
        by_lane = np.argsort(lane, kind="stable")
        found, first = np.unique(lane[by_lane], return_index=True)
        parts = np.split(by_lane, first[1:])
        index._rows_of = {
            one: _array(rows) for one, rows in zip(found.tolist(), parts, strict=False)
        }
        start, end = np.append(0, start), np.append(self._header_bytes, end)  # the header first
        is_first = np.append(True, start[1:] != end[:-1])
        firsts = np.flatnonzero(is_first)
        lasts = np.append(firsts[1:], len(start)) - 1
        spans = list(zip(start[firsts].tolist(), end[lasts].tolist(), strict=True))
        return Kept(index, spans)


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


def read_pieces(file: int, spans: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """The bytes of all (start, end), one after the other, in pieces of little memory.

    Raises:
        OSError: the file has fewer bytes, or cannot be read.
    """
    for start, end in spans:
        while start < end:
            piece = os.pread(file, min(end - start, _PIECE), start)
            if not piece:
                raise OSError(errno.EIO, "the file is shorter than it was")
            start += len(piece)
            yield piece


def _array(values: np.ndarray) -> "array[int]":
    return array("q", values.astype(np.int64).tobytes())
