"""What an arm's networks cost: parameters and operations from its settings, pace from its records.

Per arm (its first lane stands for all: settings agree, and sparse layers have exact counts):

    parameters      of the actor and both critics, biases included; targets are not counted
    action          2 operations (multiply, add) for each connection of the actor
    update          of actor and critics with optimizer and targets, as counted in workload.py:
                    products, Adam's 15 operations a parameter, drawing noise features
    *_active        with the connections that are there; *_dense with all that could be

Pace is that of the block that a lane trained in: lanes of one block take their steps together.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from envs import registry
from fastanf.config import TrainConfig
from fastanf.nets import NUM_CRITICS
from fastanf.networks import lane_networks
from fastanf.report.collected import LaneRecord
from fastanf.report.merging import ArmRecord
from fastanf.workload import useful_update_flops

OPERATIONS_A_CONNECTION = 2


@dataclass(frozen=True)
class ArmWork:
    """Counts of one lane of an arm."""

    parameters_active: int
    parameters_dense: int
    action_flops_active: float
    action_flops_dense: float
    update_flops_active: float
    update_flops_dense: float


@dataclass(frozen=True)
class ArmPace:
    """How fast the lanes of an arm trained; nan where it is not recorded."""

    wall_s: float
    """Longest of its lanes: seconds of their block until their last evaluation, all included."""
    step: int
    """Of that evaluation."""
    lanes_per_block: float
    """Median over lanes of the number of lanes that trained beside them, themselves included."""
    env_steps_per_s: float
    """Median over lanes and training intervals, of one lane."""
    lane_updates_per_s: float
    """The same of one lane's updates."""


def arm_work(config: TrainConfig | None) -> ArmWork | None:
    """Counts from a lane's settings; None where its task or a setting is not known here."""
    if config is None:
        return None
    dense = config.replace(global_sparsity=None, input_layer_sparsity=None)
    try:
        spec = registry.spec(config.task.env, config.task.backend)
        actor, critic = lane_networks(config, spec)
        active, full = useful_update_flops([config], spec), useful_update_flops([dense], spec)
    except ValueError:
        return None
    return ArmWork(
        actor.num_active + NUM_CRITICS * critic.num_active,
        actor.num_total + NUM_CRITICS * critic.num_total,
        OPERATIONS_A_CONNECTION * sum(actor.active_counts),
        OPERATIONS_A_CONNECTION * sum(actor.connections),
        active,
        full,
    )


def arm_pace(record: ArmRecord, every_lane: Sequence[LaneRecord]) -> ArmPace:
    """Pace of an arm.

    Args:
        record: the arm.
        every_lane: of all runs, to count those of a block.
    """
    blocks = [_block(lane) for lane in every_lane]
    longest = max(record.lanes, key=lambda lane: lane.last_step and lane.evaluations[-1].wall_s)
    rows = [row for lane in record.lanes for row in lane.training]
    return ArmPace(
        longest.evaluations[-1].wall_s if longest.evaluations else math.nan,
        longest.last_step,
        statistics.median(blocks.count(_block(lane)) for lane in record.lanes),
        _median([row.env_steps_per_s for row in rows]),
        _median([row.lane_updates_per_s for row in rows]),
    )


def wall_times(record: ArmRecord) -> np.ndarray:
    """[n, S] seconds of each lane's block until its evaluations; nan where it has none."""
    arm = record.arm
    times = np.full(arm.returns.shape, np.nan)
    for of_lane, lane in zip(times, record.lanes, strict=True):
        for row in lane.evaluations:
            of_lane[np.searchsorted(arm.steps, row.step)] = row.wall_s
    return times


def _block(lane: LaneRecord) -> tuple[str, object]:
    return lane.run, lane.settings.get("block", 0)


def _median(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return statistics.median(finite) if finite else math.nan
