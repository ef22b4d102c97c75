"""Real features among their noise: where they stand, what is drawn again, how places change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from fastanf.features import NoisyFeatures
from fastanf.rng import LaneRng, Stream

L, D, F, A = 3, 3, 8, 2
SEEDS = [5, 0, 11]
STD = torch.tensor([0.5, 1.0, 4.0])


def make(redraw: str = "per_call", **options) -> NoisyFeatures:
    return NoisyFeatures(LaneRng(SEEDS), D, F, STD, redraw, **options)


def observations(num_rows: int) -> Tensor:
    return torch.randn(L, num_rows, D, generator=torch.Generator().manual_seed(0))


def ids(num_rows: int, first: int = 0) -> Tensor:
    return (2 * torch.arange(first, first + num_rows)).expand(L, num_rows)


@pytest.mark.parametrize("redraw", ["per_call", "per_step"])
@pytest.mark.parametrize("num_rows", [1, 5, 171])
def test_real_features_are_the_observation(redraw: str, num_rows: int) -> None:
    obs = observations(num_rows)
    x = make(redraw).view(obs, ids(num_rows), 8, A).draw(A)
    assert x.shape == (L, F + A, num_rows)
    assert torch.equal(x[:, :D], obs.transpose(1, 2))
    assert bool(x[:, D:F].isfinite().all()) and float(x[:, D:F].abs().min()) > 0


def test_without_noise_only_the_observation_is_there() -> None:
    obs = observations(5)
    x = NoisyFeatures(LaneRng(SEEDS), D, D, STD).view(obs, ids(5), 8, A).draw()
    assert torch.equal(x, obs.transpose(1, 2))


@pytest.mark.parametrize("redraw", ["per_call", "per_step"])
def test_noise_has_each_lanes_deviation(redraw: str) -> None:
    num_rows = 4001
    noise = make(redraw).view(observations(num_rows), ids(num_rows), 8, 0).draw()[:, D:]
    count = noise[0].numel()
    five_errors = 5 / math.sqrt(2 * count)  # of a deviation estimated from `count` normals
    assert torch.allclose(noise.flatten(1).std(1) / STD, torch.ones(L), atol=five_errors)
    mean = noise.flatten(1).mean(1) / STD
    assert float(mean.abs().max()) < 5 / math.sqrt(count)


def test_per_call_draws_differ_between_calls_views_and_features() -> None:
    features, obs = make(), observations(17)
    first = features.view(obs, ids(17), 8, A)
    draws = [first.draw(), first.draw(A)[:, :F], features.view(obs, ids(17), 16, A).draw()]
    noise = torch.cat([x[:, D:].flatten() for x in draws])
    assert noise.unique().numel() == noise.numel()
    again = features.view(obs, ids(17), 8, A)
    assert torch.equal(again.draw(), draws[0]) and torch.equal(again.draw(), draws[1])


def test_per_step_draws_follow_the_observations_id() -> None:
    features, obs = make("per_step"), observations(9)
    view = features.view(obs, ids(9), 8, A)
    actor, critic = view.draw(), view.draw(A)
    assert torch.equal(actor, critic[:, :F])
    order = torch.tensor([4, 4, 0, 8])
    later = features.view(obs[:, order], ids(9)[:, order], 80, A).draw()
    assert torch.equal(later, actor[:, :, order])
    assert not torch.equal(features.view(obs, ids(9, first=1), 8, A).draw()[:, D:], actor[:, D:])


@pytest.mark.parametrize("redraw", ["per_call", "per_step"])
@pytest.mark.parametrize("permutes", [False, True])
def test_a_lane_alone_sees_what_it_sees_among_others(redraw: str, permutes: bool) -> None:
    obs = observations(7)
    together = make(redraw, permute_replay=False)
    if permutes:
        together.permute_(torch.tensor([True, True, False]), 3)
    x = together.view(obs, ids(7), 8, A).draw()
    for lane in range(L):
        alone = NoisyFeatures(
            LaneRng([SEEDS[lane]]), D, F, STD[lane : lane + 1], redraw, permute_replay=False
        )
        if permutes and lane < 2:
            alone.permute_(torch.tensor([True]), 3)
        own = alone.view(obs[lane : lane + 1], ids(7)[:1], 8, A).draw()
        assert torch.equal(own[0], x[lane])


def places(features: NoisyFeatures, x: Tensor, obs: Tensor) -> Tensor:
    """[L, D, B] where each real feature stands, found by its value."""
    return (x[:, : features.num_features].unsqueeze(1) == obs.transpose(1, 2).unsqueeze(2)).int(
    ).argmax(2)  # fmt: skip


@pytest.mark.parametrize("stream", [Stream.COLLECT_FEATURES, Stream.EVAL_FEATURES])
def test_real_features_move_together_everywhere(stream: Stream) -> None:
    features, obs = make(), observations(5)
    features.permute_(torch.tensor([True, False, True]), 10)
    place = places(features, features.view(obs, ids(5, first=10), 8, A).draw(A), obs)
    assert torch.equal(place, place[..., :1].expand_as(place))
    assert torch.equal(places(features, features.draw(obs, ids(5), stream), obs), place)
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
    before, after = (f.view(obs, ids(5, 2), 8, 0).draw() for f in (plain, moved))
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
    before = places(features, features.view(obs, obs_id, 8, 0, E).draw(), obs)
    features.permute_(torch.tensor([True, True, False]), 10)
    between = places(features, features.view(obs, obs_id, 8, 0, E).draw(), obs)
    features.permute_(torch.tensor([True, False, True]), 20)
    after = places(features, features.view(obs, obs_id, 8, 0, E).draw(), obs)
    if permute_replay:
        assert torch.equal(after, after[..., -1:].expand_as(after))
        assert not torch.equal(after[0], between[0])
        return
    assert torch.equal(after[..., :2], before[..., :2])
    assert torch.equal(after[..., 2:5], between[..., 2:5])
    assert not torch.equal(after[0, :, 5], between[0, :, 5])
    assert torch.equal(after[1], between[1])
    newest = features.draw(obs, obs_id, Stream.EVAL_FEATURES)
    assert torch.equal(places(features, newest, obs)[..., 0], after[..., -1])


def test_permutations_survive_a_checkpoint() -> None:
    features, obs = make(permute_replay=False), observations(6)
    features.permute_(torch.tensor([True, False, True]), 4)
    features.permute_(torch.tensor([True, True, False]), 8)
    restored = make(permute_replay=False)
    restored.load_state_dict_(features.state_dict())
    for each in (features, restored):
        each.permute_(torch.tensor([False, True, True]), 12)
    draws = [each.view(obs, 4 * ids(6), 8, 0).draw() for each in (features, restored)]
    assert torch.equal(*draws)
    assert torch.equal(features.real_columns(), restored.real_columns())
    restored.load_state_dict_({})
    restored.permute_(torch.tensor([True, False, False]), 12)
    assert restored.view(obs, 4 * ids(6), 8, 0).draw().shape == (L, F, 6)


def test_empirical_noise_follows_the_quantiles_of_its_real_feature() -> None:
    levels = torch.linspace(0, 1, 257)
    quantiles = torch.stack([levels, levels.square() * 4 - 3, (levels > 0.75).float()])
    features = NoisyFeatures(LaneRng([1]), D, F, torch.ones(1), quantiles=quantiles)
    num_rows = 3001
    noise = features.view(torch.zeros(1, num_rows, D), ids(num_rows)[:1], 8, 0).draw()[0, D:]
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
    view = features.view(observations(num_rows), ids(num_rows), 8, A)
    for extra_rows in (0, A):
        view.draw(extra_rows)
    kept = [value for value in vars(features).values() if isinstance(value, Tensor)]
    assert sum(tensor.numel() for tensor in kept) < L * num_rows
    if redraw == "per_call":
        own = [value for value in vars(view).values() if isinstance(value, Tensor)]
        assert max(tensor.numel() for tensor in own) <= L * num_rows * D
