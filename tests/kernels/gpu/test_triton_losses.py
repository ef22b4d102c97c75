"""Targets, errors and smallest values by Triton against their definitions."""

from __future__ import annotations

import pytest
import torch

from fastanf.kernels import losses

# The same few operations in float32; products and sums may be fused.
TOLERANCE = 1e-6
SIZES = [(1, 2, 1), (3, 2, 5), (2, 1, 171), (2, 3, 257)]


@pytest.mark.parametrize(("L", "C", "B"), SIZES)
@pytest.mark.parametrize("is_soft", [False, True])
def test_target_is_the_definition(
    L: int, C: int, B: int, is_soft: bool, device: torch.device
) -> None:
    q, reward = torch.randn(L, C, B, device=device), torch.randn(L, B, device=device)
    going_on = (torch.rand(L, B, device=device) < 0.5).float()
    soft = torch.randn(L, B, device=device), torch.rand(L, device=device)
    arguments = q, reward, going_on, torch.rand(L, device=device), *(soft if is_soft else ())
    found, expected = losses.bellman_target(*arguments), losses.bellman_target_ref(*arguments)
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(("L", "C", "B"), SIZES)
def test_error_and_its_slope_are_the_definition(
    L: int, C: int, B: int, device: torch.device
) -> None:
    q, target = torch.randn(L, C, B, device=device), torch.randn(L, B, device=device)
    found, expected = losses.squared_error(q, target), losses.squared_error_ref(q, target)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(("L", "C", "B"), SIZES)
def test_smallest_value_and_its_slope_are_the_definition(
    L: int, C: int, B: int, device: torch.device
) -> None:
    # Few distinct values: critics that agree share the slope.
    q = torch.randint(0, 3, (L, C, B), device=device).float()
    found, expected = losses.smallest_value(q), losses.smallest_value_ref(q)
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=TOLERANCE, atol=0.0)


def test_slope_is_what_autograd_finds() -> None:
    q = torch.randn(3, 2, 7, dtype=torch.float64).requires_grad_()
    (expected,) = torch.autograd.grad(-q.amin(1).mean(-1).sum(), q)
    torch.testing.assert_close(losses.smallest_value_ref(q.detach())[1], expected)
    target = torch.randn(3, 7, dtype=torch.float64)
    (expected,) = torch.autograd.grad((q - target[:, None]).square().mean(-1).sum(), q)
    torch.testing.assert_close(losses.squared_error_ref(q.detach(), target)[1], expected)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_value_that_is_no_number_stays_visible(device: torch.device) -> None:
    q = torch.ones(1, 2, 4, device=device)
    q[0, 0, 1] = q[0, 1, 2] = float("nan")
    smallest, _ = losses.smallest_value(q)
    assert smallest.isnan().tolist() == [[False, True, True, False]]
