"""SAC's equations against numbers worked out by hand and torch.distributions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Independent,
    Normal,
    TanhTransform,
    TransformedDistribution,
)

from fastanf.algorithms.sac import SAC, soft_target
from fastanf.kernels.layer_input import LayerInput
from fastanf.nets import LOG_STD_RANGE, ActionRange, GaussianActor
from tests.helpers import CPU, make_block, make_lane


class FixedHeads:
    """Stands in for a network: gives the same [mean, log_std] whatever it sees."""

    def __init__(self, heads: Tensor):
        self.heads = heads

    def forward(self, x: LayerInput) -> Tensor:
        return self.heads


def actor_of(heads: Tensor, low: list[float], high: list[float]) -> GaussianActor:
    action_range = ActionRange.from_limits(low, high, CPU)
    action_range = ActionRange(*(limit.to(heads.dtype) for limit in action_range))
    return GaussianActor(FixedHeads(heads), action_range)  # pyright: ignore[reportArgumentType]


def test_soft_target_by_hand() -> None:
    # Lane 0: 1 + 0.5 * (2 - 0.1 * 3) = 1.85; ended: 1. Lane 1: 2 + 0.9 * (-4 + 0.2 * 1) = -1.42.
    q_next = torch.tensor([[[2.0, 8.0], [5.0, 7.0]], [[-4.0, 0.0], [3.0, 0.0]]])
    log_density = torch.tensor([[3.0, 3.0], [-1.0, 0.0]])
    reward = torch.tensor([[1.0, 1.0], [2.0, -3.0]])
    not_terminated = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    discount, temperature = torch.tensor([0.5, 0.9]), torch.tensor([0.1, 0.2])
    target = soft_target(q_next, log_density, reward, not_terminated, discount, temperature)
    torch.testing.assert_close(target, torch.tensor([[1.85, 1.0], [-1.42, -3.0]]))


def test_log_density_is_that_of_the_squashed_gaussian() -> None:
    generator = torch.Generator().manual_seed(1)
    L, A, B = 3, 4, 50
    mean = torch.randn(L, A, B, generator=generator, dtype=torch.float64)
    log_std = torch.randn(L, A, B, generator=generator, dtype=torch.float64) - 1
    normal = torch.randn(L, A, B, generator=generator, dtype=torch.float64)
    low, high = [-1.0, -0.4, -2.0, 0.0], [1.0, 0.4, 1.0, 5.0]
    actor = actor_of(torch.cat([mean, log_std], 1), low, high)
    action, log_density = actor.sample(LayerInput(mean), normal)

    scale, offset = (limit.squeeze(1) for limit in actor.action_range)
    squash = [TanhTransform(cache_size=1), AffineTransform(offset, scale, cache_size=1)]
    rows = (mean.transpose(1, 2), log_std.transpose(1, 2).exp())
    squashed = Independent(TransformedDistribution(Normal(*rows), squash), 1)
    expected = squashed.log_prob(action.transpose(1, 2))
    # The inverse of tanh loses digits near the ends of the range, float64 keeps nine of them.
    torch.testing.assert_close(log_density, expected, rtol=1e-7, atol=1e-7)


def test_log_density_is_finite_where_the_action_is_at_its_limit() -> None:
    heads = torch.tensor([[[40.0], [-5.0]]])  # mean, log_std
    action, log_density = actor_of(heads, [-0.4], [0.4]).sample(
        LayerInput(heads), torch.ones(1, 1, 1)
    )
    assert action.item() == pytest.approx(0.4)
    u = 40 + math.exp(-5)
    normal = -0.5 + 5 - 0.5 * math.log(2 * math.pi)
    # 1 - tanh(u)^2 = 4 exp(-2u) for large u.
    assert log_density.item() == pytest.approx(normal - (math.log(4 * 0.4) - 2 * u), rel=1e-6)


def test_log_std_is_clamped() -> None:
    heads = torch.tensor([[[0.0], [9.0]], [[0.0], [-99.0]]])
    noise = torch.full((2, 1, 1), 0.5)
    action, _ = actor_of(heads, [-1.0], [1.0]).sample(LayerInput(heads), noise)
    expected = [math.tanh(0.5 * math.exp(limit)) for limit in LOG_STD_RANGE[::-1]]
    torch.testing.assert_close(action.flatten(), torch.tensor(expected))


def test_gradient_of_the_log_density_matches_finite_differences() -> None:
    generator = torch.Generator().manual_seed(2)
    heads = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    normal = torch.randn(2, 2, 3, generator=generator, dtype=torch.float64)

    def sample(heads: Tensor) -> tuple[Tensor, Tensor]:
        return actor_of(heads, [-0.4, -1.0], [0.4, 2.0]).sample(LayerInput(heads), normal)

    assert torch.autograd.gradcheck(sample, (heads,))


def sac_block(num_updates: int = 0, first: str = "SAC", **settings: Any) -> Any:
    """Two lanes; where both are sparse, layers may store active connections only."""
    block = make_block([make_lane(first, 1, **settings), make_lane("ANF-SAC", 2, **settings)], 60)
    for _ in range(num_updates):
        block.learner.update_()
    return block


def test_humanoid_actions_stay_within_their_limit_and_reach_for_it() -> None:
    block = sac_block(env="Humanoid-v0")
    generator = torch.Generator()
    x = LayerInput(30 * torch.randn(2, block.features.num_features, 64, generator=generator))
    for action in (block.algorithm.act(x), block.algorithm.explore(x, 5)):
        assert action.shape == (2, 64, 17)
        assert action.abs().max() <= 0.4
        assert action.abs().max() > 0.39


def test_exploration_is_random_by_step_and_acting_is_not() -> None:
    block = sac_block()
    generator = torch.Generator()
    x = LayerInput(torch.randn(2, block.features.num_features, 16, generator=generator))
    explore, act = block.algorithm.explore, block.algorithm.act
    assert torch.equal(explore(x, 5), explore(x, 5))
    assert not torch.equal(explore(x, 5), explore(x, 6))
    assert torch.equal(act(x), act(x))


@pytest.mark.parametrize(("entropy", "sign"), [(5.0, -1.0), (-9.0, 1.0)])
def test_temperature_falls_while_the_entropy_is_above_its_target(
    entropy: float, sign: float
) -> None:
    """The target is -A = -2. Adam's first step has the length of the learning rate."""
    lanes = [
        make_lane("SAC", 1, automatic_temperature=True, learning_rate=0.01),
        make_lane("SAC", 2, temperature=0.3),
    ]
    algorithm = make_block(lanes).algorithm
    assert isinstance(algorithm, SAC)
    torch.testing.assert_close(algorithm.temperature, torch.tensor([1.0, 0.3]))
    algorithm._update_temperature_(torch.full((2,), entropy), 1)
    expected = torch.tensor([math.exp(sign * 0.01), 0.3])
    torch.testing.assert_close(algorithm.temperature, expected)
    assert not algorithm._temperature_moments[:, 1].any()


def test_temperature_weighs_the_entropy_in_the_actor_loss() -> None:
    """Of two equal lanes the one with the larger temperature ends with the larger entropy."""
    lanes = [make_lane("SAC", 1, temperature=t, learning_rate=0.01) for t in (0.0, 2.0)]
    block = make_block(lanes, 60)
    for _ in range(40):
        block.learner.update_()
    losses = block.algorithm.losses
    assert losses.entropy[1] > losses.entropy[0] + 0.5
    torch.testing.assert_close(losses.temperature, torch.tensor([0.0, 2.0]))


def test_losses_before_the_first_step_by_hand() -> None:
    """One critic loss is the mean squared difference to the target, summed over both critics."""
    block = sac_block(noise_fraction=0.0)
    algorithm = block.algorithm
    batch = block.replay.sample(block.rng, 1, 16)
    with torch.no_grad():
        x = torch.cat([batch.obs, batch.action], 2).transpose(1, 2)
        q = algorithm.critic.mlp.forward(LayerInput(x)).view(2, 2, 16)
        next_view = block.features.view(batch.next_obs, batch.next_obs_id, 12)
        target = algorithm._target(batch, next_view, 1)
    expected = sum((q[:, c] - target).square().mean(1) for c in (0, 1))
    value = (q[:, 0].mean(1) + q[:, 1].mean(1)) / 2
    block.learner.update_()
    torch.testing.assert_close(algorithm.losses.critic, expected)
    torch.testing.assert_close(algorithm.losses.value, value)


@pytest.mark.parametrize(("policy_delay", "num_steps"), [(1, 7), (3, 2)])
def test_actor_steps_once_per_policy_delay(policy_delay: int, num_steps: int) -> None:
    algorithm = sac_block(7, policy_delay=policy_delay).algorithm
    assert algorithm.critic_optimizer.num_steps == 7
    assert algorithm.actor_optimizer.num_steps == num_steps


def test_targets_copy_the_critics_at_their_period() -> None:
    block = sac_block(tau=1.0, target_period=3)
    weights = block.algorithm.critic.mlp.layers[1].trained
    targets = block.algorithm.target_critic.mlp.layers[1].trained
    start = targets.clone()
    for update in range(1, 7):
        block.learner.update_()
        assert torch.equal(targets, weights) == (update % 3 == 0)
        assert torch.equal(targets, start) == (update < 3)


@pytest.mark.parametrize(
    ("first", "layout"), [("SAC", "masked"), ("ANF-SAC", "masked"), ("ANF-SAC", "csr")]
)
def test_rows_of_nan_in_one_lane_leave_the_other_lanes_losses(first: str, layout: str) -> None:
    block, sound = (sac_block(first=first, layout=layout) for _ in range(2))
    for name in ("obs", "reward", "action"):
        getattr(block.replay, name)[0] = float("nan")
    for each in (block, sound):
        each.learner.update_()
    for name in ("critic", "actor", "value", "entropy"):
        broken, expected = (
            getattr(block.algorithm.losses, name),
            getattr(sound.algorithm.losses, name),
        )
        assert broken[0].isnan()
        assert torch.equal(broken[1], expected[1])
