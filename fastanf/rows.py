"""The rows of a run's records and their text: written as CSV lines, read back with their types.

    eval.csv        one row a lane and evaluation           (EvaluationRow)
    train.csv       one row a lane and training interval    (TrainingRow)
    topology.csv    one row a lane, network, layer and step (TopologyRow)
    features.csv    one row a lane, network and evaluation  (FeatureRow)
    quarantine.csv  one row a lane that was stopped         (QuarantineRow)
    stages.csv      one row a block, stage and training interval, with --profile (ProfileRow)
    lanes.csv       one row a lane, every field of its configuration

A line is a row: no cell holds a line break, so that the torn last line of a killed process is found
by its missing end. Readers skip it.
"""

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, make_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fastanf.instrument import STEP_STAGES, UPDATE_STAGES
from fastanf.row_checks import LaneRows, check_connections, check_lane, check_once_each
from fastanf.strict_json import strict_loads
from fastanf.tables import bad_cell, line_numbers, typed_columns, whole_rows

NAN = math.nan


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One evaluation of one lane; `return_*` are over its deterministic episodes."""

    lane: int
    policy: str
    env: str
    seed: int
    noise_fraction: float
    variant: str
    step: int
    updates: int
    wall_s: float
    return_mean: float
    return_std: float
    return_min: float
    return_max: float
    episodes: int


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """Figures of one lane's last update before the row; nan where there is no such quantity.

    They are not means over the updates since the row before. `episode_return` is the mean return of
    the `episodes` training episodes that ended since then; `env_steps_per_s` and
    `lane_updates_per_s` are of the time since then too. `sim_failures` counts the steps since the
    run began whose simulation broke down; they are not stored, and their episodes are left out.
    """

    lane: int
    step: int
    updates: int
    episodes: int = 0
    episode_return: float = NAN
    critic_loss: float = NAN
    actor_loss: float = NAN
    temperature: float = NAN
    q_mean: float = NAN
    log_prob: float = NAN
    env_steps_per_s: float = NAN
    lane_updates_per_s: float = NAN
    sim_failures: int = 0


@dataclass(frozen=True, slots=True)
class TopologyRow:
    """The connections of one sparse layer of one lane after a topology change.

    `network` is "actor", "critic1" or "critic2"; `layer` counts from 0; `density` is the active
    share of the layer. `real_connections` and `noise_connections` start at a real and at a noise
    feature; `precision` is real / (real + noise), nan where the layer sees no features.
    """

    lane: int
    step: int
    updates: int
    network: str
    layer: int
    active: int
    density: float = NAN
    real_connections: int = 0
    noise_connections: int = 0
    precision: float = NAN


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """What one network's first layer makes of each feature, whatever its place in the input.

    `network` is as in a TopologyRow. `real_weight` and `noise_weight` are the mean |weight| of a
    real and of a noise feature over the hidden units, with zeros where no connection is; nan
    without such features. `connections` counts each feature's active connections, in words
    separated by blanks: the `num_real` real features in the order of the task, then noise features
    up to `MAX_NOISE_FEATURES`; the identity of a feature counts, not where a permutation has put
    it. It is empty where the layer is dense.
    """

    lane: int
    step: int
    updates: int
    network: str
    num_real: int
    num_features: int
    real_weight: float = NAN
    noise_weight: float = NAN
    connections: str = ""


MAX_NOISE_FEATURES = 256
"""Noise features that are recorded one by one. They are exchangeable, so that the first ones stand
for all; the totals are in topology.csv."""


@dataclass(frozen=True, slots=True)
class QuarantineRow:
    """A lane that is broken and not recorded after `step`, where that was found.

    `checkpoint_step` is that of the last checkpoint that holds the lane sound, -1 without one; it
    depends on when checkpoints were written.
    """

    lane: int
    step: int
    updates: int
    cause: str
    checkpoint_step: int = -1


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """One stage of a block's updates or training steps since the row before (stage_table.py).

    `part` is "update" or "step", of which the stages sum to the whole. `per_step` is how often it
    occurs in one; p20, p50, p80 are of an occurrence, `mean_ms` of an update or a training step.
    """

    lane: int
    """The block's first lane."""
    step: int
    updates: int
    part: str
    stage: str
    per_step: float = NAN
    p20_ms: float = NAN
    p50_ms: float = NAN
    p80_ms: float = NAN
    mean_ms: float = NAN
    share: float = NAN
    useful_gflop_s: float = NAN
    done_gflop_s: float = NAN
    of_sgemm: float = NAN
    gb_s: float = NAN
    of_copy: float = NAN
    limit: str = ""


def stage_column(part: str, stage: str) -> str:
    """The column of train.csv with a stage's milliseconds per update or training step."""
    return f"{part}_{stage.replace(' ', '_')}_ms"


if TYPE_CHECKING:
    ProfiledTrainingRow = TrainingRow
else:
    ProfiledTrainingRow = make_dataclass(
        "ProfiledTrainingRow",
        [
            (stage_column(part, stage), float, NAN)
            for part, stages in (("update", UPDATE_STAGES), ("step", STEP_STAGES))
            for stage in (*stages, "other")
        ],
        bases=(TrainingRow,),
        frozen=True,
        slots=True,
    )
    ProfiledTrainingRow.__doc__ = "A TrainingRow of a profiled run, with its block's stages."

Row = TypeVar("Row", EvaluationRow, TrainingRow, TopologyRow, FeatureRow, QuarantineRow, ProfileRow)
AnyRow = EvaluationRow | TrainingRow | TopologyRow | FeatureRow | QuarantineRow | ProfileRow
FILES: dict[type, str] = {
    EvaluationRow: "eval.csv",
    TrainingRow: "train.csv",
    TopologyRow: "topology.csv",
    FeatureRow: "features.csv",
    QuarantineRow: "quarantine.csv",
}
PROFILED_FILES: dict[type, str] = {
    EvaluationRow: "eval.csv",
    ProfiledTrainingRow: "train.csv",
    TopologyRow: "topology.csv",
    FeatureRow: "features.csv",
    QuarantineRow: "quarantine.csv",
    ProfileRow: "stages.csv",
}
"""The tables of a run with --profile."""


def columns(kind: type) -> tuple[str, ...]:
    """The columns of a row class, in the order of its file."""
    return tuple(field.name for field in fields(kind))


def read_lanes(path: str | Path) -> list[dict[str, Any]]:
    """The rows of lanes.csv as they were given to `RunFolder.create` (tuples as lists).

    Raises:
        ValueError: the table is damaged: unlike the others it is replaced as a whole.
    """
    path = _file(path, "lanes.csv")
    header, *cells = whole_rows(path, may_be_torn=False)
    rows = [dict(zip(header, map(_lane_value, row), strict=True)) for row in cells]
    for number, row in enumerate(rows):
        if repr(row.get("lane")) != str(number):
            raise bad_cell(path, number + 2, "lane", str(number), row.get("lane"))
    return rows


def read_evaluations(path: str | Path, lanes: LaneRows | None = None) -> list[EvaluationRow]:
    """The rows of eval.csv. A torn last line is skipped.

    Args:
        path: the run folder or the file.
        lanes: the rows of lanes.csv, where the table must agree with them.

    Raises:
        ValueError: what is no row as it was written, by file, line and column.
    """
    return _read(path, EvaluationRow, lanes)


def read_training(path: str | Path, lanes: LaneRows | None = None) -> list[TrainingRow]:
    """The rows of train.csv, as `read_evaluations`."""
    return _read(path, TrainingRow, lanes)


def read_topology(path: str | Path, lanes: LaneRows | None = None) -> list[TopologyRow]:
    """The rows of topology.csv, as `read_evaluations`."""
    return _read(path, TopologyRow, lanes)


def read_features(path: str | Path, lanes: LaneRows | None = None) -> list[FeatureRow]:
    """The rows of features.csv, as `read_evaluations`; none for a run older than this table."""
    file = _file(path, FILES[FeatureRow])
    return _read(file, FeatureRow, lanes) if file.exists() else []


def read_quarantine(path: str | Path, lanes: LaneRows | None = None) -> list[QuarantineRow]:
    """The rows of quarantine.csv, as `read_evaluations`; none for a run older than this table."""
    file = _file(path, FILES[QuarantineRow])
    return _read(file, QuarantineRow, lanes) if file.exists() else []


def read_profile(path: str | Path, lanes: LaneRows | None = None) -> list[ProfileRow]:
    """The rows of stages.csv, as `read_evaluations`."""
    return _read(path, ProfileRow, lanes)


def csv_line(cells: Iterable[Any]) -> str:
    """One line of a table, with its end.

    Raises:
        ValueError: a cell holds a line break.
    """
    (line,) = _csv_lines([cells])
    return line


def row_lines(rows: Sequence[AnyRow]) -> list[str]:
    """The lines of some rows of one class, each with its end and its cells in their columns' types.

    Raises:
        ValueError: a cell holds a line break.
    """
    if not rows:
        return []
    cells = _cells(type(rows[0]))  # int, float and str also unwrap the scalars of numpy and torch
    return _csv_lines([kind(getattr(row, name)) for name, kind in cells] for row in rows)


@cache
def _cells(kind: type) -> tuple[tuple[str, Any], ...]:
    return tuple((field.name, field.type) for field in fields(kind))


class _Lines(list[str]):
    """What a csv.writer writes into, a line at a time."""

    write = list.append


def _csv_lines(rows: Iterable[Iterable[Any]]) -> list[str]:
    lines = _Lines()
    csv.writer(lines, lineterminator="\n").writerows(rows)
    for text in lines:
        if text.count("\n") != 1 or "\r" in text:  # a line is a row: torn rows are found by it
            raise ValueError(f"record {text!r} has a line break inside a field: none is allowed")
    return lines


def read_chosen(path: Path, kind: type[Row], lines: Mapping[int, bytes]) -> list[Row]:
    """Some rows of a table.

    Args:
        path: the file, for errors.
        kind: class of its rows.
        lines: that are read, by their numbers, the header first.

    Raises:
        ValueError: as `read_evaluations`.
    """
    return _read(path, kind, None, lines)


def lanes_text(lane_rows: Sequence[Mapping[str, Any]]) -> str:
    """The whole of lanes.csv: the union of the rows' keys as header, lane and block first."""
    header = list(dict.fromkeys(["lane", "block", *(key for row in lane_rows for key in row)]))
    rows = [[_lane_cell(row.get(key)) for key in header] for row in lane_rows]
    return "".join(map(csv_line, [header, *rows]))


def _lane_cell(value: Any) -> str:
    """A bare word for a string, JSON for all else; a string that would read as JSON is quoted."""
    if isinstance(value, str) and _lane_value(value) == value:
        return value
    return json.dumps(
        value, default=lambda other: other.item() if hasattr(other, "item") else str(other)
    )


def _lane_value(cell: str) -> Any:
    try:
        return strict_loads(cell)
    except ValueError:
        return cell


def _file(path: str | Path, name: str) -> Path:
    path = Path(path)
    return path / name if path.is_dir() else path


def _read(
    path: str | Path,
    kind: type[Row],
    lanes: LaneRows | None = None,
    lines: Mapping[int, bytes] | None = None,
) -> list[Row]:
    path = _file(path, (FILES | PROFILED_FILES)[kind])
    kinds: dict[str, Any] = {field.name: field.type for field in fields(kind)}
    rows = [kind(*cells) for cells in zip(*typed_columns(path, kinds, lines), strict=True)]
    for line, row in zip(line_numbers(lines), rows, strict=False):
        if isinstance(row, FeatureRow):
            check_connections(path, line, row, MAX_NOISE_FEATURES)
        if lanes is not None:
            check_lane(path, line, row, lanes)
    if kind is QuarantineRow:
        check_once_each(path, zip(line_numbers(lines), rows, strict=False))
    return rows
