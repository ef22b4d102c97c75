"""Learning curves: what is drawn of which arm, at every number of arms and panels."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from fastanf.report.arms import Arm, styles
from fastanf.report.figures_curves import Published, learning_curves
from tests.report.figure_checks import assert_readable, words
from tests.report_samples import sample_arm, unfinished, without_returns

FRACTIONS = (0.0, 0.8, 0.9, 0.95, 0.98, 0.99)
VARIANTS = [
    sample_arm(k, policy="ANF-SAC", variant=f"drop_fraction={0.02 * k:.2f}, new_weights=xavier_$")
    for k in range(8)
]
STUDIES = {
    "one_arm": [sample_arm()],
    "four_arms": [sample_arm(k) for k in range(4)],
    "eight_variants": VARIANTS,
    "two_panels": [sample_arm(k, noise_fraction=f) for k in range(3) for f in (0.9, 0.98)],
    "six_panels": [sample_arm(k, noise_fraction=f) for k in range(4) for f in FRACTIONS],
    "six_panels_eight_variants": [
        Arm("Humanoid-v3", f, "ANF-SAC", arm.variant, arm.lanes, arm.steps, arm.returns)
        for arm in VARIANTS
        for f in FRACTIONS
    ],
    "unfinished": [unfinished(sample_arm(k), 20 - 4 * k) for k in range(4)],
    "one_evaluation": [sample_arm(k, num_steps=1) for k in range(3)],
    "one_seed": [sample_arm(k, num_seeds=1) for k in range(2)],
    "many_seeds": [sample_arm(k, num_seeds=30) for k in range(4)],
    "only_nan": [without_returns(sample_arm(k)) for k in range(2)],
    "some_nan": [sample_arm(), without_returns(sample_arm(1))],
    "nothing": [],
}


def curves_of(figure: Figure, colour: str, panel: int = 0) -> list[np.ndarray]:
    """y of the lines of a colour that are thick enough to be a mean."""
    lines = figure.axes[panel].lines
    return [
        np.asarray(line.get_ydata())
        for line in lines
        if line.get_color() == colour and line.get_linewidth() > 2
    ]


@pytest.mark.parametrize("name", STUDIES)
def test_learning_curves_are_readable(name: str) -> None:
    assert_readable(learning_curves(STUDIES[name]))


def test_each_arm_has_its_mean_and_every_seed() -> None:
    arms = [sample_arm(k) for k in range(3)]
    figure, looks = learning_curves(arms), styles(arms)
    for arm in arms:
        (mean,) = curves_of(figure, looks[arm.key].colour)
        assert mean == pytest.approx(arm.returns.mean(axis=0))
        thin = [
            line
            for line in figure.axes[0].lines
            if line.get_color() == looks[arm.key].colour and line.get_linewidth() == 0.7
        ]
        assert len(thin) == len(arm.lanes)


def test_look_of_an_arm_is_the_same_in_every_panel() -> None:
    arms = [sample_arm(k, noise_fraction=f) for f in (0.9, 0.98) for k in (1, 0)]
    looks = styles(arms)
    figure = learning_curves(arms, looks)
    assert len(looks) == 2 and len({look.colour for look in looks.values()}) == 2
    for panel in range(2):
        for look in looks.values():
            assert len(curves_of(figure, look.colour, panel)) == 1


def test_looks_of_twenty_one_arms_differ() -> None:
    looks = styles([sample_arm(k, variant=str(k)) for k in range(21)])
    assert len({(look.colour, look.marker) for look in looks.values()}) == 21
    assert len({(look.colour, str(look.dashes)) for look in looks.values()}) == 21


def test_curve_of_an_unfinished_arm_ends_where_it_stands() -> None:
    arms = [sample_arm(0), unfinished(sample_arm(1), 7)]
    figure = learning_curves(arms)
    (mean,) = curves_of(figure, styles(arms)[arms[1].key].colour)
    assert len(mean) == 7 and np.isfinite(mean).all()
    assert figure.axes[0].get_xlim()[1] == arms[0].steps[-1]
    assert "4 of 5 seeds" in words(figure)


def test_published_points_are_shown_up_to_a_quarter_beyond_the_last_step() -> None:
    arm = sample_arm(num_steps=20)
    one = Published("ANF-SAC", (50_000, 120_000, 200_000), (4650.0, 5560.0, 6500.0), "ANF, Fig. 5")
    figure = learning_curves([arm], published={arm.panel: [one]})
    hollow = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert [list(np.asarray(line.get_xdata())) for line in hollow] == [[50_000, 120_000]]
    assert figure.axes[0].get_xlim()[1] == 120_000
    assert "ANF, Fig. 5" in words(figure)
    assert_readable(figure)


def test_permutations_are_vertical_lines_of_their_panel() -> None:
    arms = [sample_arm(noise_fraction=f) for f in (0.9, 0.95)]
    figure = learning_curves(arms, events={arms[1].panel: [30_000, 60_000]})
    for panel, expected in enumerate([set(), {30_000, 60_000}]):
        ends = [np.asarray(line.get_xdata()) for line in figure.axes[panel].lines]
        assert {x[0] for x in ends if len(x) == 2 and x[0] == x[1]} == expected
    assert "change places" in words(figure)


def test_what_has_no_return_is_named() -> None:
    assert "no finite return yet" in words(learning_curves([]))
    figure = learning_curves(STUDIES["some_nan"])
    assert "without a finite return: SAC" in words(figure)
    assert "no finite return yet" not in words(figure)


def test_what_all_variants_share_stands_in_the_title_only() -> None:
    figure = learning_curves(VARIANTS)
    assert words(figure).count("new_weights=xavier_$") == 1
    assert "drop_fraction=0.14" in words(figure)


def test_arm_refuses_shapes_that_do_not_belong_together() -> None:
    arm = sample_arm()
    with pytest.raises(ValueError, match="shape"):
        Arm(arm.env, 0.9, "SAC", "", (0,), arm.steps, arm.returns)
    with pytest.raises(ValueError, match="ascend"):
        Arm(arm.env, 0.9, "SAC", "", arm.lanes, arm.steps[::-1], arm.returns)
    assert math.isclose(arm.noise_fraction, 0.9) and arm.label == "ANF-SAC"


def test_many_panels_stand_three_in_a_row_under_a_key() -> None:
    arms = [
        sample_arm(k, noise_fraction=f, env=env, num_seeds=3, num_steps=4)
        for k in range(2)
        for f in FRACTIONS[:3]
        for env in ("Ant-v3", "Hopper-v3", "HalfCheetah-v3")
    ]
    figure = learning_curves(arms)
    assert_readable(figure)
    assert len({round(axes.get_position().x0, 3) for axes in figure.axes}) == 3
    assert words(figure).count("ANF-SAC") == 1
