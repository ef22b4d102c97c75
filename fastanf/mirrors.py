"""TensorBoard and Weights & Biases as copies of the records; they may fail, the run goes on.

Steps are a lane's environment steps; each lane has its own sub-folder of tb/, or its own axis.
"""

import contextlib
import logging
import math
from collections.abc import Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any

from fastanf.event_file import EventFile
from fastanf.plain_text import file_stem
from fastanf.rows import (
    AnyRow,
    EvaluationRow,
    FeatureRow,
    ProfileRow,
    QuarantineRow,
    TopologyRow,
    TrainingRow,
    columns,
)

log = logging.getLogger(__name__)

_OF_TRAINING = columns(TrainingRow)[columns(TrainingRow).index("episode_return") :]
WANDB_MODES = ("disabled", "online", "offline")


class Mirrors:
    """TensorBoard and wandb, imported when first written to; off after their first failure.

    Args:
        path: of the run folder.
        lane_rows: one flat mapping a lane; must hold lane, policy, seed.
        tensorboard: whether to write TensorBoard events.
        wandb_mode: one of `WANDB_MODES`.

    Raises:
        ValueError: an unknown mode, or a mirror that is not installed.
    """

    def __init__(
        self, path: Path, lane_rows: Sequence[Mapping[str, Any]], tensorboard: bool, wandb_mode: str
    ) -> None:
        if wandb_mode not in WANDB_MODES:
            raise ValueError(
                f"wandb_mode {wandb_mode!r} is unknown: one of {', '.join(WANDB_MODES)}"
            )
        if wandb_mode != "disabled" and util.find_spec("wandb") is None:
            raise ValueError(
                f"wandb_mode {wandb_mode!r} needs wandb: pip install 'fastanf[wandb]', or disabled"
            )
        if tensorboard and util.find_spec("tensorboard") is None:
            raise ValueError("tensorboard True needs tensorboard: pip install it, or use False")
        self.path = path
        self.labels: dict[int, str] = {}
        self.name_lanes(lane_rows)
        self.purge_after: dict[int, int] = {}
        """Lane -> step after which TensorBoard forgets what it has, for a run that goes on."""
        self.tensorboard = tensorboard
        self.wandb_mode = wandb_mode
        self._event_files: dict[int, EventFile] = {}
        self._wandb_run: Any = None

    def name_lanes(self, lane_rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes lanes, further ones too, by their rows of lanes.csv."""
        self.labels |= {int(row["lane"]): _mirror_label(row) for row in lane_rows}

    def forget_beyond(self, last_steps: Mapping[int, int]) -> None:
        """Lets TensorBoard forget what it has of some lanes beyond a step, given by lane."""
        for lane, last_step in last_steps.items():
            self.purge_after[lane] = last_step
            self._event_files.pop(lane, None)

    def add(self, rows: Sequence[AnyRow]) -> None:
        """Copies rows that were recorded, of any classes: those of a lane and step as one event."""
        if self.tensorboard:
            try:
                for lane, steps in _by_lane(rows).items():
                    self._event_file(lane).add(steps.items())
            except Exception as error:
                self.tensorboard = False
                log.warning("TensorBoard is off from here on: %s", error)
        if self.wandb_mode != "disabled":
            try:
                for row in rows:
                    label = self.labels[row.lane]
                    scalars = {f"{label}/{tag}": value for tag, value in _scalars(row).items()}
                    self._wandb().log({f"{label}/step": row.step, **scalars})
            except Exception as error:
                self.wandb_mode = "disabled"
                log.warning("wandb is off from here on: %s", error)

    def _event_file(self, lane: int) -> EventFile:
        if lane not in self._event_files:
            folder = self.path / "tb" / self.labels[lane]
            self._event_files[lane] = EventFile(folder, self.purge_after.get(lane))
        return self._event_files[lane]

    def _wandb(self) -> Any:
        if self._wandb_run is None:
            import wandb  # pyright: ignore[reportMissingImports]

            if (self.path / "wandb").is_symlink():  # of a folder from elsewhere, to anywhere
                raise ValueError(f"{self.path / 'wandb'} is a link")
            name = self.path.resolve().name
            self._wandb_run = wandb.init(
                project="fastanf", mode=self.wandb_mode, group=name, name=name, dir=str(self.path)
            )
            # Blocks run one after the other: each lane has an axis of its own.
            for label in self.labels.values():
                self._wandb_run.define_metric(f"{label}/*", step_metric=f"{label}/step")
        return self._wandb_run

    def close(self) -> None:
        """Ends what was begun."""
        with contextlib.suppress(Exception):
            if self._wandb_run is not None:
                self._wandb_run.finish()
        self._event_files, self._wandb_run = {}, None


def _scalars(row: AnyRow) -> dict[str, float]:
    """Tag -> value of what a mirror shows of a row; quantities that are nan are left out."""
    if isinstance(row, EvaluationRow):
        return {"eval/return_mean": row.return_mean, "eval/return_std": row.return_std}
    if isinstance(row, QuarantineRow):
        return {"eval/stopped": row.step}
    if isinstance(row, ProfileRow):
        stage = f"profile/{row.part}_{row.stage.replace(' ', '_')}"
        return {f"{stage}_ms": row.mean_ms, f"{stage}_share": row.share}
    if isinstance(row, TopologyRow):
        prefix, names = f"topology/{row.network}_{row.layer}/", ("active", "precision")
    elif isinstance(row, FeatureRow):
        prefix, names = f"features/{row.network}/", ("real_weight", "noise_weight")
    else:
        prefix, names = "train/", _OF_TRAINING
    values = {prefix + name: float(getattr(row, name)) for name in names}
    return {tag: value for tag, value in values.items() if not math.isnan(value)}


def _by_lane(rows: Sequence[AnyRow]) -> dict[int, dict[int, dict[str, float]]]:
    """Lane -> step -> tag -> value."""
    found: dict[int, dict[int, dict[str, float]]] = {}
    for row in rows:
        found.setdefault(row.lane, {}).setdefault(row.step, {}).update(_scalars(row))
    return found


def _mirror_label(row: Mapping[str, Any]) -> str:
    parts = [f"lane{int(row['lane']):02d}", str(row["policy"]), str(row.get("variant") or "")]
    label = "_".join(part for part in [*parts, f"seed{row['seed']}"] if part)
    return file_stem(label)
