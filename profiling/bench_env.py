"""How many environment steps a second a simulator makes with random actions, nothing else done.

    python profiling/bench_env.py --env HalfCheetah-v3 Humanoid-v3 --rows 1 8 64
    python profiling/bench_env.py --backend envpool gymnasium --num_threads 1 0 --record
    python profiling/bench_env.py --backend envpool mjx --device cuda --rows 64 512 4096 --record
    python profiling/bench_env.py --rows 64 --compare HEAD~1

Axes: N rows, A actions, D features. Every combination of backend, task, rows and threads is a
point. All rows step at once, and a row whose episode ends is reset in the same step, as in a run.
(HalfCheetah's episodes all end at step 1000: most rounds of many rows hold no reset.)

* env_steps_per_s: N x lock steps by their time; the actions are drawn before. A simulator that
  lives on a device takes and returns tensors there, and is waited for at the end only;
* compile_s: what it took to trace and compile such a simulator, with nothing kept from before.

Before timing, a second instance is given the same seeds and actions: observations, rewards and
episode ends must be the same to the bit.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import itertools
import os
import sys
import time
from typing import Any

import benchmark
import numpy as np
import torch
from benchmark import Figures, Point, Round
from numpy.typing import NDArray

import envs
from envs import registry
from envs.interface import CompiledVecEnv, EnvSpec, TensorVecEnv, VecEnv
from fastanf.memory import resolve_device

ROWS = (1, 8, 64, 256, 1024)
NUM_ACTION_SETS = 64
"""Lock steps after which the actions repeat; the rows are then in other states."""
MIN_STEPS = 4
CHECK_STEPS, CHECK_ROW_STEPS = 32, 4096
"""At most so many lock steps are compared, and about so many environment steps."""


class EnvBenchmark(benchmark.Benchmark):
    """Lock steps of all rows of one simulator. `close` releases the simulators."""

    name = "env"
    about = "How many environment steps a second a simulator makes with random actions."

    def __init__(self) -> None:
        self._open: list[VecEnv] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """`--env`, `--backend`, `--rows` and `--num_threads`."""
        parser.add_argument(
            "--env",
            nargs="+",
            metavar="E",
            help="tasks [default: all of the backend's first version, HalfCheetah-v3 and so on]",
        )
        parser.add_argument(
            "--backend",
            nargs="+",
            default=["envpool"],
            metavar="B",
            help=f"simulators: {', '.join(registry.backend_names())} [default envpool]",
        )
        parser.add_argument(
            "--rows",
            type=benchmark.positive_int,
            nargs="+",
            default=list(ROWS),
            metavar="N",
            help=f"environments that step together [default {' '.join(map(str, ROWS))}]",
        )
        parser.add_argument(
            "--num_threads",
            type=_threads,
            nargs="+",
            default=[0],
            metavar="N",
            help="threads that the simulator may use, no more than rows; 0 is all cores "
            "[default 0]",
        )
        parser.add_argument(
            "--device",
            default="cpu",
            metavar="D",
            help="where simulators live that can: cpu, cuda or cuda:N [default cpu]",
        )
        parser.add_argument(
            "--mjx_impl",
            choices=("jax", "warp"),
            default="jax",
            help="how MJX computes [default jax]",
        )

    def points(self, arguments: argparse.Namespace, rest: list[str]) -> list[Point]:
        """Every combination of backend, task, rows and threads."""
        self.device, self._mjx_impl = resolve_device(arguments.device), arguments.mjx_impl
        points: list[Point] = []
        for backend in arguments.backend:
            if backend not in registry.backend_names():
                raise ValueError(
                    f"--backend must be one of {', '.join(registry.backend_names())}, "
                    f"got {backend!r}"
                )
            tasks = arguments.env or default_tasks(backend)
            for env, rows, given in itertools.product(tasks, arguments.rows, arguments.num_threads):
                try:
                    envs.validate(env, backend)
                except ValueError as error:
                    raise ValueError(f"--env: {error}") from None
                options = self._options(backend)
                envs.preflight(env, backend, int(rows), **options)
                threads = min(given or usable_cores(), rows)
                point: Point = {"impl": self._engine(backend), "backend": backend, "env": env}
                points.append(point | {"rows": rows, "num_threads": threads})
        distributions = (name for backend in arguments.backend for name in _packages(backend))
        self.packages = tuple(filter(_version, dict.fromkeys(distributions)))
        return [dict(key) for key in dict.fromkeys(tuple(point.items()) for point in points)]

    def prepare(self, point: Point) -> Round:
        """A simulator after the steps in which it was compared with a second one."""
        env = self._make(point)
        compile_s = env.compile(reuse=False) if isinstance(env, CompiledVecEnv) else 0.0
        actions = random_actions(env.spec, env.num_rows)
        other = self._make(point)
        check_same(env, other, actions, point)
        other.close()
        self._open.remove(other)
        if isinstance(env, TensorVecEnv):
            return TensorRound(env, actions, torch.device(self.device), compile_s).measure
        return EnvRound(env, actions).measure

    def _options(self, backend: str) -> dict[str, Any]:
        if not envs.lives_on_device(backend):
            return {}
        return {"device": self.device, "impl": self._mjx_impl}

    def _engine(self, backend: str) -> str:
        name = f"{backend}-{self._mjx_impl}" if envs.lives_on_device(backend) else backend
        return f"{name} {_version(_packages(backend)[0])}".strip()

    def _make(self, point: Point) -> VecEnv:
        env, backend, rows = str(point["env"]), str(point["backend"]), int(point["rows"])
        try:
            threads, options = int(point["num_threads"]), self._options(backend)
            made = envs.make(env, backend, range(rows), threads, **options)
        except Exception as error:  # whatever a simulator says that is not, or badly, installed
            raise ValueError(
                f"--backend {backend} cannot make {rows} rows of {env}: {error}"
            ) from error
        self._open.append(made)
        return made

    def close(self) -> None:
        """Release every simulator."""
        while self._open:
            self._open.pop().close()


class EnvRound:
    """Rounds of one simulator, each going on where the last one ended.

    Args:
        env: after its reset.
        actions: [K, N, A], taken in turn.
    """

    def __init__(self, env: VecEnv, actions: NDArray[np.float32]):
        self._env, self._actions = env, itertools.cycle(actions)

    def measure(self, seconds: float) -> Figures:
        """Environment steps a second over that many seconds, and at least `MIN_STEPS`."""
        num_steps = 0
        start = now = time.perf_counter()
        while now - start < seconds or num_steps < MIN_STEPS:
            self._env.step(next(self._actions))
            num_steps += 1
            now = time.perf_counter()
        return {"env_steps_per_s": self._env.num_rows * num_steps / (now - start)}


class TensorRound:
    """Rounds of a simulator that lives on a device.

    Args:
        env: after its reset.
        actions: [K, N, A], taken in turn.
        device: where it lives.
        compile_s: seconds that compiling it took.
    """

    def __init__(
        self,
        env: TensorVecEnv,
        actions: NDArray[np.float32],
        device: torch.device,
        compile_s: float,
    ):
        self._env, self._compile_s, self._device = env, compile_s, device
        self._actions = itertools.cycle(torch.from_numpy(actions).to(device))

    def measure(self, seconds: float) -> Figures:
        """Environment steps a second over that many seconds, and at least `MIN_STEPS`."""
        num_steps, start = 0, time.perf_counter()
        while True:
            for _ in range(MIN_STEPS):
                step = self._env.step_tensors(next(self._actions))
            num_steps += MIN_STEPS
            float(step.reward[0])  # waits for the device
            elapsed = time.perf_counter() - start
            if elapsed >= seconds:
                break
        rate = self._env.num_rows * num_steps / elapsed
        # Points of one program compile it once, and the first has its time.
        compiling = {"compile_s": self._compile_s} if self._compile_s else {}
        return {"env_steps_per_s": rate, **compiling}


def random_actions(spec: EnvSpec, num_rows: int) -> NDArray[np.float32]:
    """Actions [K, N, A], uniform between the task's limits."""
    shape = (NUM_ACTION_SETS, num_rows, spec.num_actions)
    uniform = np.random.default_rng(0).random(shape, dtype=np.float32)
    low, high = np.array([spec.action_low, spec.action_high], dtype=np.float32)
    return low + (high - low) * uniform


def check_same(env: VecEnv, other: VecEnv, actions: NDArray[np.float32], point: Point) -> None:
    """Reset both, step both through the same actions, compare all that they return.

    Raises:
        ValueError: they differ.
    """
    num_steps = min(CHECK_STEPS, max(MIN_STEPS, CHECK_ROW_STEPS // env.num_rows))
    same = np.array_equal(env.reset(), other.reset())
    for action in actions[:num_steps]:
        same &= all(map(np.array_equal, env.step(action), other.step(action)))
    if not same:
        raise ValueError(
            f"{point['env']} of --backend {point['backend']} with {point['rows']} rows differs "
            "between two instances of the same seeds and actions: the figures would mean nothing"
        )


def default_tasks(backend: str) -> list[str]:
    """The tasks of a backend's first version: -v3 where there is one."""
    tasks = envs.known_env_ids(backend)
    ending = tasks[0].rpartition("-")[2]
    return [task for task in tasks if task.endswith(f"-{ending}")]


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be an integer of at least 0, got {text!r}")
    return int(text)


def _packages(backend: str) -> tuple[str, ...]:
    """The distributions that a backend is made of; most are named as it is."""
    return {"mjx": ("mujoco-mjx", "jax", "mujoco")}.get(backend, (backend,))


def _version(package: str) -> str:
    """Of a distribution; empty where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    with contextlib.closing(EnvBenchmark()) as bench:
        sys.exit(benchmark.main(bench))
