"""The tables of a run folder: rows appended whole, sealed by lane, never lost on a full disk.

Rows that the disk does not take wait in memory, and come before later ones. Blocks that train at
the same time write into the same tables, in the order in which their rows come.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fastanf.files import (
    append_text,
    cut_file,
    open_regular,
    read_regular,
    whole_bytes,
    write_atomic,
)
from fastanf.options import shown, start_of
from fastanf.row_index import Kept, Place, RowIndex, read_pieces, read_spans
from fastanf.rows import AnyRow, Row, columns, csv_line, read_chosen, row_lines
from fastanf.table_seals import LaneDigests, Seals, check_names, check_seal
from fastanf.tables import each_row

_LAST_STEP = 2**63 - 1


class _Content(NamedTuple):
    """What is on the disk, replaced as one: whatever interrupts the program, the four agree."""

    size: int
    num_rows: int
    """Of the index: what it has behind them is of an attempt that was interrupted."""
    digests: LaneDigests
    num_appends: int


@dataclass(frozen=True)
class _Append:
    number: int
    """In the order of the table, from 0."""
    lines: Sequence[bytes]
    places: Sequence[Place]

    def up_to(self, last_steps: Mapping[int, int]) -> "_Append":
        """The same without the rows of some lanes beyond a step."""
        kept = [
            (line, place)
            for line, place in zip(self.lines, self.places, strict=True)
            if place.step <= last_steps.get(place.lane, _LAST_STEP)
        ]
        return _Append(self.number, [line for line, _ in kept], [place for _, place in kept])


class _Table:
    """One CSV file: its content on the disk, and what waits to come behind it."""

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self.path, self.header = path, header
        self._header_bytes = len(csv_line(header).encode())
        self._index = RowIndex(self._header_bytes)
        self._content = _Content(0, 0, LaneDigests(), 0)
        self._waiting: list[_Append] = []
        self._num_taken = 0
        self._is_suspect = False  # a failed attempt may have left something behind the content

    @property
    def num_waiting(self) -> int:
        """Rows that are not on the disk."""
        num_done = self._content.num_appends
        return sum(len(each.lines) for each in self._waiting if each.number >= num_done)

    def seal(self, lanes: Collection[int]) -> dict[str, Any]:
        """Of the rows of these lanes on the disk."""
        return self._content.digests.seal(lanes)

    def check(self, seal: Any, lanes: Collection[int], last_step: int) -> None:
        """See whether these lanes' rows up to a step are those that were sealed."""
        spans = self._index.spans_of(lanes, last_step)

        def content() -> LaneDigests:
            with open_regular(self.path) as file:
                parts = read_spans(file.fileno(), [span[1:] for span in spans])
                return LaneDigests().extended(
                    (span[0], part) for span, part in zip(spans, parts, strict=True)
                )

        check_seal(self.path, seal, lanes, content)

    def make(self) -> None:
        """Writes the header alone."""
        write_atomic(self.path, csv_line(self.header).encode())
        self._measure()

    def mend(self) -> None:
        """Removes a torn last line; makes the table where it is missing or has a torn header.

        Raises:
            ValueError: it has other columns, or is no table.
        """
        header = csv_line(self.header).encode()
        try:
            whole, size = whole_bytes(self.path)
            data = read_regular(self.path, size) if size < len(header) else None
        except FileNotFoundError:
            whole = size = 0
            data = b""
        if data is not None and header.startswith(data):
            self.make()
        elif whole == 0:
            raise ValueError(f"{self.path.name} has no whole line: put it back as the run wrote it")
        elif whole < size:
            cut_file(self.path, whole)
        self._measure()

    def _measure(self) -> None:
        """Learn what the file holds.

        Raises:
            ValueError: other columns, or a row without lane or step.
        """
        rows = each_row(self.path)
        header, line = next(rows)
        if header != list(self.header):
            raise ValueError(
                f"{self.path.name} has columns {start_of(','.join(header))}: expected "
                f"{','.join(self.header)}"
            )
        index = RowIndex(len(line))
        digests = LaneDigests().extended(self._indexed(rows, index))
        self._take(index, digests)

    def _indexed(
        self, rows: Iterable[tuple[list[str], bytes]], index: RowIndex
    ) -> Iterator[tuple[int, bytes]]:
        """Lane and line of each row, which is taken into the index."""
        at = self.header.index("lane"), self.header.index("step")
        for number, (row, line) in enumerate(rows, start=2):
            lane, step = self._place(number, row[at[0]], row[at[1]])
            index.extend([Place(lane, step, len(line))])
            yield lane, line

    def _take(self, index: RowIndex, digests: LaneDigests) -> None:
        """Let these be the content, which is on the disk."""
        num_appends = self._content.num_appends
        self._index = index
        self._content = _Content(index.num_bytes, len(index), digests, num_appends)
        self._is_suspect = False

    def _place(self, number: int, lane: str, step: str) -> tuple[int, int]:
        try:
            place = int(lane), int(step)
            if max(map(abs, place)) <= _LAST_STEP:
                return place
        except ValueError:
            pass
        raise ValueError(
            f"{str(self.path)!r} line {number} has lane {shown(lane)} and step {shown(step)}: "
            "whole numbers are allowed"
        )

    def take(self, rows: Sequence[AnyRow]) -> None:
        """Rows to be appended as one by `write`."""
        lines = [line.encode() for line in row_lines(rows)]
        places = [
            Place(row.lane, row.step, len(line)) for row, line in zip(rows, lines, strict=True)
        ]
        self._waiting.append(_Append(self._num_taken, lines, places))
        self._num_taken += 1

    def forget_last(self) -> None:
        """Takes the last rows back, if they are not on the disk."""
        self._waiting = self._waiting[:-1]

    def write(self) -> None:
        """Appends what waits, in its order.

        Raises:
            OSError: what is not written still waits; no part of it is taken for written.
        """
        content = self._content
        # The others were written by an attempt that was interrupted right after that.
        waiting = [each for each in self._waiting if each.number >= content.num_appends]
        if waiting:
            lines = [line for each in waiting for line in each.lines]
            places = [place for each in waiting for place in each.places]
            keep = content.size if self._is_suspect else None
            self._is_suspect = True
            append_text(self.path, b"".join(lines).decode(), keep)
            self._index.cut(content.num_rows)
            self._index.extend(places)
            lanes = [place.lane for place in places]
            digests = content.digests.extended(zip(lanes, lines, strict=True))
            self._content = _Content(
                self._index.num_bytes, len(self._index), digests, waiting[-1].number + 1
            )
        self._is_suspect = False
        self._waiting = []

    def lines(self, lanes: Collection[int]) -> dict[int, bytes]:
        """Lines of these lanes on the disk, by their numbers, and the header."""
        rows = self._index.rows_of(lanes)
        spans = [(0, self._header_bytes), *map(self._index.span, rows)]
        with open_regular(self.path) as file:
            parts = read_spans(file.fileno(), spans)
            return dict(zip([1, *(row + 2 for row in rows)], parts, strict=True))

    def drop_beyond(self, last_steps: Mapping[int, int]) -> None:
        """Drop the rows of some lanes beyond a step, those that wait too; others stay.

        The last rows are cut off, which a full disk allows; else the file is replaced.
        """
        self._waiting = [each.up_to(last_steps) for each in self._waiting]
        self._index.cut(self._content.num_rows)
        dropped = self._index.beyond(last_steps)
        if dropped:
            changed = {self._index.lane(row) for row in dropped}
            self._replace(self._index.without(dropped), changed)

    def sort(self, position: Mapping[int, int]) -> None:
        """Bring the rows into the order of their lanes' positions."""
        kept = self._index.sorted_by(position)
        if not kept.is_beginning:
            self._replace(kept, ())

    def _replace(self, kept: Kept, changed: Collection[int]) -> None:
        """Let the file hold these rows; the digests of lanes that change are made anew."""
        if kept.is_beginning:
            cut_file(self.path, kept.index.num_bytes)
        else:
            with open_regular(self.path) as file:
                write_atomic(self.path, read_pieces(file.fileno(), kept.spans))
        spans = kept.index.spans_of(changed, _LAST_STEP)
        with open_regular(self.path) as file:
            parts = read_spans(file.fileno(), [span[1:] for span in spans])
            digests = self._content.digests.without(changed).extended(
                (span[0], part) for span, part in zip(spans, parts, strict=True)
            )
        self._take(kept.index, digests)


class RunTables:
    """All tables of one run.

    Args:
        folder: that holds them.
        files: row class -> name of its table.
    """

    def __init__(self, folder: Path, files: Mapping[type, str]) -> None:
        self.folder = folder
        self._tables = {kind: _Table(folder / name, columns(kind)) for kind, name in files.items()}

    def make(self) -> None:
        """Makes every table, empty."""
        for table in self._tables.values():
            table.make()

    def mend(self) -> None:
        """Makes every table whole after a process that was killed.

        Raises:
            ValueError: one has other columns or is no table. OSError: it cannot be written.
        """
        for table in self._tables.values():
            table.mend()

    def move(self, folder: Path) -> None:
        """Says that the folder was renamed."""
        self.folder = folder
        for table in self._tables.values():
            table.path = folder / table.path.name

    def take(self, rows: Sequence[AnyRow]) -> None:
        """Rows of one class that `write` is to append as one."""
        self._tables[type(rows[0])].take(rows)

    def forget_last(self, kind: type) -> None:
        """Takes the last rows of a class back, if they are not on the disk."""
        self._tables[kind].forget_last()

    def write(self) -> None:
        """Appends what waits, each table in its order.

        Raises:
            OSError: the rest still waits.
        """
        for table in self._tables.values():
            table.write()

    @property
    def waiting(self) -> dict[str, int]:
        """Table -> rows that are not on the disk, of those that have some."""
        numbers = {table.path.name: table.num_waiting for table in self._tables.values()}
        return {name: number for name, number in numbers.items() if number}

    def seals(self, lanes: Collection[int]) -> dict[str, dict[str, Any]]:
        """Table -> the seal of these lanes' rows now."""
        return {table.path.name: table.seal(lanes) for table in self._tables.values()}

    def check(self, seals: Seals, lanes: Collection[int], last_step: int) -> None:
        """See whether every table still holds what was sealed of some lanes.

        Args:
            seals: table -> seal, of unknown origin.
            lanes: that were sealed.
            last_step: of their rows then.

        Raises:
            ValueError: one does not, or these are no seals of these tables.
        """
        tables = {table.path.name: table for table in self._tables.values()}
        check_names(self.folder, seals, tables)
        for name, table in tables.items():
            table.check(seals[name], lanes, last_step)

    def drop_beyond(self, last_steps: Mapping[int, int]) -> None:
        """Drop the rows of some lanes beyond a step, in every table.

        Args:
            last_steps: the step by lane.

        Raises:
            OSError: a table is as it was.
        """
        for table in self._tables.values():
            table.drop_beyond(last_steps)

    def rows(self, kind: type[Row], lanes: Collection[int]) -> list[Row]:
        """The rows of some lanes on the disk, read again.

        Raises:
            ValueError: they are not as they were written. OSError: they cannot be read.
        """
        table = self._tables[kind]
        return read_chosen(table.path, kind, table.lines(lanes))

    def sort(self, position: Mapping[int, int]) -> None:
        """Bring every table into the order of its lanes' positions; what has one keeps its order.

        Raises:
            OSError: a table is as it was.
        """
        for table in self._tables.values():
            table.sort(position)
