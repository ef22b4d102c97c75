"""Steps of all lanes on a simulator with known episodes: actions, transitions, returns, noise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from envs.interface import Step
from fastanf import kernels
from fastanf.block import TrainingBlock
from fastanf.collect import fill_rows, row_multiple
from fastanf.config import TrainConfig
from fastanf.kernels.layer_input import LayerInput
from fastanf.replay import FAILED
from fastanf.rng import row_seeds
from tests import fake_env
from tests.fake_env import SPEC, RowsEnv
from tests.helpers import all_state, copy_block, unequal_names
from tests.host_reads import NoHostReads

SEEDS = (3, 4, 9)
LOW, HIGH = np.array(SPEC.action_low), np.array(SPEC.action_high)


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)


def make_block(envs_per_lane: int = 1, seeds: tuple[int, ...] = SEEDS, **values) -> TrainingBlock:
    base = TrainConfig.of(
        env=fake_env.ROWS_ENV_ID, backend="fake", hidden=(8, 5), batch_size=4, max_timesteps=400,
        start_timesteps=20, eval_episodes=2, envs_per_lane=envs_per_lane, **values,
    )  # fmt: skip
    return TrainingBlock([base.replace(seed=seed) for seed in seeds], torch.device("cpu"))


def fake(block: TrainingBlock) -> RowsEnv:
    assert isinstance(block.env, RowsEnv)
    return block.env


def replayed(block: TrainingBlock, envs_per_lane: int) -> Iterator[tuple[np.ndarray, Step]]:
    """Observation and step of each call again, from the seeds and the actions alone."""
    env = RowsEnv(SPEC, row_seeds(SEEDS, envs_per_lane))
    obs = env.reset()
    for actions in fake(block).actions:
        step = env.step(actions)
        yield obs, step
        obs = step.obs


@pytest.mark.parametrize("num_rows", [1, 3, 15, 16, 17])
def test_plain_torch_gets_rows_filled_up_with_the_first(
    num_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "NATIVE", None)
    rows = torch.randn(2, num_rows, 3)
    filled = fill_rows(rows)
    assert filled.shape[1] % 16 == 0 and filled.shape[1] < num_rows + 16
    assert torch.equal(filled[:, :num_rows], rows)
    assert bool((filled[:, num_rows:] == rows[:, :1]).all())


@pytest.mark.skipif(kernels.NATIVE is None, reason="kernels are not compiled")
def test_compiled_kernels_act_on_the_rows_that_there_are() -> None:
    rows = torch.randn(2, 3, 5)
    assert row_multiple(rows.device) == 1 and fill_rows(rows) is rows


@pytest.mark.parametrize("E", [1, 3])
def test_random_actions_fill_the_range(E: int, monkeypatch: pytest.MonkeyPatch) -> None:
    block = make_block(E)

    def refuse(*_: object) -> Tensor:
        raise AssertionError("the policy was asked")

    monkeypatch.setattr(block.algorithm, "explore", refuse)
    for _ in range(200):
        block.collector.random_step_()
    actions = np.stack(fake(block).actions)  # [200, N, A]
    assert actions.dtype == np.float32 and actions.shape == (200, 3 * E, 2)
    assert (actions >= LOW).all() and (actions <= HIGH).all()
    share = (actions - LOW) / (HIGH - LOW)
    assert share.min() < 0.01 and share.max() > 0.99
    assert np.unique(actions).size > 0.99 * actions.size
    assert block.replay.time == 200 and block.collector.num_periods.tolist() == [0, 0, 0]


@pytest.mark.parametrize("E", [1, 3, 17])
def test_exploring_actions_reach_simulator_and_replay(
    E: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = make_block(E)
    block.collector.random_step_()
    given: list[Tensor] = []

    def explore(x: LayerInput, step: int) -> Tensor:
        shown, multiple = x.written_out, row_multiple(x.stored.device)
        num_rows = -(-E // multiple) * multiple
        assert shown.shape == (3, SPEC.num_features, num_rows)
        assert torch.equal(shown[:, :, :E].transpose(1, 2), block.replay.obs[:, step])
        generator = torch.Generator().manual_seed(step)
        given.append(torch.rand(3, x.num_columns, 2, generator=generator))
        return given[-1]

    monkeypatch.setattr(block.algorithm, "explore", explore)
    for step in range(1, 6):
        block.collector.step_(step * E)
        action = given[-1][:, :E]
        assert np.array_equal(fake(block).actions[-1], action.reshape(-1, 2).numpy())
        assert torch.equal(block.replay.action[:, step], action)
    assert len(given) == 5


@pytest.mark.parametrize("E", [1, 3])
@pytest.mark.parametrize("redraw", ["per_call", "per_step"])
@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_acting_by_the_clock_is_acting_by_the_time(E: int, redraw: str, algorithm: str) -> None:
    """To the bit, and the host reads nothing of the device."""
    block = make_block(E, algorithm=algorithm, noise_fraction=0.6, noise_redraw=redraw)
    replay = block.replay
    for step in range(1, 11):
        with NoHostReads():
            action = block.collector.explore(replay.clock)
        block.collector.step_(step * E)
        assert torch.equal(action, replay.action[:, replay.time - 1])


@pytest.mark.parametrize("E", [1, 3])
def test_the_halves_of_a_step_are_a_step(E: int) -> None:
    whole, halves = make_block(E), make_block(E)
    for step in range(1, 21):
        whole.collector.step_(step * E)
        halves.collector.begin_()
        assert halves.replay.time == int(halves.replay.clock) == step
        halves.collector.finish_(step * E)
    assert not unequal_names(all_state(whole), all_state(halves))
    assert whole.collector.finished == halves.collector.take_finished() != [[], [], []]


@pytest.mark.parametrize("E", [1, 3])
def test_what_the_simulator_did_is_what_is_stored(E: int) -> None:
    block = make_block(E)
    for _ in range(20):
        block.collector.random_step_()
    for step in range(1, 21):
        block.collector.step_(step * E)
    lane_env = torch.arange(E).expand(3, E)
    num_ends, num_terminated = 0, 0
    for time, (obs, step) in enumerate(replayed(block, E)):
        batch = block.replay.transitions(torch.full((3, E), time), lane_env)
        assert np.array_equal(batch.obs.reshape(-1, 3).numpy(), obs)
        assert np.array_equal(batch.next_obs.reshape(-1, 3).numpy(), step.final_obs)
        assert np.array_equal(batch.reward.flatten().numpy(), step.reward)
        assert np.array_equal(batch.not_terminated.flatten().numpy(), ~step.terminated)
        num_ends += int((step.terminated | step.truncated).sum())
        num_terminated += int(step.terminated.sum())
    assert num_ends > num_terminated > 0


@pytest.mark.parametrize("E", [1, 3])
def test_returns_of_finished_episodes_are_recorded(E: int) -> None:
    block = make_block(E)
    for _ in range(10):
        block.collector.random_step_()
    first = block.collector.take_finished()
    for step in range(1, 11):
        block.collector.step_(step * E)
    second = block.collector.take_finished()
    assert block.collector.take_finished() == [[], [], []]
    expected: list[list[float]] = [[] for _ in SEEDS]
    running = np.zeros(3 * E)
    for _, step in replayed(block, E):
        running += step.reward
        for row in np.flatnonzero(step.terminated | step.truncated):
            expected[row // E].append(running[row])
            running[row] = 0
    assert all(finished for finished in second)
    for lane in range(3):
        # sums of a few float32 rewards, in the same order and in float64
        assert first[lane] + second[lane] == pytest.approx(expected[lane], rel=1e-12)


@pytest.mark.parametrize("E", [1, 3])
def test_features_change_places_at_the_first_episode_end_after_each_period(
    E: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    period = 10
    block = make_block(E, permute_period=period, noise_fraction=0.5)
    switched: list[list[int]] = [[] for _ in SEEDS]
    permute = block.features.permute_

    def spy(lanes: Tensor, time: int) -> None:
        for lane in lanes.nonzero().flatten().tolist():
            switched[lane].append(time)
        permute(lanes, time)

    monkeypatch.setattr(block.features, "permute_", spy)
    for _ in range(15):
        block.collector.random_step_()
    for step in range(1, 41):
        block.collector.step_(step * E)
    expected: list[list[int]] = [[] for _ in SEEDS]
    for lane in range(3):
        num_periods = 0
        for time, (_, step) in enumerate(replayed(block, E)):
            ends = (step.terminated | step.truncated)[lane * E : lane * E + E].any()
            num_learning = (time - 15 + 1) * E
            if ends and num_learning // period > num_periods:
                num_periods = num_learning // period
                expected[lane].append(time + 1)
    assert switched == expected
    assert all(3 <= len(times) <= 4 * E for times in switched)
    assert block.collector.num_periods.min() >= 3


@pytest.mark.parametrize("E", [1, 3])
def test_replayed_noise_is_the_noise_that_was_acted_on(
    E: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = make_block(
        E, noise_fraction=0.6, noise_redraw="per_step", permute_period=8, permute_replay=False
    )
    seen: dict[int, Tensor] = {}
    explore = block.algorithm.explore

    def spy(x: LayerInput, step: int) -> Tensor:
        seen[step] = x.written_out.clone()
        return explore(x, step)

    monkeypatch.setattr(block.algorithm, "explore", spy)
    for _ in range(3):
        block.collector.random_step_()
    for step in range(1, 31):
        block.collector.step_(step * E)
    assert block.features.source is not None
    for time, x in seen.items():
        batch = block.replay.transitions(torch.full((3, E), time), torch.arange(E).expand(3, E))
        view = block.features.view(batch.obs, batch.obs_id, 8, E)
        assert torch.equal(view.draw().written_out, x[:, :, :E])


def test_noise_per_call_differs_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    block = make_block(3, noise_fraction=0.6)
    seen: list[Tensor] = []
    explore = block.algorithm.explore

    def spy(x: LayerInput, step: int) -> Tensor:
        seen.append(x.written_out[:, 3:, :3].flatten())
        return explore(x, step)

    monkeypatch.setattr(block.algorithm, "explore", spy)
    for step in range(1, 11):
        block.collector.step_(step)
    noise = torch.cat(seen)
    assert noise.unique().numel() == noise.numel() == 10 * 3 * 5 * 3


def test_a_lane_alone_collects_as_among_others() -> None:
    together, alone = make_block(2), make_block(2, seeds=SEEDS[1:2])
    for block in (together, alone):
        for _ in range(10):
            block.collector.random_step_()
        for step in range(1, 16):
            block.collector.step_(2 * step)
    for name in ("obs", "action", "reward", "not_terminated", "final_slot"):
        own, all_lanes = getattr(alone.replay, name), getattr(together.replay, name)
        assert torch.equal(own[0], all_lanes[1])
    assert alone.collector.take_finished()[0] == together.collector.take_finished()[1]


@pytest.mark.parametrize("E", [1, 3])
def test_a_step_that_broke_down_is_counted_and_neither_stored_nor_summed(E: int) -> None:
    block = make_block(E)
    broken = {0: {3, 4, 17}, 2 * E: {9}}  # row -> steps: lanes 0 and 2
    fake(block).fails_at = broken
    for _ in range(12):
        block.collector.random_step_()
    for step in range(1, 13):
        block.collector.step_(step * E)
    replay = block.replay
    assert block.collector.num_failures.tolist() == [3, 0, 1]
    assert int((replay.final_slot == FAILED).sum()) == 4
    # (a step's number counts from 1, a transition's time from 0)
    ids = {(row // E, 2 * ((number - 1) * E + row % E))
           for row, numbers in broken.items() for number in numbers}  # fmt: skip
    sampled = [replay.sample(block.rng, update, 500) for update in range(10)]
    for batch in sampled:
        for lane in range(3):
            for name in {int(i) for i in batch.obs_id[lane]}:
                assert (lane, name) not in ids
        assert bool(torch.isfinite(batch.next_obs).all())
    seen = {(lane, int(i)) for batch in sampled for lane in range(3) for i in batch.obs_id[lane]}
    assert len(seen) == 3 * 24 * E - 4  # every other transition is sampled
    # Returns of the episodes that ended of themselves, and no others.
    env = RowsEnv(SPEC, row_seeds(SEEDS, E))
    env.fails_at = broken
    env.reset()
    expected: list[list[float]] = [[] for _ in SEEDS]
    running = np.zeros(3 * E)
    for actions in fake(block).actions:
        step = env.step(actions)
        running += step.reward
        for row in np.flatnonzero(step.terminated | step.truncated | step.failed):
            if not step.failed[row]:
                expected[row // E].append(running[row])
            running[row] = 0
    finished = block.collector.take_finished()
    for lane in range(3):
        assert finished[lane] == pytest.approx(expected[lane], rel=1e-12)


def test_a_lane_whose_neighbour_breaks_down_samples_what_it_samples_alone() -> None:
    batches = []
    for broken in ({}, {0: set(range(1, 15))}):
        block = make_block()
        fake(block).fails_at = broken
        for _ in range(20):
            block.collector.random_step_()
        batches.append(block.replay.sample(block.rng, 7, 50))
    for name in ("obs", "next_obs", "reward", "obs_id"):
        one, other = (getattr(batch, name)[1:] for batch in batches)
        assert torch.equal(one, other)
    assert not torch.equal(batches[0].obs_id[0], batches[1].obs_id[0])


def test_a_lane_of_which_nothing_is_sound_leaves_the_others_their_samples() -> None:
    batches = []
    for broken in ({}, {1: set(range(1, 21))}):
        block = make_block()
        fake(block).fails_at = broken
        for _ in range(20):
            block.collector.random_step_()
        batches.append([block.replay.sample(block.rng, update, 4) for update in range(2)])
        assert block.replay.is_barren.tolist() == [0, int(1 in broken), 0]
    for one, other in zip(*batches, strict=True):
        for name in one._fields:
            assert torch.equal(getattr(one, name)[0::2], getattr(other, name)[0::2])


def test_failures_survive_a_checkpoint(tmp_path: Path) -> None:
    block = make_block()
    fake(block).fails_at = {0: {5}}
    for _ in range(8):
        block.collector.random_step_()
    restored = copy_block(block, tmp_path)
    assert restored.collector.num_failures.tolist() == [1, 0, 0]
    assert (restored.replay.final_slot == FAILED).nonzero().tolist() == [[0, 4, 0]]
    ids = [restored.replay.sample(restored.rng, update, 500).obs_id[0] for update in range(3)]
    assert set(torch.cat(ids).tolist()) == {0, 2, 4, 6, 10, 12, 14}
