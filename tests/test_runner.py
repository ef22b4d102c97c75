"""Whole runs on a tiny simulator: their records, their errors, and a second run alike.

What interruptions do to them is in test_resumption.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fastanf import runner
from fastanf.__main__ import main
from fastanf.cli import parse_command_line
from fastanf.learner import Learner
from tests import fake_env
from tests.interruptions import at_call, records, rows_of
from tests.tiny_runs import BOTH, EVAL_STEPS, status_of, steps_of, train


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)
    # Drawing takes half a second; one test looks at the real picture.
    monkeypatch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())


def test_a_run_leaves_a_whole_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    fake_env.register(monkeypatch)
    path = tmp_path / "deep" / "run"
    # Two tasks are two blocks.
    assert train(path, env=BOTH, tensorboard="true") == 0
    assert {file.name for file in path.iterdir()} == {
        "manifest.json", "lanes.csv", "eval.csv", "train.csv", "topology.csv", "features.csv",
        "quarantine.csv", "tb", "checkpoints", "learning_curve.png", "lock",
    }  # fmt: skip
    assert (path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert status_of(path) == "finished"
    assert len(list((path / "tb").iterdir())) == 4
    assert rows_of(path, "quarantine.csv") == [] and (path / "lock").read_bytes() == b""
    for block in range(2):  # a finished block is never trained again: its replay is gone
        files = {file.name for file in (path / "checkpoints" / f"block{block}").iterdir()}
        assert files == {"checkpoint-1.json", "tensors-1.safetensors"}
    lanes = rows_of(path, "lanes.csv")
    assert [row["block"] for row in lanes] == ["0", "0", "1", "1"]
    for lane in range(4):
        assert steps_of(path, lane) == EVAL_STEPS == steps_of(path, lane, "train.csv")
    for row in rows_of(path):
        assert row["episodes"] == "3" and row["updates"] == row["step"]
        low, mean, high = (float(row[f"return_{k}"]) for k in ("min", "mean", "max"))
        assert low <= mean <= high
        assert row["policy"] == lanes[int(row["lane"])]["policy"]
    topology = rows_of(path, "topology.csv")
    assert {row["lane"] for row in topology} == {
        lane["lane"] for lane in lanes if lane["policy"] == "ANF-SAC"
    }
    assert {row["network"] for row in topology} == {"actor", "critic1", "critic2"}
    counts = {(row["lane"], row["network"], row["active"], row["density"]) for row in topology}
    assert len(counts) == 6
    output = capsys.readouterr().out
    assert "learning_curve.png" in output and "ANF-SAC" in output


@pytest.mark.parametrize("E", [1, 2, 4])
def test_evaluations_come_at_their_steps(tmp_path: Path, E: int) -> None:
    path = tmp_path / "run"
    assert train(path, envs_per_lane=E, updates_per_step=2) == 0
    expected = {1: EVAL_STEPS, 2: [6, 12, 18, 24, 26], 4: [4, 8, 12, 16, 20, 24, 28]}[E]
    assert steps_of(path, 0) == steps_of(path, 1) == expected
    assert [int(row["updates"]) for row in rows_of(path)][::2] == [2 * s // E for s in expected]


def test_two_runs_of_the_same_seeds_are_alike(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert train(tmp_path / name, seed=seed) == 0
    first, second, other = (records(tmp_path / name) for name in "abc")
    assert first == second
    returns = [[row["return_mean"] for row in each["eval.csv"]] for each in (first, other)]
    assert returns[0] != returns[1]


def test_a_failure_is_recorded_and_raised(tmp_path: Path) -> None:
    path, whole = tmp_path / "run", tmp_path / "whole"
    assert train(whole) == 0

    def fail() -> None:
        raise RuntimeError("the simulator broke")

    with (
        at_call(Learner, "update_", 16, fail),
        pytest.raises(RuntimeError, match="the simulator broke"),
    ):
        train(path, checkpoint_minutes=1e-9)
    assert status_of(path) == "failed" and steps_of(path, 0) == [7, 14]
    assert main(["resume", str(path)]) == 0
    assert records(path) == records(whole)


def test_a_folder_that_exists_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    study = parse_command_line(
        ["--run_dir", str(path), "--env", fake_env.ROWS_ENV_ID, "--backend", "fake"]
    )
    path.mkdir()
    with pytest.raises(ValueError, match="exists already") as error:
        runner.train(study)
    assert "\n" not in str(error.value) and list(path.iterdir()) == []
