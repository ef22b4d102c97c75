"""Runs that cannot go on as they were: damaged, in other hands, or where simulators differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

import envs
from envs import registry
from envs.interface import SimulationDiffers
from fastanf import checkpoint, runner, saving
from fastanf.learner import Learner
from fastanf.tensor_file import write_tensors
from tests import fake_env
from tests.fake_env import RowsEnv, WholeEnv
from tests.interruptions import at_call, kill, records, signal_at_update
from tests.tiny_runs import EVAL_STEPS, newest, resume, status_of, steps_of, train


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)
    monkeypatch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A run that was stopped after its first evaluation."""
    with signal_at_update(12):
        assert train(tmp_path / "broken") == 130
    return tmp_path / "broken"


def refused(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a resumption ends in exit code 2, and nothing is changed."""
    before = content(path)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        resume(path)
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("fastanf: error: ") and line.count("\n") == 1 and line.endswith("\n")
    assert content(path) == before
    return line


def content(path: Path) -> dict[Path, bytes]:
    """What a refusal must leave as it is."""
    changing = {"manifest.json", "lock", "learning_curve.png"}  # who tried and when; a picture
    files = [file for file in path.rglob("*") if file.is_file() and file.name not in changing]
    return {file: file.read_bytes() for file in files}


def change_tensors(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change a run's newest checkpoint, and its checksums with it."""
    found = newest(path)
    tensors = found.tensors(1 << 30)
    change(tensors)
    seal = write_tensors(found.path / found.tensors_file, tensors)
    seals = {**found.seals, found.tensors_file: seal}
    dataclasses.replace(found, seals=seals).write_index()


def test_what_is_no_unfinished_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    assert train(path) == 0
    manifest = (path / "manifest.json").read_bytes()
    assert "is finished" in refused(path, capsys)
    assert (path / "manifest.json").read_bytes() == manifest
    assert "manifest.json" in refused(tmp_path, capsys)


PARTS = [
    "learner/num_updates", "learner/actor.0.weight", "learner/watch.is_barren", "replay/newest",
    "replay/time", "collector/num_periods", "collector/returns", "block/losses", "block/world",
    "block/num_evaluations", "env/episode", "eval_env/time",
]  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_a_checkpoint_that_lacks_a_part_is_refused(
    broken: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change_tensors(broken, lambda tensors: tensors.pop(name))
    assert name.split("/")[-1].removeprefix("watch.") in refused(broken, capsys)


@pytest.mark.parametrize("name", [name for name in PARTS if "env/" not in name])
def test_a_checkpoint_with_a_part_of_another_shape_is_refused(
    broken: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change_tensors(
        broken, lambda tensors: tensors.update({name: tensors[name].reshape(1, -1).repeat(3, 2)})
    )
    refused(broken, capsys)


def test_a_checkpoint_is_that_of_its_own_run(
    tmp_path: Path, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not of one with other sizes, nor of another one with the same."""
    for name, hidden in (("wide", "9x5"), ("alike", "8x5")):
        other = tmp_path / name
        with signal_at_update(3):
            assert train(other, hidden=hidden, seed=8) == 130
        taken = checkpoint.block_path(other, 0)
        taken.rename(tmp_path / f"{name}_own")
        kill(checkpoint.block_path(broken, 0), taken)
        line = refused(other, capsys)
        assert "eval.csv" in line or "shape" in line


def test_a_table_that_was_changed_is_refused(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = broken / "eval.csv"
    whole = table.read_text()
    assert steps_of(broken, 0) == [7]
    for changed in (whole.replace(",7,", ",8,", 1), whole[: whole.rindex("\n", 0, -1) + 1]):
        table.write_text(changed)
        assert "eval.csv" in refused(broken, capsys)
    table.write_text(whole)
    assert resume(broken) == 0


@pytest.mark.parametrize("pattern", ["checkpoint-{}.json", "tensors-{}.safetensors", "replay-{}-*"])
def test_where_the_newest_checkpoint_is_damaged_the_run_goes_on_from_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    pattern: str,
) -> None:  # fmt: skip
    """Exactly, and saying so; where both are damaged it refuses."""
    monkeypatch.setattr(saving, "MOST_SHARE", 1.0)
    path, copy = tmp_path / "run", tmp_path / "killed"
    with at_call(Learner, "update_", 16, partial(kill, path, copy)):
        assert train(path, checkpoint_minutes=1e-9) == 0
    number = newest(copy).number
    kill(copy, tmp_path / "twice")
    for damaged, numbers in ((copy, [number]), (tmp_path / "twice", [number, number - 1])):
        folder = checkpoint.block_path(damaged, 0)
        for each in numbers:
            file = next(folder.glob(pattern.format(each)))
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 4
            file.write_bytes(data)
    capsys.readouterr()
    assert resume(copy) == 0
    out = capsys.readouterr().out
    assert f"checkpoint {number} of {checkpoint.block_path(copy, 0)}" in out
    assert "the one before is taken" in out
    assert records(copy) == records(path)
    assert f"checkpoint {number - 1} of" in refused(tmp_path / "twice", capsys)


def test_a_run_that_is_being_trained_is_not_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, lines = tmp_path / "run", []
    with at_call(Learner, "update_", 5, lambda: lines.append(refused(path, capsys))):
        assert train(path) == 0
    assert "is being trained by process" in lines[0]
    assert steps_of(path, 0) == EVAL_STEPS and status_of(path) == "finished"


# --- simulators that give other numbers -----------------------------------------------------------


def observe_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WholeEnv, "phase_shift", 0.25)


def end_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first simulator that is restored: later ones are of the version that wrote."""
    restore, calls = RowsEnv.restore, []

    def restored(env: RowsEnv, state: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        calls.append(env)
        if len(calls) == 1:
            raise SimulationDiffers("an episode ends that went on")
        return restore(env, state)

    monkeypatch.setattr(RowsEnv, "restore", restored)


DIFFERENCES = {"observations": observe_differently, "an end": end_elsewhere}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_where_simulators_differ_new_episodes_begin_and_that_is_said(
    broken: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    difference: str,
) -> None:  # fmt: skip
    before, seeds = records(broken), []
    monkeypatch.setattr(envs, "make", lambda *args: seeds.append(args[2]) or registry.make(*args))
    DIFFERENCES[difference](monkeypatch)
    assert resume(broken) == 0
    out = capsys.readouterr().out
    assert out.count("the simulators give other numbers here than where the checkpoint") == 1
    after = records(broken)
    for name, rows in before.items():
        assert after[name][: len(rows)] == rows
    assert steps_of(broken, 0) == steps_of(broken, 1) == EVAL_STEPS
    assert int(newest(broken).tensors(1 << 30)["block/world"]) == 1
    # Its worlds are new ones, for training and for evaluation.
    assert len(seeds) == 4
    worlds = [set(each) for each in seeds]
    assert all(not worlds[i] & worlds[j] for i in range(4) for j in range(i))


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_a_run_whose_simulators_differed_once_is_resumed_exactly_after_that(
    broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], difference: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(saving, "MOST_SHARE", 1.0)
    DIFFERENCES[difference](monkeypatch)
    copy = tmp_path / "copy"
    with at_call(Learner, "update_", 1, partial(kill, broken, copy)), signal_at_update(5):
        assert resume(broken) == 130
    killed = tmp_path / "killed"
    with at_call(Learner, "update_", 3, partial(kill, broken, killed)):
        assert resume(broken) == 0
    assert newest(killed).state["step"] == 17
    capsys.readouterr()
    assert resume(killed) == 0
    assert "give other numbers" not in capsys.readouterr().out
    assert records(killed) == records(broken)
    if difference == "observations":  # the same new episodes begin in every process
        assert resume(copy) == 0
        assert "give other numbers" in capsys.readouterr().out
        assert records(copy) == records(broken)
