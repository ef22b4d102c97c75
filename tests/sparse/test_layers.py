"""Stacked sparse layers, in both layouts, against one plain matrix product per lane and copy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from fastanf import kernels
from fastanf.chain import run_layers
from fastanf.kernels.layer_input import LayerInput, Noise
from fastanf.rng import Stream
from fastanf.sparse.layers import CSR, MASKED, CsrLinear, MaskedLinear, StackedLinear

# Sums of some 200 float32 products of order one, in another order.
TOLERANCE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-4}
# Shares of active connections on both sides of the density that changes how csr is blocked.
DENSITIES = (0.06, 0.4, 0.7)

both_layouts = pytest.mark.parametrize("layout", [MASKED, CSR])
needs_native = pytest.mark.skipif(kernels.NATIVE is None, reason="kernels are not compiled")


@pytest.fixture(params=["chosen", "reference"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run once with the kernels at hand and once with plain torch."""
    if request.param == "reference":
        monkeypatch.setattr(kernels, "NATIVE", None)
    return request.param


@contextmanager
def threads(num_threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_layer(weight: Tensor, bias: Tensor, mask: Tensor | None, layout: str) -> StackedLinear:
    if layout == CSR:
        full = torch.ones_like(weight, dtype=torch.bool) if mask is None else mask
        layer: StackedLinear = CsrLinear.of_dense(weight, bias, full)
    else:
        layer = MaskedLinear(weight, bias, mask)
    layer.trained.requires_grad_()
    layer.bias.requires_grad_()
    return layer


def random_layer(
    num_rows: int, num_outputs: int, num_inputs: int, layout: str = MASKED, is_sparse: bool = True
) -> StackedLinear:
    """Rows with different numbers of connections."""
    generator = torch.Generator().manual_seed(num_inputs)
    shape = (num_rows, num_outputs, num_inputs)
    density = torch.tensor(DENSITIES).repeat(num_rows)[:num_rows, None, None]
    mask = torch.rand(shape, generator=generator) < density if is_sparse else None
    weight = torch.randn(shape, generator=generator)
    weight = weight if mask is None else weight * mask
    bias = torch.randn(shape[:2], generator=generator)
    return make_layer(weight, bias, mask, layout)


def rows_of(layer: StackedLinear, rows: slice) -> StackedLinear:
    """Some rows as a layer of their own."""
    mask = layer.connection_mask()
    mask = None if mask is None else mask[rows]
    layout = CSR if isinstance(layer, CsrLinear) else MASKED
    return make_layer(layer.to_dense()[rows], layer.bias.detach()[rows].clone(), mask, layout)


def mask_of(layer: StackedLinear) -> Tensor:
    mask = layer.connection_mask()
    assert mask is not None
    return mask


def plain(weight: Tensor, bias: Tensor, x: Tensor, slope: float = 1.0) -> Tensor:
    """Each row's own product; rows of one lane share its input."""
    copies = weight.shape[0] // x.shape[0]
    rows = enumerate(zip(weight, bias, strict=True))
    z = torch.stack([b[:, None] + w @ x[i // copies] for i, (w, b) in rows])
    return torch.nn.functional.leaky_relu(z, slope)


def random_input(num_lanes: int, num_inputs: int, num_columns: int) -> LayerInput:
    """Stored features first, then noise and actions where there is room for them."""
    num_extra = num_inputs // 5
    num_noise = num_inputs // 2
    key = torch.arange(7, 7 + num_lanes)
    row = 1000 * torch.arange(num_lanes).unsqueeze(1) + torch.arange(num_columns)
    std = 1.0 + torch.arange(num_lanes)
    noise = Noise(key, row, Stream.LEARN_FEATURES, num_noise, std)
    return LayerInput(
        torch.randn(num_lanes, num_inputs - num_noise - num_extra, num_columns),
        noise if num_noise else None,
        torch.randn(num_lanes, num_extra, num_columns) if num_extra else None,
    )


def lane_of(x: LayerInput, lane: int) -> LayerInput:
    """One lane's input as one of a single lane."""
    own, noise = slice(lane, lane + 1), x.noise
    if noise is not None:
        noise = dataclasses.replace(
            noise, key=noise.key[own], row=noise.row[own], std=noise.std[own]
        )
    return LayerInput(x.stored[own], noise, None if x.extra is None else x.extra[own])


@both_layouts
@pytest.mark.parametrize("num_lanes", [1, 3])
@pytest.mark.parametrize("num_copies", [1, 2])
@pytest.mark.parametrize(
    ("num_outputs", "num_inputs", "B"), [(1, 5, 1), (3, 171, 17), (6, 33, 5), (17, 1, 3)]
)
@pytest.mark.usefixtures("implementation")
def test_forward_is_one_product_per_lane_and_copy(
    layout: str, num_lanes: int, num_copies: int, num_outputs: int, num_inputs: int, B: int
) -> None:
    layer = random_layer(num_lanes * num_copies, num_outputs, num_inputs, layout)
    x = random_input(num_lanes, num_inputs, B)
    for slope in (1.0, 0.25, 0.0):
        y = layer.forward(x, slope)
        assert y.shape == (num_lanes * num_copies, num_outputs, B)
        expected = plain(layer.to_dense(), layer.bias, x.written_out, slope)
        torch.testing.assert_close(y, expected.detach(), **TOLERANCE)


@both_layouts
@pytest.mark.parametrize("num_actions", [1, 6])
@pytest.mark.parametrize("num_copies", [1, 2])
@pytest.mark.usefixtures("implementation")
def test_an_input_in_parts_is_the_joined_input(
    layout: str, num_actions: int, num_copies: int
) -> None:
    layer = random_layer(3 * num_copies, 9, 171 + num_actions, layout)
    x, action = torch.randn(3, 171, 5), torch.randn(3, num_actions, 5)
    joined = layer.forward(LayerInput(torch.cat([x, action], 1)))
    assert torch.equal(layer.forward(LayerInput(x).with_extra(action)), joined)
    # What a replay gives is row-major.
    strided = LayerInput(
        x.transpose(1, 2).contiguous().transpose(1, 2),
        None,
        action.transpose(1, 2).contiguous().transpose(1, 2),
    )
    assert torch.equal(layer.forward(strided), joined)


@pytest.mark.parametrize("num_copies", [1, 2])
@pytest.mark.parametrize(("num_outputs", "num_inputs", "B"), [(6, 33, 5), (17, 257, 100)])
@pytest.mark.usefixtures("implementation")
def test_both_layouts_give_the_same_output_bits(
    num_copies: int, num_outputs: int, num_inputs: int, B: int
) -> None:
    masked, csr = (
        random_layer(3 * num_copies, num_outputs, num_inputs, layout) for layout in (MASKED, CSR)
    )
    x = random_input(3, num_inputs, B)
    for slope in (1.0, 0.25, 0.0):
        assert torch.equal(masked.forward(x, slope), csr.forward(x, slope))


def everything(layer: StackedLinear, x: LayerInput, grad: Tensor) -> list[Tensor]:
    """Output, gradients of weights, biases and all inputs, and of the last ones."""
    weight_grad, bias_grad = layer.weight_grad(x, grad)
    num_inputs = layer.shape[2]
    activated = x.written_out.repeat_interleave(layer.shape[0] // x.num_lanes, 0)
    return [
        layer.forward(x, 0.25),
        layer.spread(weight_grad),
        bias_grad,
        layer.input_grad(grad, activated=activated, slope=0.25),
        layer.input_grad(grad, slice(num_inputs - num_inputs // 5, num_inputs)),
    ]


def lanes_of(layer: StackedLinear, num_lanes: int) -> list[StackedLinear]:
    """Each lane's rows as a layer of their own."""
    copies = layer.shape[0] // num_lanes
    return [rows_of(layer, slice(copies * i, copies * i + copies)) for i in range(num_lanes)]


def assert_bits_alone(
    lanes: list[StackedLinear], x: LayerInput, grad: Tensor, together: list[Tensor]
) -> None:
    """Each lane alone computes what it computed among the others."""
    for index, layer in enumerate(lanes):
        copies = layer.shape[0]
        rows = slice(copies * index, copies * index + copies)
        alone = everything(layer, lane_of(x, index), grad[rows])
        for own, among in zip(alone, together, strict=True):
            assert torch.equal(own, among[rows])


@needs_native
@both_layouts
@pytest.mark.parametrize("num_copies", [1, 2])
@pytest.mark.parametrize("num_outputs", [1, 3, 6, 16, 17, 34, 256])
@pytest.mark.parametrize("num_inputs", [1, 17, 170])
def test_a_lane_alone_has_the_bits_it_has_among_others_with_any_threads(
    layout: str, num_copies: int, num_outputs: int, num_inputs: int
) -> None:
    layer = random_layer(3 * num_copies, num_outputs, num_inputs, layout)
    lanes = lanes_of(layer, 3)
    for B in (1, 5, 100, 257):
        x = random_input(3, num_inputs, B)
        grad = torch.randn(3 * num_copies, num_outputs, B)
        with threads(1):
            expected = everything(layer, x, grad)
        for num_threads in (1, 2, 3, 4):
            with threads(num_threads):
                for found, first in zip(everything(layer, x, grad), expected, strict=True):
                    assert torch.equal(found, first)
                assert_bits_alone(lanes, x, grad, expected)


# In plain torch csr layers are written out as masked ones, so that fewer of their sizes will do.
@pytest.mark.parametrize(
    ("layout", "num_outputs"),
    [*((MASKED, n) for n in (*range(1, 18), 256)), *((CSR, n) for n in (1, 6, 17, 256))],
)
@pytest.mark.parametrize("num_inputs", [17, 170])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_lane_alone_has_the_bits_it_has_among_others_in_plain_torch(
    layout: str,
    num_outputs: int,
    num_inputs: int,
    num_threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "NATIVE", None)
    layer = random_layer(3, num_outputs, num_inputs, layout)
    lanes = lanes_of(layer, 3)
    with threads(num_threads):
        for B in (16, 100):
            x, grad = random_input(3, num_inputs, B), torch.randn(3, num_outputs, B)
            assert_bits_alone(lanes, x, grad, everything(layer, x, grad))


@both_layouts
@pytest.mark.parametrize("num_copies", [1, 2])
@pytest.mark.parametrize("slope", [1.0, 0.25, 0.0])
@pytest.mark.usefixtures("implementation")
def test_gradients_are_those_of_the_plain_products(
    layout: str, num_copies: int, slope: float
) -> None:
    first = random_layer(3 * num_copies, 9, 33, layout)
    second = random_layer(3 * num_copies, 4, 9, layout)
    x = random_input(3, 33, 5)
    own, given = [], []
    for layer in (first, second):
        own += [layer.to_dense().requires_grad_(), layer.bias.detach().clone().requires_grad_()]
        given += [layer.trained, layer.bias]
    hidden = plain(own[0], own[1], x.written_out, slope)
    by_row = [b[:, None] + w @ h for w, b, h in zip(own[2], own[3], hidden, strict=True)]
    expected_output, output = torch.stack(by_row), run_layers([first, second], slope, x)
    torch.testing.assert_close(output, expected_output, **TOLERANCE)
    expected = torch.autograd.grad(expected_output.square().sum(), own)
    found = torch.autograd.grad(output.square().sum(), given)
    for index, layer in enumerate((first, second)):
        mask = mask_of(layer)
        weight_grad, expected_grad = layer.spread(found[2 * index]), expected[2 * index]
        # Sums of products of products of order ten.
        torch.testing.assert_close(weight_grad[mask], expected_grad[mask], rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(
            found[2 * index + 1], expected[2 * index + 1], rtol=1e-4, atol=1e-2
        )


@both_layouts
@pytest.mark.usefixtures("implementation")
def test_gradients_reach_only_the_own_row(layout: str) -> None:
    layer, x = random_layer(6, 4, 7, layout), torch.randn(3, 7, 5)
    y = run_layers([layer], 1.0, LayerInput(x))
    weight_grad, bias_grad = torch.autograd.grad(y[3].sum(), [layer.trained, layer.bias])
    weight_grad, mask = layer.spread(weight_grad), mask_of(layer)
    expected = x[1].sum(1).expand(4, -1)
    torch.testing.assert_close(weight_grad[3][mask[3]], expected[mask[3]])
    torch.testing.assert_close(bias_grad[3], torch.full((4,), 5.0))
    for grad in (weight_grad, bias_grad):
        assert float(grad[[0, 1, 2, 4, 5]].abs().max()) == 0


@both_layouts
@pytest.mark.usefixtures("implementation")
def test_a_frozen_layer_passes_gradients_to_the_action_alone(layout: str) -> None:
    layer = random_layer(6, 4, 9, layout)
    x, action = torch.randn(3, 7, 5), torch.randn(3, 2, 5, requires_grad=True)
    x.requires_grad_()
    y = run_layers([layer.frozen(slice(2), 2)], 1.0, LayerInput(x).with_extra(action))
    y.sum().backward()
    assert layer.trained.grad is None and layer.bias.grad is None and x.grad is None
    assert action.grad is not None
    per_lane = layer.to_dense()[..., -2:].sum(1).view(3, 2, 2).sum(1)
    torch.testing.assert_close(action.grad, per_lane.unsqueeze(-1).expand(3, 2, 5))
    still = run_layers([layer.frozen()], 1.0, LayerInput(torch.randn(3, 9, 5)))
    assert not still.requires_grad


@both_layouts
@pytest.mark.usefixtures("implementation")
def test_an_input_without_actions_gets_its_own_gradient(layout: str) -> None:
    layer = random_layer(6, 4, 9, layout)
    x = torch.randn(3, 9, 5, requires_grad=True)
    run_layers([layer.frozen(slice(1), 2)], 1.0, LayerInput(x)).sum().backward()
    assert x.grad is not None
    per_lane = layer.to_dense()[::2].sum(1)
    torch.testing.assert_close(x.grad, per_lane.unsqueeze(-1).expand(3, 9, 5))


def connections_memory(layer: StackedLinear) -> list[int]:
    """Where the tensors that say which connections are active lie."""
    if isinstance(layer, CsrLinear):
        tensors = [layer.at.start, layer.at.column]
    else:
        tensors = [mask_of(layer)]
    return [tensor.untyped_storage().data_ptr() for tensor in tensors]


@both_layouts
@pytest.mark.parametrize(("copy", "rows"), [(slice(None), [0, 1, 2, 3]), (slice(1), [0, 2])])
def test_frozen_copies_share_memory(layout: str, copy: slice, rows: list[int]) -> None:
    layer = random_layer(4, 3, 5, layout)
    frozen = layer.frozen(copy, 2)
    assert not frozen.trained.requires_grad and not frozen.bias.requires_grad
    with torch.no_grad():
        layer.trained.add_(1.0)
        layer.bias.mul_(2.0)
    assert torch.equal(frozen.trained, layer.trained.detach()[rows])
    assert torch.equal(frozen.bias, layer.bias.detach()[rows])
    assert connections_memory(frozen) == connections_memory(layer)
    # Masked layers may hold a 1 where no connection is by now, csr ones cannot.
    assert torch.equal(frozen.to_dense(), layer.to_dense()[rows])
    layer.set_connections_(mask_of(layer).flip(2))
    assert torch.equal(mask_of(layer.frozen(copy, 2)), mask_of(layer)[rows])
    if isinstance(frozen, MaskedLinear):
        assert torch.equal(mask_of(frozen), mask_of(layer)[rows])


@both_layouts
def test_a_target_copy_shares_connections_but_not_weights(layout: str) -> None:
    layer = random_layer(4, 3, 5, layout)
    target = layer.target_copy()
    assert not target.trained.requires_grad and not target.bias.requires_grad
    assert connections_memory(target) == connections_memory(layer)
    with torch.no_grad():
        layer.trained.add_(1.0)
        layer.bias.add_(1.0)
    torch.testing.assert_close(target.trained, layer.trained.detach() - 1)
    torch.testing.assert_close(target.bias, layer.bias.detach() - 1)
    layer.set_connections_(mask_of(layer).flip(2))
    assert torch.equal(mask_of(target), mask_of(layer))


@both_layouts
def test_active_counts_connections_and_not_weights(layout: str) -> None:
    layer = random_layer(3, 4, 7, layout)
    expected = [int(mask.sum()) for mask in mask_of(random_layer(3, 4, 7))]
    with torch.no_grad():
        layer.trained.zero_()
    assert layer.active().tolist() == [int(mask.sum()) for mask in mask_of(layer)] == expected
    assert len(set(expected)) > 1
    dense = random_layer(3, 4, 7, layout, is_sparse=False)
    assert dense.active().tolist() == [28, 28, 28]


@both_layouts
def test_only_layers_with_missing_connections_are_sparse(layout: str) -> None:
    assert random_layer(3, 4, 7, layout).is_sparse
    dense = random_layer(3, 4, 7, is_sparse=False)
    assert not dense.is_sparse and dense.connection_mask() is None


@both_layouts
def test_dense_weights_are_a_copy(layout: str) -> None:
    layer = random_layer(2, 3, 4, layout)
    expected = random_layer(2, 3, 4).trained.detach()
    dense = layer.to_dense()
    assert torch.equal(dense, expected) and not dense.requires_grad
    dense.add_(1.0)
    assert torch.equal(layer.to_dense(), expected)


@both_layouts
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(1, 5), (3, 171), (17, 1), (33, 257)])
def test_what_is_spread_is_collected_again(layout: str, num_outputs: int, num_inputs: int) -> None:
    layer = random_layer(3, num_outputs, num_inputs, layout)
    mask = mask_of(layer)
    dense = torch.randn(3, num_outputs, num_inputs) * mask
    held = layer.collect(dense)
    assert held.shape == layer.trained.shape
    assert torch.equal(layer.spread(held), dense)
    assert torch.equal(layer.collect(layer.spread(held)), held)
    assert torch.equal(layer.spread(layer.collect(layer.to_dense())), layer.to_dense())


@both_layouts
@pytest.mark.usefixtures("implementation")
def test_a_layer_computes_with_the_connections_it_was_given(layout: str) -> None:
    layer = random_layer(6, 4, 33, layout)
    x, grad = LayerInput(torch.randn(3, 33, 5)), torch.randn(6, 4, 5)
    everything(layer, x, grad)  # what was derived from the old connections must not be used again
    mask = mask_of(layer).flip(2)
    weight = torch.randn(6, 4, 33) * mask
    layer.set_connections_(mask.clone())
    with torch.no_grad():
        layer.trained.copy_(layer.collect(weight))
    assert torch.equal(mask_of(layer), mask) and torch.equal(layer.to_dense(), weight)
    fresh = make_layer(weight, layer.bias.detach(), mask, layout)
    for own, expected in zip(everything(layer, x, grad), everything(fresh, x, grad), strict=True):
        assert torch.equal(own, expected)


def test_csr_connections_cannot_become_more_or_fewer() -> None:
    layer = random_layer(3, 4, 7, CSR)
    mask = mask_of(layer)
    one_more, one_less, exchanged = mask.clone(), mask.clone(), mask[[1, 0, 2]]
    one_more[0].view(-1)[(~mask[0]).flatten().nonzero()[0]] = True
    one_less[2].view(-1)[mask[2].flatten().nonzero()[0]] = False
    for other in (one_more, one_less, exchanged):
        with pytest.raises(ValueError, match="cannot take over"):
            layer.set_connections_(other)
        assert torch.equal(mask_of(layer), mask)
