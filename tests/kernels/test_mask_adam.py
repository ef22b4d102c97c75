"""Fused optimizer steps against the reference, torch.optim and their invariants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastanf import kernels
from fastanf.kernels.mask_adam import (
    mask_adam_,
    mask_adam_ref_,
    mask_sgd_,
    mask_sgd_ref_,
    polyak_,
    polyak_ref_,
)

L = 3
# The compiled step does the reference's operations in the reference's order; a division or a root
# may round differently by an ulp (6e-8), which a step of about lr scales down.
RELATIVE = 1e-6

needs_native = pytest.mark.skipif(kernels.NATIVE is None, reason="kernels are not compiled")


def make_state(n: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(n)

    def randn() -> Tensor:
        return torch.randn(L, n, generator=generator, dtype=torch.float64).to(dtype)

    state = {"weight": randn(), "exp_avg": randn(), "exp_avg_sq": randn().square()}
    state["target"], state["grad"] = state["weight"] + 0.1 * randn(), randn()
    state["mask"] = torch.rand(L, n, generator=generator) < 0.3
    return state


def lane_constants(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {
        "lr": torch.tensor([1e-3, 0.0, 3e-4], dtype=dtype),
        "weight_decay": torch.tensor([2e-4, 0.0, 0.1], dtype=dtype),
        "tau": torch.tensor([0.005, 0.0, 1.0], dtype=dtype),
    }


def run_adam(function, state, constants, step, use_mask, mask_moments, use_target, **more):
    state = {name: tensor.clone() for name, tensor in state.items()}
    function(
        state["weight"], state["grad"], state["exp_avg"], state["exp_avg_sq"], step,
        constants["lr"], constants["weight_decay"],
        mask=state["mask"] if use_mask else None, mask_moments=mask_moments,
        target=state["target"] if use_target else None,
        tau=constants["tau"] if use_target else None, **more,
    )  # fmt: skip
    return state


@needs_native
@pytest.mark.parametrize("n", [1, 3, 5, 171, 257, 20_000])
@pytest.mark.parametrize("use_mask", [False, True])
@pytest.mark.parametrize("use_target", [False, True])
def test_native_adam_agrees_with_reference(n: int, use_mask: bool, use_target: bool):
    state, constants = make_state(n), lane_constants()
    for mask_moments in (None, torch.tensor([True, False, False])):
        more = {"beta1": 0.8, "beta2": 0.99, "eps": 1e-6}
        options = (constants, 3, use_mask, mask_moments, use_target)
        got = run_adam(mask_adam_, state, *options, **more)
        expected = run_adam(mask_adam_ref_, state, *options, **more)
        for name in state:
            torch.testing.assert_close(got[name], expected[name], rtol=RELATIVE, atol=1e-8)


@pytest.mark.parametrize("function", [mask_adam_, mask_adam_ref_])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("step", [1, 2, 1000])
def test_a_step_counted_by_a_tensor_has_the_bits_of_a_number(
    function: Callable[..., None], dtype: torch.dtype, step: int
):
    state, constants = make_state(171, dtype), lane_constants(dtype)
    expected = run_adam(function, state, constants, step, True, None, True)
    found = run_adam(function, state, constants, torch.tensor(step), True, None, True)
    assert all(torch.equal(found[name], expected[name]) for name in state)


@pytest.mark.parametrize("use_mask", [False, True])
def test_adam_follows_the_float64_reference(use_mask: bool):
    state, constants = make_state(171), lane_constants()
    wide = {name: t if t.dtype == torch.bool else t.double() for name, t in state.items()}
    wide_constants = {name: tensor.double() for name, tensor in constants.items()}
    for step in range(1, 6):
        state = run_adam(mask_adam_, state, constants, step, use_mask, None, True)
        wide = run_adam(mask_adam_, wide, wide_constants, step, use_mask, None, True)
    assert wide["weight"].dtype == torch.float64
    for name in ("weight", "exp_avg", "exp_avg_sq", "target"):
        # Five steps of float32 rounding of values of order one.
        torch.testing.assert_close(state[name].double(), wide[name], rtol=2e-6, atol=2e-6)


def test_one_lane_is_torch_adam_with_weight_decay():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1, 257, generator=generator)
    parameter = torch.nn.Parameter(start[0].clone())
    oracle = torch.optim.Adam([parameter], lr=1e-3, weight_decay=2e-4)
    weight, m, v = start.clone(), torch.zeros(1, 257), torch.zeros(1, 257)
    for step in range(1, 21):
        grad = torch.randn(1, 257, generator=generator)
        parameter.grad = grad[0].clone()
        oracle.step()
        mask_adam_(weight, grad, m, v, step, torch.tensor([1e-3]), torch.tensor([2e-4]))
    # Steps of 1e-3 differ by some 1e-6 of themselves, and weights round at 2e-7.
    torch.testing.assert_close(weight[0], parameter.detach(), rtol=1e-6, atol=1e-6)


def test_inactive_connections_are_zero_whatever_their_gradient():
    state, constants = make_state(257), lane_constants()
    state["grad"][~state["mask"]] = torch.nan
    moments = torch.tensor([True, True, False])
    after = run_adam(mask_adam_, state, constants, 1, True, moments, True)
    inactive = ~state["mask"]
    assert (after["weight"][inactive] == 0).all() and (after["target"][inactive] == 0).all()
    for name in ("exp_avg", "exp_avg_sq"):
        assert (after[name][:2][inactive[:2]] == 0).all()
        assert after[name][:2].isfinite().all()
    assert after["weight"].isfinite().all()


def test_moments_move_everywhere_in_lanes_that_do_not_mask_them():
    state, constants = make_state(257), lane_constants()
    after = run_adam(mask_adam_, state, constants, 1, True, torch.tensor([False] * 3), False)
    free = run_adam(mask_adam_, state, constants, 1, False, None, False)
    assert torch.equal(after["exp_avg"], free["exp_avg"])
    assert torch.equal(after["weight"][state["mask"]], free["weight"][state["mask"]])


def test_tau_zero_keeps_and_tau_one_copies_to_the_bit():
    state, constants = make_state(257), lane_constants()
    state["target"][1, 0] = -0.0
    for use_mask in (False, True):
        after = run_adam(mask_adam_, state, constants, 2, use_mask, None, True)
        active = state["mask"] if use_mask else torch.ones_like(state["mask"])
        kept, before = after["target"][1][active[1]], state["target"][1][active[1]]
        assert torch.equal(kept.view(torch.int32), before.view(torch.int32))
        assert torch.equal(after["target"][2], after["weight"][2])


def test_learning_rate_zero_keeps_the_weight():
    state, constants = make_state(257), lane_constants()
    after = run_adam(mask_adam_, state, constants, 2, False, None, False)
    assert torch.equal(after["weight"][1], state["weight"][1])


@pytest.mark.parametrize("use_mask", [False, True])
def test_lanes_threads_and_a_broken_neighbour_change_nothing(use_mask: bool):
    state, constants = make_state(30_001), lane_constants()
    options = (1, use_mask, torch.tensor([True, False, True]), True)
    expected = run_adam(mask_adam_, state, constants, *options)
    broken = {name: tensor.clone() for name, tensor in state.items()}
    for name in ("weight", "grad", "exp_avg", "exp_avg_sq", "target"):
        broken[name][1] = torch.nan
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            got = run_adam(mask_adam_, broken, constants, *options)
            for name in expected:
                assert torch.equal(got[name][[0, 2]], expected[name][[0, 2]])
    finally:
        torch.set_num_threads(threads)
    alone = {name: tensor[2:].clone() for name, tensor in state.items()}
    one = {name: tensor[2:] for name, tensor in constants.items()}
    got = run_adam(mask_adam_, alone, one, 1, use_mask, torch.tensor([True]), True)
    assert all(torch.equal(got[name], expected[name][2:]) for name in expected)


@needs_native
def test_every_instruction_set_gives_the_same_bits():
    assert kernels.NATIVE is not None
    state, constants = make_state(171), lane_constants()
    best, results = kernels.NATIVE.fastanf_variant(), []
    try:
        for variant in range(best + 1):
            kernels.NATIVE.fastanf_set_variant(variant)
            results.append(run_adam(mask_adam_, state, constants, 4, True, None, True))
    finally:
        kernels.NATIVE.fastanf_set_variant(best)
    for result in results:
        assert all(torch.equal(result[name], results[0][name]) for name in state)


@pytest.mark.parametrize("n", [1, 5, 171, 20_000])
@pytest.mark.parametrize("use_mask", [False, True])
@pytest.mark.parametrize("use_target", [False, True])
def test_sgd_agrees_with_reference_and_torch(n: int, use_mask: bool, use_target: bool):
    state, constants = make_state(n), lane_constants()
    results = []
    for function in (mask_sgd_, mask_sgd_ref_):
        weight, target = state["weight"].clone(), state["target"].clone()
        function(
            weight, state["grad"], constants["lr"], constants["weight_decay"],
            mask=state["mask"] if use_mask else None,
            target=target if use_target else None, tau=constants["tau"] if use_target else None,
        )  # fmt: skip
        results.append((weight, target))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=RELATIVE, atol=1e-8)
    parameter = torch.nn.Parameter(state["weight"][2].clone())
    parameter.grad = state["grad"][2].clone()
    torch.optim.SGD([parameter], lr=3e-4, weight_decay=0.1).step()
    active = state["mask"][2] if use_mask else torch.ones(n, dtype=torch.bool)
    oracle = torch.where(active, parameter.detach(), 0.0)
    # torch fuses the decay into the gradient with other rounding: 1e-7 of values of order one.
    torch.testing.assert_close(results[0][0][2], oracle, rtol=RELATIVE, atol=1e-7)


@pytest.mark.parametrize("shape", [(L, 1), (L, 5, 3), (L, 20_000)])
@pytest.mark.parametrize("use_mask", [False, True])
def test_polyak_agrees_with_reference(shape: tuple[int, ...], use_mask: bool):
    generator = torch.Generator().manual_seed(1)
    weight, target = torch.randn(2, *shape, generator=generator)
    mask = torch.rand(shape, generator=generator) < 0.5 if use_mask else None
    tau = torch.tensor([0.005, 0.0, 1.0])
    expected, before = target.clone(), target.clone()
    polyak_ref_(expected, weight, tau, mask)
    polyak_(target, weight, tau, mask)
    torch.testing.assert_close(target, expected, rtol=RELATIVE, atol=0)
    if not use_mask:
        assert torch.equal(target[1], before[1]) and torch.equal(target[2], weight[2])


def test_autograd_notices_the_change():
    weight = torch.ones(1, 3, requires_grad=True)
    loss = (weight * weight).sum()
    m, v = torch.zeros(1, 3), torch.zeros(1, 3)
    mask_adam_(weight, torch.ones(1, 3), m, v, 1, torch.ones(1), torch.ones(1))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_empty_parameters_are_accepted():
    empty = torch.empty(2, 0)
    mask_adam_(empty, empty, empty, empty, 1, torch.ones(2), torch.ones(2))
    polyak_(empty, empty.clone(), torch.ones(2))
    assert empty.shape == (2, 0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"step": 0}, "step"),
        ({"lr": torch.ones(2)}, "lane constant"),
        ({"grad": torch.ones(L, 4)}, "like the parameter"),
        ({"grad": torch.ones(L, 5, dtype=torch.float64)}, "like the parameter"),
        ({"grad": torch.ones(5, L).T}, "contiguous"),
        ({"mask": torch.ones(L, 5)}, "mask"),
        ({"tau": torch.ones(L)}, "target and tau"),
    ],
)
def test_wrong_arguments_are_named(change: dict, named: str):
    alike = ("weight", "grad", "exp_avg", "exp_avg_sq")
    given: dict[str, Any] = {name: torch.ones(L, 5) for name in alike}
    given |= {"step": 1, "lr": torch.ones(L), "weight_decay": torch.ones(L), **change}
    with pytest.raises(ValueError, match=named):
        mask_adam_(**given)
