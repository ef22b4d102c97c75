"""Figures of time, pace, parameters and operations."""

import math

import numpy as np
import pytest

from fastanf.report.arms import Arm, styles
from fastanf.report.figures_costs import (
    Pace,
    Sizes,
    TimedArm,
    parameters_and_flops,
    throughput,
    wall_clock_curves,
)
from tests.report.figure_checks import assert_readable, words
from tests.report_samples import sample_arm, unfinished, without_returns

ARMS = [sample_arm(k) for k in range(8)]
LOOKS = styles(ARMS)


def timed(arm: Arm, seconds_a_step: float) -> TimedArm:
    wall_s = np.where(np.isfinite(arm.returns), arm.steps * seconds_a_step, np.nan)
    return TimedArm(arm, wall_s)


@pytest.mark.parametrize("num_arms", [1, 4, 8])
def test_wall_clock_curves_stand_at_their_times(num_arms: int) -> None:
    arms = [timed(arm, 0.01 + 0.002 * k) for k, arm in enumerate(ARMS[:num_arms])]
    figure = wall_clock_curves(arms, LOOKS, conditions="1 core; 40 lanes at once")
    assert_readable(figure)
    thick = [line for line in figure.axes[0].lines if line.get_linewidth() > 2]
    for line, one in zip(thick, arms, strict=True):
        assert np.asarray(line.get_xdata()) == pytest.approx(one.wall_s[0] / 60)
        assert np.asarray(line.get_ydata()) == pytest.approx(one.arm.returns.mean(axis=0))
    assert "minutes" in words(figure) and "40 lanes at once" in words(figure)


@pytest.mark.parametrize(("seconds", "unit"), [(1e-4, "seconds"), (0.01, "minutes"), (1, "hours")])
def test_unit_of_time_suits_its_length(seconds: float, unit: str) -> None:
    assert unit in words(wall_clock_curves([timed(ARMS[0], seconds)], LOOKS))


def test_unfinished_and_silent_arms_do_not_break_the_times() -> None:
    arms = [unfinished(ARMS[0], 3), sample_arm(1, env="Ant-v3"), sample_arm(2, env="Hopper-v3")]
    assert_readable(wall_clock_curves([timed(arm, 0.01) for arm in arms], LOOKS))
    silent = timed(without_returns(ARMS[0]), 0.01)
    assert "no evaluation yet" in words(wall_clock_curves([silent], LOOKS))


def test_pace_has_a_bar_for_each_known_number() -> None:
    paces = [Pace(ARMS[0], 120.0, 110.0), Pace(ARMS[1], 80.0, math.nan)]
    figure = throughput(paces, LOOKS, "2 cores")
    assert_readable(figure)
    assert [[bar.get_width() for bar in axes.patches] for axes in figure.axes] == [  # type: ignore[attr-defined]
        [120.0, 80.0],
        [110.0],
    ]
    assert "not recorded yet" in words(throughput([], LOOKS))


def test_sizes_stand_beside_those_of_the_dense_network() -> None:
    sizes = [Sizes(ARMS[0].key, 113_000, 338_000, 3.1e8, 1.2e9)]
    sizes += [Sizes(arm.key, 338_000, 338_000, 1.2e9, 1.2e9) for arm in ARMS[1:]]
    figure = parameters_and_flops(sizes, LOOKS, "Humanoid-v3, 90% noise features")
    assert_readable(figure)
    widths = [bar.get_width() for bar in figure.axes[0].patches[:2]]  # type: ignore[attr-defined]
    assert widths == [113_000, 338_000]
    assert "33.4% of 338k" in words(figure)
    assert_readable(parameters_and_flops([], LOOKS, "Humanoid-v3"))
