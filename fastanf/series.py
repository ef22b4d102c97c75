"""Evaluations as series of lanes that differ only in their seed, and the interval of their mean.

Series have a name (policy, variant) and belong to a panel (env, noise fraction). Axes: n lanes of a
series, S evaluation steps, R bootstrap resamples. Intervals are 95% percentile bootstrap intervals
of the mean over lanes (Efron 1979); with few lanes they are narrower than they should be, so a
series with fewer than three has none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from fastanf.rows import EvaluationRow

NUM_RESAMPLES = 2000
BOOTSTRAP_SEED = 0
LEVEL = 0.95
MIN_LANES = 3
"""Fewest lanes that get an interval."""

Panel = tuple[str, float]
Name = tuple[str, str]


@dataclass(frozen=True)
class Series:
    """The evaluations of the lanes of one policy and variant in one environment.

    `returns` is [n, S], nan where a lane was not evaluated or its return was not finite.
    """

    name: Name
    lanes: tuple[int, ...]
    steps: np.ndarray
    returns: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """[S] mean over the lanes that have a return."""
        valid = np.isfinite(self.returns)
        total = np.where(valid, self.returns, 0).sum(axis=0)
        count = valid.sum(axis=0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def collect_series(evaluations: Iterable[EvaluationRow]) -> dict[Panel, list[Series]]:
    """Sorts evaluations into panels and series; of a lane's rows at one step the last counts."""
    panels: dict[Panel, dict[Name, dict[int, dict[int, float]]]] = {}
    for row in evaluations:
        names = panels.setdefault((row.env, row.noise_fraction), {})
        lanes = names.setdefault((row.policy, row.variant), {})
        lanes.setdefault(row.lane, {})[row.step] = row.return_mean
    return {
        panel: [_series(name, lanes) for name, lanes in names.items()]
        for panel, names in sorted(panels.items())
    }


def _series(name: Name, lanes: Mapping[int, Mapping[int, float]]) -> Series:
    steps = sorted({step for by_step in lanes.values() for step in by_step})
    returns = np.array(
        [[by_step.get(step, np.nan) for step in steps] for by_step in lanes.values()], dtype=float
    )
    returns[~np.isfinite(returns)] = np.nan
    return Series(name, tuple(lanes), np.array(steps), returns)


def bootstrap_interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95% percentile bootstrap interval of the mean over lanes, from a fixed seed.

    Args:
        values: [n, S]; nan is left out of its column's mean.

    Returns:
        low and high, [S] each; nan where fewer than `MIN_LANES` lanes have a value.
    """
    n, S = values.shape
    valid = np.isfinite(values)
    enough = valid.sum(axis=0) >= MIN_LANES
    low, high = np.full(S, np.nan), np.full(S, np.nan)
    if enough.any():
        rng = np.random.default_rng(BOOTSTRAP_SEED)
        drawn = rng.multinomial(n, np.full(n, 1 / n), size=NUM_RESAMPLES).astype(float)  # [R, n]
        count = drawn @ valid[:, enough]
        total = drawn @ np.where(valid, values, 0.0)[:, enough]
        means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        tail = (1 - LEVEL) / 2
        low[enough], high[enough] = np.nanquantile(means, [tail, 1 - tail], axis=0)
    return low, high


def shorten(text: str, width: int) -> str:
    """Keeps the end, which is where variants differ."""
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]
