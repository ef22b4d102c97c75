"""The map and the histograms of each feature's connections."""

import numpy as np
import pytest
from matplotlib.collections import QuadMesh

from fastanf.report.connections import FeatureMap, feature_map
from fastanf.report.feature_names import NAMES, feature_names
from fastanf.report.figures_features import MAX_NOISE_ROWS, feature_heat_map
from fastanf.report.figures_histograms import connection_histograms
from fastanf.report.violets import violets
from tests.report.figure_checks import assert_readable, words
from tests.report_samples import feature_rows

CHEETAH = feature_names("HalfCheetah-v3")


def sample_map(lane: int = 0, num_steps: int = 20, **options: object) -> FeatureMap:
    steps = 5000 * np.arange(1, num_steps + 1)
    found = feature_map(feature_rows(lane, steps, **options), "actor", "ANF-SAC, seed 0, actor")  # pyright: ignore
    assert found is not None
    return found


def meshes_of(figure) -> list[np.ndarray]:
    return [
        np.asarray(child.get_array())
        for axes in figure.axes
        for child in axes.get_children()
        if isinstance(child, QuadMesh)
    ]


def test_every_real_feature_has_a_row_and_its_name_above_a_sample_of_the_noise() -> None:
    features = sample_map()
    figure = feature_heat_map(features, CHEETAH)
    assert_readable(figure)
    real, noise, _scale = meshes_of(figure)
    assert np.array_equal(real.reshape(features.real.shape), features.real)
    assert np.array_equal(noise.reshape(MAX_NOISE_ROWS, -1), features.noise[:MAX_NOISE_ROWS])
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == list(CHEETAH)
    assert figure.axes[0].yaxis_inverted(), "the first feature stands on top"
    assert figure.axes[0].get_position().y0 > figure.axes[1].get_position().y1


@pytest.mark.parametrize(
    "options",
    [
        {"num_steps": 1},
        {"num_steps": 2},
        {"num_real": 376, "num_features": 3760, "num_steps": 5},
        {"num_real": 17, "num_features": 17},
        {"num_real": 3, "num_features": 4},
    ],
)
def test_maps_of_odd_sizes_are_readable(options: dict[str, int]) -> None:
    assert_readable(feature_heat_map(sample_map(**options)))


def test_columns_end_at_evaluations_and_begin_anew_at_a_permutation() -> None:
    figure = feature_heat_map(sample_map(num_steps=4), events=[12_000, 15_000])
    (mesh,) = (c for c in figure.axes[0].get_children() if isinstance(c, QuadMesh))
    edges = np.asarray(mesh.get_coordinates())[0, :, 0]
    assert list(edges) == [0, 5000, 12_000, 15_000, 20_000]
    marked = {np.asarray(line.get_xdata())[0] for line in figure.axes[0].lines}
    assert marked == {12_000, 15_000}
    assert "change places" in words(figure)
    assert_readable(figure)


def test_names_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match="names"):
        feature_heat_map(sample_map(), CHEETAH[:5])


def test_dense_layers_are_said_to_be_dense() -> None:
    for figure in (feature_heat_map(None), connection_histograms([], "SAC, actor")):
        assert "no sparse first layer" in words(figure)
        assert_readable(figure)


def test_histograms_hold_all_features_of_a_kind() -> None:
    figure = connection_histograms([sample_map(lane) for lane in range(3)], "ANF-SAC, actor")
    assert_readable(figure)
    assert len(figure.axes) == 2 and "3 lanes" in words(figure)
    for axes in figure.axes:
        totals = [patch.get_data().values.sum() for patch in axes.patches]  # type: ignore[attr-defined]
        assert totals == pytest.approx([1.0] * 4)  # two kinds, filled and outlined


def test_histogram_of_a_single_evaluation_has_one_panel() -> None:
    figure = connection_histograms([sample_map(num_steps=1)], "ANF-SAC, actor")
    assert len(figure.axes) == 1 and "only evaluation" in words(figure)
    assert_readable(figure)


def test_colours_darken_evenly() -> None:
    # Luminance L* of CIELAB from sRGB; another space than the one the map is made in.
    shades = np.asarray(violets().colors)
    linear = np.where(shades <= 0.04045, shades / 12.92, ((shades + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    steps = -np.diff(lightness)
    assert (steps > 0).all()
    assert steps.max() < 1.6 * steps.min()  # L* and OKLab's lightness agree that far
    assert ((shades >= 0) & (shades <= 1)).all()


def test_names_are_as_many_as_the_tasks_have_features() -> None:
    assert {env: len(names) for env, names in NAMES.items()} == {
        "HalfCheetah": 17,
        "Hopper": 11,
        "Walker2d": 17,
    }
    assert feature_names("Humanoid-v3") == ()
