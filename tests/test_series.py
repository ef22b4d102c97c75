"""Series of lanes, their mean, and the properties of its interval."""

import math

import numpy as np

from fastanf.series import bootstrap_interval, collect_series
from tests.record_samples import evaluation_at, evaluations_of


def test_series_are_split_by_panel_and_a_repeated_step_counts_once() -> None:
    rows = [
        evaluation_at(0, 5, 1.0),
        evaluation_at(0, 5, 2.0),
        evaluation_at(1, 5, 4.0, noise_fraction=0.5),
    ]
    panels = collect_series(rows)
    assert list(panels) == [("Hopper-v3", 0.5), ("Hopper-v3", 0.9)]
    assert panels["Hopper-v3", 0.9][0].returns.tolist() == [[2.0]]


def test_mean_passes_over_missing_lanes() -> None:
    (series,) = collect_series(
        evaluations_of([[1, 2, math.nan], [3], [5, math.nan, math.nan]])
    ).popitem()[1]
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
