"""Observations brought to mean 0 and variance 1: the statistics are those of all that was observed,
noise and changes of places included.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastanf.block import TrainingBlock
from fastanf.collect import train_step_
from fastanf.features import NoisyFeatures
from fastanf.observation_statistics import CLIP, EPS, ObservationStatistics
from fastanf.rng import LaneRng, Stream
from tests.helpers import make_block, make_lane, saved

L, D, F = 3, 3, 8
SEEDS = [5, 0, 11]
CPU = torch.device("cpu")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def observed_by(block: TrainingBlock) -> list[Tensor]:
    """[L, F, E] each, of the observations that are counted from now on."""
    found: list[Tensor] = []
    statistics = block.features.statistics
    assert statistics is not None
    observe = statistics.observe_

    def observe_(x: Tensor) -> None:
        found.append(x.clone())
        observe(x)

    statistics.observe_ = observe_
    return found


def statistics_of(block: TrainingBlock) -> ObservationStatistics:
    assert block.features.statistics is not None
    return block.features.statistics


def block_of(num_random: int, **settings: Any) -> TrainingBlock:
    lanes = [make_lane("ANF-SAC", seed, normalize_observations=True, **settings) for seed in (3, 8)]
    return make_block(lanes, num_random)


def assert_sums_up(statistics: ObservationStatistics, everything: Tensor) -> None:
    """Whether these are the mean and the variance over the last axis of [L, F, n]."""
    x = everything.double()
    assert float(statistics.count) == x.shape[2]
    close: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(statistics.mean, x.mean(2, keepdim=True), **close)
    variance = statistics.squares / statistics.count
    torch.testing.assert_close(variance, x.var(2, correction=0, keepdim=True), **close)


@pytest.mark.parametrize("E", [1, 3, 5])
def test_statistics_are_mean_and_variance_of_everything_observed(E: int) -> None:
    statistics = ObservationStatistics(L, F, CPU)
    # A mean of many deviations, where sums of squares would lose digits in float32.
    everything = random(L, F, 40 * E) + 300 * torch.arange(F).view(1, F, 1)
    for x in everything.split(E, 2):
        statistics.observe_(x)
    assert_sums_up(statistics, everything)
    shown = random(L, F, 17) + 300 * torch.arange(F).view(1, F, 1)
    x = everything.double()
    deviation = (x.var(2, correction=0, keepdim=True) + EPS).sqrt()
    expected = (shown - x.mean(2, keepdim=True)) / deviation
    # float32 holds a value of 2100 to within 1e-4.
    torch.testing.assert_close(
        statistics.normalised(shown).double(), expected, rtol=1e-4, atol=5e-4
    )


def test_nothing_but_the_clip_happens_before_the_first_observation() -> None:
    x = 20 * random(L, F, 9)
    found = ObservationStatistics(L, F, CPU).normalised(x)
    assert torch.equal(found, x.clamp(-CLIP, CLIP)) and bool((found.abs() == CLIP).any())


def test_a_feature_that_never_changes_becomes_0() -> None:
    statistics = ObservationStatistics(1, 2, CPU)
    for value in (1.0, 2.0, 5.0):
        statistics.observe_(torch.tensor([[[7.5], [value]]]))
    found = statistics.normalised(torch.tensor([[[7.5, 8.0], [2.0, 3.0]]]))
    assert found[0, 0].tolist() == [0.0, CLIP]


@pytest.mark.parametrize("redraw", ["per_call", "per_step"])
@pytest.mark.parametrize("E", [1, 3])
def test_every_step_counts_what_is_about_to_be_acted_upon(redraw: str, E: int) -> None:
    block = block_of(0, noise_redraw=redraw, envs_per_lane=E)
    found = observed_by(block)
    replay = block.replay
    for step in range(25):
        newest = replay.observations(replay.time).transpose(1, 2).clone()
        if step < 12:
            block.collector.random_step_()
        else:
            train_step_(block.collector, block.learner, step, 1)
        assert len(found) == step + 1 and found[-1].shape == (2, block.features.num_features, E)
        assert torch.equal(found[-1][:, :5], newest)
    everything = torch.cat(found, 2)
    assert_sums_up(statistics_of(block), everything)
    noise = everything[:, 5:]
    assert noise.unique().numel() == noise.numel()
    if redraw == "per_step":  # what is replayed is what was counted
        for time in (0, 7, 20):
            obs, ids = replay.observations(time), replay.newest_id(time)
            shown = block.features.draw(obs, ids, Stream.STEP_FEATURES).written_out
            expected = statistics_of(block).normalised(found[time])
            assert torch.equal(shown, expected)


def test_updates_and_evaluations_count_nothing() -> None:
    block = block_of(30)
    before = {name: x.clone() for name, x in statistics_of(block).state_dict().items()}
    block.evaluate()
    for _ in range(3):
        block.learner.update_()
    block.collector.explore(block.replay.time)
    for name, tensor in statistics_of(block).state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("redraw", ["per_call", "per_step"])
def test_noise_of_deviation_8_is_brought_to_1(redraw: str) -> None:
    block = block_of(400, noise_redraw=redraw, noise_std=8.0, envs_per_lane=3)
    obs = block.replay.observations(100)
    batch = block.replay.sample(block.rng, 1, 600)
    view = block.features.view(batch.obs, batch.obs_id, 0, 3)
    evaluated = block.features.draw(
        obs.repeat(1, 200, 1), torch.arange(600).expand(2, -1), Stream.EVAL_FEATURES
    )
    for x in (view.draw().written_out, evaluated.written_out):
        noise = x[:, 5:]
        # 600 draws a feature, of statistics from 1200: five errors of a deviation, and of a mean.
        assert bool((noise.std(2) - 1).abs().max() < 5 * (1 / 1200 + 1 / 2400) ** 0.5)
        assert bool(noise.mean(2).abs().max() < 5 * (1 / 600 + 1 / 1200) ** 0.5)


def test_statistics_belong_to_places_and_not_to_features() -> None:
    rng, std = LaneRng(SEEDS), torch.tensor([0.5, 1.0, 4.0])
    raw, normalised = (
        NoisyFeatures(rng, D, F, std, permute_replay=False, normalize=value)
        for value in (False, True)
    )
    shown, obs = [], random(L, 30, D)
    for time in range(30):
        if time == 11:
            for features in (raw, normalised):
                features.permute_(torch.tensor([True, False, True]), time)
        row = torch.full((L, 1), time)
        now = obs[:, time : time + 1]
        normalised.observe_(now, row, Stream.COLLECT_FEATURES)
        shown.append(raw.draw(now, row, Stream.COLLECT_FEATURES).written_out)
    statistics = normalised.statistics
    assert statistics is not None
    assert_sums_up(statistics, torch.cat(shown, 2))
    # Old observations keep their old order, and meet the statistics of the places they were at.
    row, old = torch.arange(30).expand(L, 30), torch.tensor([3, 20]).repeat(15).expand(L, 30)
    x, found = (
        features.draw(obs, row, Stream.STEP_FEATURES, old).written_out
        for features in (raw, normalised)
    )
    assert torch.equal(found, statistics.normalised(x))


def test_statistics_survive_a_checkpoint_at_their_addresses(tmp_path: Path) -> None:
    block, loaded = block_of(40, permute_period=3), block_of(7, permute_period=3)
    for step in range(1, 15):
        block.collector.step_(step)
    statistics = statistics_of(loaded)
    held = [x for x in vars(statistics).values() if isinstance(x, Tensor)]
    before = [x.data_ptr() for x in held]
    assert loaded.restore_(saved(block, tmp_path))
    after = [x for x in vars(statistics).values() if isinstance(x, Tensor)]
    assert [x.data_ptr() for x in after] == before
    for name, tensor in vars(statistics_of(block)).items():
        assert torch.equal(getattr(statistics, name), tensor), name
    fresh = block_of(0)
    loaded.features.load_state_dict_(fresh.features.state_dict())
    x = random(2, loaded.features.num_features, 4)
    assert torch.equal(statistics.normalised(x), x)


def test_bits_of_a_lane_do_not_depend_on_its_neighbours() -> None:
    together = ObservationStatistics(L, F, CPU)
    alone = [ObservationStatistics(1, F, CPU) for _ in range(L)]
    for seed in range(9):
        x = random(L, F, 5, seed=seed)
        x[1] = float("nan") if seed == 4 else x[1]
        together.observe_(x)
        for lane, own in enumerate(alone):
            own.observe_(x[lane : lane + 1])
    x = random(L, F, 33)
    for lane, own in enumerate(alone):
        found, expected = own.normalised(x[lane : lane + 1])[0], together.normalised(x)[lane]
        assert torch.equal(found.nan_to_num(99), expected.nan_to_num(99))
        assert bool(found.isnan().all()) == (lane == 1)


def test_features_are_left_alone_where_they_are_not_normalised() -> None:
    block = make_block([make_lane("ANF-SAC", 0)], 20)
    assert block.features.statistics is None and block.features.state_dict() == {}
    x = block.features.draw(
        block.replay.observations(3), torch.zeros(1, 1, dtype=torch.int64), Stream.EVAL_FEATURES
    )
    assert torch.equal(x.stored, block.replay.observations(3).transpose(1, 2))
    assert x.noise is not None
