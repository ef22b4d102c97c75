"""Intervals of statistics over runs: the stratified bootstrap, and bands of curves and profiles.

A resample draws, within each task, as many runs as the task has, with replacement; the interval is
from the 2.5% to the 97.5% percentile of the statistic over the resamples. Source: Agarwal et al.
2021, arXiv 2108.13264, section 4.1; Efron 1979. It speaks of other seeds on the same tasks, not of
other tasks. With few runs it is too narrow: of a mean over 10 runs of one task it covers 90%, not
95% (t_9 within 1.96 sqrt(9/10)).

What is left out, and said:
* a nan is a run without that number (a lane that was quarantined, or that trained less far). It is
  left out and counted in `num_left_out`; the other runs give what they would have given without it;
* tasks may have different numbers of runs; with a task that has none, the statistic is nan;
* with fewer than `MIN_LANES` runs in some task there is a value but no interval (nan);
* curves of different lengths are aggregated step by step over the runs that have the step.

The order of runs does not matter, to the bit: they are sorted before indices are drawn. The seed is
fixed, so that the same records give the same report.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from fastanf.series import BOOTSTRAP_SEED, LEVEL, MIN_LANES, NUM_RESAMPLES
from fastanf.statistics import (
    Tasks,
    interquartile_mean,
    mean_of_tasks,
    pairwise_wins,
    probability_of_improvement,
)

Scores = Mapping[str, ArrayLike] | Sequence[ArrayLike] | np.ndarray
"""The runs of each task: a mapping or a sequence of [n_m], one a task; or one numpy array, [n] for
a single task or [n, M] with a column a task. Curves have an axis S of steps after these."""
Statistic = Callable[[Tasks], np.ndarray]
"""From one [..., n_m] a task to [...]; any of `fastanf.statistics` that takes tasks."""


@dataclass(frozen=True)
class Estimate:
    """A statistic of runs with its 95% interval; nan where there is none."""

    value: float
    low: float
    high: float
    num_runs: int
    """Runs that it is made of, of all tasks (and of both sides of a comparison)."""
    num_left_out: int
    """Runs that were given but are nan."""


@dataclass(frozen=True)
class Band:
    """Estimates at P points, the steps of a curve or the thresholds of a profile; all are [P].

    The intervals are pointwise: each holds for its point, not for the whole curve.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    num_runs: np.ndarray
    num_left_out: np.ndarray

    @classmethod
    def of(cls, estimates: Iterable[Estimate]) -> "Band":
        """Puts the estimates of the points side by side."""
        points = list(estimates)
        return cls(
            np.array([point.value for point in points], dtype=float),
            np.array([point.low for point in points], dtype=float),
            np.array([point.high for point in points], dtype=float),
            np.array([point.num_runs for point in points], dtype=int),
            np.array([point.num_left_out for point in points], dtype=int),
        )


def estimate(
    scores: Scores,
    statistic: Statistic = interquartile_mean,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> Estimate:
    """A statistic of the scores with its stratified bootstrap interval.

    Args:
        scores: [n_m] a task; nan is left out.
        statistic: an aggregate over tasks.
        num_resamples: how many resamples the percentiles are taken of.
        seed: of the resampling.

    Raises:
        ValueError: scores of another shape, or no task.
    """
    kept, num_left_out = _keep(_per_task(scores, ndim=1))
    num_runs = sum(map(len, kept))
    if min(map(len, kept)) == 0:
        return Estimate(np.nan, np.nan, np.nan, num_runs, num_left_out)
    low = high = np.nan
    if min(map(len, kept)) >= MIN_LANES:
        drawn = _draw(tuple(map(len, kept)), num_resamples, seed)
        low, high = _percentiles(statistic([x[i] for x, i in zip(kept, drawn, strict=True)]))
    return Estimate(float(statistic(kept)), low, high, num_runs, num_left_out)


def estimate_improvement(
    x: Scores,
    y: Scores,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> Estimate:
    """P(X > Y), averaged over tasks, with an interval; both sides are resampled, independently.

    Args:
        x: [n_m] a task; nan is left out.
        y: [k_m] a task, of the same tasks.
        num_resamples: how many resamples the percentiles are taken of.
        seed: of the resampling.

    Raises:
        ValueError: scores of another shape, no task, or not the same tasks.
    """
    if isinstance(x, Mapping) and isinstance(y, Mapping) and set(x) == set(y):
        y = {task: y[task] for task in x}
    elif isinstance(x, Mapping) or isinstance(y, Mapping):
        names = [[*tasks] if isinstance(tasks, Mapping) else "no names" for tasks in (x, y)]
        raise ValueError(f"x and y must have the same tasks, got {names[0]} and {names[1]}")
    (kept_x, left_out_x), (kept_y, left_out_y) = (_keep(_per_task(s, ndim=1)) for s in (x, y))
    sizes = tuple(map(len, (*kept_x, *kept_y)))
    if min(sizes) == 0:
        return Estimate(np.nan, np.nan, np.nan, sum(sizes), left_out_x + left_out_y)
    value = probability_of_improvement(kept_x, kept_y)
    low = high = np.nan
    if min(sizes) >= MIN_LANES:
        drawn = [_shares(indices) for indices in _draw(sizes, num_resamples, seed)]
        M = len(kept_x)
        # A resample's mean over all pairs is p^T W q, with the shares p, q in which runs are drawn.
        resampled = [
            ((p @ pairwise_wins(a, b)) * q).sum(axis=1)
            for a, b, p, q in zip(kept_x, kept_y, drawn[:M], drawn[M:], strict=True)
        ]
        low, high = _percentiles(np.mean(resampled, axis=0))
    return Estimate(value, low, high, sum(sizes), left_out_x + left_out_y)


def performance_profile(
    scores: Scores,
    taus: ArrayLike,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> Band:
    """Run-score distribution: F(tau) = (1/M) sum_m (1/n_m) sum_i [x_{m,i} > tau].

    Source: Agarwal et al. 2021, section 4.2. Every task counts the same.

    Args:
        scores: [n_m] a task, normalised; nan is left out.
        taus: [P] thresholds.
        num_resamples: how many resamples the percentiles are taken of.
        seed: of the resampling.

    Returns:
        The fraction of runs above each threshold, with intervals.

    Raises:
        ValueError: scores of another shape, or no task.
    """
    tasks = _per_task(scores, ndim=1)
    # Runs are in the same order at every threshold, so all see the same resamples and the band
    # falls with tau as the profile does.
    return Band.of(
        estimate(
            [np.where(np.isnan(x), np.nan, x > tau) for x in tasks],
            mean_of_tasks,
            num_resamples,
            seed,
        )
        for tau in np.asarray(taus, dtype=float)
    )


def learning_curve(
    curves: Scores,
    statistic: Statistic = interquartile_mean,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> Band:
    """A statistic of the runs at every step, with its stratified bootstrap band.

    Args:
        curves: [n_m, S] a task, all at the same S steps; a numpy array is [n, S] or [n, M, S]. A
            nan is left out of its step.
        statistic: an aggregate over tasks.
        num_resamples: how many resamples the percentiles are taken of.
        seed: of the resampling.

    Raises:
        ValueError: curves of another shape, or of different numbers of steps.
    """
    tasks = _per_task(curves, ndim=2)
    lengths = {x.shape[1] for x in tasks}
    if len(lengths) > 1:
        raise ValueError(f"curves must have the same steps in every task, got {sorted(lengths)}")
    return Band.of(
        estimate([x[:, step] for x in tasks], statistic, num_resamples, seed)
        for step in range(lengths.pop())
    )


def _per_task(scores: Scores, ndim: int) -> list[np.ndarray]:
    """One float array of `ndim` axes a task, runs first."""
    if isinstance(scores, np.ndarray):
        parts = list(np.moveaxis(scores, 1, 0)) if scores.ndim == ndim + 1 else [scores]
    else:
        parts = list(scores.values() if isinstance(scores, Mapping) else scores)
    tasks = [np.asarray(part, dtype=float) for part in parts]
    shapes = [task.shape for task in tasks]
    if not tasks or any(len(shape) != ndim for shape in shapes):
        axes = ("[n]", "[n, S]")[ndim - 1]
        raise ValueError(f"scores must be one array {axes} a task, got shapes {shapes}")
    return tasks


def _keep(tasks: Iterable[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """The runs that have a score, sorted within each task, and how many have none."""
    tasks = list(tasks)
    kept = [np.sort(x[~np.isnan(x)]) for x in tasks]
    return kept, sum(map(len, tasks)) - sum(map(len, kept))


@lru_cache(maxsize=4)
def _draw(sizes: tuple[int, ...], num_resamples: int, seed: int) -> tuple[np.ndarray, ...]:
    """[R, n_m] indices of runs for each task; the points of a curve mostly share them."""
    rng = np.random.default_rng(seed)
    drawn = tuple(rng.integers(n, size=(num_resamples, n)) for n in sizes)
    for indices in drawn:
        indices.setflags(write=False)
    return drawn


def _shares(indices: np.ndarray) -> np.ndarray:
    """[R, n] share of each of n runs in each of R resamples of n indices."""
    R, n = indices.shape
    flat = (indices + n * np.arange(R)[:, None]).ravel()
    return np.bincount(flat, minlength=R * n).reshape(R, n) / n


def _percentiles(resampled: np.ndarray) -> tuple[float, float]:
    """The interval of `LEVEL`, ends outward to the next resample (between infinities lies none)."""
    tail = (1 - LEVEL) / 2
    low = np.quantile(resampled, tail, method="lower")
    return float(low), float(np.quantile(resampled, 1 - tail, method="higher"))
