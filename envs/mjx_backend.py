"""The MJX backend: N rows of one task step as JAX programs, on the CPU or on a GPU.

Axes: N rows, K rows of a part, D features, A actions, nq and nv sizes of MuJoCo's state.

A step is one compiled program: `frame_skip` steps of every row, reward, and the reset of the rows
whose episode ends, which is computed in those calls only in which some row needs it.

On a GPU one program steps all rows, and observations go to torch by DLPack, without a copy and
without waiting for the device. On the CPU the rows are cut into parts of 8, the width of a vector,
which threads step side by side: that is twice as fast on two cores as one program of 64 rows, whose
solver waits for the slowest row; it needs no other program for another N; and a row's bits depend
neither on how many rows there are nor on its place among them (tested on x86-64 with AVX-512).

A row whose simulation is no longer finite begins a new episode; `Step.failed` says so.

The state of all rows is a few arrays (`State`), which `state` and `restore` copy, so that a run
that goes on later goes on exactly. Compiling takes 10 to 30 seconds a task; programs are kept for
the process, and in `cache_folder()` for the next one.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from envs.interface import EnvSpec, Step, TensorStep

# JAX otherwise takes three quarters of a GPU's memory at once, and torch wants some too.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp

from envs import mjx_tasks
from envs.mjx_simulation import Body, Simulation
from envs.mjx_tasks import Task

Array = jax.Array
_config: Any = jax.config  # its settings carry no types

PART_ROWS = 8
"""K on the CPU: the numbers of XLA's vectors there. With 16 rows the second eight were rounded
differently from the first; programs of 32 and 64 rows were slower too."""


class State(NamedTuple):
    """Everything that the future of K rows follows from, apart from their actions."""

    body: Body
    """Arrays [K, .]."""
    elapsed: Array
    """[K] int32 steps of the running episode."""
    episode: Array
    """[K] int32 which episode of its row's stream it is, from 0."""


class Arrays(NamedTuple):
    """What a step returns, on the device; `envs.interface.Step` says what each is."""

    obs: Array
    reward: Array
    terminated: Array
    truncated: Array
    final_obs: Array
    failed: Array


class Programs(NamedTuple):
    """The two compiled programs of one task, K rows and device."""

    reset: Callable[..., Any]
    """(seed [K] int32, episode [K] int32) -> State, obs [K, D]"""
    step: Callable[..., Any]
    """(seed [K], limit [] int32, State, action [K, A]) -> State, Arrays"""
    compile_s: float


class _Part:
    """K rows that one program steps."""

    def __init__(self, seeds: Sequence[int], device: Any):
        self.seed = jax.device_put(np.array(seeds, np.int32), device)
        self.first_episode = jax.device_put(np.zeros(len(seeds), np.int32), device)
        self.state: State | None = None
        self.obs: Array | None = None  # [K, D]; parts of it do not follow from the state

    def reset(self, programs: Programs) -> Array:
        episode = self.first_episode if self.state is None else self.state.episode + 1
        self.state, obs = programs.reset(self.seed, episode)
        self.obs = obs
        return obs

    def step(self, programs: Programs, limit: Array, actions: Array) -> Arrays:
        self.state, arrays = programs.step(self.seed, limit, self.state, actions)
        self.obs = arrays.obs
        return arrays

    def named(self) -> dict[str, Array]:
        """State and observation by name; empty before the first reset."""
        state = self.state
        if state is None or self.obs is None:
            return {}
        arrays = {**state.body._asdict(), "elapsed": state.elapsed, "episode": state.episode}
        return {**arrays, "obs": self.obs}


class MjxVecEnv:
    """N rows of one task on MJX.

    Args:
        spec: the task; `max_episode_steps` is the time limit that is applied.
        seeds: [N], one per row, in [0, 2**31); episode k of a row is drawn from (seed, k).
        num_threads: parts of rows that step at once, on the CPU.
        device: cpu, cuda or cuda:N.
        impl: jax, or warp (CUDA only; needs the package warp-lang).
        **options: rules of the task by gymnasium's names, for example `reset_noise_scale=0.0`.

    Raises:
        ValueError: an option that the task does not have, a device that JAX does not see, or an
            implementation that cannot run there.
    """

    def __init__(
        self,
        spec: EnvSpec,
        seeds: Sequence[int],
        num_threads: int = 1,
        *,
        device: str = "cpu",
        impl: str = "jax",
        **options: Any,
    ) -> None:
        self.spec = spec
        self.num_rows = len(seeds)
        self._device = jax_device(device)
        check_impl(impl, self._device, spec.env_id)
        K = PART_ROWS if self._device.platform == "cpu" else self.num_rows
        # Rows that fill the last part up are stepped and never shown.
        padded = [*seeds, *[seeds[0]] * (-self.num_rows % K)]
        self._parts = [_Part(padded[i : i + K], self._device) for i in range(0, len(padded), K)]
        self._part_rows = K
        self._pool = ThreadPoolExecutor(num_threads) if len(self._parts) > 1 else None
        self._limit = jax.device_put(np.int32(spec.max_episode_steps), self._device)
        task = mjx_tasks.make_task(spec.env_id, **options)
        self._key = (task, impl, K, self._device)
        self._programs: Programs | None = None
        # Actions of a step that was begun, and what it returns where it runs already.
        self._begun: tuple[Array, Any] | None = None

    def compile(self, reuse: bool = True) -> float:
        """Compile now what would otherwise be compiled at the first reset.

        Args:
            reuse: whether a program may come from `cache_folder()`.

        Returns:
            Seconds that it took; 0 where the process had the programs.
        """
        if self._programs is not None:
            return 0.0
        num_before = _programs.cache_info().misses
        is_enabled = _config.jax_enable_compilation_cache
        jax.config.update("jax_enable_compilation_cache", reuse and is_enabled)
        try:
            self._programs = _programs(*self._key, _config.jax_enable_x64)
        finally:
            jax.config.update("jax_enable_compilation_cache", is_enabled)
        return self._programs.compile_s if _programs.cache_info().misses > num_before else 0.0

    def reset(self) -> NDArray[np.float32]:
        """Start the next episode of every row; returns obs [N, D]."""
        return _to_host(self._reset())

    def step(self, actions: NDArray[np.float32]) -> Step:
        """Advance every row by one step, with actions [N, A] in the task's units."""
        return Step(*map(_to_host, self._step(np.asarray(actions, np.float32))))

    def reset_tensor(self) -> torch.Tensor:
        """`reset` on the device: obs [N, D]."""
        return torch.from_dlpack(self._reset())

    def step_tensors(self, actions: torch.Tensor) -> TensorStep:
        """`step` on the device, with actions [N, A] that are there."""
        self.begin_tensors(actions)
        return self.finish_tensors()[0]

    def begin_tensors(self, actions: torch.Tensor) -> None:
        """Begin a step with actions [N, A] on the device.

        A GPU computes from here on, in JAX's own stream, as soon as torch has the actions. On the
        CPU nothing is gained by beginning early.
        """
        given = jax.dlpack.from_dlpack(actions.detach().contiguous())
        arrays: Any = None
        if self._device.platform != "cpu":
            arrays = self._step(given)
            _, _, terminated, truncated, _, failed = arrays
            for flags in (terminated, truncated, failed):
                flags.copy_to_host_async()
        self._begun = given, arrays

    def finish_tensors(self) -> tuple[TensorStep, NDArray[np.bool_]]:
        """The step that was begun, and which rows' episodes ended and which failed [2, N].

        The host waits for the simulation, but not for what torch has to do.
        """
        if self._begun is None:
            raise ValueError("no step of the simulator was begun")
        given, arrays = self._begun
        self._begun = None
        arrays = self._step(given) if arrays is None else arrays
        _, _, terminated, truncated, _, failed = map(np.asarray, arrays)
        ends = np.stack([terminated | truncated, failed])
        return TensorStep(*map(torch.from_dlpack, arrays)), ends

    def state(self) -> dict[str, NDArray[Any]]:
        """Copies of the arrays of `State` and the observation, by name, each [N, .]; none before
        the first reset.
        """
        parts = [part.named() for part in self._parts]
        return {
            name: np.concatenate([np.asarray(part[name]) for part in parts])[: self.num_rows]
            for name in parts[0]
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Go on from what `state` of a simulator of the same seeds returned.

        Returns:
            [N, D] where every row is now.

        Raises:
            ValueError: arrays of another task or number of rows.
        """
        self._reset()
        for name, own in self.state().items():
            given = state.get(name)
            if given is None or given.shape != own.shape or given.dtype != own.dtype:
                found = "missing" if given is None else f"{given.dtype} {given.shape}"
                raise ValueError(
                    f"simulator state {name!r} is {found}; this run needs {own.dtype} {own.shape}"
                )
        K, padding = self._part_rows, -self.num_rows % self._part_rows
        padded = {
            name: np.concatenate([array, np.repeat(array[:1], padding, 0)])
            for name, array in state.items()
        }
        for index, part in enumerate(self._parts):
            rows = slice(index * K, (index + 1) * K)
            own = {name: jax.device_put(a[rows], self._device) for name, a in padded.items()}
            body = Body(*(own[name] for name in Body._fields))
            part.state = State(body, own["elapsed"], own["episode"])
            part.obs = own["obs"]
        return np.array(state["obs"])

    def close(self) -> None:
        """Let arrays and threads go; compiled programs stay for the next simulator."""
        self._parts, self._programs = [], None
        if self._pool is not None:
            self._pool.shutdown()

    def _reset(self) -> Array | NDArray[Any]:
        self.compile()
        programs = self._programs
        assert programs is not None
        return self._joined([part.reset(programs) for part in self._parts])

    def _step(self, actions: Array | NDArray[Any]) -> list[Array | NDArray[Any]]:
        expected = (self.num_rows, self.spec.num_actions)
        if actions.shape != expected:
            raise ValueError(f"actions have shape {actions.shape}; needed is {expected}")
        programs, limit = self._programs, self._limit
        if programs is None:
            raise ValueError("the simulator must be reset before its first step")
        if self._pool is None:
            outcomes = [self._parts[0].step(programs, limit, self._filled(actions)[0])]
        else:
            outcomes = list(
                self._pool.map(
                    lambda part, action: jax.block_until_ready(part.step(programs, limit, action)),
                    self._parts,
                    self._filled(actions),
                )
            )
        return [self._joined(column) for column in zip(*outcomes, strict=True)]

    def _filled(self, actions: Array | NDArray[Any]) -> list[Array]:
        """[K, A] for each part."""
        K = self._part_rows
        if self.num_rows == K:
            return [jax.device_put(actions, self._device)]
        padded = np.zeros((len(self._parts) * K, self.spec.num_actions), np.float32)
        padded[: self.num_rows] = actions
        return [jax.device_put(padded[i : i + K], self._device) for i in range(0, len(padded), K)]

    def _joined(self, arrays: Sequence[Array]) -> Array | NDArray[Any]:
        """Parts [K, .] as rows [N, .]; the one array itself where it is all."""
        if self.num_rows == self._part_rows:
            return arrays[0]
        return np.concatenate([np.asarray(array) for array in arrays])[: self.num_rows]


def jax_device(name: str) -> Any:
    """JAX's device for cpu, cuda or cuda:N.

    Raises:
        ValueError: JAX does not see it.
    """
    platform, _, index = name.partition(":")
    try:
        return jax.devices(platform)[int(index or 0)]
    except (RuntimeError, IndexError):
        raise ValueError(
            f"backend mjx on device {name} needs a JAX that sees it, and JAX {jax.__version__} "
            f"sees {', '.join(str(device) for device in jax.devices())}; install jax[cuda13], or "
            "give --device cpu"
        ) from None


def check_impl(impl: str, device: Any, env_id: str) -> None:
    """Refuse an implementation of MJX that cannot serve this task on this device.

    Raises:
        ValueError: what is missing, in one line.
    """
    if impl == "jax":
        return
    if impl != "warp":
        raise ValueError(f"mjx_impl is {impl!r}; allowed are jax, warp")
    if device.platform == "cpu":
        raise ValueError(
            "mjx_impl warp needs an NVIDIA GPU and --device cuda; give --mjx_impl jax here"
        )
    if importlib.util.find_spec("warp") is None:
        raise ValueError(
            "mjx_impl warp needs the package warp-lang: pip install warp-lang, or --mjx_impl jax"
        )
    if mjx_tasks.make_task(env_id).reads_contact_forces:
        raise ValueError(
            f"mjx_impl warp has no contact forces, which {env_id} observes; give --mjx_impl jax, "
            f"or {env_id.partition('-')[0]}-v3, where they are zero"
        )


def cache_folder() -> Path:
    """Where compiled programs are kept: JAX's own setting, or a folder in the user's cache."""
    if _config.jax_compilation_cache_dir:
        return Path(_config.jax_compilation_cache_dir)
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "fastanf" / "jax"


def preflight(env_id: str, num_rows: int, device: str = "cpu", impl: str = "jax") -> int:
    """Bytes that N rows take on the device while a step is computed, about.

    That is twice MJX's data: XLA's temporaries took 0.6 to 1.4 times the data's size on the CPU.

    Raises:
        ValueError: JAX has no such device, or the implementation cannot run there.
    """
    place = jax_device(device)
    check_impl(impl, place, env_id)
    num_at_once = PART_ROWS * (os.cpu_count() or 1) if place.platform == "cpu" else num_rows
    row_bytes = mjx_tasks.data_bytes(mjx_tasks.make_task(env_id))
    return 2 * min(num_rows, num_at_once) * row_bytes


@functools.cache
def _programs(task: Task, impl: str, num_rows: int, device: Any, is_x64: bool) -> Programs:
    """Trace and compile; the wall time of both counts."""
    del is_x64  # a part of the key only
    start = time.perf_counter()
    if not _config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder()))
    with jax.default_device(device):
        simulation = Simulation(task, impl, num_rows)
        num_actions = simulation.num_actions
        row = functools.partial(jax.ShapeDtypeStruct, sharding=_on(device))
        seed = episode = row((num_rows,), np.int32)
        reset = jax.jit(functools.partial(_reset_rows, simulation)).lower(seed, episode).compile()
        state, _ = jax.eval_shape(functools.partial(_reset_rows, simulation), seed, episode)
        state = jax.tree.map(lambda s: row(s.shape, s.dtype), state)
        action = row((num_rows, num_actions), np.float32)
        program = jax.jit(functools.partial(_step_rows, simulation))
        step = program.lower(seed, row((), np.int32), state, action).compile()
    return Programs(reset, step, time.perf_counter() - start)


def _on(device: Any) -> Any:
    return jax.sharding.SingleDeviceSharding(device)


def _reset_rows(simulation: Simulation, seed: Array, episode: Array) -> tuple[State, Array]:
    def draw(seed: Array, episode: Array) -> tuple[Body, Array]:
        key = jax.random.key(seed, impl="threefry2x32")
        return simulation.reset(jax.random.fold_in(key, episode))

    body, obs = jax.vmap(draw)(seed, episode)
    return State(body, jnp.zeros_like(episode), episode), obs.astype(jnp.float32)


def _step_rows(
    simulation: Simulation, seed: Array, limit: Array, state: State, action: Array
) -> tuple[State, Arrays]:
    outcome = jax.vmap(simulation.advance)(state.body, action)
    elapsed = state.elapsed + 1
    terminated, failed = outcome.is_unhealthy, outcome.has_failed
    truncated = (elapsed >= limit) & ~terminated & ~failed
    done = terminated | truncated | failed
    ran_on = State(outcome.body, elapsed, state.episode), outcome.obs.astype(jnp.float32)

    def begin_anew() -> tuple[State, Array]:
        fresh = _reset_rows(simulation, seed, state.episode + 1)
        return jax.tree.map(
            lambda new, old: jnp.where(done.reshape(-1, *[1] * (new.ndim - 1)), new, old),
            fresh,
            ran_on,
        )

    state, obs = jax.lax.cond(done.any(), begin_anew, lambda: ran_on)
    final_obs = jnp.where(failed[:, None], obs, ran_on[1])
    reward = jnp.where(failed, 0.0, outcome.reward).astype(jnp.float32)
    return state, Arrays(obs, reward, terminated, truncated, final_obs, failed)


def _to_host(array: Array | NDArray[Any]) -> NDArray[Any]:
    """An array that may be written to, which JAX's own view may not."""
    return array if isinstance(array, np.ndarray) else np.array(array)
