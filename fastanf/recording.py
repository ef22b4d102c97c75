"""What the runner writes down: rows of the records from a block's state, and the facts of a run.

A lane that was stopped (quarantine.py) has no rows, though its slots in the block go on.

Axes: L lanes, M episodes, C critics. Tensors cross to the host here, at evaluations only.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from fastanf import kernels
from fastanf.algorithms.actor_critic import ACTOR
from fastanf.block import TrainingBlock
from fastanf.config import TrainConfig
from fastanf.rows import (
    EvaluationRow,
    ProfiledTrainingRow,
    QuarantineRow,
    TopologyRow,
    TrainingRow,
)
from fastanf.settings import RunConfig
from fastanf.sparse.connectivity import count_connections
from fastanf.sparse.layers import StackedLinear
from fastanf.study import StudySpec


def manifest(
    run: RunConfig, device: str, command_line: Sequence[str], spec: StudySpec | None = None
) -> dict[str, Any]:
    """What the run folder says of the command and the machine, beside what it gathers itself.

    Args:
        run: settings of the command.
        device: that its blocks train on.
        command_line: its arguments.
        spec: the study of a file, whose name and text are kept; one without a name is none.
    """
    return {
        "run": dataclasses.asdict(run),
        "study": {"name": spec.name, "file": spec.text} if spec and spec.name else None,
        "command_line": shlex.join(command_line),
        "command_lines": [shlex.join(command_line)],
        "device": device,
        "kernels": kernels.implementation(device.partition(":")[0]),
        "num_threads": run.num_threads or torch.get_num_threads(),
    }


def continued_manifest(
    before: Mapping[str, Any],
    run: RunConfig,
    device: str,
    command_line: Sequence[str],
    spec: StudySpec,
) -> dict[str, Any]:
    """What changes in a study's manifest when a further command goes on with it.

    Args:
        before: the manifest as it stands; its commands are kept.
        run: settings of the command.
        device: that its blocks train on.
        command_line: its arguments.
        spec: the study as the command found it.
    """
    now = manifest(run, device, command_line, spec)
    del now["command_line"]  # the first one stays
    return {**now, "command_lines": [*before.get("command_lines", []), *now["command_lines"]]}


def lane_rows(blocks: Sequence[Sequence[TrainConfig]]) -> list[dict[str, Any]]:
    """One flat row a lane, with the numbers of its lane and block."""
    rows = []
    for index, block in enumerate(blocks):
        for lane in block:
            rows.append({"lane": len(rows), "block": index, **lane.flat()})
    return rows


class Meter:
    """Counts a lane's environment steps against the clock, pauses left out."""

    def __init__(self) -> None:
        self._begin_()

    def _begin_(self) -> None:
        self._start = time.perf_counter()
        self._num_env_steps = self._num_lock_steps = 0

    def count(self, num_env_steps: int) -> None:
        """One lock step of `num_env_steps` environment steps a lane was done."""
        self._num_env_steps += num_env_steps
        self._num_lock_steps += 1

    @property
    def steps_per_s(self) -> float:
        """Environment steps of a lane per second since the last `take`."""
        return self._num_env_steps / max(time.perf_counter() - self._start, 1e-9)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent within does not count."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def take(self) -> tuple[float, float]:
        """Environment steps and lock steps of a lane per second since the last call."""
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        rates = self._num_env_steps / elapsed, self._num_lock_steps / elapsed
        self._begin_()
        return rates


def evaluation_rows(
    block: TrainingBlock,
    lanes: Sequence[int],
    returns: np.ndarray,
    step: int,
    updates: int,
    wall_s: float,
) -> list[EvaluationRow]:
    """One row a lane from returns [L, M]; an episode that broke down is nan and left out."""
    rows = zip(lanes, block.lanes, map(_sound, returns), strict=True)
    return [
        EvaluationRow(
            lane=lane,
            policy=config.algorithm.policy,
            env=config.task.env,
            seed=config.algorithm.seed,
            noise_fraction=config.noise.noise_fraction,
            variant=config.algorithm.variant,
            step=step,
            updates=updates,
            wall_s=round(wall_s, 3),
            return_mean=float(row.mean()) if row.size else math.nan,
            return_std=float(row.std()) if row.size else math.nan,
            return_min=float(row.min()) if row.size else math.nan,
            return_max=float(row.max()) if row.size else math.nan,
            episodes=row.size,
        )
        for lane, config, row in itertools.compress(rows, block.learner.watch.are_recorded)
    ]


def _sound(returns: np.ndarray) -> np.ndarray:
    return returns[~np.isnan(returns)]


def quarantine_rows(
    block: TrainingBlock, lanes: Sequence[int], found: Mapping[int, str], step: int, updates: int
) -> list[QuarantineRow]:
    """One row a lane that was stopped just now.

    Args:
        block: that trains.
        lanes: their numbers.
        found: by the position of a lane in the block, the cause.
        step: environment steps of a lane.
        updates: of a lane.
    """
    checkpoint_steps = block.learner.watch.checkpoint_steps
    return [
        QuarantineRow(lanes[position], step, updates, found[position], checkpoint_steps[position])
        for position in sorted(found)
    ]


def training_rows(
    block: TrainingBlock,
    lanes: Sequence[int],
    step: int,
    updates: int,
    pace: tuple[float, float],
    stages: Mapping[str, float] | None = None,
) -> list[TrainingRow]:
    """One row a lane: the last update's losses, and the training episodes since the last call.

    Args:
        block: that trains.
        lanes: their numbers.
        step: environment steps of a lane.
        updates: of a lane.
        pace: environment steps and lock steps of a lane per second.
        stages: columns of a profiled run (stage_records.py), None in one that is not.
    """
    row_of = TrainingRow if stages is None else ProfiledTrainingRow
    env_steps_per_s, lock_steps_per_s = pace
    losses = block.algorithm.losses
    critic, actor, value, entropy, temperature = (
        torch.stack(losses).detach().cpu().double().tolist()
    )
    failures = block.collector.num_failures.tolist()
    all_finished, are_recorded = block.collector.take_finished(), block.learner.watch.are_recorded
    rows = []
    for index, (lane, finished) in enumerate(zip(lanes, all_finished, strict=True)):
        if not are_recorded[index]:
            continue
        rows.append(
            row_of(
                lane=lane,
                step=step,
                updates=updates,
                episodes=len(finished),
                episode_return=float(np.mean(finished)) if finished else float("nan"),
                critic_loss=critic[index],
                actor_loss=actor[index],
                temperature=temperature[index],
                q_mean=value[index],
                log_prob=-entropy[index],
                env_steps_per_s=env_steps_per_s,
                lane_updates_per_s=lock_steps_per_s * block.config.schedule.updates_per_step,
                sim_failures=failures[index],
                **(stages or {}),
            )
        )
    return rows


def topology_rows(
    block: TrainingBlock, lanes: Sequence[int], step: int, updates: int
) -> list[TopologyRow]:
    """One row a lane, network and sparse layer; the first layer's connections split into real
    and noise.
    """
    return [
        row
        for topology in block.algorithm.topologies
        for index, layer, _ in topology.layers
        for row in _layer_rows(block, lanes, step, updates, topology.network == ACTOR, index, layer)
    ]


def _layer_rows(
    block: TrainingBlock,
    lanes: Sequence[int],
    step: int,
    updates: int,
    is_actor: bool,
    index: int,
    layer: StackedLinear,
) -> Iterator[TopologyRow]:
    connections = layer.connection_mask()
    assert connections is not None
    mask = connections.unflatten(0, (len(lanes), -1))  # [L, C, O, I]
    active, possible = mask.flatten(2).sum(2).tolist(), connections[0].numel()
    fewest = layer.fewest_active().view(len(lanes), -1).tolist()
    split = None
    if index == 0:
        num_actions = 0 if is_actor else block.algorithm.num_actions
        split = count_connections(mask, block.features.real_columns(), num_actions)
    for (position, lane), copy in itertools.product(enumerate(lanes), range(mask.shape[1])):
        count = active[position][copy]
        if fewest[position][copy] == possible or position in block.learner.watch.stopped:
            continue
        row = TopologyRow(
            lane=lane,
            step=step,
            updates=updates,
            network="actor" if is_actor else f"critic{copy + 1}",
            layer=index,
            active=count,
            density=count / possible,
        )
        if split is not None:
            row = dataclasses.replace(
                row,
                real_connections=int(split.real[position, copy]),
                noise_connections=int(split.noise[position, copy]),
                precision=float(split.real_share[position, copy]),
            )
        yield row
