"""Intervals, profiles and bands: rliable's numbers, invariants, how often an interval is right."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from fastanf.bootstrap import (
    Estimate,
    estimate,
    estimate_improvement,
    learning_curve,
    performance_profile,
)
from fastanf.series import MIN_LANES
from fastanf.statistics import (
    interquartile_mean,
    mean_of_tasks,
    median_of_tasks,
)
from tests.rliable_golden import AGGREGATES, ALGORITHMS, GOLDEN, VALUE_ERROR

QUANTILE_ERROR = 0.045
"""A 2.5% quantile of R resamples has the error sqrt(0.025 * 0.975 / R) / 0.0584 standard errors of
a normal statistic, 0.0598 at R = 2000: 0.95% of the half width at our 20000 and 0.6% at rliable's
50000, together 1.1%. Four of those."""
RESAMPLES = 20_000
nan, inf = math.nan, math.inf


def scores_of(algorithm: str) -> np.ndarray:
    return np.array(ALGORITHMS[algorithm]["scores"])


def interval_of(one: Estimate) -> tuple[float, float]:
    return one.low, one.high


def numbers_of(one: Estimate) -> list[float]:
    return [one.value, one.low, one.high]


# Golden values


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", AGGREGATES)
def test_aggregates_and_intervals_are_those_of_rliable(algorithm: str, name: str) -> None:
    ours = estimate(scores_of(algorithm), AGGREGATES[name], num_resamples=RESAMPLES)
    theirs = ALGORITHMS[algorithm]["statistics"][name]
    assert ours.value == pytest.approx(theirs["value"], abs=VALUE_ERROR)
    low, high = theirs["interval"]
    # With three runs a task the statistic takes few values, and its quantile may be a neighbour.
    lattice = 0.015 if algorithm == "D" else 0.0
    tolerance = QUANTILE_ERROR * (high - low) / 2 + lattice
    np.testing.assert_allclose(interval_of(ours), (low, high), atol=tolerance, rtol=0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_profile_is_that_of_rliable(algorithm: str) -> None:
    scores = scores_of(algorithm)
    ours = performance_profile(scores, GOLDEN["taus"], num_resamples=RESAMPLES)
    theirs = ALGORITHMS[algorithm]["profile"]
    np.testing.assert_allclose(ours.value, theirs["value"], atol=VALUE_ERROR, rtol=0)
    step = 1 / scores.size + 1e-6  # fractions are multiples of 1/N; the file has six decimals
    np.testing.assert_allclose(ours.low, theirs["low"], atol=step, rtol=0)
    np.testing.assert_allclose(ours.high, theirs["high"], atol=step, rtol=0)


@pytest.mark.parametrize("case", GOLDEN["improvement"], ids=lambda c: f"{c['x']}-{c['y']}")
def test_probability_of_improvement_is_that_of_rliable(case: dict[str, Any]) -> None:
    x, y = scores_of(case["x"]), scores_of(case["y"])
    ours = estimate_improvement(x, y, num_resamples=RESAMPLES)
    assert ours.value == pytest.approx(case["value"], abs=VALUE_ERROR)
    low, high = case["interval"]
    # Multiples of 1/(2 n k M): half a win of one pair on one of M tasks.
    tolerance = QUANTILE_ERROR * (high - low) / 2 + 0.5 / (len(x) * y.size)
    np.testing.assert_allclose(interval_of(ours), (low, high), atol=tolerance, rtol=0)


# Invariants

runs = st.lists(st.floats(-5, 5), min_size=MIN_LANES, max_size=7)
tables = st.lists(runs, min_size=1, max_size=4)
FEW = 200


@settings(max_examples=30, deadline=None)
@given(tables, st.randoms(use_true_random=False), st.sampled_from(sorted(AGGREGATES)))
def test_the_order_of_runs_does_not_matter(
    table: list[list[float]], random: Any, name: str
) -> None:
    shuffled = [random.sample(task, len(task)) for task in table]
    assert estimate(shuffled, AGGREGATES[name], FEW) == estimate(table, AGGREGATES[name], FEW)
    assert estimate_improvement(table, shuffled, FEW).value == pytest.approx(0.5)


@settings(max_examples=30, deadline=None)
@given(tables, st.floats(0.1, 100), st.floats(-10, 10))
def test_statistics_follow_the_scale_of_the_scores(
    table: list[list[float]], factor: float, shift: float
) -> None:
    scaled = [[factor * score + shift for score in task] for task in table]
    for statistic in (interquartile_mean, mean_of_tasks, median_of_tasks):
        expected = factor * np.array(numbers_of(estimate(table, statistic, FEW))) + shift
        ours = numbers_of(estimate(scaled, statistic, FEW))
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(tables, st.data())
def test_runs_that_are_nan_are_as_if_they_were_not_there(
    table: list[list[float]], data: st.DataObject
) -> None:
    where = [data.draw(st.integers(0, len(task))) for task in table]
    holed = [[*task[:k], nan, *task[k:]] for task, k in zip(table, where, strict=True)]
    whole, without = estimate(table, num_resamples=FEW), estimate(holed, num_resamples=FEW)
    assert numbers_of(without) == numbers_of(whole) and without.num_runs == whole.num_runs
    assert (whole.num_left_out, without.num_left_out) == (0, len(table))
    versus = estimate_improvement(holed, table, FEW)
    assert numbers_of(versus) == numbers_of(estimate_improvement(table, table, FEW))
    assert versus.num_left_out == len(table)


@settings(max_examples=30, deadline=None)
@given(tables, tables)
def test_probabilities_of_improvement_add_up_to_1(
    x: list[list[float]], y: list[list[float]]
) -> None:
    M = min(len(x), len(y))
    one, other = (estimate_improvement(a[:M], b[:M], FEW) for a, b in ((x, y), (y, x)))
    assert one.value + other.value == pytest.approx(1)
    assert 0 <= one.low <= one.high <= 1


@settings(max_examples=30, deadline=None)
@given(tables)
def test_a_profile_falls_from_1_to_0_and_so_does_its_band(table: list[list[float]]) -> None:
    band = performance_profile(table, np.linspace(-6, 6, 9), num_resamples=FEW)
    for curve in (band.value, band.low, band.high):
        assert curve[0] == 1 and curve[-1] == 0 and (np.diff(curve) <= 0).all()
    assert (band.low <= band.high).all()


@pytest.mark.parametrize("name", AGGREGATES)
def test_constant_scores_have_intervals_of_no_width(name: str) -> None:
    constant = estimate(np.full((6, 4), 0.5), AGGREGATES[name])
    assert numbers_of(constant) == [0.5, 0.5, 0.5]
    assert numbers_of(estimate_improvement(np.ones((5, 2)), np.zeros((4, 2)))) == [1, 1, 1]


def test_runs_are_resampled_within_their_task() -> None:
    constant_tasks = np.tile([0.0, 1.0, 5.0, 9.0], (4, 1))
    for statistic in AGGREGATES.values():
        one = estimate(constant_tasks, statistic)
        assert one.low == one.value == one.high


def test_a_task_with_few_runs_has_no_interval_and_one_without_runs_no_value() -> None:
    full = [1.0, 2.0, 3.0]
    assert np.isfinite(numbers_of(estimate([full, full]))).all()
    few = estimate([full, [1.0, nan, 3.0]])
    assert np.isfinite(few.value) and np.isnan(interval_of(few)).all() and few.num_left_out == 1
    assert np.isnan(numbers_of(estimate([full, [nan]]))).all()
    few = estimate_improvement([full], [[1.0, 2.0]])
    assert np.isfinite(few.value) and np.isnan(interval_of(few)).all()
    assert np.isnan(numbers_of(estimate_improvement([full], [[nan]]))).all()


def test_shapes_of_scores_that_mean_the_same() -> None:
    scores = scores_of("A")
    named = {f"task {m}": column for m, column in enumerate(scores.T)}
    assert estimate(scores) == estimate(list(scores.T)) == estimate(named)
    assert estimate(scores[:, 0]) == estimate(scores[:, :1])
    other = {task: named[task] + 0.1 for task in reversed(named)}
    assert estimate_improvement(named, other) == estimate_improvement(scores, scores + 0.1)


@pytest.mark.parametrize("wrong", [[], [1.0, 2.0], np.zeros((3, 2, 2)), [[[1.0]]]])
def test_scores_of_another_shape_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"must be one array \[n\] a task"):
        estimate(wrong)


def test_comparisons_of_different_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="same tasks"):
        estimate_improvement({"a": [1.0]}, {"b": [1.0]})
    with pytest.raises(ValueError, match=r"same tasks, got .*no names"):
        estimate_improvement({"a": [1.0]}, [[1.0]])
    with pytest.raises(ValueError, match="same tasks, got 1 and 2"):
        estimate_improvement([[1.0]], [[1.0], [1.0]])
    with pytest.raises(ValueError, match="one task or more"):
        interquartile_mean([np.array([])])


# Infinite scores


def test_runs_that_never_reach_a_threshold_count_as_infinitely_late() -> None:
    late = estimate([[10.0, 20.0, 30.0, 40.0, 50.0, inf]])
    assert late.value == 35.0 and late.num_runs == 6  # of 20 .. 50
    assert late.low >= 10.0 and late.high == inf
    never = estimate([[10.0, 20.0, inf, inf, inf, inf]], mean_of_tasks)
    assert never.value == inf and never.high == inf
    mirrored = estimate([[-10.0, -20.0, -30.0, -40.0, -50.0, -inf]])
    assert numbers_of(mirrored) == [-late.value, -late.high, -late.low]


# Curves


def test_a_learning_curve_is_an_estimate_at_every_step() -> None:
    curves = np.random.default_rng(3).normal(size=(8, 2, 5)).cumsum(axis=2)  # [n, M, S]
    curves[0, :, 3:] = nan
    curves[1:7, 1, 4] = nan
    band = learning_curve({"a": curves[:, 0], "b": curves[:, 1]})
    points = [estimate(curves[:, :, step]) for step in range(5)]
    for index, (low, high) in enumerate(zip(band.low, band.high, strict=True)):
        point = points[index]
        np.testing.assert_array_equal([band.value[index], low, high], numbers_of(point))
    assert band.num_runs.tolist() == [16, 16, 16, 14, 8]
    assert band.num_left_out.tolist() == [0, 0, 0, 2, 8]
    assert np.isnan(band.low).tolist() == [False] * 4 + [True]
    np.testing.assert_array_equal(learning_curve(curves).value, band.value)
    mean = learning_curve(curves[:, 0], mean_of_tasks)
    np.testing.assert_allclose(mean.value, np.nanmean(curves[:, 0], axis=0))


def test_learning_curves_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"same steps in every task, got \[2, 3\]"):
        learning_curve([np.zeros((3, 2)), np.zeros((3, 3))])
    with pytest.raises(ValueError, match=r"one array \[n, S\] a task"):
        learning_curve(np.zeros(3))


# Coverage


@pytest.mark.parametrize(("num_tasks", "at_least"), [(1, 0.89), (5, 0.92)])
def test_the_interval_of_a_mean_covers_it_nearly_as_often_as_it_says(
    num_tasks: int, at_least: float
) -> None:
    num_trials, n = 1500, 10
    rng = np.random.default_rng(11)
    truth = np.arange(num_tasks).mean()
    hits = 0
    for trial in range(num_trials):
        scores = rng.normal(size=(n, num_tasks)) + np.arange(num_tasks)
        one = estimate(scores, mean_of_tasks, num_resamples=500, seed=trial)
        hits += one.low <= truth <= one.high
    # A bootstrap has sqrt((n - 1) / n) of the standard error, and its centre follows a t of about
    # M (n - 1) degrees of freedom: 0.905 for one task of ten runs, 0.931 for five; never 0.95.
    freedom = num_tasks * (n - 1)
    expected = 1 - 2 * scipy.stats.t.sf(1.96 * math.sqrt((n - 1) / n), freedom)
    error = math.sqrt(expected * (1 - expected) / num_trials)
    assert at_least <= hits / num_trials <= 0.95 + error
    # Three binomial errors, and 0.01 for the skew and the 500 resamples.
    assert hits / num_trials == pytest.approx(expected, abs=3 * error + 0.01)
