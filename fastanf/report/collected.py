"""The records of some runs as they are at this moment, lane by lane.

Reads what `fastanf.records` wrote, also while a run goes on: torn last lines are skipped, lanes may
be at different steps or not begun.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fastanf.config import OPTIONS, TrainConfig
from fastanf.lane_records import config_from_row
from fastanf.options import shown
from fastanf.records import read_manifest
from fastanf.rows import (
    EvaluationRow,
    FeatureRow,
    QuarantineRow,
    TopologyRow,
    TrainingRow,
    read_evaluations,
    read_features,
    read_lanes,
    read_quarantine,
    read_topology,
    read_training,
)

NEEDED = ("lane", "env", "noise_fraction", "policy", "variant", "seed", "max_timesteps")
"""Columns of lanes.csv without which there is no report."""


@dataclass(frozen=True, eq=False)
class LaneRecord:
    """All that is recorded of one lane; rows ascend in steps."""

    run: str
    """Name of its run."""
    number: int
    """Its number there."""
    settings: Mapping[str, Any]
    """Its row of lanes.csv."""
    config: TrainConfig | None
    """The same as a configuration; None where this version does not know a setting of it."""
    evaluations: tuple[EvaluationRow, ...]
    """At most one a step."""
    training: tuple[TrainingRow, ...]
    topology: tuple[TopologyRow, ...]
    features: tuple[FeatureRow, ...]
    quarantine: QuarantineRow | None = None
    """Where and why it was stopped; None of a sound lane."""

    @property
    def env(self) -> str:
        return str(self.settings["env"])

    @property
    def noise_fraction(self) -> float:
        return float(self.settings["noise_fraction"])

    @property
    def policy(self) -> str:
        return str(self.settings["policy"])

    @property
    def variant(self) -> str:
        return str(self.settings["variant"])

    @property
    def seed(self) -> int:
        return int(self.settings["seed"])

    @property
    def max_steps(self) -> int:
        """Environment steps that it was to train."""
        return int(self.settings["max_timesteps"])

    @property
    def last_step(self) -> int:
        """Of its last evaluation; 0 before the first."""
        return self.evaluations[-1].step if self.evaluations else 0

    @property
    def is_finished(self) -> bool:
        return self.last_step >= self.max_steps

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes of it: it is finished, or was stopped."""
        return self.is_finished or self.quarantine is not None

    @property
    def progress(self) -> tuple[int, int]:
        """Steps that are evaluated, and steps to train; of a stopped lane those until then."""
        if self.quarantine is not None:
            return self.quarantine.step, self.quarantine.step
        return min(self.last_step, self.max_steps), self.max_steps

    @property
    def num_failures(self) -> int:
        """Steps whose simulation broke down."""
        return self.training[-1].sim_failures if self.training else 0


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One run folder."""

    path: Path
    name: str
    """The end of its path that no other run of the report has."""
    manifest: Mapping[str, Any]
    lanes: tuple[LaneRecord, ...]
    written_at: datetime
    """When the newest record was written, UTC."""

    @property
    def status(self) -> str:
        return str(self.manifest.get("status", "unknown"))

    @property
    def progress(self) -> float:
        """Share of the steps to train that are evaluated."""
        done, planned = map(sum, zip(*(lane.progress for lane in self.lanes), strict=True))
        return done / max(1, planned)


def read_runs(paths: Sequence[Path]) -> list[RunRecord]:
    """The runs in these folders.

    Raises:
        ValueError: a folder that holds no readable run, or one that is given twice.
    """
    resolved = [path.resolve() for path in paths]
    for index, path in enumerate(resolved):
        if path in resolved[:index]:
            raise ValueError(f"RUN {str(paths[index])!r} is given twice; give each run once")
    names = short_names(resolved)
    return [_read_run(path, name) for path, name in zip(paths, names, strict=True)]


def short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest end of each path that tells it from all others."""
    names = []
    for path in paths:
        others = [other for other in paths if other != path]
        length = 1
        while length < len(path.parts) and any(
            other.parts[-length:] == path.parts[-length:] for other in others
        ):
            length += 1
        names.append("/".join(path.parts[-length:]))
    return names


def _read_run(path: Path, name: str) -> RunRecord:
    manifest = read_manifest(path)
    rows = read_lanes(path)
    _check_lanes(path / "lanes.csv", rows)
    evaluations = _by_lane(read_evaluations(path, rows))
    training = _by_lane(read_training(path, rows))
    topology, features = _by_lane(read_topology(path, rows)), _by_lane(read_features(path, rows))
    quarantine = _by_lane(read_quarantine(path, rows))
    lanes = []
    for row in rows:
        number = int(row["lane"])
        lanes.append(
            LaneRecord(
                name,
                number,
                row,
                _config(row),
                tuple(evaluations.get(number, ())),
                tuple(training.get(number, ())),
                tuple(topology.get(number, ())),
                tuple(features.get(number, ())),
                next(iter(quarantine.get(number, ())), None),
            )
        )
    return RunRecord(path, name, manifest, tuple(lanes), _written_at(path))


def _check_lanes(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """See whether every lane has what a report needs of it."""
    if not rows:
        raise ValueError(f"{str(path)!r} holds no lane: give the folder of a run")
    missing = [column for column in NEEDED if column not in rows[0]]
    if missing:
        raise ValueError(f"{str(path)!r} lacks the columns {', '.join(missing)}")
    for row in rows:
        if type(row.get("block")) is not int:
            raise ValueError(
                f"{str(path)!r} lane {row['lane']}: block must be an integer, got "
                f"{shown(row.get('block'))}"
            )
        for name in NEEDED:
            label = f"{str(path)!r} lane {row['lane']}: {name}"
            if name in ("noise_fraction", "seed", "max_timesteps"):
                OPTIONS[name].check(row[name], label)
            elif name != "lane" and not isinstance(row[name], str):
                raise ValueError(f"{label} must be a name, got {shown(row[name])}")


class _LaneRow(Protocol):
    @property
    def lane(self) -> int: ...
    @property
    def step(self) -> int: ...


_Row = TypeVar("_Row", bound=_LaneRow)


def _by_lane(rows: Iterable[_Row]) -> dict[int, list[_Row]]:
    """Rows of each lane in the order of their steps, which is that of the file."""
    lanes: dict[int, list[_Row]] = {}
    for row in rows:
        lanes.setdefault(row.lane, []).append(row)
    return lanes


def _config(row: Mapping[str, Any]) -> TrainConfig | None:
    try:
        return config_from_row(row)
    except ValueError:
        return None


def _written_at(path: Path) -> datetime:
    files = [path / name for name in ("manifest.json", "eval.csv", "train.csv")]
    newest = max(file.stat().st_mtime for file in files if file.exists())
    return datetime.fromtimestamp(newest, UTC)
