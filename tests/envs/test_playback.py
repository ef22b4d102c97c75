"""What is shown is what happened: envpool's own features, rewards and poses."""

from __future__ import annotations

import itertools
from typing import Any

import mujoco
import numpy as np
import pytest
from numpy.typing import NDArray

import envs
from envs.gymnasium_backend import quiet_construction
from envs.playback import Act, Moment, play, robot

_mujoco: Any = mujoco
TASKS = ("HalfCheetah", "Hopper", "Walker2d", "Ant", "Humanoid")
SEED, NUM_STEPS = 5, 12
# The next pose from a pose and velocities that were rounded to float32; 2e-7 m or rad here.
POSE_TOLERANCE = 2e-6
FLOAT32_TOLERANCE = 1e-5
GENTLE = 0.2
"""Share of the action range with which few velocities leave the range of the features."""


def random_policy(env_id: str, share: float = 1.0) -> Act:
    spec, rng = envs.spec(env_id), np.random.default_rng(1)
    low, high = share * np.array(spec.action_low), share * np.array(spec.action_high)

    def act(obs: NDArray[np.float32], time: int) -> NDArray[np.float32]:
        assert obs.shape == (1, spec.num_features)
        return rng.uniform(low, high, (1, spec.num_actions)).astype(np.float32)

    return act


def played(
    env_id: str, seed: int = SEED, num_steps: int = NUM_STEPS, share: float = 1.0
) -> list[Moment]:
    return list(play(env_id, seed, random_policy(env_id, share), max_episode_steps=num_steps))


def load(env_id: str) -> Any:
    with quiet_construction():
        return _mujoco.MjModel.from_xml_path(robot(env_id).model_file)


def velocities(moment: Moment, model: Any) -> NDArray[np.float32]:
    """What stands behind the positions among the features."""
    num_hidden = 2 if model.nq > model.nv else 1  # a free root hides two
    return moment.obs[model.nq - num_hidden :][: model.nv]


@pytest.mark.parametrize("env_id", envs.known_env_ids("envpool"))
def test_features_and_rewards_are_those_of_training(env_id: str) -> None:
    env = envs.make(env_id, seeds=[SEED], num_threads=1, max_episode_steps=NUM_STEPS)
    act = random_policy(env_id)
    first, *later = played(env_id)
    obs = env.reset()
    assert np.array_equal(first.obs, obs[0]) and first.reward == 0 and not first.is_last
    for time, moment in enumerate(later):
        step = env.step(act(obs, time))
        assert np.array_equal(moment.obs, step.final_obs[0])
        assert moment.reward == step.reward[0]
        assert moment.is_last == bool(step.terminated[0] | step.truncated[0])
        obs = step.obs
    assert [moment.is_last for moment in later] == [False] * (len(later) - 1) + [True]
    env.close()


@pytest.mark.parametrize("env_id", envs.known_env_ids("envpool"))
def test_what_is_known_of_a_robot_is_what_its_model_says(env_id: str) -> None:
    import envpool

    model, known = load(env_id), robot(env_id)
    frame_skip = envpool.make_spec(env_id).config.frame_skip  # pyright: ignore
    assert model.nq == known.num_positions
    assert known.step_s == pytest.approx(frame_skip * model.opt.timestep)


@pytest.mark.parametrize("env_id", [*(f"{task}-v3" for task in TASKS), "Walker2d-v5"])
def test_poses_follow_from_one_another_by_the_drawn_model(env_id: str) -> None:
    model, act = load(env_id), random_policy(env_id, GENTLE)
    data = _mujoco.MjData(model)
    num_substeps = round(robot(env_id).step_s / model.opt.timestep)
    moments = played(env_id, share=GENTLE)
    num_compared = 0
    for time, (now, after) in enumerate(itertools.pairwise(moments)):
        action, qvel = act(now.obs[None], time)[0], velocities(now, model)
        if np.abs(qvel).max() == 10:  # where the features of Hopper and Walker2d are cut off
            continue
        _mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:], data.ctrl[:] = now.qpos, qvel, action
        _mujoco.mj_step(model, data, num_substeps)
        np.testing.assert_allclose(after.qpos, data.qpos, rtol=0, atol=POSE_TOLERANCE)
        num_compared += 1
    assert num_compared > NUM_STEPS / 2
    assert abs(moments[-1].qpos[0] - moments[0].qpos[0]) > 100 * POSE_TOLERANCE


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_drawn_humanoid_has_the_inertias_that_are_observed(seed: int) -> None:
    model = load("Humanoid-v3")
    data, first = _mujoco.MjData(model), played("Humanoid-v3", seed, 1)[0]
    data.qpos[:], data.qvel[:] = first.qpos, velocities(first, model)
    _mujoco.mj_forward(model, data)
    expected = np.concatenate([data.cinert.ravel(), data.cvel.ravel()])
    seen = first.obs[model.nq - 2 + model.nv :][: len(expected)]
    np.testing.assert_allclose(seen, expected, rtol=FLOAT32_TOLERANCE, atol=FLOAT32_TOLERANCE)


def test_an_episode_ends_where_the_task_ends() -> None:
    moments = played("Hopper-v3", num_steps=1000)
    assert len(moments) < 300 and moments[-1].is_last
    assert not any(moment.is_last for moment in moments[:-1])


def test_seeds_are_those_of_rows() -> None:
    starts = {tuple(played("Ant-v4", seed, 1)[0].obs) for seed in (3, 4, 3)}
    assert len(starts) == 2


@pytest.mark.parametrize("env_id", ["HalfCheeta-v3", "Pendulum-v1"])
def test_a_task_that_envpool_does_not_have_is_refused(env_id: str) -> None:
    with pytest.raises(ValueError, match=f"env is '{env_id}', unknown to backend 'envpool'"):
        robot(env_id)
    with pytest.raises(ValueError, match=f"env is '{env_id}', unknown to backend 'envpool'"):
        next(play(env_id, 0, random_policy("Ant-v3")))
