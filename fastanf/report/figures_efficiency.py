"""Sample efficiency: the training steps that the seeds of each arm took to reach a return."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from fastanf.bootstrap import Estimate
from fastanf.picture import Style, long_number, rounded, short_number
from fastanf.report.arms import Arm, Key
from fastanf.report.dot_rows import Block, Cell, Column, Row, row_figure
from fastanf.report.drawing import (
    INTERVAL,
    STEPS,
    count_seeds,
    empty_figure,
    full_title,
    labels_of,
    sentence,
    shared_name,
    short_title,
)


@dataclass(frozen=True, eq=False)
class Reaching:
    """When the lanes of an arm first reached a return."""

    arm: Arm
    threshold: float
    steps: np.ndarray
    """[n] inf of a lane that has not reached it, nan of one of which it is not known."""
    estimate: Estimate
    """Over lanes; inf where the statistic is of lanes that have not reached it."""


def sample_efficiency(
    rows: Sequence[Reaching], looks: Mapping[Key, Style], statistic: str = "median"
) -> Figure:
    """Steps until a return was reached, a block a task and threshold.

    Args:
        rows: in the order in which they are shown.
        looks: of the report's arms.
        statistic: name of what was estimated.
    """
    if not any(np.isfinite(row.steps).any() for row in rows):
        return empty_figure("Steps to a return", "no arm has reached the returns that were asked")
    labels = labels_of([row.arm.key for row in rows])
    tasks = sorted({row.arm.panel for row in rows})
    blocks = []
    for task in tasks:
        for threshold in sorted({row.threshold for row in rows if row.arm.panel == task}):
            drawn = [
                Row(labels[row.arm.key], looks[row.arm.key], [_cell(row)])
                for row in rows
                if row.arm.panel == task and row.threshold == threshold
            ]
            reached = f"return {long_number(threshold)}"
            parts = [short_title(task, tasks), reached]
            blocks.append(Block(drawn, ", ".join(part for part in parts if part)))
    arms = [row.arm for row in rows]
    last = max(int(arm.steps[-1]) for arm in arms)
    caption = sentence(
        f"large: {statistic} over seeds",
        "small: single seeds that have reached it",
        f"bar: {INTERVAL}, to the last step where it has no end"
        if any(np.isfinite(row.estimate.low) for row in rows)
        else "",
        "right: seeds that have reached it",
        count_seeds(arms),
        f"at most {last:,} steps",
    )
    title = full_title(tasks, shared_name([arm.key for arm in arms]), "steps to a return")
    column = Column(STEPS, number=rounded, x_range=(0, 1.03 * last))
    return row_figure(blocks, [column], title, caption)


def _cell(row: Reaching) -> Cell:
    """The interval ends at the last step that was trained where it is not bounded."""
    known = row.steps[~np.isnan(row.steps)]
    reached = known[np.isfinite(known)]
    estimate, last = row.estimate, float(row.arm.steps[-1])
    value = estimate.value if np.isfinite(estimate.value) else np.nan
    high = min(estimate.high, last) if estimate.low <= last else np.nan
    low = estimate.low if np.isfinite(high) else np.nan
    count = f"{len(reached)} of {len(row.arm.lanes)}"
    note = f"{short_number(value)}  ({count})" if np.isfinite(value) else f"not yet  ({count})"
    return Cell(value, low, high, reached, note=note)
