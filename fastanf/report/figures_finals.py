"""Final return of each arm: in rows, or against the noise fraction where there are several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure

from fastanf.bootstrap import Estimate
from fastanf.curve_lines import CurvePanel, Line, Points
from fastanf.curve_panels import Scales, curve_figure
from fastanf.picture import Style, long_number
from fastanf.report.arms import Arm, Key
from fastanf.report.dot_rows import Block, Column, Row, estimate_cell, row_figure
from fastanf.report.drawing import (
    INTERVAL,
    count_range,
    empty_figure,
    full_title,
    labels_of,
    sentence,
    shared_name,
    short_title,
)

SPREAD = 0.5
"""Room that the arms of one noise fraction take, of the distance to the next one."""


@dataclass(frozen=True, eq=False)
class FinalReturn:
    """The end of one arm."""

    arm: Arm
    estimate: Estimate
    seeds: np.ndarray = field(default_factory=lambda: np.empty(0))
    """[n] of its lanes; nan where a lane has none."""
    published: float = float("nan")


def final_returns(
    finals: Sequence[FinalReturn],
    looks: Mapping[Key, Style],
    statistic: str = "mean",
    source: str = "",
) -> Figure:
    """Final return of each arm: against the noise fraction where there are several, else in rows.

    Args:
        finals: of one or several tasks; rows stand in this order.
        looks: of the report's arms.
        statistic: name of what was estimated.
        source: of the published values, if there are any.
    """
    finals = [one for one in finals if np.isfinite(one.estimate.value)]
    if not finals:
        return empty_figure("Final return", "no finite return yet")
    fractions = {one.arm.noise_fraction for one in finals}
    envs = {one.arm.env for one in finals}
    has_trend = any(
        len({one.arm.noise_fraction for one in finals if one.arm.env == env}) > 1 for env in envs
    )
    caption = sentence(
        f"large: {statistic} over seeds",
        "small: single seeds" if any(one.seeds.size for one in finals) else "",
        f"bar: {INTERVAL}" if any(np.isfinite(one.estimate.low) for one in finals) else "",
        f"hollow: published, {source}" if any(np.isfinite(one.published) for one in finals) else "",
        count_range([one.estimate.num_runs for one in finals], "seed"),
        _at_steps([one.arm for one in finals]),
    )
    if has_trend:
        return _against_noise(finals, looks, sorted(fractions), caption)
    return _in_rows(finals, looks, caption)


def _at_steps(arms: Sequence[Arm]) -> str:
    steps = sorted({int(arm.steps[-1]) for arm in arms})
    if len(steps) == 1:
        return f"at {steps[0]:,} steps"
    return f"at {steps[0]:,} to {steps[-1]:,} steps: not all arms have come equally far"


def _against_noise(
    finals: Sequence[FinalReturn],
    looks: Mapping[Key, Style],
    fractions: Sequence[float],
    caption: str,
) -> Figure:
    keys = list(dict.fromkeys(one.arm.key for one in finals))
    labels = labels_of(keys)
    envs = sorted({one.arm.env for one in finals})
    panels = []
    for env in envs:
        lines, points = [], []
        for number, key in enumerate(keys):
            here = [one for one in finals if (one.arm.env, one.arm.key) == (env, key)]
            here.sort(key=lambda one: one.arm.noise_fraction)
            shift = SPREAD * ((number + 0.5) / len(keys) - 0.5)
            xs = np.array([fractions.index(one.arm.noise_fraction) + shift for one in here])
            if not here:
                continue
            value, low, high = (
                np.array([getattr(one.estimate, name) for one in here])
                for name in ("value", "low", "high")
            )
            singles = [
                (np.full(one.seeds.size, x), one.seeds) for x, one in zip(xs, here, strict=True)
            ]
            lines.append(
                Line(labels[key], looks[key], xs, value, low, high, singles, has_whiskers=True)
            )
            published = np.array([one.published for one in here])
            at = np.isfinite(published)
            points.append(Points(looks[key], xs[at] + 0.06, published[at]))
        panels.append(CurvePanel(lines, title=env if len(envs) > 1 else "", points=points))
    scales = Scales(
        "share of noise features",
        "final return",
        x_range=(-0.5, len(fractions) - 0.5),
        x_ticks=tuple((k, f"{100 * share:.4g}%") for k, share in enumerate(fractions)),
    )
    start = [*([envs[0]] if len(envs) == 1 else []), shared_name(keys)]
    words = ", ".join(part for part in start if part)
    title = "final return against noise"
    title = f"{words}: {title}" if words else title[:1].upper() + title[1:]
    return curve_figure(panels, title, caption, scales)


def _in_rows(finals: Sequence[FinalReturn], looks: Mapping[Key, Style], caption: str) -> Figure:
    labels = labels_of([one.arm.key for one in finals])
    tasks = sorted({one.arm.panel for one in finals})
    blocks = []
    for task in tasks:
        rows = [
            Row(
                labels[one.arm.key],
                looks[one.arm.key],
                [estimate_cell(one.estimate, one.seeds, one.published)],
            )
            for one in finals
            if one.arm.panel == task
        ]
        blocks.append(Block(rows, short_title(task, tasks)))
    title = full_title(tasks, shared_name([one.arm.key for one in finals]), "final return")
    return row_figure(blocks, [Column("final return", tick=long_number)], title, caption)
