"""The tables of a run folder as text, read strictly: a line is a row, a cell has one spelling.

A file may have been cut off, edited or damaged. What is not as it was written is refused with the
file, line and column; a change from one good value to another cannot be seen here.
"""

import csv
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastanf.files import open_regular
from fastanf.options import Allowed, shown

MAX_BYTES = 1 << 32
"""The most that a table may have."""
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_KEYS = ("lane", "network", "layer", "part", "stage")
"""Columns that name what a row is about; its rows ascend in steps."""
_COUNT = Allowed("an integer of at least 0", lambda value: value >= 0)
_SHARE = Allowed("a number in [0, 1], or nan", lambda value: not (value < 0 or value > 1))
_NOT_NEGATIVE = Allowed("a number of at least 0, or nan", lambda value: not value < 0)
_PRINTED = Allowed("text that prints", str.isprintable)
_ANY_NUMBER = Allowed("a number", lambda value: True)


def _one_of(*words: str) -> Allowed:
    return Allowed(f"one of {', '.join(words)}", lambda value: value in words)


_OF_KIND: Mapping[type, Allowed] = {int: _COUNT, float: _ANY_NUMBER, str: _PRINTED}
_OF_COLUMN: Mapping[str, Allowed] = {
    "checkpoint_step": Allowed("an integer of at least -1", lambda value: value >= -1),
    "noise_fraction": _SHARE,
    "density": _SHARE,
    "precision": _SHARE,
    "wall_s": _NOT_NEGATIVE,
    "return_std": _NOT_NEGATIVE,
    "network": _one_of("actor", "critic1", "critic2"),
    "part": _one_of("update", "step"),
}


def whole_rows(path: Path, *, may_be_torn: bool = True) -> list[list[str]]:
    """Header and rows of a table as text, row i from line i + 1.

    Args:
        path: the table.
        may_be_torn: a last line without its end, of a killed process, is left out; otherwise it is
            refused.

    Raises:
        ValueError: the file cannot be read, has no header or a name twice in it, or a line that is
            no row of its length.
    """
    rows = [row for row, _ in each_row(path, may_be_torn=may_be_torn)]
    if not rows:
        raise ValueError(f"{str(path)!r} has no header: give a run folder")
    twice = [name for index, name in enumerate(rows[0]) if name in rows[0][:index]]
    if twice:
        raise ValueError(f"{str(path)!r} has the column {shown(twice[0])} twice")
    return rows


def each_row(path: Path, *, may_be_torn: bool = True) -> Iterator[tuple[list[str], bytes]]:
    """Header and rows of a table as text, row i from line i + 1, each with that line.

    Args, errors: as `whole_rows`, of the rows that were taken.
    """
    line, number = b"", 0

    def texts() -> Iterator[str]:
        nonlocal line
        for at, line in enumerate(_lines(path, may_be_torn), start=1):
            yield _text(path, at, line)

    reader = csv.reader(texts(), strict=True)
    num_cells = 0
    try:
        for number, row in enumerate(reader, start=1):
            if reader.line_num != number:
                raise csv.Error("a quote is not closed")
            num_cells = num_cells or len(row)
            _check_length(path, number, row, num_cells)
            yield row, line
    except csv.Error as error:
        number += reader.line_num > number
        raise ValueError(f"{str(path)!r} line {number} is damaged: {error}") from None


def _lines(path: Path, may_be_torn: bool) -> Iterator[bytes]:
    """Each with its end."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise ValueError(f"{str(path)!r} has {size} bytes: at most {MAX_BYTES} are allowed")
            for line in file:
                if line.endswith(b"\n"):
                    yield line
                elif not may_be_torn:
                    raise ValueError(f"{str(path)!r} is damaged: its last line has no end")
    except OSError as error:
        raise ValueError(
            f"{str(path)!r} cannot be read ({error.strerror}): give a run folder"
        ) from error


def _text(path: Path, number: int, line: bytes) -> str:
    """Of a line, without its end."""
    if 0 <= line.find(b"\r") < len(line) - 2:
        raise ValueError(f"{str(path)!r} line {number} is damaged: a line break within a row")
    try:
        return line.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise ValueError(f"{str(path)!r} line {number} is damaged: not UTF-8") from None


def _chosen_rows(path: Path, lines: Mapping[int, bytes]) -> list[list[str]]:
    rows: list[list[str]] = []
    for number, line in lines.items():
        try:
            rows += csv.reader([_text(path, number, line)], strict=True)
        except csv.Error as error:
            raise ValueError(f"{str(path)!r} line {number} is damaged: {error}") from None
        _check_length(path, number, rows[-1], len(rows[0]))
    return rows


def _check_length(path: Path, number: int, row: Sequence[str], num_cells: int) -> None:
    if len(row) != num_cells:
        raise ValueError(f"{str(path)!r} line {number} has {len(row)} cells, not {num_cells}")


def typed_columns(
    path: Path, kinds: Mapping[str, type], lines: Mapping[int, bytes] | None = None
) -> list[list[Any]]:
    """Some columns of a table in their types, each a list over the rows.

    Args:
        path: the table.
        kinds: int, float or str by column.
        lines: that are read, by their numbers, the header first; None for the whole table.

    Raises:
        ValueError: as `whole_rows`; a column that is missing, a cell with another value than is
            ever written there, or steps that do not ascend.
    """
    header, *rows = whole_rows(path) if lines is None else _chosen_rows(path, lines)
    numbers = line_numbers(lines)
    missing = [name for name in kinds if name not in header]
    if missing:
        raise ValueError(f"{str(path)!r} lacks the columns {', '.join(missing)}")
    columns = []
    for name, kind in kinds.items():
        at, read, allowed = header.index(name), _READERS[kind], _allowed(name, kind)
        column = []
        for number, row in zip(numbers, rows, strict=False):
            value = read(row[at])
            if value is None or not allowed.test(value):
                raise bad_cell(path, number, name, allowed.text, row[at])
            column.append(value)
        columns.append(column)
    _check_order(path, dict(zip(kinds, columns, strict=True)), numbers)
    return columns


def line_numbers(lines: Mapping[int, bytes] | None) -> Iterable[int]:
    """Of the rows that `typed_columns` reads, endless for a whole table."""
    return range(2, sys.maxsize) if lines is None else list(lines)[1:]


def bad_cell(path: Path, line: int, column: str, allowed: str, found: object) -> ValueError:
    """What is wrong with one cell."""
    return ValueError(
        f"{str(path)!r} line {line}, column {column} must be {allowed}, got {shown(found)}"
    )


def _allowed(name: str, kind: type) -> Allowed:
    return _OF_COLUMN.get(name, _OF_KIND[kind])


def _integer(text: str) -> int | None:
    return int(text) if _INTEGER.fullmatch(text) else None


def _number(text: str) -> float | None:
    if text in ("nan", "inf", "-inf"):
        return float(text)
    value = float(text) if _NUMBER.fullmatch(text) else math.inf
    return value if math.isfinite(value) else None


_READERS: Mapping[type, Callable[[str], Any]] = {int: _integer, float: _number, str: str}


def _check_order(path: Path, columns: Mapping[str, Sequence[Any]], numbers: Iterable[int]) -> None:
    """Rows about the same ascend in steps: none is there twice, and none comes late."""
    last: dict[tuple[Any, ...], int] = {}
    keys = zip(*(columns[name] for name in _KEYS if name in columns), strict=True)
    for number, key, step in zip(numbers, keys, columns["step"], strict=False):
        before = last.get(key, -1)
        if step <= before:
            raise bad_cell(
                path, number, "step", f"above {before}, which lane {key[0]} had before", step
            )
        last[key] = step
