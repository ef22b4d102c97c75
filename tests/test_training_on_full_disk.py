"""A disk that is full or read-only while a run trains: it goes on, and nothing is lost.

On a small file system of its own, where this process may mount one; elsewhere a full disk is
imitated, by writes that fail as they do there.
"""

from __future__ import annotations

import csv
import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastanf import block_run, runner, saving
from fastanf.__main__ import main
from fastanf.cli import parse_command_line
from fastanf.learner import Learner
from tests import fake_env

CLOCKS = {"wall_s", "env_steps_per_s", "lane_updates_per_s"}
TABLES = ("eval.csv", "train.csv", "topology.csv", "features.csv")
NUM_UPDATES = 60
OPTIONS = {
    "policy": "ANF-SAC", "env": fake_env.ROWS_ENV_ID, "backend": "fake", "num_seeds": 2,
    "hidden": "8x5", "batch_size": 4, "noise_fraction": 0.7, "topology_period": 3,
    "max_timesteps": NUM_UPDATES, "start_timesteps": 9, "eval_freq": 9, "eval_episodes": 3,
    "tensorboard": "false", "device": "cpu", "checkpoint_minutes": "1e-9",
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)
    monkeypatch.setattr(runner, "learning_curve_png", lambda *_, **__: None)
    monkeypatch.setattr(saving, "MOST_SHARE", 1.0)  # a checkpoint at every step
    monkeypatch.setattr(saving, "RETRY_S", 0.0)
    monkeypatch.setattr(block_run, "RETRY_S", 0.0)


def train(path: Path) -> int:
    arguments = ["--plain", "--run_dir", str(path)]
    for name, value in OPTIONS.items():
        arguments += [f"--{name}", *str(value).split()]
    return runner.train(parse_command_line(arguments))


def records(path: Path) -> dict[str, list[dict[str, str]]]:
    tables = {}
    for name in TABLES:
        with open(path / name, newline="") as file:
            rows = list(csv.DictReader(file))
        tables[name] = [{k: v for k, v in row.items() if k not in CLOCKS} for row in rows]
    return tables


def at_updates(monkeypatch: pytest.MonkeyPatch, actions: dict[int, Callable[[], object]]) -> None:
    """Do something before updates of these numbers."""
    update = Learner.update_

    def counted(learner: Learner) -> None:
        actions.get(learner.num_updates + 1, lambda: None)()
        update(learner)

    monkeypatch.setattr(Learner, "update_", counted)


class SmallDisk:
    """A mounted file system that can be filled, freed, and made read-only."""

    def __init__(self, path: Path):
        self.path, self.ballast = path, path / "ballast"

    def fill(self) -> None:
        with open(self.ballast, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 4096)
            except OSError as error:
                assert error.errno == errno.ENOSPC

    def free(self) -> None:
        self.ballast.unlink()

    def lock(self) -> None:
        assert _mount("remount,ro", self.path)

    def unlock(self) -> None:
        assert _mount("remount,rw", self.path)


def _mount(options: str, path: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    path = tmp_path / "disk"
    path.mkdir()
    if not _mount("size=2m", path):
        pytest.skip("this process may not mount a file system")
    yield SmallDisk(path)
    subprocess.run(["umount", str(path)], check=True)


def test_a_disk_that_is_full_for_a_while_loses_nothing(
    tmp_path: Path,
    disk: SmallDisk,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Checkpoints and records wait, and are the same afterwards."""
    assert train(tmp_path / "whole") == 0
    capsys.readouterr()
    at_updates(monkeypatch, {12: disk.fill, 40: disk.free})
    assert train(disk.path / "run") == 0
    said = capsys.readouterr().out
    assert said.count("checkpoints pause") == 1 == said.count("checkpoints are written again")
    assert records(disk.path / "run") == records(tmp_path / "whole")


def test_a_run_that_is_stopped_on_a_full_disk_goes_on_from_its_last_checkpoint(
    tmp_path: Path,
    disk: SmallDisk,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(tmp_path / "whole") == 0
    path = disk.path / "run"
    with monkeypatch.context() as patch:
        at_updates(patch, {12: disk.fill, 31: lambda: os.kill(os.getpid(), 15)})
        assert train(path) == runner.EXIT_FAILED
    said = capsys.readouterr().out
    assert "not on the disk" in said and f"resume {path}" in said
    disk.free()
    assert main(["resume", str(path)]) == 0
    assert records(path) == records(tmp_path / "whole")


def test_a_finished_block_waits_for_the_disk(
    tmp_path: Path, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(tmp_path / "whole") == 0
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            disk.free()

    # Not time.sleep itself, which others call too.
    clock = SimpleNamespace(perf_counter=time.perf_counter, sleep=wait)
    monkeypatch.setattr(block_run, "time", clock)
    at_updates(monkeypatch, {50: disk.fill})
    assert train(disk.path / "run") == 0 and len(waits) == 3
    assert records(disk.path / "run") == records(tmp_path / "whole")


def test_a_read_only_disk_is_refused_before_anything_is_built(
    tmp_path: Path, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a new run, and by one that would go on there."""
    assert train(tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        at_updates(patch, {31: lambda: os.kill(os.getpid(), 15)})
        assert train(disk.path / "run") == runner.EXIT_INTERRUPTED
    disk.lock()
    for command in (lambda: train(disk.path / "new"), lambda: runner.resume(disk.path / "run")):
        with pytest.raises((SystemExit, ValueError)) as caught:
            command()
        assert "\n" not in str(caught.value)
    disk.unlock()
    assert main(["resume", str(disk.path / "run")]) == 0
    assert records(disk.path / "run") == records(tmp_path / "whole")


def failing_writes(monkeypatch: pytest.MonkeyPatch, is_full: list[bool], number: int) -> None:
    """Every write and flush fails while the disk is full, wherever it goes."""
    write, fsync = os.write, os.fsync

    def refuse() -> None:
        if is_full[0]:
            raise OSError(number, os.strerror(number))

    def written(descriptor: int, data: Any) -> int:
        if descriptor > 2:
            refuse()
        return write(descriptor, data)

    def flushed(descriptor: int) -> None:
        refuse()
        fsync(descriptor)

    monkeypatch.setattr(os, "write", written)
    monkeypatch.setattr(os, "fsync", flushed)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_an_imitated_failing_disk_loses_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    assert train(tmp_path / "whole") == 0
    is_full = [False]
    failing_writes(monkeypatch, is_full, number)

    def set_to(value: bool) -> Callable[[], object]:
        return lambda: is_full.__setitem__(0, value)

    at_updates(monkeypatch, {12: set_to(True), 40: set_to(False)})
    assert train(tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert said.count("checkpoints pause") == 1 == said.count("checkpoints are written again")
    assert records(tmp_path / "run") == records(tmp_path / "whole")
