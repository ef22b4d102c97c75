"""Workers that are lost at any moment cost time alone: what is written in the end is what one
process writes, and nothing of a worker that was given up is taken for a checkpoint.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastanf.block_run import Refused
from fastanf.checkpoint import BlockCheckpoints, block_path
from fastanf.cluster.driver import MOST_LOSSES
from tests.cluster.crew_runs import TWO, quick, resume_by, save_every, train_by
from tests.cluster.thread_crew import Loss, ThreadCrew
from tests.interruptions import records
from tests.tiny_runs import status_of, unbroken

_WRITER = re.compile(r"-w([0-9a-f]{8})[-.]")


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with quick(monkeypatch):
        yield


def expect_whole(path: Path, crew: ThreadCrew) -> None:
    """The run of `TWO` is as if nothing had been lost."""
    assert records(path) == unbroken(**TWO) and status_of(path) == "finished"
    committed = {
        (block, json.loads(message.arguments[1])["number"]): attempt
        for block, attempt, message in crew.heard
        if message.name == "commit"
    }
    for block in range(2):
        writers = [task.writer for task in crew.tasks if task.index == block]
        checkpoint, damage = BlockCheckpoints(block_path(path, block)).load()
        assert checkpoint is not None and not damage and checkpoint.state["is_finished"]
        # By whom the driver heard that it is one, whatever others wrote.
        (writer,) = _WRITER.findall(checkpoint.tensors_file)
        assert writer == writers[committed[block, checkpoint.number] - 1]


@pytest.mark.parametrize("is_delivered", [False, True], ids=["unheard", "heard"])
@pytest.mark.parametrize("blocks", [(0,), (1,), (0, 1)], ids=["first", "second", "both"])
def test_a_worker_may_be_lost_at_every_exchange(
    tmp_path: Path, blocks: tuple[int, ...], is_delivered: bool
) -> None:
    for number in itertools.count(1):
        path = tmp_path / str(number)
        loss = Loss(number, is_delivered)
        crew = ThreadCrew(
            lambda b, attempt, loss=loss: loss if (b in blocks) * attempt == 1 else None
        )
        assert train_by(crew, path, **TWO) == 0
        expect_whole(path, crew)
        if not crew.num_lost:
            break
        assert crew.num_lost == len(blocks) == len(crew.tasks) - 2
    assert number > 10


@pytest.mark.parametrize("answered_at", [1, 2, 5])
def test_one_that_was_given_up_may_have_its_answers_late(tmp_path: Path, answered_at: int) -> None:
    """It goes on to its next call while another worker trains its block, and is never heard."""
    for number in itertools.count(1):
        path, loss = tmp_path / str(number), Loss(number, True, answered_at)
        crew = ThreadCrew(lambda block, attempt, loss=loss: loss if attempt == 1 else None)
        assert train_by(crew, path, **TWO) == 0
        expect_whole(path, crew)
        if not crew.num_lost:
            break
        for block in range(2):
            assert [attempt for of, attempt, _ in crew.heard if of == block][-1] == 2
    assert number > 10


@pytest.mark.parametrize("first", [2, 6, 9])
def test_the_next_worker_may_be_lost_too(tmp_path: Path, first: int) -> None:
    for number in itertools.count(1):
        path = tmp_path / str(number)
        fates = {1: Loss(first, True, 2), 2: Loss(number, False), 3: Loss(number, True)}
        crew = ThreadCrew(lambda block, attempt, fates=fates: fates.get(attempt) if block else None)
        assert train_by(crew, path, **TWO) == 0
        expect_whole(path, crew)
        if crew.num_lost == 1:
            break
    assert number > 5


def test_losses_are_counted_from_the_last_one_that_brought_something_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker comes to one more checkpoint and dies: there are many of them."""
    path = tmp_path / "run"
    save_every(monkeypatch, 1)
    crew = ThreadCrew(lambda block, attempt: Loss(8, True) if block else None)
    assert train_by(crew, path, **TWO) == 0
    expect_whole(path, crew)
    assert sum(task.index == 1 for task in crew.tasks) > MOST_LOSSES


def test_a_driver_that_gave_a_block_up_goes_on_with_it_when_it_is_asked_to(tmp_path: Path) -> None:
    path = tmp_path / "run"
    crew = ThreadCrew(lambda block, attempt: Loss(5, False) if block else None)
    with pytest.raises(Refused, match=rf"^block 1 .*: {MOST_LOSSES} workers were lost one after"):
        train_by(crew, path, **TWO)
    assert len(crew.tasks) == 1 + MOST_LOSSES
    again = ThreadCrew()
    assert resume_by(again, path) == 0
    assert records(path) == unbroken(**TWO) and status_of(path) == "finished"
