"""Rows of a block between two of its checkpoints, as a store keeps them beside the second one.

    records/block0-7.jsonl      rows after the checkpoint before, up to checkpoint 7 of block 0

The first line is {"after": step}, each further one ["eval.csv", "0,ANF-SAC,...\\n"], a row of a
table. Put together in their order they are the block's part of every table.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fastanf.options import shown
from fastanf.rows import FILES, PROFILED_FILES, columns
from fastanf.strict_json import strict_loads

FOLDER = "records"
MAX_BYTES = 1 << 30
"""The most that a file of rows may have."""
_NAME = re.compile(r"block([0-9]{1,9})-([0-9]{1,18})\.jsonl")
_AT: Mapping[str, tuple[int, int]] = {
    name: (columns(kind).index("lane"), columns(kind).index("step"))
    for kind, name in [*FILES.items(), *PROFILED_FILES.items()]
}
"""Table -> columns of lane and step."""


class ChunkRow(NamedTuple):
    """A row of a table."""

    table: str
    line: str
    """With its end."""
    lane: int
    step: int


class Chunk(NamedTuple):
    """What a file of rows holds."""

    after: int | None
    """The step to which the block went back before these rows; None if it did not."""
    rows: Sequence[ChunkRow]


def chunk_name(block: int, number: int) -> str:
    """The name of the file with a block's rows up to a checkpoint."""
    return f"block{block}-{number}.jsonl"


def numbers_of(names: Iterable[str], block: int) -> list[int]:
    """Numbers of the checkpoints whose rows of a block are among some files, rising."""
    found = filter(None, map(_NAME.fullmatch, names))
    return sorted(int(one[2]) for one in found if int(one[1]) == block)


def chunk_bytes(rows: Iterable[tuple[str, str]], after: int | None) -> bytes:
    """The file's content.

    Args:
        rows: table and line of each.
        after: as `Chunk.after`.

    Raises:
        ValueError: one is no row of a table.
    """
    lines = [json.dumps({"after": after})]
    for row in rows:
        _checked(row)
        lines.append(json.dumps(list(row), ensure_ascii=False))
    return ("\n".join(lines) + "\n").encode()


def read_chunk(label: str, data: bytes) -> Chunk:
    """What a file of rows holds.

    Args:
        label: what an error calls it.
        data: of unknown origin.

    Raises:
        ValueError: it is not as it was written.
    """
    try:
        head, *rest = data.decode().split("\n")
        if not rest or rest.pop():
            raise ValueError("its last line has no end")
        return Chunk(_after(strict_loads(head)), [_checked(strict_loads(line)) for line in rest])
    except ValueError as error:
        raise ValueError(
            f"{label} is damaged ({error}): put it back as the run wrote it, or start a new run"
        ) from error


def merged(chunks: Iterable[Chunk]) -> list[ChunkRow]:
    """The rows of a block, from its chunks in the order of their numbers.

    A block may have gone back to an older checkpoint: what earlier chunks have of its lanes beyond
    `after`, or of a lane from its first step in a later chunk on, came again.
    """
    rows: list[ChunkRow] = []
    last: dict[int, int] = {}
    for chunk in chunks:
        least = math.inf if chunk.after is None else chunk.after + 1
        first = dict.fromkeys(last, least)
        for row in chunk.rows:
            first[row.lane] = min(first.get(row.lane, least), row.step)
        if any(step >= first[lane] for lane, step in last.items()):
            rows = [row for row in rows if row.step < first[row.lane]]
            last = _last_steps(rows)
        rows += chunk.rows
        for lane, step in _last_steps(chunk.rows).items():
            last[lane] = max(last.get(lane, step), step)
    return rows


def _last_steps(rows: Iterable[ChunkRow]) -> dict[int, int]:
    last: dict[int, int] = {}
    for row in rows:
        last[row.lane] = max(last.get(row.lane, row.step), row.step)
    return last


def _after(head: Any) -> int | None:
    if not isinstance(head, dict) or set(head) != {"after"}:
        raise ValueError(f'its first line must be {{"after": STEP}}, got {shown(head)}')
    after = head["after"]
    if after is not None and (type(after) is not int or not -1 <= after < 2**63):
        raise ValueError(f"after must be a step, -1 or null, got {shown(after)}")
    return after


def _checked(row: Any) -> ChunkRow:
    """A row that may come from a stranger.

    Raises:
        ValueError: it is none.
    """
    is_pair = isinstance(row, (list, tuple)) and len(row) == 2
    if not is_pair or not all(isinstance(part, str) for part in row) or row[0] not in _AT:
        raise ValueError(f"a row must be a table and a line of it, got {shown(row)}")
    table, line = row
    if not line.endswith("\n") or line.count("\n") + line.count("\r") != 1:
        raise ValueError(f"a row of {table} is not one line: {shown(line)}")
    try:
        (cells,) = csv.reader([line], strict=True)
        lane, step = (int(cells[at]) for at in _AT[table])
    except (ValueError, IndexError, csv.Error):
        raise ValueError(f"a row of {table} has no lane and step: {shown(line)}") from None
    if not (0 <= lane < 2**63 and 0 <= step < 2**63):
        raise ValueError(f"a row of {table} has lane {lane} and step {step}")
    return ChunkRow(table, line, lane, step)
