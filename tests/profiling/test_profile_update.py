"""profile_update.py as typed: tables and verdicts, JSON, rows, files, and refusals in one line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import profile_update
import pytest
import result_rows
import stage_profile

from fastanf.peaks import Peaks

TINY = [
    *("--env", "Hopper-v3", "--fake_features", "0.5", "--hidden", "8x8", "--batch_size", "4"),
    *("--eval_episodes", "1", "--lanes", "2", "--seconds", "0.05", "--replay_capacity", "2000"),
]


@pytest.fixture(autouse=True)
def known_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_profile, "measure_peaks", lambda *_: Peaks(100.0, 10.0, 50.0, 1000))
    monkeypatch.setattr(stage_profile, "NUM_CHUNKS", 2)


def test_it_prints_two_tables_with_verdicts_and_conditions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert profile_update.main([*TINY, "--policy", "ANF-SAC", "SAC", "--layout", "masked"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("ANF-SAC+SAC, Hopper-v3 at noise 0.5, input 0.8, 2 lanes, batch 4")
    for words in (
        "One update", "One training step", "critic backward", "topology", "evaluation", "-bound: ",
        "Begin with ", "The update is ", "lane updates per second", "sgemm 100 GFLOP/s",
        "Operators called: ", "the block is on a CPU", "device cpu", "commit ",
    ):  # fmt: skip
        assert words in text, words


def test_json_is_one_object_with_the_figures_of_the_whole(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert profile_update.main([*TINY, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    for name in ("lane_updates_per_s", "env_steps_per_s", "useful_gflop_s", "peak_gflop_s"):
        assert whole[name] > 0
    assert whole["lanes"] == 2 and whole["policies"] == "ANF-SAC"
    shares = [row["share"] for row in whole["stages"] if row["part"] == "update"]
    assert sum(shares) == pytest.approx(1, abs=1e-3)


def test_record_appends_a_row_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_rows, "RESULTS", tmp_path)
    for _ in range(2):
        assert profile_update.main([*TINY, "--record"]) == 0
    with (tmp_path / "stages.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    update = [row for row in rows if row["part"] == "update"]
    assert [row["metric"] for row in update[: len(update) // 2]].count("target") == 1
    assert {"bench", "impl", "lanes", "p20", "p50", "p80", "unit", "device", "commit"} <= set(
        rows[0]
    )


def test_files_are_written_where_they_were_asked_for(tmp_path: Path) -> None:
    plot, trace = tmp_path / "stages.png", tmp_path / "steps.pt.trace.json"
    assert profile_update.main([*TINY, "--plot", str(plot), "--trace", str(trace)]) == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "traceEvents" in json.loads(trace.read_text())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--device cuda:99", "device must be one of"),
        ("--device tpu", "device must be one of"),
        ("--lanes 0", "--lanes"),
        ("--seconds never", "--seconds"),
        ("--plot {tmp}/none/x.png", "--plot must be a file in a writable folder"),
        ("--plot {tmp}/x.xyz", "--plot must end in one of"),
        ("--trace {tmp}", "--trace must be a file in a writable folder"),
        ("--flame {tmp}/none/x.svg", "--flame must be a file in a writable folder"),
        ("--env Hoper-v3", "Hopper-v3"),
        ("--layout csc", "--layout"),
        ("--impl fast", "--impl"),
        ("--policy ANF-SAC ANF-TD3", "lanes of one kind, got 2"),
        (
            "--policy ANF-SAC SAC --layout csr",
            "profile one policy at a time, or with --layout mask",
        ),
        ("--unknown 3", "--unknown"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        profile_update.main([*TINY, *arguments.format(tmp=tmp_path).split()])
    assert raised.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and message in captured.err
    assert not list(tmp_path.iterdir())


def test_a_full_results_file_of_other_columns_is_refused_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(result_rows, "RESULTS", tmp_path)
    (tmp_path / "stages.csv").write_text("bench,other\n")
    with pytest.raises(SystemExit):
        profile_update.main([*TINY, "--record"])
    assert "columns" in capsys.readouterr().err
