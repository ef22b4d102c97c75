"""The lanes of a run that were stopped because they are broken, with what they are called.

quarantine.csv says where, why and what to go back to; the names are those of lanes.csv.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastanf.rows import EvaluationRow, QuarantineRow, read_lanes, read_quarantine
from fastanf.series import Name, Panel


@dataclass(frozen=True)
class StoppedLane:
    """One of them."""

    row: QuarantineRow
    panel: Panel
    name: Name
    seed: int

    @property
    def label(self) -> str:
        """lane 3 (ANF-SAC, tau=0.1, seed 2)."""
        names = ", ".join(part for part in self.name if part)
        return f"lane {self.row.lane} ({names}, seed {self.seed})"


def stopped_lanes(path: str | Path) -> list[StoppedLane]:
    """The stopped lanes of a run folder by their numbers; none for a run without quarantine.csv.

    Raises:
        ValueError: the records cannot be read, or name a lane that is not in lanes.csv.
    """
    lanes = read_lanes(path)
    return named(read_quarantine(path, lanes), lanes)


def named(
    rows: Iterable[QuarantineRow], lane_rows: Sequence[Mapping[str, Any]]
) -> list[StoppedLane]:
    """Rows of quarantine.csv, one a lane, with the names that lanes.csv gives.

    Raises:
        ValueError: a lane that is not in lanes.csv.
    """
    by_lane = {int(row["lane"]): row for row in lane_rows}
    first = {row.lane: row for row in sorted(rows, key=lambda row: -row.step)}
    found = []
    for number, row in sorted(first.items()):
        if number not in by_lane:
            raise ValueError(f"quarantine.csv names lane {number}, which is not in lanes.csv")
        lane = by_lane[number]
        panel = str(lane["env"]), float(lane["noise_fraction"])
        name = str(lane["policy"]), str(lane.get("variant") or "")
        found.append(StoppedLane(row, panel, name, int(lane["seed"])))
    return found


def without_evaluations(
    stopped: Iterable[StoppedLane], evaluations: Iterable[EvaluationRow]
) -> dict[tuple[Panel, Name], int]:
    """How many lanes of each series were stopped before they were evaluated once."""
    evaluated = {row.lane for row in evaluations}
    counts: dict[tuple[Panel, Name], int] = {}
    for lane in stopped:
        if lane.row.lane not in evaluated:
            key = lane.panel, lane.name
            counts[key] = counts.get(key, 0) + 1
    return counts
