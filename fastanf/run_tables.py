"""The tables of a run folder: rows appended whole, sealed by lane, never lost on a full disk.

Rows that the disk does not take wait in memory, and come before later ones. Blocks that train at
the same time write into the same tables, in the order in which their rows come.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fastanf.files import append_text, cut_file, open_regular, read_regular, write_atomic
from fastanf.options import shown, start_of
from fastanf.row_index import Kept, Place, RowIndex, read_spans
from fastanf.rows import AnyRow, columns, csv_line, row_cells
from fastanf.table_seals import MAX_BYTES, LaneDigests, Seals, check_names, check_seal
from fastanf.tables import whole_rows


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
            data = read_regular(self.path, MAX_BYTES)
        except FileNotFoundError:
            data = b""
        whole = data.rfind(b"\n") + 1
        if whole == 0 and header.startswith(data):
            self.make()
        elif whole == 0:
            raise ValueError(f"{self.path.name} has no whole line: put it back as the run wrote it")
        elif whole < len(data):
            cut_file(self.path, whole)
        self._measure()

    def _measure(self) -> None:
        """Learn what the file holds.

        Raises:
            ValueError: other columns, or a row without lane or step.
        """
        rows = whole_rows(self.path)
        if rows[0] != list(self.header):
            raise ValueError(
                f"{self.path.name} has columns {start_of(','.join(rows[0]))}: expected "
                f"{','.join(self.header)}"
            )
        lines = read_regular(self.path, MAX_BYTES).splitlines(keepends=True)
        if len(lines) != len(rows):
            raise ValueError(f"{str(self.path)!r} has a row that is not one line: put it back")
        at = self.header.index("lane"), self.header.index("step")
        index, lanes = RowIndex(len(lines[0])), []
        for number, (row, line) in enumerate(zip(rows[1:], lines[1:], strict=True), start=2):
            lane, step = self._place(number, row[at[0]], row[at[1]])
            lanes.append(lane)
            index.extend([Place(lane, step, len(line))])
        digests = LaneDigests().extended(zip(lanes, lines[1:], strict=True))
        num_appends = self._content.num_appends
        self._index = index
        self._content = _Content(index.num_bytes, len(index), digests, num_appends)
        self._is_suspect = False

    def _place(self, number: int, lane: str, step: str) -> tuple[int, int]:
        try:
            place = int(lane), int(step)
            if max(map(abs, place)) < 2**63:
                return place
        except ValueError:
            pass
        raise ValueError(
            f"{str(self.path)!r} line {number} has lane {shown(lane)} and step {shown(step)}: "
            "whole numbers are allowed"
        )

    def take(self, rows: Sequence[AnyRow]) -> None:
        """Rows to be appended as one by `write`."""
        lines = [csv_line(row_cells(row)).encode() for row in rows]
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
        while self._waiting:
            first, content = self._waiting[0], self._content
            if first.number >= content.num_appends:  # else interrupted right after it was written
                keep = content.size if self._is_suspect else None
                self._is_suspect = True
                append_text(self.path, b"".join(first.lines).decode(), keep)
                self._index.cut(content.num_rows)
                self._index.extend(first.places)
                lanes = [place.lane for place in first.places]
                digests = content.digests.extended(zip(lanes, first.lines, strict=True))
                self._content = _Content(
                    self._index.num_bytes, len(self._index), digests, first.number + 1
                )
            self._is_suspect = False
            self._waiting = self._waiting[1:]

    def drop_after(self, lanes: Collection[int], last_step: int) -> None:
        """Drop the rows of some lanes beyond a step; other lanes' rows stay.

        The last rows are cut off, which a full disk allows; else the file is replaced.
        """
        if self._is_suspect:
            cut_file(self.path, self._content.size)
        self._index.cut(self._content.num_rows)
        kept = self._index.without(lanes, last_step)
        if len(kept.index) < len(self._index):
            self._replace(kept, lanes)

    def sort(self, position: dict[int, int]) -> None:
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
                data = b"".join(read_spans(file.fileno(), kept.spans))
            write_atomic(self.path, data)
        spans = kept.index.spans_of(changed, 2**63 - 1)
        with open_regular(self.path) as file:
            parts = read_spans(file.fileno(), [span[1:] for span in spans])
            digests = self._content.digests.without(changed).extended(
                (span[0], part) for span, part in zip(spans, parts, strict=True)
            )
        num_appends = self._content.num_appends
        self._index = kept.index
        self._content = _Content(kept.index.num_bytes, len(kept.index), digests, num_appends)
        self._is_suspect = False


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

    def drop_after(self, lanes: Collection[int], last_step: int) -> None:
        """Drop the rows of some lanes beyond a step, in every table.

        Raises:
            OSError: a table is as it was.
        """
        for table in self._tables.values():
            table.drop_after(lanes, last_step)

    def sort(self, position: dict[int, int]) -> None:
        """Bring every table into the order of its lanes' positions; what has one keeps its order.

        Raises:
            OSError: a table is as it was.
        """
        for table in self._tables.values():
            table.sort(position)
