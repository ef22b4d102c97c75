"""The common part of the benchmarks: rounds, tables, JSON, rows, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import benchmark
import pytest
import result_rows

from tests.profiling.fake_benchmark import FakeBenchmark

ROUNDS = ["--rounds", "3", "--round_s", "0.5"]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(result_rows, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def refusal(capsys: pytest.CaptureFixture[str], *argv: str, fake: FakeBenchmark | None = None):
    """The one line that main says before exit code 2."""
    with pytest.raises(SystemExit) as exit_info:
        benchmark.main(fake or FakeBenchmark(), argv)
    assert exit_info.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


def test_samples_are_those_of_the_rounds_after_the_short_first_one() -> None:
    fake = FakeBenchmark()
    points = [{"impl": "plain", "env": "Small-v0", "lanes": count} for count in (1, 8)]
    samples = benchmark.measure(fake, points, 3, 0.5)
    assert fake.seconds == [benchmark.WARM_ROUND_S] * 2 + [0.5] * 6
    assert samples[0]["lane_updates_per_s"] == [1.0, 2.0, 3.0]
    assert samples[1]["lane_updates_per_s"] == [8.0, 16.0, 24.0]
    assert samples[1]["peak_gflop_s"] == [100.0] * 3
    assert samples[1]["work_share"] == [0.08, 0.16, 0.24]


def test_json_of_several_points_keeps_their_figures_apart(capsys) -> None:
    assert benchmark.main(FakeBenchmark(), [*ROUNDS, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bench"] == "fake" and found["peak_gflop_s"] == 100.0
    assert {"device", "cpu", "threads", "versions", "commit", "date"} <= found.keys()
    assert "lane_updates_per_s" not in found
    one, eight = found["points"]
    assert (one["lanes"], one["lane_updates_per_s"]) == (1, 2.0)
    assert (one["lane_updates_per_s_p20"], one["lane_updates_per_s_p80"]) == (1.4, 2.6)
    assert eight["lane_updates_per_s"] == 16.0


def test_json_of_one_point_has_its_medians_at_the_top(capsys) -> None:
    assert benchmark.main(FakeBenchmark(lanes=(8,)), [*ROUNDS, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["lane_updates_per_s"] == found["points"][0]["lane_updates_per_s"] == 16.0
    assert found["peak_gflop_s"] == 100.0


def test_table_names_common_sizes_once_and_the_others_in_columns(capsys) -> None:
    assert benchmark.main(FakeBenchmark(), ROUNDS) == 0
    first, head, one, eight, last = capsys.readouterr().out.splitlines()
    assert first == "fake: impl plain, env Small-v0"
    assert head.split()[:3] == ["lanes", "lane_updates_per_s", "[1/s]"]
    assert one.split()[:3] == ["1", "2", "(1.4..2.6)"]
    assert eight.split()[:3] == ["8", "16", "(11.2..20.8)"]
    assert last.startswith("medians of 3 rounds (p20..p80); cpu, ")


def test_record_appends_one_row_a_point_and_metric(results: Path, capsys) -> None:
    for _ in range(2):
        assert benchmark.main(FakeBenchmark(), [*ROUNDS, "--record"]) == 0
    with (results / "fake.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 3
    assert list(rows[0])[:5] == ["bench", "impl", "env", "lanes", "metric"]
    assert list(rows[0])[5:9] == ["p20", "p50", "p80", "unit"]
    rates = [row for row in rows if row["metric"] == "lane_updates_per_s"]
    assert [(row["lanes"], row["p50"], row["unit"]) for row in rates[:2]] == [
        ("1", "2.0", "1/s"),
        ("8", "16.0", "1/s"),
    ]


def test_rows_with_other_columns_are_refused_before_anything_is_measured(
    results: Path, capsys
) -> None:
    results.mkdir()
    (results / "fake.csv").write_text("bench,lanes\n")
    fake = FakeBenchmark()
    assert "has columns" in refusal(capsys, "--record", fake=fake)
    assert fake.seconds == []
    assert (results / "fake.csv").read_text() == "bench,lanes\n"


def test_unwritable_results_are_refused_in_one_line(results: Path, capsys) -> None:
    results.write_text("a file where the folder should be")
    assert "cannot be written" in refusal(capsys, "--record")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rounds", "0"], "--rounds: must be an integer of at least 1, got '0'"),
        (["--round_s", "-1"], "--round_s: must be a number above 0, got '-1'"),
        (["--round_s", "nan"], "--round_s: must be a number above 0"),
        (["--how_often", "x"], "--how_often: must be an integer of at least 1, got 'x'"),
        (["--batch_size", "3"], "--batch_size is not an option of this script"),
        (["--record", "--compare", "HEAD"], "--record must be given without --compare"),
    ],
)
def test_bad_options_end_in_one_line(arguments: list[str], words: str, capsys) -> None:
    assert words in refusal(capsys, *arguments)


def test_what_a_benchmark_refuses_ends_in_one_line(capsys, monkeypatch) -> None:
    def refuse(self, point):
        raise ValueError("differs from\nthe reference")

    monkeypatch.setattr(FakeBenchmark, "prepare", refuse)
    assert refusal(capsys) == "fastanf: error: differs from the reference\n"


def test_own_options_may_be_spelled_with_dashes_and_the_rest_is_passed_on(capsys) -> None:
    fake = FakeBenchmark()
    fake.takes_train_flags = True
    arguments = ["--Rounds=1", "--how-often", "2", "--fake-features", "0.9"]
    assert benchmark.main(fake, arguments) == 0
    assert fake.how_often == 2 and len(fake.seconds) == 4
    assert fake.rest == ["--fake-features", "0.9"]


def test_interruption_ends_without_a_traceback(monkeypatch) -> None:
    def interrupt(self, point):
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeBenchmark, "prepare", interrupt)
    assert benchmark.main(FakeBenchmark(), ROUNDS) == 130
