"""Stacked masked layers against one plain matrix product per lane and critic."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fastanf.sparse.layers import MaskedLinear, stacked_affine

# Sums of some 200 float32 products of order one, in another order.
TOLERANCE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-4}


def random_layer(
    num_rows: int, num_outputs: int, num_inputs: int, is_sparse: bool = True
) -> MaskedLinear:
    generator = torch.Generator().manual_seed(num_inputs)
    shape = (num_rows, num_outputs, num_inputs)
    mask = torch.rand(shape, generator=generator) < 0.4 if is_sparse else None
    weight = torch.randn(shape, generator=generator)
    weight = weight if mask is None else weight * mask
    bias = torch.randn(shape[:2], generator=generator)
    return MaskedLinear(weight.requires_grad_(), bias.requires_grad_(), mask)


def plain(layer: MaskedLinear, x: Tensor) -> Tensor:
    """Each row's own product; rows of one lane share its input."""
    copies = layer.weight.shape[0] // x.shape[0]
    rows = zip(layer.weight, layer.bias, strict=True)
    return torch.stack([b[:, None] + w @ x[i // copies] for i, (w, b) in enumerate(rows)])


@pytest.mark.parametrize("num_lanes", [1, 3])
@pytest.mark.parametrize("num_copies", [1, 2])
@pytest.mark.parametrize(
    ("num_outputs", "num_inputs", "B"), [(1, 5, 1), (3, 171, 17), (6, 33, 5), (17, 1, 3)]
)
def test_forward_is_one_product_per_lane_and_copy(
    num_lanes: int, num_copies: int, num_outputs: int, num_inputs: int, B: int
) -> None:
    layer = random_layer(num_lanes * num_copies, num_outputs, num_inputs)
    x = torch.randn(num_lanes, num_inputs, B)
    y = layer.forward(x)
    assert y.shape == (num_lanes * num_copies, num_outputs, B)
    torch.testing.assert_close(y, plain(layer, x), **TOLERANCE)


@pytest.mark.parametrize("num_actions", [1, 6])
@pytest.mark.parametrize("num_copies", [1, 2])
def test_forward_split_is_forward_of_the_joined_input(num_actions: int, num_copies: int) -> None:
    layer = random_layer(3 * num_copies, 9, 171 + num_actions)
    x, action = torch.randn(3, 171, 5), torch.randn(3, num_actions, 5)
    joined = layer.forward(torch.cat([x, action], 1))
    torch.testing.assert_close(layer.forward_split(x, action), joined, **TOLERANCE)


@pytest.mark.parametrize("num_outputs", [*range(1, 18), 256])
@pytest.mark.parametrize("num_inputs", [17, 170])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_lane_alone_has_the_bits_it_has_among_others(
    num_outputs: int, num_inputs: int, num_threads: int
) -> None:
    layer = random_layer(3, num_outputs, num_inputs)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    threads_before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        for B in (16, 100):
            x = torch.randn(3, num_inputs, B)
            together = stacked_affine(weight, bias, x)
            for lane in range(3):
                rows = slice(lane, lane + 1)
                alone = stacked_affine(weight[rows], bias[rows], x[rows])
                assert torch.equal(alone[0], together[lane])
    finally:
        torch.set_num_threads(threads_before)


def test_gradients_reach_only_the_own_row() -> None:
    layer, x = random_layer(6, 4, 7), torch.randn(3, 7, 5)
    grads = torch.autograd.grad(layer.forward(x)[3].sum(), [layer.weight, layer.bias])
    expected = x[1].sum(1).expand(4, -1)
    torch.testing.assert_close(grads[0][3], expected)
    for grad in grads:
        assert float(grad[[0, 1, 2, 4, 5]].abs().max()) == 0


def test_a_frozen_layer_passes_gradients_to_the_action_alone() -> None:
    layer = random_layer(6, 4, 9)
    x, action = torch.randn(3, 7, 5), torch.randn(3, 2, 5, requires_grad=True)
    y = layer.frozen(slice(2), 2).forward_split(x, action)
    y.sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is None and x.grad is None
    assert action.grad is not None
    per_lane = layer.weight.detach()[..., -2:].sum(1).view(3, 2, 2).sum(1)
    torch.testing.assert_close(action.grad, per_lane.unsqueeze(-1).expand(3, 2, 5))
    assert not layer.frozen().forward(torch.randn(3, 9, 5)).requires_grad


@pytest.mark.parametrize(("copy", "rows"), [(slice(None), [0, 1, 2, 3]), (slice(1), [0, 2])])
def test_frozen_copies_share_memory(copy: slice, rows: list[int]) -> None:
    layer = random_layer(4, 3, 5)
    frozen = layer.frozen(copy, 2)
    with torch.no_grad():
        layer.weight.add_(1.0)
        layer.bias.mul_(2.0)
    assert torch.equal(frozen.weight, layer.weight.detach()[rows])
    assert torch.equal(frozen.bias, layer.bias.detach()[rows])
    assert frozen.mask is not None and layer.mask is not None
    layer.mask.logical_not_()
    assert torch.equal(frozen.mask, layer.mask[rows])


def test_active_counts_connections_and_not_weights() -> None:
    layer = random_layer(3, 4, 7)
    assert layer.mask is not None
    with torch.no_grad():
        layer.weight.zero_()
    assert layer.active().tolist() == [int(mask.sum()) for mask in layer.mask]
    assert random_layer(3, 4, 7, is_sparse=False).active().tolist() == [28, 28, 28]


def test_dense_weights_are_a_copy() -> None:
    layer = random_layer(2, 3, 4)
    dense = layer.to_dense()
    assert torch.equal(dense, layer.weight.detach()) and not dense.requires_grad
    dense.add_(1.0)
    assert not torch.equal(dense, layer.weight.detach())
