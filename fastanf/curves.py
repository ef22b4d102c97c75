"""The end of a run as a picture: mean return against training steps with intervals over seeds.

Panels, series and intervals are those of series.py; lengths are in inches, so that text keeps its
place whatever the size of the picture.
"""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fastanf.files import write_atomic
from fastanf.rows import EvaluationRow
from fastanf.series import Name, Panel, Series, bootstrap_interval, collect_series, shorten

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
"""Okabe and Ito's palette, told apart with the common colour-vision deficiencies; yellow is left
out because it fades on white."""
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))
"""Line styles of the first, second and third round through the colours."""
DPI = 200
INK, PALE = "#222222", "#777777"
LEFT, BOTTOM, TOP = 0.85, 0.92, 0.5
"""Margins in inches."""
HEAD_POINTS, FOOT_POINTS = 10, 8
LABEL_INCHES = 0.36
"""Height of the two lines, of these sizes, that name a curve."""

Style = tuple[str, str | tuple[float, tuple[float, ...]]]


def learning_curve_png(
    evaluations: Sequence[EvaluationRow], path: str | Path, title: str | None = None
) -> None:
    """Draws mean return against training steps, a panel per environment and noise fraction.

    Thick lines are means over lanes, thin lines single lanes, bands the interval of
    `bootstrap_interval`. The file is replaced as a whole.

    Args:
        evaluations: all of the run; may be empty or hold nan.
        path: of the PNG.
        title: above the picture; by default the environment and its noise where there is one panel.
    """
    panels = collect_series(evaluations)
    names = list(dict.fromkeys(one.name for series in panels.values() for one in series))
    styles = {
        name: (COLOURS[k % len(COLOURS)], DASHES[k // len(COLOURS) % len(DASHES)])
        for k, name in enumerate(names)
    }
    figure, grid = _empty_figure(panels)
    for axes, (panel, series) in zip(grid, panels.items(), strict=False):
        _draw_panel(axes, series, styles)
        if len(panels) > 1:
            axes.set_title(_panel_title(panel), fontsize=10.5, loc="left", color=INK)
    if not panels:
        _finish_axes(grid[0], [])
    if title is None:
        title = _panel_title(next(iter(panels))) if len(panels) == 1 else "Learning curves"
    _write_around(figure, title, _return_label(evaluations), _caption(panels))
    for axes, series in zip(grid, panels.values(), strict=False):
        _label_ends(axes, series, styles)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    write_atomic(Path(path), buffer.getvalue())


def spread_labels(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Moves labels apart as little as possible (least squares), in their order and inside a range.

    Neighbours that collide are merged into one cluster around the mean of their wishes, until no
    two clusters collide (pool adjacent violators).

    Args:
        wanted: where each label would like its centre.
        gap: least distance of two centres; smaller where the range has not room for it.
        low, high: range of the centres.

    Returns:
        A centre for each label, in the order of `wanted`.
    """
    if not wanted:
        return []
    order = sorted(range(len(wanted)), key=lambda k: wanted[k])
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    clusters: list[list[float]] = []  # [sum of wishes for the bottom label's centre, size]
    for rank, k in enumerate(order):
        # Measured from the bottom of the whole stack, labels that touch have the same coordinate.
        clusters.append([wanted[k] - rank * gap, 1])
        while len(clusters) > 1 and _middle(clusters[-2]) > _middle(clusters[-1]):
            total, size = clusters.pop()
            clusters[-1] = [clusters[-1][0] + total, clusters[-1][1] + size]
    bases = [_middle(cluster) for cluster in clusters for _ in range(int(cluster[1]))]
    top = high - (len(wanted) - 1) * gap
    centres = [min(max(base, low), top) + rank * gap for rank, base in enumerate(bases)]
    placed = [0.0] * len(wanted)
    for k, centre in zip(order, centres, strict=True):
        placed[k] = centre
    return placed


def _middle(cluster: Sequence[float]) -> float:
    return cluster[0] / cluster[1]


def _empty_figure(panels: Mapping[Panel, Sequence[Series]]) -> tuple[Figure, list[Axes]]:
    """A figure with room for the labels; margins in inches, so that text keeps its place."""
    every = [one for series in panels.values() for one in series]
    label_inches = 0.3 + max((_label_width(one) for one in every), default=0.0)
    num_columns = 2 if len(panels) > 1 and label_inches < 1.5 else 1
    num_rows = max(1, math.ceil(len(panels) / num_columns))
    most = max((len(series) for series in panels.values()), default=1)
    panel_width = 5.3 if num_columns == 1 else 3.2
    panel_height = max(3.3 if len(panels) < 2 else 2.4, LABEL_INCHES * most)
    left, right, bottom, top, between = LEFT, label_inches, BOTTOM, TOP, 0.62
    if len(panels) > 1:
        top += 0.3
    width = left + num_columns * (panel_width + right) + (num_columns - 1) * between
    height = bottom + top + num_rows * panel_height + (num_rows - 1) * between
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    grid = []
    for k in range(max(1, len(panels))):
        row, column = divmod(k, num_columns)
        x = left + column * (panel_width + right + between)
        y = height - top - panel_height - row * (panel_height + between)
        grid.append(
            figure.add_axes((x / width, y / height, panel_width / width, panel_height / height))
        )
    return figure, grid


def _write_around(figure: Figure, title: str, return_label: str, caption: str) -> None:
    width, height = figure.get_size_inches()
    y_middle = (height + BOTTOM - TOP) / 2 / height
    left = 0.12 / width
    figure.text(left, 1 - 0.12 / height, title, fontsize=12.5, weight="bold", va="top", color=INK)
    x_label = "environment steps after the random start"
    figure.text(LEFT / width, 0.48 / height, x_label, fontsize=10, color=INK)
    figure.text(left, y_middle, return_label, rotation=90, va="center", fontsize=10, color=INK)
    figure.text(LEFT / width, 0.36 / height, caption, fontsize=8, va="top", color=PALE)


def _draw_panel(axes: Axes, series: Sequence[Series], styles: Mapping[Name, Style]) -> None:
    for one in series:
        colour, dashes = styles[one.name]
        mean = one.mean
        is_point = np.isfinite(mean).sum() == 1
        low, high = bootstrap_interval(one.returns)
        if len(one.lanes) > 1:
            for returns in one.returns:
                axes.plot(one.steps, returns, color=colour, lw=0.7, alpha=0.4, zorder=2)
                if is_point:
                    axes.plot(one.steps, returns, "o", color=colour, ms=3.5, alpha=0.4, mew=0)
        if is_point:
            axes.vlines(one.steps, low, high, color=colour, lw=1.8, zorder=3)
            axes.plot(one.steps, mean, "o", color=colour, ms=7, mec="white", mew=1.0, zorder=4)
        else:
            axes.fill_between(one.steps, low, high, color=colour, alpha=0.16, lw=0, zorder=1)
            axes.plot(one.steps, mean, color=colour, lw=2.2, ls=dashes, zorder=4)
    _finish_axes(axes, series)


def _finish_axes(axes: Axes, series: Sequence[Series]) -> None:
    axes.grid(True, color="#E6E6E6", lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#BBBBBB")
    axes.tick_params(length=0, labelsize=9, colors="#555555", pad=5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _short(x)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.10g}"))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    last = max((int(one.steps[-1]) for one in series), default=1) or 1
    first = min((int(one.steps[0]) for one in series), default=0)
    # A single step stands in the middle; a curve ends at the edge, where its label is.
    axes.set_xlim((0, 2 * last) if first == last else (min(0, first), last))
    if not any(np.isfinite(one.returns).any() for one in series):
        axes.set_ylim(0, 1)
        axes.set_yticks([])
        middle = {"ha": "center", "va": "center", "transform": axes.transAxes}
        axes.text(0.5, 0.5, "no finite return yet", color=PALE, **middle)


def _label_ends(axes: Axes, series: Sequence[Series], styles: Mapping[Name, Style]) -> None:
    """Names each curve at the right edge, joined to its end by a thin line."""
    shown = [one for one in series if np.isfinite(one.mean).any()]
    figure = axes.get_figure(root=True)
    if not shown or figure is None:
        return
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    height_inches = axes.get_position().height * figure.get_size_inches()[1]
    ends = [_end(one) for one in shown]
    wanted = [(mean - low) / (high - low) for _, mean in ends]
    gap = LABEL_INCHES / height_inches
    centres = spread_labels(wanted, gap, 0.5 * gap, 1 - 0.5 * gap)
    x_low, x_high = axes.get_xlim()
    width_inches = axes.get_position().width * figure.get_size_inches()[0]
    text_x = 1 + 0.2 / width_inches
    for one, (step, _), y, centre in zip(shown, ends, wanted, centres, strict=True):
        colour, _ = styles[one.name]
        ink = tuple(0.72 * part for part in to_rgb(colour))
        x = (step - x_low) / (x_high - x_low)
        axes.plot(
            [x, 1 + 0.04 / width_inches, text_x - 0.04 / width_inches],
            [y, y if x > 0.99 else centre, centre],
            transform=axes.transAxes,
            color=colour,
            lw=0.9,
            ls="-" if x > 0.99 else ":",
            clip_on=False,
        )
        head, foot = _name(one)
        above = 0.085 / height_inches
        place = {"transform": axes.transAxes, "va": "center", "color": ink}
        axes.text(text_x, centre + above, head, fontsize=HEAD_POINTS, weight="bold", **place)
        axes.text(text_x, centre - above, foot, fontsize=FOOT_POINTS, **place)


def _end(series: Series) -> tuple[float, float]:
    """Step and mean return of the last point of a curve."""
    at = int(np.flatnonzero(np.isfinite(series.mean))[-1])
    return float(series.steps[at]), float(series.mean[at])


def _name(series: Series) -> tuple[str, str]:
    """The two lines of a label."""
    policy, variant = series.name
    n, used = len(series.lanes), int(np.isfinite(series.returns[:, -1]).sum())
    count = f"{n} seed{'s' * (n != 1)}"
    if used < n:  # the end of the mean stands for fewer lanes than its start
        count = f"{used} of {count}"
    return policy, f"{shorten(variant, 40)}, {count}" if variant else count


def _label_width(series: Series) -> float:
    """Inches that the label of a curve needs."""
    head, foot = _name(series)
    bold = FontProperties(weight="bold")
    paths = [
        TextPath((0, 0), head, size=HEAD_POINTS, prop=bold),
        TextPath((0, 0), foot, FOOT_POINTS),
    ]
    return max(path.get_extents().width for path in paths) / 72


def _panel_title(panel: Panel) -> str:
    env, noise_fraction = panel
    if noise_fraction == 0:
        return f"{env}, no noise features"
    return f"{env}, {100 * noise_fraction:.4g}% noise features"


def _return_label(evaluations: Sequence[EvaluationRow]) -> str:
    counts = {row.episodes for row in evaluations}
    if len(counts) != 1:
        return "return of deterministic episodes"
    (count,) = counts
    return f"return of {count} deterministic episode{'s' * (count != 1)}"


def _caption(panels: Mapping[Panel, Sequence[Series]]) -> str:
    series = [one for several in panels.values() for one in several]
    parts = []
    if any(len(one.lanes) > 1 for one in series):
        is_point = all(len(one.steps) == 1 for one in series)
        words = ("large", "small", "bar") if is_point else ("thick", "thin", "band")
        parts = [f"{words[0]}: mean over seeds", f"{words[1]}: single seeds"]
        if any(np.isfinite(bootstrap_interval(one.returns)[0]).any() for one in series):
            parts.append(f"{words[2]}: 95% bootstrap interval of the mean over seeds")
    silent = [" ".join(one.name).strip() for one in series if not np.isfinite(one.returns).any()]
    lines = ["; ".join(parts)]
    if silent and len(silent) < len(series):
        lines.append(textwrap.shorten("not shown, no finite return: " + ", ".join(silent), 100))
    return "\n".join(line for line in lines if line)


def _short(steps: float) -> str:
    """50000 -> 50k, 1500000 -> 1.5M."""
    for unit, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(steps) >= unit:
            return f"{steps / unit:.6g}{suffix}"
    return f"{steps:.6g}"
