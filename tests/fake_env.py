"""A tiny simulator with known episodes, for tests that need environments but no physics.

Axes: N rows, D = 3 features, A = 2 actions. Episode k of a row lasts 2 to 7 steps, by the row's
seed and k; one that would outlast the limit of 6 is truncated, any other terminates. Everything of
a row follows from its seed and its own actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from envs import registry
from envs.interface import EnvSpec, Step

SPEC = EnvSpec(
    env_id="Fake-v0",
    num_features=3,
    num_actions=2,
    action_low=(-2.0, -0.5),
    action_high=(1.0, 3.0),
    max_episode_steps=6,
)
ROWS_ENV_ID, WHOLE_ENV_ID = "Fake-v0", "FakeWhole-v0"


def episode_length(seed: int, episode: int, limit: int = SPEC.max_episode_steps) -> int:
    """Steps of one episode, and the limit where that is shorter."""
    return min(2 + (7 * seed + 5 * episode) % 6, limit)


class WholeEnv:
    """Steps all rows together; keeps every array of actions that it was given."""

    phase_shift = 0.0
    """Of what it observes: that of another value is as a simulator of another version."""

    def __init__(self, spec: EnvSpec, seeds: Sequence[int], num_threads: int = 1, **_: Any):
        self.spec, self.num_rows = spec, len(seeds)
        self.seeds = np.array(seeds, dtype=np.int64)
        self.episode = np.full(self.num_rows, -1)
        self.time = np.zeros(self.num_rows, dtype=np.int64)
        self.num_steps = np.zeros(self.num_rows, dtype=np.int64)
        self.actions: list[NDArray[np.float32]] = []
        self.fails_at: dict[int, set[int]] = {}  # row -> numbers of its steps that break down

    def _obs(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        seed, episode, time = self.seeds[rows], self.episode[rows], self.time[rows]
        phase = (seed % 1000) + 0.7 * episode + self.phase_shift
        obs = np.stack([np.sin(phase + time), np.cos(phase), time / 10 - 0.3], 1)
        return obs.astype(np.float32)

    def reset(self) -> NDArray[np.float32]:
        self.episode += 1
        self.time[:] = 0
        return self._obs(np.arange(self.num_rows))

    def step(self, actions: NDArray[np.float32]) -> Step:
        return self._advance(actions, np.arange(self.num_rows))

    def _advance(self, actions: NDArray[np.float32], rows: NDArray[Any]) -> Step:
        assert actions.shape == (len(rows), self.spec.num_actions)
        self.actions.append(actions.copy())
        reward = (self._obs(rows)[:, 0] - 0.1 * np.square(actions).sum(1)).astype(np.float32)
        self.time[rows] += 1
        self.num_steps[rows] += 1
        final_obs = self._obs(rows)
        limit = self.spec.max_episode_steps
        lasts = [
            2 + (7 * int(seed) + 5 * int(episode)) % 6
            for seed, episode in zip(self.seeds[rows], self.episode[rows], strict=True)
        ]
        terminated = self.time[rows] >= np.array(lasts)
        truncated = (self.time[rows] >= limit) & ~terminated
        failed = np.array(
            [int(self.num_steps[row]) in self.fails_at.get(int(row), ()) for row in rows], bool
        )
        terminated, truncated = terminated & ~failed, truncated & ~failed
        ended = rows[terminated | truncated | failed]
        self.episode[ended] += 1
        self.time[ended] = 0
        obs = self._obs(rows)
        reward[failed], final_obs[failed] = 0, obs[failed]
        return Step(obs, reward, terminated, truncated, final_obs, failed)

    def state(self) -> dict[str, NDArray[np.generic]]:
        if self.episode[0] < 0:
            return {}
        held = {"episode": self.episode, "time": self.time, "num_steps": self.num_steps}
        return {name: array.copy() for name, array in held.items()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        for name in ("episode", "time", "num_steps"):
            if name not in state or state[name].shape != (self.num_rows,):
                raise ValueError(f"simulator state {name!r} is not of {self.num_rows} rows")
            setattr(self, name, state[name].copy())
        return self._obs(np.arange(self.num_rows))

    def close(self) -> None:
        self.num_rows = 0


class RowsEnv(WholeEnv):
    """The same, and can step some rows alone."""

    def step_rows(self, actions: NDArray[np.float32], rows: NDArray[np.int32]) -> Step:
        return self._advance(actions, rows)


def _make(spec: EnvSpec, seeds: Sequence[int], num_threads: int, **options: Any) -> WholeEnv:
    kind = RowsEnv if spec.env_id == ROWS_ENV_ID else WholeEnv
    return kind(spec, seeds, num_threads, **options)


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offer both tasks as backend `fake` until the test ends."""
    monkeypatch.setattr(registry, "_BACKENDS", dict(registry._BACKENDS))
    whole = EnvSpec(**{**SPEC.__dict__, "env_id": WHOLE_ENV_ID})
    registry.register_backend("fake", _make, [SPEC, whole])
