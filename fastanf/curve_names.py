"""The names of curves: at their ends, or in one key above the panels where that is too narrow."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fastanf.curve_lines import CurvePanel, Line
from fastanf.picture import (
    FOOT_POINTS,
    GREY,
    HEAD_POINTS,
    MAX_WIDTH,
    TICK_POINTS,
    fit,
    line_height,
    panel_size,
    spread_labels,
    text_width,
    wrap,
    write,
)

LEFT, COLUMN_GAP = 0.85, 0.62
MAX_LABEL_WIDTH, MAX_SHARED_LABEL_WIDTH = 2.6, 1.7
"""Inches, with one panel and with several; longer names are wrapped."""
MAX_LABELS_HEIGHT = 3.1
"""Inches of names in one of several panels; above it a key names the curves."""
MIN_PANEL_WIDTH, MAX_PANEL_WIDTH = 2.2, 3.4
ONE_PANEL = (5.3, 3.3)
"""Width and least height of the only panel of a figure."""
MANY_PANELS = 6
"""With more panels a key lets three stand side by side."""
KEY_LINE = 0.36
"""Inches of line in front of a name in the key."""


@dataclass(frozen=True)
class Layout:
    """Sizes in inches."""

    num_columns: int
    panel_width: float
    panel_height: float
    right: float
    labels: Mapping[tuple[str, ...], list[tuple[str, float]]]
    """Each label as lines of text and their points."""
    label_height: float
    key: Mapping[tuple[str, ...], Line]
    """Empty where curves are named at their ends."""
    key_columns: int = 1
    key_height: float = 0.0

    @staticmethod
    def of(panels: Sequence[CurvePanel], has_key: bool = False, num_columns: int = 0) -> "Layout":
        """Room for the names of all curves.

        Args:
            panels: of the figure.
            has_key: whether names stand above the panels in any case.
            num_columns: at most; 0 for as many as suit the number of panels.
        """
        has_key = has_key or (len(panels) > MANY_PANELS and not num_columns)
        lines = {line.label: line for panel in panels for line in panel.lines}
        max_width = MAX_LABEL_WIDTH if len(panels) == 1 else MAX_SHARED_LABEL_WIDTH
        labels = {label: _label_lines(label, max_width) for label in lines}
        widths = [_width(part) for parts in labels.values() for part in parts]
        right = 0.32 + max(widths, default=0.0)
        height = max((_height(parts) for parts in labels.values()), default=0.0)
        most = max(len(panel.lines) for panel in panels)
        if len(panels) == 1 and not has_key:
            panel_width, least = ONE_PANEL
            panel_height = max(least, most * height)
            return Layout(1, panel_width, panel_height, right, labels, height, {})
        columns, width = _columns(len(panels), right, num_columns)
        fits = most * height <= MAX_LABELS_HEIGHT and width >= MIN_PANEL_WIDTH
        if fits and not has_key:
            return Layout(columns, width, max(2.2, most * height), right, labels, height, {})
        columns, width = _columns(len(panels), 0.3, num_columns)
        across = LEFT + columns * (width + 0.3) + (columns - 1) * COLUMN_GAP
        entry = max(_width((", ".join(label), TICK_POINTS)) for label in lines)
        entry += KEY_LINE + 0.4
        key_columns = max(1, int((across - 0.3) / entry))
        key_height = 0.2 * math.ceil(len(lines) / key_columns) + 0.12
        tall = 2.2 if len(panels) > 1 else ONE_PANEL[1]
        return Layout(columns, width, tall, 0.3, labels, height, lines, key_columns, key_height)


def _columns(num_panels: int, right: float, most: int) -> tuple[int, float]:
    """Number of columns and width of a panel: as many as are wide enough, in even rows."""
    for columns in (2,) if num_panels in (2, 4) else (3, 2):
        if columns > (most or num_panels):
            continue
        width = (MAX_WIDTH - LEFT - columns * right - (columns - 1) * COLUMN_GAP) / columns
        if width >= MIN_PANEL_WIDTH:
            return columns, min(MAX_PANEL_WIDTH, width)
    return 1, min(ONE_PANEL[0], MAX_WIDTH - LEFT - right)


def _label_lines(label: Sequence[str], max_width: float) -> list[tuple[str, float]]:
    parts = []
    for k, text in enumerate(label):
        points = FOOT_POINTS if k else HEAD_POINTS
        for line in wrap(text, points, max_width, is_bold=not k):
            parts.append((fit(line, points, max_width, is_bold=not k), points))
    return parts


def _width(part: tuple[str, float]) -> float:
    text, points = part
    return text_width(text, points, is_bold=points == HEAD_POINTS)


def _height(parts: Sequence[tuple[str, float]]) -> float:
    return sum(line_height(points) for _, points in parts) + 0.03


def label_ends(axes: Axes, lines: Sequence[Line], layout: Layout) -> None:
    """Names each curve at the right edge, joined to its end by a thin line."""
    shown = [line for line in lines if line.is_drawn]
    if not shown:
        return
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    x_low, x_high = axes.get_xlim()
    width, height = panel_size(axes)
    ends = [line.end for line in shown]
    wanted = [min(1.0, max(0.0, (y - low) / (high - low))) for _, y in ends]
    gap = layout.label_height / height
    centres = spread_labels(wanted, gap, 0.5 * gap, 1 - 0.5 * gap)
    text_x, elbow = 1 + 0.2 / width, 1 + 0.04 / width
    for line, (x_end, _), y, centre in zip(shown, ends, wanted, centres, strict=True):
        x = (
            1.0
            if line.is_level and line.is_constant
            else min(1.0, (x_end - x_low) / (x_high - x_low))
        )
        reaches_edge = x > 0.99
        axes.plot(
            [x, elbow, text_x - 0.04 / width],
            [y, y if reaches_edge else centre, centre],
            transform=axes.transAxes,
            color=line.style.colour,
            lw=0.9,
            ls="-" if reaches_edge else ":",
            clip_on=False,
        )
        parts = layout.labels[line.label]
        top = centre + sum(line_height(points) for _, points in parts) / 2 / height
        for text, points in parts:
            top -= line_height(points) / 2 / height
            axes.text(
                text_x,
                top,
                text,
                fontsize=points,
                weight="bold" if points == HEAD_POINTS else "normal",
                color=line.style.ink if not line.is_level else GREY,
                transform=axes.transAxes,
                va="center",
                parse_math=False,
            )
            top -= line_height(points) / 2 / height


def draw_key(figure: Figure, top: float, layout: Layout) -> None:
    """Names the curves in columns, from so many inches below the top of the figure on."""
    across, down = figure.get_size_inches()
    column_width = (across - 0.3) / layout.key_columns
    for k, (label, line) in enumerate(layout.key.items()):
        row, column = divmod(k, layout.key_columns)
        left, y = 0.12 + column * column_width, top + 0.2 * row
        xs, ys = [left / across, (left + KEY_LINE) / across], [1 - (y + 0.08) / down] * 2
        look = {"color": line.style.colour, "ls": line.style.dashes}
        figure.add_artist(Line2D(xs, ys, lw=1.2 if line.is_level else 2.2, **look))
        text = fit(", ".join(label), TICK_POINTS, column_width - KEY_LINE - 0.2)
        write(figure, left + KEY_LINE + 0.08, y, text, fontsize=TICK_POINTS, color=line.style.ink)
