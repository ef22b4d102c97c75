"""The end of a run as a picture: mean return against training steps with intervals over seeds.

Panels, series and intervals are those of series.py; what curves and their names look like is that
of curve_panels.py.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fastanf.curve_lines import CurvePanel, Line
from fastanf.curve_panels import Scales, curve_figure
from fastanf.files import write_atomic
from fastanf.picture import DPI, Style, style_at
from fastanf.rows import EvaluationRow
from fastanf.series import Panel, Series, bootstrap_interval, collect_series, shorten
from fastanf.stopped import StoppedLane, without_evaluations


def learning_curve_png(
    evaluations: Sequence[EvaluationRow],
    path: str | Path,
    title: str | None = None,
    stopped: Sequence[StoppedLane] = (),
) -> None:
    """Draws mean return against training steps, a panel per environment and noise fraction.

    Thick lines are means over lanes, thin lines single lanes, bands the interval of
    `bootstrap_interval`. The curve of a lane that was stopped ends there, and the mean goes on
    without it. The file is replaced as a whole.

    Args:
        evaluations: all of the run; may be empty or hold nan.
        path: of the PNG.
        title: above the picture; by default the environment and its noise where there is one panel.
        stopped: lanes that were.
    """
    series = collect_series(evaluations)
    silent = without_evaluations(stopped, evaluations)
    names = dict.fromkeys(one.name for several in series.values() for one in several)
    looks = {name: style_at(number) for number, name in enumerate(names)}
    has_titles = len(series) > 1
    panels = [
        CurvePanel(
            [_line(one, looks[one.name], silent.get((panel, one.name), 0)) for one in several],
            title=panel_title(panel) if has_titles else "",
        )
        for panel, several in series.items()
    ]
    if title is None:
        title = panel_title(next(iter(series))) if len(series) == 1 else "Learning curves"
    scales = Scales(
        "environment steps after the random start",
        _return_label(evaluations),
        empty="no finite return yet",
    )
    figure = curve_figure(panels, title, _caption(series, panels, len(stopped)), scales)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    write_atomic(Path(path), buffer.getvalue())


def panel_title(panel: Panel) -> str:
    """A task in words."""
    env, noise_fraction = panel
    if noise_fraction == 0:
        return f"{env}, no noise features"
    return f"{env}, {100 * noise_fraction:.4g}% noise features"


def _line(series: Series, style: Style, num_silent: int) -> Line:
    low, high = bootstrap_interval(series.returns)
    singles = [(series.steps, lane) for lane in series.returns] if len(series.lanes) > 1 else []
    return Line(_name(series, num_silent), style, series.steps, series.mean, low, high, singles)


def _name(series: Series, num_silent: int) -> tuple[str, str]:
    """The two lines of a label; `num_silent` lanes were stopped before they had a return."""
    policy, variant = series.name
    n, used = len(series.lanes) + num_silent, int(np.isfinite(series.returns[:, -1]).sum())
    count = f"{n} seed{'s' * (n != 1)}"
    if used < n:  # the end of the mean stands for fewer lanes than its start
        count = f"{used} of {count}"
    return policy, f"{shorten(variant, 40)}, {count}" if variant else count


def _return_label(evaluations: Sequence[EvaluationRow]) -> str:
    counts = {row.episodes for row in evaluations}
    if len(counts) != 1:
        return "return of deterministic episodes"
    (count,) = counts
    return f"return of {count} deterministic episode{'s' * (count != 1)}"


def _caption(
    panels: Mapping[Panel, Sequence[Series]], drawn: Sequence[CurvePanel], num_stopped: int
) -> str:
    series = [one for several in panels.values() for one in several]
    parts = []
    if any(len(one.lanes) > 1 for one in series):
        is_point = all(len(one.steps) == 1 for one in series)
        words = ("large", "small", "bar") if is_point else ("thick", "thin", "band")
        parts.append(f"{words[0]}: mean over seeds")
        if any(panel.has_singles for panel in drawn):
            parts.append(f"{words[1]}: single seeds")
        if any(np.isfinite(bootstrap_interval(one.returns)[0]).any() for one in series):
            parts.append(f"{words[2]}: 95% bootstrap interval of the mean over seeds")
    silent = [" ".join(one.name).strip() for one in series if not np.isfinite(one.returns).any()]
    lines = ["; ".join(parts)]
    if num_stopped:
        seeds = (
            "1 seed was stopped: its curve ends"
            if num_stopped == 1
            else (f"{num_stopped} seeds were stopped: their curves end")
        )
        lines.append(f"{seeds} there, and the mean goes on without")
    if silent and len(silent) < len(series):
        lines.append(textwrap.shorten("not shown, no finite return: " + ", ".join(silent), 100))
    return "\n".join(line for line in lines if line)
