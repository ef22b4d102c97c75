"""The contract of envs.interface, checked on every backend. Axes: N rows, D features, A actions."""

from __future__ import annotations

import copy
import importlib.util

import numpy as np
import pytest
from numpy.typing import NDArray

import envs
from envs.interface import RowVecEnv, SavableVecEnv, Step, VecEnv

MJX = pytest.param(
    "mjx",
    marks=pytest.mark.skipif(
        importlib.util.find_spec("jax") is None, reason="needs the extra fastanf[mjx]"
    ),
)
ON_HOST = ["envpool", "gymnasium"]
BACKENDS = [*ON_HOST, MJX]
NO_LIMIT = 10**6


def make(
    backend: str, task: str, seeds: list[int], limit: int = NO_LIMIT, **options: int
) -> VecEnv:
    return envs.make(f"{task}-v4", backend, seeds, max_episode_steps=limit, **options)


def random_actions(env: VecEnv, num_steps: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    shape = (num_steps, env.num_rows, env.spec.num_actions)
    return rng.uniform(env.spec.action_low, env.spec.action_high, shape).astype(np.float32)


def play(env: VecEnv, actions: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[Step]]:
    return env.reset(), [env.step(action) for action in actions]


def assert_rows_equal(
    one: Step, other: Step, one_row: int | slice = slice(None), other_row: int | slice = slice(None)
) -> None:
    for field, a, b in zip(Step._fields, one, other, strict=True):
        np.testing.assert_array_equal(a[one_row], b[other_row], err_msg=field)


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_keep_the_protocol_and_its_types(backend: str) -> None:
    env = make(backend, "Hopper", [1, 2, 3])
    assert isinstance(env, VecEnv) and isinstance(env, RowVecEnv) == (backend in ON_HOST)
    assert env.num_rows == 3
    obs = env.reset()
    step = env.step(np.zeros((3, 3), np.float32))
    assert obs.shape == step.obs.shape == step.final_obs.shape == (3, 11)
    assert obs.dtype == step.obs.dtype == step.final_obs.dtype == step.reward.dtype == np.float32
    assert step.reward.shape == step.terminated.shape == step.truncated.shape == (3,)
    assert step.terminated.dtype == step.truncated.dtype == step.failed.dtype == np.bool_
    assert step.failed.shape == (3,) and not step.failed.any()
    env.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_time_limit_truncates_and_resets_in_the_same_step(backend: str) -> None:
    env = make(backend, "HalfCheetah", [1, 2], limit=5)
    _, steps = play(env, random_actions(env, 12))
    for number, step in enumerate(steps, start=1):
        is_last = number % 5 == 0
        assert step.truncated.tolist() == [is_last] * 2
        assert not step.terminated.any()
        assert (step.final_obs != step.obs).any(axis=1).tolist() == [is_last] * 2
        if is_last:
            # A reset state is within the reset noise of rest: velocities are 0.1 times a normal.
            assert np.abs(step.obs[:, 8:]).max() < 0.6


@pytest.mark.parametrize("backend", BACKENDS)
def test_termination_wins_where_it_meets_the_time_limit(backend: str) -> None:
    free = make(backend, "Hopper", [4])
    actions = random_actions(free, 200)
    _, steps = play(free, actions)
    length = 1 + next(t for t, step in enumerate(steps) if step.terminated[0])
    for limit, expected in [(length - 1, (False, True)), (length, (True, False))]:
        env = make(backend, "Hopper", [4], limit=limit)
        _, steps = play(env, actions[:limit])
        last = steps[-1]
        assert (bool(last.terminated[0]), bool(last.truncated[0])) == expected


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("limit", [9, NO_LIMIT])
def test_no_transition_crosses_a_reset(backend: str, limit: int) -> None:
    """Every episode equals the one that a fresh environment plays after as many bare resets."""
    seeds = [11, 12, 13]
    env = make(backend, "Hopper", seeds, limit)
    actions = random_actions(env, 90)
    obs, steps = play(env, actions)
    for row, seed in enumerate(seeds):
        ends = [t for t, s in enumerate(steps) if s.terminated[row] or s.truncated[row]]
        assert len(ends) >= 2
        first_obs = [obs[row]] + [steps[t].obs[row] for t in ends]
        starts = [0] + [t + 1 for t in ends]
        for episode, (start, end) in enumerate(zip(starts[:3], ends[:3], strict=False)):
            fresh = make(backend, "Hopper", [seed], limit)
            for _ in range(episode + 1):
                fresh_obs = fresh.reset()
            np.testing.assert_array_equal(fresh_obs[0], first_obs[episode])
            for t in range(start, end + 1):
                replayed = fresh.step(actions[t, row : row + 1])
                # Both observations of the last step included.
                assert_rows_equal(replayed, steps[t], 0, row)


@pytest.mark.parametrize("backend", BACKENDS)
def test_row_depends_on_its_own_seed_and_actions_only(backend: str) -> None:
    together = make(backend, "Hopper", [5, 6, 7, 6])
    actions = random_actions(together, 60)
    actions[:, 3] = actions[:, 1]
    obs, steps = play(together, actions)
    alone = make(backend, "Hopper", [6])
    obs_alone, steps_alone = play(alone, actions[:, 1:2])
    assert any(step.terminated[0] for step in steps_alone)
    np.testing.assert_array_equal(obs[1], obs_alone[0])
    assert not np.array_equal(obs[0], obs[1])
    for step, step_alone in zip(steps, steps_alone, strict=True):
        assert_rows_equal(step, step_alone, 1, 0)
        assert_rows_equal(step, step_alone, 3, 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reset_starts_the_next_episode_of_each_row(backend: str) -> None:
    env, other = make(backend, "HalfCheetah", [5, 6]), make(backend, "HalfCheetah", [5, 6])
    first, second = env.reset(), env.reset()
    assert (first != second).any(axis=1).all()
    np.testing.assert_array_equal(other.reset(), first)
    other.step(random_actions(other, 1)[0])
    np.testing.assert_array_equal(other.reset(), second)


@pytest.mark.parametrize("backend", BACKENDS)
def test_reset_restarts_the_time_limit(backend: str) -> None:
    env = make(backend, "HalfCheetah", [5], limit=4)
    actions = random_actions(env, 4)
    play(env, actions[:3])
    _, steps = play(env, actions)
    assert [bool(step.truncated[0]) for step in steps] == [False, False, False, True]


@pytest.mark.parametrize("backend", ON_HOST)
def test_stepping_some_rows_leaves_the_others(backend: str) -> None:
    """Rows stepped in any grouping play what they play together, resets included."""
    seeds, limit = [5, 6, 7], 12
    together = make(backend, "Hopper", seeds, limit)
    actions = random_actions(together, 30)
    _, expected = play(together, actions)
    env = make(backend, "Hopper", seeds, limit)
    assert isinstance(env, RowVecEnv)
    env.reset()
    clock = np.zeros(3, dtype=int)
    rng = np.random.default_rng(0)
    for _ in range(50):
        movable = np.flatnonzero(clock < 30)
        rows = rng.permutation(movable)[: rng.integers(1, 4)].astype(np.int32)
        if not len(rows):
            break
        step = env.step_rows(np.stack([actions[clock[row], row] for row in rows]), rows)
        for i, row in enumerate(rows):
            assert_rows_equal(step, expected[clock[row]], i, int(row))
        clock[rows] += 1
    assert clock.min() > 2 * limit


def make_savable(backend: str, seeds: list[int], limit: int, num_threads: int = 1) -> SavableVecEnv:
    env = make(backend, "Hopper", seeds, limit, num_threads=num_threads)
    assert isinstance(env, SavableVecEnv)
    return env


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_saved_state_goes_on_exactly(backend: str) -> None:
    """In mid-episode, after a whole reset and in steps at which episodes end."""
    seeds, limit = list(range(20, 29)), 25  # MJX has two parts of them
    env = make_savable(backend, seeds, limit)
    assert env.state() == {}
    obs, actions = env.reset(), random_actions(env, 75)
    num_ends = 0
    for time in (0, 1, 13, 25, 50):
        state = env.state()
        kept = copy.deepcopy(state)
        assert all(len(array) == len(seeds) for array in state.values())
        expected = [env.step(action) for action in actions[time : time + 25]]
        assert state.keys() == kept.keys()
        for name, array in state.items():  # a copy, which nothing writes to
            np.testing.assert_array_equal(array, kept[name])
        again = make_savable(backend, seeds, limit, num_threads=2)
        np.testing.assert_array_equal(again.restore(state), obs)
        for name, array in again.state().items():
            np.testing.assert_array_equal(array, kept[name])
        for action, step in zip(actions[time : time + 25], expected, strict=True):
            assert_rows_equal(again.step(action), step)
            num_ends += int(step.terminated.sum() + step.truncated.sum())
        # What was restored is saved in its turn.
        obs = again.reset()
        np.testing.assert_array_equal(env.reset(), obs)
        env.close()
        env = again
    assert num_ends > 40


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_state_can_be_restored_after_a_first_reset(backend: str) -> None:
    env, again = (make_savable(backend, [3, 4], NO_LIMIT) for _ in range(2))
    env.reset()
    again.reset()
    np.testing.assert_array_equal(again.restore(env.state()), again.restore(env.state()))
    step = env.step(random_actions(env, 1)[0])
    np.testing.assert_array_equal(again.restore(env.state()), step.obs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_state_of_another_number_of_rows_is_refused(backend: str) -> None:
    env, other = make_savable(backend, [3, 4], NO_LIMIT), make_savable(backend, [3], NO_LIMIT)
    other.reset()
    with pytest.raises(ValueError, match=r"^simulator state '\w+' is \w+ \(1.*\); this run needs"):
        env.restore(other.state())
    with pytest.raises(ValueError, match=r"^simulator state '\w+' is missing; this run needs"):
        env.restore({})


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_before_the_first_reset_is_refused(backend: str) -> None:
    env = make(backend, "Hopper", [5])
    with pytest.raises(ValueError, match=r"^the simulator must be reset before its first step$"):
        env.step(np.zeros((1, 3), np.float32))


@pytest.mark.parametrize("backend", BACKENDS)
def test_returned_arrays_are_never_written_again(backend: str) -> None:
    env = make(backend, "Hopper", [5, 6], limit=10)
    actions = random_actions(env, 30)
    obs = env.reset()
    obs_copy = obs.copy()
    kept, copies = [], []
    for action in actions:
        step = env.step(action)
        kept.append(step)
        copies.append(copy.deepcopy(step))
    env.reset()
    np.testing.assert_array_equal(obs, obs_copy)
    for step, kept_copy in zip(kept, copies, strict=True):
        assert_rows_equal(step, kept_copy)


@pytest.mark.parametrize("backend", BACKENDS)
def test_actions_are_neither_clipped_nor_scaled(backend: str) -> None:
    """The motor saturates at 1, the control cost 0.1 |a|^2 does not: 6 * 0.1 * (4 - 1) = 1.8."""
    rewards = []
    for size in (1.0, 2.0):
        env = make(backend, "HalfCheetah", [5])
        env.reset()
        rewards.append(env.step(np.full((1, 6), size, np.float32)).reward[0])
    # float32 rewards of a few units.
    assert rewards[0] - rewards[1] == pytest.approx(1.8, abs=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_action_shape_is_refused(backend: str) -> None:
    env = make(backend, "Hopper", [5, 6])
    env.reset()
    with pytest.raises(ValueError, match=r"\(1, 3\); needed is \(2, 3\)"):
        env.step(np.zeros((1, 3), np.float32))


@pytest.mark.parametrize("backend", BACKENDS)
def test_unknown_task_option_is_refused(backend: str) -> None:
    with pytest.raises(ValueError, match="wings"):
        make(backend, "Hopper", [5], wings=2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_task_option_reaches_the_simulator(backend: str) -> None:
    env = envs.make("HalfCheetah-v4", backend, [5, 6], reset_noise_scale=0.0)
    np.testing.assert_array_equal(env.reset(), np.zeros((2, 17), np.float32))
