"""What a block of a study on GPUs does in time, and how many bytes it writes: for cluster_model.py.

Axes: L lanes of a block. No GPU was measured: its speed is an assumption (`gpu_steps_per_s`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import blocks
import result_rows

from fastanf.checkpoint import SPAN_BYTES
from fastanf.cluster.cost import relative_cost
from fastanf.config import TrainConfig
from fastanf.disk import _transition_bytes
from fastanf.grouping import Block, block_of
from fastanf.replay_spans import Span, kept_and_new
from fastanf.settings import RunConfig
from fastanf.state_bytes import state_bytes

USUAL = ("--policy=ANF-SAC", "--env=HalfCheetah-v3", "--noise_fraction=0.9", "--device=cpu",
         "--replay_capacity=1000000")  # fmt: skip
EPISODE_STEPS = 1000
CPUS_PER_GPU = 8
"""Assumed."""


def make_block(num_lanes: int, train_flags: Sequence[str] = USUAL) -> Block:
    """A block as a study on GPUs has it.

    Args:
        num_lanes: L.
        train_flags: of train.py, of one policy.
    """
    described = blocks.parse_lanes(train_flags, num_lanes)
    (lanes,) = described.by_policy.values()
    return block_of(lanes, "cuda")


def gpu_steps_per_s(block: Block) -> float:
    """Lock steps a second of a block on a GPU, *assumed, not measured*: the updates of each as in
    fastanf/cluster/cost.py, 1 ms and the bytes of each lane at 2 TB/s.
    """
    schedule = block.config.schedule
    return block.config.num_updates / relative_cost(block) / schedule.updates_per_step


def env_steps_per_s() -> float:
    """Of envpool on one CPU: the measured row of most environments, by its CPUs.

    Raises:
        ValueError: it was not measured.
    """
    rows = [
        row
        for row in result_rows.read("env")
        if row["env"] == "HalfCheetah-v3"
        and row["impl"].startswith("envpool")
        and row["metric"] == "env_steps_per_s"
    ]
    if not rows:
        raise ValueError(
            "env_steps_per_s of HalfCheetah-v3 was not measured: record it with "
            "profiling/bench_env.py --record"
        )
    row = max(rows, key=lambda row: int(row["rows"]))
    return float(row["p50"]) / int(row["threads"])


@dataclass(frozen=True)
class Written:
    """By a block's checkpoints, of its replay."""

    num_bytes: float
    """Of transitions, those that were written again included, for each byte that is new."""
    num_files: float
    """Of a checkpoint, in the mean."""


@dataclass(frozen=True)
class StudyBlock:
    """One of the like blocks of a study.

    Args:
        block: its lanes.
        lock_steps_per_s: while it trains.
        env_steps_per_s: of one CPU, in an evaluation.
        checkpoint_s: between two checkpoints.
    """

    block: Block
    lock_steps_per_s: float
    env_steps_per_s: float
    checkpoint_s: float = 60 * RunConfig().checkpoint_minutes

    @property
    def config(self) -> TrainConfig:
        """The first lane's."""
        return self.block.config

    @property
    def num_lanes(self) -> int:
        """L."""
        return len(self.block.lanes)

    @property
    def evaluation_s(self) -> float:
        """Of simulation alone, by all CPUs of a GPU."""
        num_steps = self.config.schedule.eval_episodes * EPISODE_STEPS * self.num_lanes
        return num_steps / (self.env_steps_per_s * CPUS_PER_GPU)

    @property
    def period_s(self) -> float:
        """Between the ends of two evaluations."""
        E = self.config.task.envs_per_lane
        return self.config.schedule.eval_freq / E / self.lock_steps_per_s + self.evaluation_s

    @property
    def mean_steps_per_s(self) -> float:
        """Lock steps, evaluations included."""
        E = self.config.task.envs_per_lane
        return self.config.schedule.eval_freq / E / self.period_s

    @property
    def num_evaluations(self) -> int:
        """Of a lane in the whole run."""
        schedule = self.config.schedule
        return -(-schedule.max_timesteps // schedule.eval_freq)

    @property
    def run_s(self) -> float:
        """From its first random step to its end; start and checkpoints left out."""
        schedule, E = self.config.schedule, self.config.task.envs_per_lane
        return schedule.start_timesteps / E / self.lock_steps_per_s + (
            self.num_evaluations * self.period_s
        )

    @property
    def bytes_per_lock_step(self) -> int:
        """That come to the replay."""
        E = self.config.task.envs_per_lane
        return self.num_lanes * E * _transition_bytes(self.block)

    @property
    def state_bytes(self) -> int:
        """Of a checkpoint beside the replay, at most."""
        return state_bytes(self.block)

    @property
    def first_bytes(self) -> float:
        """Of the first checkpoint, whose replay has all that came until then."""
        steps = min(self.checkpoint_s, self.run_s) * self.mean_steps_per_s
        return self.bytes_per_lock_step * steps + self.state_bytes

    @property
    def whole_bytes(self) -> float:
        """Of a checkpoint with a full replay, which whoever goes on has to read."""
        schedule, E = self.config.schedule, self.config.task.envs_per_lane
        most = min(
            self.config.effective_replay_capacity,
            schedule.max_timesteps + schedule.start_timesteps,
        )
        return self.bytes_per_lock_step * most / E + self.state_bytes

    @cached_property
    def written(self) -> Written:
        """By the rule that a checkpoint's files follow (fastanf/replay_spans.py), over a run."""
        steps = max(1, round(self.checkpoint_s * self.mean_steps_per_s))
        num = max(1, round(self.run_s / self.checkpoint_s))
        most = max(1, SPAN_BYTES // self.bytes_per_lock_step)
        slots = self.config.effective_replay_capacity // self.config.task.envs_per_lane
        spans: list[Span] = []
        num_times = num_files = 0
        for number in range(1, num + 1):
            end = number * steps
            oldest = max(0, end - slots)
            spans, new = kept_and_new(spans, end - steps, end, oldest, most)
            spans += [Span(first, last, "") for first, last in new]
            num_times += sum(last - first for first, last in new)
            num_files += len(new)
        return Written(num_times / (num * steps), num_files / num)

    @property
    def checkpoint_bytes_per_s(self) -> float:
        """In the long run."""
        new = self.bytes_per_lock_step * self.mean_steps_per_s
        return new * self.written.num_bytes + self.state_bytes / self.checkpoint_s

    @property
    def files_per_checkpoint(self) -> float:
        """The replay's, that of the networks, and the JSON file."""
        return self.written.num_files + 2
