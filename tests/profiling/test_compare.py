"""--compare: pairs of rounds, ratios, the stage to blame, revisions, workers, earlier rows."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import bench_update
import benchmark
import compare
import pytest
import result_rows
import revisions
from references import Reference

from tests.profiling.fake_benchmark import POINTS, FakeBenchmark, FakeSide, csv_file, stage_figures


def test_turns_alternate_and_the_first_pair_is_thrown_away() -> None:
    log: list[str] = []
    counts = itertools.count()
    sides = [FakeSide(name, lambda index: {"x_per_s": next(counts)}, log) for name in "AB"]
    measured = compare.measure_turns(sides, [0, 2], 2, 1.0)
    assert log[:4] == ["build A0", "build A2", "build B0", "build B2"]
    assert log[4:] == ["B0", "A0", "B2", "A2", "A0", "B0", "A2", "B2", "B0", "A0", "B2", "A2"]
    assert measured[0] == [({"x_per_s": 4}, {"x_per_s": 5}), ({"x_per_s": 9}, {"x_per_s": 8})]


def fake_report(
    slower_ms: dict[str, float], recorded: dict[int, dict[str, float]] | None = None
) -> compare.Report:
    """Point 1 of this tree against a fake side, its stages slowed."""
    log: list[str] = []
    sides = [
        FakeSide("this", lambda index: stage_figures(**slower_ms), log),
        FakeSide("other", lambda index: stage_figures(), log),
    ]
    measured = compare.measure_turns(sides, [1], 3, 1.0)
    against = Reference("HEAD~1 (abc)", "abc", [1], recorded or {})
    one = compare.Comparison(POINTS[1], against, 1, measured[1], "plain")
    return compare.Report([one], [])


def test_report_shows_ratio_stages_and_verdict() -> None:
    report = fake_report({"critic_optimizer": 6.5})
    lines = report.as_text().splitlines()
    rate = next(line for line in lines if line.startswith("lane_updates_per_s"))
    assert rate.split()[-2:] == ["0.5", "(0.5..0.5)"]
    stage = next(line for line in lines if line.startswith("critic optimizer"))
    assert stage.split() == [
        "critic", "optimizer", "9.5", "3", "3.17", "+6.5", "(+6.5..+6.5)", "100%",
    ]  # fmt: skip
    assert lines[-1] == (
        "slower by 100.0%: critic optimizer takes 6.5 ms more (6.5..6.5), 100% of the change"
    )
    (entry,) = report.as_json()["points"]
    assert entry["lanes"] == 8 and entry["lane_updates_per_s"]["ratio"] == 0.5
    assert entry["stages"]["critic optimizer"]["change_ms"] == 6.5
    assert entry["verdict"] == lines[-1]
    assert json.loads(json.dumps(report.as_json())) == report.as_json()


def test_recorded_medians_stand_apart_from_the_pairs() -> None:
    recorded = {1: {"lane_updates_per_s": 200.0, "unknown_per_s": 1.0}}
    report = fake_report({}, recorded=recorded)
    this_run = result_rows.summary([stage_figures()["lane_updates_per_s"]]).p50
    (entry,) = report.as_json()["points"]
    assert entry["lane_updates_per_s"]["ratio"] == 1.0
    assert entry["lane_updates_per_s"]["recorded"] == 200.0
    assert entry["lane_updates_per_s"]["ratio_to_recorded"] == this_run / 200
    assert "of another run" in report.as_text() and "unknown_per_s" not in report.as_text()


def test_csv_of_measured_changes_is_compared_without_a_second_process(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    class FakeWorker(FakeSide):
        points = POINTS

        def __init__(self, label, tree, script, arguments):
            assert label == "this tree" and arguments == ["--rounds", "2"]
            super().__init__(label, lambda index: {"lane_updates_per_s": 3.0}, [])

        def close(self):
            pass

    monkeypatch.setattr(compare, "Worker", FakeWorker)
    path = csv_file(tmp_path / "old.csv", {"commit": "bbb-dirty"})
    assert benchmark.main(FakeBenchmark(), ["--rounds", "2", "--compare", str(path)]) == 0
    text = capsys.readouterr().out
    assert "recorded at bbb-dirty" in text and "1.5" in text
    assert "the repository has no commit bbb-dirty" in text
    assert "left out, because no row has their sizes: 1 points" in text


@pytest.mark.parametrize("spelled", [["--compare", "HEAD"], ["--Compare=HEAD"]])
def test_workers_get_the_arguments_without_compare(spelled: list[str]) -> None:
    arguments = ["--lanes", "2", *spelled, "--json"]
    assert compare._without_compare(arguments) == ["--lanes", "2", "--json"]


def test_points_that_differ_between_the_trees_are_refused() -> None:
    other = [POINTS[0] | {"impl": "another", "lanes": 2}]
    with pytest.raises(ValueError, match="lanes is 1 in this tree and 2 in HEAD"):
        compare._check_same_points(POINTS[:1], other, "HEAD")
    with pytest.raises(ValueError, match="HEAD makes other points"):
        compare._check_same_points(POINTS, POINTS[:1], "HEAD")


@pytest.mark.usefixtures("repository")
def test_revision_is_exported_and_measured_beside_this_tree(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    def copy_kernels(path: Path) -> str:  # instead of half a minute of compiling
        for library in (revisions.ROOT / revisions._NATIVE).glob("*.so"):
            shutil.copy(library, path / revisions._NATIVE)
        return ""

    monkeypatch.setattr(revisions, "REVISIONS", tmp_path)
    monkeypatch.setattr(revisions, "_build", copy_kernels)
    flags = "--lanes 1 --env Hopper-v3 --fake_features 0.5 --hidden 8 --replay_capacity 600"
    own = "--rounds 1 --round_s 0.01 --json --compare HEAD"
    arguments = [*flags.split(), "--batch_size", "8", "--num_threads", "1", *own.split()]
    assert benchmark.main(bench_update.UpdateBenchmark(), arguments) == 0
    found = json.loads(capsys.readouterr().out)
    (entry,) = found["points"]
    assert entry["env"] == "Hopper-v3" and entry["reference"].startswith("HEAD (")
    assert entry["lane_updates_per_s"]["ratio"] > 0 and entry["env_steps_per_s"]["ratio"] > 0
    assert entry["stages"].keys() >= {"target", "critic optimizer", "env step"}
    assert entry["verdict"].split()[0] in ("slower", "faster", "no")
    (tree,) = tmp_path.iterdir()
    assert (tree / "fastanf" / "learner.py").exists()
