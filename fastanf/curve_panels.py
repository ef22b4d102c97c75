"""Panels of curves with intervals, each named at its end instead of in a legend.

A panel is as high as the names of its curves need. Where several panels would become too high or
too narrow for that, one key above them names the curves. Panels of a group share their range of y
unless that would flatten the curves of one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fastanf.curve_lines import CurvePanel, draw_line, draw_points
from fastanf.curve_names import COLUMN_GAP, LEFT, Layout, draw_key, label_ends
from fastanf.picture import (
    INK,
    Frame,
    finish_axes,
    long_number,
    name_panels,
    panel_size,
    say_nothing,
    short_number,
)

LEAST_SHARE = 0.4
"""Panels whose curves would take less of the common range of y keep a range of their own."""


@dataclass(frozen=True)
class Scales:
    """Names, numbers and ranges of the axes, the same in all panels."""

    x_label: str
    y_label: str
    x_number: Callable[[float], str] = short_number
    y_number: Callable[[float], str] = long_number
    x_range: tuple[float, float] | None = None
    """By default from 0, or the first x below it, to the last x."""
    x_ticks: tuple[tuple[float, str], ...] = ()
    """Where x has a few places only: they and their names."""
    y_range: tuple[float, float] | None = None
    starts_at_0: bool = False
    """Whether y does so, where no range is given."""
    empty: str = "no finite value yet"
    """What an empty panel says."""
    num_columns: int = 0
    """Panels side by side at most; 0 for as many as suit their number."""
    has_key: bool = False
    """Whether a key names the curves, because their ends do not tell them apart."""


def curve_figure(panels: Sequence[CurvePanel], title: str, caption: str, scales: Scales) -> Figure:
    """Draws panels of curves.

    Args:
        panels: may be empty or hold curves without a finite value, which is said in the picture.
        title: above the picture.
        caption: small lines below it, wrapped.
        scales: of the axes.
    """
    panels = panels or [CurvePanel(())]
    layout = Layout.of(panels, scales.has_key, scales.num_columns)
    frame = Frame(
        title,
        caption,
        len(panels),
        layout.num_columns,
        layout.panel_width,
        layout.panel_height,
        left=LEFT,
        right=layout.right,
        x_label=scales.x_label,
        y_label=scales.y_label,
        head=layout.key_height,
        has_panel_titles=any(panel.title for panel in panels),
        column_gap=COLUMN_GAP,
    )
    figure, grid = frame.open()
    for axes, panel in zip(grid, panels, strict=True):
        _draw_panel(axes, panel, scales)
    name_panels(grid, [panel.title for panel in panels])
    _share_ranges(grid, panels)
    if layout.key:
        draw_key(figure, frame.head_top, layout)
    else:
        for axes, panel in zip(grid, panels, strict=True):
            label_ends(axes, panel.lines, layout)
    return figure


def _draw_panel(axes: Axes, panel: CurvePanel, scales: Scales) -> None:
    finish_axes(axes)
    for line in panel.lines:
        draw_line(axes, line, panel.has_singles)
    for points in panel.points:
        draw_points(axes, points)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: scales.x_number(x)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: scales.y_number(y)))
    width, height = panel_size(axes)
    axes.xaxis.set_major_locator(
        MaxNLocator(max(3, min(6, int(width / 0.62))), steps=[1, 2, 2.5, 5, 10])
    )
    axes.yaxis.set_major_locator(
        MaxNLocator(max(4, min(7, int(height / 0.5))), steps=[1, 2, 2.5, 5, 10])
    )
    if scales.x_ticks:
        axes.set_xticks(*zip(*scales.x_ticks, strict=True))
    axes.set_xlim(scales.x_range or _x_range(panel))
    if scales.y_range:
        axes.set_ylim(scales.y_range)
    elif scales.starts_at_0:
        axes.set_ylim(bottom=0)
    for x in panel.events:
        axes.axvline(x, color=INK, lw=0.9, ls=(0, (4, 3)), zorder=1.5)
    if not any(line.is_drawn for line in panel.lines if not line.is_level):
        axes.set_ylim(0, 1)
        say_nothing(axes, scales.empty)


def _x_range(panel: CurvePanel) -> tuple[float, float]:
    """A single x stands in the middle; curves end at the edge, where their names are."""
    every = [line.xs for line in panel.lines if len(line.xs) and not line.is_level]
    every += [points.xs for points in panel.points if len(points.xs)]
    first = min((float(xs[0]) for xs in every), default=0.0)
    last = max((float(xs[-1]) for xs in every), default=1.0) or 1.0
    return (0, 2 * last) if first == last else (min(0, first), last)


def _share_ranges(grid: Sequence[Axes], panels: Sequence[CurvePanel]) -> None:
    groups: dict[str, list[Axes]] = {}
    for axes, panel in zip(grid, panels, strict=True):
        if panel.group and any(line.is_drawn for line in panel.lines):
            groups.setdefault(panel.group, []).append(axes)
    for members in groups.values():
        ranges = [axes.get_ylim() for axes in members]
        low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
        if min(top - bottom for bottom, top in ranges) >= LEAST_SHARE * (high - low):
            for axes in members:
                axes.set_ylim(low, high)
