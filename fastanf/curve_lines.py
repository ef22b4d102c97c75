"""A curve with its interval and the single runs behind it, drawn into axes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from fastanf.picture import Style

MAX_SINGLES = 50
"""Thin lines in a panel; where there are more, none is drawn."""
NO_VALUES = np.empty(0)


@dataclass(frozen=True, eq=False)
class Line:
    """One curve; places where a value is nan are left out."""

    label: tuple[str, ...]
    """Its name, then smaller lines."""
    style: Style
    xs: np.ndarray
    """[S] ascending."""
    centre: np.ndarray
    """[S]"""
    low: np.ndarray = field(default_factory=lambda: NO_VALUES)
    """[S] lower end of the interval, or empty."""
    high: np.ndarray = field(default_factory=lambda: NO_VALUES)
    singles: Sequence[tuple[np.ndarray, np.ndarray]] = ()
    """What the curve summarizes: x and y of each."""
    is_level: bool = False
    """Something to compare with: a thin line, over all of the panel if its value is constant."""

    has_whiskers: bool = False
    """Whether its points stand for themselves: markers with bars instead of a line with a band."""

    @property
    def is_drawn(self) -> bool:
        """Whether there is anything to draw."""
        return bool(np.isfinite(self.centre).any())

    @property
    def is_constant(self) -> bool:
        """Whether all of its values are the same."""
        finite = self.centre[np.isfinite(self.centre)]
        return bool((finite == finite[:1]).all())

    @property
    def end(self) -> tuple[float, float]:
        """x and y of the last point that is drawn."""
        at = int(np.flatnonzero(np.isfinite(self.centre))[-1])
        return float(self.xs[at]), float(self.centre[at])


@dataclass(frozen=True, eq=False)
class Points:
    """Values from elsewhere, drawn as hollow markers."""

    style: Style
    xs: np.ndarray
    ys: np.ndarray


@dataclass(frozen=True, eq=False)
class CurvePanel:
    """The curves of one pair of axes."""

    lines: Sequence[Line]
    title: str = ""
    group: str = ""
    """Panels of the same group have the same range of y."""
    points: Sequence[Points] = ()
    events: Sequence[float] = ()
    """x of vertical lines."""

    @property
    def has_singles(self) -> bool:
        """Whether there are thin lines and they are few enough to be drawn."""
        return 0 < sum(len(line.singles) for line in self.lines) <= MAX_SINGLES


def draw_line(axes: Axes, line: Line, draws_singles: bool) -> None:
    """Draws a curve, its interval and, if asked, what it summarizes."""
    colour, dashes, _ = line.style
    if line.is_level:
        look: dict[str, Any] = {"color": colour, "ls": dashes, "lw": 1.2, "zorder": 3.5}
        if line.is_constant:
            axes.axhline(line.end[1], **look)
        else:
            axes.plot(line.xs, line.centre, **look)
        return
    if line.has_whiskers:
        _draw_whiskers(axes, line, draws_singles)
        return
    if draws_singles:
        for xs, ys in line.singles:
            axes.plot(xs, ys, color=colour, lw=0.7, alpha=0.4, zorder=2)
            _dot_alone(axes, xs, ys, color=colour, ms=3.5, alpha=0.4, mew=0, zorder=2)
    if line.low.size:
        axes.fill_between(line.xs, line.low, line.high, color=colour, alpha=0.16, lw=0, zorder=1)
        at = _alone(line.centre)
        axes.vlines(line.xs[at], line.low[at], line.high[at], color=colour, lw=1.8, zorder=3)
    axes.plot(line.xs, line.centre, color=colour, lw=2.2, ls=dashes, zorder=4)
    _dot_alone(axes, line.xs, line.centre, color=colour, ms=7, mec="white", mew=1.0, zorder=4)


def _draw_whiskers(axes: Axes, line: Line, draws_singles: bool) -> None:
    colour, dashes, marker = line.style
    axes.plot(line.xs, line.centre, color=colour, lw=1, ls=dashes, alpha=0.6, zorder=2)
    if draws_singles:
        look: dict[str, Any] = {"ms": 3.2, "mew": 0, "alpha": 0.45, "zorder": 2.5}
        for xs, ys in line.singles:
            axes.plot(xs, ys, "o", color=colour, **look)
    if line.low.size:
        axes.vlines(line.xs, line.low, line.high, color=colour, lw=1.8, zorder=3)
    axes.plot(line.xs, line.centre, marker, color=colour, ms=7, mec="white", mew=1.0, zorder=4)


def draw_points(axes: Axes, points: Points) -> None:
    """Draws hollow markers."""
    look: dict[str, Any] = {
        "mfc": "white",
        "mew": 1.4,
        "ms": 6,
        "ls": "",
        "zorder": 5,
        "clip_on": False,
    }
    axes.plot(points.xs, points.ys, points.style.marker, color=points.style.colour, **look)


def _alone(values: np.ndarray) -> np.ndarray:
    """[S] whether a value is finite between two that are not: no line would show it."""
    finite = np.pad(np.isfinite(values), 1)
    return finite[1:-1] & ~finite[:-2] & ~finite[2:]


def _dot_alone(axes: Axes, xs: np.ndarray, ys: np.ndarray, **look: Any) -> None:
    at = _alone(ys)
    if at.any():
        axes.plot(xs[at], ys[at], "o", **look)
