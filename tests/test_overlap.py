"""Updates that run while the environments step: no number depends on when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fastanf import runner
from fastanf.__main__ import main
from fastanf.block import TrainingBlock
from fastanf.cli import parse_command_line
from fastanf.collect import Collector, train_step_
from fastanf.config import TrainConfig
from fastanf.instrument import Recorder, Stage, clock_of
from fastanf.learner import Learner
from fastanf.replay import FAILED
from fastanf.stage_table import step_times, update_times
from tests import fake_env
from tests.fake_env import RowsEnv
from tests.helpers import all_state, copy_block, unequal_names
from tests.interruptions import records, rows_of, signal_at_update

CPU = torch.device("cpu")
NUM_RANDOM_STEPS = 20


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)


def make_block(overlaps: bool, **values: Any) -> TrainingBlock:
    settings: dict[str, Any] = {
        "env": fake_env.ROWS_ENV_ID, "backend": "fake", "hidden": (8, 5), "batch_size": 4,
        "max_timesteps": 4000, "start_timesteps": NUM_RANDOM_STEPS, "eval_episodes": 2,
        "noise_fraction": 0.6, "input_layer_sparsity": 0.5, "topology": "set",
        "topology_period": 20,
    }  # fmt: skip
    base = TrainConfig.of(**(settings | values))
    block = TrainingBlock([base.replace(seed=seed) for seed in (3, 9)], CPU)
    block.collector.overlaps_updates = overlaps
    for _ in range(NUM_RANDOM_STEPS):
        block.collector.random_step_()
    return block


def count_early_(block: TrainingBlock) -> list[int]:
    """The numbers of the updates that run while a step is under way, from now on."""
    early: list[int] = []
    collector, learner = block.collector, block.learner
    begin, finish, update = collector.begin_, collector.finish_, learner.update_
    under_way: list[bool] = []

    def begin_() -> None:
        begin()
        under_way.append(True)

    def finish_(num_learning_steps: int) -> None:
        under_way.clear()
        finish(num_learning_steps)

    def update_() -> None:
        update()
        early.extend([learner.num_updates] * len(under_way))

    collector.begin_, collector.finish_, learner.update_ = begin_, finish_, update_
    return early


def train_(block: TrainingBlock, num_steps: int, num_updates: int) -> list[int]:
    """Steps with updates; returns the numbers of those that came early."""
    early = count_early_(block)
    for step in range(1, num_steps + 1):
        train_step_(block.collector, block.learner, step * block.replay.envs_per_lane, num_updates)
    return early


def assert_alike(*blocks: TrainingBlock) -> None:
    """Weights, moments, masks, replay, returns of training and of an evaluation, to the bit."""
    first, *others = blocks
    state, finished = all_state(first), first.collector.take_finished()
    returns = first.evaluate()
    assert first.learner.num_updates > 0
    for other in others:
        assert not unequal_names(state, all_state(other))
        assert other.collector.take_finished() == finished
        assert (other.evaluate() == returns).all()


@pytest.mark.parametrize("E", [1, 3])
@pytest.mark.parametrize("num_updates", [1, 4])
@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_training_is_the_same_to_the_bit(E: int, num_updates: int, algorithm: str) -> None:
    values = {"envs_per_lane": E, "updates_per_step": num_updates, "algorithm": algorithm}
    blocks = [make_block(overlaps, **values) for overlaps in (True, False)]
    num_steps = 200 if num_updates == 1 else 100
    early, none = (train_(block, num_steps, num_updates) for block in blocks)
    assert not none and num_steps * num_updates > len(early) > num_steps * num_updates / 3
    assert_alike(*blocks)


@pytest.mark.parametrize("E", [1, 3])
def test_a_ring_that_goes_around_is_the_same_to_the_bit(E: int) -> None:
    values = {"envs_per_lane": E, "replay_capacity": 30 * E}
    blocks = [make_block(overlaps, **values) for overlaps in (True, False)]
    early, _ = (train_(block, 200, 2) for block in blocks)
    assert len(early) > 100 and blocks[0].replay.time > 5 * blocks[0].replay.num_slots
    assert_alike(*blocks)


def test_a_side_table_that_grows_is_the_same_to_the_bit() -> None:
    values = {"envs_per_lane": 8, "replay_capacity": 8 * 100}
    blocks = [make_block(overlaps, **values) for overlaps in (True, False)]
    version = blocks[0].replay.layout_version
    early, _ = (train_(block, 100, 2) for block in blocks)
    assert len(early) > 100 and blocks[0].replay.layout_version > version
    assert_alike(*blocks)


@pytest.mark.parametrize("E", [1, 3])
def test_failed_steps_leave_training_the_same_to_the_bit(E: int) -> None:
    """No update comes early until the failed transitions have left the ring."""
    blocks = [
        make_block(overlaps, envs_per_lane=E, replay_capacity=40 * E) for overlaps in (True, False)
    ]
    for block in blocks:
        assert isinstance(block.env, RowsEnv)
        block.env.fails_at = {0: {60, 61}, 2 * E - 1: {90}}
    early, none = (train_(block, 200, 1) for block in blocks)
    assert not none and early
    # An update that comes early follows as many steps as its number, and the random ones.
    times = [NUM_RANDOM_STEPS + number - 1 for number in early]
    first, last, num_slots = 59, 89, blocks[0].replay.num_slots
    assert not [time for time in times if first < time < last + num_slots]
    assert min(times) < first and max(times) > last + num_slots
    assert blocks[0].collector.num_failures.tolist() == [2, 1]
    assert_alike(*blocks)


def test_a_checkpoint_with_failed_steps_goes_on_alike_to_the_bit(tmp_path: Path) -> None:
    block = make_block(True, replay_capacity=40)
    assert isinstance(block.env, RowsEnv)
    block.env.fails_at = {0: {24}, 1: {29}}
    train_(block, 12, 1)
    copies = [copy_block(block, tmp_path) for _ in range(2)]
    for copy, overlaps in zip(copies, (True, False), strict=True):
        copy.collector.overlaps_updates = overlaps
        assert int((copy.replay.final_slot == FAILED).sum()) == 2
    early, none, unbroken = (train_(other, 100, 1) for other in (*copies, block))
    assert early == unbroken and not none and min(early) > 12 + 20
    assert_alike(block, *copies)


def test_where_features_change_places_no_update_comes_early() -> None:
    blocks = [make_block(overlaps, permute_period=15) for overlaps in (True, False)]
    assert [train_(block, 60, 2) for block in blocks] == [[], []]
    assert blocks[0].features.source is not None
    assert_alike(*blocks)


def test_a_frame_is_a_step_or_one_update_whenever_it_runs() -> None:
    blocks = [make_block(overlaps) for overlaps in (True, False)]
    num_steps, num_updates = 30, 2
    num_early = []
    for block in blocks:
        recorder = Recorder(clock_of(CPU))
        with recorder.recording():
            num_early.append(len(train_(block, num_steps, num_updates)))
        recording = recorder.take()
        roots = recording.roots_ns
        assert len(roots[Stage.UPDATE]) == num_steps * num_updates
        for name in (Stage.ACT, Stage.ENV_STEP, Stage.REPLAY_ADD):
            assert len(roots[name]) == num_steps
        assert all(
            len({root for root, _ in frame} - {Stage.OTHER}) == 1
            for frame in recording.frames
            if (Stage.UPDATE, Stage.UPDATE) in frame
        )
        per_step = {time.stage: time.per_step for time in step_times(recording)}
        assert per_step[Stage.UPDATE] == num_updates
        assert per_step[Stage.ENV_STEP] == per_step[Stage.REPLAY_ADD] == 1
        assert {
            time.per_step for time in update_times(recording) if time.stage == Stage.SAMPLE
        } == {1.0}
    assert num_early[0] > num_steps / 2 and num_early[1] == 0


def test_a_run_has_the_same_records_and_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())
    command = [
        "--plain", "--policy", "ANF-SAC", "--env", fake_env.ROWS_ENV_ID, "--backend", "fake",
        "--num_seeds", "2", "--hidden", "8", "5", "--batch_size", "4", "--max_timesteps", "120",
        "--start_timesteps", "20", "--eval_freq", "40", "--eval_episodes", "2",
        "--tensorboard", "false", "--device", "cpu",
    ]  # fmt: skip
    num_early = 0

    def train(path: Path) -> int:
        return runner.train(parse_command_line([*command, "--run_dir", str(path)]))

    assert train(tmp_path / "strict") == 0
    init, may = Collector.__init__, Collector.may_update_early

    def overlapping(self: Collector, *arguments: Any, **named: Any) -> None:
        init(self, *arguments, **named)
        self.overlaps_updates = True

    def counted(self: Collector, update: int, batch_size: int) -> bool:
        nonlocal num_early
        is_early = may(self, update, batch_size)
        num_early += is_early
        return is_early

    monkeypatch.setattr(Collector, "__init__", overlapping)
    monkeypatch.setattr(Collector, "may_update_early", counted)
    assert train(tmp_path / "overlapped") == 0
    assert 60 < num_early < 120
    expected = records(tmp_path / "strict")
    assert records(tmp_path / "overlapped") == expected and len(expected["eval.csv"]) == 2 * 3
    with signal_at_update(60):
        assert train(tmp_path / "broken") == runner.EXIT_INTERRUPTED
    assert main(["resume", str(tmp_path / "broken")]) == 0
    assert records(tmp_path / "broken") == expected


def test_a_barren_lane_is_stopped_where_its_evaluation_would_be_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the device marks the lane, and the host looks before it records."""
    update = Learner.update_

    def mark(self: Learner) -> None:
        self.replay.is_barren[1] = 1
        update(self)

    monkeypatch.setattr(Learner, "update_", mark)
    monkeypatch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())
    command = [
        "--plain", "--policy", "SAC", "--env", fake_env.ROWS_ENV_ID, "--backend", "fake",
        "--num_seeds", "2", "--hidden", "8", "--batch_size", "4", "--max_timesteps", "20",
        "--start_timesteps", "20", "--eval_freq", "10", "--eval_episodes", "2",
        "--tensorboard", "false", "--device", "cpu", "--run_dir", str(tmp_path / "run"),
    ]  # fmt: skip
    assert runner.train(parse_command_line(command)) == 0
    assert [row["lane"] for row in rows_of(tmp_path / "run")] == ["0", "0"]
    (row,) = rows_of(tmp_path / "run", "quarantine.csv")
    assert (row["lane"], row["step"]) == ("1", "10")
    assert row["cause"] == "simulation breaks down in nearly every step"
