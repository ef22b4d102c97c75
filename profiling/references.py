"""What a measurement is compared with: a git revision, or the rows of an earlier CSV and the
revisions that they were measured at.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import result_rows
import revisions

if TYPE_CHECKING:
    from benchmark import Point


@dataclass
class Reference:
    """What some of the points are compared with."""

    label: str
    commit: str | None
    """None where the repository has no such commit: only recorded medians are shown."""
    indices: list[int]
    """Of the points."""
    recorded: dict[int, dict[str, float]] = field(default_factory=dict)
    """Recorded medians by point and metric."""
    recorded_at: str = ""
    """Conditions of the recorded rows."""


def references(wanted: str, bench: str, points: Sequence[Point]) -> list[Reference]:
    """What the value of --compare stands for.

    Args:
        wanted: a git revision, or a path that ends in .csv.
        bench: the rows' bench column.
        points: what is going to be measured.

    Raises:
        ValueError: no such revision; a CSV that cannot be read or has no row of the same sizes.
    """
    if wanted.endswith(".csv"):
        return _recorded(Path(wanted), bench, points)
    commit = revisions.resolve(wanted)
    if commit is None:
        raise ValueError(
            f"--compare must be a git revision or a .csv of earlier rows, got {wanted!r}"
        )
    name = revisions.short(commit)
    label = wanted if wanted == name else f"{wanted} ({name})"
    return [Reference(label, commit, list(range(len(points))))]


def _recorded(path: Path, bench: str, points: Sequence[Point]) -> list[Reference]:
    try:
        rows = result_rows.read_file(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"--compare: {path} cannot be read ({reason})") from None
    needed = {"bench", "metric", "p50", "commit", *points[0]}
    rows = [row for row in rows if needed <= row.keys() and row["bench"] == bench]
    by_commit: dict[str, Reference] = {}
    for index, point in enumerate(points):
        same = [row for row in rows if _has_sizes(row, point)]
        same = [row for row in same if row["impl"] == point["impl"]] or same
        if not same:
            continue
        newest = same[-1]
        name = newest["commit"]
        known = by_commit.get(name)
        if known is None:
            known = by_commit[name] = Reference(name, _commit(name), [])
            facts = ("device", "cpu", "threads", "versions", "date")
            known.recorded_at = ", ".join(
                f"{fact} {newest[fact]}" if fact == "threads" else newest[fact]
                for fact in facts
                if newest.get(fact)
            )
        known.indices.append(index)
        known.recorded[index] = {
            row["metric"]: float(row["p50"])
            for row in same
            if (row["commit"], row["impl"]) == (name, newest["impl"])
        }
    if not by_commit:
        sizes = ", ".join(f"{k} {v}" for k, v in points[0].items() if k != "impl" and v != "")
        raise ValueError(f"--compare: {path} has no row of bench {bench} with {sizes}")
    return list(by_commit.values())


def _has_sizes(row: dict[str, str], point: Point) -> bool:
    return all(_same(row[name], value) for name, value in point.items() if name != "impl")


def _same(text: str | None, value: str | int | float) -> bool:
    if isinstance(value, str):
        return text == value
    try:
        return float(text or "nan") == value
    except ValueError:
        return False


def _commit(name: str) -> str | None:
    """The commit of recorded rows, where the rows are of a commit that the repository has."""
    if not all(letter in "0123456789abcdef" for letter in name):
        return None  # unknown, or measured with changes
    try:
        return revisions.resolve(name)
    except ValueError:  # no git: the recorded medians remain
        return None
