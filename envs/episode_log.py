"""What a simulator without a readable state was told, so that repeating it leads where it is now.

Axes: N environment rows, M a subset of them, D features, A actions, T steps of the longest episode.

envpool and gymnasium hand out no state; both are deterministic given the rows' seeds, and a reset
leaves nothing of an episode behind. So a row is where its resets, and the actions since the last
of them, have led it: repeating those restores it to the bit. That was tried with every task here;
`tests/envs/test_episode_log.py` repeats a part of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.interface import SimulationDiffers, Step

MAX_RESETS = 10**7
"""Of one row, in a state that is restored. Eight envpool rows of Hopper repeat 5,000 resets each in
a second on one core, and 10**7 in half an hour; a greater number is damage."""
_FIRST_CAPACITY = 32
"""Steps of every row that there is room for at first; it doubles where an episode needs more."""

ResetRows = Callable[[NDArray[np.int32]], NDArray[np.float32]]
"""Start the next episode of rows [M]; returns obs [M, D]."""
StepRows = Callable[[NDArray[np.float32], NDArray[np.int32]], Step]
"""`RowVecEnv.step_rows`."""


class History(NamedTuple):
    """The past of every row that its future follows from."""

    num_resets: NDArray[np.int64]
    """[N] how often each row was reset, 1 to `MAX_RESETS`."""
    elapsed: NDArray[np.int64]
    """[N] steps of its running episode, below the time limit."""
    actions: NDArray[np.float32]
    """[N, T, A] of those steps, 0 beyond a row's own; T is the greatest of `elapsed`."""


class EpisodeLog:
    """Counts the resets of N rows and remembers the actions since the last one.

    Memory: 4 A bytes for every row and step of the longest episode so far, and up to as much again.

    Args:
        num_rows: N.
        num_actions: A.
        max_episode_steps: the time limit; whoever steps resets a row that reaches it.
    """

    def __init__(self, num_rows: int, num_actions: int, max_episode_steps: int):
        self.num_rows, self.num_actions = num_rows, num_actions
        self.max_episode_steps = max_episode_steps
        self.has_started = False
        self.num_resets = np.zeros(num_rows, np.int64)
        self.elapsed = np.zeros(num_rows, np.int64)
        self.obs_after_reset: NDArray[np.float32] | None = None
        """[N, D] where all rows were reset last and none has moved since; else None."""
        # Only what was written is memory: the system gives a page when it is touched.
        self._actions = np.empty((num_rows, 0, num_actions), np.float32)
        self._num_sure = 0  # steps that fit whichever rows take them

    def record_resets(self, rows: NDArray[np.int32], obs: NDArray[np.float32]) -> None:
        """Rows [M] (distinct) began their next episodes with obs [M, D]."""
        self.has_started = True
        self.num_resets[rows] += 1
        self.elapsed[rows] = 0
        self.obs_after_reset = None
        if len(rows) == self.num_rows:
            self.obs_after_reset = np.empty_like(obs)
            self.obs_after_reset[rows] = obs

    def record_steps(
        self, actions: NDArray[np.float32], rows: NDArray[np.int32]
    ) -> NDArray[np.int64]:
        """Rows [M] (distinct) took a step with actions [M, A], exactly as the simulator got them.

        Returns:
            [M] steps of their running episodes, this one included.
        """
        if self._num_sure == 0:
            self._make_room()
        self._num_sure -= 1
        self.obs_after_reset = None
        elapsed = self.elapsed[rows]
        self._actions[rows, elapsed] = actions
        elapsed += 1
        self.elapsed[rows] = elapsed
        return elapsed

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Copies of the arrays of `History`, by name; none before the first reset."""
        if not self.has_started:
            return {}
        num_steps = int(self.elapsed.max())
        actions = self._actions[:, :num_steps].copy()
        actions[np.arange(num_steps) >= self.elapsed[:, None]] = 0.0
        history = History(self.num_resets.copy(), self.elapsed.copy(), actions)
        return dict(history._asdict())

    def _make_room(self) -> None:
        """For at least one more step of every row."""
        used, capacity = int(self.elapsed.max()), self._actions.shape[1]
        if used == capacity:
            capacity = min(max(2 * capacity, _FIRST_CAPACITY), self.max_episode_steps)
            grown = np.empty((self.num_rows, capacity, self.num_actions), np.float32)
            grown[:, :used] = self._actions
            self._actions = grown
        # With room for the longest episode there is no more to look after.
        is_full_size = capacity == self.max_episode_steps
        self._num_sure = sys.maxsize if is_full_size else capacity - used


def replay(
    log: EpisodeLog,
    state: Mapping[str, NDArray[np.generic]],
    reset_rows: ResetRows,
    step_rows: StepRows,
) -> NDArray[np.float32]:
    """Repeat what `state` tells, in a simulator of the same seeds that was not stepped yet.

    The simulator may have been reset before, as long as no row was reset more often than in the
    state; those resets count. It must not be used after an error.

    Args:
        log: of the simulator; `reset_rows` and `step_rows` record in it.
        state: what `EpisodeLog.state` returned.
        reset_rows, step_rows: move the simulator.

    Returns:
        [N, D] where every row is now.

    Raises:
        ValueError: arrays that no such log writes, or a simulator that was used already.
        SimulationDiffers: it ends an episode which went on when the state was written.
    """
    history = read_history(state, log.num_rows, log.num_actions, log.max_episode_steps)
    if not log.has_started:
        reset_rows(np.arange(log.num_rows, dtype=np.int32))
    if log.obs_after_reset is None or (log.num_resets > history.num_resets).any():
        raise ValueError(
            "the simulator was used before its state is restored; build it anew with the same seeds"
        )
    obs = log.obs_after_reset.copy()
    _repeat_resets(history.num_resets - log.num_resets, reset_rows, obs)
    for time in range(history.actions.shape[1]):
        rows = _rows_beyond(history.elapsed, time)
        step = step_rows(history.actions[rows, time], rows)
        ended = rows[step.terminated | step.truncated | step.failed]
        if len(ended):
            raise SimulationDiffers(
                f"the simulator ends the episode of row {ended[0]} at step {time + 1}, which went "
                "on when its state was written: task, options, seeds or versions are others"
            )
        obs[rows] = step.obs
    return obs


def read_history(
    state: Mapping[str, NDArray[np.generic]], num_rows: int, num_actions: int, limit: int
) -> History:
    """The arrays of a state, if they are what N rows of a task write.

    Args:
        state: arrays by name, from anywhere.
        num_rows, num_actions: N and A.
        limit: time limit of an episode in steps.

    Raises:
        ValueError: an array is missing, or its shape, type or a value is not possible.
    """
    num_resets = _array(state, "num_resets", np.int64, (num_rows,))
    _check_range("num_resets", num_resets, 1, MAX_RESETS)
    elapsed = _array(state, "elapsed", np.int64, (num_rows,))
    _check_range("elapsed", elapsed, 0, limit - 1)
    shape = (num_rows, int(elapsed.max()), num_actions)
    return History(num_resets, elapsed, _array(state, "actions", np.float32, shape))


def _array(
    state: Mapping[str, NDArray[np.generic]], name: str, dtype: type, shape: tuple[int, ...]
) -> NDArray:
    array = state.get(name)
    if array is None or array.dtype != dtype or array.shape != shape:
        found = "missing" if array is None else f"{array.dtype} {array.shape}"
        raise ValueError(
            f"simulator state {name!r} is {found}; this run needs {np.dtype(dtype)} {shape}"
        )
    return array


def _check_range(name: str, values: NDArray[np.int64], low: int, high: int) -> None:
    wrong = values[(values < low) | (values > high)]
    if len(wrong):
        raise ValueError(f"simulator state {name!r} has {wrong[0]}; allowed are {low} to {high}")


def _repeat_resets(
    num_resets: NDArray[np.int64], reset_rows: ResetRows, obs: NDArray[np.float32]
) -> None:
    """Reset row i `num_resets[i]` times, the rows together; writes the last into obs [N, D]."""
    num_done = 0
    for number in np.unique(num_resets[num_resets > 0]).tolist():
        rows = _rows_beyond(num_resets, num_done)
        for _ in range(number - num_done):
            first_obs = reset_rows(rows)
        obs[rows] = first_obs
        num_done = number


def _rows_beyond(counts: NDArray[np.int64], number: int) -> NDArray[np.int32]:
    return np.flatnonzero(counts > number).astype(np.int32)
