"""Counts of real and noise connections on masks drawn by hand and at random."""

import math

import pytest
import torch

from fastanf.sparse.connectivity import connections_per_feature, count_connections
from fastanf.sparse.masks import exact_masks

# H = 2, F = 4 (features 0 and 1 real), A = 1.
MASK = torch.tensor([[1, 1, 0, 1, 1], [1, 0, 0, 0, 1]], dtype=torch.bool)
REAL = torch.tensor([True, True, False, False])


def test_connections_are_counted_per_feature_without_the_actions():
    assert connections_per_feature(MASK).tolist() == [2, 1, 0, 1, 2]
    assert connections_per_feature(MASK, num_action_columns=1).tolist() == [2, 1, 0, 1]


def test_connectivity_of_a_hand_drawn_mask():
    connectivity = count_connections(MASK, REAL, num_action_columns=1)
    assert (int(connectivity.real), int(connectivity.noise)) == (3, 1)
    assert float(connectivity.per_real_feature) == 1.5
    assert float(connectivity.per_noise_feature) == 0.5
    assert float(connectivity.real_share) == 0.75
    assert float(connectivity.selectivity) == 3.0


def test_real_features_may_lie_elsewhere_in_each_lane():
    mask = MASK.expand(2, 3, 2, 5)  # L = 2, C = 3
    real = torch.stack((REAL, ~REAL))
    connectivity = count_connections(mask, real, num_action_columns=1)
    assert connectivity.real.tolist() == [[3, 3, 3], [1, 1, 1]]
    assert connectivity.noise.tolist() == [[1, 1, 1], [3, 3, 3]]
    assert connectivity.selectivity[:, 0].tolist() == [3.0, 1 / 3]


@pytest.mark.parametrize("num_features", [1, 3, 5, 171, 257])
def test_real_and_noise_make_up_all_connections(num_features):
    generator = torch.Generator().manual_seed(num_features)
    n = 7 * num_features
    mask = exact_masks(torch.rand(4, n, generator=generator), [n // 2] * 4).view(4, 7, -1)
    real = torch.rand(4, num_features, generator=generator) < 0.3
    connectivity = count_connections(mask, real)
    assert (connectivity.real + connectivity.noise).tolist() == [n // 2] * 4
    for lane in range(4):
        assert connectivity.real[lane] == mask[lane][:, real[lane]].sum()


def test_missing_kinds_are_nan_and_a_cut_off_noise_is_infinitely_selective():
    all_real = count_connections(MASK, torch.ones(5, dtype=torch.bool))
    assert math.isnan(all_real.per_noise_feature) and float(all_real.real_share) == 1.0
    only_real = count_connections(MASK[:, :3], torch.tensor([True, True, False]))
    assert math.isinf(only_real.selectivity)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="real_columns has 4 features; the mask has 5"):
        count_connections(MASK, REAL)
    with pytest.raises(ValueError, match="num_action_columns=5"):
        connections_per_feature(MASK, 5)
