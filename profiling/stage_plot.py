"""The stages of a block as a picture: a roofline, and bars of what an update and a step consist of.

Left, a point a stage: operations per byte against 10^9 operations per second, filled for what was
done and hollow for the useful part, below the roofs that were measured in the same run (Williams et
al. 2009). Right, one update and one training step from top to bottom in the order of the table.
Lengths are shares of the figure; names stand in columns beside the panels, moved apart; a column
too wide for its place is set in smaller type.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from fastanf.files import write_atomic
from fastanf.instrument import Stage
from fastanf.picture import INK, PALE, spread_labels
from fastanf.stage_table import StageRow, StageTable

SIZE, DPI = (16.0, 8.0), 100
TITLE_POINTS, TEXT_POINTS = 15, 11
BOTTOM, TOP = 0.15, 0.84
"""Of the panels."""
GAP = 0.031
"""Between the lines of a column: a line of text and a fifth."""
ROOFLINE, ROOFLINE_NAMES = (0.055, 0.345), 0.418
"""Left and right edge of the panel, and where its column begins."""
BARS = {"update": (0.588, 0.618, 0.636), "step": (0.81, 0.84, 0.858)}
"""Left and right edge of a bar, and where its column begins."""
COLUMN_ENDS = {"roofline": 0.58, "update": 0.802, "step": 0.992}
MIN_POINTS = 6
"""Of type that is made smaller to fit."""

# Kin have kin colours: critics blue, the actor orange; dark to light, so that lightness tells them
# apart too. The names stand beside them, so nothing hangs on colour alone.
COLOURS = {
    Stage.SAMPLE: "#999999",
    Stage.TARGET: "#009E73",
    Stage.CRITIC_FORWARD: "#08519C",
    Stage.CRITIC_BACKWARD: "#4292C6",
    Stage.CRITIC_OPTIMIZER: "#A6CEE8",
    Stage.ACTOR_FORWARD: "#A63603",
    Stage.ACTOR_BACKWARD: "#E6730D",
    Stage.ACTOR_OPTIMIZER: "#FDBE85",
    Stage.POLYAK: "#66C2A5",
    Stage.TOPOLOGY: "#C994C7",
    Stage.ACT: "#D0A000",
    Stage.ENV_STEP: "#5B4A8A",
    Stage.REPLAY_ADD: "#B0B0B0",
    Stage.UPDATE: "#2F6DA8",
    Stage.EVALUATION: "#4D4D4D",
    Stage.OTHER: "#DDDDDD",
}


def write_plot(path: Path, update: StageTable, step: StageTable, title: str) -> None:
    """Draw both tables into a PNG, or another format by the file's suffix.

    Raises:
        ValueError: the file cannot be written, or its format is unknown.
    """
    kind, figure = file_format(path), draw(update, step, title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DPI)
    try:
        write_atomic(path, buffer.getvalue())
    except OSError as error:
        raise ValueError(f"--plot {str(path)!r} cannot be written ({error.strerror})") from None


def file_format(path: Path) -> str:
    """The format that a file's suffix asks for; PNG where it has none.

    Raises:
        ValueError: matplotlib does not write it.
    """
    kind, known = path.suffix.lstrip(".").lower() or "png", FigureCanvasAgg.filetypes
    if kind not in known:
        raise ValueError(
            f"--plot must end in one of .{', .'.join(sorted(known))}, got {path.name!r}"
        )
    return kind


def draw(update: StageTable, step: StageTable, title: str) -> Figure:
    """The figure of `write_plot`."""
    figure = Figure(figsize=SIZE)
    FigureCanvasAgg(figure)
    left = ROOFLINE[0]
    head = figure.text(left, 0.945, title, fontsize=TITLE_POINTS, color=INK, va="center")
    _fit([head], COLUMN_ENDS["step"])
    _draw_roofline(figure, update)
    _draw_bar(figure, update, "update", "One update")
    _draw_bar(figure, step, "step", "One training step")
    return figure


def _draw_roofline(figure: Figure, table: StageTable) -> None:
    low, high = ROOFLINE
    axes = figure.add_axes((low, BOTTOM, high - low, TOP - BOTTOM))
    rows = [row for row in table.rows if row.work.done_flops > 0 and row.work.moved_bytes > 0]
    peaks = table.rows[0].peaks
    xs = [_intensity(row) for row in rows]
    ys = [value for row in rows for value in (row.done_gflop_s, row.useful_gflop_s)]
    x_low, x_high = min([*xs, 1.0]) / 3, max([*xs, 10.0]) * 3
    axes.set(xscale="log", yscale="log", xlim=(x_low, x_high))
    axes.set_ylim(min([*ys, peaks.gflop_s / 10]) / 2, max([*ys, peaks.gflop_s]) * 1.6)
    handles = _draw_roofs(axes, table, x_low, x_high)
    # Small points above large ones, with a pale rim: stages cluster.
    for row in sorted(rows, key=lambda row: -row.share):
        x, colour = _intensity(row), COLOURS[row.time.stage]
        size = 40 + 900 * row.share
        axes.plot([x, x], [row.useful_gflop_s, row.done_gflop_s], color=colour, lw=1.2, zorder=3)
        axes.scatter([x], [row.done_gflop_s], s=size, facecolor=colour, edgecolor="white",
                     zorder=4, linewidth=0.8)  # fmt: skip
        axes.scatter([x], [row.useful_gflop_s], s=size, facecolor="white", edgecolor=colour,
                     zorder=3.5, linewidth=1.5)  # fmt: skip
    _name_points(figure, axes, rows)
    axes.set_xlabel("operations per byte", fontsize=TEXT_POINTS, color=INK)
    axes.set_ylabel("GFLOP/s", fontsize=TEXT_POINTS, color=INK)
    axes.tick_params(labelsize=TEXT_POINTS - 1, colors=PALE)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.text(low, TOP + 0.03, "Roofline: filled done, hollow useful; area is the share of time",
                fontsize=TEXT_POINTS, color=INK)  # fmt: skip
    left_out = [row.name for row in table.rows if row not in rows]
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(low - 0.01, 0.028), ncols=3,
        frameon=False, fontsize=TEXT_POINTS - 1, labelcolor=INK, borderaxespad=0,
        handlelength=2.2, columnspacing=1.4,
    )  # fmt: skip
    if left_out:
        text = f"Without operations that are counted: {', '.join(left_out)}."
        figure.text(low, 0.012, text, fontsize=TEXT_POINTS - 2, color=PALE)


def _draw_roofs(axes: Axes, table: StageTable, x_low: float, x_high: float) -> list[Line2D]:
    peaks = table.rows[0].peaks
    working_set = f"the working set, {peaks.working_set_bytes / 1e6:.0f} MB"
    roofs = [
        ("-", f"sgemm {peaks.gflop_s:.0f} GFLOP/s", None),
        ("--", f"copy {peaks.memory_gb_s:.0f} GB/s", peaks.memory_gb_s),
        (":", f"copy of {working_set}: {peaks.working_set_gb_s:.0f} GB/s", peaks.working_set_gb_s),
    ]  # fmt: skip
    handles = []
    for style, label, bandwidth in roofs:
        start = x_low if bandwidth is None else min(x_low, peaks.gflop_s / bandwidth)
        end = x_high if bandwidth is None else peaks.gflop_s / bandwidth
        heights = [peaks.gflop_s] * 2 if bandwidth is None else [bandwidth * start, bandwidth * end]
        axes.plot([start, end], heights, style, color=INK, lw=1.4, zorder=2)
        handles.append(Line2D([], [], linestyle=style, color=INK, lw=1.4, label=label))
    return handles


def _name_points(figure: Figure, axes: Axes, rows: Sequence[StageRow]) -> None:
    """Names in a column beside the panel, each with a line to its filled point."""
    if not rows:
        return
    to_figure = axes.transData + figure.transFigure.inverted()
    places = [to_figure.transform((_intensity(row), row.done_gflop_s)) for row in rows]
    # Of points at one height the left one is named first: its line passes above the others.
    order = sorted(range(len(rows)), key=lambda i: (places[i][1], -places[i][0]))
    heights = spread_labels([places[i][1] for i in order], GAP, BOTTOM, TOP)
    names = []
    for height, index in zip(heights, order, strict=True):
        row, (x, y) = rows[index], places[index]
        text = f"{row.name}  {_rate(row.done_gflop_s)}"
        if row.useful_gflop_s < 0.995 * row.done_gflop_s:
            text += f", useful {_rate(row.useful_gflop_s)}"
        _line(figure, [x, ROOFLINE_NAMES - 0.02, ROOFLINE_NAMES - 0.004], [y, height, height],
              COLOURS[row.time.stage])  # fmt: skip
        names.append(
            figure.text(ROOFLINE_NAMES, height, text, fontsize=TEXT_POINTS, color=INK, va="center")
        )
    _fit(names, COLUMN_ENDS["roofline"])


def _draw_bar(figure: Figure, table: StageTable, part: str, name: str) -> None:
    low, high, start = BARS[part]
    top, middles = TOP, []
    for row in table.rows:
        height = row.share * (TOP - BOTTOM)
        figure.add_artist(
            Rectangle((low, top - height), high - low, height, linewidth=0.6, edgecolor="white",
                      facecolor=COLOURS[row.time.stage], transform=figure.transFigure)
        )  # fmt: skip
        middles.append(top - height / 2)
        top -= height
    # From bottom to top, as the labels are spread.
    heights = spread_labels(middles[::-1], GAP, BOTTOM, TOP)[::-1]
    names = []
    for row, middle, height in zip(table.rows, middles, heights, strict=True):
        _line(figure, [high, start - 0.004], [middle, height], PALE)
        text = f"{row.name}  {_ms(row.mean_ms)}  {_percent(row.share)}"
        names.append(figure.text(start, height, text, fontsize=TEXT_POINTS, color=INK, va="center"))
    _fit(names, COLUMN_ENDS[part])
    head = f"{name}: {_ms(table.whole_ms)}"
    figure.text(low, TOP + 0.03, head, fontsize=TEXT_POINTS, color=INK)


def _fit(texts: Sequence[Text], end: float) -> None:
    """Sets all in smaller type where one would pass `end`, a share of the figure's width."""
    points = max(float(text.get_fontsize()) for text in texts)
    # Widths are rounded to pixels, so type does not shrink quite in proportion.
    while points > MIN_POINTS and any(_right_edge(text) > end for text in texts):
        points -= 0.5
        for text in texts:
            text.set_fontsize(points)


def _right_edge(text: Text) -> float:
    """As a share of the figure's width."""
    figure = text.get_figure(root=True)
    assert figure is not None
    return text.get_window_extent().x1 / figure.bbox.width


def _line(figure: Figure, xs: Sequence[float], ys: Sequence[float], colour: str) -> None:
    figure.add_artist(
        Line2D(list(xs), list(ys), transform=figure.transFigure, color=colour, lw=0.8, alpha=0.8)
    )


def _ms(value: float) -> str:
    """Milliseconds with three digits: 9,870 rather than 9.87e+03."""
    return f"{value:,.0f} ms" if value >= 1000 else f"{value:.3g} ms"


def _rate(gflop_s: float) -> str:
    return f"{gflop_s:.0f}" if gflop_s >= 10 else f"{gflop_s:.2g}"


def _percent(share: float) -> str:
    return "<0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def _intensity(row: StageRow) -> float:
    """Operations per byte."""
    return row.work.done_flops / row.work.moved_bytes
