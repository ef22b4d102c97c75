"""Simulators without a readable state: what was logged leads where they were, to the bit.

Axes: N rows, D features, A actions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

import envs
from envs.envpool_backend import EnvPoolVecEnv
from envs.episode_log import MAX_RESETS, EpisodeLog
from envs.gymnasium_backend import GymnasiumVecEnv
from envs.interface import SimulationDiffers, Step

ReplayedVecEnv = EnvPoolVecEnv | GymnasiumVecEnv
SEEDS = [3, 2**31 - 1, 40, 41, 42]
State = dict[str, NDArray[np.generic]]


def make(
    env_id: str, backend: str = "envpool", seeds: list[int] = SEEDS, **options: Any
) -> ReplayedVecEnv:
    env = envs.make(env_id, backend, seeds, **options)
    assert isinstance(env, ReplayedVecEnv)
    return env


class Command(NamedTuple):
    """What a simulator is told: a step of some rows, or a reset of all where there are none."""

    rows: NDArray[np.int32]
    actions: NDArray[np.float32]


def random_commands(env: ReplayedVecEnv, num_commands: int, seed: int = 0) -> list[Command]:
    """Most step all rows, some a few of them in any order, and about one in 60 resets all."""
    rng, N, commands = np.random.default_rng(seed), env.num_rows, []
    for _ in range(num_commands):
        draw = rng.random()
        num_rows = 0 if draw < 1 / 60 else int(rng.integers(1, N)) if draw < 0.3 else N
        rows = rng.permutation(N)[:num_rows].astype(np.int32)
        shape = (num_rows, env.spec.num_actions)
        actions = rng.uniform(env.spec.action_low, env.spec.action_high, shape)
        commands.append(Command(rows, actions.astype(np.float32)))
    return commands


def obey(env: ReplayedVecEnv, command: Command) -> Step | NDArray[np.float32]:
    if not len(command.rows):
        return env.reset()
    if np.array_equal(command.rows, np.arange(env.num_rows)):
        return env.step(command.actions)
    return env.step_rows(command.actions, command.rows)


def assert_same_answer(one: Step | NDArray[np.float32], other: Step | NDArray[np.float32]) -> None:
    assert isinstance(one, Step) == isinstance(other, Step)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def check_continuations(
    env_id: str,
    backend: str,
    num_moments: int,
    num_further: int = 200,
    num_commands: int = 400,
    limit: int = 90,
    seeds: list[int] = SEEDS,
) -> None:
    """At random moments a simulator is saved; one that is restored goes on as it did."""
    env = make(env_id, backend, seeds, max_episode_steps=limit, num_threads=2)
    commands = random_commands(env, num_commands + num_further)
    rng = np.random.default_rng(1)
    moments = set(rng.choice(num_commands, num_moments, replace=False).tolist())
    saved: dict[int, tuple[State, NDArray[np.float32]]] = {}
    obs, answers, num_truncated = env.reset(), [], 0
    for time, command in enumerate(commands):
        if time in moments:
            saved[time] = env.state(), obs.copy()
        answer = obey(env, command)
        answers.append(answer)
        if isinstance(answer, Step):
            obs[command.rows] = answer.obs
            num_truncated += int(answer.truncated.sum())
        else:
            obs = answer.copy()
    env.close()
    assert len(saved) == num_moments
    assert num_truncated > 0 or "HalfCheetah" not in env_id
    assert any(len(set(state["elapsed"].tolist())) > 1 for state, _ in saved.values())
    for time, (state, expected) in saved.items():
        again = make(env_id, backend, seeds, max_episode_steps=limit, num_threads=1)
        np.testing.assert_array_equal(again.restore(state), expected)
        now = again.state()
        for name, array in state.items():
            np.testing.assert_array_equal(now[name], array)
        for command, answer in zip(
            commands[time : time + num_further],
            answers[time : time + num_further],
            strict=True,
        ):
            assert_same_answer(obey(again, command), answer)
        again.close()


def test_hopper_goes_on_exactly_from_25_random_moments() -> None:
    check_continuations("Hopper-v3", "envpool", 25, seeds=SEEDS[:2])


@pytest.mark.parametrize(
    "env_id",
    [
        *("HalfCheetah-v3", "Walker2d-v3", "Ant-v3", "Humanoid-v3"),
        *("HalfCheetah-v4", "Ant-v4", "Humanoid-v4", "Hopper-v5", "Ant-v5", "Humanoid-v5"),
    ],
)
def test_envpool_goes_on_exactly(env_id: str) -> None:
    check_continuations(env_id, "envpool", 2, 60, num_commands=150, limit=60, seeds=SEEDS[:3])


@pytest.mark.parametrize(
    "env_id", ["HalfCheetah-v4", "Humanoid-v4", "Hopper-v5", "Ant-v5", "Humanoid-v5"]
)
def test_gymnasium_goes_on_exactly(env_id: str) -> None:
    check_continuations(env_id, "gymnasium", 2, 40, num_commands=90, limit=40, seeds=SEEDS[:2])


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_many_resets_are_repeated(backend: str) -> None:
    """As many for each row as it had: rows that terminate early had more."""
    env = make("Hopper-v4", backend, max_episode_steps=30)
    env.reset()
    action = np.ones((1, 3), np.float32)
    for row in (0, 0, 2, 2, 2, 2, 4):
        while not np.any(env.step_rows(action, np.array([row], np.int32))[2:4]):
            pass
    for _ in range(200):
        env.reset()
    state = env.state()
    assert state["num_resets"].tolist() == [203, 201, 205, 201, 202]
    again = make("Hopper-v4", backend, max_episode_steps=30)
    again.restore(state)
    np.testing.assert_array_equal(again.reset(), env.reset())


def test_actions_are_repeated_as_the_simulator_got_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever they are: in float64, beyond the range, of an array that is used again, NaN."""
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a file about the NaN
    env, again = (make("HalfCheetah-v5", seeds=[1, 2, 3]) for _ in range(2))
    actions: NDArray[Any] = np.random.default_rng(0).normal(0, 2, (12, 3, 6))
    actions[6, 1, 2] = np.nan
    actions[7, 2, 0] = np.inf
    given = np.empty((3, 6))
    obs = env.reset()
    for action in actions:
        given[:] = action
        obs = env.step(given).obs  # type: ignore[arg-type]
    state = env.state()
    np.testing.assert_array_equal(again.restore(state), obs)
    action = np.full((3, 6), 0.5, np.float32)
    assert_same_answer(again.step(action), env.step(action))


# The log alone.


def record(log: EpisodeLog, num_steps: int, rows: list[int], first: float = 1.0) -> None:
    """Steps whose actions count up from `first`, plus 1000 times the row."""
    chosen = np.array(rows, np.int32)
    for i in range(num_steps):
        actions = np.repeat((first + i + 1000.0 * chosen)[:, None], log.num_actions, 1)
        log.record_steps(actions.astype(np.float32), chosen)


def reset(log: EpisodeLog, rows: list[int]) -> None:
    log.record_resets(np.array(rows, np.int32), np.array(rows, np.float32)[:, None])


def test_log_holds_the_actions_since_each_rows_last_reset() -> None:
    log = EpisodeLog(3, 2, 1000)
    reset(log, [0, 1, 2])
    record(log, 100, [2, 0])
    reset(log, [2])
    record(log, 40, [1, 2], first=501)
    state = log.state()
    assert state["num_resets"].tolist() == [1, 1, 2]
    assert state["elapsed"].tolist() == [100, 40, 40]
    expected = np.zeros((3, 100, 2), np.float32)
    expected[0] = np.arange(1, 101)[:, None]
    expected[1, :40] = np.arange(1501, 1541)[:, None]
    expected[2, :40] = np.arange(2501, 2541)[:, None]
    np.testing.assert_array_equal(state["actions"], expected)
    assert {name: array.dtype for name, array in state.items()} == {
        "num_resets": np.int64,
        "elapsed": np.int64,
        "actions": np.float32,
    }


@pytest.mark.parametrize("limit", [1, 5, 32, 33, 100, 1000])
def test_log_has_room_up_to_the_time_limit_and_takes_no_more_than_episodes_need(limit: int) -> None:
    log = EpisodeLog(4, 3, limit)
    reset(log, [0, 1, 2, 3])
    for _ in range(50):  # short episodes
        record(log, min(7, limit), [0, 1, 2, 3])
        reset(log, [0, 1, 2, 3])
    assert log._actions.shape[1] == min(32, limit)
    record(log, limit, [1])
    assert log.state()["actions"].shape == (4, limit, 3)
    assert log._actions.shape[1] < 2 * max(limit, 32)
    np.testing.assert_array_equal(log.state()["actions"][1, :, 0], 1001 + np.arange(limit))
    reset(log, [0, 1, 2, 3])
    for _ in range(3 * limit):  # rows that do not end together
        record(log, 1, [0, 2])
        ended = np.flatnonzero(log.elapsed >= limit - np.arange(4) % min(3, limit))
        if len(ended):
            reset(log, ended.tolist())
    assert log._actions.shape[1] <= limit


def test_log_knows_where_all_rows_stand_until_one_moves() -> None:
    log = EpisodeLog(3, 2, 10)
    assert log.obs_after_reset is None
    reset(log, [2, 0, 1])
    np.testing.assert_array_equal(log.obs_after_reset, [[0.0], [1.0], [2.0]])
    record(log, 1, [1])
    assert log.obs_after_reset is None
    reset(log, [1])
    assert log.obs_after_reset is None


# What is not a state of this simulator.


def saved_state() -> State:
    """Of two rows of Hopper that have taken 3 and 2 steps since their second reset."""
    env = make("Hopper-v3", seeds=[7, 8])
    env.reset()
    env.reset()
    for rows in ([0, 1], [0, 1], [0]):
        env.step_rows(np.zeros((len(rows), 3), np.float32), np.array(rows, np.int32))
    return env.state()


def counts(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_resets", counts(2), r"'num_resets' is int64 \(1,\); this run needs int64 \(2,\)"),
        ("num_resets", np.ones(2, np.float32), r"is float32 \(2,\); this run needs int64 \(2,\)"),
        ("num_resets", np.ones(2, object), r"is object \(2,\); this run needs int64 \(2,\)"),
        ("num_resets", counts(2, 0), rf"'num_resets' has 0; allowed are 1 to {MAX_RESETS}$"),
        ("num_resets", counts(-(2**63), 2), r"'num_resets' has -9223372036854775808; allowed"),
        ("num_resets", counts(2, 2**62), r"'num_resets' has 4611686018427387904; allowed"),
        ("elapsed", counts(3, -1), r"'elapsed' has -1; allowed are 0 to 999$"),
        ("elapsed", counts(1000, 2), r"'elapsed' has 1000; allowed are 0 to 999$"),
        ("elapsed", counts(2, 2), r"'actions' is float32 \(2, 3, 3\); .* float32 \(2, 2, 3\)"),
        ("actions", np.zeros((2, 3, 2), np.float32), r"\(2, 3, 2\); this run needs .*\(2, 3, 3\)"),
        ("actions", np.zeros((2, 3, 3)), r"float64 \(2, 3, 3\); this run needs float32"),
        ("actions", np.zeros((0, 3, 3), np.float32), r"\(0, 3, 3\); this run needs"),
        ("elapsed", None, r"'elapsed' is missing; this run needs int64 \(2,\)$"),
    ],
)
@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_damaged_state_is_refused_before_anything_moves(
    backend: str, name: str, value: NDArray[Any] | None, message: str
) -> None:
    env_id = "Hopper-v3" if backend == "envpool" else "Hopper-v4"
    state, env = saved_state(), make(env_id, backend, [7, 8])
    damaged = {key: array for key, array in state.items() if key != name}
    if value is not None:
        damaged[name] = value
    with pytest.raises(ValueError, match=rf"^simulator state .*{message}") as caught:
        env.restore(damaged)
    assert "\n" not in str(caught.value)
    assert env.state() == {}


def test_an_episode_that_ends_too_early_is_said() -> None:
    state, env = saved_state(), make("Hopper-v3", seeds=[7, 8])
    state["elapsed"] = counts(500, 2)  # without a push it falls long before
    state["actions"] = np.zeros((2, 500, 3), np.float32)
    with pytest.raises(
        SimulationDiffers, match=r"^the simulator ends the episode of row 0 at step \d+, "
    ):
        env.restore(state)


def test_only_a_simulator_that_did_nothing_else_is_restored() -> None:
    state = saved_state()
    for num_resets in (0, 1, 2):
        env = make("Hopper-v3", seeds=[7, 8])
        for _ in range(num_resets):
            env.reset()
        env.restore(state)
        np.testing.assert_array_equal(env.state()["actions"], state["actions"])
    message = r"^the simulator was used before its state is restored; build it anew"
    with pytest.raises(ValueError, match=message):
        env.restore(state)  # it has stepped
    env = make("Hopper-v3", seeds=[7, 8])
    for _ in range(3):
        env.reset()
    with pytest.raises(ValueError, match=message):
        env.restore(state)  # it is in a later episode
