"""Figures of final returns and of statistics over runs: the numbers that were given are drawn."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from fastanf.bootstrap import Estimate, estimate, estimate_improvement, performance_profile
from fastanf.report.arms import Arm, styles
from fastanf.report.figures_efficiency import Reaching, sample_efficiency
from fastanf.report.figures_finals import FinalReturn, final_returns
from fastanf.report.figures_summary import (
    Aggregates,
    Improvement,
    Profile,
    aggregate_scores,
    improvement_probabilities,
    performance_profiles,
)
from fastanf.statistics import final_mean, first_step_reaching, mean_of_tasks
from tests.report.figure_checks import assert_readable, words
from tests.report_samples import sample_arm, without_returns

ARMS = [sample_arm(k) for k in range(8)]
LOOKS = styles(ARMS)
NOTHING = Estimate(math.nan, math.nan, math.nan, 0, 5)


def finals_of(arms: Sequence[Arm], published: float = math.nan) -> list[FinalReturn]:
    scores = [final_mean(arm.returns) for arm in arms]
    return [
        FinalReturn(arm, estimate([each], mean_of_tasks, 100), each, published)
        for arm, each in zip(arms, scores, strict=True)
    ]


@pytest.mark.parametrize("num_arms", [1, 4, 8])
def test_final_returns_of_a_task_are_rows_of_dots(num_arms: int) -> None:
    finals = finals_of(ARMS[:num_arms], published=2500)
    figure = final_returns(finals, LOOKS, source="ANF")
    assert_readable(figure)
    large = [line for line in figure.axes[0].lines if line.get_markersize() == 8]
    assert [np.asarray(line.get_xdata())[0] for line in large] == [f.estimate.value for f in finals]
    small = [line for line in figure.axes[0].lines if line.get_markersize() == 3.5]
    assert [len(np.asarray(line.get_xdata())) for line in small] == [5] * num_arms
    assert f"{finals[0].estimate.value:,.0f}" in words(figure)


@pytest.mark.parametrize("num_arms", [1, 4, 8])
def test_final_returns_of_several_noise_fractions_are_drawn_against_them(num_arms: int) -> None:
    fractions = (0.0, 0.8, 0.9, 0.98)
    envs = ("HalfCheetah-v3", "Humanoid-v3")
    arms = [
        sample_arm(k, noise_fraction=f, env=env)
        for env in envs
        for k in range(num_arms)
        for f in fractions
    ]
    figure = final_returns(finals_of(arms), LOOKS)
    assert_readable(figure)
    assert len(figure.axes) == 2
    for axes in figure.axes:
        large = [line for line in axes.lines if line.get_markersize() == 7]
        assert [len(np.asarray(line.get_xdata())) for line in large] == [4] * num_arms
        assert [text.get_text() for text in axes.get_xticklabels()] == ["0%", "80%", "90%", "98%"]


def test_final_returns_of_many_variants_are_readable() -> None:
    arms = [
        sample_arm(
            k, env=env, policy="ANF-SAC", variant=f"drop_fraction={k}, topology_period={k}000"
        )
        for env in ("Ant-v3", "Hopper-v3")
        for k in range(8)
    ]
    assert_readable(final_returns(finals_of(arms), styles(arms)))


def test_arms_without_a_final_return_are_left_out() -> None:
    finals = [*finals_of(ARMS[:2]), FinalReturn(without_returns(ARMS[2]), NOTHING)]
    assert "Static-SAC" not in words(final_returns(finals, LOOKS))
    assert "no finite return yet" in words(final_returns(finals[2:], LOOKS))


def test_profiles_are_drawn_at_their_thresholds() -> None:
    taus = np.linspace(0, 4000, 21)
    profiles = [
        Profile(arm.key, performance_profile([final_mean(arm.returns)], taus, 50)) for arm in ARMS
    ]
    figure = performance_profiles(profiles, taus, LOOKS, 1, "return")
    assert_readable(figure)
    drawn = [line for line in figure.axes[0].lines if line.get_linewidth() > 2]
    assert len(drawn) == 8
    for line, profile in zip(drawn, profiles, strict=True):
        assert np.array_equal(np.asarray(line.get_ydata()), profile.band.value)
    assert "5 runs an arm; 1 task" in words(figure)


def test_aggregates_have_a_column_each() -> None:
    values = [Estimate(0.1 * k, 0.1 * k - 0.05, 0.1 * k + 0.05, 15, 0) for k in range(4)]
    rows = [Aggregates(arm.key, *values) for arm in ARMS]
    figure = aggregate_scores(rows, LOOKS, 3)
    assert_readable(figure)
    assert len(figure.axes) == 4
    for axes, value in zip(figure.axes, values, strict=True):
        dots = [line for line in axes.lines if line.get_markersize() == 8]
        assert [np.asarray(line.get_xdata())[0] for line in dots] == [value.value] * 8
    empty = aggregate_scores([Aggregates(ARMS[0].key, *[NOTHING] * 4)], LOOKS, 0)
    assert "no finite return yet" in words(empty)


def test_improvement_has_a_row_a_pair_and_a_level_at_one_half() -> None:
    best, *others = ARMS[:4]
    pairs = [
        Improvement(
            best.key,
            other.key,
            estimate_improvement([best.returns[:, -1]], [other.returns[:, -1]], 50),
            (env, 0.9),
        )
        for env in ("Ant-v3", "Hopper-v3")
        for other in others
    ]
    figure = improvement_probabilities(pairs, LOOKS)
    assert_readable(figure)
    assert words(figure).count("over SAC") == 2
    for axes in figure.axes:
        (level,) = (line for line in axes.lines if line.get_linewidth() == 1.2)
        assert np.asarray(level.get_xdata())[0] == 0.5
    assert_readable(improvement_probabilities(pairs[:3], LOOKS))
    assert "no two arms" in words(improvement_probabilities([], LOOKS))


def reaching(arm: Arm, threshold: float) -> Reaching:
    steps = first_step_reaching(arm.steps, arm.returns, threshold)
    found = estimate([steps], lambda tasks: np.median(tasks[0], axis=-1), 100)
    return Reaching(arm, threshold, steps, found)


def test_sample_efficiency_counts_the_seeds_that_have_reached_the_return() -> None:
    rows = [reaching(arm, at) for at in (1000.0, 2000.0) for arm in ARMS[:4]]
    figure = sample_efficiency(rows, LOOKS)
    assert_readable(figure)
    assert len(figure.axes) == 2
    for row in rows:
        assert f"({np.isfinite(row.steps).sum()} of 5)" in words(figure)
    assert "not yet  (0 of 5)" in words(figure)
    nobody = sample_efficiency([reaching(ARMS[0], 1e6)], LOOKS)
    assert "no arm has reached" in words(nobody)
