"""The section on several tasks together: aggregates, profiles and who beats whom."""

from collections.abc import Mapping, Sequence

import numpy as np

from fastanf.bootstrap import Estimate, performance_profile
from fastanf.picture import Style
from fastanf.report.arms import Key, label_of
from fastanf.report.figures_in_page import Shelf
from fastanf.report.figures_summary import (
    Aggregates,
    Profile,
    aggregate_scores,
    improvement_probabilities,
    performance_profiles,
)
from fastanf.report.markup import Column, Markup, element, join, note, table, with_range
from fastanf.report.phrases import count, returns, share, share_range
from fastanf.report.task_scores import TaskScores, aggregates, improvements

NUM_THRESHOLDS = 81


def tasks_section(found: TaskScores, looks: Mapping[Key, Style], shelf: Shelf) -> Markup:
    """Aggregates of normalised returns, performance profiles, probabilities of improvement."""
    num_tasks = len(found.low)
    rows = aggregates(found)
    parts = [
        note(
            f"Returns of {count(num_tasks, 'task')} on one scale: 0 is the mean return at the "
            "first evaluation over dense lanes (over all lanes where none is dense), 1 the "
            "highest mean of an arm at the last step that all arms of the task have reached. "
            "Arms are compared at that step; the scale itself is taken as known, and made of the "
            "lanes that have these evaluations."
        ),
        _scale_table(found),
        *([note(f"Left out: {'; '.join(found.left_out)}.")] if found.left_out else []),
        element("h3", "Aggregates"),
        table(
            "Aggregates over tasks",
            [
                Column("arm"),
                *(Column(name, True) for name in ("runs", "IQM", "mean", "median", "gap to 1")),
            ],
            [
                [
                    label_of(row.key),
                    _runs(row.iqm),
                    *(
                        with_range(share(one.value), share_range(one.low, one.high))
                        for one in (row.iqm, row.mean, row.median, row.optimality_gap)
                    ),
                ]
                for row in rows
            ],
        ),
        note(
            "IQM: mean of the middle half of all runs; mean and median: over tasks, of the mean "
            "over their runs; gap to 1: what is missing to 1 in the mean, more than 1 counting as "
            "1. In brackets: 95% bootstrap intervals, resampled within each task." + _missing(rows)
        ),
        shelf.put(
            "aggregates",
            aggregate_scores(rows, looks, num_tasks),
            "Median, interquartile mean, mean and optimality gap of each arm over all tasks",
            "The same numbers as a picture.",
        ),
        element("h3", "Performance profiles"),
        _profiles(found, looks, shelf),
    ]
    pairs = improvements(found)
    if pairs:
        parts += [
            element("h3", "Probability of improvement over all tasks"),
            shelf.put(
                "improvement",
                improvement_probabilities(pairs, looks),
                f"How likely a run of {label_of(pairs[0].better)} ends above one of each other arm",
                "Share of all pairs of runs in which the best arm by IQM ends higher, averaged "
                "over tasks. The arm was chosen because it is best here.",
            ),
        ]
    return join(parts)


def _runs(found: Estimate) -> str:
    every = found.num_runs + found.num_left_out
    return f"{found.num_runs} of {every}" if found.num_left_out else str(every)


def _missing(rows: Sequence[Aggregates]) -> str:
    """What is not in the numbers of this section."""
    if not any(row.iqm.num_left_out for row in rows):
        return ""
    return (
        " k of n: the other runs have no final return at the step of comparison (stopped, or not "
        "so far yet); they are in no number and no picture of this section."
    )


def _scale_table(found: TaskScores) -> Markup:
    columns = [Column("task"), Column("0 is", True), Column("1 is", True), Column("at step", True)]
    return table(
        "Scale of each task",
        columns,
        [
            [task, returns(found.low[task]), returns(found.high[task]), f"{found.steps[task]:,}"]
            for task in found.low
        ],
    )


def _profiles(found: TaskScores, looks: Mapping[Key, Style], shelf: Shelf) -> Markup:
    every = np.concatenate([x for by_task in found.scores.values() for x in by_task.values()])
    finite = every[np.isfinite(every)]
    ends = min(0.0, float(finite.min())), max(1.0, float(finite.max()))
    taus = np.linspace(*ends, NUM_THRESHOLDS)
    profiles = [
        Profile(key, performance_profile(by_task, taus)) for key, by_task in found.scores.items()
    ]
    return shelf.put(
        "profiles",
        performance_profiles(profiles, taus, looks, len(found.low)),
        "Share of runs whose normalised final return is above a threshold, for each arm",
        "Share of runs whose normalised final return is above a threshold; higher is better. "
        "Every task counts the same.",
    )
