"""Six tiny tasks whose values and best actions are known, as a simulator backend named `probe`.

Axes: N rows, D features, A = 1 action in [-2, 1]. Each isolates one thing that learning needs:

    Constant       one step, reward 1                             V = 1
    Observation    one step, reward = obs, obs is -1 or 1         V(obs) = obs
    Delayed        two steps, reward 1 at the second              V(first) = discount
    Action         one step, reward 1 - (a - 0.4)^2               a* = 0.4
    ActionTimes    one step, reward 1 - (a + 0.6 obs)^2           a*(obs) = -0.6 obs
    TimeLimit      no end but the time limit, reward 1            V = 1 / (1 - discount)

Idea of such probes: Andy Jones, "Debugging RL, Without the Agonizing Pain", 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import envs
from envs.interface import EnvSpec, Step

BEST_ACTION = 0.4
BEST_SLOPE = -0.6
_TWO_STEPS = "Delayed-v0"
_ENDLESS = "TimeLimit-v0"


class ProbeVecEnv:
    """N rows of one probe; the observation is a sign, drawn from the row's seed, or the time."""

    def __init__(self, spec: EnvSpec, seeds: Sequence[int], num_threads: int = 1):
        self.spec, self.num_rows, self._seeds = spec, len(seeds), seeds
        self._rngs = [np.random.default_rng(seed) for seed in seeds]
        self._num_begun = np.zeros(self.num_rows, dtype=np.int64)
        self._time = np.zeros(self.num_rows, dtype=np.int64)
        self._sign = np.ones(self.num_rows, dtype=np.float32)

    def _begin(self, rows: NDArray[np.bool_]) -> None:
        self._time[rows] = 0
        self._num_begun[rows] += 1
        for row in rows.nonzero()[0]:
            self._sign[row] = self._rngs[row].choice((-1.0, 1.0))

    def _obs(self) -> NDArray[np.float32]:
        if self.spec.env_id in (_TWO_STEPS, "Constant-v0"):
            feature = self._time.astype(np.float32)
        elif self.spec.env_id == _ENDLESS:
            feature = np.ones(self.num_rows, dtype=np.float32)
        else:
            feature = self._sign.copy()
        return feature[:, None]

    def _reward(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        one = np.ones(self.num_rows, dtype=np.float32)
        rewards = {
            "Constant-v0": one,
            "Observation-v0": self._sign.copy(),
            _TWO_STEPS: self._time.astype(np.float32),
            "Action-v0": one - (action - BEST_ACTION) ** 2,
            "ActionTimes-v0": one - (action - BEST_SLOPE * self._sign) ** 2,
            _ENDLESS: one,
        }
        return rewards[self.spec.env_id].astype(np.float32)

    def reset(self) -> NDArray[np.float32]:
        self._begin(np.ones(self.num_rows, dtype=np.bool_))
        return self._obs()

    def step(self, actions: NDArray[np.float32]) -> Step:
        reward = self._reward(actions[:, 0])
        self._time += 1
        last = 2 if self.spec.env_id == _TWO_STEPS else 1
        terminated = (self._time >= last) & (self.spec.env_id != _ENDLESS)
        truncated = (self._time >= self.spec.max_episode_steps) & ~terminated
        final_obs = self._obs()
        self._begin(terminated | truncated)
        return Step(
            self._obs(), reward, terminated, truncated, final_obs, np.zeros_like(terminated)
        )

    def state(self) -> dict[str, NDArray[np.generic]]:
        held = {"num_begun": self._num_begun, "time": self._time, "sign": self._sign}
        return {name: array.copy() for name, array in held.items()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        self._num_begun, self._time = state["num_begun"].copy(), state["time"].copy()
        self._sign = state["sign"].copy()
        self._rngs = [np.random.default_rng(seed) for seed in self._seeds]
        for rng, count in zip(self._rngs, self._num_begun.tolist(), strict=True):
            for _ in range(count):
                rng.choice((-1.0, 1.0))
        return self._obs()

    def close(self) -> None:
        pass


envs.register_backend(
    "probe",
    ProbeVecEnv,
    [
        EnvSpec(f"{name}-v0", 1, 1, (-2.0,), (1.0,), max_episode_steps=4)
        for name in ("Constant", "Observation", "Delayed", "Action", "ActionTimes", "TimeLimit")
    ],
)
