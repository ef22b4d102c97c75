"""Final returns of several tasks on one scale, so that arms can be compared over all of them.

Per task (environment and noise fraction) a return x becomes (x - low) / (high - low):

    low    mean return at the first evaluation over the lanes of dense arms, of all arms where none
           is dense: little training stands in for none, as no record has a random policy's return
    high   the highest mean of an arm at the last step that all arms of the task have reached

All arms are compared at that step. Scales are taken as known: intervals do not hold their error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fastanf.bootstrap import Estimate, estimate, estimate_improvement
from fastanf.config import has_sparsity
from fastanf.curves import panel_title
from fastanf.report.answers import Final, scores_at
from fastanf.report.arms import Key, Panel, label_of
from fastanf.report.figures_summary import Aggregates, Improvement
from fastanf.statistics import (
    interquartile_mean,
    mean_of_tasks,
    median_of_tasks,
    normalise,
    optimality_gap,
)


@dataclass(frozen=True, eq=False)
class TaskScores:
    """Normalised final returns of the arms that were trained on every task."""

    low: Mapping[str, float]
    """By task, as `panel_title` names it."""
    high: Mapping[str, float]
    steps: Mapping[str, int]
    """At which the arms are compared."""
    scores: Mapping[Key, Mapping[str, np.ndarray]]
    """By arm and task: [n] normalised, nan where a lane has none. The best arm by IQM first."""
    left_out: tuple[str, ...]
    """Arms and tasks that are not here, and why."""


def task_scores(panels: Mapping[Panel, Sequence[Final]]) -> TaskScores | None:
    """Scores over all tasks; None with fewer than two environments, or no arm on every task."""
    scales = {panel: _scale(finals) for panel, finals in panels.items()}
    usable = {panel: finals for panel, finals in panels.items() if _is_scale(*scales[panel][:2])}
    if len({env for env, _ in usable}) < 2:
        return None
    names = {panel: panel_title(panel) for panel in usable}
    keys = [{final.record.arm.key for final in finals} for finals in usable.values()]
    everywhere, anywhere = set.intersection(*keys), set.union(*keys)
    if not everywhere:
        return None
    low = {names[panel]: scales[panel][0] for panel in usable}
    high = {names[panel]: scales[panel][1] for panel in usable}
    raw: dict[Key, dict[str, np.ndarray]] = {key: {} for key in everywhere}
    for panel, finals in usable.items():
        for final in finals:
            if final.record.arm.key in everywhere:
                scores = scores_at(final.record.arm, scales[panel][2])
                raw[final.record.arm.key][names[panel]] = scores
    scores = {key: normalise(by_task, low, high) for key, by_task in raw.items()}
    left_out = [f"{label_of(key)} was not trained on every task" for key in anywhere - everywhere]
    left_out += [
        f"{panel_title(panel)}: no arm ends above its beginning"
        for panel in panels
        if panel not in usable
    ]
    return TaskScores(
        low,
        high,
        {names[panel]: scales[panel][2] for panel in usable},
        dict(sorted(scores.items(), key=lambda item: (-_iqm(item[1]), item[0]))),
        tuple(sorted(left_out)),
    )


def aggregates(found: TaskScores) -> list[Aggregates]:
    """Four statistics of each arm over all tasks, with intervals stratified over tasks."""
    statistics = (median_of_tasks, interquartile_mean, mean_of_tasks, optimality_gap)
    return [
        Aggregates(key, *(estimate(by_task, statistic) for statistic in statistics))
        for key, by_task in found.scores.items()
    ]


def improvements(found: TaskScores) -> list[Improvement]:
    """The best arm by IQM against each other one, averaged over tasks."""
    (best, scores), *others = found.scores.items()
    return [
        Improvement(best, key, estimate_improvement(scores, by_task)) for key, by_task in others
    ]


def _iqm(by_task: Mapping[str, np.ndarray]) -> float:
    found: Estimate = estimate(by_task, interquartile_mean)
    return found.value if np.isfinite(found.value) else -np.inf


def _is_scale(low: float, high: float) -> bool:
    return bool(np.isfinite([low, high]).all() and high > low)


def _scale(finals: Sequence[Final]) -> tuple[float, float, int]:
    """Low, high, and the last step that all arms have reached."""
    arms = [final.record.arm for final in finals]
    configs = [final.record.lanes[0].config for final in finals]
    is_dense = [config is not None and not has_sparsity(config) for config in configs]
    dense = [arm for arm, dense in zip(arms, is_dense, strict=True) if dense] or arms
    step = int(min(arm.steps[-1] for arm in arms))
    means = [estimate(scores_at(arm, step), mean_of_tasks).value for arm in arms]
    first = np.concatenate([arm.returns[:, 0] for arm in dense])
    low = estimate(first, mean_of_tasks).value
    return low, max((mean for mean in means if np.isfinite(mean)), default=np.nan), step
