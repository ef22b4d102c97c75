"""Paths as a user types them, which may name nobody's home, or no path at all but a URL."""

import re
from pathlib import Path

from fastanf.options import shown


def expanded(path: str | Path, label: str) -> Path:
    """A path with `~` as the home that it stands for.

    Args:
        path: as typed.
        label: what an error calls it.

    Raises:
        ValueError: there is no such home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{label} must be a path, got {shown(str(path))}, which begins with nobody's home"
        ) from None


def is_url(path: str) -> bool:
    """Whether it names something in a store (`s3://bucket/run`) and no file of this machine."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path) is not None
