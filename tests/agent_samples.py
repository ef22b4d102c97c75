"""Tiny runs on the fake simulator, saved as a run folder, for tests of what is made from one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastanf import recording
from fastanf.block import TrainingBlock
from fastanf.checkpoint import BlockCheckpoints, block_path
from fastanf.collect import train_step_
from fastanf.config import TrainConfig
from fastanf.presets import lane_config
from fastanf.records import FORMAT_VERSION
from fastanf.rows import lanes_text
from tests import fake_env
from tests.helpers import saved

SHARED: dict[str, Any] = {
    "env": fake_env.ROWS_ENV_ID, "backend": "fake", "hidden": (8, 5), "batch_size": 4,
    "noise_fraction": 0.7, "topology_period": 3, "max_timesteps": 40, "start_timesteps": 10,
    "eval_episodes": 3, "learning_rate": 0.01,
}  # fmt: skip
ALGORITHMS = ("SAC", "TD3")


def make_lanes(policy: str = "ANF-SAC", num: int = 2, **values: Any) -> list[TrainConfig]:
    """Lanes of seeds 3, 4, ..."""
    base = lane_config(policy, SHARED | values)
    return [base.replace(seed=3 + index) for index in range(num)]


def train(lanes: Sequence[TrainConfig], num_steps: int = 8) -> TrainingBlock:
    """A block after its random steps and some updates."""
    block = TrainingBlock(lanes, torch.device("cpu"))
    for _ in range(block.num_random_steps):
        block.collector.random_step_()
    for step in range(1, num_steps + 1):
        train_step_(block.collector, block.learner, step, 1)
    return block


def save_run(path: Path, *blocks: TrainingBlock) -> Path:
    """The folder of a run that has just saved its blocks."""
    path.mkdir()
    # Not by RunFolder, which asks git and the packages for versions, each time.
    manifest = {"format_version": FORMAT_VERSION, "versions": {"fastanf": "0"}, "status": "running"}
    (path / "manifest.json").write_text(json.dumps(manifest))
    rows = recording.lane_rows([block.lanes for block in blocks])
    (path / "lanes.csv").write_text(lanes_text(rows))
    for index, block in enumerate(blocks):
        saved(block, block_path(path, index))
    return path


def change_checkpoint(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change tensors of a run's checkpoint, and its checksums with them."""
    checkpoints = BlockCheckpoints(block_path(path, 0))
    found, _ = checkpoints.load()
    assert found is not None
    tensors = found.tensors(1 << 30)
    change(tensors)
    checkpoints.save(tensors, found.state)


def make_run(path: Path, policy: str = "ANF-SAC", num_steps: int = 8, **values: Any) -> Path:
    """The folder of a run of one block with two lanes."""
    return save_run(path, train(make_lanes(policy, **values), num_steps))
