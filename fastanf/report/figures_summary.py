"""Statistics over runs and tasks: profiles, aggregates and probabilities of improvement.

The numbers come from `fastanf.bootstrap`; aggregates, profiles and probabilities of improvement are
those of Agarwal et al. 2021, arXiv 2108.13264.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from fastanf.bootstrap import Band, Estimate
from fastanf.curve_lines import CurvePanel, Line
from fastanf.curve_panels import Scales, curve_figure
from fastanf.curves import panel_title
from fastanf.picture import Style, rounded
from fastanf.report.arms import Key, Panel, label_of
from fastanf.report.dot_rows import Block, Column, Row, estimate_cell, row_figure
from fastanf.report.drawing import (
    INTERVAL,
    count_range,
    empty_figure,
    labels_of,
    sentence,
    shared_name,
)


@dataclass(frozen=True, eq=False)
class Profile:
    """The share of an arm's runs above each threshold, over all tasks."""

    key: Key
    band: Band
    """[P]"""


@dataclass(frozen=True)
class Aggregates:
    """An arm over all tasks, in normalised returns."""

    key: Key
    median: Estimate
    iqm: Estimate
    mean: Estimate
    optimality_gap: Estimate


@dataclass(frozen=True)
class Improvement:
    """How likely a run of one arm beats one of another."""

    better: Key
    worse: Key
    estimate: Estimate
    panel: Panel | None = None
    """The task; None over all tasks."""


def performance_profiles(
    profiles: Sequence[Profile],
    taus: np.ndarray,
    looks: Mapping[Key, Style],
    num_tasks: int,
    normalised: str = "normalised return",
) -> Figure:
    """Share of runs whose return is above a threshold, for all thresholds.

    Args:
        profiles: one an arm.
        taus: [P] thresholds, ascending.
        looks: of the report's arms.
        num_tasks: over which the runs are pooled.
        normalised: what a threshold is a return of, with its unit or scale.
    """
    if not any(np.isfinite(one.band.value).any() for one in profiles):
        return empty_figure("Performance profiles", "no finite return yet")
    labels = labels_of([one.key for one in profiles])
    lines = [
        Line(labels[one.key], looks[one.key], taus, one.band.value, one.band.low, one.band.high)
        for one in profiles
    ]
    counts = [int(one.band.num_runs.max(initial=0)) for one in profiles]
    caption = sentence(
        f"band: {INTERVAL} at each threshold"
        if any(np.isfinite(one.band.low).any() for one in profiles)
        else "",
        count_range(counts, "run") + " an arm",
        count_range([num_tasks], "task"),
    )
    scales = Scales(
        f"{normalised} above which a run ends",
        "share of runs",
        y_number=lambda share: f"{100 * share:.4g}%",
        x_range=(float(taus[0]), float(taus[-1])),
        y_range=(0, 1.02),
        has_key=True,
    )
    title = _title([one.key for one in profiles], "performance profiles")
    return curve_figure([CurvePanel(lines)], title, caption, scales)


def _title(keys: Sequence[Key], what: str) -> str:
    name = shared_name(keys)
    return f"{name}: {what}" if name else what[:1].upper() + what[1:]


def aggregate_scores(
    rows: Sequence[Aggregates],
    looks: Mapping[Key, Style],
    num_tasks: int,
    normalised: str = "normalised return",
) -> Figure:
    """Median, interquartile mean, mean and optimality gap of each arm over all tasks."""
    if not any(np.isfinite(row.mean.value) for row in rows):
        return empty_figure("Aggregates over tasks", "no finite return yet")
    labels = labels_of([row.key for row in rows])
    names = ("median", "IQM", "mean", "optimality gap")
    drawn = [
        Row(
            labels[row.key],
            looks[row.key],
            [
                estimate_cell(one, is_narrow=True)
                for one in (row.median, row.iqm, row.mean, row.optimality_gap)
            ],
        )
        for row in rows
    ]
    caption = sentence(
        f"{normalised}; less is better for the optimality gap, more for the others",
        f"bar: {INTERVAL}, stratified over tasks",
        count_range([row.mean.num_runs for row in rows], "run") + " an arm",
        count_range([num_tasks], "task"),
    )
    columns = [Column(name, number=rounded) for name in names]
    title = _title([row.key for row in rows], "aggregates over tasks")
    return row_figure([Block(drawn)], columns, title, caption)


def improvement_probabilities(pairs: Sequence[Improvement], looks: Mapping[Key, Style]) -> Figure:
    """How likely a run of the first arm of a pair ends above one of the second."""
    pairs = [pair for pair in pairs if np.isfinite(pair.estimate.value)]
    if not pairs:
        return empty_figure("Probability of improvement", "no two arms with finite returns")
    tasks = list(dict.fromkeys(pair.panel for pair in pairs))
    blocks = []
    for task in tasks:
        rows = [
            Row(
                (label_of(pair.better), f"over {label_of(pair.worse)}"),
                looks[pair.better],
                [estimate_cell(pair.estimate)],
            )
            for pair in pairs
            if pair.panel == task
        ]
        blocks.append(Block(rows, panel_title(task) if task and len(tasks) > 1 else ""))
    caption = sentence(
        "share of all pairs of seeds in which the first ends higher; dashed: no difference",
        f"bar: {INTERVAL}" if any(np.isfinite(pair.estimate.low) for pair in pairs) else "",
    )
    only = tasks[0] if len(tasks) == 1 else None
    title = f"{panel_title(only)}: p" if only else "P"
    column = Column(
        "probability of improvement",
        number=lambda p: f"{p:.2f}",
        tick=lambda p: f"{p:.4g}",
        x_range=(-0.02, 1.02),
        level=0.5,
    )
    return row_figure(blocks, [column], f"{title}robability of improvement", caption)
