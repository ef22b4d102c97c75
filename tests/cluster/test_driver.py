"""Blocks that train at the same time write what one process writes, block after block."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastanf import runner, stage_records
from fastanf.block_run import Refused
from fastanf.checkpoint import BlockCheckpoints, block_path
from fastanf.cluster.resources import Node
from fastanf.cluster.worker import ENDS
from fastanf.lane_records import blocks_from_rows
from fastanf.peaks import Peaks
from fastanf.progress import Progress
from fastanf.records import RunFolder
from fastanf.rows import read_evaluations, read_lanes
from fastanf.run_manifest import run_settings
from fastanf.stopping import Interrupted, StopSignals
from tests.cluster import crew_runs
from tests.cluster.crew_runs import (
    FOUR,
    SHORT,
    TWO,
    quick,
    resume_by,
    train_by,
    trainer_of,
)
from tests.cluster.thread_crew import Loss, ThreadCrew
from tests.interruptions import records, rows_of, send
from tests.test_resumption_killed import lanes_break
from tests.tiny_runs import BOTH, newest, resume, status_of, unbroken


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with quick(monkeypatch):
        yield


def blocks_of(crew: ThreadCrew) -> list[int]:
    """Blocks of the workers that were hired."""
    return [task.index for task in crew.tasks]


@pytest.mark.parametrize(
    ("options", "at_once"),
    [
        ({}, 4),
        ({"piece": 1}, 4),
        ({"wait_s": 0.001}, 4),  # messages come together as time has it
        ({"room": 2}, 2),
        ({"room": 1}, 1),
        ({"held": [0, 2]}, 4),
    ],
    ids=["calls", "pieces", "clock", "room for two", "room for one", "held back"],
)
def test_blocks_that_train_at_the_same_time_equal_those_of_one_process(
    tmp_path: Path, options: dict[str, Any], at_once: int
) -> None:
    path, crew = tmp_path / "run", ThreadCrew(**options)
    assert train_by(crew, path, **FOUR) == 0
    assert records(path) == unbroken(**FOUR)
    assert (crew.most_at_once, crew.num_lost, sorted(blocks_of(crew))) == (at_once, 0, [0, 1, 2, 3])
    assert len({task.writer for task in crew.tasks}) == 4
    assert status_of(path) == "finished"
    for block in range(4):
        checkpoint, damage = BlockCheckpoints(block_path(path, block)).load()
        assert checkpoint is not None and checkpoint.state["is_finished"] and not damage


def test_rows_that_came_in_another_order_are_sorted_at_the_end(tmp_path: Path) -> None:
    """The second block ends before the first one is heard."""
    path = tmp_path / "run"
    crew = ThreadCrew(held=[0])
    assert train_by(crew, path, **TWO) == 0
    assert [block for block, _, _ in crew.heard] == sorted(
        (block for block, _, _ in crew.heard), reverse=True
    )
    assert [row["lane"] for row in rows_of(path)] == ["0"] * 2 + ["1"] * 2
    assert records(path) == unbroken(**TWO)


def test_workers_have_the_threads_that_were_asked_for_or_those_of_their_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew_runs, "NODES", (Node("n", "n", 5, 0, 2**36),))
    first, second = ThreadCrew(), ThreadCrew()
    assert train_by(first, tmp_path / "first", **TWO) == 0
    assert train_by(second, tmp_path / "second", **TWO, num_threads=3) == 0
    assert [task.num_threads for task in first.tasks] == [2, 2]  # of five CPUs
    assert [task.num_threads for task in second.tasks] == [3, 3]
    assert records(tmp_path / "first") == records(tmp_path / "second") == unbroken(**TWO)


def test_a_profiled_run_keeps_its_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One block after the other: the recorder is the process's."""
    monkeypatch.setattr(stage_records, "measure_peaks", lambda *_: Peaks(100.0, 10.0, 50.0, 1000))
    path = tmp_path / "run"
    assert train_by(ThreadCrew(room=1), path, **TWO, profile="true") == 0
    found, expected = records(path), unbroken(**TWO)
    for row in found["train.csv"]:
        for name in row.keys() - expected["train.csv"][0].keys():
            assert name.endswith("_ms")
            del row[name]
    assert found == expected
    stages = rows_of(path, "stages.csv")
    assert {(row["lane"], row["step"]) for row in stages} == {
        (lane, step) for lane in "01" for step in "36"
    }


# --- stopping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("goes_on", ["driver", "resume"])
def test_a_run_that_is_stopped_saves_all_blocks_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], goes_on: str
) -> None:
    """At every third exchange in turn, until it is finished before that."""
    expected, code = unbroken(**TWO), runner.EXIT_INTERRUPTED
    for number in itertools.count(1, 3):
        path = tmp_path / str(number)
        crew = ThreadCrew(actions={number: send})
        code = train_by(crew, path, **TWO)
        if code == 0:
            break
        assert code == runner.EXIT_INTERRUPTED and status_of(path) == "interrupted"
        assert "interrupted; go on with: the same command" in capsys.readouterr().out
        heard = {block for block, *_ in crew.heard}
        ends = {block: said.name for block, _, said in crew.heard if said.name in ENDS}
        assert ends.keys() == heard and set(ends.values()) <= {"interrupted", "finished"}
        assert [newest(path, block).state["is_finished"] for block in heard] == [
            ends[block] == "finished" for block in heard
        ]
        if goes_on == "driver":
            assert resume_by(ThreadCrew(), path) == 0
        else:
            assert resume(path) == 0
        assert records(path) == expected and status_of(path) == "finished"
    assert number > 15 and records(path) == expected


def test_blocks_that_wait_for_room_are_dismissed_when_the_run_is_stopped(tmp_path: Path) -> None:
    path, crew = tmp_path / "run", ThreadCrew(room=1, actions={4: send})
    assert train_by(crew, path, **TWO) == runner.EXIT_INTERRUPTED
    assert blocks_of(crew) == [0, 1] and {block for block, *_ in crew.heard} == {0}
    assert crew.heard[-1][2].name == "interrupted"
    assert not block_path(path, 1).exists()
    again = ThreadCrew()
    assert resume_by(again, path) == 0 and blocks_of(again) == [0, 1]
    assert records(path) == unbroken(**TWO)


def test_a_run_that_is_stopped_when_all_is_done_is_finished(tmp_path: Path) -> None:
    """As one in a single process is."""
    path, crew = tmp_path / "run", ThreadCrew()
    assert train_by(crew, path, **TWO) == 0
    path, late = tmp_path / "stopped", ThreadCrew(actions={crew.num_exchanges: send})
    assert train_by(late, path, **TWO) == 0 and status_of(path) == "finished"
    assert records(path) == unbroken(**TWO)


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    """What came since the checkpoints is trained anew."""
    path = tmp_path / "run"

    def interrupt_twice() -> None:
        send()
        send()

    crew = ThreadCrew(actions={14: interrupt_twice})
    assert train_by(crew, path, **TWO) == runner.EXIT_INTERRUPTED
    assert status_of(path) == "interrupted"
    assert "interrupted" not in [message.name for *_, message in crew.heard]
    assert resume(path) == 0
    assert records(path) == unbroken(**TWO)


# --- blocks that are finished ---------------------------------------------------------------------


def half_finished(path: Path, **options: Any) -> None:
    """A run whose first block is finished; of the second one every worker was lost."""
    crew = ThreadCrew(lambda block, attempt: Loss(1, False) if block else None)
    with pytest.raises(Refused, match=r"^block 1 "):
        train_by(crew, path, **options)


def test_finished_blocks_are_shown_and_not_trained_again(tmp_path: Path) -> None:
    path, options = tmp_path / "run", {**SHORT, "env": BOTH}
    with lanes_break([1], 2):
        half_finished(path, **options)
        rows, blocks = read_evaluations(path), blocks_from_rows(read_lanes(path))
        folder = RunFolder.open(path)
        crew, stop = ThreadCrew(), StopSignals()
        progress = Progress([str(lane) for lane in range(4)], 6, True, stream=io.StringIO())
        with folder, progress, crew:
            trainer, run = trainer_of(crew), run_settings(folder.manifest)
            stop.is_asked = True  # so that the other block is not even begun
            with pytest.raises(Interrupted):
                trainer(folder, run, blocks, progress, stop)
            assert progress.steps == [6, 3, 0, 0] and list(progress.stopped_because) == [1]
            assert progress.returns == [rows[-1].return_mean, None, None, None]
            stop.is_asked = False
            assert trainer(folder, run, blocks, progress, stop) == 2
            assert progress.steps == [6, 3, 6, 3] and list(progress.stopped_because) == [1, 3]
            assert trainer(folder, run, blocks, progress, stop) == 2
    assert blocks_of(crew) == [1, 1]
    assert [row["lane"] for row in rows_of(path)] == ["0", "0", "2", "2"]


def test_a_finished_block_whose_rows_were_changed_is_refused(tmp_path: Path) -> None:
    path, crew = tmp_path / "run", ThreadCrew()
    half_finished(path, **TWO)
    text = (path / "eval.csv").read_text()
    (path / "eval.csv").write_text(text.replace("ANF-SAC", "ANF-TD3", 1))
    with pytest.raises(Refused, match=r"eval\.csv' was changed or damaged"):
        resume_by(crew, path)
    assert not crew.tasks
    (path / "eval.csv").write_text(text)
    assert resume_by(crew, path) == 0 and records(path) == unbroken(**TWO)
