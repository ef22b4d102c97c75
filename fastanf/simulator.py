"""The simulator as the training loop sees it: tensors on the learner's device, in and out.

Axes: N rows, D features, A actions. A simulator on the host (envpool, gymnasium) is copied to and
from; one that lives on the device hands its tensors over as they are.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
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


class Simulator(Protocol):
    """N environments that step together, on the learner's device."""

    spec: EnvSpec
    num_rows: int

    def reset(self) -> Tensor:
        """Start the next episode of every row; returns obs [N, D]."""
        ...

    def step(self, actions: Tensor) -> TensorStep:
        """Advance every row with actions [N, A]."""
        ...

    def step_running(self, actions: Tensor, is_running: Tensor) -> TensorStep:
        """Advance at least the rows that `is_running` [N] names; the others' result is not used."""
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

    def reset(self) -> Tensor:
        """Start the next episode of every row; returns obs [N, D]."""
        return self._env.reset_tensor()

    def step(self, actions: Tensor) -> TensorStep:
        """Advance every row with actions [N, A]."""
        return self._env.step_tensors(actions)

    def step_running(self, actions: Tensor, is_running: Tensor) -> TensorStep:
        """As `step`: all rows are one program, and none is cheaper left out."""
        del is_running
        return self._env.step_tensors(actions)


class HostSimulator:
    """A simulator on the host, copied to and from the learner's device."""

    def __init__(self, env: VecEnv, device: torch.device):
        self._env, self.spec, self.num_rows = env, env.spec, env.num_rows
        self._device = device

    def reset(self) -> Tensor:
        """Start the next episode of every row; returns obs [N, D]."""
        return self._to_device(self._env.reset())

    def step(self, actions: Tensor) -> TensorStep:
        """Advance every row with actions [N, A]."""
        return TensorStep(*map(self._to_device, self._env.step(actions.cpu().numpy())))

    def step_running(self, actions: Tensor, is_running: Tensor) -> TensorStep:
        """Advance the running rows, and the others where the simulator can do no less; what rows
        that stood still return is zero.
        """
        if not isinstance(self._env, RowVecEnv) or bool(is_running.all()):
            return self.step(actions)
        rows = is_running.nonzero().flatten().cpu().numpy().astype(np.int32)
        part = self._env.step_rows(actions.cpu().numpy()[rows], rows)
        return TensorStep(*map(self._to_device, _spread(part, rows, self.num_rows)))

    def _to_device(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)


def _spread(part: Step, rows: np.ndarray, num_rows: int) -> list[np.ndarray]:
    """Arrays of M rows as arrays of N rows, zero elsewhere."""
    whole = [np.zeros((num_rows, *array.shape[1:]), array.dtype) for array in part]
    for array, values in zip(whole, part, strict=True):
        array[rows] = values
    return whole


def simulator_state(env: VecEnv) -> dict[str, Tensor] | None:
    """The simulator's whole state as tensors; None where it cannot be read."""
    if not isinstance(env, SavableVecEnv):
        return None
    return {name: torch.from_numpy(np.atleast_1d(array)) for name, array in env.state().items()}


def restore_simulator_(env: VecEnv, state: dict[str, Tensor]) -> None:
    """Put back what `simulator_state` returned.

    Raises:
        ValueError: the state of another task or number of rows.
    """
    assert isinstance(env, SavableVecEnv)
    env.restore({name: tensor.numpy() for name, tensor in state.items()})
