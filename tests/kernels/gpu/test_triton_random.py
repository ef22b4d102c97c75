"""Random numbers and noise that Triton's kernels write, against their definitions."""

from __future__ import annotations

import pytest
import torch

from fastanf.kernels.noise import noise_, noise_ref
from fastanf.kernels.philox import (
    random_bits,
    random_bits_ref,
    random_normal,
    random_normal_ref,
    random_uniform,
    random_uniform_ref,
)

KEYS = torch.tensor([0, 2**63 - 1, 123456789012345])
# The polynomials and the square root: as for the compiled kernels.
MAX_ULP = 6.0
SIZES = [(1, 1), (3, 5), (4, 64), (171, 3), (33, 171)]


def rows(R: int) -> torch.Tensor:
    return torch.arange(len(KEYS) * R).view(len(KEYS), R) * (2**33 + 7)


def ulps(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((found - expected).abs() / expected.abs()).max() * 2**23)


@pytest.mark.parametrize(("n", "R"), SIZES)
@pytest.mark.parametrize("stream", [0, 1, 16, 2**32 - 1])
def test_words_and_uniforms_are_the_definitions(
    n: int, R: int, stream: int, device: torch.device
) -> None:
    key, row = KEYS.to(device), rows(R).to(device)
    assert torch.equal(
        random_bits(key, row, stream, n).cpu(), random_bits_ref(KEYS, rows(R), stream, n)
    )
    assert torch.equal(
        random_uniform(key, row, stream, n).cpu(), random_uniform_ref(KEYS, rows(R), stream, n)
    )


@pytest.mark.parametrize("first_word", [1, 6, 1021])
def test_words_begin_anywhere(first_word: int, device: torch.device) -> None:
    key, row = KEYS.to(device), rows(3).to(device)
    found = random_bits(key, row, 5, 41, first_word).cpu()
    assert torch.equal(found, random_bits_ref(KEYS, rows(3), 5, 41, first_word))


@pytest.mark.parametrize(("n", "R"), SIZES)
def test_normals_agree_within_few_ulp(n: int, R: int, device: torch.device) -> None:
    found = random_normal(KEYS.to(device), rows(R).to(device), 9, n).cpu()
    assert ulps(found, random_normal_ref(KEYS, rows(R), 9, n)) <= MAX_ULP


def test_lanes_that_share_their_rows_need_no_copy_of_them(device: torch.device) -> None:
    shared = torch.arange(7, device=device).expand(len(KEYS), 7)
    found = random_bits(KEYS.to(device), shared, 3, 5).cpu()
    assert torch.equal(found, random_bits_ref(KEYS, shared.cpu(), 3, 5))


@pytest.mark.parametrize("is_empirical", [False, True])
def test_noise_fills_a_slice_and_nothing_else(is_empirical: bool, device: torch.device) -> None:
    n, R, D = 37, 19, 5
    std = torch.tensor([0.5, 1.0, 3.0])
    quantiles = torch.randn(D, 257).sort(1).values if is_empirical else None
    x = torch.full((3, D + n + 2, R), 7.0, device=device)
    on_device = None if quantiles is None else quantiles.to(device)
    noise_(x[:, D : D + n], KEYS.to(device), rows(R).to(device), 4, std.to(device), on_device)
    expected = noise_ref(KEYS, rows(R), 4, n, std, quantiles)
    torch.testing.assert_close(x[:, D : D + n].cpu(), expected, rtol=MAX_ULP * 2**-23, atol=1e-7)
    assert bool((x[:, :D] == 7).all())
    assert bool((x[:, D + n :] == 7).all())
