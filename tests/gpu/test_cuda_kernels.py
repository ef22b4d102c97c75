"""Triton's kernels at real sizes on a GPU: what TF32 costs, and that lanes do not see each other.

The tests of tests/kernels/gpu compare every kernel with its definition, on a GPU too.
Axes: L lanes, C = 2 critics, O outputs, I inputs, B minibatch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from fastanf import kernels
from fastanf.kernels.layer_input import LayerInput, Noise
from fastanf.kernels.linear import linear, linear_input_grad, linear_weight_grad

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
pytest.importorskip("triton", reason="Triton is not installed")

CUDA = torch.device("cuda")
# HalfCheetah at noise 0.9: the critics' first layer, and a hidden one.
NUM_REAL, NUM_NOISE, NUM_ACTIONS, HIDDEN, BATCH, COPIES = 17, 153, 6, 256, 100, 2
LANES, LANE = 64, 37
# TF32 keeps 10 bits behind the point, rounded or cut off: 2^-10 of each factor, twice that of a
# product, with room for sums in which the larger terms cancel.
TF32_TOLERANCE = 2**-8
# Sums of up to 256 terms in float32.
FLOAT32_TOLERANCE = 2e-5

Case = tuple[LayerInput, Tensor, Tensor, Tensor]
"""Input, weight [L * C, O, I], bias [L * C, O] and gradient of the output [L * C, O, B]."""


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    before = kernels.PRECISION
    kernels.use_precision("float32")
    yield
    kernels.use_precision(before)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(CUDA)


def first_layer() -> Case:
    key = torch.arange(LANES, device=CUDA) * 977
    row = torch.arange(BATCH, device=CUDA).repeat(LANES, 1)
    noise = Noise(key, row, 3, NUM_NOISE, torch.ones(LANES, device=CUDA))
    stored = randn(LANES, BATCH, NUM_REAL).transpose(1, 2)
    x = LayerInput(stored, noise, randn(LANES, NUM_ACTIONS, BATCH))
    return x, *parameters(NUM_REAL + NUM_NOISE + NUM_ACTIONS)


def hidden_layer() -> Case:
    # Each critic has hidden units of its own: a lane of this layer is a critic.
    return LayerInput(randn(LANES * COPIES, HIDDEN, BATCH).relu()), *parameters(HIDDEN)


def parameters(num_inputs: int) -> tuple[Tensor, Tensor, Tensor]:
    G = LANES * COPIES
    return randn(G, HIDDEN, num_inputs), randn(G, HIDDEN), randn(G, HIDDEN, BATCH)


def results(x: LayerInput, weight: Tensor, bias: Tensor, grad: Tensor) -> list[Tensor]:
    """Output, gradient of the weights and biases, gradient of the last inputs and of all."""
    I = weight.shape[2]
    return [
        linear(x, weight, bias, 0.0),
        *linear_weight_grad(x, grad),
        linear_input_grad(weight, grad, slice(I - NUM_ACTIONS, I)),
        linear_input_grad(weight, grad),
    ]


def expected(x: LayerInput, weight: Tensor, bias: Tensor, grad: Tensor) -> list[Tensor]:
    """The same in float64."""
    inputs = x.written_out.double()
    inputs = inputs.repeat_interleave(weight.shape[0] // inputs.shape[0], 0)
    w, dz = weight.double(), grad.double()
    passed = w.transpose(1, 2) @ dz
    return [
        (bias.double().unsqueeze(-1) + w @ inputs).relu(),
        dz @ inputs.transpose(1, 2),
        dz.sum(-1),
        passed[:, -NUM_ACTIONS:],
        passed,
    ]


@pytest.mark.parametrize("make", [first_layer, hidden_layer])
@pytest.mark.parametrize("precision", kernels.PRECISIONS)
def test_products_are_as_exact_as_their_precision(make: Callable[[], Case], precision: str) -> None:
    case = make()
    kernels.use_precision(precision)
    tolerance = TF32_TOLERANCE if precision == "tf32" else FLOAT32_TOLERANCE
    for found, wanted in zip(results(*case), expected(*case), strict=True):
        error = float((found - wanted).abs().max() / wanted.abs().max())
        assert error <= tolerance


def test_tf32_is_what_the_option_says() -> None:
    case = hidden_layer()
    exact = results(*case)
    kernels.use_precision("tf32")
    rounded = results(*case)
    assert not torch.equal(exact[0], rounded[0])
    assert torch.equal(exact[2], rounded[2])  # sums of biases are exact in both


@pytest.mark.parametrize("make", [first_layer, hidden_layer])
@pytest.mark.parametrize("precision", kernels.PRECISIONS)
def test_a_lane_has_the_same_bits_alone_and_among_63_others(
    make: Callable[[], Case], precision: str
) -> None:
    kernels.use_precision(precision)
    x, weight, bias, grad = make()
    one = slice(LANE, LANE + 1)
    noise = x.noise
    if noise is not None:
        noise = Noise(noise.key[one], noise.row[one], noise.stream, noise.num, noise.std[one])
    extra = None if x.extra is None else x.extra[one]
    copies = weight.shape[0] // x.num_lanes
    own = slice(LANE * copies, (LANE + 1) * copies)
    alone = results(LayerInput(x.stored[one], noise, extra), weight[own], bias[own], grad[own])
    for among, found in zip(results(x, weight, bias, grad), alone, strict=True):
        assert torch.equal(among[own], found)
