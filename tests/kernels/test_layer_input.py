"""What enters a layer: its parts written out, and drawn inside the compiled kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from fastanf import kernels
from fastanf.kernels.layer_input import LayerInput, Noise
from fastanf.kernels.linear import linear, linear_weight_grad
from fastanf.kernels.native import VARIANTS
from fastanf.kernels.noise import noise_, noise_ref

L = 2
NUM_STORED = range(18)
NUM_COLUMNS = (1, 5, 8, 9, 100, 257)

needs_native = pytest.mark.skipif(kernels.NATIVE is None, reason="kernels are not compiled")


@pytest.fixture(params=range(3), ids=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Iterator[int]:
    """Each instruction set that this processor has."""
    if kernels.NATIVE is None:
        pytest.skip("kernels are not compiled")
    best = kernels.NATIVE.fastanf_variant()
    if request.param > best:
        pytest.skip(f"no {VARIANTS[request.param]} here")
    kernels.NATIVE.fastanf_set_variant(request.param)
    yield request.param
    kernels.NATIVE.fastanf_set_variant(best)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_noise(num: int, num_columns: int, is_empirical: bool, num_lanes: int = L) -> Noise:
    quantiles = randn(17, 257, seed=5).sort(dim=1).values if is_empirical else None
    row = torch.arange(num_lanes * num_columns).view(num_lanes, num_columns) * 3 + 2**33
    std = torch.linspace(0.5, 2.0, num_lanes)
    return Noise(torch.arange(num_lanes) * 7919 + 3, row, 4, num, std, quantiles)


def make_input(
    D: int, N: int, A: int, B: int, is_empirical: bool = False, is_strided: bool = False
) -> LayerInput:
    """Parts of D stored, N noise and A extra features; strided ones have their rows first."""
    stored, extra = randn(L, D, B), randn(L, A, B, seed=1)
    if is_strided:
        stored, extra = randn(L, B, D).transpose(1, 2), randn(L, B, A, seed=1).transpose(1, 2)
    noise = make_noise(N, B, is_empirical) if N else None
    return LayerInput(stored, noise, extra if A else None)


def drawn(noise: Noise) -> Tensor:
    """[L, N, B] what `noise_` draws for it."""
    out = torch.empty(noise.row.shape[0], noise.num, noise.row.shape[1])
    return noise_(out, noise.key, noise.row, noise.stream, noise.std, noise.quantiles)


@pytest.mark.parametrize("is_empirical", [False, True])
@pytest.mark.parametrize("is_strided", [False, True])
@pytest.mark.parametrize("B", NUM_COLUMNS)
def test_written_out_is_stored_then_noise_then_extra(B: int, is_strided: bool, is_empirical: bool):
    for D in NUM_STORED:
        x = make_input(D, 7, 3, B, is_empirical, is_strided)
        assert x.noise is not None and x.extra is not None
        assert (x.num_lanes, x.num_inputs, x.num_columns) == (L, D + 10, B)
        expected = torch.cat([x.stored, drawn(x.noise), x.extra], 1)
        assert torch.equal(x.written_out, expected)


def test_parts_may_be_missing():
    stored, extra, noise = randn(L, 5, 9), randn(L, 2, 9, seed=1), make_noise(6, 9, False)
    assert LayerInput(stored).written_out is stored
    with_noise = LayerInput(stored, noise)
    assert with_noise.num_inputs == 11
    assert torch.equal(with_noise.written_out, torch.cat([stored, drawn(noise)], 1))
    with_action = LayerInput(stored, extra=extra)
    assert with_action.num_inputs == 7
    assert torch.equal(with_action.written_out, torch.cat([stored, extra], 1))


def test_with_extra_follows_the_same_features():
    x, action = make_input(5, 6, 0, 9), randn(L, 3, 9, seed=7)
    joint = x.with_extra(action)
    assert joint.stored is x.stored and joint.noise is x.noise and x.extra is None
    assert torch.equal(joint.written_out, torch.cat([x.written_out, action], 1))
    other = joint.with_extra(-action)
    assert torch.equal(other.written_out[:, 11:], -action) and other.num_inputs == 14


def test_noise_of_other_rows_streams_and_keys_is_other_noise():
    noise = make_noise(6, 9, False)
    changes: list[dict[str, Any]] = [
        {"key": noise.key + 1}, {"row": noise.row + 1}, {"stream": noise.stream + 1},
    ]  # fmt: skip
    for change in changes:
        changed = dataclasses.replace(noise, **change)
        x = LayerInput(torch.empty(L, 0, 9), changed).written_out
        assert not (x == drawn(noise)).any()


def test_a_row_has_the_same_noise_alone_and_among_others():
    for is_empirical in (False, True):
        noise = make_noise(11, 100, is_empirical)
        everything = LayerInput(torch.empty(L, 0, 100), noise).written_out
        for columns in (slice(3, 4), slice(90, 97), slice(0, 50)):
            row = noise.row[:, columns].contiguous()
            few = Noise(noise.key, row, noise.stream, noise.num, noise.std, noise.quantiles)
            alone = LayerInput(torch.empty(L, 0, row.shape[1]), few).written_out
            # Plain torch rounds a vector's tail its own way.
            atol = 0 if kernels.NATIVE is not None else 4e-6
            torch.testing.assert_close(alone, everything[:, :, columns], rtol=0, atol=atol)


def test_float64_parts_are_written_out_in_float64():
    narrow = make_input(5, 7, 3, 9)
    noise, extra = narrow.noise, narrow.extra
    assert noise is not None and extra is not None
    wide = LayerInput(narrow.stored.double(), noise, extra.double())
    assert narrow.is_native and not wide.is_native
    expected = noise_ref(noise.key, noise.row, noise.stream, noise.num, noise.std).double()
    assert wide.written_out.dtype == torch.float64
    assert torch.equal(wide.written_out[:, 5:12], expected)
    assert torch.equal(wide.written_out[:, :5], narrow.stored.double())


def assert_parts_change_nothing(x: LayerInput, O: int = 5) -> None:
    """Both products of the parts have the bits of those of the input written out."""
    whole = LayerInput(x.written_out.contiguous())
    weight, bias = randn(2 * L, O, x.num_inputs, seed=2), randn(2 * L, O, seed=3)
    assert torch.equal(linear(x, weight, bias, 0.01), linear(whole, weight, bias, 0.01))
    grad = randn(2 * L, O, x.num_columns, seed=4)
    for got, expected in zip(
        linear_weight_grad(x, grad), linear_weight_grad(whole, grad), strict=True
    ):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("is_empirical", [False, True])
@pytest.mark.parametrize("B", NUM_COLUMNS)
def test_compiled_products_of_parts_are_those_of_the_whole(
    variant: int, B: int, is_empirical: bool
):
    for D in NUM_STORED:
        assert_parts_change_nothing(make_input(D, 7 + D % 4, D % 3, B, is_empirical, D % 2 == 1))


@pytest.mark.parametrize("is_empirical", [False, True])
@pytest.mark.parametrize(("N", "O"), [(1, 9), (250, 9), (257, 3), (600, 12)])
def test_products_of_much_noise_are_those_of_the_whole(
    variant: int, N: int, O: int, is_empirical: bool
):
    # Inputs are taken in blocks; noise starts and ends inside of them.
    for B in (1, 9, 257):
        assert_parts_change_nothing(make_input(17, N, 6, B, is_empirical), O)


def test_only_noise_enters_too(variant: int):
    assert_parts_change_nothing(LayerInput(torch.empty(L, 0, 9), make_noise(10, 9, False)))


@pytest.mark.parametrize("B", NUM_COLUMNS)
def test_strides_of_stored_and_extra_change_nothing(variant: int, B: int):
    noise, large = make_noise(6, B, False), randn(L, 40, 2 * B + 1, seed=8)
    strided = [
        randn(L, B, 7).transpose(1, 2),
        large[:, 3:10, 1 : B + 1],
        large[:, 3:17:2, 1::2],
        large[:1, 3:10, :B].expand(L, -1, -1),
        large[:, 3:10, :1].expand(-1, -1, B),
        randn(7, L, B).transpose(0, 1),
    ]
    for stored, extra in zip(strided, reversed(strided), strict=True):
        assert stored.shape == extra.shape == (L, 7, B)
        x = LayerInput(stored, noise, extra)
        assert torch.equal(x.written_out, torch.cat([stored, drawn(noise), extra], 1))
        assert_parts_change_nothing(x)


def test_noise_that_the_kernels_draw_is_the_same_in_every_variant():
    if kernels.NATIVE is None:
        pytest.skip("kernels are not compiled")
    best = kernels.NATIVE.fastanf_variant()
    # The identity takes the input through a product as it is, without rounding.
    identity, results = torch.eye(20).expand(L, -1, -1), []
    try:
        for variant in range(best + 1):
            kernels.NATIVE.fastanf_set_variant(variant)
            x = make_input(5, 13, 2, 37)
            results.append(linear(x, identity, torch.zeros(L, 20)))
            assert torch.equal(results[-1], x.written_out)
    finally:
        kernels.NATIVE.fastanf_set_variant(best)
    assert all(torch.equal(result, results[0]) for result in results)


def test_plain_torch_takes_the_parts_as_well(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels, "NATIVE", None)
    for D in (0, 3, 17):
        assert_parts_change_nothing(make_input(D, 7, 2, 9, is_strided=True))
