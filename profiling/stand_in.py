"""Tasks without their simulator: sizes and limits of the real ones, observations from a table.

What an update computes does not depend on where its transitions come from. With `--backend
stand_in` updates can be measured where no simulator is installed, and without its time. Rewards are
random: nothing can be learnt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import envs
from envs.interface import EnvSpec, Step

NAME = "stand_in"
_TABLE_ROWS = 4096


class StandInVecEnv:
    """N rows that walk through one table of standard normal numbers, each from its own place.

    Args:
        spec: of the task that is stood in for; its time limit ends the episodes.
        seeds: [N], each row's place in the table.
        num_threads: not needed.
    """

    def __init__(self, spec: EnvSpec, seeds: Sequence[int], num_threads: int = 1) -> None:
        del num_threads
        self.spec, self.num_rows = spec, len(seeds)
        draw = np.random.default_rng(0).standard_normal
        self._table = draw((_TABLE_ROWS, spec.num_features), dtype=np.float32)
        self._place = np.array(seeds, dtype=np.int64)
        self._elapsed = np.zeros(self.num_rows, dtype=np.int64)

    def _observe(self) -> NDArray[np.float32]:
        return self._table[self._place % _TABLE_ROWS]

    def reset(self) -> NDArray[np.float32]:
        """Start the next episode of every row; returns obs [N, D]."""
        self._elapsed[:] = 0
        self._place += 1
        return self._observe()

    def step(self, actions: NDArray[np.float32]) -> Step:
        """Advance every row by one step, with actions [N, A]."""
        reward = self._observe()[:, 0] - np.square(actions).mean(1)
        self._place += 1
        self._elapsed += 1
        final_obs = self._observe()
        truncated = self._elapsed >= self.spec.max_episode_steps
        self._place[truncated] += 1
        self._elapsed[truncated] = 0
        never = np.zeros(self.num_rows, dtype=np.bool_)
        reward = reward.astype(np.float32)
        return Step(self._observe(), reward, never, truncated, final_obs, never.copy())

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Where each row is, and its steps since the last reset, both [N]."""
        return {"place": self._place.copy(), "elapsed": self._elapsed.copy()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Go on from what `state` returned; returns obs [N, D]."""
        self._place, self._elapsed = state["place"].copy(), state["elapsed"].copy()
        return self._observe()

    def close(self) -> None:
        """Nothing is held."""


def register() -> None:
    """Offer every task of envpool's table as backend `stand_in`."""
    specs = [envs.spec(env_id) for env_id in envs.known_env_ids()]
    envs.register_backend(NAME, StandInVecEnv, specs)
