"""Connections of first layers: arrays from rows, and what is drawn of them."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from fastanf.report.arms import Arm
from fastanf.report.connections import NETWORKS, FirstLayer, feature_map, first_layer
from fastanf.report.figures_connections import (
    LEVEL,
    NOISE,
    REAL,
    mean_connections,
    precision_curves,
    weight_share_curves,
)
from fastanf.rows import FeatureRow, TopologyRow
from tests.report.figure_checks import assert_readable, words
from tests.report_samples import (
    NUM_ACTIVE,
    NUM_FEATURES,
    NUM_REAL,
    feature_rows,
    sample_arm,
    topology_rows,
    unfinished,
)

DENSE = ("SAC", "TD3")


def layers_of(*arms: Arm) -> list[FirstLayer]:
    """Both networks of each arm; SAC and TD3 are dense."""
    found = []
    for number, arm in enumerate(arms):
        is_dense = arm.policy in DENSE
        reach = 0.15 + 0.5 / (number + 1)
        topology = [[] if is_dense else topology_rows(k, arm.steps, reach) for k in arm.lanes]  # type: ignore[arg-type]
        features = [feature_rows(k, arm.steps, is_dense=is_dense) for k in arm.lanes]  # type: ignore[arg-type]
        found += [
            first_layer(arm, network, topology, features, NUM_REAL, NUM_FEATURES)
            for network in NETWORKS
        ]
    return found


def y_of(figure: Figure, colour: str, panel: int = 0) -> list[np.ndarray]:
    lines = figure.axes[panel].lines
    return [
        np.asarray(line.get_ydata())
        for line in lines
        if line.get_color() == colour and line.get_linewidth() > 2
    ]


def test_first_layer_is_that_of_the_rows_and_the_mean_of_both_critics() -> None:
    arm = sample_arm(num_seeds=1, num_steps=2)
    rows = [
        TopologyRow(0, 5000, 5000, "critic1", 0, 100, 0.2, 40, 60, 0.4),
        TopologyRow(0, 5000, 5000, "critic2", 0, 100, 0.2, 20, 80, 0.2),
        TopologyRow(0, 5000, 5000, "critic1", 1, 50, 0.2, 0, 0),
        TopologyRow(0, 10000, 10000, "critic1", 0, 100, 0.2, 50, 50, 0.5),  # the other is to come
    ]
    weights = [
        FeatureRow(0, 10000, 10000, name, 5, 20, 0.3, 0.1) for name in ("critic1", "critic2")
    ]
    layer = first_layer(arm, "critics", [rows], [weights], 5, 20)
    assert list(layer.steps) == [5000, 10000]
    assert layer.per_real_feature[0] == pytest.approx([6, np.nan], nan_ok=True)
    assert layer.per_noise_feature[0] == pytest.approx([70 / 15, np.nan], nan_ok=True)
    assert layer.precision[0] == pytest.approx([0.3, np.nan], nan_ok=True)
    assert layer.weight_share[0] == pytest.approx([np.nan, 1.5 / (1.5 + 1.5)], nan_ok=True)
    assert layer.random_level == 0.25
    assert layer.per_any_feature[0] == pytest.approx([5, np.nan], nan_ok=True)


def test_first_layer_without_noise_features_is_all_real() -> None:
    arm = sample_arm(num_seeds=1, num_steps=1)
    row = TopologyRow(0, 5000, 5000, "actor", 0, 100, 0.2, 100, 0, 1.0)
    feature = FeatureRow(0, 5000, 5000, "actor", 20, 20, 0.3, np.nan, "")
    layer = first_layer(arm, "actor", [[row]], [[feature]], 20, 20)
    assert layer.precision[0, 0] == layer.weight_share[0, 0] == 1
    assert np.isnan(layer.per_noise_feature).all()
    assert_readable(mean_connections([layer]))


def test_first_layer_refuses_another_number_of_lanes() -> None:
    with pytest.raises(ValueError, match="lanes"):
        first_layer(sample_arm(), "actor", [[]], [[]], 17, 170)


def test_mean_connections_of_both_kinds_are_drawn_with_the_random_level() -> None:
    layers = layers_of(sample_arm())
    figure = mean_connections(layers)
    assert_readable(figure)
    assert len(figure.axes) == 2
    for panel, layer in enumerate(layers):
        (real,), (noise,) = y_of(figure, REAL.colour, panel), y_of(figure, NOISE.colour, panel)
        assert real == pytest.approx(layer.per_real_feature.mean(axis=0))
        assert noise == pytest.approx(layer.per_noise_feature.mean(axis=0))
        (level,) = (one for one in figure.axes[panel].lines if one.get_color() == LEVEL.colour
                    and one.get_linewidth() == 1.2)  # fmt: skip
        assert np.asarray(level.get_ydata())[0] == pytest.approx(NUM_ACTIVE / NUM_FEATURES)


@pytest.mark.parametrize("num_arms", [1, 3, 8])
def test_connections_are_readable_and_name_dense_arms(num_arms: int) -> None:
    arms = [sample_arm(k, num_seeds=2, num_steps=9) for k in range(num_arms)]
    layers = layers_of(*arms)
    for figure in (mean_connections(layers, {arms[0]: [40_000]}), precision_curves(layers)):
        assert_readable(figure)
        assert ("dense or not recorded: SAC" in words(figure)) == (num_arms > 1)
    assert_readable(weight_share_curves(layers))


def test_weight_shares_are_drawn_of_dense_arms_too() -> None:
    figure = weight_share_curves(layers_of(sample_arm(0), sample_arm(1)))
    assert words(figure).count("SAC") == 4  # both arms in both panels
    assert "dense or not" not in words(figure)


def test_precision_of_several_tasks_has_a_panel_for_each_and_network() -> None:
    arms = [sample_arm(k, noise_fraction=f, num_seeds=2) for k in range(3) for f in (0.9, 0.95)]
    figure = precision_curves(layers_of(*arms))
    assert len(figure.axes) == 4
    assert_readable(figure)


@pytest.mark.parametrize("draw", [mean_connections, precision_curves])
def test_dense_arms_alone_are_said_to_be_dense(draw) -> None:
    figure = draw(layers_of(sample_arm(1)))
    assert "record" in words(figure)
    assert_readable(figure)
    assert_readable(draw([]))


def test_short_and_unfinished_arms_are_drawn() -> None:
    short, behind = sample_arm(num_steps=1), unfinished(sample_arm(2), 4)
    assert_readable(mean_connections(layers_of(short)))
    assert_readable(precision_curves(layers_of(sample_arm(), behind)))


def test_feature_map_holds_the_counts_of_its_network_in_their_order() -> None:
    rows = [
        FeatureRow(0, 5000, 5000, "actor", 2, 5, 0.1, 0.1, "1 2 3 4"),
        FeatureRow(0, 5000, 5000, "critic1", 2, 5, 0.1, 0.1, "9 9 9 9"),
        FeatureRow(0, 10000, 10000, "actor", 2, 5, 0.1, 0.1, "5 6 7 8"),
    ]
    found = feature_map(rows, "actor", "lane 0")
    assert found is not None
    assert found.real.tolist() == [[1, 5], [2, 6]] and found.noise.tolist() == [[3, 7], [4, 8]]
    assert found.random_level == pytest.approx((1 + 2 + 3 * 3.5) / 5)
    assert feature_map(rows, "critic2", "lane 0") is None
