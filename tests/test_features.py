"""Real features among their noise: where they stand, what is drawn again, how places change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from fastanf.features import FeatureView, NoisyFeatures
from fastanf.kernels.layer_input import LayerInput
from fastanf.rng import LaneRng, Stream

L, D, F = 3, 3, 8
SEEDS = [5, 0, 11]
STD = torch.tensor([0.5, 1.0, 4.0])


def make(redraw: str = "per_call", **options) -> NoisyFeatures:
    return NoisyFeatures(LaneRng(SEEDS), D, F, STD, redraw, **options)


def observations(num_rows: int) -> Tensor:
    return torch.randn(L, num_rows, D, generator=torch.Generator().manual_seed(0))


def ids(num_rows: int, first: int = 0) -> Tensor:
    return (2 * torch.arange(first, first + num_rows)).expand(L, num_rows)


def drawn(view: FeatureView) -> Tensor:
    """[L, F, B] what a network sees at its next call."""
    return view.draw().written_out


@pytest.mark.parametrize("redraw", ["per_call", "per_step"])
@pytest.mark.parametrize("num_rows", [1, 5, 171])
def test_real_features_are_the_observation(redraw: str, num_rows: int) -> None:
    obs = observations(num_rows)
    drawn_input = make(redraw).view(obs, ids(num_rows), 8).draw()
    shape = drawn_input.num_lanes, drawn_input.num_inputs, drawn_input.num_columns
    x = drawn_input.written_out
    assert x.shape == shape == (L, F, num_rows)
    assert torch.equal(x[:, :D], obs.transpose(1, 2))
    assert bool(x[:, D:].isfinite().all()) and float(x[:, D:].abs().min()) > 0


@pytest.mark.parametrize("redraw", ["per_call", "per_step"])
@pytest.mark.parametrize("permutes", [False, True])
def test_actions_follow_the_features_they_were_drawn_with(redraw: str, permutes: bool) -> None:
    features = make(redraw)
    if permutes:
        features.permute_(torch.tensor([True, True, False]), 2)
    x, action = features.view(observations(5), ids(5), 8).draw(), torch.randn(L, 2, 5)
    joined = x.with_extra(action)
    assert torch.equal(joined.written_out, torch.cat([x.written_out, action], 1))
    assert x.extra is None and joined.num_inputs == F + 2


@pytest.mark.parametrize("redraw", ["per_call", "per_step"])
def test_noise_is_not_written_out_before_it_is_asked_for(redraw: str) -> None:
    obs = observations(5)
    x = make(redraw).view(obs, ids(5), 8).draw()
    assert x.stored.data_ptr() == obs.data_ptr() and x.stored.shape == (L, D, 5)
    assert x.noise is not None and x.noise.num == F - D
    assert "written_out" not in vars(x)


def test_without_noise_only_the_observation_is_there() -> None:
    obs = observations(5)
    x = NoisyFeatures(LaneRng(SEEDS), D, D, STD).view(obs, ids(5), 8).draw()
    assert x.noise is None and torch.equal(x.written_out, obs.transpose(1, 2))


@pytest.mark.parametrize("redraw", ["per_call", "per_step"])
def test_noise_has_each_lanes_deviation(redraw: str) -> None:
    num_rows = 4001
    noise = drawn(make(redraw).view(observations(num_rows), ids(num_rows), 8))[:, D:]
    count = noise[0].numel()
    five_errors = 5 / math.sqrt(2 * count)  # of a deviation estimated from `count` normals
    assert torch.allclose(noise.flatten(1).std(1) / STD, torch.ones(L), atol=five_errors)
    mean = noise.flatten(1).mean(1) / STD
    assert float(mean.abs().max()) < 5 / math.sqrt(count)


def test_per_call_draws_differ_between_calls_views_and_features() -> None:
    features, obs = make(), observations(17)
    first = features.view(obs, ids(17), 8)
    draws = [drawn(first), drawn(first), drawn(features.view(obs, ids(17), 16))]
    noise = torch.cat([x[:, D:].flatten() for x in draws])
    assert noise.unique().numel() == noise.numel()
    again = features.view(obs, ids(17), 8)
    assert torch.equal(drawn(again), draws[0]) and torch.equal(drawn(again), draws[1])


def test_per_step_draws_follow_the_observations_id() -> None:
    features, obs = make("per_step"), observations(9)
    view = features.view(obs, ids(9), 8)
    actor, critic = drawn(view), drawn(view)
    assert torch.equal(actor, critic)
    order = torch.tensor([4, 4, 0, 8])
    later = drawn(features.view(obs[:, order], ids(9)[:, order], 80))
    assert torch.equal(later, actor[:, :, order])
    assert not torch.equal(drawn(features.view(obs, ids(9, first=1), 8))[:, D:], actor[:, D:])


@pytest.mark.parametrize("redraw", ["per_call", "per_step"])
@pytest.mark.parametrize("permutes", [False, True])
def test_a_lane_alone_sees_what_it_sees_among_others(redraw: str, permutes: bool) -> None:
    obs = observations(7)
    together = make(redraw, permute_replay=False)
    if permutes:
        together.permute_(torch.tensor([True, True, False]), 3)
    x = drawn(together.view(obs, ids(7), 8))
    for lane in range(L):
        alone = NoisyFeatures(
            LaneRng([SEEDS[lane]]), D, F, STD[lane : lane + 1], redraw, permute_replay=False
        )
        if permutes and lane < 2:
            alone.permute_(torch.tensor([True]), 3)
        own = drawn(alone.view(obs[lane : lane + 1], ids(7)[:1], 8))
        assert torch.equal(own[0], x[lane])


def places(x: LayerInput, obs: Tensor) -> Tensor:
    """[L, D, B] where each real feature stands, found by its value."""
    return (x.written_out.unsqueeze(1) == obs.transpose(1, 2).unsqueeze(2)).int().argmax(2)


@pytest.mark.parametrize("stream", [Stream.COLLECT_FEATURES, Stream.EVAL_FEATURES])
def test_real_features_move_together_everywhere(stream: Stream) -> None:
    features, obs = make(), observations(5)
    features.permute_(torch.tensor([True, False, True]), 10)
    place = places(features.view(obs, ids(5, first=10), 8).draw(), obs)
    assert torch.equal(place, place[..., :1].expand_as(place))
    assert torch.equal(places(features.draw(obs, ids(5), stream), obs), place)
    expected = torch.zeros(L, F, dtype=torch.bool).scatter(1, place[..., 0], True)
    assert torch.equal(features.real_columns(), expected)
    assert place[1, :, 0].tolist() == [0, 1, 2]
    assert features.real_columns().sum(1).tolist() == [D] * L
    assert (
        place[0, :, 0].tolist() != [0, 1, 2] and place[2, :, 0].tolist() != place[0, :, 0].tolist()
    )


def test_a_permutation_only_moves_what_was_there() -> None:
    obs = observations(5)
    plain, moved = make("per_step"), make("per_step")
    moved.permute_(torch.tensor([True, True, False]), 2)
    before, after = (drawn(f.view(obs, ids(5, 2), 8)) for f in (plain, moved))
    assert moved.source is not None
    for lane in range(L):
        assert torch.equal(after[lane], before[lane, moved.source[lane, -1]])


@pytest.mark.parametrize("permute_replay", [True, False])
@pytest.mark.parametrize("E", [1, 3])
def test_old_transitions_appear_in_the_order_that_was_asked_for(
    permute_replay: bool, E: int
) -> None:
    features = make("per_step", permute_replay=permute_replay)
    time = torch.tensor([0, 9, 10, 11, 19, 20, 30])
    obs_id = (2 * (time * E + E - 1)).expand(L, -1)
    obs = observations(len(time))
    before = places(features.view(obs, obs_id, 8, E).draw(), obs)
    features.permute_(torch.tensor([True, True, False]), 10)
    between = places(features.view(obs, obs_id, 8, E).draw(), obs)
    features.permute_(torch.tensor([True, False, True]), 20)
    after = places(features.view(obs, obs_id, 8, E).draw(), obs)
    if permute_replay:
        assert torch.equal(after, after[..., -1:].expand_as(after))
        assert not torch.equal(after[0], between[0])
        return
    assert torch.equal(after[..., :2], before[..., :2])
    assert torch.equal(after[..., 2:5], between[..., 2:5])
    assert not torch.equal(after[0, :, 5], between[0, :, 5])
    assert torch.equal(after[1], between[1])
    newest = features.draw(obs, obs_id, Stream.EVAL_FEATURES)
    assert torch.equal(places(newest, obs)[..., 0], after[..., -1])


def test_permutations_survive_a_checkpoint() -> None:
    features, obs = make(permute_replay=False), observations(6)
    features.permute_(torch.tensor([True, False, True]), 4)
    features.permute_(torch.tensor([True, True, False]), 8)
    restored = make(permute_replay=False)
    restored.load_state_dict_(features.state_dict())
    for each in (features, restored):
        each.permute_(torch.tensor([False, True, True]), 12)
    draws = [drawn(each.view(obs, 4 * ids(6), 8)) for each in (features, restored)]
    assert torch.equal(*draws)
    assert torch.equal(features.real_columns(), restored.real_columns())
    restored.load_state_dict_({})
    restored.permute_(torch.tensor([True, False, False]), 12)
    assert drawn(restored.view(obs, 4 * ids(6), 8)).shape == (L, F, 6)


def test_empirical_noise_follows_the_quantiles_of_its_real_feature() -> None:
    levels = torch.linspace(0, 1, 257)
    quantiles = torch.stack([levels, levels.square() * 4 - 3, (levels > 0.75).float()])
    features = NoisyFeatures(LaneRng([1]), D, F, torch.ones(1), quantiles=quantiles)
    num_rows = 3001
    noise = drawn(features.view(torch.zeros(1, num_rows, D), ids(num_rows)[:1], 8))[0, D:]
    for index, column in enumerate(noise.numpy()):
        table = quantiles[index % D].numpy()
        if index % D == 2:
            # three quarters of the mass at 0: five errors of a share among 3001 draws
            assert abs((column > 0).mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / num_rows)
            continue
        result = scipy.stats.kstest(column, lambda x, t=table: np.interp(x, t, levels.numpy()))
        assert result.pvalue > 1e-3  # at a fixed seed


@pytest.mark.parametrize("redraw", ["per_call", "per_step"])
def test_no_minibatch_of_features_is_kept(redraw: str) -> None:
    features, num_rows = make(redraw), 171
    features.permute_(torch.tensor([True, True, True]), 4)
    view = features.view(observations(num_rows), ids(num_rows), 8)
    for _ in range(2):
        drawn(view)
    kept = [value for value in vars(features).values() if isinstance(value, Tensor)]
    assert sum(tensor.numel() for tensor in kept) < L * num_rows
    if redraw == "per_call":
        own = [value for value in vars(view).values() if isinstance(value, Tensor)]
        assert max(tensor.numel() for tensor in own) <= L * num_rows * D
