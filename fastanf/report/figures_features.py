"""Each feature's connections over time as a map, the real features above a sample of the noise."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fastanf.picture import (
    EDGE,
    FOOT_POINTS,
    GREY,
    INK,
    RULE,
    TEXT_POINTS,
    TITLE_POINTS,
    add_axes,
    fit,
    line_height,
    new_figure,
    short_number,
    text_width,
    wrap,
    write,
)
from fastanf.report.connections import FeatureMap
from fastanf.report.drawing import STEPS, empty_figure, sentence
from fastanf.report.violets import violets

MISSING = "#F3E7C9"
MAP_WIDTH = 6.4
MAX_NAMED = 40
"""Real features that still have a row each that is high enough for a name."""
ROW, NOISE_ROW, MAX_BLOCK = 0.165, 0.045, 3.6
"""Inches of a named row, of another one, and of all rows of a kind at most."""
MAX_NOISE_ROWS = 48
MAX_NAME = 1.5


def feature_heat_map(
    features: FeatureMap | None, names: Sequence[str] = (), events: Sequence[int] = ()
) -> Figure:
    """Active connections of each feature over time, the real ones above a sample of the noise.

    Args:
        features: of one network of one lane; None where its layer is dense.
        names: of the real features, or empty.
        events: steps at which the features changed places; a row stays with its feature.

    Raises:
        ValueError: not as many names as real features.
    """
    if features is None:
        text = "no sparse first layer: every feature has all connections"
        return empty_figure("Connections of each feature", text)
    if names and len(names) != features.num_real:
        raise ValueError(f"names: {len(names)} given for {features.num_real} real features")
    names = names if features.num_real <= MAX_NAMED else ()
    real, noise = features.real, features.noise[:MAX_NOISE_ROWS]
    left = max(1.05, 0.3 + max((text_width(n, FOOT_POINTS) for n in names), default=0.0))
    width = left + MAP_WIDTH + 1.2
    title = wrap(f"{features.label}: connections of each feature", TITLE_POINTS, width - 0.24, True)
    caption = wrap(_map_caption(features, len(noise), events), FOOT_POINTS, width - left - EDGE)
    top = EDGE + len(title) * line_height(TITLE_POINTS) + 0.12
    heights = (_block(len(real), ROW if names else 0.12), _block(len(noise), NOISE_ROW))
    bottom = top + sum(heights) + 0.12
    figure = new_figure(width, bottom + 0.62 + len(caption) * line_height(FOOT_POINTS) + EDGE)
    look: dict[str, Any] = {"fontsize": TITLE_POINTS, "weight": "bold", "linespacing": 1.3}
    write(figure, EDGE, EDGE, "\n".join(title), **look)
    write(figure, left, bottom + 0.34, STEPS)
    look = {"fontsize": FOOT_POINTS, "color": GREY, "linespacing": 1.3}
    write(figure, left, bottom + 0.6, "\n".join(caption), **look)
    most = max(1.0, float(np.nanmax(features.counts)))
    tops = (top, top + heights[0] + 0.12)
    counts = (f"{len(real)} real", f"{len(noise)} noise")
    for rows, height, y, word in zip((real, noise), heights, tops, counts, strict=True):
        if not len(rows):
            continue
        axes = add_axes(figure, left, y, MAP_WIDTH, height)
        _draw_rows(axes, features.steps, rows, most, events)
        if rows is noise or not names:
            axes.set_ylabel(word, fontsize=TEXT_POINTS, color=INK)
        else:
            axes.set_yticks(np.arange(len(names)) + 0.5, [fit(n, 8, MAX_NAME) for n in names])
        axes.tick_params(axis="x", labelbottom=rows is noise or not len(noise))
    _draw_scale(
        add_axes(figure, left + MAP_WIDTH + 0.15, top, 0.14, 1.6), most, features.random_level
    )
    return figure


def _block(num_rows: int, row: float) -> float:
    return min(MAX_BLOCK, max(0.5, num_rows * row)) if num_rows else 0.0


def _draw_rows(
    axes: Axes, steps: np.ndarray, rows: np.ndarray, most: float, events: Sequence[int]
) -> None:
    """A column of cells an evaluation, which ends at its step."""
    x_edges = _column_edges(steps, events)
    y_edges = np.arange(len(rows) + 1)
    colours = violets()
    axes.set_facecolor(MISSING)
    axes.pcolormesh(x_edges, y_edges, np.ma.masked_invalid(rows), cmap=colours, vmin=0, vmax=most,
                    rasterized=True)  # fmt: skip
    axes.invert_yaxis()
    for side in axes.spines.values():
        side.set_color(RULE)
    axes.set_yticks([])
    axes.tick_params(length=0, labelsize=FOOT_POINTS, colors=GREY, pad=4)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x)))
    for x in events:
        if x_edges[0] < x < x_edges[-1]:
            axes.axvline(x, color="white", lw=2.6)
            axes.axvline(x, color="#D55E00", lw=1.4)


def _column_edges(steps: np.ndarray, events: Sequence[int]) -> np.ndarray:
    """[S + 1] ends of the columns: evaluations, or an event since the evaluation before.

    What an evaluation found does not hold before the event, so its column begins there.
    """
    first = steps[0] - (steps[1] - steps[0]) if len(steps) > 1 else 0
    edges = np.concatenate([[max(0, first)], steps]).astype(float)
    if edges[0] >= edges[1]:  # the only evaluation is at step 0
        edges[0] = edges[1] - 1
    for event in events:
        column = int(np.searchsorted(steps, event, side="right"))  # of the first step after it
        if 0 < column < len(steps):
            edges[column] = event
    return edges


def _draw_scale(axes: Axes, most: float, level: float) -> None:
    """The colours of the map with their numbers and the random level."""
    shades = np.linspace(0, most, 128)[:, None]
    axes.pcolormesh([0, 1], np.linspace(0, most, 129), shades, cmap=violets(), rasterized=True)
    axes.yaxis.tick_right()
    axes.set_xticks([])
    ticks = [0.0, most]
    words = ["0", f"{most:.0f}"]
    if np.isfinite(level) and 0.12 * most < level < 0.88 * most:
        ticks.append(level)
        words.append(f"{level:.0f} random")
    axes.set_yticks(ticks, words)
    axes.tick_params(length=2, labelsize=FOOT_POINTS, colors=GREY, pad=3)
    for side in axes.spines.values():
        side.set_color(RULE)


def _map_caption(features: FeatureMap, num_shown: int, events: Sequence[int]) -> str:
    num_noise = features.num_features - features.num_real
    return sentence(
        "colour: active connections of a feature when its column ends",
        f"{num_shown} of {num_noise} noise features stand for all" if num_shown < num_noise else "",
        "orange verticals: the features change places, a row stays with its feature"
        if len(events)
        else "",
    )
