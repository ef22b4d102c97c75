"""What measurements are recorded with, and where."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import result_rows
import torch


@pytest.mark.parametrize(
    ("metric", "unit"),
    [
        ("lane_updates_per_s", "1/s"),
        ("useful_gflop_s", "GFLOP/s"),
        ("copy_gb_s", "GB/s"),
        ("stage:critic optimizer_ms", "ms"),
        ("build_s", "s"),
        ("overhead_share", ""),
    ],
)
def test_unit_follows_from_the_name(metric: str, unit: str) -> None:
    assert result_rows.unit(metric) == unit


def test_metric_without_a_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="must end in"):
        result_rows.unit("speed")


def test_summary_interpolates_between_samples() -> None:
    assert result_rows.summary([1.0, 2.0, 3.0, 4.0]) == (1.6, 2.5, 3.4)
    assert str(result_rows.summary([1 / 3])) == "0.33333 (0.33333..0.33333)"


@pytest.mark.parametrize(("changed", "commit"), [("", "abc1234"), ("envs/x.py", "abc1234-dirty")])
def test_commit_says_whether_the_measured_code_differs(changed: str, commit: str, monkeypatch):
    class Answer:
        def __init__(self, stdout: str):
            self.stdout = stdout

    answers = {"rev-parse": "abc1234\n", "diff": changed}
    monkeypatch.setattr(result_rows, "_git", lambda *words: Answer(answers[words[0]]))
    assert result_rows.conditions()["commit"] == commit


def test_conditions_name_the_gpu_and_the_packages(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU at {device}")
    facts = result_rows.conditions("cuda:1", ("numpy", "no-such-package"))
    assert facts["device"] == "cuda:1 (a GPU at cuda:1)"
    assert facts["versions"].startswith("python ")
    assert f"numpy {numpy.__version__}, no-such-package not installed" in facts["versions"]


def test_check_leaves_no_empty_file(tmp_path: Path, monkeypatch) -> None:
    results = tmp_path / "results"
    monkeypatch.setattr(result_rows, "RESULTS", results)
    result_rows.check("fake", ["bench"])
    assert list(results.iterdir()) == []
