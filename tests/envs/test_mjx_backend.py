"""The MJX backend: seeds, rows, resets, failures, saved states, tensors, and what it refuses.

`tests/envs/test_interface.py` checks the contract of all backends. Every number of rows is a
program to compile, so that most tests share one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray

import envs
from envs import registry
from envs.interface import CompiledVecEnv, SavableVecEnv, Step, TensorVecEnv

jax = pytest.importorskip("jax", reason="needs the extra fastanf[mjx]")

from envs import mjx_backend  # noqa: E402
from envs.mjx_backend import MjxVecEnv  # noqa: E402

SEEDS = (5, 6, 7, 6)


def make(seeds: Sequence[int] = SEEDS, env_id: str = "Hopper-v4", **options: Any) -> MjxVecEnv:
    env = envs.make(env_id, "mjx", seeds, **options)
    assert isinstance(env, MjxVecEnv)
    return env


def random_actions(
    num_steps: int, seed: int = 0, num_rows: int = len(SEEDS)
) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (num_steps, num_rows, 3)).astype(np.float32)


def play(env: MjxVecEnv, actions: NDArray[np.float32]) -> list[Step]:
    return [env.step(action) for action in actions]


def assert_same(one: Sequence[Step], other: Sequence[Step], rows: Any = slice(None)) -> None:
    for step, step_again in zip(one, other, strict=True):
        for field, a, b in zip(Step._fields, step, step_again, strict=True):
            np.testing.assert_array_equal(a[rows], b[rows], err_msg=field)


def returns_of(backend: str, env_id: str, num_rows: int, limit: int) -> NDArray[np.float64]:
    """Returns of one episode in each row, of a fixed policy: the tanh of a random matrix."""
    env = envs.make(env_id, backend, range(num_rows), max_episode_steps=limit)
    D, A = env.spec.num_features, env.spec.num_actions
    matrix = np.random.default_rng(3).normal(size=(D, A)) / np.sqrt(D)
    obs, returns = env.reset(), np.zeros(num_rows)
    running = np.ones(num_rows, bool)
    while running.any():
        action = env.spec.action_high[0] * np.tanh(np.clip(obs, -10, 10) @ matrix)
        step = env.step(action.astype(np.float32))
        returns[running] += step.reward[running]
        running &= ~(step.terminated | step.truncated)
        obs = step.obs
        assert not step.failed.any()
    env.close()
    return returns


@pytest.mark.parametrize(("env_id", "limit"), [("Hopper-v4", 1000), ("HalfCheetah-v4", 200)])
def test_returns_of_a_policy_are_distributed_as_envpools(env_id: str, limit: int) -> None:
    ours, theirs = (returns_of(backend, env_id, 160, limit) for backend in ("mjx", "envpool"))
    test: Any = scipy.stats.ks_2samp(ours, theirs)
    assert test.pvalue > 1e-3
    assert theirs.std() > 0.01 * abs(theirs.mean())  # there is a distribution to compare


def test_it_is_compiled_once_savable_and_on_a_device() -> None:
    env = make()
    assert isinstance(env, TensorVecEnv) and isinstance(env, SavableVecEnv)
    assert isinstance(env, CompiledVecEnv)
    env.compile()
    assert env.compile() == 0 and make().compile() == 0


def test_seeds_reproduce_and_episodes_differ() -> None:
    env, again = make(), make()
    first = env.reset()
    np.testing.assert_array_equal(first, again.reset())
    np.testing.assert_array_equal(first[1], first[3])  # of one seed
    assert not np.array_equal(first[0], first[1])
    actions = random_actions(80)
    actions[:, 3] = actions[:, 1]
    steps = play(env, actions)
    assert_same(steps, play(again, actions))
    assert sum(int(step.terminated[0]) for step in steps) >= 2
    np.testing.assert_array_equal([step.obs[1] for step in steps], [step.obs[3] for step in steps])
    fresh = [step.obs[0] for step in steps if step.terminated[0]]
    assert not np.array_equal(fresh[0], fresh[1]) and not np.array_equal(fresh[0], first[0])
    assert not np.array_equal(env.reset(), first)


def test_a_row_does_not_depend_on_what_the_others_do() -> None:
    env, other = make(), make((5, 90, 91, 92))
    env.reset()
    other.reset()
    actions, others = random_actions(60), random_actions(60, seed=1)
    others[:, 0] = actions[:, 0]
    others[30:, 2] = np.nan  # a row that breaks down again and again
    assert_same(play(env, actions), play(other, others), rows=0)


@pytest.mark.parametrize("num_rows", [9, 20])
def test_more_rows_than_a_part_has_are_the_same_rows(num_rows: int) -> None:
    seeds = range(40, 40 + num_rows)
    env = make(seeds, num_threads=2)
    obs, actions = env.reset(), random_actions(40, num_rows=num_rows)
    tensors = make(seeds)
    np.testing.assert_array_equal(tensors.reset_tensor().numpy(), obs)
    steps = play(env, actions)
    for action, step in zip(actions, steps, strict=True):
        for given, expected in zip(
            tensors.step_tensors(torch.from_numpy(action)), step, strict=True
        ):
            np.testing.assert_array_equal(given.numpy(), expected)
    row = num_rows - 1
    lone = make([seeds[row]])
    np.testing.assert_array_equal(lone.reset()[0], obs[row])
    for action, step in zip(actions, steps, strict=True):
        alone = lone.step(action[row:])
        np.testing.assert_array_equal(alone.obs[0], step.obs[row])
        assert alone.reward[0] == step.reward[row]
    state = env.state()
    assert all(len(array) == num_rows for array in state.values())
    expected = env.step(actions[0])
    other = make(seeds)
    other.restore(state)
    assert_same([other.step(actions[0])], [expected])
    env.close()


def test_a_row_that_breaks_down_begins_anew_and_says_so() -> None:
    env, sound = make(), make()
    env.reset()
    sound.reset()
    actions = random_actions(12)
    play(env, actions[:4])
    play(sound, actions[:4])
    state = env.state()
    state["qvel"][2] = np.inf
    env.restore(state)
    step, sound_step = env.step(actions[4]), sound.step(actions[4])
    assert step.failed.tolist() == [False, False, True, False] and not sound_step.failed.any()
    assert not step.terminated[2] and not step.truncated[2] and step.reward[2] == 0
    assert np.isfinite(step.obs).all()
    np.testing.assert_array_equal(step.final_obs[2], step.obs[2])
    assert env.state()["episode"].tolist() == [0, 0, 1, 0]
    assert env.state()["elapsed"].tolist() == [5, 5, 0, 5]
    others = [0, 1, 3]
    assert_same([step], [sound_step], others)
    after = play(env, actions[5:])
    assert_same(after, play(sound, actions[5:]), others)
    assert not any(step.failed.any() for step in after)
    # The episode that it began is the one that it would have begun after a termination.
    lone = make((7, 7, 7, 7))
    lone.reset()
    np.testing.assert_array_equal(step.obs[2], lone.reset()[0])


def test_a_restored_state_goes_on_exactly() -> None:
    env = make(max_episode_steps=30)
    assert env.state() == {}
    env.reset()
    actions = random_actions(100)
    play(env, actions[:45])
    state = env.state()
    kept = {name: array.copy() for name, array in state.items()}
    rest = play(env, actions[45:])
    assert any(step.truncated.any() for step in rest)
    for name, array in state.items():
        np.testing.assert_array_equal(array, kept[name])  # a copy, which nothing writes to
    other = make(max_episode_steps=30)
    other.restore(state)
    assert_same(rest, play(other, actions[45:]))
    with pytest.raises(ValueError, match=r"^simulator state 'qpos' is float32 \(3, 6\); this run"):
        other.restore({**state, "qpos": state["qpos"][:3]})
    with pytest.raises(ValueError, match=r"^simulator state 'elapsed' is missing"):
        other.restore({name: array for name, array in state.items() if name != "elapsed"})


def test_tensors_are_the_arrays_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    # One part, which no rows fill up: what a GPU has, whatever the number of rows.
    seeds = range(mjx_backend.PART_ROWS)
    env, host = make(seeds), make(seeds)
    obs = env.reset_tensor()
    np.testing.assert_array_equal(obs.numpy(), host.reset())
    seen: list[Any] = []
    advance = env._step

    def spy(actions: Any) -> Any:
        arrays = advance(actions)
        seen.append((actions.unsafe_buffer_pointer(), arrays))
        return arrays

    monkeypatch.setattr(env, "_step", spy)
    for action in random_actions(40, num_rows=len(seeds)):
        tensor = torch.from_numpy(action.copy())
        tensors, step = env.step_tensors(tensor), host.step(action)
        for given, expected in zip(tensors, step, strict=True):
            np.testing.assert_array_equal(given.numpy(), expected)
        pointer, arrays = seen.pop()
        assert tensors.terminated.dtype == tensors.failed.dtype == torch.bool
        assert [t.data_ptr() for t in tensors] == [a.unsafe_buffer_pointer() for a in arrays]
        if tensor.data_ptr() % 64 == 0:  # JAX copies what is not aligned
            assert pointer == tensor.data_ptr()


def test_what_it_cannot_do_is_refused_in_one_line() -> None:
    env = make()
    with pytest.raises(ValueError, match="must be reset before its first step"):
        env.step(np.zeros((4, 3), np.float32))
    env.reset()
    with pytest.raises(ValueError, match=r"actions have shape \(4, 2\); needed is \(4, 3\)"):
        env.step(np.zeros((4, 2), np.float32))
    with pytest.raises(ValueError, match=r"actions have shape \(3, 3\); needed is \(4, 3\)"):
        env.step_tensors(torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"^task option 'post_constraint' is unknown to Hopper-v4"):
        make(post_constraint=True)
    with pytest.raises(ValueError, match=r"^env is 'Swimmer-v4', unknown to backend 'mjx'"):
        make(env_id="Swimmer-v4")
    with pytest.raises(ValueError, match=r"^mjx_impl warp needs an NVIDIA GPU"):
        envs.preflight("Hopper-v4", "mjx", 4, device="cpu", impl="warp")
    with pytest.raises(ValueError, match=r"^mjx_impl is 'fast'; allowed are jax, warp"):
        make(impl="fast")


@pytest.mark.skipif(
    any(device.platform == "gpu" for device in jax.devices()), reason="JAX has a GPU here"
)
def test_a_device_that_jax_does_not_see_is_named_with_the_advice() -> None:
    message = r"^backend mjx on device cuda needs a JAX that sees it.*--device cpu$"
    with pytest.raises(ValueError, match=message):
        envs.preflight("Hopper-v4", "mjx", 4, device="cuda", impl="jax")
    with pytest.raises(ValueError, match=message):
        make(device="cuda")


def test_memory_grows_with_rows_and_bodies() -> None:
    needs = {
        (task, rows): envs.preflight(task, "mjx", rows, device="cpu", impl="jax")
        for task in ("Hopper-v4", "Humanoid-v3")
        for rows in (1, 64)
    }
    # On the CPU only the parts in the threads' hands are there at once.
    at_once = min(64, mjx_backend.PART_ROWS * (os.cpu_count() or 1))
    assert needs["Hopper-v4", 64] == at_once * needs["Hopper-v4", 1]
    assert needs["Humanoid-v3", 1] > 5 * needs["Hopper-v4", 1] > 5 * 4 * (6 + 6)
    assert envs.preflight("Hopper-v4", "envpool", 64) == 0
    assert envs.lives_on_device("mjx") and not envs.lives_on_device("envpool")


def test_compiled_programs_are_kept_in_the_users_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert mjx_backend.cache_folder() == tmp_path / "fastanf" / "jax"
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert mjx_backend.cache_folder() == Path.home() / ".cache" / "fastanf" / "jax"
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        assert mjx_backend.cache_folder() == tmp_path
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_a_backend_whose_packages_are_missing_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(registry.importlib, "import_module", missing)
    with pytest.raises(
        ValueError, match=r"^backend mjx cannot be loaded: .*install fastanf\[mjx\]"
    ):
        envs.preflight("Hopper-v4", "mjx", 4, device="cpu", impl="jax")
