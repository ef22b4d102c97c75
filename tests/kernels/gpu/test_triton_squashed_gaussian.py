"""The squashed Gaussian by Triton's kernels against plain torch and autograd in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastanf.kernels.squashed_gaussian import Squashing, sample_squashed, sample_squashed_ref

# Errors against 1 + the magnitude: functions of a few ulp (6e-8), summed over actions.
TOLERANCE = 3e-6
LOW, HIGH = -20.0, 2.0
L = 3


def make_case(A: int, B: int, spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Head, normal numbers, scale and offset."""
    generator = torch.Generator().manual_seed(A * B)
    head = torch.randn(L, 2 * A, B, generator=generator) * spread
    normal = torch.randn(L, A, B, generator=generator)
    scale = torch.rand(A, 1, generator=generator) + 0.3
    return head, normal, scale, torch.randn(A, 1, generator=generator)


def squashing(scale: Tensor, offset: Tensor, device: torch.device) -> Squashing:
    return Squashing.of(scale.to(device), offset.to(device), LOW, HIGH)


def found_and_expected(
    head: Tensor, normal: Tensor, scale: Tensor, offset: Tensor, device: torch.device
) -> tuple[list[Tensor], list[Tensor]]:
    """Action, log-density and the head's gradient, as computed and in float64."""
    generator = torch.Generator().manual_seed(1)
    grads = (
        torch.randn(normal.shape, generator=generator),
        torch.randn(L, normal.shape[2], generator=generator),
    )
    own, wide = head.to(device).requires_grad_(), head.double().requires_grad_()
    got = sample_squashed(own, normal.to(device), squashing(scale, offset, device))
    (grad,) = torch.autograd.grad(got, own, [g.to(device) for g in grads])
    to = Squashing.of(scale.double(), offset.double(), LOW, HIGH)
    expected = sample_squashed_ref(wide, normal.double(), to)
    (wide_grad,) = torch.autograd.grad(expected, wide, [g.double() for g in grads])
    return [t.detach().cpu() for t in (*got, grad)], [t.detach() for t in (*expected, wide_grad)]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert float(((one - other).abs() / (1 + other.abs())).max()) < TOLERANCE


@pytest.mark.parametrize("spread", [0.01, 1.0, 5.0, 40.0])
@pytest.mark.parametrize("A", [1, 3, 6, 17])
@pytest.mark.parametrize("B", [1, 5, 100])
def test_values_and_gradients_follow_float64(
    A: int, B: int, spread: float, device: torch.device
) -> None:
    assert_close(*found_and_expected(*make_case(A, B, spread), device))


def test_saturated_actions_and_limits_of_the_deviation(device: torch.device) -> None:
    u = torch.tensor([-30.0, -9.0, -0.625, -1e-4, -0.0, 0.0, 1e-8, 0.6249, 0.626, 4.0, 15.0, 30.0])
    log_std = torch.tensor([-25.0, -20.0, -19.9, 0.0, 1.99, 2.0, 3.0])
    mean, log_std = (t.flatten() for t in torch.meshgrid(u, log_std, indexing="ij"))
    head = torch.stack((mean, log_std)).expand(L, 2, -1).contiguous()  # A = 1
    for normal in (0.0, 0.7, -3.0):
        normals = torch.full((L, 1, len(mean)), normal)
        case = head, normals, torch.full((1, 1), 0.4), torch.full((1, 1), 0.1)
        assert_close(*found_and_expected(*case, device))


def test_a_saturated_action_keeps_the_digits_of_its_gradient(device: torch.device) -> None:
    mean = torch.tensor([5.0, 8.0, 10.0, 20.0, 30.0])
    head = torch.stack((mean, torch.full_like(mean, -20.0))).unsqueeze(0).to(device)
    head.requires_grad_()
    to = squashing(torch.ones(1, 1), torch.zeros(1, 1), device)
    action, _ = sample_squashed(head, torch.zeros(1, 1, len(mean), device=device), to)
    (grad,) = torch.autograd.grad(action.sum(), head)
    # 1 - tanh^2, which a difference of float32 would make 0 or 6e-8.
    expected = torch.cosh(mean.double()).pow(-2)
    torch.testing.assert_close(grad[0, 0].cpu().double(), expected, rtol=1e-6, atol=0)


def test_limits_of_the_deviation_stop_its_gradient(device: torch.device) -> None:
    head = torch.tensor([[[0.3] * 5, [-25.0, -20.0, 0.5, 2.0, 3.0]]], device=device)
    head.requires_grad_()
    to = squashing(torch.ones(1, 1), torch.zeros(1, 1), device)
    action, log_density = sample_squashed(head, torch.full((1, 1, 5), 0.7, device=device), to)
    (grad,) = torch.autograd.grad(action.sum() + log_density.sum(), head)
    assert (grad[0, 1] != 0).tolist() == [False, True, True, True, False]
    assert bool((grad[0, 0] != 0).all())


def test_gradients_of_any_strides_are_read_where_they_lie(device: torch.device) -> None:
    head, normal, scale, offset = (t.to(device) for t in make_case(6, 37))
    head.requires_grad_()
    outputs = sample_squashed(head, normal, squashing(scale, offset, device))
    action_grad = torch.randn(L, 37, 6, device=device).transpose(1, 2)
    density_grad = torch.randn(L, 1, device=device).expand(L, 37)
    (found,) = torch.autograd.grad(outputs, head, (action_grad, density_grad), retain_graph=True)
    dense = action_grad.contiguous(), density_grad.contiguous()
    (expected,) = torch.autograd.grad(outputs, head, dense)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("is_action", [False, True])
def test_one_of_the_two_results_may_be_without_gradient(
    is_action: bool, device: torch.device
) -> None:
    head, normal, scale, offset = make_case(3, 5)
    grads = []
    for to_type in (torch.float32, torch.float64):
        place = device if to_type == torch.float32 else torch.device("cpu")
        own = head.to(place, to_type).requires_grad_()
        to = Squashing.of(scale.to(place, to_type), offset.to(place, to_type), LOW, HIGH)
        outputs = sample_squashed(own, normal.to(place, to_type), to)
        (grad,) = torch.autograd.grad(outputs[0 if is_action else 1].sum(), own)
        grads.append(grad.cpu())
    assert_close(grads[:1], grads[1:])


@pytest.mark.parametrize("A", [1, 6, 17])
def test_a_lane_alone_has_the_bits_it_has_among_others(A: int, device: torch.device) -> None:
    head, normal, scale, offset = (t.to(device) for t in make_case(A, 100))
    to = squashing(scale, offset, device)
    head[1] = torch.nan  # a broken neighbour does not reach it either

    def run(lanes: slice) -> list[Tensor]:
        own = head[lanes].clone().requires_grad_()
        outputs = sample_squashed(own, normal[lanes].clone(), to)
        (grad,) = torch.autograd.grad([output.sum() for output in outputs], own)
        return [*outputs, grad]

    among = run(slice(0, L))
    for broken in among[:2]:
        assert bool(broken[1].isnan().all())
    for lane in (0, 2):
        alone = run(slice(lane, lane + 1))
        for one, other in zip(alone, among, strict=True):
            assert torch.equal(one[0], other[lane])


def test_no_columns_are_no_error(device: torch.device) -> None:
    head = torch.empty(L, 4, 0, device=device, requires_grad=True)
    to = squashing(torch.ones(2, 1), torch.zeros(2, 1), device)
    action, log_density = sample_squashed(head, torch.empty(L, 2, 0, device=device), to)
    (grad,) = torch.autograd.grad((action.sum() + log_density.sum()), head)
    assert action.shape == (L, 2, 0) and log_density.shape == (L, 0) and grad.shape == head.shape
