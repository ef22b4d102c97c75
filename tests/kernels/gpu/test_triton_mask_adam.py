"""Optimizer steps of many tensors in one launch, against their definitions in float64."""

# pyright: reportArgumentType=false
# Python numbers are passed for constexpr parameters.
from __future__ import annotations

from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from fastanf import kernels
from fastanf.kernels.gpu.mask_adam import correction, log2_of
from fastanf.kernels.mask_adam import (
    FusedStep,
    TrainedTensor,
    follow_,
    is_fused,
    mask_adam_,
    mask_adam_ref_,
    mask_sgd_,
    mask_sgd_ref_,
    polyak_,
    polyak_ref_,
)
from fastanf.sparse.layers import MaskedLinear, Parameter
from fastanf.sparse.mask_adam import StackedOptimizer

L = 3
_ALL = slice(None)
# Elements per lane, with and without a mask: odd, aligned to two and to four, more than one block.
SIZES = [(1, True), (171, True), (5, False), (2052, True), (1024, False), (1030, True), (3, False)]
# Values of order one through a handful of roundings of 6e-8; roots and quotients within 2 ulp.
TOLERANCE: dict[str, Any] = {"rtol": 1e-6, "atol": 5e-7}
# A learning rate so large that an error of 1e-6 in the step itself would be seen.
LR = torch.tensor([0.5, 0.0, 3e-4])
DECAY = torch.tensor([2e-4, 0.0, 0.1])
TAU = torch.tensor([0.005, 0.0, 1.0])
SOME_MASK_MOMENTS = torch.tensor([True, False, True])


def make_tensors(
    sizes: list[tuple[int, bool]] = SIZES, has_moments: bool = True, has_target: bool = True
) -> tuple[list[TrainedTensor], list[Tensor]]:
    """Float64 tensors of float32 values, and their gradients."""
    generator = torch.Generator().manual_seed(len(sizes))

    def randn(n: int) -> Tensor:
        return torch.randn(L, n, generator=generator).double()

    tensors = [
        TrainedTensor(
            randn(n),
            randn(n) if has_moments else None,
            randn(n).square().float().double() if has_moments else None,
            torch.rand(L, n, generator=generator) < 0.3 if is_masked else None,
            randn(n) if has_target else None,
        )
        for n, is_masked in sizes
    ]
    return tensors, [randn(n) for n, _ in sizes]


def copy_of(tensor: Tensor, device: torch.device, lanes: slice = _ALL) -> Tensor:
    """Some lanes as the kernels take them."""
    narrow = tensor if tensor.dtype == torch.bool else tensor.float()
    return narrow[lanes].to(device).clone()


def copies_of(tensors: list[Tensor], device: torch.device, lanes: slice = _ALL) -> list[Tensor]:
    return [copy_of(tensor, device, lanes) for tensor in tensors]


def trained_copies(
    tensors: list[TrainedTensor], device: torch.device, lanes: slice = _ALL
) -> list[TrainedTensor]:
    def copy(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else copy_of(tensor, device, lanes)

    return [
        TrainedTensor(copy_of(weight, device, lanes), *map(copy, rest)) for weight, *rest in tensors
    ]


def assert_same(found: list[TrainedTensor], expected: list[TrainedTensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        for held, wide in zip(one, other, strict=True):
            if held is not None and wide is not None and held.dtype != torch.bool:
                torch.testing.assert_close(held.cpu().double(), wide, **TOLERANCE)


def run_fused_(
    device: torch.device,
    tensors: list[TrainedTensor],
    grads: list[Tensor],
    step: int | Tensor | None = 3,
    mask_moments: Tensor | None = SOME_MASK_MOMENTS,
    tau: Tensor | None = TAU,
    lanes: slice = _ALL,
    constants: tuple[float, float, float] = (0.9, 0.999, 1e-8),
) -> None:
    FusedStep(tensors, *constants).run_(
        grads,
        step,
        copy_of(LR, device, lanes),
        copy_of(DECAY, device, lanes),
        None if mask_moments is None else copy_of(mask_moments, device, lanes),
        None if tau is None else copy_of(tau, device, lanes),
    )


@pytest.mark.parametrize("step", [1, 2, 1000])
@pytest.mark.parametrize("has_target", [False, True])
@pytest.mark.parametrize("mask_moments", [None, SOME_MASK_MOMENTS])
def test_adam_of_many_tensors_follows_float64(
    step: int, has_target: bool, mask_moments: Tensor | None, device: torch.device
) -> None:
    tensors, grads = make_tensors(has_target=has_target)
    found = trained_copies(tensors, device)
    constants = (0.8, 0.99, 1e-6)
    tau = TAU if has_target else None
    run_fused_(
        device, found, copies_of(grads, device), step, mask_moments, tau, constants=constants
    )
    for (weight, exp_avg, exp_avg_sq, mask, target), grad in zip(tensors, grads, strict=True):
        assert exp_avg is not None and exp_avg_sq is not None
        mask_adam_ref_(
            weight, grad, exp_avg, exp_avg_sq, step, LR.double(), DECAY.double(), mask,
            mask_moments, *constants, target, None if tau is None else tau.double(),
        )  # fmt: skip
    assert_same(found, tensors)


@pytest.mark.parametrize("has_target", [False, True])
def test_sgd_of_many_tensors_follows_float64(has_target: bool, device: torch.device) -> None:
    tensors, grads = make_tensors(has_moments=False, has_target=has_target)
    found, tau = trained_copies(tensors, device), TAU if has_target else None
    run_fused_(device, found, copies_of(grads, device), None, None, tau)
    for (weight, _, _, mask, target), grad in zip(tensors, grads, strict=True):
        mask_sgd_ref_(
            weight, grad, LR.double(), DECAY.double(), mask, target,
            None if tau is None else tau.double(),
        )  # fmt: skip
    assert_same(found, tensors)


def test_targets_follow_alone(device: torch.device) -> None:
    tensors, _ = make_tensors(has_moments=False)
    found = trained_copies(tensors, device)
    follow_(found, TAU.to(device))
    for weight, _, _, mask, target in tensors:
        assert target is not None
        polyak_ref_(target, weight, TAU.double(), mask)
    assert_same(found, tensors)


def test_functions_of_one_tensor_take_any_shape(device: torch.device) -> None:
    shape, generator = (L, 5, 7), torch.Generator().manual_seed(0)
    weight, grad, m, target = torch.randn(4, *shape, generator=generator).double()
    mask, v = torch.rand(shape, generator=generator) < 0.5, m.square().float().double()
    wide = [weight, grad, m, v, target]
    rates = LR, DECAY, TAU

    def run(adam, sgd, polyak, values: list[Tensor], mask: Tensor, rates: list[Tensor]) -> None:
        weight, grad, m, v, target = values
        lr, decay, tau = rates
        adam(weight, grad, m, v, 2, lr, decay, mask, target=target, tau=tau)
        sgd(weight, grad, lr, decay, mask, target=target, tau=tau)
        polyak(target, grad, tau)

    found: list[Tensor] = [t.float().to(device) for t in wide]
    run(mask_adam_, mask_sgd_, polyak_, found, mask.to(device), [r.to(device) for r in rates])
    run(mask_adam_ref_, mask_sgd_ref_, polyak_ref_, wide, mask, [r.double() for r in rates])
    for one, other in zip(found, wide, strict=True):
        torch.testing.assert_close(one.cpu().double(), other, **TOLERANCE)


def test_tau_zero_keeps_and_tau_one_copies_to_the_bit(device: torch.device) -> None:
    tensors, grads = make_tensors([(171, False), (2052, False)])
    found = trained_copies(tensors, device)
    for tensor in found:
        assert tensor.target is not None
        tensor.target[1, 0], tensor.weight[1, 1] = -0.0, torch.nan
    kept = [tensor.target.clone() for tensor in found if tensor.target is not None]

    def assert_kept_and_copied() -> None:
        for tensor, before in zip(found, kept, strict=True):
            assert tensor.target is not None
            assert torch.equal(tensor.target[1].view(torch.int32), before[1].view(torch.int32))
            assert torch.equal(tensor.target[2], tensor.weight[2])

    follow_(found, TAU.to(device))
    assert_kept_and_copied()
    run_fused_(device, found, copies_of(grads, device))
    assert_kept_and_copied()


def test_nan_where_inactive_does_no_harm(device: torch.device) -> None:
    tensors, grads = make_tensors()
    found, on_device = trained_copies(tensors, device), copies_of(grads, device)
    for tensor, grad in zip(found, on_device, strict=True):
        if tensor.mask is not None:
            grad[~tensor.mask] = torch.nan
    run_fused_(device, found, on_device)
    for tensor in found:
        assert bool(tensor.weight.isfinite().all())
        if tensor.mask is None:
            continue
        for held in (tensor.weight, tensor.target):
            assert held is not None and bool((held[~tensor.mask] == 0).all())
        masking = slice(0, 3, 2)  # lanes whose moments are masked
        for moment in (tensor.exp_avg, tensor.exp_avg_sq):
            assert moment is not None
            assert bool((moment[masking][~tensor.mask[masking]] == 0).all())
            assert bool(moment[masking].isfinite().all())


def test_a_lane_alone_has_the_bits_it_has_among_others(device: torch.device) -> None:
    tensors, grads = make_tensors()
    among, on_device = trained_copies(tensors, device), copies_of(grads, device)
    for tensor in among:
        tensor.weight[1] = torch.nan  # a broken neighbour does not reach it either
    run_fused_(device, among, on_device)
    for lane in (0, 2):
        own = slice(lane, lane + 1)
        alone = trained_copies(tensors, device, own)
        run_fused_(device, alone, [grad[own].clone() for grad in on_device], lanes=own)
        for one, other in zip(alone, among, strict=True):
            for held, held_among in zip(one, other, strict=True):
                if held is not None and held_among is not None:
                    assert torch.equal(held, held_among[own])


@pytest.mark.parametrize("step", [1, 7])
def test_the_number_of_the_step_may_lie_on_the_device(step: int, device: torch.device) -> None:
    tensors, grads = make_tensors()
    for_number, for_tensor = trained_copies(tensors, device), trained_copies(tensors, device)
    on_device = copies_of(grads, device)
    run_fused_(device, for_number, on_device, step)
    run_fused_(device, for_tensor, on_device, torch.tensor(step, device=device))
    for one, other in zip(for_number, for_tensor, strict=True):
        for held, same in zip(one, other, strict=True):
            assert held is None or (same is not None and torch.equal(held, same))


@triton.jit
def _corrections(steps, out, LOG2_BETA: tl.constexpr, NUM: tl.constexpr):
    i = tl.arange(0, NUM)
    tl.store(out + i, correction(tl.load(steps + i), LOG2_BETA))


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
def test_corrections_are_those_of_the_host_to_the_last_bit(
    beta: float, device: torch.device
) -> None:
    steps = torch.arange(1, 2**14 + 1, device=device)
    out = torch.empty(len(steps), dtype=torch.float64, device=device)
    _corrections[(1,)](steps, out, LOG2_BETA=log2_of(beta), NUM=len(steps))
    expected = torch.tensor([1 - beta**t for t in range(1, len(steps) + 1)], dtype=torch.float64)
    # beta^t is off by a few units of 1e-16; the first corrections are 1 - beta.
    torch.testing.assert_close(out.cpu(), expected, rtol=0, atol=2e-15)
    # As float32 they are the same numbers; a tie would have to lie within 2e-12 of one.
    assert torch.equal(out.cpu().float(), expected.float())
    assert torch.equal(out.cpu().sqrt().float(), expected.sqrt().float())


def test_autograd_notices_the_change(device: torch.device) -> None:
    weight = torch.ones(1, 3, requires_grad=True, device=device)
    loss = (weight * weight).sum()
    one, m, v = torch.ones(1, device=device), *torch.zeros(2, 1, 3, device=device)
    mask_adam_(weight, torch.ones(1, 3, device=device), m, v, 1, one, one)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_empty_tensors_are_passed_over(device: torch.device) -> None:
    tensors, grads = make_tensors([(0, False), (5, False), (0, True)])
    found = trained_copies(tensors, device)
    before = found[1].weight.clone()
    run_fused_(device, found, copies_of(grads, device))
    assert not torch.equal(found[1].weight, before)
    run_fused_(device, found[:1], copies_of(grads[:1], device))
    follow_(found[:1], TAU.to(device))


def make_optimizer(device: torch.device, use_sgd: bool = False, **more) -> StackedOptimizer:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(2 * L, 5, 7, generator=generator)
    mask = torch.rand(2 * L, 5, 7, generator=generator) < 0.4
    bias = torch.randn(2 * L, 5, generator=generator)
    layer = MaskedLinear((weight * mask).to(device), bias.to(device), mask.to(device))
    own = [Parameter("0.weight", layer.trained, layer), Parameter("0.bias", layer.bias)]
    targets = [Parameter(p.name, p.tensor.detach().clone() + 1, p.layer) for p in own]
    lr, decay, mask_moments = copies_of([LR, DECAY, SOME_MASK_MOMENTS], device)
    return StackedOptimizer(own, targets, lr, decay, mask_moments, use_sgd, **more)


def steps_of(optimizer: StackedOptimizer, device: torch.device, num: int = 3) -> dict[str, Tensor]:
    """All that an optimizer holds after some steps, on the CPU."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(num):
        grads = [torch.randn(2 * L, *shape, generator=generator) for shape in ((5, 7), (5,))]
        optimizer.step_([grad.to(device) for grad in grads], TAU.to(device))
        optimizer.follow_(TAU.to(device))
    held = {p.name: p.tensor.detach() for p in optimizer.parameters}
    held |= {f"target.{p.name}": p.tensor for p in optimizer.targets}
    return {name: tensor.cpu().clone() for name, tensor in (held | optimizer.state_dict()).items()}


@pytest.mark.parametrize("use_sgd", [False, True])
@pytest.mark.parametrize("masks_targets", [False, True])
def test_the_stacked_optimizer_follows_its_reference(
    use_sgd: bool, masks_targets: bool, device: torch.device
) -> None:
    optimizer = make_optimizer(device, use_sgd, masks_targets=masks_targets)
    assert all(is_fused(tensor) for tensor in optimizer.tensors())
    found = steps_of(optimizer, device)
    kernels.use("reference")
    plain = make_optimizer(device, use_sgd, masks_targets=masks_targets)
    assert not is_fused(plain.tensors()[0])
    expected = steps_of(plain, device)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        # Three steps of float32 on both sides.
        torch.testing.assert_close(found[name], tensor, rtol=5e-6, atol=5e-6)


def test_a_device_counts_its_steps_in_one_place(device: torch.device) -> None:
    optimizer = make_optimizer(device)
    counter = optimizer.num_steps
    assert isinstance(counter, Tensor) and counter.shape == () and counter.dtype == torch.int64
    place = counter.data_ptr()
    state = steps_of(optimizer, device)
    assert int(state["num_steps"]) == 3
    other = make_optimizer(device)
    assert isinstance(other.num_steps, Tensor)
    other_place = other.num_steps.data_ptr()
    other.load_state_dict_({name: tensor.to(device) for name, tensor in state.items()})
    assert int(other.num_steps) == 3 and other.num_steps.data_ptr() == other_place
    assert optimizer.num_steps is counter and counter.data_ptr() == place
