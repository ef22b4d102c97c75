"""Lets tests import the scripts of profiling/, which is no package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "profiling"))


@pytest.fixture
def repository() -> None:
    """Skips where this is no git checkout."""
    import revisions

    try:
        revisions.resolve("HEAD")
    except ValueError as error:
        pytest.skip(str(error))
