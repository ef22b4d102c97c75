"""Extremely noisy environments: real features hidden among noise features.

An ENE with noise fraction f shows F = ceil(D / (1 - f)) features, of which D are real and F - D are
noise; in the permuted form, PENE, they change places (Grooten et al. 2023, arXiv 2302.06548).

Axes: N environment rows, D real features, F features with noise.

`NoiseSpec` and `num_features` describe an ENE for everyone. `NoisyVectorEnv` is one as a plain
gymnasium `VectorEnv` for any other trainer. fastanf itself trains on the D real features and draws
noise where it is used; nothing of it depends on `NoisyVectorEnv`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs import registry
from envs.interface import VecEnv

Distribution = Literal["gaussian", "empirical"]
Redraw = Literal["per_call", "per_step"]

# Streams of one seed, so that the world, the noise and the permutations are unrelated.
_WORLD, _NOISE, _PERMUTATION = range(3)


@dataclass(frozen=True)
class NoiseSpec:
    """How the noise features of an ENE are made.

    Raises:
        ValueError: a field outside its range.
    """

    fraction: float = 0.0
    """Share of the features that are noise, in [0, 1)."""
    std: float = 1.0
    """Standard deviation of Gaussian noise, above 0."""
    distribution: Distribution = "gaussian"
    """gaussian: N(0, std^2); empirical: noise feature i is distributed as real feature i mod D."""
    redraw: Redraw = "per_call"
    """per_call: a learner draws fresh noise whenever a network reads an observation; per_step: the
    noise seen at an environment step is the noise that is replayed."""
    permute_period: int = 0
    """All F features change places after every so many environment steps, at the first episode end
    after them; 0 is never."""
    permute_replay: bool = True
    """After a permutation a learner sees old transitions in the new order (as the published code
    does); false keeps them as they were observed."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.fraction < 1.0:
            raise ValueError(f"noise fraction is {self.fraction}; allowed are 0 up to, not with, 1")
        if not 0.0 < self.std < float("inf"):
            raise ValueError(f"noise std is {self.std}; allowed are finite numbers above 0")
        if self.distribution not in get_args(Distribution):
            raise ValueError(
                f"noise distribution is {self.distribution!r}; "
                f"allowed are {', '.join(get_args(Distribution))}"
            )
        if self.distribution == "empirical" and self.std != 1.0:
            raise ValueError(
                f"noise std is {self.std}; with the empirical distribution only 1 is allowed"
            )
        if self.redraw not in get_args(Redraw):
            raise ValueError(
                f"noise redraw is {self.redraw!r}; allowed are {', '.join(get_args(Redraw))}"
            )
        if self.permute_period < 0:
            raise ValueError(
                f"noise permute_period is {self.permute_period}; allowed are 0 (never) or more"
            )


def num_features(num_real: int, fraction: float) -> int:
    """Number of features of an ENE, F = ceil(D / (1 - f)), without rounding error.

    The fraction is taken as the decimal number that it prints as: 0.9 is nine tenths, so that 17
    real features give 170 and not 171.

    Args:
        num_real: D, at least 1.
        fraction: f in [0, 1).

    Raises:
        ValueError: `fraction` outside its range.
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"noise fraction is {fraction}; allowed are 0 up to, not with, 1")
    real_share = 1 - Fraction(repr(float(fraction)))
    return -(-num_real * real_share.denominator // real_share.numerator)


def row_seeds(seed: int, num_rows: int) -> list[int]:
    """Seeds in [0, 2**31) hashed from (seed, row), one a row; row k's is the same for every N."""
    return [
        int(_stream(seed, _WORLD, row).generate_state(1)[0]) % registry.SEED_LIMIT
        for row in range(num_rows)
    ]


class NoisyVectorEnv(VectorEnv[NDArray[np.float32], NDArray[np.float32], Any]):
    """N rows of an ENE as a gymnasium VectorEnv that resets in the same step.

    Features 0 to D - 1 are the real ones until the first permutation. Every observation, the final
    ones included, carries noise of its own, drawn from a generator keyed (seed, row): row k is the
    same whatever N is. The j-th permutation is keyed (seed, j) and thus common to all rows, which
    switch to it each at its own first episode end after `j * permute_period` of its own steps.

    `NoiseSpec.redraw` and `NoiseSpec.permute_replay` speak about a learner's replay. Here they
    change nothing: an environment draws the noise of an observation once, and what was observed
    stays with the trainer.

    Args:
        make_rows: builds the simulator from row seeds.
        num_envs: N.
        noise: the ENE.
        seed: everything random follows from it, until `reset(seed=...)` gives another.
        quantiles: [D, K] table of the task, where `noise` is empirical.

    Raises:
        ValueError: empirical noise without a table of D rows.
    """

    def __init__(
        self,
        make_rows: Callable[[Sequence[int]], VecEnv],
        num_envs: int,
        noise: NoiseSpec,
        seed: int = 0,
        quantiles: NDArray[np.float32] | None = None,
    ) -> None:
        self.noise = noise
        self.num_envs = num_envs
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}
        self._make_rows = make_rows
        self._build(seed)
        self.task = self._rows.spec
        D, F = self.task.num_features, num_features(self.task.num_features, noise.fraction)
        if noise.distribution == "empirical" and (quantiles is None or len(quantiles) != D):
            raise ValueError(f"empirical noise needs quantiles for the {D} features of the task")
        self._quantiles = quantiles
        self._num_features = F
        self._source = np.arange(F - D) % D
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (F,), np.float32)
        self.single_action_space = spaces.Box(
            np.array(self.task.action_low, np.float32),
            np.array(self.task.action_high, np.float32),
            dtype=np.float32,
        )
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    @property
    def real_positions(self) -> NDArray[np.int64]:
        """[N, D] where the real features are in the observation that was returned last."""
        D = self.task.num_features
        if not self.noise.permute_period:
            return np.broadcast_to(np.arange(D), (self.num_envs, D)).copy()
        return np.stack([np.argsort(self._order(int(j)))[:D] for j in self._num_switches])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode in every row; with a seed, everything starts anew from that seed.

        Raises:
            ValueError: options other than an empty dict; finished rows reset by themselves.
        """
        if options:
            raise ValueError(f"reset options are {sorted(options)}; none is allowed")
        super().reset(seed=seed)
        if seed is not None and not (seed == self._seed and self._is_fresh):
            self._rows.close()
            self._build(seed)
        self._is_fresh = False
        self._switch_orders(np.arange(self.num_envs))
        return self._observe(self._rows.reset(), np.arange(self.num_envs)), {}

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[
        NDArray[np.float32],
        NDArray[np.float64],
        NDArray[np.bool_],
        NDArray[np.bool_],
        dict[str, Any],
    ]:
        """Advance every row; infos hold final_obs and final_info of rows whose episode ended."""
        result = self._rows.step(np.asarray(actions, dtype=np.float32))
        self._num_steps += 1
        # gymnasium has no word for a simulation that broke down: its episode was cut.
        truncated = result.truncated | result.failed
        done = np.flatnonzero(result.terminated | truncated)
        infos: dict[str, Any] = {}
        if len(done):
            # Drawn before the noise of the next episode, and still in the order of the last one.
            final_obs = self._observe(result.final_obs[done], done)
            for row, final in zip(done.tolist(), final_obs, strict=True):
                self._add_info(infos, {"final_obs": final, "final_info": {}}, row)
            self._switch_orders(done)
        obs = self._observe(result.obs, np.arange(self.num_envs))
        reward = result.reward.astype(np.float64)
        return obs, reward, result.terminated, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Close the simulator."""
        self._rows.close()

    def _build(self, seed: int) -> None:
        self._seed = seed
        self._is_fresh = True
        self._rows = self._make_rows(row_seeds(seed, self.num_envs))
        self._generators = [
            np.random.Generator(np.random.PCG64(_stream(seed, _NOISE, row)))
            for row in range(self.num_envs)
        ]
        self._num_steps = 0
        self._num_switches = np.zeros(self.num_envs, dtype=np.int64)
        self._orders: dict[int, NDArray[np.int64]] = {}

    def _switch_orders(self, rows: NDArray[np.int64]) -> None:
        if self.noise.permute_period:
            self._num_switches[rows] = self._num_steps // self.noise.permute_period

    def _observe(self, real: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        D = self.task.num_features
        obs = np.empty((len(rows), self._num_features), dtype=np.float32)
        obs[:, :D] = real
        for i, row in enumerate(rows.tolist()):
            obs[i, D:] = self._draw(self._generators[row])
            if self._num_switches[row]:
                obs[i] = obs[i, self._order(int(self._num_switches[row]))]
        return obs

    def _draw(self, generator: np.random.Generator) -> NDArray[np.float32]:
        count = len(self._source)
        if self._quantiles is None or self.noise.distribution == "gaussian":
            normal = generator.standard_normal(count, dtype=np.float32)
            return normal * np.float32(self.noise.std)
        # Imported here because `python -m envs.empirical` imports this package first.
        from envs.empirical import sample

        uniforms = generator.random(count, dtype=np.float32)
        return sample(self._quantiles, uniforms, self._source)

    def _order(self, switch: int) -> NDArray[np.int64]:
        """[F] which feature stands at each place after the given switch; 0 is the first order."""
        if switch == 0:
            return np.arange(self._num_features)
        if switch not in self._orders:
            generator = np.random.Generator(
                np.random.PCG64(_stream(self._seed, _PERMUTATION, switch))
            )
            self._orders[switch] = generator.permutation(self._num_features)
        return self._orders[switch]


def make_ene(
    env_id: str = "HalfCheetah-v3",
    num_envs: int = 1,
    noise: NoiseSpec | float = 0.9,
    backend: str = "envpool",
    seed: int = 0,
    num_threads: int = 0,
    **task_options: Any,
) -> NoisyVectorEnv:
    """An extremely noisy environment as a gymnasium VectorEnv.

    Args:
        env_id: one of `envs.known_env_ids(backend)`.
        num_envs: N, at least 1.
        noise: the ENE, or just its noise fraction with N(0, 1) noise.
        backend: the simulator.
        seed: a whole number from 0 on.
        num_threads: simulation threads, 0 for all usable cores.
        **task_options: as `envs.make` takes them, for example `max_episode_steps`.

    Raises:
        ValueError: a value that is not allowed, or no empirical table for this task.
    """
    noise = noise if isinstance(noise, NoiseSpec) else NoiseSpec(fraction=noise)
    registry.validate(env_id, backend)
    if num_envs < 1:
        raise ValueError(f"num_envs is {num_envs}; allowed are 1 or more")
    if seed < 0:
        raise ValueError(f"seed is {seed}; allowed are 0 or more")
    quantiles = None
    if noise.distribution == "empirical":
        from envs.empirical import load_quantiles

        quantiles = load_quantiles(env_id)

    def make_rows(seeds: Sequence[int]) -> VecEnv:
        return registry.make(env_id, backend, seeds, num_threads, **task_options)

    return NoisyVectorEnv(make_rows, num_envs, noise, seed, quantiles)


def _stream(seed: int, stream: int, index: int) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(stream, index))
