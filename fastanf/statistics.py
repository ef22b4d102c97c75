"""Statistics of runs: aggregates of scores over tasks, and learning curves as one number a run.

Aggregates follow Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical
Precipice", arXiv 2108.13264, section 4 (their library is rliable). Notation: x_{m,i} is the score
of run i of M tasks, task m having n_m runs. Aggregates take one array [..., n_m] a task, runs on
the last axis, other axes (resamples) carried along, so that one call serves a whole bootstrap;
curves are [n, S], n runs at S evaluation steps.

What is missing is nan. These functions leave no run out: an aggregate of a nan is nan, and a run
whose curve lacks what a summary needs has the summary nan. `fastanf.bootstrap` leaves such runs
out and counts them. An infinite score is a score (a threshold that was never reached).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

Tasks = Sequence[np.ndarray]
"""One array [..., n_m] a task, one run or more in each."""

TRIM = 4
"""The interquartile mean leaves out one in four runs at either end."""
FINAL_SHARE = 10
"""The final performance is that of one in ten evaluations, the last ones."""


def interquartile_mean(tasks: Tasks) -> np.ndarray:
    """IQM: the 25% trimmed mean of all N = sum_m n_m scores.

    IQM = mean of x_(c+1) .. x_(N-c) in sorted order, with c = floor(N / 4), as
    `scipy.stats.trim_mean` counts. The runs of all tasks are pooled: with unequal numbers of runs
    a task counts as often as it has runs. Source: Agarwal et al. 2021, section 4.3.

    Args:
        tasks: [..., n_m] each.

    Returns:
        [...] IQM; nan where a score is nan.

    Raises:
        ValueError: no task, or one without runs.
    """
    _check_tasks(tasks)
    pooled = np.sort(np.concatenate(tasks, axis=-1), axis=-1)  # nan comes last
    num_cut = pooled.shape[-1] // TRIM
    trimmed = pooled[..., num_cut : pooled.shape[-1] - num_cut].mean(axis=-1)
    return np.where(np.isnan(pooled[..., -1]), np.nan, trimmed)


def mean_of_tasks(tasks: Tasks) -> np.ndarray:
    """Mean over tasks of the mean over runs, (1/M) sum_m (1/n_m) sum_i x_{m,i}.

    Every task counts the same, whatever its number of runs.

    Args:
        tasks: [..., n_m] each.

    Returns:
        [...] mean.

    Raises:
        ValueError: no task, or one without runs.
    """
    return _task_means(tasks).mean(axis=-1)


def median_of_tasks(tasks: Tasks) -> np.ndarray:
    """Median over tasks of the mean over runs; with one task that is its mean.

    Args:
        tasks: [..., n_m] each.

    Returns:
        [...] median.

    Raises:
        ValueError: no task, or one without runs.
    """
    return np.median(_task_means(tasks), axis=-1)


def optimality_gap(tasks: Tasks, gamma: float = 1.0) -> np.ndarray:
    """What is missing to the score gamma: gamma - (1/M) sum_m (1/n_m) sum_i min(x_{m,i}, gamma).

    Source: Agarwal et al. 2021, section 4.3. Every task counts the same.

    Args:
        tasks: [..., n_m] each, normalised.
        gamma: the score beyond which more is no better.

    Returns:
        [...] gap, smaller is better.

    Raises:
        ValueError: no task, or one without runs.
    """
    return gamma - mean_of_tasks([np.minimum(scores, gamma) for scores in tasks])


def probability_of_improvement(x: Tasks, y: Tasks) -> float:
    """P(X > Y) = (1/M) sum_m U_m / (n_m k_m), the chance that a run of X beats one of Y on a task.

    U_m = sum_ij [x_{m,i} > y_{m,j}] + [x_{m,i} = y_{m,j}] / 2 (Mann and Whitney 1947). Source:
    Agarwal et al. 2021, section 4.3.

    Args:
        x: [n_m] each.
        y: [k_m] each, of the same tasks in the same order.

    Returns:
        Probability in [0, 1].

    Raises:
        ValueError: no task, one without runs, or not the same number of tasks.
    """
    _check_tasks(x)
    _check_tasks(y)
    if len(x) != len(y):
        raise ValueError(f"x and y must have the same tasks, got {len(x)} and {len(y)}")
    return float(np.mean([pairwise_wins(a, b).mean() for a, b in zip(x, y, strict=True)]))


def pairwise_wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[n, k] 1 where run i of `x` [n] beats run j of `y` [k], half where they tie, nan of a nan."""
    a, b = x[:, None], y[None, :]
    wins = (a > b) + 0.5 * (a == b)
    return np.where(np.isnan(a) | np.isnan(b), np.nan, wins)


def normalise(
    scores: Mapping[str, ArrayLike], low: Mapping[str, float], high: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """Scores on a scale common to all tasks, (score - low) / (high - low).

    Args:
        scores: by task, of any shape.
        low: by task, the score that becomes 0, such as the random policy's.
        high: by task, the score that becomes 1, such as a dense agent's.

    Returns:
        Normalised scores by task.

    Raises:
        ValueError: a task without `low` or `high`, or whose `high` is not above its `low`.
    """
    normalised = {}
    for task, values in scores.items():
        if task not in low or task not in high:
            raise ValueError(f"low and high must name every task, got none for {task!r}")
        span = high[task] - low[task]
        if not (np.isfinite(span) and span > 0):
            raise ValueError(
                f"high of {task} must be above its low, got {high[task]} and {low[task]}"
            )
        normalised[task] = (np.asarray(values, dtype=float) - low[task]) / span
    return normalised


def final_mean(returns: np.ndarray, num_evaluations: int | None = None) -> np.ndarray:
    """Final performance: the mean of a run's last evaluations.

    Args:
        returns: [n, S].
        num_evaluations: how many, in [1, S]; None for the last tenth, S // 10 and at least one.

    Returns:
        [n] mean; nan of a run that lacks one of these evaluations, for it has no end to report.

    Raises:
        ValueError: not so many evaluations.
    """
    S = returns.shape[1]
    num_last = max(1, S // FINAL_SHARE) if num_evaluations is None else num_evaluations
    if not 1 <= num_last <= S:
        raise ValueError(f"num_evaluations must be in [1, {S}], got {num_last}")
    return returns[:, -num_last:].mean(axis=1)


def common_span(steps: Sequence[np.ndarray]) -> tuple[float, float]:
    """The steps between which all of several grids have evaluations: (latest first, earliest last).

    Raises:
        ValueError: no grid, or grids that share no step.
    """
    if not len(steps) or any(len(grid) == 0 for grid in steps):
        raise ValueError("steps must have one grid or more, none of them empty")
    first, last = float(max(grid[0] for grid in steps)), float(min(grid[-1] for grid in steps))
    if first > last:
        raise ValueError(f"steps must overlap, got one grid from {first:g} and one to {last:g}")
    return first, last


def time_mean(
    steps: np.ndarray, returns: np.ndarray, span: tuple[float, float] | None = None
) -> np.ndarray:
    """Area under the learning curve over its width, 1/(b - a) * integral_a^b return(t) dt.

    The curve is linear between evaluations (trapezoids), so this is the mean return over time.
    Curves of unequal lengths are compared over `common_span` of their steps, no further.

    Args:
        steps: [S], increasing.
        returns: [n, S].
        span: (a, b) within the steps; None for all of them. Where a = b, the return there.

    Returns:
        [n] mean over time; nan of a run that lacks an evaluation it is made of.

    Raises:
        ValueError: steps that do not increase, or a span that is not within them.
    """
    _check_curves(steps, returns)
    first, last = (float(steps[0]), float(steps[-1])) if span is None else span
    if not steps[0] <= first <= last <= steps[-1]:
        raise ValueError(f"span must be in [{steps[0]}, {steps[-1]}], got {first:g} to {last:g}")
    if first == last:
        return _return_at(steps, returns, first)
    inside = (steps > first) & (steps < last)
    ends = [_return_at(steps, returns, step)[:, None] for step in (first, last)]
    values = np.concatenate([ends[0], returns[:, inside], ends[1]], axis=1)
    grid = np.concatenate([[first], steps[inside], [last]])
    return np.trapezoid(values, grid, axis=1) / (last - first)


def first_step_reaching(
    steps: np.ndarray, returns: np.ndarray, threshold: float, window: int = 1
) -> np.ndarray:
    """Sample efficiency: the first step at which the mean of `window` evaluations is high enough.

    The window is that evaluation and the ones before it; steps before the first full window do not
    count.

    Args:
        steps: [S], increasing.
        returns: [n, S].
        threshold: the mean return to reach.
        window: evaluations in a mean, in [1, S]; 1 does not smooth.

    Returns:
        [n] step; inf of a run that never reaches it; nan of a run whose curve has a gap before it
        does.

    Raises:
        ValueError: steps that do not increase, or a window that does not fit.
    """
    _check_curves(steps, returns)
    if not 1 <= window <= len(steps):
        raise ValueError(f"window must be in [1, {len(steps)}], got {window}")
    smooth = np.lib.stride_tricks.sliding_window_view(returns, window, axis=1).mean(axis=-1)
    is_unknown = np.isnan(smooth)
    decides = (smooth >= threshold) | is_unknown
    index = decides.argmax(axis=1)
    reached_at = steps[window - 1 :][index].astype(float)
    reached_at[is_unknown[np.arange(len(index)), index]] = np.nan
    return np.where(decides.any(axis=1), reached_at, np.inf)


def _task_means(tasks: Tasks) -> np.ndarray:
    """[..., M] mean over the runs of each task."""
    _check_tasks(tasks)
    return np.stack([scores.mean(axis=-1) for scores in tasks], axis=-1)


def _check_tasks(tasks: Tasks) -> None:
    if not len(tasks) or any(scores.shape[-1] == 0 for scores in tasks):
        raise ValueError("scores must have one task or more, with one run or more each")


def _check_curves(steps: np.ndarray, returns: np.ndarray) -> None:
    if steps.ndim != 1 or not len(steps) or not (np.diff(steps) > 0).all():
        raise ValueError("steps must be one or more, each above the one before")
    if returns.ndim != 2 or returns.shape[1] != len(steps):
        raise ValueError(f"returns must be [n, {len(steps)}] as the steps, got {returns.shape}")


def _return_at(steps: np.ndarray, returns: np.ndarray, step: float) -> np.ndarray:
    """[n] return at a step, linear between the evaluations around it."""
    after = int(np.searchsorted(steps, step))
    if steps[after] == step:
        return returns[:, after]
    share = (step - steps[after - 1]) / (steps[after] - steps[after - 1])
    return (1 - share) * returns[:, after - 1] + share * returns[:, after]
