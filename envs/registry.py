"""Which tasks exist, which backend simulates them, and how to build one.

A backend is one entry of a table: its tasks, with size, limits and engine options, and the place of
its factory. The factory is imported when it is first used, so that naming a task needs no
simulator. Names: `{task}-{version}` with version v3 (the features of the papers: contact forces
present and zero), v4 or v5 (gymnasium's tasks).
"""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from envs.interface import EnvSpec, SavableVecEnv

SEED_LIMIT = 2**31
_EXTRAS = ("mjx",)
"""Backends whose packages are an extra of fastanf."""
MAX_EPISODE_STEPS = 1000

Factory = Callable[..., SavableVecEnv]
"""(spec: EnvSpec, seeds: Sequence[int], num_threads: int, **engine_options) -> SavableVecEnv."""


@dataclass(frozen=True)
class Task:
    """One environment id of one backend."""

    spec: EnvSpec
    options: Mapping[str, Any] = field(default_factory=dict)
    """Engine options that this id always gets; the caller's task options override them."""


@dataclass(frozen=True)
class Backend:
    """One simulator: its factory and its tasks."""

    factory: Factory | str
    """A callable, or `module:attribute` that is imported at first use."""
    tasks: Mapping[str, Task]
    preflight: Callable[..., int] | str | None = None
    """For a simulator that lives on the learner's device, which takes the options device and impl:
    (env_id, num_rows, device, impl) -> bytes that it needs there, about; a ValueError if it cannot
    run. None for a simulator on the host."""


_ACTIONS = {
    "HalfCheetah": (6, 1.0),
    "Hopper": (3, 1.0),
    "Walker2d": (6, 1.0),
    "Ant": (8, 1.0),
    "Humanoid": (17, 0.4),
}
_FEATURES = {
    "v3": {"HalfCheetah": 17, "Hopper": 11, "Walker2d": 17, "Ant": 111, "Humanoid": 376},
    "v4": {"HalfCheetah": 17, "Hopper": 11, "Walker2d": 17, "Ant": 27, "Humanoid": 376},
    "v5": {"HalfCheetah": 17, "Hopper": 11, "Walker2d": 17, "Ant": 105, "Humanoid": 348},
}


def _mujoco_tasks(options_of_version: Mapping[str, Mapping[str, Any]]) -> dict[str, Task]:
    tasks = {}
    for version, options in options_of_version.items():
        for name, num_features in _FEATURES[version].items():
            num_actions, limit = _ACTIONS[name]
            env_id = f"{name}-{version}"
            spec = EnvSpec(
                env_id=env_id,
                num_features=num_features,
                num_actions=num_actions,
                action_low=(-limit,) * num_actions,
                action_high=(limit,) * num_actions,
                max_episode_steps=MAX_EPISODE_STEPS,
            )
            tasks[env_id] = Task(spec, options)
    return tasks


_BACKENDS: dict[str, Backend] = {
    # post_constraint=False keeps the contact forces of v3 at zero, as in the simulator of the
    # papers. gymnasium computes them in v4 and v5.
    "envpool": Backend(
        "envs.envpool_backend:EnvPoolVecEnv",
        _mujoco_tasks(
            {
                "v3": {"post_constraint": False},
                "v4": {"post_constraint": True},
                "v5": {"post_constraint": True},
            }
        ),
    ),
    "gymnasium": Backend(
        "envs.gymnasium_backend:GymnasiumVecEnv", _mujoco_tasks({"v4": {}, "v5": {}})
    ),
    "mjx": Backend(
        "envs.mjx_backend:MjxVecEnv",
        _mujoco_tasks({"v3": {}, "v4": {}, "v5": {}}),
        preflight="envs.mjx_backend:preflight",
    ),
}


def backend_names() -> list[str]:
    """Names of all backends, built-in ones first."""
    return list(_BACKENDS)


def known_env_ids(backend: str = "envpool") -> list[str]:
    """Names of the tasks of one backend.

    Raises:
        ValueError: no such backend.
    """
    return list(_backend(backend).tasks)


def validate(env_id: str, backend: str = "envpool") -> None:
    """Check both names without building or importing anything.

    Raises:
        ValueError: no such backend, or the backend does not offer this task; names what it offers.
    """
    _task(env_id, backend)


def spec(env_id: str, backend: str = "envpool") -> EnvSpec:
    """Size and limits of a task, from the table; `tests/envs` checks it against the simulators.

    Raises:
        ValueError: no such backend, or the backend does not offer this task.
    """
    return _task(env_id, backend).spec


def lives_on_device(backend: str) -> bool:
    """Whether a backend's simulators live on the learner's device, and are told which it is."""
    return _backend(backend).preflight is not None


def preflight(env_id: str, backend: str, num_rows: int, **options: Any) -> int:
    """Whether N rows can run, before anything is compiled.

    Args:
        env_id, backend: as in `make`.
        num_rows: N.
        **options: device and impl, for a backend that lives on a device.

    Returns:
        Bytes that the rows need on the device, about; 0 for a simulator on the host, which is
        small.

    Raises:
        ValueError: what is missing, in one line.
    """
    _task(env_id, backend)
    entry = _backend(backend).preflight
    if entry is None:
        return 0
    return (_load(entry, backend) if isinstance(entry, str) else entry)(env_id, num_rows, **options)


def make(
    env_id: str,
    backend: str = "envpool",
    seeds: Sequence[int] = (),
    num_threads: int = 0,
    **task_options: Any,
) -> SavableVecEnv:
    """Build the N rows of one task.

    Args:
        env_id: one of `known_env_ids(backend)`.
        backend: one of `backend_names()`.
        seeds: one per row, each in [0, 2**31); N is their number.
        num_threads: simulation threads, 0 for all usable cores; never more than N.
        **task_options: `max_episode_steps` (the time limit, at least 1); anything else goes to the
            simulator, for example `reset_noise_scale=0.0`.

    Raises:
        ValueError: a name, seed, thread count or option that is not allowed.
    """
    task = _task(env_id, backend)
    row_seeds = [int(seed) for seed in seeds]
    if not row_seeds:
        raise ValueError("seeds is empty; one seed per environment row is needed")
    for seed in row_seeds:
        if not 0 <= seed < SEED_LIMIT:
            raise ValueError(f"seeds contains {seed}; allowed are 0 to {SEED_LIMIT - 1}")
    if num_threads < 0:
        raise ValueError(f"num_threads is {num_threads}; allowed are 0 (all usable cores) or more")
    limit = task_options.pop("max_episode_steps", task.spec.max_episode_steps)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ValueError(f"max_episode_steps is {limit!r}; allowed are whole numbers from 1")
    return _load_factory(backend)(
        replace(task.spec, max_episode_steps=limit),
        row_seeds,
        min(num_threads or _usable_cores(), len(row_seeds)),
        **{**task.options, **task_options},
    )


def register_backend(
    name: str,
    factory: Factory | str,
    ids: Mapping[str, EnvSpec | Task] | Sequence[EnvSpec],
) -> None:
    """Add a backend to the table, or replace one that was added before under that name.

    Args:
        name: the name that `make` and `spec` accept from now on.
        factory: called as factory(spec, seeds, num_threads, **options); or `module:attribute`.
        ids: the tasks: EnvSpecs, or a mapping from name to EnvSpec or Task.
    """
    entries = ids if isinstance(ids, Mapping) else {entry.env_id: entry for entry in ids}
    tasks = {
        env_id: entry if isinstance(entry, Task) else Task(entry)
        for env_id, entry in entries.items()
    }
    _BACKENDS[name] = Backend(factory, tasks)


def _backend(name: str) -> Backend:
    if name not in _BACKENDS:
        raise ValueError(f"backend is {name!r}; allowed are {', '.join(_BACKENDS)}")
    return _BACKENDS[name]


def _task(env_id: str, backend: str) -> Task:
    tasks = _backend(backend).tasks
    if env_id in tasks:
        return tasks[env_id]
    by_lower = {known.lower(): known for known in tasks}
    near = difflib.get_close_matches(str(env_id).lower(), by_lower, n=3, cutoff=0.5)
    allowed = ", ".join(by_lower[name] for name in near) or ", ".join(tasks)
    label = "nearest names" if near else "allowed are"
    others = [name for name, entry in _BACKENDS.items() if env_id in entry.tasks]
    verb = "has" if len(others) == 1 else "have"
    hint = f" (backend {' and '.join(others)} {verb} it)" if others else ""
    raise ValueError(f"env is {env_id!r}, unknown to backend {backend!r}{hint}; {label}: {allowed}")


def _load_factory(backend: str) -> Factory:
    factory = _backend(backend).factory
    return _load(factory, backend) if isinstance(factory, str) else factory


def _load(place: str, backend: str) -> Callable[..., Any]:
    module_name, attribute = place.split(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        extra = f"; install fastanf[{backend}]" if backend in _EXTRAS else ""
        raise ValueError(f"backend {backend} cannot be loaded: {error}{extra}") from error


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
