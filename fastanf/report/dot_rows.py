"""Rows of dots with whiskers, or of bars: one row a thing to compare, names left, numbers right.

Blocks stand below each other and have their own rows; the columns of a block share its rows and
have an axis each, the same in all blocks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fastanf.bootstrap import Estimate
from fastanf.picture import (
    EDGE,
    FOOT_POINTS,
    GREY,
    HEAD_POINTS,
    MAX_WIDTH,
    PALE,
    TITLE_POINTS,
    Style,
    add_axes,
    finish_axes,
    fit,
    line_height,
    long_number,
    new_figure,
    rounded,
    short_number,
    text_width,
    wrap,
    write,
)

ROW, BLOCK_GAP = 0.37, 0.42
"""Inches of a row, and of a block's title with its distance from the block above."""
MAX_LABEL = 2.4
NO_SINGLES = np.empty(0)


@dataclass(frozen=True, eq=False)
class Cell:
    """What one row shows in one column; nan where there is nothing."""

    value: float
    low: float = float("nan")
    high: float = float("nan")
    singles: np.ndarray = field(default_factory=lambda: NO_SINGLES)
    """Small dots."""
    hollow: float = float("nan")
    """A value from elsewhere; of a bar, its outline."""
    note: str = ""
    """At the right; by default the value."""


@dataclass(frozen=True, eq=False)
class Row:
    """A name in up to two lines, and a cell a column."""

    label: tuple[str, ...]
    style: Style
    cells: Sequence[Cell]


@dataclass(frozen=True, eq=False)
class Block:
    """Rows under a title."""

    rows: Sequence[Row]
    title: str = ""


@dataclass(frozen=True)
class Column:
    """An axis."""

    x_label: str
    number: Callable[[float], str] = long_number
    x_range: tuple[float, float] | None = None
    """By default from 0 for bars, else as the values ask."""
    level: float | None = None
    """x of a dashed vertical."""
    is_bars: bool = False
    tick: Callable[[float], str] = short_number


def row_figure(
    blocks: Sequence[Block], columns: Sequence[Column], title: str, caption: str
) -> Figure:
    """Draws blocks of rows.

    Args:
        blocks: each with a row or more, of as many cells as there are columns.
        columns: axes from left to right.
        title: above the picture.
        caption: small lines below it, wrapped.
    """
    blocks = [Block([_short(row) for row in block.rows], block.title) for block in blocks]
    rows = [row for block in blocks for row in block.rows]
    left = 0.3 + min(MAX_LABEL, max(_label_width(row) for row in rows))
    notes = [_note_width(rows, k, column) for k, column in enumerate(columns)]
    space = MAX_WIDTH - left - sum(notes) - 0.3 * len(columns)
    panel = min(4.6 if len(columns) == 1 else 3.0, max(1.0, space / len(columns)))
    width = max(4.5, left + sum(notes) + len(columns) * (panel + 0.3))
    titles = wrap(title, TITLE_POINTS, width - 2 * EDGE, is_bold=True)
    captions = wrap(caption, FOOT_POINTS, width - left - EDGE)
    top = EDGE + len(titles) * line_height(TITLE_POINTS) + 0.1
    gaps = [BLOCK_GAP if block.title else 0.12 for block in blocks]
    bottom = top + sum(gaps) + ROW * len(rows)
    end = bottom + 0.62 + len(captions) * line_height(FOOT_POINTS)
    figure = new_figure(width, end + EDGE)
    look: dict[str, Any] = {"fontsize": TITLE_POINTS, "weight": "bold", "linespacing": 1.3}
    write(figure, EDGE, EDGE, "\n".join(titles), **look)
    look = {"fontsize": FOOT_POINTS, "color": PALE, "linespacing": 1.3}
    write(figure, left, bottom + 0.6, "\n".join(captions), **look)
    grid = []
    for block, gap in zip(blocks, gaps, strict=True):
        write(figure, left, top + gap - 0.28, block.title, fontsize=10.5)
        top += gap
        x = left
        for k, column in enumerate(columns):
            axes = add_axes(figure, x, top, panel, ROW * len(block.rows))
            _draw_cells(axes, block.rows, k, column, panel)
            grid.append((k, axes))
            if not k:
                _write_labels(axes, block.rows, left)
            if block is blocks[-1]:
                write(figure, x, bottom + 0.32, column.x_label)
            x += panel + 0.3 + notes[k]
        top += ROW * len(block.rows)
    _share_ranges(grid, columns)
    return figure


def _short(row: Row) -> Row:
    """The row with a name too long for one line on two."""
    if len(row.label) > 1:
        return row
    head, *rest = wrap("".join(row.label), HEAD_POINTS, MAX_LABEL, is_bold=True)
    label = (head.removesuffix(","), " ".join(rest)) if rest else row.label
    return Row(label, row.style, row.cells)


def _label_width(row: Row) -> float:
    head, *feet = row.label
    return max(
        text_width(head, HEAD_POINTS, is_bold=True),
        *(text_width(foot, FOOT_POINTS) for foot in feet),
        0.0,
    )


def _note(cell: Cell, column: Column) -> str:
    if cell.note or not np.isfinite(cell.value):
        return cell.note or "-"
    return column.number(cell.value)


def _note_width(rows: Sequence[Row], k: int, column: Column) -> float:
    words = [_note(row.cells[k], column) for row in rows]
    lines = [line for word in words for line in word.split("\n")]
    return 0.1 + max(text_width(line, FOOT_POINTS) for line in lines)


def _draw_cells(
    axes: Axes, rows: Sequence[Row], k: int, column: Column, panel_width: float
) -> None:
    finish_axes(axes)
    axes.grid(False, axis="y")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks([])
    axes.margins(x=0.08)
    for y, row in enumerate(rows):
        cell = row.cells[k]
        (_draw_bar if column.is_bars else _draw_dot)(axes, y, cell, row.style)
        place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
        look: dict[str, Any] = {"fontsize": FOOT_POINTS, "color": GREY, "parse_math": False}
        axes.text(1 + 0.08 / panel_width, y, _note(cell, column), **place, **look)
    if column.level is not None:
        axes.axvline(column.level, color=PALE, lw=1.2, ls=(0, (4, 3)), zorder=1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: column.tick(x)))
    ticks: dict[str, Any] = {"steps": [1, 2, 2.5, 5, 10]}
    axes.xaxis.set_major_locator(MaxNLocator(max(2, min(6, int(panel_width / 0.7))), **ticks))


def _draw_dot(axes: Axes, y: int, cell: Cell, style: Style) -> None:
    colour = style.colour
    finite = cell.singles[np.isfinite(cell.singles)]
    look: dict[str, Any] = {"ls": "", "ms": 3.5, "mew": 0, "alpha": 0.45, "zorder": 2.5}
    axes.plot(finite, np.full(len(finite), y + 0.22), "o", color=colour, **look)
    axes.plot([cell.low, cell.high], [y, y], color=colour, lw=2.2, solid_capstyle="butt", zorder=3)
    axes.plot([cell.value], [y], style.marker, color=colour, ms=8, mec="white", mew=1.0, zorder=4)
    look = {"ms": 6.5, "mfc": "white", "mew": 1.4, "zorder": 3.5}
    axes.plot([cell.hollow], [y - 0.25], style.marker, color=colour, **look)


def _draw_bar(axes: Axes, y: int, cell: Cell, style: Style) -> None:
    if np.isfinite(cell.value):
        axes.barh(y, cell.value, 0.52, color=style.colour, alpha=0.85, lw=0, zorder=3)
    if np.isfinite(cell.hollow):
        axes.barh(y, cell.hollow, 0.52, color="none", edgecolor=style.colour, lw=1.1, zorder=2)


def _write_labels(axes: Axes, rows: Sequence[Row], left: float) -> None:
    width = axes.get_position().width * axes.get_figure(root=True).get_size_inches()[0]  # pyright: ignore
    room = left - 0.25
    for y, row in enumerate(rows):
        head, *feet = row.label
        place: dict[str, Any] = {
            "transform": axes.get_yaxis_transform(),
            "ha": "right",
            "va": "center",
            "parse_math": False,
        }
        x, up = -0.12 / width, 0.2 if feet else 0.0
        bold = fit(head, HEAD_POINTS, room, is_bold=True)
        axes.text(
            x, y - up, bold, fontsize=HEAD_POINTS, weight="bold", color=row.style.ink, **place
        )
        for foot in feet:
            text = fit(foot, FOOT_POINTS, room)
            axes.text(x, y + up, text, fontsize=FOOT_POINTS, color=row.style.ink, **place)


def _share_ranges(grid: Sequence[tuple[int, Axes]], columns: Sequence[Column]) -> None:
    for k, column in enumerate(columns):
        members = [axes for number, axes in grid if number == k]
        if column.x_range:
            low, high = column.x_range
        else:
            low = min(axes.get_xlim()[0] for axes in members)
            high = max(axes.get_xlim()[1] for axes in members)
        for axes in members:
            axes.set_xlim(0 if column.is_bars else low, high)
            if axes is not members[-1]:
                axes.tick_params(labelbottom=False)
                axes.spines["bottom"].set_color("#E6E6E6")


def estimate_cell(
    estimate: Estimate,
    singles: np.ndarray | None = None,
    hollow: float = float("nan"),
    is_narrow: bool = False,
) -> Cell:
    """An estimate with its interval, also in numbers; `is_narrow` puts these on two lines."""
    note = rounded(estimate.value)
    if np.isfinite(estimate.low) and np.isfinite(estimate.high):
        note += "\n" if is_narrow else "  "
        note += f"[{rounded(estimate.low)}, {rounded(estimate.high)}]"
    singles = np.empty(0) if singles is None else singles
    return Cell(estimate.value, estimate.low, estimate.high, singles, hollow, note)
