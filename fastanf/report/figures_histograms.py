"""How many connections the features of a first layer have, real against noise, begin and end."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fastanf.picture import (
    TICK_POINTS,
    Frame,
    finish_axes,
    name_panels,
    short_number,
    text_width,
    write,
)
from fastanf.report.connections import FeatureMap
from fastanf.report.drawing import count_range, empty_figure, sentence
from fastanf.report.figures_connections import LEVEL, NOISE, REAL


def connection_histograms(features: Sequence[FeatureMap], title: str) -> Figure:
    """Share of the real and of the noise features with so many connections, at begin and end.

    Args:
        features: of one network of the lanes of an arm, taken together.
        title: which arm and network.
    """
    features = [one for one in features if one.counts.size]
    if not features:
        text = "no sparse first layer: every feature has all connections"
        return empty_figure(f"{title}: connections per feature", text)
    sides = {0: "first evaluation", -1: "last evaluation"}
    if all(len(one.steps) == 1 for one in features):
        sides = {-1: "only evaluation"}
    most = max(float(one.counts.max()) for one in features)
    edges = np.linspace(0, most + 1, max(8, min(32, int(most) // 8)) + 1)
    frame = Frame(
        f"{title}: connections per feature",
        _histogram_caption(features),
        len(sides),
        len(sides),
        3.9 if len(sides) > 1 else 5.3,
        2.4,
        right=0.3,
        x_label="active connections of a feature",
        y_label="share of the features of a kind",
        has_panel_titles=True,
        head=0.3,
    )
    figure, grid = frame.open()
    titles = []
    for axes, (at, side) in zip(grid, sides.items(), strict=True):
        finish_axes(axes)
        _draw_kind(axes, [one.noise[:, at] for one in features], edges, NOISE.colour)
        _draw_kind(axes, [one.real[:, at] for one in features], edges, REAL.colour)
        axes.axvline(features[0].random_level, color=LEVEL.colour, ls=LEVEL.dashes, lw=1.2)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}%"))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlim(0, edges[-1])
        titles.append(f"{side}, {short_number(max(int(one.steps[at]) for one in features))} steps")
    name_panels(grid, titles)
    top = max(axes.get_ylim()[1] for axes in grid)
    for axes in grid:
        axes.set_ylim(0, top)
    _write_kinds(figure, frame, features[0])
    return figure


def _draw_kind(axes: Axes, counts: Sequence[np.ndarray], edges: np.ndarray, colour: str) -> None:
    values = np.concatenate(counts)
    if values.size:
        share = np.histogram(values, edges)[0] / values.size
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.3)
        axes.stairs(share, edges, color=colour, lw=1.8)


def _write_kinds(figure: Figure, frame: Frame, one: FeatureMap) -> None:
    """A key with a patch of each colour, between title and panels."""
    left, top = frame.left, frame.head_top
    across, down = figure.get_size_inches()
    entries = [(f"{one.num_real} real features", REAL), ("random", LEVEL)]
    if len(one.noise):
        entries.insert(1, (f"{len(one.noise)} noise features", NOISE))
    for words, style in entries:
        x, y, width = left / across, 1 - (top + 0.08) / down, 0.22 / across
        if style is LEVEL:
            look = {"color": style.colour, "ls": style.dashes, "lw": 1.2}
            figure.add_artist(Line2D([x, x + width], [y, y], **look))
        else:
            look = {"facecolor": to_rgba(style.colour, 0.3), "edgecolor": style.colour, "lw": 1.4}
            corner, height = (x, y - 0.055 / down), 0.11 / down
            figure.add_artist(
                Rectangle(corner, width, height, transform=figure.transFigure, **look)
            )
        write(figure, left + 0.3, top, words, color=style.ink, fontsize=TICK_POINTS)
        left += 0.65 + text_width(words, TICK_POINTS)


def _histogram_caption(features: Sequence[FeatureMap]) -> str:
    one = features[0]
    num_noise = one.num_features - one.num_real
    return sentence(
        f"{count_range([len(features)], 'lane')} together",
        f"{len(one.noise)} of {num_noise} noise features a lane stand for all"
        if len(one.noise) < num_noise
        else "",
        "dashed: connections of a feature if none were preferred",
    )
