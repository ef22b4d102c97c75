"""The simulator as the training loop sees it: tensors on the learner's device, in and out.

Axes: N rows, D features, A actions. A simulator on the host (envpool, gymnasium) is copied to and
from; one that lives on the device hands its tensors over as they are.

A step has two halves, `begin` and `finish`. Between them the learner may give its device other
work: `begin` waits for nothing, and `finish` for no more than the actions (simulator on the host)
or the simulation (on the device).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.interface import (
    EnvSpec,
    RowVecEnv,
    SavableVecEnv,
    Step,
    TensorStep,
    TensorVecEnv,
    VecEnv,
)


class Outcome(NamedTuple):
    """One step of all rows, and what the host must know of it."""

    step: TensorStep
    is_over: Tensor
    """[N] bool on the host: the episode ended, terminated or truncated."""
    has_failed: Tensor
    """[N] bool on the host: the simulation broke down."""


class Simulator(Protocol):
    """N environments that step together, on the learner's device."""

    spec: EnvSpec
    num_rows: int

    def reset(self) -> Tensor:
        """Start the next episode of every row; returns obs [N, D]."""
        ...

    def begin(self, actions: Tensor) -> None:
        """Hand over actions [N, A]; they must stay as they are until `finish`."""
        ...

    def finish(self) -> Outcome:
        """Advance every row with the actions that were handed over."""
        ...

    def step(self, actions: Tensor) -> Outcome:
        """`begin` and `finish`."""
        ...

    def step_running(self, actions: Tensor, is_running: Tensor) -> Outcome:
        """Advance at least the rows that `is_running` [N], on the host, names; the others' result
        is not used.
        """
        ...


def on_device(env: VecEnv, device: torch.device) -> Simulator:
    """The simulator of `env` for a learner on `device`.

    A `TensorVecEnv` must have been built for that device.
    """
    return DeviceSimulator(env) if isinstance(env, TensorVecEnv) else HostSimulator(env, device)


class DeviceSimulator:
    """A simulator that shares the learner's device."""

    def __init__(self, env: TensorVecEnv):
        self._env, self.spec, self.num_rows = env, env.spec, env.num_rows
        # The simulator may write to what nobody holds, even where torch has yet to read it. So a
        # step is held until the next one is there, whose actions torch computed after reading it.
        self._held: TensorStep | Tensor | None = None

    def reset(self) -> Tensor:
        """Start the next episode of every row; returns obs [N, D]."""
        obs = self._env.reset_tensor()
        self._held = obs
        return obs

    def begin(self, actions: Tensor) -> None:
        """Start the simulation with actions [N, A]."""
        self._env.begin_tensors(actions)

    def finish(self) -> Outcome:
        """What it led to; the host waits for it."""
        step, ends = self._env.finish_tensors()
        self._held = step
        is_over, has_failed = torch.from_numpy(ends)
        return Outcome(step, is_over, has_failed)

    def step(self, actions: Tensor) -> Outcome:
        """`begin` and `finish`."""
        self.begin(actions)
        return self.finish()

    def step_running(self, actions: Tensor, is_running: Tensor) -> Outcome:
        """As `step`: all rows are one program, and none is cheaper left out."""
        del is_running
        return self.step(actions)


class HostSimulator:
    """A simulator on the host, copied to and from the learner's device."""

    def __init__(self, env: VecEnv, device: torch.device):
        self._env, self.spec, self.num_rows = env, env.spec, env.num_rows
        self._device = device
        is_far = device.type == "cuda"
        self._staging = Staging(self.num_rows, env.spec, device) if is_far else None
        self._actions: NDArray[np.float32] | None = None

    def reset(self) -> Tensor:
        """Start the next episode of every row; returns obs [N, D]."""
        return torch.from_numpy(self._env.reset()).to(self._device)

    def begin(self, actions: Tensor) -> None:
        """Hand over actions [N, A]."""
        if self._staging is not None:
            self._staging.fetch(actions)
        else:
            self._actions = actions.numpy()

    def finish(self) -> Outcome:
        """Advance every row as soon as the actions are here."""
        return self._sent(self._env.step(self._fetched()))

    def step(self, actions: Tensor) -> Outcome:
        """`begin` and `finish`."""
        self.begin(actions)
        return self.finish()

    def step_running(self, actions: Tensor, is_running: Tensor) -> Outcome:
        """Advance the running rows, and the others where the simulator can do no less; what rows
        that stood still return is zero.
        """
        if not isinstance(self._env, RowVecEnv) or bool(is_running.all()):
            return self.step(actions)
        self.begin(actions)
        rows = is_running.numpy().nonzero()[0].astype(np.int32)
        part = self._env.step_rows(self._fetched()[rows], rows)
        return self._sent(_spread(part, rows, self.num_rows))

    def _fetched(self) -> NDArray[np.float32]:
        if self._staging is not None:
            return self._staging.fetched()
        assert self._actions is not None, "no step was begun"
        actions, self._actions = self._actions, None
        return actions

    def _sent(self, step: Step) -> Outcome:
        is_over = torch.from_numpy(step.terminated | step.truncated)
        if self._staging is not None:
            tensors = self._staging.send(step)
            return Outcome(tensors, is_over, torch.from_numpy(step.failed))
        tensors = TensorStep(*map(torch.from_numpy, step))
        return Outcome(tensors, is_over, tensors.failed)


class StepLayout:
    """Where the arrays of a `Step` lie in one buffer of bytes, so that one copy moves them all.

    Args:
        num_rows: N.
        num_features: D.
    """

    def __init__(self, num_rows: int, num_features: int):
        self._shape = num_rows, num_features
        self._float_bytes = 4 * num_rows * (2 * num_features + 1)
        self.num_bytes = self._float_bytes + 3 * num_rows

    def arrays(self, buffer: Tensor) -> TensorStep:
        """Views of a buffer [num_bytes] uint8 on any device."""
        N, D = self._shape
        floats = buffer[: self._float_bytes].view(torch.float32)
        obs, final_obs, reward = floats.split([N * D, N * D, N])
        flags = buffer[self._float_bytes :].view(torch.bool)
        terminated, truncated, failed = flags.split(N)
        return TensorStep(
            obs.view(N, D), reward, terminated, truncated, final_obs.view(N, D), failed
        )

    def fill_(self, buffer: Tensor, step: Step) -> None:
        """Write a step to a buffer on the host."""
        for view, array in zip(self.arrays(buffer), step, strict=True):
            view.numpy()[...] = array


class Staging:
    """Page-locked memory, from and to which a GPU copies while the host goes on.

    Args:
        num_rows: N.
        spec: of the simulator.
        device: a CUDA device; all copies are in the order of its current stream.
    """

    def __init__(self, num_rows: int, spec: EnvSpec, device: torch.device):
        self._device = device
        self._layout = StepLayout(num_rows, spec.num_features)
        self._actions = torch.empty(num_rows, spec.num_actions, pin_memory=True)
        self._is_here = torch.cuda.Event()
        # Two in turn: while one is copied the other is filled.
        self._buffers = [
            (
                torch.empty(self._layout.num_bytes, dtype=torch.uint8, pin_memory=True),
                torch.cuda.Event(),
            )
            for _ in range(2)
        ]

    def fetch(self, actions: Tensor) -> None:
        """Begin to copy actions [N, A] to the host."""
        self._actions.copy_(actions, non_blocking=True)
        self._is_here.record(torch.cuda.current_stream(self._device))

    def fetched(self) -> NDArray[np.float32]:
        """The actions [N, A]; waits for them, and they stay until the next `fetch`."""
        self._is_here.synchronize()
        return self._actions.numpy()

    def send(self, step: Step) -> TensorStep:
        """The step on the device, once its stream comes to it."""
        buffer, is_sent = self._buffers[0]
        self._buffers.reverse()
        is_sent.synchronize()
        self._layout.fill_(buffer, step)
        there = buffer.to(self._device, non_blocking=True)
        is_sent.record(torch.cuda.current_stream(self._device))
        return self._layout.arrays(there)


def _spread(part: Step, rows: NDArray[np.int32], num_rows: int) -> Step:
    """Arrays of M rows as arrays of N rows, zero elsewhere."""
    whole: list[NDArray[Any]] = [
        np.zeros((num_rows, *array.shape[1:]), array.dtype) for array in part
    ]
    for array, values in zip(whole, part, strict=True):
        array[rows] = values
    return Step(*whole)


def simulator_state(env: SavableVecEnv) -> dict[str, Tensor]:
    """The simulator's whole state as tensors; none before its first reset."""
    return {name: torch.from_numpy(np.atleast_1d(array)) for name, array in env.state().items()}


def restore_simulator_(env: SavableVecEnv, state: dict[str, Tensor]) -> Tensor | None:
    """Put back what `simulator_state` returned.

    Returns:
        obs [N, D] where every row is now; None where the simulator was never reset.

    Raises:
        ValueError: the state of another task or number of rows.
        SimulationDiffers: the simulator computes other numbers than the one that the state is of.
    """
    if not state:
        return None
    return torch.from_numpy(env.restore({name: part.numpy() for name, part in state.items()}))
