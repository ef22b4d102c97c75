"""The table's numbers by hand, the interval's properties, labels that never collide, PNGs."""

import math
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastanf.curves import (
    bootstrap_interval,
    collect_series,
    final_table,
    learning_curve_png,
    spread_labels,
)
from fastanf.records import EvaluationRow


def row(
    lane: int,
    step: int,
    mean: float,
    policy: str = "SAC",
    variant: str = "",
    noise_fraction: float = 0.9,
    env: str = "Hopper-v3",
) -> EvaluationRow:
    return EvaluationRow(
        lane, policy, env, lane, noise_fraction, variant, step, step, 1.0, mean, 0.0, mean, mean, 10
    )


def curves(values: Sequence[Sequence[float]], **fields: str) -> list[EvaluationRow]:
    return [
        row(lane, 1000 * (k + 1), value, **fields)  # pyright: ignore[reportArgumentType]
        for lane, lane_values in enumerate(values)
        for k, value in enumerate(lane_values)
    ]


def test_table_has_the_hand_computed_numbers_best_first() -> None:
    rows = curves([[100, 200], [500, 400]])
    rows += [row(lane + 2, 2000, 1000.0, policy="ANF-SAC") for lane in range(3)]
    table = final_table(rows, 100, {0: 10, 1: 10, 2: 7, 3: 7, 4: 8}).splitlines()
    assert table[0].split("  ")[0] == "noise"
    assert " ".join(table[2].split()) == "0.9 ANF-SAC 3 2,000 1,000 [1,000, 1,000] 1,000 7-8"
    # last: (200 + 400) / 2; best: (200 + 500) / 2; two lanes have no interval
    assert " ".join(table[3].split()) == "0.9 SAC 2 2,000 300 - 350 10"
    assert table[4] == ""
    assert "bootstrap interval of that mean over lanes" in " ".join(table[5:])


def test_table_leaves_out_lanes_without_finite_return_and_says_so() -> None:
    rows = curves([[100, math.nan], [100, 200], [300, math.inf], [50]])
    table = final_table(rows)
    assert table.splitlines()[2].split() == ["0.9", "SAC", "1/4", "2,000", "200", "-", "162"]
    assert "lanes k/n" in table


def test_table_fits_the_width_and_keeps_the_ends_of_variants() -> None:
    rows = curves([[100.0] * 2] * 3, variant="a_very_long_field_name_drop_fraction=0.05")
    rows += [row(9, 1000, 1.0, variant="a_very_long_field_name_drop_fraction=0.1", env="Ant-v3")]
    assert max(map(len, final_table(rows, 200).splitlines()[:4])) > 70
    narrow = final_table(rows, 70)
    assert max(map(len, narrow.splitlines())) <= 70
    assert "=0.05 " in narrow and "=0.1 " in narrow
    assert "best" not in narrow


def test_table_without_evaluations_says_so() -> None:
    assert final_table([]) == "no evaluations"


def test_series_are_split_by_panel_and_a_repeated_step_counts_once() -> None:
    rows = [row(0, 5, 1.0), row(0, 5, 2.0), row(1, 5, 4.0, noise_fraction=0.5)]
    panels = collect_series(rows)
    assert list(panels) == [("Hopper-v3", 0.5), ("Hopper-v3", 0.9)]
    assert panels["Hopper-v3", 0.9][0].returns.tolist() == [[2.0]]


def test_mean_passes_over_missing_lanes() -> None:
    (series,) = collect_series(curves([[1, 2, math.nan], [3], [5, math.nan, math.nan]])).popitem()[
        1
    ]
    np.testing.assert_array_equal(series.mean, [3.0, 2.0, np.nan])


def test_interval_holds_the_mean_and_stays_within_the_lanes() -> None:
    values = np.random.default_rng(0).normal(size=(8, 20))
    low, high = bootstrap_interval(values)
    assert (low < values.mean(0)).all() and (values.mean(0) < high).all()
    assert (low >= values.min(0)).all() and (high <= values.max(0)).all()
    np.testing.assert_array_equal(bootstrap_interval(values), (low, high))  # fixed seed


def test_interval_agrees_with_the_normal_one_for_many_lanes() -> None:
    values = np.random.default_rng(1).normal(size=(400, 1))
    low, high = bootstrap_interval(values)
    half_width = 1.96 * values.std() / math.sqrt(400)
    # 2000 resamples give a 2.5% quantile to about 3% of the half width; 10% is three such errors
    np.testing.assert_allclose((high - low) / 2, half_width, rtol=0.1)


def test_interval_needs_three_lanes() -> None:
    low, high = bootstrap_interval(np.array([[1.0, 1.0], [2.0, 2.0], [3.0, np.nan]]))
    assert np.isfinite([low[0], high[0]]).all()
    assert np.isnan([low[1], high[1]]).all()


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
    "one_lane": curves([[1.0, 2.0]]),
    "one_point": curves([[1.0], [2.0], [3.0]]),
    "one_lane_one_point_at_step_0": [row(0, 0, 5.0)],
    "only_nan": curves([[math.nan, math.nan]] * 3),
    "some_nan": curves([[math.nan, 2.0, math.nan], [math.inf, 1.0], [1.0, 2.0, 3.0]]),
    "one_policy_all_nan": [*curves([[math.nan]], policy="TD3"), row(5, 1000, 1.0)],
    "many_series": [row(k, s, 5.0, policy=f"P{k}") for k in range(16) for s in (1, 2)],
    "long_variant": curves(TWO, variant="x" * 90 + "$_a"),
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
    rows = [row(k, s, s + k, noise_fraction=k / 10) for k in range(3) for s in (1, 2)]
    learning_curve_png(rows, tmp_path / "three.png", title="Three")
    learning_curve_png(rows[:2], tmp_path / "one.png")
    three, one = png_size(tmp_path / "three.png"), png_size(tmp_path / "one.png")
    assert three[0] > one[0] and three[1] > one[1]
