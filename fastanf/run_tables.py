"""The tables of a run folder: rows appended whole, sealed, never lost on a full disk.

Rows that the disk does not take wait in memory, and come before later ones.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fastanf.files import append_text, cut_file, read_regular, sha256_of, write_atomic
from fastanf.options import shown, start_of
from fastanf.rows import AnyRow, columns, csv_line, row_cells
from fastanf.table_seals import MAX_BYTES, Seals, verify_seals
from fastanf.tables import whole_rows


class _Content(NamedTuple):
    """What is on the disk, replaced as one: whatever interrupts the program, the three agree."""

    size: int
    digest: "hashlib._Hash"
    num_appends: int


@dataclass(frozen=True)
class _Append:
    number: int
    """In the order of the table, from 0."""
    text: str
    num_rows: int


class _Table:
    """One CSV file: its content on the disk, and what waits to come behind it."""

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self.path, self.header = path, header
        self._content = _Content(0, hashlib.sha256(), 0)
        self._waiting: list[_Append] = []
        self._num_taken = 0
        self._is_suspect = False  # a failed attempt may have left something behind the content

    @property
    def num_waiting(self) -> int:
        """Rows that are not on the disk."""
        num_done = self._content.num_appends
        return sum(each.num_rows for each in self._waiting if each.number >= num_done)

    @property
    def seal(self) -> dict[str, Any]:
        size, digest, _ = self._content
        return {"bytes": size, "sha256": digest.hexdigest()}

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
        found = whole_rows(self.path)[0]
        if found != list(self.header):
            raise ValueError(
                f"{self.path.name} has columns {start_of(','.join(found))}: expected "
                f"{','.join(self.header)}"
            )
        self._measure()

    def _measure(self) -> None:
        size, digest = sha256_of(self.path, MAX_BYTES)
        self._content = _Content(size, digest, self._content.num_appends)
        self._is_suspect = False

    def take(self, rows: Sequence[AnyRow]) -> None:
        """Rows to be appended as one by `write`."""
        text = "".join(csv_line(row_cells(row)) for row in rows)
        self._waiting.append(_Append(self._num_taken, text, len(rows)))
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
                append_text(self.path, first.text, keep)
                data, digest = first.text.encode(), content.digest.copy()
                digest.update(data)
                self._content = _Content(content.size + len(data), digest, first.number + 1)
            self._is_suspect = False
            self._waiting = self._waiting[1:]

    def drop_after(self, lane_steps: Mapping[int, int]) -> None:
        """Drops the rows of a lane beyond a step; those of lanes that are not named stay.

        The last rows are cut off, which a full disk allows; else the file is replaced.
        """
        if self._is_suspect:
            cut_file(self.path, self._content.size)
        lines = [line + b"\n" for line in read_regular(self.path, MAX_BYTES).split(b"\n")[:-1]]
        places = list(self._places())
        if len(places) != len(lines) - 1:
            raise ValueError(f"{str(self.path)!r} has a row that is not one line: put it back")
        kept = [
            line
            for line, (lane, step) in zip(lines[1:], places, strict=True)
            if step <= lane_steps.get(lane, step)
        ]
        kept = [lines[0], *kept]
        if len(kept) == len(lines):
            return
        if kept == lines[: len(kept)]:
            cut_file(self.path, sum(map(len, kept)))
        else:
            write_atomic(self.path, b"".join(kept))
        self._measure()

    def _places(self) -> Iterator[tuple[int, int]]:
        """Lane and step of each row."""
        lane_at, step_at = self.header.index("lane"), self.header.index("step")
        for number, row in enumerate(whole_rows(self.path)[1:], start=2):
            try:
                yield int(row[lane_at]), int(row[step_at])
            except ValueError:
                raise ValueError(
                    f"{str(self.path)!r} line {number} has lane {shown(row[lane_at])} and step "
                    f"{shown(row[step_at])}: whole numbers are allowed"
                ) from None


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

    def seals(self) -> dict[str, dict[str, Any]]:
        """Table -> its seal now."""
        return {table.path.name: table.seal for table in self._tables.values()}

    def check(self, seals: Seals) -> None:
        """Sees whether every table still begins with what was sealed.

        Raises:
            ValueError: one does not, or these are no seals of these tables.
        """
        names = [table.path.name for table in self._tables.values()]
        verify_seals(self.folder, seals, names, names)

    def drop_after(self, lane_steps: Mapping[int, int]) -> None:
        """Drops the rows of each lane beyond its step, in every table.

        Raises:
            OSError: a table is as it was. ValueError: a row without lane or step.
        """
        for table in self._tables.values():
            table.drop_after(lane_steps)
