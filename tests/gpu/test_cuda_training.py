"""Whole runs on a GPU: they train, evaluate, save and resume, whether updates overlap or not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from fastanf import runner
from fastanf.__main__ import main
from fastanf.cli import parse_command_line
from fastanf.collect import Collector
from tests import fake_env
from tests.interruptions import records, rows_of, signal_at_update
from tests.tiny_runs import status_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
pytest.importorskip("triton", reason="Triton is not installed")

OPTIONS = {
    "policy": "ANF-SAC", "env": fake_env.ROWS_ENV_ID, "backend": "fake", "num_seeds": 2,
    "hidden": "32x32", "batch_size": 16, "noise_fraction": 0.7, "topology_period": 7,
    "max_timesteps": 160, "start_timesteps": 40, "eval_freq": 40, "eval_episodes": 3,
    "tensorboard": "false", "device": "cuda",
}  # fmt: skip
EVAL_STEPS = [40, 80, 120, 160]


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)
    monkeypatch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())


def train(path: Path, **options: Any) -> int:
    arguments = ["--plain", "--run_dir", str(path)]
    for name, value in (OPTIONS | options).items():
        arguments += [f"--{name}", str(value)]
    return runner.train(parse_command_line(arguments))


@pytest.mark.parametrize("policy", ["ANF-SAC", "ANF-TD3"])
def test_a_run_trains_and_evaluates_every_lane(tmp_path: Path, policy: str) -> None:
    path = tmp_path / "run"
    assert train(path, policy=policy) == 0
    assert status_of(path) == "finished"
    rows = rows_of(path)
    for lane in ("0", "1"):
        assert [int(row["step"]) for row in rows if row["lane"] == lane] == EVAL_STEPS
    assert all(math.isfinite(float(row["return_mean"])) for row in rows)


@pytest.mark.parametrize("number", [1, 65])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path: Path, number: int) -> None:
    """Before graphs are captured and after it, between two evaluations."""
    path, whole = tmp_path / "run", tmp_path / "whole"
    assert train(whole) == 0
    with signal_at_update(number):
        assert train(path) == runner.EXIT_INTERRUPTED
    assert status_of(path) == "interrupted"
    assert main(["resume", str(path)]) == 0
    assert status_of(path) == "finished"
    assert records(path) == records(whole)


def test_overlap_changes_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(tmp_path / "overlapping") == 0
    monkeypatch.setattr(Collector, "may_update_early", lambda *_: False)
    assert train(tmp_path / "in_turn") == 0
    assert records(tmp_path / "overlapping") == records(tmp_path / "in_turn")
