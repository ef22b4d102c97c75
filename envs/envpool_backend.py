"""The envpool backend: MuJoCo tasks stepped by C++ threads. Axes: N rows, D features, A actions.

Two habits of the engine are turned into the contract of `envs.interface`:

* It resets a finished row in the *next* step, which ignores that step's action and returns reward
  0. Here finished rows are reset at once, by their ids, so that such a step never happens.
* It reports one of terminated and truncated, and says truncated where both hold. Here the engine
  gets no time limit and the steps are counted outside it: what it calls done is a termination.

It has no state to read; `envs.episode_log` writes down what leads there, and repeats it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import envpool
import numpy as np
from numpy.typing import NDArray

from envs.episode_log import EpisodeLog, replay
from envs.interface import EnvSpec, Step

_NO_LIMIT = 2**30
"""Engine time limit that no run reaches; the engine counts in 32-bit integers."""
_OURS = {"num_envs", "batch_size", "num_threads", "seed", "env_seed", "max_num_players"}
"""Engine options that this backend sets itself; another batch size would not be in lock step."""


def _forget_importers() -> None:
    """Let go of the frames that the first import of envpool was called from.

    envpool keeps the error of a part that it could not load, and the error's traceback keeps every
    caller's variables: those of the block that made the first simulator, with its whole replay, for
    as long as the process lives.
    """
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "envpool":
            for value in vars(module).values():
                if isinstance(value, BaseException):
                    value.__traceback__ = None


_forget_importers()


class EnvPoolVecEnv:
    """N rows of one envpool task.

    Args:
        spec: the task; `max_episode_steps` is the time limit that is applied.
        seeds: [N], one per row, in [0, 2**31).
        num_threads: engine threads, at least 1.
        **options: engine options of this task, for example `post_constraint=False`.

    Raises:
        ValueError: an option that this task does not have.
    """

    def __init__(
        self, spec: EnvSpec, seeds: Sequence[int], num_threads: int = 1, **options: Any
    ) -> None:
        _check_options(spec.env_id, options)
        self.spec = spec
        self.num_rows = len(seeds)
        self._env: Any = envpool.make(
            spec.env_id,
            env_type="gymnasium",
            num_envs=self.num_rows,
            num_threads=num_threads,
            # A list gives each row exactly its seed; a number would give row i the seed + i.
            seed=[int(seed) for seed in seeds],
            max_episode_steps=_NO_LIMIT,
            **options,
        )
        self._rows = np.arange(self.num_rows, dtype=np.int32)
        self._log = EpisodeLog(self.num_rows, spec.num_actions, spec.max_episode_steps)

    def reset(self) -> NDArray[np.float32]:
        """Start the next episode of every row; returns obs [N, D]."""
        return self._reset_rows(self._rows)

    def step(self, actions: NDArray[np.float32]) -> Step:
        """Advance every row by one step, with actions [N, A] in the task's units."""
        return self._step(actions, self._rows)

    def step_rows(self, actions: NDArray[np.float32], rows: NDArray[np.int32]) -> Step:
        """Advance only `rows` [M] (distinct) with actions [M, A]; every array has M rows."""
        return self._step(actions, np.ascontiguousarray(rows, dtype=np.int32))

    def state(self) -> dict[str, NDArray[np.generic]]:
        """What led here (`envs.episode_log.History`), by name; none before the first reset."""
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
        """Release the engine and its threads."""
        self._env.close()

    def _step(self, actions: NDArray[np.float32], rows: NDArray[np.int32]) -> Step:
        expected = (len(rows), self.spec.num_actions)
        if np.shape(actions) != expected:
            raise ValueError(f"actions have shape {np.shape(actions)}; needed is {expected}")
        if not self._log.has_started:
            raise ValueError("the simulator must be reset before its first step")
        actions = np.asarray(actions, np.float32)  # the engine gets what the log holds
        engine_obs, reward, terminated, _, _ = self._env.step(actions, rows)
        final_obs = engine_obs.astype(np.float32)
        elapsed = self._log.record_steps(actions, rows)
        truncated = (elapsed >= self.spec.max_episode_steps) & ~terminated
        done = terminated | truncated
        obs = final_obs
        if done.any():
            obs = final_obs.copy()
            obs[done] = self._reset_rows(rows[done])
        failed = np.zeros(len(rows), dtype=np.bool_)  # MuJoCo itself resets what breaks down
        return Step(obs, reward, terminated, truncated, final_obs, failed)

    def _reset_rows(self, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        engine_obs, _ = self._env.reset(rows)
        obs = engine_obs.astype(np.float32)
        self._log.record_resets(rows, obs)
        return obs


def _check_options(env_id: str, options: dict[str, Any]) -> None:
    known = set(envpool.make_spec(env_id)._config_keys) - _OURS
    for name in options:
        if name not in known:
            raise ValueError(
                f"task option {name!r} is unknown to {env_id} in envpool; "
                f"allowed are {', '.join(sorted(known))}"
            )
