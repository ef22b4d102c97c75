"""The gymnasium backend as oracle: the same state and actions give what envpool gives."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

import envs
from envs.envpool_backend import EnvPoolVecEnv
from envs.gymnasium_backend import GymnasiumVecEnv
from envs.registry import make

NUM_STEPS = 20
# Root positions (x, and y for robots that move in three dimensions) that observations leave out.
HIDDEN_POSITIONS = {"HalfCheetah": 1, "Hopper": 1, "Walker2d": 1, "Ant": 2, "Humanoid": 2}
# (relative, absolute). Both simulate in float64, from a start that agrees to the last bits, and
# differ by 3e-13 after NUM_STEPS steps (measured): the float32 observations by their rounding only.
# Humanoid's solver stops early and its contact forces reach 1e3: measured 4e-5 in the state after
# 20 steps and 1e-6 of a force.
OBS_TOLERANCE = {"Humanoid": (1e-4, 1e-3)}
OBS_TOLERANCE_DEFAULT = (1e-6, 1e-6)
# envpool sums the reward in float32: 5 units of alive bonus have a rounding of 5e-7.
REWARD_TOLERANCE = 1e-5


def make_oracle(env_id: str, seeds: list[int]) -> GymnasiumVecEnv:
    env = make(env_id, "gymnasium", seeds)
    assert isinstance(env, GymnasiumVecEnv)
    return env


def reset_in_full_precision(env: EnvPoolVecEnv) -> NDArray[np.float64]:
    """Reset every row and return what the engine says before it is rounded to float32."""
    env.reset()
    obs, _ = env._env.reset()
    return obs.copy()


def copy_start(oracle: GymnasiumVecEnv, start: NDArray[np.float64], num_hidden: int) -> None:
    """Place the oracle where the other simulator is after a reset.

    Its observations hold every position but the hidden ones, on which the dynamics do not depend,
    and every velocity: hopper and walker clip theirs at 10, far above the noise of a reset.
    """
    oracle.reset()
    for row in range(oracle.num_rows):
        qpos, qvel = oracle.get_state(row)
        num_shown = len(qpos) - num_hidden
        shown = start[row, :num_shown]
        qvel = start[row, num_shown : num_shown + len(qvel)]
        obs = oracle.set_state(row, np.concatenate([np.zeros(num_hidden), shown]), qvel)
        # float32 of the same numbers; Humanoid's inertias differ in the last bit of float64.
        np.testing.assert_allclose(obs, start[row].astype(np.float32), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("env_id", envs.known_env_ids("gymnasium"))
def test_envpool_follows_gymnasium_from_the_same_state(env_id: str) -> None:
    task = env_id.split("-")[0]
    fast, oracle = make(env_id, "envpool", [7, 8]), make_oracle(env_id, [7, 8])
    assert isinstance(fast, EnvPoolVecEnv)
    copy_start(oracle, reset_in_full_precision(fast), HIDDEN_POSITIONS[task])
    rng = np.random.default_rng(3)
    shape = (NUM_STEPS, 2, fast.spec.num_actions)
    actions = rng.uniform(fast.spec.action_low, fast.spec.action_high, shape).astype(np.float32)
    rtol, atol = OBS_TOLERANCE.get(task, OBS_TOLERANCE_DEFAULT)
    is_running = np.ones(2, dtype=bool)
    num_compared = 0
    for action in actions:
        ours, theirs = fast.step(action), oracle.step(action)
        on = is_running
        np.testing.assert_array_equal(ours.terminated[on], theirs.terminated[on])
        np.testing.assert_allclose(ours.final_obs[on], theirs.final_obs[on], rtol=rtol, atol=atol)
        np.testing.assert_allclose(ours.reward[on], theirs.reward[on], atol=REWARD_TOLERANCE)
        num_compared += on.sum()
        # Their next episodes start from different random numbers.
        is_running = on & ~theirs.terminated
    assert num_compared >= NUM_STEPS


@pytest.mark.parametrize("env_id", envs.known_env_ids("gymnasium"))
def test_table_agrees_with_gymnasium(env_id: str) -> None:
    spec = envs.spec(env_id, "gymnasium")
    env = make_oracle(env_id, [0])._envs[0]
    assert env.observation_space.shape == (spec.num_features,)
    assert isinstance(env.action_space, gymnasium.spaces.Box)
    np.testing.assert_array_equal(env.action_space.low, np.array(spec.action_low, np.float32))
    np.testing.assert_array_equal(env.action_space.high, np.array(spec.action_high, np.float32))
    assert gymnasium.spec(env_id).max_episode_steps == spec.max_episode_steps


def test_first_reset_is_gymnasiums_own_for_that_seed() -> None:
    env = make_oracle("Hopper-v5", [41, 42])
    for row, obs in enumerate(env.reset()):
        expected, _ = gymnasium.make("Hopper-v5").reset(seed=41 + row)
        np.testing.assert_array_equal(obs, expected.astype(np.float32))


def test_set_state_forgets_the_past() -> None:
    """The same state gives the same steps to the bit, whatever happened before."""
    env = make_oracle("Walker2d-v5", [1, 2])
    env.reset()
    qpos, qvel = env.get_state(0)
    for _ in range(3):
        env.step(np.ones((2, 6), np.float32))
    for row in range(2):
        env.set_state(row, qpos, qvel)
    step = env.step(np.full((2, 6), 0.5, np.float32))
    np.testing.assert_array_equal(step.final_obs[0], step.final_obs[1])
    np.testing.assert_array_equal(step.reward[0], step.reward[1])


def test_a_row_that_was_placed_is_not_saved_until_its_next_reset() -> None:
    env, fresh = (make_oracle("Hopper-v5", [1, 2]) for _ in range(2))
    env.reset()
    state = env.state()
    env.set_state(1, *env.get_state(0))
    with pytest.raises(ValueError, match=r"^row 1 was placed by set_state, which no replay"):
        env.state()
    with pytest.raises(ValueError, match=r"^the simulator was used before"):
        env.restore(state)
    env.reset()
    np.testing.assert_array_equal(fresh.restore(env.state()), env.restore(env.state()))


def test_building_leaves_no_log_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_oracle("HalfCheetah-v4", [0]).reset()
    assert list(tmp_path.iterdir()) == []
