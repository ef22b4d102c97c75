"""JSON from files of unknown origin: one meaning or none, and never deeper than Python can follow.

What `json.loads` takes beside the standard is refused: NaN and Infinity, numbers beyond float64, a
name that an object holds twice (readers disagree on which one counts).
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn


def strict_loads(text: str | bytes) -> Any:
    """The value of a JSON text.

    Args:
        text: as a string, or in UTF-8.

    Raises:
        ValueError: it is no JSON, nested too deeply, or says something twice.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_number
        )
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"JSON with the name {twice[:80]!r} twice")
    return content


def _constant(word: str) -> NoReturn:
    raise ValueError(f"JSON with {word}, which is no number")


def _number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"JSON with the number {digits[:80]}, which is too large")
    return value
