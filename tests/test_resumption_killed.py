"""Runs that are killed at any moment: what stands on the disk then goes on as the run that was not.

A kill leaves the folder as it stands, which is copied here while the run goes on. In test_kills.py
processes are killed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastanf import checkpoint, runner, saving
from fastanf.block import TrainingBlock
from fastanf.checkpoint import BlockCheckpoints, Checkpoint
from fastanf.collect import Collector
from fastanf.learner import Learner
from fastanf.records import RunFolder
from tests import fake_env
from tests.interruptions import at_call, kill, records, signal_at_update
from tests.tiny_runs import (
    ALWAYS_SAVING,
    MAX_STEPS,
    START_STEPS,
    resume,
    status_of,
    train,
    unbroken,
)

RING: dict[str, Any] = {"replay_capacity": 10, "envs_per_lane": 2}
"""A replay that goes around; and 5 random steps and 13 others."""


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)
    monkeypatch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())
    monkeypatch.setattr(saving, "MOST_SHARE", 1.0)  # however long checkpoints take


KILLS = [
    (Collector, "random_step_", 1),
    (Collector, "random_step_", 5),
    (Learner, "update_", 12),
    (TrainingBlock, "evaluate", 2),
    (RunFolder, "append TrainingRow", 2),  # the first of the tables is written
    (RunFolder, "append TopologyRow", 2),
    (RunFolder, "append FeatureRow", 3),
    (RunFolder, "append EvaluationRow", 3),  # and the last is not
    (RunFolder, "append EvaluationRow", 4),
    (RunFolder, "set_status", 1),
]
KILLS_WHILE_SAVING = [
    (checkpoint, "write_tensors", 17),
    (checkpoint, "sync_folder", 8),
    (checkpoint, "sync_folder", 16),
    (Checkpoint, "index", 12),
    (BlockCheckpoints, "_remove", 13),
    (BlockCheckpoints, "_remove", 5 + 13 + 1),  # the final one
]


def killed_at(
    moments: Sequence[tuple[Any, str, int]], path: Path, code: int = 0, **options: Any
) -> list[Path]:
    """Folders as they stand at moments of a run that goes on, until it ends with that code."""
    copies = [path.with_name(f"killed{i}") for i in range(len(moments))]
    with ExitStack() as stack:
        for (owner, name, number), copy in zip(moments, copies, strict=True):
            stack.enter_context(at_call(owner, name, number, partial(kill, path, copy)))
        assert train(path, **options) == code
    return copies


@pytest.mark.parametrize("minutes", [1e-9, 60])
def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path: Path, minutes: float) -> None:
    options, moments = RING, KILLS
    if minutes == 1e-9:
        options, moments = options | ALWAYS_SAVING, KILLS + KILLS_WHILE_SAVING
    copies = killed_at(moments, tmp_path / "run", **options)
    expected = unbroken(**RING)
    for copy in copies:
        assert status_of(copy) == "running"
        with open(copy / "eval.csv", "a") as file:
            file.write("0,SAC,torn")
        assert resume(copy) == 0
        assert records(copy) == expected
        assert status_of(copy) == "finished"
    assert records(tmp_path / "run") == expected


def test_a_run_can_be_killed_stopped_and_resumed_in_turn(tmp_path: Path) -> None:
    """Which needs that a resumed process writes its checkpoints on top of the ones it found."""
    path = tmp_path / "run"
    with signal_at_update(5):
        assert train(path, **ALWAYS_SAVING) == 130
    for round_index, number in enumerate((4, 3, 2, 6)):
        copy = tmp_path / f"killed{round_index}"
        with at_call(Learner, "update_", number, partial(kill, path, copy)):
            if round_index % 2:
                assert resume(path) == 0
            else:
                with signal_at_update(number + 1):
                    assert resume(path) == 130
        path = copy
    assert resume(path) == 0
    assert records(path) == unbroken()


@contextmanager
def lanes_break(lanes: Sequence[int], update: int) -> Iterator[None]:
    """Within, the actor's weights of some lanes become nan with an update."""
    update_ = Learner.update_

    def broken(learner: Learner) -> None:
        update_(learner)
        if learner.num_updates == update:
            for layer in learner.algorithm.networks()["actor"].parameters():
                layer.tensor.data[list(lanes)] = float("nan")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "update_", broken)
        yield


@pytest.mark.parametrize("minutes", [1e-9, 60])
@pytest.mark.parametrize("lanes", [[1], [0, 1]])
def test_a_lane_that_broke_stays_stopped_in_a_run_that_is_resumed(
    tmp_path: Path, lanes: list[int], minutes: float
) -> None:
    """Killed while it is broken and nobody knows, after that, and between the two records."""
    is_over, path = len(lanes) == 2, tmp_path / "run"
    moments = [(Learner, "update_", 6), (RunFolder, "append QuarantineRow", 1)]
    moments += [(RunFolder, "append TrainingRow", 1), (Learner, "update_", 12)] * (not is_over)
    code = runner.EXIT_ALL_STOPPED if is_over else 0
    with lanes_break(lanes, 5):
        copies = killed_at(moments, path, code, checkpoint_minutes=minutes)
        expected = records(path)
        assert [(row["lane"], row["step"]) for row in expected["quarantine.csv"]] == [
            (str(lane), "7") for lane in lanes
        ]
        assert [row["lane"] for row in expected["eval.csv"]] == ["0"] * (0 if is_over else 4)
        for copy in copies:
            assert resume(copy) == code
            assert records(copy) == expected and status_of(copy) == "finished"
    if not is_over:  # and is not told twice by one that had seen it
        with lanes_break(lanes, 5), signal_at_update(12):
            assert train(tmp_path / "stopped") == 130
        assert resume(tmp_path / "stopped") == 0
        assert records(tmp_path / "stopped") == expected


def test_a_checkpoint_writes_only_the_transitions_that_are_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a run that goes on from one."""
    path, spans = tmp_path / "run", []
    written = checkpoint.span_tensors

    def noted(replay: Any, first: int, end: int) -> Any:
        spans.append((first, end))
        return written(replay, first, end)

    monkeypatch.setattr(checkpoint, "span_tensors", noted)
    with signal_at_update(12):
        assert train(path, **ALWAYS_SAVING) == 130
    assert resume(path) == 0
    # Ever longer files are written anew with what follows them, as a binary counter does it.
    num_times = START_STEPS + MAX_STEPS
    assert sum(end - first for first, end in spans) < num_times * num_times.bit_length()
    assert {end for _, end in spans} == set(range(1, num_times + 1))
