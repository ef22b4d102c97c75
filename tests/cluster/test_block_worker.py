"""Machines that cannot train the driver's block say so, each in one line that says what to do."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastanf.block_run import Refused
from fastanf.cluster.crew import Hand
from fastanf.cluster.resources import Share
from fastanf.cluster.worker import BlockTask
from tests.cluster.crew_runs import TWO, quick, resume_by, train_by
from tests.cluster.thread_crew import ThreadCrew
from tests.interruptions import records
from tests.tiny_runs import steps_of, unbroken


class OddMachines(ThreadCrew):
    """The first block's worker is where something is other than at the driver's; it trains before
    the second one begins.
    """

    def __init__(self, change: Callable[[BlockTask], BlockTask]) -> None:
        super().__init__(room=1)
        self.change = change

    def hire(self, task: BlockTask, share: Share) -> Hand:
        return super().hire(self.change(task) if task.index == 0 else task, share)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with quick(monkeypatch):
        yield


def refusal(path: Path, change: Callable[[BlockTask], BlockTask]) -> str:
    """What a run says whose first block is somewhere else; the other one finishes, and the run goes
    on where nothing is other.
    """
    crew = OddMachines(change)
    with pytest.raises(Refused) as caught:
        train_by(crew, path, **TWO)
    assert len(crew.tasks) == 2  # it would be there again
    assert steps_of(path, 0) == [] and steps_of(path, 1) == [3, 6]
    assert resume_by(ThreadCrew(), path) == 0
    assert records(path) == unbroken(**TWO)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_code(task: BlockTask, name: str, value: object) -> BlockTask:
    return dataclasses.replace(task, code={**task.code, name: value})


def test_another_commit_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path / "run", lambda task: with_code(task, "commit", "f00d"))
    assert said.startswith("block 0 (lanes 0): fastanf on ")
    assert "is not the driver's: commit is c0ffee, not f00d; install the same on every" in said


def test_another_version_is_named(tmp_path: Path) -> None:
    def change(task: BlockTask) -> BlockTask:
        versions = task.code["versions"]
        assert isinstance(versions, dict)
        return with_code(task, "versions", {**versions, "torch": "0.9"})

    assert "versions of torch is 1.0, not 0.9; install" in refusal(tmp_path / "run", change)


def test_a_package_that_the_driver_alone_has_is_named(tmp_path: Path) -> None:
    def change(task: BlockTask) -> BlockTask:
        versions = task.code["versions"]
        assert isinstance(versions, dict)
        return with_code(task, "versions", {**versions, "walker": "3"})

    assert "versions of walker is None, not 3; install" in refusal(tmp_path / "run", change)


@pytest.mark.parametrize("what", ["missing", "another run's", "no folder at all"])
def test_a_run_folder_that_is_not_shared_is_refused(tmp_path: Path, what: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    if what == "another run's":
        assert train_by(ThreadCrew(), elsewhere, **TWO | {"num_seeds": 2}) == 0
    elif what == "no folder at all":
        elsewhere.write_text("")

    def change(task: BlockTask) -> BlockTask:
        return dataclasses.replace(task, run=dataclasses.replace(task.run, run_dir=str(elsewhere)))

    said = refusal(tmp_path / "run", change)
    assert f"does not see the run folder {elsewhere} as the driver does: give --run_dir a" in said
    assert "or a URL such as s3://BUCKET/RUN" in said
    assert not (elsewhere / "checkpoints" / "block0").exists() or what == "another run's"


def test_a_run_folder_that_takes_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, access, first = tmp_path / "run", os.access, [True]

    def refuse(where: str, mode: int) -> bool:
        if str(where) == str(path) and first:
            first.clear()
            return False
        return access(where, mode)

    monkeypatch.setattr(os, "access", refuse)
    said = refusal(path, lambda task: task)
    assert f"may not write into the run folder {path}: let the same user run Ray there" in said
