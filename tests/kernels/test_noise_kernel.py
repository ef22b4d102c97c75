"""Noise features: parity, independence of threads and lanes, and their statistics."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from fastanf import kernels
from fastanf.kernels.noise import noise_, noise_ref
from fastanf.kernels.philox import random_bits

# Values are at most 6 in magnitude and agree within 6 units (5e-7) in the last place.
NORMAL_TOLERANCE = 4e-6

needs_native = pytest.mark.skipif(kernels.NATIVE is None, reason="kernels are not compiled")


def arguments(num_lanes: int, num_rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    key = torch.arange(num_lanes) * 7919 + 3
    row = torch.arange(num_lanes * num_rows).view(num_lanes, num_rows) + 2**33
    return key, row, torch.linspace(0.5, 2.0, num_lanes)


def quantile_table(num_tables: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_tables, 257, generator=generator).sort(dim=1).values


@needs_native
@pytest.mark.parametrize("num_rows", [1, 3, 10, 100, 257])
@pytest.mark.parametrize("n", [1, 3, 5, 171])
def test_native_and_reference_agree_on_a_slice(num_rows: int, n: int):
    key, row, std = arguments(3, num_rows)
    table = quantile_table(17)
    x = torch.full((3, n + 20, num_rows), torch.nan)
    out = noise_(x[:, 17 : 17 + n], key, row, 4, std)
    assert out.data_ptr() == x[:, 17:].data_ptr()
    expected = noise_ref(key, row, 4, n, std)
    tolerance = NORMAL_TOLERANCE * float(std.max())
    torch.testing.assert_close(out, expected, rtol=0, atol=tolerance)
    noise_(x[:, 17 : 17 + n], key, row, 4, std, table)
    assert torch.equal(x[:, 17 : 17 + n], noise_ref(key, row, 4, n, std, table))
    assert x[:, :17].isnan().all() and x[:, 17 + n :].isnan().all()


@needs_native
def test_every_instruction_set_gives_the_same_bits():
    assert kernels.NATIVE is not None
    key, row, std = arguments(2, 37)
    best = kernels.NATIVE.fastanf_variant()
    results = []
    try:
        for variant in range(best + 1):
            kernels.NATIVE.fastanf_set_variant(variant)
            plain = noise_(torch.empty(2, 9, 37), key, row, 4, std)
            shaped = noise_(torch.empty(2, 9, 37), key, row, 4, std, quantile_table(5))
            results.append(torch.stack([plain, shaped]))
    finally:
        kernels.NATIVE.fastanf_set_variant(best)
    assert all(torch.equal(result, results[0]) for result in results)


def test_a_transposed_or_float64_output_is_filled_too():
    key, row, std = arguments(2, 6)
    expected = noise_ref(key, row, 4, 5, std)
    transposed = noise_(torch.empty(2, 6, 5).mT, key, row, 4, std)
    wide = noise_(torch.empty(2, 5, 6, dtype=torch.float64), key, row, 4, std)
    assert torch.equal(transposed, expected)
    assert torch.equal(wide, expected.double())


def test_float64_formula_of_box_and_muller_is_reproduced():
    key, row, std = arguments(2, 5)
    u = (random_bits(key, row, 4, 8) // 512 * 2 + 1).double() * 2.0**-24
    radius, angle = (-2 * u[:, 0::2].log()).sqrt(), 2 * torch.pi * u[:, 1::2]
    expected = torch.stack([radius * angle.cos(), radius * angle.sin()], 2).view(2, 8, 5)
    got = noise_(torch.empty(2, 8, 5), key, row, 4, std).double()
    tolerance = NORMAL_TOLERANCE * float(std.max())
    torch.testing.assert_close(got, expected * std.double()[:, None, None], rtol=0, atol=tolerance)


@pytest.mark.parametrize("num_rows", [1, 8, 100])
def test_lanes_rows_and_features_do_not_depend_on_their_company(num_rows: int):
    key, row, std = arguments(4, num_rows)
    out = noise_(torch.empty(4, 403, num_rows), key, row, 4, std)
    for lane in range(4):
        one = slice(lane, lane + 1)
        alone = noise_(torch.empty(1, 403, num_rows), key[one], row[one], 4, std[one])
        assert torch.equal(alone, out[one])
    fewer = noise_(torch.empty(4, 10, num_rows), key, row, 4, std)
    assert torch.equal(fewer, out[:, :10])
    last = noise_(torch.empty(4, 403, 1), key, row[:, -1:].contiguous(), 4, std)
    if kernels.NATIVE is not None:
        assert torch.equal(last, out[:, :, -1:])


def test_the_number_of_threads_changes_nothing():
    key, row, std = arguments(3, 100)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(noise_(torch.empty(3, 700, 100), key, row, 4, std))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.fixture(scope="module")
def sample() -> torch.Tensor:
    """[4 lanes, 64 features, 2500 rows] of unit noise, 640,000 numbers."""
    key = torch.arange(4)  # neighbouring seeds: the hardest for a generator
    row = torch.arange(2500).repeat(4, 1)
    return noise_(torch.empty(4, 64, 2500), key, row, 4, torch.ones(4))


def test_moments_are_those_of_a_normal(sample: torch.Tensor):
    x = sample.double().flatten()
    # E x^k = 0, 1, 0, 3 with Var x^k = 1, 2, 15, 96: four standard errors each.
    for power, (mean, variance) in enumerate([(0, 1), (1, 2), (0, 15), (3, 96)], start=1):
        assert abs(float((x**power).mean()) - mean) < 4 * (variance / x.numel()) ** 0.5


def test_distribution_is_normal(sample: torch.Tensor):
    assert stats.kstest(sample.flatten().numpy(), "norm").pvalue > 0.01


def test_distribution_is_normal_in_every_lane_and_feature(sample: torch.Tensor):
    values = sample.flatten(0, 1).numpy()
    # The smallest of 256 uniform p-values is below 4e-5 once in a hundred samples.
    assert min(stats.kstest(row, "norm").pvalue for row in values) > 4e-5


@pytest.mark.parametrize("axis", ["feature", "row", "lane"])
def test_neighbours_are_uncorrelated(sample: torch.Tensor, axis: str):
    x = sample.double()
    x = x if axis == "feature" else (x.mT if axis == "row" else x.transpose(0, 1))
    for left, right in ((x[:, :-1], x[:, 1:]), (x[:, :-1] ** 2 - 1, x[:, 1:] ** 2 - 1)):
        product = left * right
        assert abs(product.mean()) < 4 * product.std() / product.numel() ** 0.5


def test_streams_and_rows_of_different_calls_are_uncorrelated(sample: torch.Tensor):
    key, row, std = torch.arange(4), torch.arange(2500).repeat(4, 1), torch.ones(4)
    for stream, shift in ((5, 0), (4, 2500)):
        other = noise_(torch.empty(4, 64, 2500), key, row + shift, stream, std)
        product = (sample * other).double()
        assert abs(product.mean()) < 4 / product.numel() ** 0.5
        assert not torch.equal(sample, other)


def test_all_pairs_of_features_are_uncorrelated(sample: torch.Tensor):
    x = sample.transpose(0, 1).reshape(64, -1).double()
    correlation = x @ x.T / x.shape[1]
    off_diagonal = correlation[~torch.eye(64, dtype=torch.bool)]
    # 2016 pairs: the largest of that many normals stays below 5 standard errors.
    assert off_diagonal.abs().max() < 5 / x.shape[1] ** 0.5


@pytest.mark.parametrize("distance", [2, 3, 4, 8, 16, 64, 256, 1024])
def test_rows_at_a_distance_are_uncorrelated(sample: torch.Tensor, distance: int):
    x = sample.double()
    left, right = x[:, :, :-distance], x[:, :, distance:]
    for one, other in ((left, right), (left**2 - 1, right**2 - 1)):
        product = one * other
        assert abs(product.mean()) < 4 * product.std() / product.numel() ** 0.5


def test_all_pairs_of_lanes_and_calls_are_uncorrelated():
    key, row = torch.arange(4), torch.arange(2500).repeat(4, 1)
    # 24 sources: four neighbouring lanes, three streams, two groups of rows that follow.
    calls = [(stream, shift) for stream in (0, 1, 2**32 - 1) for shift in (0, 2500)]
    drawn = [
        noise_(torch.empty(4, 16, 2500), key, row + shift, stream, torch.ones(4))
        for stream, shift in calls
    ]
    x = torch.cat(drawn).flatten(1).double()
    for values, variance in ((x, 1.0), (x**2 - 1, 2.0)):
        correlation = values @ values.T / x.shape[1] / variance
        off_diagonal = correlation[~torch.eye(24, dtype=torch.bool)]
        # 276 pairs: the largest of that many normals stays below 4.5 standard errors.
        assert off_diagonal.abs().max() < 4.5 / x.shape[1] ** 0.5


def test_empirical_noise_has_the_moments_of_its_table_and_no_correlation():
    edges = torch.linspace(0, 1, 257)
    # Uniform with mean 0 and variance 1, then the square of a uniform number made so.
    table = torch.stack([(edges - 0.5) * 12**0.5, (edges**2 - 1 / 3) / (4 / 45) ** 0.5])
    x = noise_(
        torch.empty(4, 32, 2500), torch.arange(4), torch.arange(2500).repeat(4, 1), 4,
        torch.ones(4), table,
    ).double()  # fmt: skip
    # Third and fourth moments of u**2: from E u**(2 k) = 1 / (2 k + 1).
    cubed = (1 / 7 - 3 / 5 * 1 / 3 + 2 / 27) / (4 / 45) ** 1.5
    fourth = (1 / 9 - 4 / 7 / 3 + 6 / 5 / 9 - 4 / 3 / 27 + 1 / 81) / (4 / 45) ** 2
    for features, moments in (
        (x[:, 0::2], (0.0, 1.0, 0.0, 9 / 5)),
        (x[:, 1::2], (0.0, 1.0, cubed, fourth)),
    ):
        for power, moment in enumerate(moments, start=1):
            sampled = features**power
            # A straight line between 257 quantiles moves a moment of u**2 by less than 1e-4.
            slack = 4 * float(sampled.std()) / sampled.numel() ** 0.5 + 1e-4
            assert abs(float(sampled.mean()) - moment) < slack
    for turned in (x, x.mT, x.transpose(0, 1)):
        product = turned[:, :-1] * turned[:, 1:]
        assert abs(product.mean()) < 4 * product.std() / product.numel() ** 0.5


def test_empirical_noise_follows_its_table():
    probability = torch.linspace(0, 1, 257)
    table = torch.stack([probability, -3 + 2 * probability])  # uniform on [0, 1], on [-3, -1]
    key, row = torch.arange(2), torch.arange(5000).repeat(2, 1)
    x = noise_(torch.empty(2, 4, 5000), key, row, 4, torch.tensor([1.0, 2.0]), table)
    assert stats.kstest(x[0, 0::2].flatten().numpy(), "uniform").pvalue > 0.01
    assert stats.kstest((x[0, 1::2].flatten().numpy() + 3) / 2, "uniform").pvalue > 0.01
    assert x[1, 0::2].max() > 1.9 and x[1, 0::2].min() >= 0  # std scales the values


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"row": torch.zeros(2, 4, dtype=torch.int64)}, "row"),
        ({"std": torch.ones(3)}, "std"),
        ({"key": torch.zeros(2)}, "key"),
        ({"quantiles": torch.zeros(3, 256)}, "quantiles"),
        ({"stream": -1}, "stream"),
    ],
)
def test_wrong_arguments_are_named(change: dict, named: str):
    key, row, std = arguments(2, 5)
    given = {"key": key, "row": row, "stream": 0, "std": std, **change}
    with pytest.raises(ValueError, match=named):
        noise_(torch.empty(2, 3, 5), **given)
