"""Names, options and errors of the registry, and adding a backend to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

import envs
from envs import registry
from envs.interface import EnvSpec, Step


class CountingEnv:
    """Probe: the observation is the number of steps taken, so is the reward."""

    def __init__(self, spec: EnvSpec, seeds: list[int], num_threads: int, **options: int) -> None:
        self.spec, self.num_rows, self.options = spec, len(seeds), options
        self.num_threads = num_threads
        self.count = np.zeros((self.num_rows, 1), np.float32)

    def reset(self) -> np.ndarray:
        self.count = np.zeros_like(self.count)
        return self.count

    def step(self, actions: np.ndarray) -> Step:
        self.count = self.count + 1
        no = np.zeros(self.num_rows, np.bool_)
        return Step(self.count, self.count[:, 0], no, no, self.count, no)

    def state(self) -> dict[str, np.ndarray]:
        return {"count": self.count}

    def restore(self, state: Mapping[str, np.ndarray]) -> np.ndarray:
        self.count = state["count"]
        return self.count

    def close(self) -> None:
        pass


COUNTING = EnvSpec("Counting-v0", 1, 1, (-1.0,), (1.0,), max_episode_steps=8)


@pytest.fixture
def probe_backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_BACKENDS", dict(registry._BACKENDS))
    envs.register_backend("probe", CountingEnv, [COUNTING])
    yield


@pytest.mark.parametrize(
    ("env_id", "backend", "message"),
    [
        ("HalfCheeta-v3", "envpool", r"'HalfCheeta-v3'.*nearest names: HalfCheetah-v3"),
        ("halfcheetah-v3", "envpool", r"nearest names: HalfCheetah-v3"),
        ("Hopper-v3", "gymnasium", r"backend envpool and mjx.* have it.*Hopper-v5"),
        ("???", "gymnasium", r"allowed are: HalfCheetah-v4"),
        ("Hopper-v3", "mjy", r"'mjy'; allowed are envpool, gymnasium, mjx"),
    ],
)
def test_unknown_name_is_refused_in_one_line(env_id: str, backend: str, message: str) -> None:
    for refuse in (
        lambda: envs.validate(env_id, backend),
        lambda: envs.spec(env_id, backend),
        lambda: envs.make(env_id, backend, [1]),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            refuse()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": [1, 2**31]}, "seeds contains 2147483648; allowed are 0 to 2147483647"),
        ({"seeds": [-1]}, "seeds contains -1"),
        ({"seeds": [1], "num_threads": -1}, "num_threads is -1"),
        ({"seeds": [1], "max_episode_steps": 0}, "max_episode_steps is 0"),
        ({"seeds": [1], "max_episode_steps": 2.5}, "max_episode_steps is 2.5"),
    ],
)
def test_value_outside_its_range_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        envs.make("Hopper-v3", "envpool", **arguments)


def test_both_backends_offer_five_tasks_a_version() -> None:
    assert len(envs.known_env_ids("envpool")) == 15
    assert len(envs.known_env_ids("gymnasium")) == 10
    assert set(envs.known_env_ids("gymnasium")) < set(envs.known_env_ids("envpool"))


@pytest.mark.usefixtures("probe_backend")
def test_registered_backend_is_built_with_its_options() -> None:
    assert envs.known_env_ids("probe") == ["Counting-v0"]
    assert envs.spec("Counting-v0", "probe") is COUNTING
    env = envs.make("Counting-v0", "probe", [3, 4], max_episode_steps=5, num_threads=9, depth=2)
    assert isinstance(env, CountingEnv) and isinstance(env, envs.VecEnv)
    assert (env.spec.max_episode_steps, env.num_threads, env.options) == (5, 2, {"depth": 2})


@pytest.mark.usefixtures("probe_backend")
def test_option_of_the_table_yields_to_the_callers() -> None:
    task = registry.Task(COUNTING, {"depth": 1, "width": 1})
    envs.register_backend("probe", CountingEnv, {"Counting-v0": task})
    env = envs.make("Counting-v0", "probe", [3], depth=2)
    assert isinstance(env, CountingEnv)
    assert env.options == {"depth": 2, "width": 1}


@pytest.mark.usefixtures("probe_backend")
def test_backend_that_cannot_be_imported_is_refused() -> None:
    envs.register_backend("probe", "envs.no_such_backend:Env", [COUNTING])
    envs.validate("Counting-v0", "probe")
    with pytest.raises(ValueError, match=r"^backend probe cannot be loaded: No module named"):
        envs.make("Counting-v0", "probe", [1])


def test_naming_a_task_loads_no_simulator() -> None:
    code = (
        "import sys, envs; envs.spec('Ant-v3'); envs.validate('Ant-v4', 'gymnasium'); "
        "sys.exit(str({'envpool', 'mujoco', 'torch', 'fastanf'} & set(sys.modules)))"
    )
    root = Path(envs.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert run.stderr.strip() == "set()"
