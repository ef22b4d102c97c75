"""The optimizer of stacked networks (sparse/mask_adam.py) against torch's, lane by lane."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fastanf.sparse.layers import CSR, MASKED, CsrLinear, MaskedLinear, Parameter, StackedLinear
from fastanf.sparse.mask_adam import StackedOptimizer

L, C = 3, 2
RATE, DECAY = torch.tensor([1e-2, 1e-3, 3e-2]), torch.tensor([0.0, 2e-4, 0.1])
# One rounding of each of a few steps, of values of order one.
TOLERANCE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}
MASK_ADAM, ADAM = True, False


both_layouts = pytest.mark.parametrize("layout", [MASKED, CSR])


def layer_of(is_sparse: bool = True, layout: str = MASKED) -> StackedLinear:
    """A layer of odd sizes."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(L * C, 5, 7, generator=generator)
    mask = torch.rand(L * C, 5, 7, generator=generator) < 0.4 if is_sparse else None
    weight = weight if mask is None else weight * mask
    bias = torch.randn(L * C, 5, generator=generator)
    if layout == CSR and mask is not None:
        layer: StackedLinear = CsrLinear.of_dense(weight, bias, mask)
    else:
        layer = MaskedLinear(weight, bias, mask)
    layer.trained.requires_grad_()
    layer.bias.requires_grad_()
    return layer


def parameters(is_sparse: bool = True, layout: str = MASKED) -> list[Parameter]:
    """Two stacked tensors of a layer, the first sparse."""
    layer = layer_of(is_sparse, layout)
    return [Parameter("0.weight", layer.trained, layer), Parameter("0.bias", layer.bias)]


def targets_of(online: list[Parameter]) -> list[Parameter]:
    return [Parameter(p.name, p.tensor.detach().clone() + 1, p.layer) for p in online]


def mask_of(parameter: Parameter) -> Tensor:
    mask = None if parameter.layer is None else parameter.layer.connection_mask()
    assert mask is not None
    return mask


def build(
    moments: list[bool],
    is_sparse: bool = True,
    use_sgd: bool = False,
    layout: str = MASKED,
    **options,
) -> StackedOptimizer:
    own = parameters(is_sparse, layout)
    return StackedOptimizer(
        own, targets_of(own), RATE, DECAY, torch.tensor(moments), use_sgd, **options
    )


def gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(L * C, *shape, generator=generator) for shape in ((5, 7), (5,))]


@pytest.mark.parametrize("use_sgd", [False, True])
def test_dense_lanes_step_as_torchs_optimizers(use_sgd: bool) -> None:
    optimizer = build([MASK_ADAM, ADAM, ADAM], is_sparse=False, use_sgd=use_sgd)
    copies = [p.tensor.detach().clone() for p in optimizer.parameters]
    expected: list[list[Tensor]] = []
    for lane in range(L):
        rows = slice(C * lane, C * lane + C)
        own = [torch.nn.Parameter(tensor[rows].clone()) for tensor in copies]
        kind = torch.optim.SGD if use_sgd else torch.optim.Adam
        plain = kind(own, lr=float(RATE[lane]), weight_decay=float(DECAY[lane]))
        for step in range(5):
            for parameter, grad in zip(own, gradients(step), strict=True):
                parameter.grad = grad[rows].clone()
            plain.step()
        expected.append([parameter.detach() for parameter in own])
    for step in range(5):
        optimizer.step_(gradients(step))
    for index, tensor in enumerate(optimizer.tensors()):
        joined = torch.cat([own[index] for own in expected])
        torch.testing.assert_close(tensor.detach(), joined, **TOLERANCE)
    assert optimizer.num_steps == 5


@pytest.mark.parametrize("use_sgd", [False, True])
def test_inactive_weights_stay_exactly_zero(use_sgd: bool) -> None:
    optimizer = build([MASK_ADAM, ADAM, MASK_ADAM], use_sgd=use_sgd)
    weight, mask = optimizer.parameters[0].tensor, mask_of(optimizer.parameters[0])
    target = optimizer.targets[0].tensor
    before = weight.detach().clone()
    for step in range(30):
        optimizer.step_(gradients(step), torch.tensor([0.5, 0.0, 1.0]))
    for tensor in (weight.detach(), target):
        assert float(tensor[~mask].abs().max()) == 0
        assert bool((tensor[mask] != 0).all())
    assert bool((weight != before)[mask].all())
    if use_sgd:
        assert optimizer.moments_of(weight) == []
        return
    per_lane = mask.view(L, -1)
    for moment in (m.view(L, -1) for m in optimizer.moments_of(weight)):
        assert bool((moment[[0, 2]][~per_lane[[0, 2]]] == 0).all())
        assert bool((moment[1] != 0).all())  # plain Adam keeps the moments of the dense gradient


def test_active_weights_of_a_masked_lane_move_as_in_a_dense_one() -> None:
    optimizer = build([MASK_ADAM, ADAM, MASK_ADAM])
    weight, mask = optimizer.parameters[0].tensor, mask_of(optimizer.parameters[0])
    start = weight.detach().clone()
    for step in range(7):
        optimizer.step_(gradients(step))
    for lane in range(L):
        rows = slice(C * lane, C * lane + C)
        dense = torch.nn.Parameter(start[rows].clone())
        plain = torch.optim.Adam([dense], lr=float(RATE[lane]), weight_decay=float(DECAY[lane]))
        for step in range(7):
            dense.grad = gradients(step)[0][rows].clone()
            plain.step()
        expected = torch.where(mask[rows], dense.detach(), torch.zeros(()))
        torch.testing.assert_close(weight.detach()[rows], expected, **TOLERANCE)


def test_each_lane_has_its_own_tau() -> None:
    optimizer, tau = build([ADAM] * L, is_sparse=False), torch.tensor([0.0, 0.25, 1.0])
    before = [target.tensor.clone() for target in optimizer.targets]
    optimizer.step_(gradients(0))
    assert all(torch.equal(t.tensor, b) for t, b in zip(optimizer.targets, before, strict=True))
    for follow in (lambda: optimizer.step_(gradients(1), tau), lambda: optimizer.follow_(tau)):
        before = [target.tensor.clone() for target in optimizer.targets]
        follow()
        for target, online, old in zip(
            optimizer.targets, optimizer.parameters, before, strict=True
        ):
            tensors = (target.tensor, old, online.tensor)
            new, old, goal = (t.detach().view(L, -1) for t in tensors)
            assert torch.equal(new[0], old[0]) and torch.equal(new[2], goal[2])
            torch.testing.assert_close(new[1], 0.75 * old[1] + 0.25 * goal[1], **TOLERANCE)


@pytest.mark.parametrize("use_sgd", [False, True])
def test_targets_may_move_off_the_connections(use_sgd: bool) -> None:
    optimizer = build([MASK_ADAM] * L, use_sgd=use_sgd, masks_targets=False)
    weight, mask = optimizer.parameters[0].tensor, mask_of(optimizer.parameters[0])
    target = optimizer.targets[0].tensor
    old = target.clone()
    optimizer.step_(gradients(0), torch.full((L,), 0.25))
    expected = 0.75 * old + 0.25 * weight.detach()
    torch.testing.assert_close(target, expected, **TOLERANCE)
    assert bool((target[~mask] != 0).all())


@pytest.mark.parametrize("use_sgd", [False, True])
def test_a_network_without_a_target_takes_a_tau(use_sgd: bool) -> None:
    own = parameters()
    optimizer = StackedOptimizer(own, (), RATE, DECAY, torch.tensor([MASK_ADAM] * L), use_sgd)
    before = own[0].tensor.detach().clone()
    optimizer.step_(gradients(0), torch.full((L,), 0.5))
    assert not torch.equal(own[0].tensor, before)


@pytest.mark.parametrize("use_sgd", [False, True])
def test_a_broken_lane_does_not_reach_another(use_sgd: bool) -> None:
    whole, broken = (build([MASK_ADAM, ADAM, MASK_ADAM], use_sgd=use_sgd) for _ in range(2))
    for step in range(3):
        grads = gradients(step)
        whole.step_(grads, torch.full((L,), 0.1))
        for grad in grads:
            grad.view(L, -1)[1] = torch.nan
        broken.step_(grads, torch.full((L,), 0.1))
    for one, other in zip(whole.tensors(), broken.tensors(), strict=True):
        one, other = one.detach().view(L, -1), other.detach().view(L, -1)
        assert torch.equal(one[[0, 2]], other[[0, 2]])
        assert not bool(other[1].isfinite().all())


def test_moments_go_into_a_checkpoint_by_name() -> None:
    optimizer = build([MASK_ADAM, ADAM, ADAM])
    optimizer.step_(gradients(0))
    state = optimizer.state_dict()
    assert set(state) == {
        "num_steps", "0.weight.exp_avg", "0.weight.exp_avg_sq", "0.bias.exp_avg",
        "0.bias.exp_avg_sq",
    }  # fmt: skip
    assert int(state["num_steps"]) == 1
    moments = optimizer.moments_of(optimizer.parameters[1].tensor)
    assert state["0.bias.exp_avg"] is moments[0] and state["0.bias.exp_avg_sq"] is moments[1]
    weights = optimizer.moments_of(optimizer.parameters[0].tensor)
    assert torch.equal(state["0.weight.exp_avg"], weights[0])
    assert torch.equal(state["0.weight.exp_avg_sq"], weights[1])
    assert list(build([ADAM] * L, use_sgd=True).state_dict()) == ["num_steps"]


@pytest.mark.parametrize("use_sgd", [False, True])
def test_stored_connections_move_as_those_of_a_masked_layer(use_sgd: bool) -> None:
    masked, csr = (
        build([MASK_ADAM] * L, use_sgd=use_sgd, layout=layout) for layout in (MASKED, CSR)
    )
    layer = csr.parameters[0].layer
    assert isinstance(layer, CsrLinear) and layer.at.is_ragged
    tau = torch.tensor([0.5, 0.0, 1.0])
    for step in range(7):
        weight_grad, bias_grad = gradients(step)
        masked.step_([weight_grad, bias_grad], tau)
        csr.step_([layer.collect(weight_grad), bias_grad], tau)
    mask = mask_of(masked.parameters[0])
    for one, other in zip(
        (*masked.parameters, *masked.targets), (*csr.parameters, *csr.targets), strict=True
    ):
        expected, found = one.tensor.detach(), other.to_dense(other.tensor.detach())
        torch.testing.assert_close(found, expected, **TOLERANCE)
        if other.layer is not None:
            assert float(found[~mask].abs().max()) == 0
    states = masked.state_dict(), csr.state_dict()
    assert states[0].keys() == states[1].keys()
    for name, expected in states[0].items():
        torch.testing.assert_close(states[1][name], expected, **TOLERANCE)


@both_layouts
@pytest.mark.parametrize("other_layout", [MASKED, CSR])
def test_moments_move_to_another_layout_through_a_checkpoint(
    layout: str, other_layout: str
) -> None:
    saved, restored = (build([MASK_ADAM] * L, layout=chosen) for chosen in (layout, other_layout))
    dense = gradients(0)
    saved.step_([p.from_dense(g) for p, g in zip(saved.parameters, dense, strict=True)])
    restored.load_state_dict_(saved.state_dict())
    assert restored.num_steps == 1
    found = restored.state_dict()
    for name, expected in saved.state_dict().items():
        assert torch.equal(found[name], expected)
