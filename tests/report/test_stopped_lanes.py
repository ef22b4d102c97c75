"""Stopped lanes: a section of their own names them, and numbers say that they lack them."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from fastanf.report.collected import read_runs
from fastanf.report.lane_states import lane_states
from fastanf.report.merging import collect_arms
from fastanf.report.page import write_report
from fastanf.rows import QuarantineRow, columns, csv_line, row_lines
from tests.report_runs import EVAL_FREQ, Page, run_lanes, without_drawing, write_run

CAUSE = "critic loss is inf or nan at update 11,000 or before"
EVIL = "<script>alert(1)</script>\"'&amp;"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_drawing(monkeypatch)


def stopped_run(path: Path, stops: Mapping[int, tuple[int, str, int]], **values) -> Path:
    """Eight lanes, ANF-SAC and SAC, of four evaluations; each of some lanes was stopped at a step,
    by a cause, with a last checkpoint.
    """
    lanes = values.pop("lanes", None) or run_lanes()
    counts = dict.fromkeys(range(len(lanes)), 4)
    counts |= {lane: step // EVAL_FREQ for lane, (step, _, _) in stops.items()}
    run = write_run(path, lanes, counts, **values)
    rows = [
        QuarantineRow(lane, step, step, cause, checkpoint_step)
        for lane, (step, cause, checkpoint_step) in stops.items()
    ]
    lines = [csv_line(columns(QuarantineRow)), *row_lines(rows)]
    (run / "quarantine.csv").write_text("".join(lines))
    return run


def page_of(tmp_path: Path, *runs: Path) -> Page:
    return Page(write_report(runs, tmp_path / "report"))


def rows_of(tmp_path: Path, name: str) -> list[dict[str, str]]:
    with open(tmp_path / "report" / name, newline="") as file:
        return list(csv.DictReader(file))


def section_of(page: Page, title: str, following: str) -> str:
    """The text of a section, behind its second mention: the first is in the contents."""
    return page.text.split(title, 2)[2].split(following)[0]


def test_stopped_lanes_have_a_section_that_answers_first(tmp_path: Path) -> None:
    stops = {1: (11_000, CAUSE, 9_984), 6: (64, "return is inf in an evaluation", -1)}
    page = page_of(tmp_path, stopped_run(tmp_path / "run", stops))
    assert page.errors == []
    assert page.sections()[:3] == ["Final returns", "Stopped lanes", "Learning curves"]
    text = section_of(page, "Stopped lanes", "A lane is stopped when")
    assert text.startswith(
        "2 of 8 lanes were stopped: 1 of 4 lanes of ANF-SAC and 1 of 4 lanes of SAC."
    )
    for words in (f"11,00020,000{CAUSE}step 9,984", "6420,000return is inf in an evaluationnone"):
        assert words in text
    assert "ANF-SAC1 of 4 lanes4 lanes3 of 4 lanes (step 20,000)3 of 4 lanes" in text
    assert "SAC1 of 4 lanes3 of 4 lanes3 of 4 lanes (step 20,000)3 of 4 lanes" in text
    states = {row["lane"]: row for row in rows_of(tmp_path, "lanes.csv")}
    assert [states[lane]["status"] for lane in "0167"] == [
        "finished", "stopped", "stopped", "finished",
    ]  # fmt: skip
    found = [states["1"][name] for name in ("stopped_at", "cause", "checkpoint_step")]
    assert found == ["11000", CAUSE, "9984"]
    assert [states["6"]["checkpoint_step"], states["0"]["cause"]] == ["", ""]


def test_every_number_says_how_many_lanes_it_lacks(tmp_path: Path) -> None:
    lanes = run_lanes(envs=["Hopper-v3", "Walker2d-v3"])
    stops = {1: (11_000, CAUSE, -1), 2: (5_000, CAUSE, -1), 5: (5_000, CAUSE, -1)}
    stops[9] = (15_000, CAUSE, 5_000)
    page = page_of(tmp_path, stopped_run(tmp_path / "run", stops, lanes=lanes))
    hopper, walker = rows_of(tmp_path, "final.csv")[0], rows_of(tmp_path, "final.csv")[2]
    assert (hopper["policy"], walker["policy"]) == ("ANF-SAC", "ANF-SAC")
    names = ("lanes", "lanes_left_out", "lanes_stopped")
    assert [hopper[name] for name in names] == ["2", "2", "2"]
    assert [walker[name] for name in names] == ["3", "1", "1"]
    assert "ANF-SAC ends at" in page.text and "after 20,000 steps (2 of 4 lanes)" in page.text
    missing = "2 of 4 lanes of ANF-SAC and 1 of 4 lanes of SAC."
    assert f"Stopped, because broken: {missing}" in page.text
    assert f"Not in the last point of their curve: {missing}" in page.text
    assert "Not in the last point of their curve: 1 of 4 lanes of ANF-SAC." in page.text
    noisy = "90% noise features"
    missing = f"Not at the last step: 2 of 4 lanes of ANF-SAC (Hopper-v3, {noisy}), 1 of 4 lanes "
    assert missing in page.text
    assert "Not in the median, because of stops or gaps before: 1 of 4 lanes of A" in page.text
    assert f"and 1 of 4 lanes of SAC (Hopper-v3, {noisy}). SVG" in page.text
    assert "ANF-SAC5 of 8" in page.text and "SAC7 of 8" in page.text
    assert "k of n: the other runs have no final" in page.text
    assert "2 of 4 lanes" in section_of(page, "Stopped lanes", "A lane is stopped when")


def test_statistics_of_a_step_are_over_the_lanes_that_are_there(tmp_path: Path) -> None:
    stops = {1: (11_000, CAUSE, -1)}
    runs = read_runs([stopped_run(tmp_path / "run", stops)])
    record = collect_arms(runs)[0][0]
    assert np.isfinite(record.arm.returns).sum(axis=0).tolist() == [4, 4, 3, 3]
    assert [lane.number for lane in record.stopped] == [1]
    whole = read_runs([write_run(tmp_path / "whole")])
    expected = collect_arms(whole)[0][0].arm.returns
    assert np.array_equal(record.arm.returns[[0, 2, 3]], expected[[0, 2, 3]])
    assert np.array_equal(record.arm.returns[1, :2], expected[1, :2])


def test_stopped_lane_has_no_steps_left(tmp_path: Path) -> None:
    stops = dict.fromkeys(range(4), (64, CAUSE, -1))
    (run,) = read_runs([stopped_run(tmp_path / "run", stops)])
    assert run.progress == 1.0 and not run.lanes[0].is_finished
    assert all(lane.is_over for lane in run.lanes)
    assert [state.status for state in lane_states([run])] == ["stopped"] * 4 + ["finished"] * 4
    page = page_of(tmp_path, run.path)
    assert "100% of the steps are evaluated; 8 lanes (4 stopped and 4 finished)" in page.text
    assert "4 of 8 lanes were stopped: 4 of 4 lanes of ANF-SAC." in page.text
    assert "Without a finite return so far, and in no table: ANF-SAC" in page.text


def test_run_whose_lanes_all_stopped_at_once_is_reported(tmp_path: Path) -> None:
    lanes = run_lanes(["SAC"], num_seeds=1)
    run = stopped_run(tmp_path / "run", {0: (64, CAUSE, -1)}, lanes=lanes, status="failed")
    page = page_of(tmp_path, run)
    assert page.sections()[0] == "Stopped lanes"
    text = section_of(page, "Stopped lanes", "A lane is stopped when")
    assert text.startswith("1 lane was stopped: 1 of 1 lane of SAC.")


def test_arms_that_end_early_for_their_stops_are_said_to_end(tmp_path: Path) -> None:
    stops = dict.fromkeys(range(4), (11_000, CAUSE, -1))
    page = page_of(tmp_path, stopped_run(tmp_path / "run", stops))
    assert "ANF-SAC ends at" in page.text and "stands at" not in page.text
    assert "The arms end at different steps, because lanes were stopped" in page.text


def test_run_without_quarantine_has_no_such_section(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "quarantine.csv").unlink()
    page = page_of(tmp_path, run)
    assert "Stopped lanes" not in page.sections() and "stopped at step" not in page.text


def test_causes_never_become_markup(tmp_path: Path) -> None:
    page = page_of(tmp_path, stopped_run(tmp_path / "run", {1: (11_000, EVIL, 5_000)}))
    assert page.errors == []
    assert "script" not in {tag for tag, _ in page.elements} and EVIL in page.text
    (row,) = (row for row in rows_of(tmp_path, "lanes.csv") if row["lane"] == "1")
    assert row["cause"] == EVIL
