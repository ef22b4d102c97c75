"""Whole runs on the fake simulator whose blocks train at the same time, in threads."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from fastanf import block_run, provenance, runner, saving
from fastanf.cli import Study, parse_command_line
from fastanf.cluster import training
from fastanf.cluster.resources import Node
from fastanf.cluster.site import ClusterSite
from fastanf.cluster.training import RayTrainer
from fastanf.saving import Saving
from tests import fake_env
from tests.cluster.thread_crew import ThreadCrew
from tests.tiny_runs import BOTH, OPTIONS

NODES = tuple(Node(name, name, 1, 0, 2**36) for name in ("one", "two", "three", "four"))
"""Room for four blocks of a CPU."""
SHORT: dict[str, Any] = {
    "max_timesteps": 6, "start_timesteps": 4, "eval_freq": 3, "eval_episodes": 1
}  # fmt: skip
"""A block of two lanes, evaluated at steps 3 and 6."""
SAVE_EVERY = 4
"""Steps, random ones too: a checkpoint before the first evaluation, and one between both."""
TWO: dict[str, Any] = {**SHORT, "env": BOTH, "policy": "ANF-SAC"}
"""Two blocks of one lane."""
FOUR: dict[str, Any] = {"env": BOTH, "lanes_per_block": 1}
"""Four blocks of one lane, longer ones."""


@contextmanager
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within, the fake simulator; no picture, no git, no waiting for the disk; checkpoints after so
    many steps of a worker, whatever the clock says.
    """
    fake_env.register(monkeypatch)
    monkeypatch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())
    monkeypatch.setattr(provenance, "_commit", lambda: "c0ffee")
    monkeypatch.setattr(provenance, "_version", lambda name: "1.0")
    monkeypatch.setattr("os.fsync", lambda file: None)
    monkeypatch.setattr(saving, "MOST_SHARE", 1.0)
    monkeypatch.setattr(saving, "RETRY_S", 0.0)
    monkeypatch.setattr(block_run, "RETRY_S", 0.0)
    monkeypatch.setattr(training, "cluster_nodes", lambda with_gpus=True: list(NODES))
    save_every(monkeypatch, SAVE_EVERY)
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)  # which workers have set


def save_every(monkeypatch: pytest.MonkeyPatch, num_steps: int) -> None:
    """Checkpoints after so many steps of a worker."""

    def is_due(self: Any) -> bool:
        self.num_asked = getattr(self, "num_asked", 0) + 1
        return self.num_asked % num_steps == 0

    monkeypatch.setattr(Saving, "is_due", property(is_due))


def study_of(path: Path, **options: Any) -> Study:
    arguments = ["--plain", "--run_dir", str(path)]
    for name, value in (OPTIONS | options).items():
        arguments += [f"--{name}", *shlex.split(str(value))]
    return parse_command_line(arguments)


def train_by(crew: ThreadCrew, path: Path, **options: Any) -> int:
    """A run into a new folder; returns its exit code. All threads have ended then."""
    with crew:
        return runner.train(study_of(path, **options), trainer_of(crew))


def trainer_of(crew: ThreadCrew) -> RayTrainer:
    return RayTrainer(ClusterSite(NODES), crew=crew)


def resume_by(crew: ThreadCrew, path: Path) -> int:
    """Go on with a run; returns its exit code."""
    with crew, pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "train_here", trainer_of(crew))
        return runner.resume(path)
