"""Labels that never collide, and PNGs of odd inputs."""

import math
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastanf.curves import learning_curve_png
from fastanf.picture import spread_labels
from tests.record_samples import evaluation_at, evaluations_of


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12))
def test_labels_never_collide_nor_leave_their_range(wanted: list[float]) -> None:
    placed = spread_labels(wanted, 0.05, 0.1, 0.9)
    tolerance = 1e-9  # sums of a dozen numbers near 1 in float64
    assert all(0.1 - tolerance <= y <= 0.9 + tolerance for y in placed)
    assert all(
        b - a >= 0.05 - tolerance for a, b in zip(sorted(placed), sorted(placed)[1:], strict=False)
    )
    order = sorted(range(len(wanted)), key=lambda k: wanted[k])
    assert order == sorted(order, key=lambda k: placed[k])


def test_labels_stay_where_there_is_room_and_share_the_move_where_not() -> None:
    assert spread_labels([0.8, 0.2], 0.1, 0, 1) == pytest.approx([0.8, 0.2])
    assert spread_labels([0.5, 0.52], 0.1, 0, 1) == pytest.approx([0.46, 0.56])
    assert spread_labels([0.5] * 3, 1.0, 0, 1) == pytest.approx([0, 0.5, 1])


TWO = [[100.0, 200.0, 300.0]] * 4


ODD_INPUTS = {
    "nothing": [],
    "one_lane": evaluations_of([[1.0, 2.0]]),
    "one_point": evaluations_of([[1.0], [2.0], [3.0]]),
    "one_lane_one_point_at_step_0": [evaluation_at(0, 0, 5.0)],
    "only_nan": evaluations_of([[math.nan, math.nan]] * 3),
    "some_nan": evaluations_of([[math.nan, 2.0, math.nan], [math.inf, 1.0], [1.0, 2.0, 3.0]]),
    "one_policy_all_nan": [
        *evaluations_of([[math.nan]], policy="TD3"),
        evaluation_at(5, 1000, 1.0),
    ],
    "many_series": [evaluation_at(k, s, 5.0, policy=f"P{k}") for k in range(16) for s in (1, 2)],
    "long_variant": evaluations_of(TWO, variant="x" * 90 + "$_a"),
}


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


@pytest.mark.parametrize("name", ODD_INPUTS)
def test_png_is_drawn_for_odd_inputs(name: str, tmp_path: Path) -> None:
    learning_curve_png(ODD_INPUTS[name], tmp_path / "curve.png")
    width, height = png_size(tmp_path / "curve.png")
    assert 1200 <= width <= 2200 and 800 <= height <= 1800
    assert [entry.name for entry in tmp_path.iterdir()] == ["curve.png"]


def test_png_has_a_panel_for_each_environment_and_noise_fraction(tmp_path: Path) -> None:
    rows = [evaluation_at(k, s, s + k, noise_fraction=k / 10) for k in range(3) for s in (1, 2)]
    learning_curve_png(rows, tmp_path / "three.png", title="Three")
    learning_curve_png(rows[:2], tmp_path / "one.png")
    three, one = png_size(tmp_path / "three.png"), png_size(tmp_path / "one.png")
    assert three[0] > one[0] and three[1] > one[1]
