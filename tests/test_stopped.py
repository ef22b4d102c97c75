"""Stopped lanes under their names, in the last table and in the learning curves."""

import math
from pathlib import Path

import pytest

from fastanf import curves
from fastanf.curve_lines import CurvePanel
from fastanf.curves import learning_curve_png
from fastanf.final_table import final_table
from fastanf.records import RunFolder
from fastanf.rows import FILES, QuarantineRow, read_quarantine
from fastanf.stopped import StoppedLane, named, stopped_lanes
from tests.record_samples import evaluation_at

CAUSE = 'critic loss is inf or nan at update 1,234 or before, "as it is"'
LANES = [
    {"lane": lane, "block": 0, "policy": policy, "env": "Hopper-v3", "noise_fraction": 0.9,
     "seed": lane, "variant": ""}
    for lane, policy in enumerate(["SAC", "SAC", "SAC", "SAC", "TD3"])
]  # fmt: skip


def stopped() -> list[StoppedLane]:
    """Lane 1 after its first evaluation, lane 2 and the only lane of TD3 before it."""
    rows = [QuarantineRow(2, 640, 640, CAUSE), QuarantineRow(1, 1280, 1280, CAUSE, 1000)]
    return named([*rows, QuarantineRow(4, 64, 64, "return is inf in an evaluation", 0)], LANES)


EVALUATIONS = [
    evaluation_at(lane, step, 100.0 * (lane + 1) + step / 1000)
    for step in (1000, 2000)
    for lane in (0, 1, 3)
    if (lane, step) != (1, 2000)
]


def test_quarantine_rows_come_back_from_their_file(tmp_path: Path) -> None:
    rows = [QuarantineRow(2, 640, 641, CAUSE), QuarantineRow(1, 1280, 1281, "x", 1000)]
    with RunFolder.create(tmp_path / "run", {}, LANES) as folder:
        assert read_quarantine(folder.path) == []
        folder.append(rows)
        assert read_quarantine(folder.path) == rows
        folder.truncate({1: 1279})
        folder.truncate({2: 640})
        assert read_quarantine(folder.path) == rows[:1]
    (lane,) = stopped_lanes(folder.path)
    assert lane.row == rows[0] and lane.label == "lane 2 (SAC, seed 2)"
    (folder.path / FILES[QuarantineRow]).unlink()
    assert stopped_lanes(folder.path) == []


def test_cause_with_a_line_break_is_refused(tmp_path: Path) -> None:
    with (
        RunFolder.create(tmp_path / "run", {}, LANES) as folder,
        pytest.raises(ValueError, match="line break"),
    ):
        folder.append([QuarantineRow(0, 1, 1, "a\nb")])


def test_lane_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^quarantine.csv names lane 9, which is not in"):
        named([QuarantineRow(9, 1, 1, "")], LANES)


def test_of_two_rows_of_a_lane_the_first_step_counts() -> None:
    rows = [QuarantineRow(0, step, step, f"at {step}") for step in (640, 128, 1280)]
    (lane,) = named(rows, LANES)
    assert (lane.row.step, lane.row.cause) == (128, "at 128")


def test_table_counts_stopped_lanes_and_says_where_and_why() -> None:
    text = final_table(EVALUATIONS, 60, stopped=stopped())
    lines = text.splitlines()
    # last: lanes 0 and 3 alone; lane 2 was never evaluated, and is one of four
    assert lines[2].split() == ["0.9", "SAC", "2/4", "2,000", "252", "-", "235"]
    assert "only k of n lanes have a finite return" in " ".join(text.split())
    assert "stopped, because broken: 3 lanes" in lines
    joined = " ".join(text.split())
    assert (
        f"lane 1 (SAC, seed 1) at step 1,280: {CAUSE}; sound in the checkpoint of step 1,000"
        in (joined)
    )
    assert f"lane 2 (SAC, seed 2) at step 640: {CAUSE}; sound in no checkpoint" in joined
    assert "lane 4 (TD3, seed 4) at step 64: return is inf in an evaluation" in joined
    assert max(map(len, lines)) <= 60


def test_table_without_evaluations_says_why_lanes_stopped() -> None:
    text = final_table([], stopped=stopped()[1:2])
    assert text.splitlines()[0] == "no evaluations"
    assert text.splitlines()[2] == "stopped, because broken: 1 lane"
    assert final_table([]) == "no evaluations"


def test_curve_of_a_stopped_lane_ends_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[list[CurvePanel], str]] = []
    whole_figure = curves.curve_figure

    def spy(panels, title, caption, scales):
        drawn.append((panels, caption))
        return whole_figure(panels, title, caption, scales)

    monkeypatch.setattr(curves, "curve_figure", spy)
    learning_curve_png(EVALUATIONS, tmp_path / "curve.png", stopped=stopped()[:2])
    (((panel,), caption),) = drawn
    (line,) = panel.lines
    assert line.label == ("SAC", "2 of 4 seeds")
    _, (_, of_lane_1), _ = line.singles
    assert of_lane_1[0] == 201.0 and math.isnan(of_lane_1[1])
    assert line.centre.tolist() == [pytest.approx((101 + 201 + 401) / 3), 252.0]
    assert "2 seeds were stopped: their curves end there" in caption
    learning_curve_png(EVALUATIONS, tmp_path / "curve.png")
    assert "stopped" not in drawn[1][1]
