"""Numbers, times and lanes as the display of a run writes them."""

import math
from collections.abc import Sequence


def duration(seconds: float) -> str:
    """Seconds as "45 s", "3 min 20 s" or "2 h 05 min"; "?" when unknown."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def number(value: float | None) -> str:
    """Three digits or more, no decimals where they would not be read; "-" when unknown."""
    if value is None or not math.isfinite(value):
        return "-" if value is None or math.isnan(value) else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def mean(values: Sequence[float | None]) -> float:
    """The mean of what is finite among the values; nan of nothing."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def lane_count(num_lanes: int) -> str:
    """ "1 lane", "2 lanes"."""
    return f"{num_lanes} lane" if num_lanes == 1 else f"{num_lanes} lanes"


def spans(lanes: Sequence[int]) -> str:
    """Lane numbers with runs joined: "0-3, 6"."""
    spans: list[list[int]] = []
    for lane in sorted(lanes):
        if spans and lane == spans[-1][1] + 1:
            spans[-1][1] = lane
        else:
            spans.append([lane, lane])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
