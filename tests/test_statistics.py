"""Aggregates and curve summaries: rliable's values, and cases by hand."""

import math
from functools import partial

import numpy as np
import pytest
import scipy.stats

from fastanf.statistics import (
    common_span,
    final_mean,
    first_step_reaching,
    interquartile_mean,
    mean_of_tasks,
    median_of_tasks,
    normalise,
    optimality_gap,
    probability_of_improvement,
    time_mean,
)
from tests.rliable_golden import AGGREGATES, ALGORITHMS, GOLDEN, VALUE_ERROR

nan, inf = math.nan, math.inf


def tasks_of(algorithm: str) -> list[np.ndarray]:
    return list(np.array(ALGORITHMS[algorithm]["scores"]).T)


@pytest.mark.parametrize("name", AGGREGATES)
def test_aggregates_are_those_of_rliable(name: str) -> None:
    for algorithm, theirs in ALGORITHMS.items():
        ours = AGGREGATES[name](tasks_of(algorithm))
        assert ours == pytest.approx(theirs["statistics"][name]["value"], abs=VALUE_ERROR)


def test_probability_of_improvement_is_that_of_rliable() -> None:
    for case in GOLDEN["improvement"]:
        ours = probability_of_improvement(tasks_of(case["x"]), tasks_of(case["y"]))
        assert ours == pytest.approx(case["value"], abs=VALUE_ERROR)


@pytest.mark.parametrize("name", AGGREGATES)
def test_resamples_are_aggregated_each_by_itself(name: str) -> None:
    rng = np.random.default_rng(0)
    resamples = [rng.normal(size=(4, n)) for n in (3, 7)]
    together = AGGREGATES[name](resamples)
    alone = [AGGREGATES[name]([task[r] for task in resamples]) for r in range(4)]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


@pytest.mark.parametrize("num_runs", range(1, 14))
def test_iqm_counts_as_the_trimmed_mean_of_scipy(num_runs: int) -> None:
    scores = np.random.default_rng(num_runs).normal(size=num_runs)
    expected = scipy.stats.trim_mean(scores, 0.25)
    assert interquartile_mean([scores]) == pytest.approx(expected, rel=1e-12)


def test_aggregates_of_unequal_numbers_of_runs() -> None:
    tasks = [np.array([0.0, 1.0]), np.array([2.0]), np.array([3.0, 4.0, 8.0])]
    assert interquartile_mean(tasks) == 2.5  # of 1, 2, 3, 4: six runs, one cut at either end
    assert mean_of_tasks(tasks) == pytest.approx((0.5 + 2 + 5) / 3)
    assert median_of_tasks(tasks) == 2.0
    assert optimality_gap(tasks) == pytest.approx(1 - (0.5 + 1 + 1) / 3)
    assert optimality_gap(tasks, gamma=3.0) == pytest.approx(3 - (0.5 + 2 + 3) / 3)


def test_ties_count_half_in_the_probability_of_improvement() -> None:
    x, y = [np.array([1.0, 2.0]), np.array([5.0])], [np.array([1.0, 3.0]), np.array([4.0, 5.0])]
    assert probability_of_improvement(x, y) == pytest.approx((1.5 / 4 + 1.5 / 2) / 2)


def test_a_nan_is_never_trimmed_away() -> None:
    tasks = [np.array([1.0, 2.0, 3.0, nan])]
    for statistic in AGGREGATES.values():
        assert np.isnan(statistic(tasks))
    assert math.isnan(probability_of_improvement(tasks, [np.array([0.0])]))


def test_normalise_sets_low_to_0_and_high_to_1() -> None:
    scaled = normalise({"a": [[10.0, 30.0], [20.0, nan]]}, {"a": 10.0, "b": 0}, {"a": 30.0})
    np.testing.assert_array_equal(scaled["a"], [[0, 1], [0.5, nan]])
    with pytest.raises(ValueError, match="every task, got none for 'b'"):
        normalise({"b": [1.0]}, {"b": 0.0}, {})
    with pytest.raises(ValueError, match="above its low"):
        normalise({"b": [1.0]}, {"b": 1.0}, {"b": 1.0})


def test_final_mean_is_of_the_last_tenth() -> None:
    returns = np.arange(60.0).reshape(2, 30)
    np.testing.assert_array_equal(final_mean(returns), [28.0, 58.0])
    np.testing.assert_array_equal(final_mean(returns, num_evaluations=10), [24.5, 54.5])
    np.testing.assert_array_equal(final_mean(returns[:, :5]), [4.0, 34.0])
    returns[1, 20:] = nan
    np.testing.assert_array_equal(final_mean(returns), [28.0, nan])
    with pytest.raises(ValueError, match=r"num_evaluations must be in \[1, 30\], got 31"):
        final_mean(returns, num_evaluations=31)


def test_time_mean_of_a_line_is_its_middle() -> None:
    steps = np.array([0, 1, 4, 10])
    returns = np.array([[0.0, 1.0, 4.0, 10.0], [3.0, 3.0, 3.0, nan]])
    np.testing.assert_allclose(time_mean(steps, returns), [5.0, nan])
    np.testing.assert_allclose(time_mean(steps, returns, (0, 4)), [2.0, 3.0])
    np.testing.assert_allclose(time_mean(steps, returns, (2, 3)), [2.5, 3.0])  # between two
    np.testing.assert_allclose(time_mean(steps, returns, (4, 4)), [4.0, 3.0])
    with pytest.raises(ValueError, match="span must be in"):
        time_mean(steps, returns, (0, 11))


def test_unequal_lengths_are_compared_as_far_as_both_go() -> None:
    short, long = np.array([5, 10]), np.array([0, 10, 20])
    span = common_span([short, long])
    assert span == (5.0, 10.0)
    line = np.array([[0.0, 10.0, 99.0]])
    np.testing.assert_allclose(time_mean(long, line, span), [7.5])
    with pytest.raises(ValueError, match="overlap"):
        common_span([short, np.array([11, 12])])


def test_first_step_reaching_looks_back_over_its_window() -> None:
    steps = np.array([10, 20, 30, 40])
    returns = np.array(
        [[0, 9, 4, 9], [0, 0, 0, 0], [0, 0, nan, nan], [9, 9, nan, nan], [nan, 9, 9, 9]]
    )
    reached = partial(first_step_reaching, steps, returns)
    np.testing.assert_array_equal(reached(5.0), [20, inf, nan, 10, nan])
    np.testing.assert_array_equal(reached(5.0, window=2), [30, inf, nan, 20, nan])
    np.testing.assert_array_equal(reached(9.0, window=4), [inf, inf, nan, nan, nan])
    with pytest.raises(ValueError, match=r"window must be in \[1, 4\], got 5"):
        reached(5.0, window=5)
