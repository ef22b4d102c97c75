"""What makes one trained lane: its settings, its actor's tensors and where its training stood.

Read from the checkpoint of a run here, from a file of its own in agent_file.py. Tensors keep the
lane axis, L = 1, and the names of the checkpoint: `actor.0.weight`, `features.source`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from envs import registry
from envs.interface import EnvSpec
from fastanf.checkpoint import Checkpoint, block_path, lane_path, newest_checkpoint
from fastanf.config import TrainConfig
from fastanf.lane_records import blocks_from_rows
from fastanf.records import read_manifest
from fastanf.rows import EvaluationRow, read_evaluations, read_lanes, read_quarantine
from fastanf.tensor_file import check_seal, read_row

_ACTOR, _OPTIMIZER, _FEATURES = "learner/actor.", "learner/actor.optimizer.", "features/"
_UPDATES = "learner/num_updates"
_NUM_LOOKS = 10
"""For a checkpoint of a run that goes on and replaces it meanwhile."""
_GRADIENT = ".gradient"  # what connections are to grow by; of some lanes only


@dataclass(frozen=True)
class AgentState:
    """One lane as its tensors and what is known of it."""

    config: TrainConfig
    spec: EnvSpec
    """Sizes and limits of its task."""
    lane: int
    """Its number in the run it was trained in."""
    step: int
    """Environment steps it was trained for, the random ones left out."""
    num_updates: int
    evaluation: EvaluationRow | None
    """The newest one at that step or before."""
    versions: Mapping[str, str | None]
    """Of the packages that it was trained with."""
    tensors: Mapping[str, Tensor]
    """`actor.*` and `features.*`, [1, ...] where they have a lane axis."""


def read_lane(path: Path, lane: int) -> AgentState:
    """One lane of a run folder, from the newest checkpoint of its block.

    Of the checkpoint only this lane's actor and features are read.

    Raises:
        ValueError: there is no such run or lane, nothing of it is saved yet, or a file is damaged.
    """
    manifest, rows = read_manifest(path), read_lanes(path)
    known = [row["lane"] for row in rows]
    if lane not in known:
        raise ValueError(f"lane must be one of those in {str(path)!r}, {_spans(known)}, got {lane}")
    blocks = blocks_from_rows(rows)
    block = next(row["block"] for row in rows if row["lane"] == lane)
    mates = [row["lane"] for row in rows if row["block"] == block]
    config = blocks[block][mates.index(lane)]
    try:
        tensors, num_updates = _newest_lane_tensors(path, lane, block, mates.index(lane))
    except FileNotFoundError as error:
        saved = [row["lane"] for row in rows if _checkpoint(path, row["lane"], row["block"])]
        others = f", or take one of the lanes {_spans(saved)}" if saved else ""
        raise ValueError(
            f"lane {lane} of {str(path)!r} has no checkpoint yet (block {block}): wait for its "
            f"first one{others}"
        ) from error
    num_lock_steps = num_updates // config.schedule.updates_per_step
    step = num_lock_steps * config.task.envs_per_lane
    return AgentState(
        config=config,
        spec=registry.spec(config.task.env, config.task.backend),
        lane=lane,
        step=step,
        num_updates=num_updates,
        evaluation=_newest_evaluation(path, lane, step),
        versions=manifest.get("versions", {}),
        tensors=tensors,
    )


def _newest_lane_tensors(
    path: Path, lane: int, block: int, position: int
) -> tuple[dict[str, Tensor], int]:
    """As `_lane_tensors`, from the newest checkpoint.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    num_looks = 0
    while True:
        checkpoint = _checkpoint(path, lane, block)
        if checkpoint is None:
            raise FileNotFoundError
        num_looks += 1
        file = checkpoint.path / checkpoint.tensors_file
        try:
            check_seal(file, checkpoint.seals[checkpoint.tensors_file])
            return _lane_tensors(file, position)
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            if isinstance(error, FileNotFoundError) and num_looks < _NUM_LOOKS:
                continue  # a run that goes on has a newer one, and removed this
            raise ValueError(
                f"checkpoint {str(checkpoint.path)!r} cannot be read ({error}): resume the run for "
                "a new one, or restore the folder"
            ) from error


def _checkpoint(path: Path, lane: int, block: int) -> Checkpoint | None:
    """The newest of a lane; of one that was stopped, the last in which it was sound.

    Raises:
        ValueError: there are some, and none can be read.
    """
    if any(row.lane == lane for row in read_quarantine(path)):
        return newest_checkpoint(lane_path(path, lane))
    return newest_checkpoint(block_path(path, block))


def _lane_tensors(file: Path, position: int) -> tuple[dict[str, Tensor], int]:
    """The actor and the features of one lane of a block, and its number of updates."""
    stored = read_row(file, position, lambda name: name == _UPDATES or _own_name(name) is not None)
    num_updates = stored.pop(_UPDATES)
    if num_updates.shape != ():
        raise ValueError(f"{_UPDATES} has shape {tuple(num_updates.shape)}")
    tensors = {own: part for name, part in stored.items() if (own := _own_name(name))}
    for name in ("features.source", "features.since"):
        if name in tensors:  # the newest order alone
            tensors[name] = tensors[name][:, -1:]
    return tensors, int(num_updates)


def _own_name(name: str) -> str | None:
    """How a tensor of a checkpoint is called here; None where it is not wanted."""
    if name.startswith(_ACTOR):
        is_wanted = not name.startswith(_OPTIMIZER) and not name.endswith(_GRADIENT)
        return name.removeprefix("learner/") if is_wanted else None
    return name.replace("/", ".", 1) if name.startswith(_FEATURES) else None


def _newest_evaluation(path: Path, lane: int, step: int) -> EvaluationRow | None:
    if not (path / "eval.csv").is_file():
        return None
    rows = [row for row in read_evaluations(path) if row.lane == lane and row.step <= step]
    return max(rows, key=lambda row: row.step, default=None)


def _spans(numbers: list[int]) -> str:
    """Whole numbers in words: 0..3, 6."""
    spans: list[list[int]] = []
    for number in sorted(set(numbers)):
        if spans and number == spans[-1][-1] + 1:
            spans[-1][1:] = [number]
        else:
            spans.append([number])
    return ", ".join("..".join(map(str, span)) for span in spans)
