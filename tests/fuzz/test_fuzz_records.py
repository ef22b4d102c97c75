"""Tables and manifests of a run, damaged in every way: read as they were, or refused in one line.

How to try more of them: tests/fuzz/fuzzing.py.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastanf.__main__ import main
from fastanf.lane_records import blocks_from_rows
from fastanf.records import FORMAT_VERSION, read_manifest
from fastanf.report.collected import read_runs
from fastanf.report.page import write_report
from fastanf.rows import (
    read_evaluations,
    read_features,
    read_lanes,
    read_profile,
    read_quarantine,
    read_topology,
    read_training,
)
from fastanf.run_manifest import check_lanes, run_settings
from fastanf.strict_json import strict_loads
from tests.fuzz.damage import damaged
from tests.fuzz.fuzzing import command_outcome, outcome, tries
from tests.report_runs import run_lanes, without_drawing, write_run

READERS: dict[str, Callable[..., Any]] = {
    "eval.csv": read_evaluations,
    "train.csv": read_training,
    "topology.csv": read_topology,
    "features.csv": read_features,
    "quarantine.csv": read_quarantine,
    "stages.csv": read_profile,
}
EXTRA = {
    "quarantine.csv": "lane,step,updates,cause,checkpoint_step\n1,15000,15000,critic loss nan,-1\n",
    "stages.csv": (
        "lane,step,updates,part,stage,per_step,p20_ms,p50_ms,p80_ms,mean_ms,share,useful_gflop_s,"
        "done_gflop_s,of_sgemm,gb_s,of_copy,limit\n"
        "0,5000,5000,update,replay,1.0,0.1,0.2,0.3,0.2,0.5,nan,nan,nan,nan,nan,\n"
        "0,5000,5000,step,other,1.0,0.1,0.2,0.3,0.2,0.5,1.5,2.5,0.5,1e-09,0.1,memory\n"
    ),
}


@pytest.fixture(scope="module", params=["sealed", "older"])
def run(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The folder of a made-up run of two lanes with every table; an older one has no checksums."""
    lanes = run_lanes(num_seeds=1)
    content = {"run": {"num_seeds": 1, "device": "cpu"}, "study": {"name": "x", "file": "y"}}
    path = write_run(tmp_path_factory.mktemp("runs") / "run", lanes, 3, manifest=content)
    for name, text in EXTRA.items():
        (path / name).write_text(text)
    if request.param == "older":
        content = {"format_version": FORMAT_VERSION, **read_manifest(path)}
        del content["lanes_sha256"]
        (path / "manifest.json").write_text(json.dumps(content, indent=2))
    return path


def all_of(path: Path) -> None:
    """Everything that readers of a run folder ask for."""
    manifest = read_manifest(path)
    check_lanes(path, manifest)
    run_settings(manifest)
    lanes = read_lanes(path)
    blocks_from_rows(lanes)
    for read in READERS.values():
        check_rows(read(path, lanes), len(lanes))


def check_rows(rows: list[Any], num_lanes: int) -> None:
    """Values of the types of their columns, and what every reader relies on."""
    for row in rows:
        assert type(row.lane) is int and 0 <= row.lane < num_lanes
        assert type(row.step) is int and 0 <= row.step < 2**63
        for name in ("density", "precision"):
            share = getattr(row, name, math.nan)
            assert math.isnan(share) or 0 <= share <= 1


def test_the_whole_run_is_read(run: Path) -> None:
    all_of(run)
    assert len(read_evaluations(run)) == len(read_training(run)) == 2 * 3
    assert len(read_topology(run)) == 3 * 3 and len(read_features(run)) == 2 * 3 * 3
    assert len(read_quarantine(run)) == 1 and len(read_profile(run)) == 2


@tries(150)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(run: Path, data: Any) -> None:
    name = data.draw(st.sampled_from(["manifest.json", "lanes.csv", *READERS]))
    whole = (run / name).read_bytes()
    (run / name).write_bytes(data.draw(damaged(whole)))
    try:
        _, refusal = outcome(lambda: all_of(run))
        assert not refusal or name in refusal or (name == "manifest.json" and "run_dir" in refusal)
    finally:
        (run / name).write_bytes(whole)


@tries(20)
@given(data=st.data())
def test_a_report_of_a_damaged_run_is_written_or_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Any
) -> None:
    without_drawing(monkeypatch)
    name = data.draw(st.sampled_from(["manifest.json", "lanes.csv", *list(READERS)[:4]]))
    whole = (run / name).read_bytes()
    (run / name).write_bytes(data.draw(damaged(whole)))
    try:
        page, refusal = outcome(lambda: write_report([run], tmp_path / "report"))
        assert refusal or page.read_text().rstrip().endswith("</html>")
    finally:
        (run / name).write_bytes(whole)
        shutil.rmtree(tmp_path / "report", ignore_errors=True)


# --- one thing at a time --------------------------------------------------------------------------


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def with_cell(path: Path, name: str, line: int, column: str, text: str) -> None:
    """Writes another text into one cell."""
    with open(path / name, newline="") as file:
        rows = list(csv.reader(file))
    rows[line - 1][rows[0].index(column)] = text
    with open(path / name, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


BAD_CELLS = [
    (
        "eval.csv",
        "step",
        ["1_000", " 5", "5 ", "+5", "5.0", "nan", "", "-1", "05", "1" * 400],
    ),
    ("eval.csv", "lane", ["7", "-1", "\u0663", "x"]),
    ("eval.csv", "episodes", ["-3", "1e3"]),
    ("eval.csv", "return_mean", ["", "1_0.5", "0x1p3", "1e999", "nan ", "one", "1,5"]),
    ("eval.csv", "return_std", ["-0.5", "-inf"]),
    ("eval.csv", "wall_s", ["-1"]),
    ("eval.csv", "noise_fraction", ["1.5", "0.8"]),
    ("eval.csv", "policy", ["SAD", "a\x1b[2J"]),
    ("eval.csv", "seed", ["9"]),
    ("train.csv", "sim_failures", ["-1"]),
    ("train.csv", "critic_loss", ["--1", "infinity", "NaN"]),
    ("topology.csv", "density", ["1.5", "-0.1"]),
    ("topology.csv", "network", ["critic3", "Actor", ""]),
    ("features.csv", "connections", ["1 2 3", "1  2", "x", "1 -2", "1_0"]),
    ("features.csv", "num_real", ["100000"]),
    ("quarantine.csv", "checkpoint_step", ["-2"]),
    ("stages.csv", "part", ["evolve"]),
]


@pytest.mark.parametrize(("name", "column", "texts"), BAD_CELLS)
def test_a_bad_cell_is_refused_with_file_line_and_column(
    run: Path, copy: Path, name: str, column: str, texts: list[str]
) -> None:
    lanes = read_lanes(copy)
    for text in texts:
        shutil.copy(run / name, copy / name)
        with_cell(copy, name, 2, column, text)
        with pytest.raises(
            ValueError, match=rf"{name}' line 2, column {column} must be "
        ) as caught:
            READERS[name](copy, lanes)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True)


@pytest.mark.parametrize("name", ["eval.csv", "train.csv", "topology.csv", "features.csv"])
def test_rows_that_are_doubled_or_late_are_refused(copy: Path, name: str) -> None:
    lines = lines_of(copy / name)
    (copy / name).write_text("".join([*lines, lines[-1]]))
    with pytest.raises(ValueError, match=rf"line {len(lines) + 1}, column step must be above"):
        READERS[name](copy)
    (copy / name).write_text("".join([lines[0], *reversed(lines[1:])]))
    with pytest.raises(ValueError, match=r"column step must be above"):
        READERS[name](copy)


def test_a_lane_that_is_stopped_twice_is_refused(copy: Path) -> None:
    with open(copy / "quarantine.csv", "a") as file:
        file.write("1,20000,20000,critic loss nan,-1\n")
    with pytest.raises(ValueError, match="line 3, column lane must be a lane that was not stopped"):
        read_quarantine(copy)


BAD_TABLES = {
    "quote over lines": (lambda text: text.replace(",80.0,", ',"80.0,', 1), "is damaged"),
    "quote inside": (lambda text: text.replace(",80.0,", ',8"0.0,', 1), "return_std must be"),
    "text behind a quote": (lambda text: text.replace(",80.0,", ',"80.0"5,', 1), "is damaged"),
    "blank line": (lambda text: text + "\n", "has 0 cells, not 14"),
    "long cell": (lambda text: text + "9" * 200_000 + "\n", "is damaged: field larger"),
    "long row": (lambda text: text + "," * 200_000 + "\n", "has 200001 cells, not 14"),
    "short row": (lambda text: text + "1,2\n", "has 2 cells, not 14"),
    "doubled name": (lambda text: text.replace("step,", "lane,", 1), "the column 'lane' twice"),
    "missing name": (lambda text: text.replace("step,", "stop,", 1), "lacks the columns step"),
    "mark": (lambda text: "\ufeff" + text, "lacks the columns lane"),
    "carriage return": (lambda text: text.replace(",80.0,", ",8\r0.0,", 1), "is damaged"),
    "nothing": (lambda text: "", "has no header"),
    "other line ends": (lambda text: text.replace("\n", "\r"), "has no header"),
}


@pytest.mark.parametrize("kind", BAD_TABLES)
def test_a_table_that_is_no_table_is_refused(copy: Path, kind: str) -> None:
    change, words = BAD_TABLES[kind]
    path = copy / "eval.csv"
    path.write_text(change(path.read_text()), newline="")
    with pytest.raises(ValueError, match=rf"eval\.csv' .*{words}") as caught:
        read_evaluations(copy)
    assert len(str(caught.value)) < 500


def test_line_ends_of_windows_and_columns_in_another_order_make_no_difference(copy: Path) -> None:
    expected, path = read_evaluations(copy), copy / "eval.csv"
    text = path.read_text()
    path.write_text(text, newline="\r\n")
    assert read_evaluations(copy) == expected
    rows = [line.split(",") for line in text.splitlines()]
    path.write_text("".join(f"{','.join([*row[5:], *row[:5]])}\n" for row in rows))
    assert read_evaluations(copy) == expected


def test_bytes_that_are_no_text_are_refused_with_their_line(copy: Path) -> None:
    path = copy / "train.csv"
    data = path.read_bytes().split(b"\n")
    data[2] = b"\xff" + data[2]
    path.write_bytes(b"\n".join(data))
    with pytest.raises(ValueError, match=r"train\.csv' line 3 is damaged: not UTF-8"):
        read_training(copy)


def test_what_is_no_file_is_refused_and_not_waited_for(copy: Path) -> None:
    path = copy / "eval.csv"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="no regular file"):
        read_evaluations(copy)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="no regular file"):
        read_evaluations(copy)
    path.unlink()
    with open(path, "wb") as file:
        file.truncate(2**33)  # a hole: no disk is taken
    with pytest.raises(ValueError, match="at most 4294967296 are allowed"):
        read_evaluations(copy)


def test_lanes_that_are_cut_off_or_misnumbered_are_refused(copy: Path) -> None:
    path = copy / "lanes.csv"
    text = path.read_text()
    path.write_text(text[:-5])
    with pytest.raises(ValueError, match="its last line has no end"):
        read_lanes(copy)
    for number in ("0", "2", "1.0", "true", '"1"', "null", "x"):
        path.write_text(text)
        with_cell(copy, "lanes.csv", 3, "lane", number)
        with pytest.raises(ValueError, match=r"lanes\.csv' line 3, column lane must be 1, got"):
            read_lanes(copy)


def test_a_changed_digit_of_lanes_is_found_by_the_manifest(copy: Path) -> None:
    with_cell(copy, "lanes.csv", 2, "drop_fraction", "0.06")
    _, refusal = outcome(lambda: all_of(copy))
    is_sealed = "lanes_sha256" in read_manifest(copy)
    assert ("lanes.csv was changed or is damaged" in refusal) == is_sealed


def test_a_run_that_claims_a_trillion_permutations_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_drawing(monkeypatch)
    lanes = run_lanes(["ANF-SAC"], num_seeds=1, permute_period=1, max_timesteps=10**12)
    run = write_run(tmp_path / "run", lanes, 2)
    for name in ("eval.csv", "train.csv", "topology.csv", "features.csv"):
        text = (run / name).read_text()
        (run / name).write_text(text.replace(",10000,", f",{10**12},"))
    assert write_report([run], tmp_path / "report").is_file()


def test_a_report_of_no_lanes_is_refused(copy: Path) -> None:
    (copy / "lanes.csv").write_text(lines_of(copy / "lanes.csv")[0])
    with pytest.raises(ValueError, match="holds no lane"):
        read_runs([copy])


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "[Infinity]",
        '{"a": 1, "a": 2}',
        "[" * 100_000,
        "1e999",
        "1" * 5000,
        "",
        "{",
        "\ud800",
    ],
    ids=lambda text: text[:8] or "nothing",
)
def test_json_has_one_meaning_or_none(text: str) -> None:
    result, refusal = outcome(lambda: strict_loads(text))
    assert refusal and result is None


COMMANDS = ("resume", "report", "view", "export")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "place", ["a" * 5000, "~nobody-there/run", "", "no/where", "a\nb", "\ud800"]
)
def test_a_place_that_is_no_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, refusal = command_outcome(lambda: main([command, place]))
    assert code is None and refusal
    assert list(tmp_path.iterdir()) == []
