"""Rows of a run's tables against themselves and against lanes.csv, by file, line and column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastanf.options import shown
from fastanf.tables import bad_cell

if TYPE_CHECKING:
    from fastanf.rows import AnyRow, FeatureRow

LaneRows = Sequence[Mapping[str, Any]]
"""The rows of lanes.csv."""
_OF_A_LANE = ("policy", "env", "seed", "noise_fraction", "variant")
"""Columns of eval.csv that repeat a lane's settings."""


def check_connections(path: Path, line: int, row: FeatureRow, most_noise: int) -> None:
    """Sees whether a row has a count for each of its features.

    Args:
        path: the table, for the error.
        line: of the row, for the error.
        row: any.
        most_noise: noise features that are counted one by one.

    Raises:
        ValueError: more real features than features, or other words than that many counts.
    """
    if row.num_real > row.num_features:
        allowed = f"at most num_features = {row.num_features}"
        raise bad_cell(path, line, "num_real", allowed, row.num_real)
    number = row.num_real + min(row.num_features - row.num_real, most_noise)
    words = row.connections.split(" ") if row.connections else []
    if words and not (len(words) == number and all(w.isascii() and w.isdecimal() for w in words)):
        raise bad_cell(path, line, "connections", f"empty or {number} counts", row.connections)


def check_once_each(path: Path, rows: Iterable[tuple[int, AnyRow]]) -> None:
    """Sees whether no lane has two rows: it is stopped once.

    Args:
        path: the table, for the error.
        rows: of it, each with its line.

    Raises:
        ValueError: one has.
    """
    seen: set[int] = set()
    for line, row in rows:
        if row.lane in seen:
            raise bad_cell(path, line, "lane", "a lane that was not stopped before", row.lane)
        seen.add(row.lane)


def check_lane(path: Path, line: int, row: AnyRow, lanes: LaneRows) -> None:
    """Sees whether a row is of a lane that the run has, and says the same of it.

    Args:
        path: the table, for the error.
        line: of the row, for the error.
        row: any.
        lanes: the rows of lanes.csv.

    Raises:
        ValueError: no such lane, or a setting of it that differs.
    """
    if row.lane >= len(lanes):
        raise bad_cell(path, line, "lane", f"one of the {len(lanes)} of lanes.csv", row.lane)
    settings = lanes[row.lane]
    for name in _OF_A_LANE:
        if name in settings and hasattr(row, name) and getattr(row, name) != settings[name]:
            allowed = f"{shown(settings[name])} as in lanes.csv"
            raise bad_cell(path, line, name, allowed, getattr(row, name))
