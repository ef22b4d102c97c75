"""Whole runs on a tiny simulator: records, interruptions, resumption, and a second run alike."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import envs
from envs import registry
from fastanf import checkpoint, kernels, runner
from fastanf.__main__ import main
from fastanf.block import TrainingBlock
from fastanf.cli import parse_command_line
from fastanf.collect import Collector
from fastanf.learner import Learner
from fastanf.records import RunFolder
from tests import fake_env

MAX_STEPS, START_STEPS, EVAL_FREQ = 25, 9, 7
EVAL_STEPS = [7, 14, 21, 25]
OPTIONS = {
    "policy": "SAC ANF-SAC", "env": fake_env.ROWS_ENV_ID, "backend": "fake", "num_seeds": 1,
    "hidden": "8x5", "batch_size": 4, "noise_fraction": 0.7, "topology_period": 3,
    "max_timesteps": MAX_STEPS, "start_timesteps": START_STEPS, "eval_freq": EVAL_FREQ,
    "eval_episodes": 3, "tensorboard": "false", "device": "cpu",
    "layout": "masked",  # so that a sparse and a dense lane are one block
}  # fmt: skip
CSR_OPTIONS = {"layout": "csr", "policy": "ANF-SAC TowS-SAC", "global_sparsity": 0.5}
BOTH = f"{fake_env.ROWS_ENV_ID} {fake_env.WHOLE_ENV_ID}"


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)
    # Drawing takes half a second; one test looks at the real picture.
    monkeypatch.setattr(runner, "learning_curve_png", lambda rows, path: path.touch())


def train(path: Path, **options: Any) -> int:
    arguments = ["--plain", "--run_dir", str(path)]
    for name, value in (OPTIONS | options).items():
        arguments += [f"--{name}", *str(value).split()]
    return runner.train(parse_command_line(arguments))


def rows_of(path: Path, name: str = "eval.csv") -> list[dict[str, str]]:
    with open(path / name, newline="") as file:
        return list(csv.DictReader(file))


def without_time(path: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k != "wall_s"} for row in rows_of(path)]


def steps_of(path: Path, lane: int, name: str = "eval.csv") -> list[int]:
    return [int(row["step"]) for row in rows_of(path, name) if int(row["lane"]) == lane]


def status_of(path: Path) -> str:
    return json.loads((path / "manifest.json").read_text())["status"]


def call_number(number: int, action: Callable[[], object], function: Callable) -> Callable:
    """`function`, preceded by `action` at one of its calls."""
    calls = 0

    def wrapped(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            action()
        return function(*arguments, **named)

    return wrapped


def raising(error: type[BaseException]) -> Callable[[], object]:
    def action() -> None:
        raise error

    return action


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
        "tb", "checkpoints", "learning_curve.png",
    }  # fmt: skip
    assert (path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert status_of(path) == "finished"
    assert len(list((path / "tb").iterdir())) == 4
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


def test_sparse_and_dense_lanes_of_compiled_kernels_train_one_block_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the layout is given: the lanes keep their numbers, and both blocks are resumed."""
    path = tmp_path / "run"
    options = {"layout": "auto"} if kernels.NATIVE is not None else {"layout": "csr"}
    with monkeypatch.context() as patch:
        stop = call_number(MAX_STEPS + 10, raising(runner.Interrupted), Learner.update_)
        patch.setattr(Learner, "update_", stop)
        assert train(path, **options) == 130
    assert main(["resume", str(path)]) == 0
    lanes = rows_of(path, "lanes.csv")
    assert [(row["policy"], row["block"]) for row in lanes] == [("SAC", "0"), ("ANF-SAC", "1")]
    for lane in range(2):
        assert steps_of(path, lane) == EVAL_STEPS == steps_of(path, lane, "train.csv")
    assert {row["lane"] for row in rows_of(path, "topology.csv")} == {"1"}


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
    first, second, other = (without_time(tmp_path / name) for name in "abc")
    assert first == second
    assert [row["return_mean"] for row in first] != [row["return_mean"] for row in other]


def watch_restore(monkeypatch: pytest.MonkeyPatch, path: Path) -> list[str]:
    """Assert at each restoration that the block holds what was saved; gives names compared."""
    restored: list[str] = []
    load = TrainingBlock.load_state_dict_

    def compare(block: TrainingBlock, tensors: dict, state: dict) -> None:
        saved = {name: tensor.clone() for name, tensor in tensors.items()}
        load(block, tensors, state)
        now = block.state_dict()[0]
        assert now.keys() == saved.keys()
        for name, tensor in now.items():
            # A restored replay begins a new episode: its newest observation and where the one
            # before leads to are new.
            if name in ("replay/final_slot", "replay/final_obs"):
                continue
            if name == "replay/obs":
                newest = block.replay.time % block.replay.num_slots
                kept = [i for i in range(tensor.shape[1]) if i != newest]
                assert torch.equal(tensor[:, kept], saved[name][:, kept])
                continue
            assert torch.equal(tensor, saved[name]), name
        assert block.num_evaluations == state["num_evaluations"]
        restored.extend(now)

    monkeypatch.setattr(TrainingBlock, "load_state_dict_", compare)
    return restored


INTERRUPTIONS = {
    "random start": (Collector, "random_step_", 5, 0),
    "first update": (Learner, "update_", 1, 0),
    "middle": (Learner, "update_", 12, 1),
    "evaluation": (TrainingBlock, "evaluate", 2, 1),
    "record": (RunFolder, "append_evaluation", 2, 1),
    "last evaluation": (TrainingBlock, "evaluate", 4, 3),
    "final save": (checkpoint, "save", 1, 4),
}


@pytest.mark.parametrize(
    ("moment", "layout"), [*((moment, "masked") for moment in INTERRUPTIONS), ("middle", "csr")]
)
def test_an_interrupted_run_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    layout: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, options = tmp_path / "run", CSR_OPTIONS if layout == "csr" else {}
    owner, name, number, num_evaluations = INTERRUPTIONS[moment]
    with monkeypatch.context() as patch:
        patch.setattr(
            owner, name, call_number(number, raising(runner.Interrupted), getattr(owner, name))
        )
        assert train(path, permute_period=5, **options) == runner.EXIT_INTERRUPTED == 130
    assert status_of(path) == "interrupted"
    assert f"resume {path}" in capsys.readouterr().out
    before = without_time(path)
    assert len(before) == 2 * num_evaluations
    saved = checkpoint.load(path / "checkpoints" / "block0")
    assert saved is not None and not saved[1]["is_finished"]
    restored = watch_restore(monkeypatch, path)
    assert main(["resume", str(path)]) == 0
    assert "learner/actor.0.weight.mask" in restored and "replay/action" in restored
    assert status_of(path) == "finished"
    assert without_time(path)[: len(before)] == before
    for lane in range(2):
        for file in ("eval.csv", "train.csv"):
            assert steps_of(path, lane, file) == EVAL_STEPS
    wall = [float(row["wall_s"]) for row in rows_of(path)]
    assert wall == sorted(wall)


def test_the_second_block_can_be_interrupted_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop = call_number(MAX_STEPS + 10, raising(runner.Interrupted), Learner.update_)
        patch.setattr(Learner, "update_", stop)
        assert train(path, env=BOTH) == 130
    first_block = [row for row in rows_of(path) if int(row["lane"]) < 2]
    assert main(["resume", str(path)]) == 0
    assert [row for row in rows_of(path) if int(row["lane"]) < 2] == first_block
    for lane in range(4):
        assert steps_of(path, lane) == EVAL_STEPS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_a_whole_step_and_its_handler_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    path, before = tmp_path / "run", signal.getsignal(number)
    seeds: list[list[int]] = []
    monkeypatch.setattr(envs, "make", lambda *args: seeds.append(args[2]) or registry.make(*args))

    def terminate() -> None:
        os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update_", call_number(12, terminate, Learner.update_))
        assert train(path) == 130
    assert signal.getsignal(number) == before
    saved = checkpoint.load(path / "checkpoints" / "block0")
    assert saved is not None and saved[1]["step"] == int(saved[0]["learner/num_updates"]) == 12
    assert status_of(path) == "interrupted" and steps_of(path, 0) == [7]
    assert main(["resume", str(path)]) == 0
    assert steps_of(path, 0) == EVAL_STEPS
    # Training and evaluation, before and after: no world is seen twice. Both lanes have one seed.
    rows = [seed for each in seeds for seed in each]
    assert len(seeds) == 4 and 2 * len(set(rows)) == len(rows) == 2 * (2 + 2 * 3)


def test_a_second_signal_stops_at_once_and_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"

    def interrupt_twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update_", call_number(12, interrupt_twice, Learner.update_))
        assert train(path) == 130
    assert status_of(path) == "interrupted"
    assert checkpoint.load(path / "checkpoints" / "block0") is None
    assert main(["resume", str(path)]) == 0
    assert steps_of(path, 0) == EVAL_STEPS


@pytest.mark.parametrize("checkpoint_minutes", [1e-9, 60])
def test_a_killed_run_loses_only_what_came_after_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint_minutes: float
) -> None:
    path, copy = tmp_path / "run", tmp_path / "killed"

    def kill() -> None:  # what a kill leaves behind is the folder as it stands
        shutil.copytree(path, copy)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update_", call_number(16, kill, Learner.update_))
        assert train(path, checkpoint_minutes=checkpoint_minutes) == 0
    assert status_of(copy) == "running" and steps_of(copy, 0) == [7, 14]
    with open(copy / "eval.csv", "a") as file:
        file.write("0,SAC,torn")
    assert main(["resume", str(copy)]) == 0
    for lane in range(2):
        for file in ("eval.csv", "train.csv"):
            assert steps_of(copy, lane, file) == EVAL_STEPS
    assert status_of(copy) == "finished"


def test_an_interrupted_restoration_keeps_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop = call_number(12, raising(runner.Interrupted), Learner.update_)
        patch.setattr(Learner, "update_", stop)
        assert train(path) == 130
    files = sorted((path / "checkpoints" / "block0").iterdir())
    before = [file.read_bytes() for file in files]
    with monkeypatch.context() as patch:
        load = Learner.load_state_dict_
        patch.setattr(
            Learner, "load_state_dict_", call_number(1, raising(runner.Interrupted), load)
        )
        assert main(["resume", str(path)]) == 130
    assert [file.read_bytes() for file in files] == before
    assert main(["resume", str(path)]) == 0
    assert steps_of(path, 0) == EVAL_STEPS


def test_a_failure_is_recorded_and_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"

    def fail() -> None:
        raise RuntimeError("the simulator broke")

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update_", call_number(16, fail, Learner.update_))
        with pytest.raises(RuntimeError, match="the simulator broke"):
            train(path, checkpoint_minutes=1e-9)
    assert status_of(path) == "failed" and steps_of(path, 0) == [7, 14]
    assert main(["resume", str(path)]) == 0
    assert steps_of(path, 0) == EVAL_STEPS


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command ends in exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("fastanf: error: ") and line.count("\n") == 1 and line.endswith("\n")
    return line


def test_what_cannot_be_resumed_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    assert train(path) == 0
    content = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert "is finished" in refused(["resume", str(path)], capsys)
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == content
    assert "manifest.json" in refused(["resume", str(tmp_path)], capsys)
    path = tmp_path / "damaged"
    with monkeypatch.context() as patch:
        stop = call_number(12, raising(runner.Interrupted), Learner.update_)
        patch.setattr(Learner, "update_", stop)
        assert train(path) == 130
    tensors = path / "checkpoints" / "block0" / "tensors.safetensors"
    whole = tensors.read_bytes()
    for missing in ("replay/obs", "learner/num_updates", "num_periods"):
        kept = {k: v for k, v in load_file(tensors).items() if k != missing}
        save_file(kept, tensors)
        assert missing.split("/")[-1] in refused(["resume", str(path)], capsys)
        tensors.write_bytes(whole)
    tensors.write_bytes(tensors.read_bytes()[:-1])
    assert "cannot be read" in refused(["resume", str(path)], capsys)


def test_a_folder_that_exists_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    study = parse_command_line(
        ["--run_dir", str(path), "--env", fake_env.ROWS_ENV_ID, "--backend", "fake"]
    )
    path.mkdir()
    with pytest.raises(ValueError, match="exists already") as error:
        runner.train(study)
    assert "\n" not in str(error.value) and list(path.iterdir()) == []
