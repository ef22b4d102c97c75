"""Blocks that fail alone, and disks that take nothing for a while: the others go on, and in the end
nothing is lost.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fastanf import block_run, run_tables, runner
from fastanf.block import TrainingBlock
from fastanf.block_run import Refused
from fastanf.checkpoint import block_path
from fastanf.cluster.driver import MOST_BREAKS
from fastanf.records import RunFolder
from fastanf.rows import read_evaluations
from tests import fake_env
from tests.cluster.crew_runs import (
    FOUR,
    TWO,
    quick,
    resume_by,
    save_every,
    train_by,
)
from tests.cluster.thread_crew import Loss, ThreadCrew
from tests.interruptions import records, send
from tests.test_training_on_full_disk import failing_writes
from tests.tiny_runs import newest, resume, status_of, steps_of, unbroken


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with quick(monkeypatch):
        yield


def blocks_of(crew: ThreadCrew) -> list[int]:
    """Blocks of the workers that were hired."""
    return [task.index for task in crew.tasks]


# --- blocks that fail alone -----------------------------------------------------------------------


def test_a_block_that_is_refused_fails_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its checkpoints are damaged; once they are put back it goes on."""
    path = tmp_path / "run"
    assert train_by(ThreadCrew(actions={12: send}), path, **TWO) == runner.EXIT_INTERRUPTED
    kept = {file: file.read_bytes() for file in block_path(path, 0).iterdir()}
    for file in kept:
        file.write_bytes(b"damaged")
    crew = ThreadCrew()
    with pytest.raises(Refused, match=r"^block 0 \(lanes 0\): checkpoint .* put the files back"):
        resume_by(crew, path)
    assert status_of(path) == "failed" and sorted(blocks_of(crew)) == [0, 1]
    assert steps_of(path, 1) == [3, 6] and newest(path, 1).state["is_finished"]
    assert "block 0 (lanes 0): checkpoint" in capsys.readouterr().out
    for file, data in kept.items():
        file.write_bytes(data)
    again = ThreadCrew()
    assert resume_by(again, path) == 0 and blocks_of(again) == [0]
    assert records(path) == unbroken(**TWO)


def breaking(monkeypatch: pytest.MonkeyPatch, number: int, env_id: str) -> None:
    """So many first evaluations of a task's blocks fail."""
    evaluate, left = TrainingBlock.evaluate, [number]

    def fails(self: TrainingBlock) -> Any:
        if self.lanes[0].task.env == env_id and left[0]:
            left[0] -= 1
            raise RuntimeError("device lost\nsee the log")
        return evaluate(self)

    monkeypatch.setattr(TrainingBlock, "evaluate", fails)


def test_a_worker_that_breaks_once_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    breaking(monkeypatch, MOST_BREAKS - 1, fake_env.WHOLE_ENV_ID)
    path, crew = tmp_path / "run", ThreadCrew()
    assert train_by(crew, path, **TWO) == 0 and sorted(blocks_of(crew)) == [0, 1, 1]
    assert records(path) == unbroken(**TWO)
    assert "lanes 1: see the log; another worker tries once more" in capsys.readouterr().out


def test_a_block_that_breaks_again_fails_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path, crew = tmp_path / "run", ThreadCrew()
    # Before it has written anything: else the second break would be the first of what is new.
    save_every(monkeypatch, 100)
    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        breaking(patch, MOST_BREAKS, fake_env.ROWS_ENV_ID)
        with pytest.raises(Refused, match=r"^block 0 \(lanes 0\): see the log$"):
            train_by(crew, path, **TWO)
    assert sorted(blocks_of(crew)) == [0] * MOST_BREAKS + [1]
    assert caplog.text.count("RuntimeError: device lost") == MOST_BREAKS
    assert steps_of(path, 0) == [] and steps_of(path, 1) == [3, 6]
    assert status_of(path) == "failed"
    assert resume(path) == 0
    assert records(path) == unbroken(**TWO)


def test_several_blocks_that_fail_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any) -> None:
        raise Refused("no such simulator here")

    monkeypatch.setattr(block_run.BlockRun, "train", refuse)
    pattern = r"^block 0 \(lanes 0\): no such simulator here \(on .*\) \(and 3 more blocks\)$"
    with pytest.raises(Refused, match=pattern):
        train_by(ThreadCrew(), tmp_path / "run", **FOUR)


def test_blocks_that_are_lost_together_drop_their_rows_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node dies: tables are read once, not for every block of it."""
    truncate, dropped = RunFolder.truncate, []

    def count(self: RunFolder, last_steps: Mapping[int, int]) -> None:
        before = len(read_evaluations(self.path))
        truncate(self, last_steps)
        dropped.append((dict(last_steps), before - len(read_evaluations(self.path))))

    monkeypatch.setattr(RunFolder, "truncate", count)
    save_every(monkeypatch, 100)
    # After all evaluations, before the only checkpoint.
    crew = ThreadCrew(lambda block, attempt: Loss(2, True) if attempt == 1 else None)
    path = tmp_path / "run"
    assert train_by(crew, path, **TWO) == 0 and crew.num_lost == 2
    both = {0: -1, 1: -1}
    assert [each for each in dropped if len(each[0]) == 2] == [(both, 0), (both, 4)]
    assert [number for lanes, number in dropped if len(lanes) == 1] == [0] * 4
    assert records(path) == unbroken(**TWO)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), ValueError("a link")])
def test_what_the_driver_cannot_drop_is_left_to_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    truncate = RunFolder.truncate

    def fail_for_both(self: RunFolder, last_steps: Mapping[int, int]) -> None:
        if len(last_steps) == 2:
            raise error
        truncate(self, last_steps)

    monkeypatch.setattr(RunFolder, "truncate", fail_for_both)
    crew = ThreadCrew(lambda block, attempt: Loss(6, True) if attempt == 1 else None)
    assert train_by(crew, tmp_path / "run", **TWO) == 0 and crew.num_lost == 2
    assert records(tmp_path / "run") == unbroken(**TWO)


# --- a disk that takes nothing for a while --------------------------------------------------------


def test_a_disk_that_is_full_for_a_while_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The driver's and the workers', for eight exchanges, from every third one on in turn."""
    whole, is_full, num_paused, length = ThreadCrew(), [False], 0, 8
    assert train_by(whole, tmp_path / "whole", **TWO) == 0
    failing_writes(monkeypatch, is_full, errno.ENOSPC)
    capsys.readouterr()

    def set_to(value: bool) -> Callable[[], object]:
        return lambda: is_full.__setitem__(0, value)

    for number in range(3, whole.num_exchanges - length, 3):
        path = tmp_path / str(number)
        crew = ThreadCrew(actions={number: set_to(True), number + length: set_to(False)})
        assert train_by(crew, path, **TWO) == 0
        assert records(path) == unbroken(**TWO) and status_of(path) == "finished"
        said = capsys.readouterr().out
        paused = said.count("checkpoints pause")
        assert paused == said.count("checkpoints are written again")
        num_paused += paused
    assert num_paused > 3


def test_a_checkpoint_never_knows_more_than_the_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows wait for the disk, checkpoints would not, and the driver is stopped meanwhile."""
    path, is_full, append = tmp_path / "run", [False], run_tables.append_text

    def append_text(*arguments: Any) -> None:
        if is_full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(*arguments)

    monkeypatch.setattr(run_tables, "append_text", append_text)
    crew = ThreadCrew(actions={9: lambda: is_full.__setitem__(0, True), 20: send})
    assert train_by(crew, path, **TWO) == runner.EXIT_FAILED
    assert all(newest(path, block).state["step"] < 3 for block in range(2))
    is_full[0] = False
    assert resume_by(ThreadCrew(), path) == 0
    assert records(path) == unbroken(**TWO)
