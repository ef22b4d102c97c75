"""Triton's products of stacked layers against their definitions in float64, in exact float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastanf import kernels
from fastanf.kernels.layer_input import LayerInput, Noise
from fastanf.kernels.linear import (
    linear,
    linear_input_grad,
    linear_input_grad_ref,
    linear_ref,
    linear_weight_grad,
    linear_weight_grad_ref,
)

# Sums of up to 400 products of numbers near 1, in float32.
TOLERANCE = 2e-5
STREAM = 77

# L, C, D, N, A, O, B: odd sizes, several lanes, heads and hidden layers, tiles that are not full.
SIZES = [
    (1, 1, 1, 0, 0, 1, 1),
    (3, 1, 3, 5, 0, 1, 3),
    (2, 2, 5, 3, 1, 17, 5),
    (2, 2, 17, 153, 6, 33, 5),
    (1, 2, 171, 1, 3, 257, 9),
    (1, 1, 5, 257, 0, 3, 171),
    (1, 2, 256, 0, 0, 12, 100),
]


def layer_input(sizes: tuple[int, ...], device: torch.device, is_empirical: bool) -> LayerInput:
    L, _, D, N, A, _, B = sizes
    generator = torch.Generator().manual_seed(sum(sizes))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    noise = None
    if N:
        rows = torch.randint(0, 2**60, (L, B), generator=generator).to(device)
        keys = torch.randint(0, 2**62, (L,), generator=generator).to(device)
        quantiles = normal(D, 257).sort(1).values if is_empirical else None
        noise = Noise(keys, rows, STREAM, N, normal(L).abs(), quantiles)
    extra = normal(L, A, B) if A else None
    return LayerInput(normal(L, B, D).transpose(1, 2), noise, extra)


def exactly(x: LayerInput) -> LayerInput:
    return LayerInput(x.written_out.double())


@pytest.mark.parametrize("is_empirical", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("slope", [1.0, 0.0, 0.01])
def test_forward_is_the_definition(
    sizes: tuple[int, ...], slope: float, is_empirical: bool, device: torch.device
) -> None:
    L, C, D, N, A, O, _ = sizes
    x = layer_input(sizes, device, is_empirical)
    weight = torch.randn(L * C, O, D + N + A, device=device) / (D + N + A) ** 0.5
    bias = torch.randn(L * C, O, device=device)
    found = linear(x, weight, bias, slope)
    expected = linear_ref(exactly(x), weight.double(), bias.double(), slope)
    torch.testing.assert_close(found.double(), expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("is_empirical", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
def test_weight_gradient_is_the_definition(
    sizes: tuple[int, ...], is_empirical: bool, device: torch.device
) -> None:
    L, C, *_, O, B = sizes
    x = layer_input(sizes, device, is_empirical)
    grad = torch.randn(L * C, O, B, device=device) / B**0.5
    found = linear_weight_grad(x, grad)
    expected = linear_weight_grad_ref(exactly(x), grad.double())
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("slope", [None, 0.0, 0.01])
def test_input_gradient_of_any_range_is_the_definition(
    sizes: tuple[int, ...], slope: float | None, device: torch.device
) -> None:
    L, C, D, N, A, O, B = sizes
    G, I = L * C, D + N + A
    weight = torch.randn(G, O, I, device=device) / O**0.5
    grad = torch.randn(G, O, B, device=device)
    for inputs in (slice(0, I), slice(I // 2, I), slice(I - max(A, 1), I)):
        part = torch.randn(G, len(range(*inputs.indices(I))), B, device=device)
        activated = None if slope is None else part
        found = linear_input_grad(weight, grad, inputs, activated, slope or 0.0)
        expected = linear_input_grad_ref(
            weight.double(), grad.double(), inputs, activated, slope or 0.0
        )
        torch.testing.assert_close(found.double(), expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_lane_has_the_same_bits_alone_and_among_others(device: torch.device) -> None:
    sizes = (3, 2, 7, 41, 3, 40, 33)
    L, C, D, N, A, O, B = sizes
    x = layer_input(sizes, device, False)
    assert x.noise is not None and x.extra is not None
    noise = x.noise
    weight = torch.randn(L * C, O, D + N + A, device=device)
    bias, grad = torch.randn(L * C, O, device=device), torch.randn(L * C, O, B, device=device)
    for lane in (0, 2):
        one = slice(lane, lane + 1)
        alone = LayerInput(
            x.stored[one].clone(),
            Noise(noise.key[one], noise.row[one].clone(), STREAM, N, noise.std[one]),
            x.extra[one].clone(),
        )
        own = slice(C * lane, C * lane + C)
        for whole, part in (
            (linear(x, weight, bias, 0.0), linear(alone, weight[own], bias[own], 0.0)),
            (linear_weight_grad(x, grad)[0], linear_weight_grad(alone, grad[own])[0]),
            (linear_weight_grad(x, grad)[1], linear_weight_grad(alone, grad[own])[1]),
            (linear_input_grad(weight, grad), linear_input_grad(weight[own], grad[own])),
        ):
            assert torch.equal(whole[own], part)


def test_one_critic_of_two_is_read_where_it_lies(device: torch.device) -> None:
    both = torch.randn(3, 2, 20, 9, device=device)
    biases = torch.randn(3, 2, 20, device=device)
    x = LayerInput(torch.randn(3, 9, 4, device=device))
    found = linear(x, both[:, 0], biases[:, 0], 0.0)
    expected = linear_ref(x, both[:, 0].contiguous(), biases[:, 0].contiguous(), 0.0)
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_noise_never_takes_memory(device: torch.device) -> None:
    x = layer_input((2, 2, 4, 300, 2, 20, 50), device, False)
    linear(x, torch.randn(4, 20, 306, device=device), torch.randn(4, 20, device=device))
    linear_weight_grad(x, torch.randn(4, 20, 50, device=device))
    assert "written_out" not in x.__dict__


def test_hidden_layers_multiply_as_asked_and_heads_exactly(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fastanf.kernels.gpu import linear as gpu

    assert kernels.PRECISION == "float32"
    assert gpu._precision(256) == gpu._precision(34) == "ieee"
    monkeypatch.setattr(kernels, "PRECISION", "tf32")
    assert gpu._precision(256) == "tf32"
    assert gpu._precision(34) == "ieee"
