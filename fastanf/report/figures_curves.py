"""Learning curves: return against training steps, a panel per environment and noise fraction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from fastanf.curve_lines import CurvePanel, Line, Points
from fastanf.curve_panels import Scales, curve_figure
from fastanf.picture import PALE, Style
from fastanf.report.arms import Arm, Key, Panel, panels_of, styles
from fastanf.report.bands import Band, mean_band
from fastanf.report.drawing import (
    STEPS,
    count_seeds,
    full_title,
    labels_of,
    sentence,
    shared_name,
    short_title,
    steps_text,
)

BEYOND = 1.25
"""Published points are shown up to this multiple of the last step."""


@dataclass(frozen=True)
class Published:
    """Returns that a paper reports for a policy."""

    policy: str
    steps: tuple[int, ...]
    returns: tuple[float, ...]
    source: str


def learning_curves(
    arms: Sequence[Arm],
    looks: Mapping[Key, Style] | None = None,
    *,
    summarize: Callable[[np.ndarray], Band] = mean_band,
    statistic: str = "mean",
    published: Mapping[Panel, Sequence[Published]] | None = None,
    events: Mapping[Panel, Sequence[int]] | None = None,
    y_label: str = "return of deterministic episodes",
) -> Figure:
    """Return of all arms while they train; arms may have come to different steps.

    Args:
        arms: of one or several tasks.
        looks: of the whole report; by default those of these arms.
        summarize: [n, S] returns -> what the thick line and its band show.
        statistic: its name.
        published: by task; points far beyond the last step are left out.
        events: by task, steps at which the features changed places.
        y_label: how a return was measured.
    """
    looks = looks or styles(arms)
    panels = panels_of(arms)
    labels = _labels(arms, has_one_panel=len(panels) == 1)
    drawn = [
        CurvePanel(
            [_line(arm, labels[arm], looks[arm.key], summarize) for arm in members],
            title=short_title(panel, panels),
            group=panel[0],
            points=[
                _points(one, looks, _last_step(members)) for one in (published or {}).get(panel, ())
            ],
            events=(events or {}).get(panel, ()),
        )
        for panel, members in panels.items()
    ]
    title = full_title(panels, shared_name([arm.key for arm in arms]), "return while training")
    sources = dict.fromkeys(one.source for each in (published or {}).values() for one in each)
    caption = _caption(arms, drawn, statistic, list(sources))
    return curve_figure(drawn, title, caption, Scales(STEPS, y_label, empty="no finite return yet"))


def _labels(arms: Sequence[Arm], has_one_panel: bool) -> Mapping[Arm, tuple[str, ...]]:
    """Names of the arms, with their seeds where these differ or some are missing, and there is
    room.
    """
    names = labels_of([arm.key for arm in arms])
    counts = {arm: _count(arm) for arm in arms}
    is_whole = all(_num_at_end(arm) == len(arm.lanes) for arm in arms)
    if not has_one_panel or (len(set(counts.values())) == 1 and is_whole):
        return {arm: names[arm.key] for arm in arms}
    labels = {}
    for arm in arms:
        name, *variant = names[arm.key]
        labels[arm] = (name, ", ".join([*variant, counts[arm]]))
    return labels


def _num_at_end(arm: Arm) -> int:
    """How many seeds the end of the curve stands for; all where there is none."""
    at = np.flatnonzero(np.isfinite(arm.returns).any(axis=0))
    return int(np.isfinite(arm.returns[:, at[-1]]).sum()) if len(at) else len(arm.lanes)


def _count(arm: Arm) -> str:
    """Seeds, and how many of them the end of the curve stands for."""
    n, used = len(arm.lanes), _num_at_end(arm)
    count = f"{n} seed{'s' * (n != 1)}"
    return count if used == n else f"{used} of {count}"


def _line(
    arm: Arm, label: tuple[str, ...], style: Style, summarize: Callable[[np.ndarray], Band]
) -> Line:
    band = summarize(arm.returns)
    singles = [(arm.steps, lane) for lane in arm.returns] if len(arm.lanes) > 1 else []
    return Line(label, style, arm.steps, band.centre, band.low, band.high, singles)


def _last_step(arms: Sequence[Arm]) -> int:
    return max((int(arm.steps[-1]) for arm in arms if len(arm.steps)), default=0)


def _points(one: Published, looks: Mapping[Key, Style], last: int) -> Points:
    same = [style for (policy, _), style in looks.items() if policy == one.policy]
    style = looks.get((one.policy, ""), same[0] if same else Style(PALE))
    steps, returns = np.array(one.steps), np.array(one.returns, dtype=float)
    is_near = steps <= BEYOND * last
    return Points(style, steps[is_near], returns[is_near])


def _caption(
    arms: Sequence[Arm], panels: Sequence[CurvePanel], statistic: str, sources: Sequence[str]
) -> str:
    lines = [line for panel in panels for line in panel.lines]
    if not any(line.is_drawn for line in lines):
        return sentence(count_seeds(arms), steps_text(arms))
    has_several = any(len(arm.lanes) > 1 for arm in arms)
    has_band = any(np.isfinite(line.low).any() for line in lines)
    is_short = all(np.isfinite(line.centre).sum() <= 1 for line in lines)
    thick, thin, band = ("large", "small", "bar") if is_short else ("thick", "thin", "band")
    first = sentence(
        f"{thick}: {statistic} over seeds" if has_several else "",
        f"{thin}: single seeds" if any(panel.has_singles for panel in panels) else "",
        f"{band}: 95% bootstrap interval of the {statistic}" if has_band else "",
        count_seeds(arms),
        steps_text(arms),
    )
    silent = [arm.label for arm in arms if not np.isfinite(arm.returns).any()]
    is_marked = any(points.xs.size for panel in panels for points in panel.points)
    second = sentence(
        f"hollow: published, {', '.join(sources)}" if is_marked else "",
        "dashed verticals: the features change places" if any(p.events for p in panels) else "",
        f"without a finite return: {', '.join(silent)}" if 0 < len(silent) < len(arms) else "",
    )
    return f"{first}\n{second}"
