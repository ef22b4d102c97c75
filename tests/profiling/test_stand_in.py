"""The simulator that is none: it keeps the contract of a simulator."""

from __future__ import annotations

import numpy as np
import stand_in

import envs

stand_in.register()


def test_it_has_the_sizes_of_every_task() -> None:
    for env_id in envs.known_env_ids():
        assert envs.spec(env_id, stand_in.NAME) == envs.spec(env_id)


def test_rows_depend_on_their_own_seed_alone() -> None:
    together = envs.make("Hopper-v3", stand_in.NAME, [5, 9, 2])
    alone = envs.make("Hopper-v3", stand_in.NAME, [9])
    np.testing.assert_array_equal(together.reset()[1:2], alone.reset())
    actions = np.random.default_rng(0).uniform(-1, 1, (40, 3, 3)).astype(np.float32)
    for action in actions:
        for one, other in zip(together.step(action), alone.step(action[1:2]), strict=True):
            np.testing.assert_array_equal(one[1:2], other)


def test_the_time_limit_ends_episodes_and_nothing_else_does() -> None:
    env = envs.make("Ant-v3", stand_in.NAME, [1, 2], max_episode_steps=3)
    last = env.reset()
    for time in range(1, 8):
        step = env.step(np.zeros((2, 8), np.float32))
        assert step.obs.dtype == step.reward.dtype == np.float32
        assert step.truncated.all() == step.truncated.any() == (time % 3 == 0)
        assert not step.terminated.any() and not step.failed.any()
        assert (step.final_obs != last).any()
        # After the limit the next episode begins elsewhere.
        assert (step.obs != step.final_obs).any() == (time % 3 == 0)
        last = step.obs


def test_a_saved_state_goes_on_exactly() -> None:
    env, again = (envs.make("Ant-v3", stand_in.NAME, [1, 2], max_episode_steps=3) for _ in range(2))
    obs, still = env.reset(), np.zeros((2, 8), np.float32)
    for _ in range(4):
        obs = env.step(still).obs
    np.testing.assert_array_equal(again.restore(env.state()), obs)
    for _ in range(4):
        for one, other in zip(env.step(still), again.step(still), strict=True):
            np.testing.assert_array_equal(one, other)
