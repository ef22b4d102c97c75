"""What makes one trained lane: its settings, its actor's tensors and where its training stood.

Read from the checkpoint of a run here, from a file of its own in agent_file.py. Tensors keep the
lane axis, L = 1, and the names of the checkpoint: `actor.0.weight`, `features.source`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from envs import registry
from envs.interface import EnvSpec
from fastanf import checkpoint
from fastanf.config import OPTIONS, TrainConfig, from_flat
from fastanf.records import read_manifest
from fastanf.rows import EvaluationRow, read_evaluations, read_lanes

_ACTOR, _OPTIMIZER, _FEATURES = "learner/actor.", "learner/actor.optimizer.", "features/"
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
    block = next(row["block"] for row in rows if row["lane"] == lane)
    mates = [row["lane"] for row in rows if row["block"] == block]
    row = next(row for row in rows if row["lane"] == lane)
    config = from_flat({name: value for name, value in row.items() if name in OPTIONS})
    folder = _saved(path, block)
    if folder is None:
        saved = [row["lane"] for row in rows if _saved(path, row["block"]) is not None]
        others = f", or take one of the lanes {_spans(saved)}" if saved else ""
        raise ValueError(
            f"lane {lane} of {str(path)!r} has no checkpoint yet (block {block}): wait for its "
            f"first one{others}"
        )
    try:
        state = json.loads((folder / "state.json").read_text())
        if state["format"] != checkpoint.FORMAT:
            raise ValueError(f"format {state['format']!r}, this version reads {checkpoint.FORMAT}")
        tensors, num_updates = _lane_tensors(folder / "tensors.safetensors", mates.index(lane))
        # Not the step of state.json: a run that goes on may replace one file between two reads.
        num_lock_steps = num_updates // config.schedule.updates_per_step
    except (OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError) as error:
        raise ValueError(
            f"checkpoint {str(folder)!r} cannot be read ({error}): resume the run for a new one, "
            "or restore the folder"
        ) from error
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


def _saved(path: Path, block: int) -> Path | None:
    return checkpoint.standing_path(checkpoint.block_path(path, block))


def _lane_tensors(file: Path, position: int) -> tuple[dict[str, Tensor], int]:
    """The actor and the features of one lane of a block, and its number of updates."""
    tensors = {}
    with safe_open(file, "pt") as stored:
        for name in stored.keys():  # noqa: SIM118 - not a mapping
            own_name = _own_name(name)
            if own_name is not None:
                part = stored.get_slice(name)
                has_lanes = len(part.get_shape()) > 0
                tensor = part[position : position + 1] if has_lanes else stored.get_tensor(name)
                tensors[own_name] = tensor
        num_updates = int(stored.get_tensor("learner/num_updates"))
    for name in ("features.source", "features.since"):
        if name in tensors:  # the newest order alone
            tensors[name] = tensors[name][:, -1:]
    return tensors, num_updates


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
