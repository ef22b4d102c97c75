"""What all pictures share: colours, sizes of type, places in inches, numbers on axes, a frame.

Lengths are in inches, so that text keeps its place whatever the size of the picture. Text is never
read as mathematics: names of variants may hold dollar signs.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
"""Okabe and Ito's palette, told apart with the common colour-vision deficiencies; yellow is left
out because it fades on white."""
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))
MARKERS = ("o", "s", "^")
"""Line styles and markers of the first, second and third round through the colours."""
DPI = 200
INK, GREY, PALE, RULE, GRID = "#222222", "#555555", "#777777", "#BBBBBB", "#E6E6E6"
MAX_WIDTH = 9.8
"""Of a figure, in inches: about the width of a page of text in a browser, where a picture that is
shown at its own size keeps its type at 8 points or more."""
TITLE_POINTS, HEAD_POINTS, TEXT_POINTS, TICK_POINTS, FOOT_POINTS = 12.5, 10, 10, 9, 8
EDGE = 0.12
"""Inches between the text and the border of the figure."""
_MOST_CHARACTERS = 1000
"""Of one text, so that a figure that names a run of unknown origin stays a figure."""


class Style(NamedTuple):
    """The look of an arm."""

    colour: str
    dashes: Any = "-"
    marker: str = "o"

    @property
    def ink(self) -> tuple[float, float, float]:
        """The colour of its text, darker for contrast on white."""
        red, green, blue = to_rgb(self.colour)
        return 0.72 * red, 0.72 * green, 0.72 * blue


def style_at(number: int) -> Style:
    """The look of the arm of this number, from 0; looks repeat after 21."""
    turn = number // len(COLOURS)
    return Style(
        COLOURS[number % len(COLOURS)], DASHES[turn % len(DASHES)], MARKERS[turn % len(MARKERS)]
    )


@lru_cache(maxsize=4096)
def text_width(text: str, points: float, is_bold: bool = False) -> float:
    """Inches that a line of text takes."""
    font = FontProperties(size=points, weight="bold" if is_bold else "normal")
    return RendererAgg(1, 1, 720).get_text_width_height_descent(text, font, False)[0] / 720


def wrap(text: str, points: float, width: float, is_bold: bool = False) -> list[str]:
    """Lines of at most so many inches, broken at spaces; a longer word has a line for itself.

    Line breaks of the text stay; what is longer than any figure is cut.
    """
    lines = []
    if len(text) > _MOST_CHARACTERS:
        text = text[:_MOST_CHARACTERS] + "…"
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and text_width(longer, points, is_bold) > width:
                lines.append(line)
                line = word
            else:
                line = longer
        lines.append(line)
    return [line for line in lines if line]


def fit(text: str, points: float, width: float, is_bold: bool = False) -> str:
    """The text, its beginning left out until it is no wider than so many inches.

    The end stays, which is where variants differ.
    """
    if len(text) > _MOST_CHARACTERS:
        text = "…" + text[-_MOST_CHARACTERS:]
    if text_width(text, points, is_bold) <= width:
        return text
    starts = range(1, len(text))
    place = bisect.bisect_left(
        starts, True, key=lambda start: text_width("…" + text[start:], points, is_bold) <= width
    )
    return "…" + text[place + 1 :]


def line_height(points: float) -> float:
    """Inches from a line of text to the next."""
    return 1.35 * points / 72


def short_number(value: float) -> str:
    """50000 -> 50k, 1500000 -> 1.5M."""
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.6g}{suffix}"
    return f"{value:.6g}"


def long_number(value: float) -> str:
    """1234.5 -> 1,234.5 with up to ten digits."""
    return f"{value:,.10g}"


def rounded(value: float) -> str:
    """Three or four digits: 12,346; 123; 12.3; 0.123."""
    if not math.isfinite(value):
        return "-"
    if abs(value) >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, on white, that needs no display."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes whose top left corner lies so many inches from that of the figure."""
    across, down = figure.get_size_inches()
    return figure.add_axes(
        (left / across, 1 - (top + height) / down, width / across, height / down)
    )


def write(figure: Figure, left: float, top: float, text: str, **options: Any) -> Text:
    """Text whose top left corner lies so many inches from that of the figure.

    `options` are those of matplotlib's text; its size is `TEXT_POINTS` by default.
    """
    across, down = figure.get_size_inches()
    look = {"fontsize": TEXT_POINTS, "color": INK, "va": "top", "parse_math": False} | options
    return figure.text(left / across, 1 - top / down, text, **look)


def panel_size(axes: Axes) -> tuple[float, float]:
    """Width and height of axes in inches."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    across, down = figure.get_size_inches()
    place = axes.get_position()
    return place.width * across, place.height * down


@dataclass(frozen=True)
class Frame:
    """What stands around the panels of a figure, and where they stand: row by row in a grid."""

    title: str
    caption: str
    num_panels: int
    num_columns: int
    panel_width: float
    panel_height: float
    left: float = 0.85
    """Inches left of each panel, for the numbers of its axis and, in the first, its label."""
    right: float = 0.25
    """Inches right of each panel, for the names of its curves."""
    x_label: str = ""
    y_label: str = ""
    head: float = 0.0
    """Inches below the title, for a key."""
    has_panel_titles: bool = False
    column_gap: float = 0.62
    """Inches left of the panels that are not the first of their row."""

    @property
    def width(self) -> float:
        """Of the figure, in inches; wide enough for half of a title."""
        n = self.num_columns
        width = self.left + n * (self.panel_width + self.right) + (n - 1) * self.column_gap
        return max(width, 4.5)

    @property
    def title_lines(self) -> list[str]:
        """The title, wrapped."""
        return wrap(self.title, TITLE_POINTS, self.width - 2 * EDGE, is_bold=True)

    @property
    def head_top(self) -> float:
        """Inches from the top of the figure to the end of its title."""
        return EDGE + len(self.title_lines) * line_height(TITLE_POINTS) + 0.08

    def open(self) -> tuple[Figure, list[Axes]]:
        """The figure with its title, labels and caption, and the empty axes of its panels."""
        caption = wrap(self.caption, FOOT_POINTS, self.width - self.left - EDGE)
        num_rows = math.ceil(self.num_panels / self.num_columns)
        panel_head = 0.34 if self.has_panel_titles else 0.12
        row_height = panel_head + self.panel_height + 0.34
        top = self.head_top + self.head
        bottom = top + num_rows * row_height
        label_height = 0.26 if self.x_label else 0.0
        caption_top = bottom + label_height
        caption_height = len(caption) * line_height(FOOT_POINTS)
        figure = new_figure(self.width, caption_top + caption_height + EDGE)
        look: dict[str, Any] = {"fontsize": TITLE_POINTS, "weight": "bold", "linespacing": 1.3}
        write(figure, EDGE, EDGE, "\n".join(self.title_lines), **look)
        write(figure, self.left, bottom, self.x_label)
        look = {"fontsize": FOOT_POINTS, "color": PALE, "linespacing": 1.3}
        write(figure, self.left, caption_top, "\n".join(caption), **look)
        middle = (top + bottom) / 2
        write(figure, EDGE, middle, self.y_label, rotation=90, va="center")
        grid = []
        for k in range(self.num_panels):
            row, column = divmod(k, self.num_columns)
            left = self.left + column * (self.panel_width + self.right + self.column_gap)
            height = top + row * row_height + panel_head
            grid.append(add_axes(figure, left, height, self.panel_width, self.panel_height))
        return figure, grid


def finish_axes(axes: Axes) -> None:
    """The common look of axes: a pale grid, no frame but a line below, grey numbers."""
    axes.grid(True, color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.tick_params(length=0, labelsize=TICK_POINTS, colors=GREY, pad=5)


def name_panels(grid: Sequence[Axes], titles: Sequence[str]) -> None:
    """Titles above the left ends of panels, all in the size in which the longest one fits."""
    rooms = [panel_size(axes)[0] + 0.25 for axes in grid]
    fits = all(text_width(t, 10.5) <= room for t, room in zip(titles, rooms, strict=True))
    points = 10.5 if fits else TICK_POINTS
    for axes, title, room in zip(grid, titles, rooms, strict=True):
        look: dict[str, Any] = {"fontsize": points, "color": INK, "parse_math": False}
        up = 1 + 0.09 / panel_size(axes)[1]
        axes.text(0, up, fit(title, points, room), transform=axes.transAxes, va="bottom", **look)


def say_nothing(axes: Axes, text: str) -> None:
    """Says in the middle of empty axes why they are empty."""
    width, _ = panel_size(axes)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    lines = "\n".join(wrap(text, TEXT_POINTS, width - 0.2))
    place: dict[str, Any] = {"ha": "center", "va": "center", "transform": axes.transAxes}
    axes.text(0.5, 0.5, lines, color=PALE, fontsize=TEXT_POINTS, parse_math=False, **place)


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
