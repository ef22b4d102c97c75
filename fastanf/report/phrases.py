"""Numbers and lists as they are written on the page."""

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

ABSENT = "\N{EN DASH}"
"""Where there is no number."""


def count(number: int, noun: str) -> str:
    """3 lanes, 1 lane."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listing(items: Iterable[str]) -> str:
    """a, b and c."""
    *first, last = [*items] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def part_of(part: int, whole: int, noun: str) -> str:
    """3 of 4 lanes, or 4 lanes where that is all."""
    return count(whole, noun) if part == whole else f"{part:,} of {count(whole, noun)}"


def left_out(counts: Iterable[tuple[str, int, int]]) -> str:
    """1 of 4 lanes of ANF-SAC and 2 of 4 lanes of SAC; nothing where none is missing.

    Args:
        counts: of each arm its label, how many lanes are missing, and how many it has.
    """
    return listing(
        f"{missing:,} of {count(every, 'lane')} of {label}"
        for label, missing, every in counts
        if missing
    )


def when(time: datetime) -> str:
    """A time to the minute, in UTC; one without a zone is taken to be so."""
    time = time if time.tzinfo is None else time.astimezone(UTC)
    return f"{time:%Y-%m-%d %H:%M} UTC"


def returns(value: float) -> str:
    """A return: whole from 100 on, one decimal below."""
    if not math.isfinite(value):
        return ABSENT
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"
    return text.replace("-", "\N{MINUS SIGN}")


def returns_range(low: float, high: float) -> str:
    """An interval of returns; nothing where there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{returns(low)}, {returns(high)}]"


def share(value: float) -> str:
    """A share of 1, in two decimals."""
    return f"{value:.2f}" if math.isfinite(value) else ABSENT


def share_range(low: float, high: float) -> str:
    """An interval of shares; nothing where there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{low:.2f}, {high:.2f}]"


def whole(value: float) -> str:
    """A count."""
    return f"{value:,.0f}" if math.isfinite(value) else ABSENT


def short(value: float) -> str:
    """Three digits with a unit prefix: 43.5k, 12.1M, 3.4G."""
    if not math.isfinite(value):
        return ABSENT
    for unit, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{prefix}" if abs(value) < 1000 * unit else whole(value)
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """3 h 20 min, 4 min 10 s, 12.3 s."""
    if not math.isfinite(seconds):
        return ABSENT
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def setting_text(value: Any) -> str:
    """A setting's value as it is typed: sizes with x, words bare."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        is_sizes = all(isinstance(item, int) for item in value)
        return ("x" if is_sizes else " ").join(map(setting_text, value)) or "none"
    return str(value)
