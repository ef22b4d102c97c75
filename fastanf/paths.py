"""Paths as a user types them, which may name nobody's home."""

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
