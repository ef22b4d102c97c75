"""The envpool backend: features, limits and determinism across thread counts."""

from __future__ import annotations

import numpy as np
import pytest

import envs
from envs.empirical import exploring_actions

# Features of the papers' simulator stack, and how many of them are contact forces, always 0.
V3_FEATURES = {
    "HalfCheetah": (17, 0),
    "Hopper": (11, 0),
    "Walker2d": (17, 0),
    "Ant": (111, 84),
    "Humanoid": (376, 106),
}


@pytest.mark.parametrize("task", V3_FEATURES)
def test_v3_has_the_features_of_the_papers(task: str) -> None:
    num_features, num_zero = V3_FEATURES[task]
    env = envs.make(f"{task}-v3", seeds=[1, 2, 3, 4])
    seen = [env.reset()]
    # Long enough for the robots to fall, and so for contacts with the floor.
    actions = exploring_actions(env.spec, 4, 60, np.random.default_rng(0))
    seen += [env.step(action).final_obs for action in actions]
    values = np.concatenate(seen)
    assert values.shape[1] == num_features
    assert (values == 0).all(axis=0).sum() == num_zero


@pytest.mark.parametrize("env_id", envs.known_env_ids("envpool"))
def test_table_agrees_with_the_simulator(env_id: str) -> None:
    import envpool

    spec, engine = envs.spec(env_id), envpool.make_spec(env_id)
    assert engine.observation_space.shape == (spec.num_features,)
    np.testing.assert_array_equal(engine.action_space.low, spec.action_low)
    np.testing.assert_array_equal(engine.action_space.high, spec.action_high)
    assert engine.config.max_episode_steps == spec.max_episode_steps == 1000


def test_humanoid_v4_shows_contact_forces() -> None:
    env = envs.make("Humanoid-v4", seeds=[1, 2, 3, 4])
    env.reset()
    actions = exploring_actions(env.spec, 4, 30, np.random.default_rng(0))
    # The last 84 features are the forces; the robot hits the floor within 30 steps.
    assert max(np.abs(env.step(action).final_obs[:, -84:]).max() for action in actions) > 1.0


def test_default_time_limit_truncates_half_cheetah_at_1000() -> None:
    env = envs.make("HalfCheetah-v3", seeds=[1])
    env.reset()
    action = np.zeros((1, 6), np.float32)
    ends = [t for t in range(1, 1002) if env.step(action).truncated[0]]
    assert ends == [1000]


def test_number_of_threads_changes_nothing() -> None:
    seeds = list(range(6))
    one, two = (envs.make("Ant-v3", seeds=seeds, num_threads=n) for n in (1, 2))
    np.testing.assert_array_equal(one.reset(), two.reset())
    for action in exploring_actions(one.spec, 6, 40, np.random.default_rng(0)):
        for a, b in zip(one.step(action), two.step(action), strict=True):
            np.testing.assert_array_equal(a, b)


def test_option_that_would_break_lock_step_is_refused() -> None:
    with pytest.raises(ValueError, match="'batch_size' is unknown to Hopper-v3"):
        envs.make("Hopper-v3", seeds=[1, 2], batch_size=1)
