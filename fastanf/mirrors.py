"""TensorBoard and Weights & Biases as copies of the records; they may fail, the run goes on.

Steps are a lane's environment steps; each lane has its own sub-folder of tb/, or its own axis.
"""

import contextlib
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from importlib import util
from pathlib import Path
from typing import Any

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
        self._writers: dict[int, Any] = {}
        self._wandb_run: Any = None

    def name_lanes(self, lane_rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes lanes, further ones too, by their rows of lanes.csv."""
        self.labels |= {int(row["lane"]): _mirror_label(row) for row in lane_rows}

    def forget_after(self, lanes: Collection[int], last_step: int) -> None:
        """Lets TensorBoard forget what it has of these lanes beyond a step."""
        for lane in lanes:
            self.purge_after[lane] = last_step
            writer = self._writers.pop(lane, None)
            if writer is not None:
                with contextlib.suppress(Exception):
                    writer.close()

    def add(self, rows: Sequence[AnyRow]) -> None:
        """Copies rows that were recorded."""
        if self.tensorboard:
            try:
                for row in rows:
                    writer = self._writer(row.lane)
                    for tag, value in _scalars(row).items():
                        writer.add_scalar(tag, value, row.step)
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

    def _writer(self, lane: int) -> Any:
        if lane not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            purge = self.purge_after.get(lane)
            self._writers[lane] = SummaryWriter(
                str(self.path / "tb" / self.labels[lane]),
                purge_step=None if purge is None else purge + 1,
            )
        return self._writers[lane]

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
            for writer in self._writers.values():
                writer.close()
            if self._wandb_run is not None:
                self._wandb_run.finish()
        self._writers, self._wandb_run = {}, None


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
        prefix, names = (
            "train/",
            columns(TrainingRow)[columns(TrainingRow).index("episode_return") :],
        )
    values = {prefix + name: float(getattr(row, name)) for name in names}
    return {tag: value for tag, value in values.items() if not math.isnan(value)}


def _mirror_label(row: Mapping[str, Any]) -> str:
    parts = [f"lane{int(row['lane']):02d}", str(row["policy"]), str(row.get("variant") or "")]
    label = "_".join(part for part in [*parts, f"seed{row['seed']}"] if part)
    return file_stem(label)
