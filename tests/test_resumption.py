"""Runs that are stopped or killed at any moment and resumed write what the run that never was does.

Which is all tables, byte by byte, but for the columns that the clock fills.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import envs
from envs import registry
from fastanf import checkpoint, kernels, runner, saving
from fastanf.block import TrainingBlock
from fastanf.checkpoint import BlockCheckpoints, Checkpoint
from fastanf.collect import Collector
from fastanf.learner import Learner
from fastanf.records import RunFolder
from tests import fake_env
from tests.interruptions import at_call, records, rows_of, send, signal_at_update
from tests.tiny_runs import (
    ALWAYS_SAVING,
    BOTH,
    CSR_OPTIONS,
    EVAL_STEPS,
    MAX_STEPS,
    START_STEPS,
    newest,
    resume,
    status_of,
    steps_of,
    train,
    unbroken,
)

SETTINGS: dict[str, dict[str, Any]] = {
    "masked": {"permute_period": 5},
    "csr": CSR_OPTIONS,
    "delayed actor": {"policy": "TD3 ANF-TD3", "policy_delay": 3, "topology": "rigl"},
    "normalised": {"normalize_observations": "true", "noise_redraw": "per_step"},
    "old order": {"permute_period": 4, "permute_replay": "false", "env": fake_env.WHOLE_ENV_ID},
    "several environments": {"envs_per_lane": 2, "updates_per_step": 2, "start_timesteps": 11},
    "ring that goes around": {"replay_capacity": 10, "envs_per_lane": 2},
    "pruning": {"topology": "pruning", "target_sparsity": "trim", "automatic_temperature": "true"},
}


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)
    monkeypatch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())
    monkeypatch.setattr(saving, "MOST_SHARE", 1.0)  # however long checkpoints take


# Owner and name of what is called, the number of the call in which a signal comes, and the
# evaluations that are recorded when the run has stopped.
INTERRUPTIONS = {
    "building": (TrainingBlock, "__init__", 1, 0),
    "random start": (Collector, "random_step_", 5, 0),
    "last random step": (Collector, "random_step_", START_STEPS, 0),
    "first update": (Learner, "update_", 1, 0),
    "middle": (Learner, "update_", 12, 1),
    "step before an evaluation": (Learner, "update_", 14, 2),
    "evaluation": (TrainingBlock, "evaluate", 2, 2),
    "record": (RunFolder, "append EvaluationRow", 2, 2),
    "last step": (Learner, "update_", MAX_STEPS, 4),
    "last evaluation": (TrainingBlock, "evaluate", 4, 4),
    "final save": (BlockCheckpoints, "save", 1, 4),
}


@pytest.mark.parametrize("moment", INTERRUPTIONS)
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    tmp_path: Path, moment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, options = tmp_path / "run", SETTINGS["masked"]
    owner, name, number, num_evaluations = INTERRUPTIONS[moment]
    is_over = num_evaluations == len(EVAL_STEPS)
    with at_call(owner, name, number, send):
        code = train(path, **options)
    assert len(rows_of(path)) == 2 * num_evaluations
    assert newest(path).state["is_finished"] == is_over
    if is_over:
        assert (code, status_of(path)) == (0, "finished")
    else:
        assert code == runner.EXIT_INTERRUPTED == 130 and status_of(path) == "interrupted"
        assert f"resume {path}" in capsys.readouterr().out
        before = {name: (path / name).read_bytes() for name in ("eval.csv", "train.csv")}
        assert resume(path) == 0
        assert all((path / name).read_bytes().startswith(before[name]) for name in before)
        wall = [float(row["wall_s"]) for row in rows_of(path)]
        assert wall == sorted(wall)
    assert records(path) == unbroken(**options)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_run_that_is_stopped_again_and_again_computes_everything_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    path, options = tmp_path / "run", SETTINGS[setting]
    expected = unbroken(**options)
    num_updates = num_starts = 0
    update_, random_step_ = Learner.update_, Collector.random_step_

    def counted_update(learner: Learner) -> None:
        nonlocal num_updates
        num_updates += 1
        if num_updates % 4 == 0:
            send()
        update_(learner)

    def counted_random_step(collector: Collector) -> None:
        if collector.replay.time == 3:
            send()
        random_step_(collector)

    monkeypatch.setattr(Learner, "update_", counted_update)
    monkeypatch.setattr(Collector, "random_step_", counted_random_step)
    code = train(path, **options)
    while code == runner.EXIT_INTERRUPTED:
        num_starts += 1
        code = resume(path)
    assert code == 0 and num_starts == 1 + num_updates // 4 > 3
    assert num_updates == int(expected["eval.csv"][-1]["updates"])
    assert records(path) == expected


@pytest.mark.parametrize("moment", ["write_tensors", "index", "_remove"])
def test_a_signal_within_a_checkpoint_changes_nothing(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "run"
    owner = {"write_tensors": checkpoint, "index": Checkpoint}.get(moment, BlockCheckpoints)
    with at_call(owner, moment, 20, send):
        assert train(path, **ALWAYS_SAVING) == 130
    assert resume(path) == 0
    assert records(path) == unbroken()


def test_sparse_and_dense_lanes_of_compiled_kernels_train_one_block_after_the_other(
    tmp_path: Path,
) -> None:
    """Unless the layout is given: the lanes keep their numbers, and both blocks are resumed."""
    path = tmp_path / "run"
    options = {"layout": "auto"} if kernels.NATIVE is not None else {"layout": "csr"}
    with signal_at_update(MAX_STEPS + 10):
        assert train(path, **options) == 130
    assert resume(path) == 0
    lanes = rows_of(path, "lanes.csv")
    assert [(row["policy"], row["block"]) for row in lanes] == [("SAC", "0"), ("ANF-SAC", "1")]
    assert {row["lane"] for row in rows_of(path, "topology.csv")} == {"1"}
    assert records(path) == unbroken(**options)


@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [
        (Learner, "update_", MAX_STEPS + 10),
        (BlockCheckpoints, "save", 1),  # the first block's last
        (RunFolder, "append EvaluationRow", 4),
    ],
)
def test_both_blocks_of_a_run_can_be_interrupted(
    tmp_path: Path, owner: Any, name: str, number: int
) -> None:
    path = tmp_path / "run"
    with at_call(owner, name, number, send):
        assert train(path, env=BOTH) == 130
    first_block = [row for row in rows_of(path) if int(row["lane"]) < 2]
    assert len(first_block) == 2 * len(EVAL_STEPS)
    assert resume(path) == 0
    assert rows_of(path)[: len(first_block)] == first_block
    assert records(path) == unbroken(env=BOTH)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_a_whole_step_and_its_handler_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    path, before = tmp_path / "run", signal.getsignal(number)
    seeds: list[list[int]] = []
    monkeypatch.setattr(envs, "make", lambda *args: seeds.append(args[2]) or registry.make(*args))
    with at_call(Learner, "update_", 12, lambda: send(number)):
        assert train(path) == 130
    assert signal.getsignal(number) == before
    saved = newest(path)
    assert saved.state["step"] == int(saved.tensors(1 << 30)["learner/num_updates"]) == 12
    assert status_of(path) == "interrupted" and steps_of(path, 0) == [7]
    assert resume(path) == 0
    assert signal.getsignal(number) == before
    # The worlds of training and of evaluation, which are others; both lanes have one seed.
    assert len(seeds) == 4 and seeds[:2] == seeds[2:]
    rows = [*seeds[0], *seeds[1]]
    assert 2 * len(set(rows)) == len(rows) == 2 * (1 + 3)


def test_a_second_signal_stops_at_once_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run"

    def interrupt_twice() -> None:
        send(signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with at_call(Learner, "update_", 12, interrupt_twice):
        assert train(path) == 130
    assert status_of(path) == "interrupted"
    assert BlockCheckpoints(checkpoint.block_path(path, 0)).load() == (None, [])
    assert resume(path) == 0
    assert records(path) == unbroken()


def test_an_interrupted_restoration_keeps_the_state(tmp_path: Path) -> None:
    """By a signal, which stops it before its first step, and by two, which stop it at once."""
    path = tmp_path / "run"
    with signal_at_update(12):
        assert train(path) == 130
    folder = checkpoint.block_path(path, 0)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def interrupt_twice() -> None:
        send()
        os.kill(os.getpid(), signal.SIGTERM)

    for owner, name in ((Learner, "load_state_dict_"), (RunFolder, "truncate")):
        with at_call(owner, name, 1, interrupt_twice):
            assert resume(path) == 130
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    with at_call(Learner, "load_state_dict_", 1, send):
        assert resume(path) == 130
    assert newest(path).number == 2
    states = [checkpoint.read_checkpoint(folder, number) for number in (1, 2)]
    tensors = [state.tensors(1 << 30) for state in states]
    differing = [
        name for name in tensors[0] if tensors[0][name].tolist() != tensors[1][name].tolist()
    ]
    assert differing == ["learner/watch.checkpoint_steps"]
    assert resume(path) == 0
    assert records(path) == unbroken()


def test_a_finished_run_has_the_same_last_checkpoint_whether_it_was_stopped(
    tmp_path: Path,
) -> None:
    """What an agent is read from."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(whole) == 0
    with signal_at_update(12):
        assert train(broken) == 130
    assert resume(broken) == 0
    tensors = [newest(path).tensors(1 << 30) for path in (whole, broken)]
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        if name != "learner/watch.checkpoint_steps":
            assert tensor.tolist() == tensors[1][name].tolist(), name
