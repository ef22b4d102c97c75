"""The squashed Gaussian in compiled form against plain torch and autograd in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fastanf import kernels
from fastanf.kernels.native import VARIANTS
from fastanf.kernels.squashed_gaussian import Squashing, sample_squashed, sample_squashed_ref

pytestmark = pytest.mark.skipif(kernels.NATIVE is None, reason="kernels are not compiled")

# Errors against 1 + the magnitude: functions of a few ulp (6e-8), summed over actions.
TOLERANCE = 3e-6
LOW, HIGH = -20.0, 2.0


@pytest.fixture(params=range(len(VARIANTS)), ids=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Iterator[int]:
    assert kernels.NATIVE is not None
    before = kernels.NATIVE.fastanf_variant()
    if kernels.NATIVE.fastanf_set_variant(request.param) != request.param:
        pytest.skip("this processor lacks the instructions")
    yield request.param
    kernels.NATIVE.fastanf_set_variant(before)


def make_case(L: int, A: int, B: int, spread: float):
    generator = torch.Generator().manual_seed(A * B)
    head = torch.randn(L, 2 * A, B, generator=generator) * spread
    normal = torch.randn(L, A, B, generator=generator)
    scale = torch.rand(A, 1, generator=generator) + 0.3
    offset = torch.randn(A, 1, generator=generator)
    return head, normal, scale, offset


@pytest.mark.parametrize("spread", [0.01, 1.0, 5.0, 40.0])
@pytest.mark.parametrize(("L", "A", "B"), [(1, 1, 1), (3, 6, 101), (5, 17, 16)])
def test_values_and_gradients_follow_float64(
    variant: int, L: int, A: int, B: int, spread: float
) -> None:
    head, normal, scale, offset = make_case(L, A, B, spread)
    wide = head.double().requires_grad_()
    head = head.requires_grad_()
    action_grad, density_grad = torch.randn(L, A, B), torch.randn(L, B)
    got = sample_squashed(head, normal, Squashing.of(scale, offset, LOW, HIGH))
    (grad,) = torch.autograd.grad(got, head, (action_grad, density_grad))
    to = Squashing.of(scale.double(), offset.double(), LOW, HIGH)
    expected = sample_squashed_ref(wide, normal.double(), to)
    (wide_grad,) = torch.autograd.grad(
        expected, wide, (action_grad.double(), density_grad.double())
    )
    for one, other in zip((*got, grad), (*expected, wide_grad), strict=True):
        error = ((one - other).abs() / (1 + other.abs())).max().detach()
        assert float(error) < TOLERANCE


def test_limits_of_the_deviation_stop_its_gradient(variant: int) -> None:
    head = torch.tensor([[[0.3, 0.3, 0.3], [-25.0, 0.5, 3.0]]], requires_grad=True)
    normal = torch.full((1, 1, 3), 0.7)
    to = Squashing.of(torch.ones(1, 1), torch.zeros(1, 1), LOW, HIGH)
    action, log_density = sample_squashed(head, normal, to)
    (grad,) = torch.autograd.grad((action.sum() + log_density.sum()), head)
    assert grad[0, 1, 0] == grad[0, 1, 2] == 0 and grad[0, 1, 1] != 0
    assert (grad[0, 0] != 0).all()


def test_a_column_has_the_same_bits_wherever_it_stands(variant: int) -> None:
    head, normal, scale, offset = make_case(4, 6, 37, 1.0)
    to = Squashing.of(scale, offset, LOW, HIGH)
    action, log_density = sample_squashed(head, normal, to)
    for lane, column in ((0, 0), (2, 17), (3, 36)):
        part = slice(column, column + 1)
        own = sample_squashed(head[lane : lane + 1, :, part], normal[lane : lane + 1, :, part], to)
        assert torch.equal(own[0][0, :, 0], action[lane, :, column])
        assert torch.equal(own[1][0, 0], log_density[lane, column])


def test_nan_stays_in_its_lane_and_is_seen(variant: int) -> None:
    head, normal, scale, offset = make_case(3, 6, 20, 1.0)
    to = Squashing.of(scale, offset, LOW, HIGH)
    sound = sample_squashed(head, normal, to)
    head[1] = float("nan")
    action, log_density = sample_squashed(head, normal, to)
    assert action[1].isnan().all() and log_density[1].isnan().all()
    for lane in (0, 2):
        assert torch.equal(action[lane], sound[0][lane])
        assert torch.equal(log_density[lane], sound[1][lane])
