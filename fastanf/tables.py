"""The tables of a run folder as text, read strictly: a line is a row, a cell has one spelling.

A file may have been cut off, edited or damaged. What is not as it was written is refused with the
file, line and column; a change from one good value to another cannot be seen here.
"""

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastanf.files import read_regular
from fastanf.options import Allowed, shown

_MOST_BYTES = 2**32
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
    lines = _lines(path, may_be_torn)
    rows: list[list[str]] = []
    reader = csv.reader(lines, strict=True)
    try:
        for row in reader:
            rows.append(row)
            if reader.line_num != len(rows):
                raise csv.Error("a quote is not closed")
            if len(row) != len(rows[0]):
                raise ValueError(
                    f"{str(path)!r} line {len(rows)} has {len(row)} cells, not {len(rows[0])}"
                )
    except csv.Error as error:
        number = min(len(rows) + (reader.line_num > len(rows)), len(lines))
        raise ValueError(f"{str(path)!r} line {number} is damaged: {error}") from None
    if not rows:
        raise ValueError(f"{str(path)!r} has no header: give a run folder")
    twice = [name for index, name in enumerate(rows[0]) if name in rows[0][:index]]
    if twice:
        raise ValueError(f"{str(path)!r} has the column {shown(twice[0])} twice")
    return rows


def _lines(path: Path, may_be_torn: bool) -> list[str]:
    try:
        data = read_regular(path, _MOST_BYTES)
    except OSError as error:
        raise ValueError(
            f"{str(path)!r} cannot be read ({error.strerror}): give a run folder"
        ) from error
    end = data.rfind(b"\n") + 1
    if end < len(data) and not may_be_torn:
        raise ValueError(f"{str(path)!r} is damaged: its last line has no end")
    try:
        text = data[:end].decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{str(path)!r} line {line} is damaged: not UTF-8") from None
    return text.split("\n")[:-1]


def typed_columns(path: Path, kinds: Mapping[str, type]) -> list[list[Any]]:
    """Some columns of a table in their types, each a list over the rows.

    Args:
        path: the table.
        kinds: int, float or str by column.

    Raises:
        ValueError: as `whole_rows`; a column that is missing, a cell with another value than is
            ever written there, or steps that do not ascend.
    """
    header, *rows = whole_rows(path)
    missing = [name for name in kinds if name not in header]
    if missing:
        raise ValueError(f"{str(path)!r} lacks the columns {', '.join(missing)}")
    columns = []
    for name, kind in kinds.items():
        at, read, allowed = header.index(name), _READERS[kind], _allowed(name, kind)
        column = []
        for number, row in enumerate(rows, start=2):
            value = read(row[at])
            if value is None or not allowed.test(value):
                raise bad_cell(path, number, name, allowed.text, row[at])
            column.append(value)
        columns.append(column)
    _check_order(path, dict(zip(kinds, columns, strict=True)))
    return columns


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


def _check_order(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Rows about the same ascend in steps: none is there twice, and none comes late."""
    last: dict[tuple[Any, ...], int] = {}
    keys = zip(*(columns[name] for name in _KEYS if name in columns), strict=True)
    for number, (key, step) in enumerate(zip(keys, columns["step"], strict=True), start=2):
        before = last.get(key, -1)
        if step <= before:
            raise bad_cell(
                path, number, "step", f"above {before}, which lane {key[0]} had before", step
            )
        last[key] = step
