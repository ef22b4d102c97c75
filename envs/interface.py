"""The contract between a batched simulator and everything that trains or evaluates on it.

Axes: N environment rows, D real features, A action components, M a subset of the rows.

The contract, which every backend keeps and `tests/envs` checks:

* **Rows are independent.** The trajectory of row k is a function of row k's seed and of the actions
  given to row k, and of nothing else: not of N, of the other rows or of the number of threads.
* **Same-step reset.** Where an episode ends at a step, `Step.final_obs` holds the last observation
  of that episode and `Step.obs` the first one of the next. Every row takes a real step at every
  call, so no (obs, action, reward, final_obs) ever crosses a reset.
* **A time limit is not a termination.** `truncated` says that the episode was cut by
  `EnvSpec.max_episode_steps`; `terminated` says that the task ended. Never both: where a task ends
  at its very last step `terminated` is true and `truncated` false.
* **Actions pass through.** They are float32 in the units of the task, `action_low` to
  `action_high`; a backend neither scales nor clips them.
* **A failed simulation is said.** Where a row's state stops being finite, `failed` is true,
  terminated and truncated are false, the reward is 0, and the row begins its next episode:
  `final_obs` equals `obs`, and no transition led there.
* **What was saved goes on exactly.** A simulator that is built anew with the same seeds and options
  and is given a saved state (`SavableVecEnv`) continues to the bit, however many threads it has.
* **Arrays belong to the caller.** What `reset` and `step` return is never written again by the
  backend. In a step without an episode end `final_obs` may be the same array as `obs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class EnvSpec:
    """The size and the limits of one task."""

    env_id: str
    """Name in the registry, for example HalfCheetah-v3."""
    num_features: int
    """D, the number of real features."""
    num_actions: int
    """A, the number of action components."""
    action_low: tuple[float, ...]
    """Smallest action, one value a component."""
    action_high: tuple[float, ...]
    """Largest action, one value a component."""
    max_episode_steps: int
    """Time limit of an episode in environment steps."""


class Step(NamedTuple):
    """What one step of N rows returns."""

    obs: NDArray[np.float32]
    """[N, D] where the rows are now: after the reset in rows whose episode ended."""
    reward: NDArray[np.float32]
    """[N] reward of this step."""
    terminated: NDArray[np.bool_]
    """[N] the task ended: nothing follows, the value of `final_obs` is zero."""
    truncated: NDArray[np.bool_]
    """[N] the time limit cut the episode: the value of `final_obs` still counts."""
    final_obs: NDArray[np.float32]
    """[N, D] where the step led: before the reset; equals `obs` in rows that go on."""
    failed: NDArray[np.bool_]
    """[N] the simulation broke down; nothing else of this row's step means anything."""


class TensorStep(NamedTuple):
    """A `Step` whose arrays are tensors on the simulator's device."""

    obs: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    final_obs: Tensor
    failed: Tensor


class SimulationDiffers(ValueError):
    """A simulator that repeats what another one did does not get where that one was."""


@runtime_checkable
class VecEnv(Protocol):
    """N independent copies of one task that step together."""

    spec: EnvSpec
    num_rows: int

    def reset(self) -> NDArray[np.float32]:
        """Start the next episode of every row's own stream; returns obs [N, D]."""
        ...

    def step(self, actions: NDArray[np.float32]) -> Step:
        """Advance every row by one step, with actions [N, A] in the task's units."""
        ...

    def close(self) -> None:
        """Release the simulator; the object must not be used afterwards."""
        ...


@runtime_checkable
class RowVecEnv(VecEnv, Protocol):
    """A VecEnv that can also step some rows and leave the others as they are."""

    def step_rows(self, actions: NDArray[np.float32], rows: NDArray[np.int32]) -> Step:
        """Advance only `rows` [M] (distinct) with actions [M, A]; every array has M rows."""
        ...


@runtime_checkable
class TensorVecEnv(VecEnv, Protocol):
    """A VecEnv that lives on a device and hands over tensors there; nobody may write to them.

    A step has two halves, between which torch may be given other work. What they return may be
    written again once nobody holds it, on the device too: hold it until the next step is there.
    """

    def reset_tensor(self) -> Tensor:
        """`reset` as a tensor [N, D] float32."""
        ...

    def step_tensors(self, actions: Tensor) -> TensorStep:
        """`step` with actions [N, A] on the device."""
        ...

    def begin_tensors(self, actions: Tensor) -> None:
        """Begin a step with actions [N, A] on the device, which must stay as they are."""
        ...

    def finish_tensors(self) -> tuple[TensorStep, NDArray[np.bool_]]:
        """The step that was begun, and on the host which rows' episodes ended and which failed,
        [2, N], for which alone the host waits.
        """
        ...


@runtime_checkable
class CompiledVecEnv(VecEnv, Protocol):
    """A VecEnv that is compiled before its first step."""

    def compile(self, reuse: bool = True) -> float:
        """Compile now, not at the first reset; returns the seconds that it took.

        `reuse` False takes nothing from a cache on the disk.
        """
        ...


@runtime_checkable
class SavableVecEnv(VecEnv, Protocol):
    """A VecEnv whose whole state can be copied out, and put back in one that is built alike."""

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Copies of all arrays that the future follows from, beside seeds, options and the actions
        to come, by name; none before the first reset.
        """
        ...

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Go on from what `state` of a simulator of the same seeds and options returned.

        This one may have been reset, but has taken no step; after an error it must not be used.

        Returns:
            [N, D] where every row is now: to the bit the last observation before the state was
            saved, against which a caller can hold it.

        Raises:
            ValueError: in one line, arrays that this simulator would not have written.
            SimulationDiffers: they do not lead where they say.
        """
        ...
