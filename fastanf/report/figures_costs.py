"""What training costs: return against wall-clock time, pace, parameters and operations."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from fastanf.curve_lines import CurvePanel, Line
from fastanf.curve_panels import Scales, curve_figure
from fastanf.picture import Style, rounded, short_number
from fastanf.report.arms import Arm, Key, panels_of
from fastanf.report.bands import Band, mean_band
from fastanf.report.dot_rows import Block, Cell, Column, Row, row_figure
from fastanf.report.drawing import (
    count_seeds,
    empty_figure,
    full_title,
    labels_of,
    sentence,
    shared_name,
    short_title,
    steps_text,
)

UNITS = ((3 * 3600.0, 3600.0, "hours"), (3 * 60.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
"""From how many seconds on, seconds of the unit, its name."""


@dataclass(frozen=True, eq=False)
class TimedArm:
    """An arm and the time of its evaluations."""

    arm: Arm
    wall_s: np.ndarray
    """[n, S] seconds since the training of the lane's block began; nan where not evaluated."""


@dataclass(frozen=True, eq=False)
class Pace:
    """How fast an arm trained; nan where it is not known."""

    arm: Arm
    env_steps_per_s: float
    """Of one lane."""
    lane_updates_per_s: float
    """Of one lane."""


@dataclass(frozen=True)
class Sizes:
    """Counts of one lane of an arm, with its connections and with all of a dense network."""

    key: Key
    parameters_active: float
    parameters_dense: float
    flops_active: float
    """Operations of an update."""
    flops_dense: float


def wall_clock_curves(
    timed: Sequence[TimedArm],
    looks: Mapping[Key, Style],
    *,
    summarize: Callable[[np.ndarray], Band] = mean_band,
    statistic: str = "mean",
    conditions: str = "",
) -> Figure:
    """Return against the time that training has taken, a panel a task.

    Lanes of an arm are summarized at equal steps, which stand at the mean of the lanes' times.

    Args:
        timed: arms with their times.
        looks: of the report's arms.
        summarize: [n, S] returns -> what the thick line and its band show.
        statistic: its name.
        conditions: hardware, and how many lanes trained at once.
    """
    timed = [one for one in timed if np.isfinite(one.wall_s).any()]
    if not timed:
        return empty_figure("Return against wall-clock time", "no evaluation yet")
    longest = max(float(np.nanmax(one.wall_s)) for one in timed)
    unit, name = next((unit, name) for least, unit, name in UNITS if longest >= least)
    arms = [one.arm for one in timed]
    times = {one.arm: one.wall_s / unit for one in timed}
    panels = panels_of(arms)
    labels = labels_of([arm.key for arm in arms])
    drawn = [
        CurvePanel(
            [_line(arm, times[arm], labels[arm.key], looks[arm.key], summarize) for arm in members],
            title=short_title(panel, panels),
            group=panel[0],
        )
        for panel, members in panels.items()
    ]
    has_band = any(np.isfinite(line.low).any() for panel in drawn for line in panel.lines)
    caption = sentence(
        f"thick: {statistic} over seeds" if any(len(arm.lanes) > 1 for arm in arms) else "",
        "thin: single seeds" if any(panel.has_singles for panel in drawn) else "",
        f"band: 95% bootstrap interval of the {statistic}" if has_band else "",
        count_seeds(arms),
        steps_text(arms),
        "time of all lanes that trained together, evaluations and saving included",
        conditions,
    )
    scales = Scales(f"wall-clock time, {name}", "return of deterministic episodes")
    title = full_title(panels, shared_name(list(labels)), "return against wall-clock time")
    return curve_figure(drawn, title, caption, scales)


def _line(
    arm: Arm,
    times: np.ndarray,
    label: tuple[str, ...],
    style: Style,
    summarize: Callable[[np.ndarray], Band],
) -> Line:
    known = np.isfinite(times)
    count = known.sum(axis=0)
    mean = np.where(known, times, 0).sum(axis=0) / np.maximum(count, 1)
    at = count > 0
    band = summarize(arm.returns[:, at])
    singles = [
        (lane_times[lane_known], lane[lane_known])
        for lane, lane_times, lane_known in zip(arm.returns, times, known, strict=True)
    ]
    return Line(label, style, mean[at], *band, singles if len(singles) > 1 else [])


def throughput(paces: Sequence[Pace], looks: Mapping[Key, Style], conditions: str = "") -> Figure:
    """Environment steps and updates a second of one lane of each arm.

    Args:
        paces: one an arm.
        looks: of the report's arms.
        conditions: hardware, and how many lanes trained at once.
    """
    if not any(np.isfinite([one.env_steps_per_s, one.lane_updates_per_s]).any() for one in paces):
        return empty_figure("Pace of training", "not recorded yet")
    labels = labels_of([one.arm.key for one in paces])
    tasks = sorted({one.arm.panel for one in paces})
    blocks = [
        Block(
            [
                Row(
                    labels[one.arm.key],
                    looks[one.arm.key],
                    [Cell(one.env_steps_per_s), Cell(one.lane_updates_per_s)],
                )
                for one in paces
                if one.arm.panel == task
            ],
            short_title(task, tasks),
        )
        for task in tasks
    ]
    columns = [
        Column("environment steps/s of a lane", number=rounded, is_bars=True),
        Column("updates/s of a lane", number=rounded, is_bars=True),
    ]
    title = full_title(tasks, shared_name([one.arm.key for one in paces]), "pace of training")
    return row_figure(blocks, columns, title, sentence("measured while training", conditions))


def parameters_and_flops(sizes: Sequence[Sizes], looks: Mapping[Key, Style], task: str) -> Figure:
    """Parameters and operations of an update, beside those of a dense network.

    Args:
        sizes: one an arm.
        looks: of the report's arms.
        task: for which they were counted.
    """
    if not sizes:
        return empty_figure("Parameters and operations", "no arm whose settings are known")
    labels = labels_of([one.key for one in sizes])
    rows = [
        Row(
            labels[one.key],
            looks[one.key],
            [
                _share_cell(one.parameters_active, one.parameters_dense),
                _share_cell(one.flops_active, one.flops_dense),
            ],
        )
        for one in sizes
    ]
    columns = [
        Column("parameters", is_bars=True),
        Column("operations of an update", is_bars=True),
    ]
    caption = sentence(
        "filled: active connections; outline: all connections of the dense network",
        "parameters of the actor and both critics, biases included, targets not",
        "operations of one minibatch of one lane",
    )
    return row_figure([Block(rows)], columns, f"{task}: parameters and operations", caption)


def _share_cell(active: float, dense: float) -> Cell:
    note = _three_digits(active)
    if active != dense:
        note += f"  ({100 * active / dense:.3g}% of {_three_digits(dense)})"
    return Cell(active, hollow=dense, note=note)


def _three_digits(value: float) -> str:
    return short_number(float(f"{value:.3g}"))
