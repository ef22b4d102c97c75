"""The gymnasium backend: a plain loop over one environment per row. Slow, and the oracle.

Axes: N rows, D features, A actions. It is written to be obviously right, with nothing shared
between rows, and lets a test place a row in a chosen state. Its own state is what led there, as in
the envpool backend.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.episode_log import EpisodeLog, replay
from envs.interface import EnvSpec, Step

log = logging.getLogger(__name__)

_mujoco: Any = mujoco  # its functions come from C++ and carry no types


class GymnasiumVecEnv:
    """N rows of one gymnasium task with Box spaces.

    Args:
        spec: the task; `max_episode_steps` is the time limit that is applied.
        seeds: [N], one per row; the first reset of a row is seeded with it, later ones continue.
        num_threads: accepted for the common signature; the loop uses one.
        **options: keyword arguments of the environment's constructor.

    Raises:
        ValueError: an option that the environment does not take.
    """

    def __init__(
        self, spec: EnvSpec, seeds: Sequence[int], num_threads: int = 1, **options: Any
    ) -> None:
        self.spec = spec
        self.num_rows = len(seeds)
        self._first_seeds: list[int | None] = list(seeds)
        self._rows = np.arange(self.num_rows, dtype=np.int32)
        self._log = EpisodeLog(self.num_rows, spec.num_actions, spec.max_episode_steps)
        self._placed: set[int] = set()  # rows that did not come where they are by themselves
        try:
            # -1: without gymnasium's own TimeLimit, which would say truncated and terminated both.
            with quiet_construction():
                self._envs = [
                    gymnasium.make(
                        spec.env_id, max_episode_steps=-1, disable_env_checker=True, **options
                    )
                    for _ in seeds
                ]
        except TypeError as error:
            raise ValueError(
                f"task options {sorted(options)} are not all known to {spec.env_id}: {error}"
            ) from error

    def reset(self) -> NDArray[np.float32]:
        """Start the next episode of every row; returns obs [N, D]."""
        return self._reset_rows(self._rows)

    def step(self, actions: NDArray[np.float32]) -> Step:
        """Advance every row by one step, with actions [N, A] in the task's units."""
        return self.step_rows(actions, self._rows)

    def step_rows(self, actions: NDArray[np.float32], rows: NDArray[np.int32]) -> Step:
        """Advance only `rows` [M] (distinct) with actions [M, A]; every array has M rows."""
        expected = (len(rows), self.spec.num_actions)
        if np.shape(actions) != expected:
            raise ValueError(f"actions have shape {np.shape(actions)}; needed is {expected}")
        if not self._log.has_started:
            raise ValueError("the simulator must be reset before its first step")
        actions = np.asarray(actions, np.float32)
        final_obs = np.empty((len(rows), self.spec.num_features), dtype=np.float32)
        reward = np.empty(len(rows), dtype=np.float32)
        terminated = np.zeros(len(rows), dtype=np.bool_)
        for i, row in enumerate(rows.tolist()):
            # float64, as envpool takes them: v5 penalises the action in the precision it is given.
            action = np.asarray(actions[i], dtype=np.float64)
            row_obs, row_reward, ended, _, _ = self._envs[row].step(action)
            final_obs[i], reward[i], terminated[i] = row_obs, float(row_reward), ended
        elapsed = self._log.record_steps(actions, rows)
        truncated = (elapsed >= self.spec.max_episode_steps) & ~terminated
        done = terminated | truncated
        obs = final_obs
        if done.any():
            obs = final_obs.copy()
            obs[done] = self._reset_rows(rows[done])
        failed = np.zeros_like(terminated)  # MuJoCo itself resets what breaks down
        return Step(obs, reward, terminated, truncated, final_obs, failed)

    def state(self) -> dict[str, NDArray[np.generic]]:
        """What led here (`envs.episode_log.History`), by name; none before the first reset.

        Raises:
            ValueError: a row is in an episode in which `set_state` placed it.
        """
        if self._placed:
            raise ValueError(
                f"row {min(self._placed)} was placed by set_state, which no replay repeats; reset "
                "the simulator before its state is saved"
            )
        return self._log.state()

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
        """Repeat what led to `state`, in a simulator of the same seeds that has taken no step.

        Returns:
            [N, D] where every row is now.

        Raises:
            ValueError: as `envs.episode_log.replay`.
        """
        return replay(self._log, state, self._reset_rows, self.step_rows)

    def close(self) -> None:
        """Close every environment."""
        for env in self._envs:
            env.close()

    def get_state(self, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Generalised positions qpos and velocities qvel of one row (MuJoCo tasks only)."""
        data = self._mujoco_env(row).data
        return data.qpos.copy(), data.qvel.copy()

    def set_state(
        self, row: int, qpos: NDArray[np.float64], qvel: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """Place one row where a reset to this state would, with no history; returns obs [D].

        The step count of the running episode stays as it is.
        """
        env = self._mujoco_env(row)
        # Without it the constraint solver would start from the forces of the state before.
        _mujoco.mj_resetData(env.model, env.data)
        env.set_state(np.asarray(qpos, np.float64), np.asarray(qvel, np.float64))
        self._placed.add(row)
        self._log.obs_after_reset = None
        return env._get_obs().astype(np.float32)

    def _mujoco_env(self, row: int) -> Any:
        return self._envs[row].unwrapped

    def _reset_rows(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        obs = np.stack([self._reset_row(row) for row in rows.tolist()])
        self._log.record_resets(rows, obs)
        return obs

    def _reset_row(self, row: int) -> NDArray[np.float32]:
        seed, self._first_seeds[row] = self._first_seeds[row], None
        self._placed.discard(row)
        obs, _ = self._envs[row].reset(seed=seed)
        return np.asarray(obs, dtype=np.float32)


@contextlib.contextmanager
def quiet_construction() -> Iterator[None]:
    """Send what MuJoCo and gymnasium say about old models and versions to the log.

    Without a handler MuJoCo appends each warning to a file MUJOCO_LOG.TXT in the working folder.
    """
    previous = _mujoco.get_mju_user_warning()
    _mujoco.set_mju_user_warning(log.debug)
    try:
        with warnings.catch_warnings():
            # v4 is here on purpose.
            warnings.filterwarnings("ignore", ".*is out of date.*", DeprecationWarning)
            yield
    finally:
        _mujoco.set_mju_user_warning(previous)
