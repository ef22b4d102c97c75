"""Flame graphs: drawn where py-spy may look, refused in one line where it is not there."""

from __future__ import annotations

from pathlib import Path

import flame
import pytest


def busy_with_a_name_of_its_own() -> int:
    return sum(range(20_000))


def test_the_flame_graph_shows_what_ran(tmp_path: Path) -> None:
    path = tmp_path / "python.svg"
    try:
        flame.write_flame(path, busy_with_a_name_of_its_own, 1.0)
    except ValueError as error:
        pytest.skip(f"py-spy may not look here: {error}")
    assert "busy_with_a_name_of_its_own" in path.read_text()


def test_a_missing_py_spy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flame.shutil, "which", lambda *_, **__: None)
    with pytest.raises(ValueError, match=r"--flame needs py-spy: pip install 'fastanf\[profile\]'"):
        flame.py_spy()


def test_a_failing_py_spy_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "py-spy"
    fake.write_text("#!/bin/sh\necho 'Permission denied' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(flame, "py_spy", lambda: str(fake))
    with pytest.raises(ValueError, match="--flame: py-spy failed: Permission denied"):
        flame.write_flame(tmp_path / "x.svg", lambda: None, 1.0)
