"""SAC and TD3 find the known values and actions of the probe tasks, through noise features.

Two lanes learn each task in one block: a dense one, and one whose sparse input layer evolves. A
quarter of what they see is real.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tests.probe_envs as probes
from fastanf.block import TrainingBlock
from fastanf.kernels.layer_input import LayerInput
from fastanf.presets import lane_config
from fastanf.rng import Stream
from tests.helpers import CPU

DISCOUNT = 0.8
# Over 12 to 24 lanes of every task no value was off by more than 0.05 (0.2 of 5 behind the time
# limit) and no action, from a range of 3, by more than 0.18. Untrained ones are off by 1 and 0.9.
VALUE_TOLERANCE = 0.1
ACTION_TOLERANCE = 0.2
NUM_ROWS = 64

ALGORITHMS = pytest.mark.parametrize("algorithm", ["SAC", "TD3"])


def learn(algorithm: str, task: str, num_updates: int, **settings: Any) -> TrainingBlock:
    """A dense and an evolving lane after some updates, one for every step of 4 environments."""
    shared = {
        "env": f"{task}-v0",
        "backend": "probe",
        "envs_per_lane": 4,
        "noise_fraction": 0.75,
        "noise_std": 0.5,
        "discount": DISCOUNT,
        "temperature": 0.02,
        "learning_rate": 5e-3,
        "weight_decay": 0.0,
        "tau": 0.05,
        "target_noise": 0.05,
        "exploration_noise": 0.4,
        "batch_size": 48,
        "hidden": (24, 24),
        "input_layer_sparsity": 0.3,
        "topology_period": 100,
        "drop_fraction": 0.2,
        "start_timesteps": 256,
        "max_timesteps": 4 * num_updates,
        **settings,
    }
    lanes = [lane_config(p.format(algorithm), shared) for p in ("{}", "ANF-{}")]
    block = TrainingBlock([lane.replace(seed=i + 1) for i, lane in enumerate(lanes)], CPU, 1)
    for _ in range(block.num_random_steps):
        block.collector.random_step_()
    for step in range(1, num_updates + 1):
        block.collector.step_(4 * step)
        block.learner.update_()
    return block


def shown(block: TrainingBlock, obs: float) -> LayerInput:
    """[L, F, rows] the networks' input where the real feature is `obs`, amid fresh noise."""
    L = len(block.lanes)
    rows = torch.arange(NUM_ROWS).expand(L, -1)
    observed = torch.full((L, NUM_ROWS, 1), obs)
    return block.features.draw(observed, rows, Stream.EVAL_FEATURES)


def action(block: TrainingBlock, obs: float) -> Tensor:
    """[L] the deterministic action, averaged over the noise."""
    return block.algorithm.act(shown(block, obs))[..., 0].mean(1)


@torch.no_grad()
def value(block: TrainingBlock, obs: float) -> Tensor:
    """[L] Q of the deterministic action, averaged over critics and noise."""
    x = shown(block, obs)
    best = block.algorithm.act(x).transpose(1, 2)
    return block.algorithm.critic.value(x, best).mean((1, 2))


def assert_near(found: Tensor, expected: float, tolerance: float) -> None:
    torch.testing.assert_close(found, torch.full_like(found, expected), atol=tolerance, rtol=0)


@ALGORITHMS
def test_value_of_a_constant_reward_is_that_reward(algorithm: str) -> None:
    assert_near(value(learn(algorithm, "Constant", 200), 0.0), 1.0, VALUE_TOLERANCE)


@ALGORITHMS
def test_value_follows_the_observation(algorithm: str) -> None:
    block = learn(algorithm, "Observation", 400)
    for sign in (-1.0, 1.0):
        assert_near(value(block, sign), sign, VALUE_TOLERANCE)


@ALGORITHMS
def test_value_before_a_delayed_reward_is_discounted_once(algorithm: str) -> None:
    block = learn(algorithm, "Delayed", 500)
    assert_near(value(block, 1.0), 1.0, VALUE_TOLERANCE)
    assert_near(value(block, 0.0), DISCOUNT, VALUE_TOLERANCE)


@ALGORITHMS
def test_policy_finds_the_best_action(algorithm: str) -> None:
    block = learn(algorithm, "Action", 800)
    for sign in (-1.0, 1.0):
        assert_near(action(block, sign), probes.BEST_ACTION, ACTION_TOLERANCE)
        assert_near(value(block, sign), 1.0, VALUE_TOLERANCE)


@ALGORITHMS
def test_policy_finds_the_best_action_of_each_observation(algorithm: str) -> None:
    block = learn(algorithm, "ActionTimes", 800)
    for sign in (-1.0, 1.0):
        assert_near(action(block, sign), probes.BEST_SLOPE * sign, ACTION_TOLERANCE)
        assert_near(value(block, sign), 1.0, VALUE_TOLERANCE)


@ALGORITHMS
def test_value_goes_on_behind_the_time_limit(algorithm: str) -> None:
    """A time limit of 4 steps taken for an end would make this 2.95 at most, and not 5."""
    block = learn(algorithm, "TimeLimit", 700)
    assert_near(value(block, 1.0), 1 / (1 - DISCOUNT), 5 * VALUE_TOLERANCE)
