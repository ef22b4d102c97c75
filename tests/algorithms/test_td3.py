"""TD3's equations against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fastanf.algorithms.td3 import TD3, td3_target
from fastanf.kernels.layer_input import LayerInput
from fastanf.rng import Stream
from tests.helpers import make_block, make_lane


def td3_block(num_updates: int = 0, **settings: Any) -> Any:
    block = make_block([make_lane("TD3", 1, **settings), make_lane("ANF-TD3", 2, **settings)], 60)
    for _ in range(num_updates):
        block.learner.update_()
    return block


def test_target_by_hand() -> None:
    # Lane 0: 1 + 0.5 * 2 = 2; ended: 1. Lane 1: 2 + 0.9 * -4 = -1.6; -3 + 0.9 * 0 = -3.
    q_next = torch.tensor([[[2.0, 8.0], [5.0, 7.0]], [[-4.0, 0.0], [3.0, 0.0]]])
    reward = torch.tensor([[1.0, 1.0], [2.0, -3.0]])
    not_terminated = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    target = td3_target(q_next, reward, not_terminated, torch.tensor([0.5, 0.9]))
    torch.testing.assert_close(target, torch.tensor([[2.0, 1.0], [-1.6, -3.0]]))


def test_nan_in_other_rows_of_the_batch_stays_there() -> None:
    q_next = torch.ones(2, 2, 3)
    q_next[0, 1, 2] = float("nan")
    target = td3_target(q_next, torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([0.5, 0.9]))
    assert target[0, 2].isnan()
    kept = torch.ones(2, 3, dtype=torch.bool)
    kept[0, 2] = False
    assert torch.equal(target[kept], torch.tensor([0.5, 0.5, 0.9, 0.9, 0.9]))


def seen_target_action(block: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    """The smoothed action [L, A, B] that the target critics are asked about, and the plain one."""
    algorithm, seen = block.algorithm, []
    assert isinstance(algorithm, TD3)
    original = algorithm.target_critic.value

    def value(x: LayerInput, action: Tensor) -> Tensor:
        seen.append(action.clone())
        return original(x, action)

    monkeypatch.setattr(algorithm.target_critic, "value", value)
    batch = block.replay.sample(block.rng, 1, 16)
    with torch.no_grad():
        view = block.features.view(batch.next_obs, batch.next_obs_id, 12)
        algorithm._target(batch, view, 1)
        again = block.features.view(batch.next_obs, batch.next_obs_id, 12)
        plain = algorithm.target_actor.deterministic(again.draw())
    return seen[0], plain


@pytest.mark.parametrize("env", ["Small-v0", "Humanoid-v0"])
def test_target_smoothing_is_clipped_noise_in_units_of_the_limit(
    env: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = td3_block(env=env, target_noise=1.0, target_noise_clip=0.25)
    smoothed, plain = seen_target_action(block, monkeypatch)
    limit = float(block.env.spec.action_high[0])
    noise = block.rng.normal(Stream.TARGET_NOISE, 1, plain.shape[1:])
    expected = (plain + limit * noise.clamp(-0.25, 0.25)).clamp(-limit, limit)
    torch.testing.assert_close(smoothed, expected)
    assert (smoothed - plain).abs().max() <= 0.25 * limit * (1 + 1e-5)
    assert (smoothed != plain).any()


def test_without_target_noise_the_target_action_is_the_target_actors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    smoothed, plain = seen_target_action(td3_block(target_noise=0.0), monkeypatch)
    assert torch.equal(smoothed, plain)


def test_humanoid_actions_stay_within_their_limit() -> None:
    block = td3_block(env="Humanoid-v0", exploration_noise=3.0)
    generator = torch.Generator()
    x = LayerInput(30 * torch.randn(2, block.features.num_features, 64, generator=generator))
    for action in (block.algorithm.act(x), block.algorithm.explore(x, 5)):
        assert action.shape == (2, 64, 17)
        assert action.abs().max() <= torch.tensor(0.4)
    assert (block.algorithm.explore(x, 5).abs() == torch.tensor(0.4)).any()


def test_exploration_adds_gaussian_noise_in_units_of_the_limit() -> None:
    block = td3_block(env="Humanoid-v0", exploration_noise=0.1)
    x = LayerInput(torch.zeros(2, block.features.num_features, 2000))
    difference = block.algorithm.explore(x, 3) - block.algorithm.act(x)
    # 2 x 2000 x 17 draws: the deviation's standard error is 0.3%; few are clipped near zero.
    assert difference.std().item() == pytest.approx(0.1 * 0.4, rel=0.02)
    assert abs(difference.mean().item()) < 1e-3


def test_actor_and_all_targets_move_every_second_update() -> None:
    block = td3_block()
    algorithm = block.algorithm
    watched = {
        "actor": algorithm.actor_mlp.layers[1].trained,
        "target_actor": algorithm.target_actor_mlp.layers[1].trained,
        "target_critic": algorithm.target_critic.mlp.layers[1].trained,
    }
    critic = algorithm.critic.mlp.layers[1].trained
    for update in range(1, 6):
        before = {name: tensor.detach().clone() for name, tensor in watched.items()}
        critic_before = critic.detach().clone()
        block.learner.update_()
        assert not torch.equal(critic, critic_before)
        for name, tensor in watched.items():
            assert torch.equal(tensor, before[name]) == (update % 2 == 1), name
    assert algorithm.critic_optimizer.num_steps == 5
    assert algorithm.actor_optimizer.num_steps == 2


def test_target_actor_follows_in_updates_without_an_actor_step() -> None:
    block = td3_block(2, policy_delay=2, target_period=1, tau=0.5)
    algorithm = block.algorithm
    actor, target = algorithm.actor_mlp.layers[2], algorithm.target_actor_mlp.layers[2]
    expected = torch.lerp(target.trained, actor.trained.detach(), 0.5)
    block.learner.update_()
    torch.testing.assert_close(target.trained, expected)


def test_actor_loss_is_minus_the_first_critics_value() -> None:
    block = td3_block(1, noise_fraction=0.0)
    algorithm = block.algorithm
    batch = block.replay.sample(block.rng, 2, 16)
    actor_before = algorithm.actor_mlp.target_copy()
    block.learner.update_()
    with torch.no_grad():
        action = torch.tanh(actor_before.forward(LayerInput(batch.obs.transpose(1, 2))))
        x = torch.cat([batch.obs.transpose(1, 2), action], 1)
        # The critic of after its own step, which comes before the actor's; its weights have not
        # moved since, except where connections changed at update 2.
        q = algorithm.critic.mlp.forward(LayerInput(x)).view(2, 2, 16)
    torch.testing.assert_close(algorithm.losses.actor[0], -q[0, 0].mean())


def test_entropy_and_temperature_are_unknown() -> None:
    losses = td3_block(2).algorithm.losses
    assert losses.entropy.isnan().all()
    assert losses.temperature.isnan().all()
    assert losses.actor.isfinite().all()
