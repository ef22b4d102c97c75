"""Processes that measure one tree each: requests, answers, whose modules they see."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import revisions
import workers

from tests.profiling.fake_benchmark import POINTS, FakeBenchmark


def asked(fake: FakeBenchmark, *requests: dict) -> list[dict]:
    """What a worker answers."""
    lines, answers = io.StringIO("".join(f"{json.dumps(r)}\n" for r in requests)), io.StringIO()
    namespace = argparse.Namespace(how_often=1, serve=True)
    assert workers.answer_requests(fake, namespace, [], lines, answers) == 0
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_worker_answers_each_request_and_survives_errors(monkeypatch) -> None:
    points, built, figures, unknown = asked(
        FakeBenchmark(),
        {"do": "points"},
        {"do": "prepare", "point": 1},
        {"do": "measure", "point": 1, "seconds": 0.1},
        {"do": "dance"},
    )
    assert points["points"] == POINTS
    assert all(Path(name).is_relative_to(revisions.ROOT) for name in points["imported"])
    assert built == {} and figures == {"figures": {"lane_updates_per_s": 40.0}}
    assert unknown == {"error": "unknown request 'dance'"}
    monkeypatch.setattr(FakeBenchmark, "prepare", lambda self, point: point.nothing)
    *_, failed = asked(FakeBenchmark(), {"do": "points"}, {"do": "prepare", "point": 0})
    assert failed["error"].startswith("AttributeError: ")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import sys; sys.exit('fastanf: error: --x is not an option')", "--x is not an option"),
        ("raise SystemExit(3)", "it ended with code 3"),
        (
            'print(\'{"points": [], "imported": ["/elsewhere/fastanf.py"]}\')',
            "imported /elsewhere/fastanf.py, not its own code",
        ),
    ],
)
def test_worker_that_cannot_serve_is_one_line(script: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(script)
    with pytest.raises(ValueError, match=words):
        workers.Worker("HEAD", tmp_path, path, [])


def test_worker_does_not_see_modules_that_only_this_tree_has(tmp_path: Path) -> None:
    (tmp_path / "fastanf").mkdir()
    (tmp_path / "fastanf" / "__init__.py").write_text("")
    script = tmp_path / "script.py"
    script.write_text(
        "import fastanf\ntry:\n    import fastanf.cli\nexcept ImportError:\n    print(1)"
    )
    found = subprocess.run(
        [sys.executable, str(workers.__file__), str(script)],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (found.stdout, found.stderr) == ("1\n", "")
