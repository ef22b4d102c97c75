"""A run of layers against the same network in plain torch, and what its gradients leave out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from fastanf import chain, kernels
from fastanf.chain import run_layers
from fastanf.kernels.layer_input import LayerInput, Noise
from fastanf.kernels.stack import BackStep, run_backward
from fastanf.sparse.layers import CSR, MASKED, CsrLinear, MaskedLinear, StackedLinear

# Of the largest magnitude of a tensor: float32 rounding of three layers and of their gradients.
TOLERANCE = 4e-6
L, B = 3, 37
NUM_STORED, NUM_NOISE, NUM_ACTIONS = 7, 30, 4
SIZES = (NUM_STORED + NUM_NOISE + NUM_ACTIONS, 17, 33, 5)
SLOPES = (0.0, 0.01, 1.0)
LAYOUTS = [
    (MASKED, MASKED, MASKED),
    (CSR, CSR, CSR),
    (CSR, MASKED, CSR),
    (MASKED, CSR, MASKED),
    (CSR, CSR, MASKED),
]

needs_native = pytest.mark.skipif(kernels.NATIVE is None, reason="kernels are not compiled")


def make_layers(
    C: int,
    layouts: Sequence[str],
    dtype: torch.dtype = torch.float32,
    sizes: Sequence[int] = SIZES,
    num_lanes: int = L,
) -> list[StackedLinear]:
    """Sparse layers that learn; their values are those of float32 whatever the type."""
    generator, layers, G = torch.Generator().manual_seed(C), [], num_lanes * C
    for I, O, layout in zip(sizes[:-1], sizes[1:], layouts, strict=True):
        mask = torch.rand(G, O, I, generator=generator) < 0.4
        weight = (torch.randn(G, O, I, generator=generator) * mask / I**0.5).to(dtype)
        bias = torch.randn(G, O, generator=generator).to(dtype)
        layer: StackedLinear = MaskedLinear(weight, bias, mask)
        if layout == CSR:
            layer = CsrLinear.of_dense(weight, bias, mask)
        layer.trained.requires_grad_()
        layer.bias.requires_grad_()
        layers.append(layer)
    return layers


class Parts(NamedTuple):
    """Leaves of the graph, and the noise between them."""

    stored: Tensor
    noise: Noise
    extra: Tensor

    @property
    def x(self) -> LayerInput:
        return LayerInput(self.stored, self.noise, self.extra)


def make_parts(dtype: torch.dtype = torch.float32) -> Parts:
    generator = torch.Generator().manual_seed(0)
    stored = torch.randn(L, NUM_STORED, B, generator=generator).to(dtype)
    extra = torch.randn(L, NUM_ACTIONS, B, generator=generator).to(dtype).requires_grad_()
    row = torch.arange(L * B).view(L, B)
    noise = Noise(torch.arange(L) + 3, row, 4, NUM_NOISE, torch.linspace(0.5, 2.0, L))
    return Parts(stored, noise, extra)


def plain_network(layers: Sequence[StackedLinear], slope: float, inputs: Tensor) -> Tensor:
    """What `run_layers` computes, in the operations that autograd knows."""
    G = layers[0].shape[0]
    hidden = inputs.repeat_interleave(G // inputs.shape[0], 0)
    for index, layer in enumerate(layers):
        if index > 0:
            hidden = torch.nn.functional.leaky_relu(hidden, slope)
        hidden = torch.baddbmm(layer.bias.unsqueeze(2), layer.spread(layer.trained), hidden)
    return hidden


def leaves(layers: Sequence[StackedLinear]) -> list[Tensor]:
    return [tensor for layer in layers for tensor in (layer.trained, layer.bias)]


def output_grad(out: Tensor) -> Tensor:
    return torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out.dtype)


def dense_grads(layers: Sequence[StackedLinear], grads: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of weights and biases as dense matrices."""
    pairs = zip(layers, grads[0::2], grads[1::2], strict=True)
    return [tensor for layer, weight, bias in pairs for tensor in (layer.spread(weight), bias)]


def chain_results(C: int, layouts: Sequence[str], slope: float, dtype: torch.dtype) -> list[Tensor]:
    """Output, gradients of the layers, gradient of the action."""
    layers, parts = make_layers(C, layouts, dtype), make_parts(dtype)
    out = run_layers(layers, slope, parts.x)
    grads = torch.autograd.grad(out, [*leaves(layers), parts.extra], output_grad(out))
    return [out, *dense_grads(layers, grads[:-1]), grads[-1]]


def plain_results(C: int, layouts: Sequence[str], slope: float, parts: Parts) -> list[Tensor]:
    """The same from plain torch in float64."""
    layers = make_layers(C, layouts, torch.float64)
    written = parts.x.written_out.detach().double()[:, :-NUM_ACTIONS]
    extra = parts.extra.detach().double().requires_grad_()
    out = plain_network(layers, slope, torch.cat([written, extra], 1))
    grads = torch.autograd.grad(out, [*leaves(layers), extra], output_grad(out))
    return [out, *dense_grads(layers, grads[:-1]), grads[-1]]


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("layouts", LAYOUTS, ids="-".join)
@pytest.mark.parametrize("C", [1, 2])
def test_float64_run_is_the_network_of_plain_torch(C: int, layouts: tuple[str, ...], slope: float):
    got = chain_results(C, layouts, slope, torch.float64)
    expected = plain_results(C, layouts, slope, make_parts(torch.float64))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("is_native", [pytest.param(True, marks=needs_native), False])
@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("layouts", LAYOUTS, ids="-".join)
@pytest.mark.parametrize("C", [1, 2])
def test_float32_run_follows_the_float64_network(
    monkeypatch: pytest.MonkeyPatch, C: int, layouts: tuple[str, ...], slope: float, is_native: bool
):
    if not is_native:
        monkeypatch.setattr(kernels, "NATIVE", None)
    got = chain_results(C, layouts, slope, torch.float32)
    expected = plain_results(C, layouts, slope, make_parts())
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == torch.float32 and one.shape == other.shape
        scale = float(other.detach().abs().max())
        torch.testing.assert_close(one.double(), other, rtol=0, atol=TOLERANCE * scale)


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("C", [1, 2])
def test_gradients_are_the_derivatives(C: int, slope: float):
    sizes = (5, 4, 3)
    layers = make_layers(C, (CSR, MASKED), torch.float64, sizes, num_lanes=2)
    first, second = layers
    assert isinstance(first, CsrLinear)
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def run(x: Tensor, value: Tensor, bias: Tensor, weight: Tensor, last_bias: Tensor) -> Tensor:
        again = [CsrLinear(value, bias, first.at), MaskedLinear(weight, last_bias)]
        return run_layers(again, slope, LayerInput(x))

    tensors = [x.requires_grad_(), *leaves([first, second])]
    assert torch.autograd.gradcheck(run, tensors)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("C", [1, 2])
def test_gradient_of_the_whole_input_is_summed_over_the_copies(C: int, num_layers: int):
    layers = make_layers(C, (MASKED, CSR, CSR), torch.float64)[:num_layers]
    x = make_parts(torch.float64).x.written_out.detach().requires_grad_()
    out, expected = run_layers(layers, 0.01, LayerInput(x)), plain_network(layers, 0.01, x)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    (got,) = torch.autograd.grad(out, [x], output_grad(out))
    (wanted,) = torch.autograd.grad(expected, [x], output_grad(out))
    assert got.shape == x.shape
    torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11)


def test_layouts_give_the_same_bits_forward():
    outputs = [run_layers(make_layers(2, layouts), 0.01, make_parts().x) for layouts in LAYOUTS]
    assert all(torch.equal(out, outputs[0]) for out in outputs)


def test_noise_inside_has_the_bits_of_noise_written_out():
    for layouts in LAYOUTS:
        results = []
        for is_written in (False, True):
            layers, parts = make_layers(2, layouts), make_parts()
            x = parts.x
            if is_written:
                x = LayerInput(x.written_out[:, :-NUM_ACTIONS].detach(), extra=parts.extra)
            out = run_layers(layers, 0.01, x)
            grads = torch.autograd.grad(out, [*leaves(layers), parts.extra], output_grad(out))
            results.append([out, *grads])
        assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


class WatchedLinear(MaskedLinear):
    """Records what is asked of it and refuses what it is told to."""

    def __init__(self, layer: StackedLinear, refused: Sequence[str] = ()):
        assert isinstance(layer, MaskedLinear)
        super().__init__(layer.weight, layer.bias, layer.mask)
        self.refused, self.asked = refused, []

    def weight_grad(self, x: LayerInput, grad: Tensor) -> tuple[Tensor, Tensor]:
        assert "weight_grad" not in self.refused
        self.asked.append("weight_grad")
        return super().weight_grad(x, grad)

    def input_grad(
        self,
        grad: Tensor,
        inputs: slice = slice(None),
        activated: Tensor | None = None,
        slope: float = 1.0,
    ) -> Tensor:
        assert "input_grad" not in self.refused
        self.asked.append(("input_grad", inputs.indices(self.shape[2])[:2], slope))
        return super().input_grad(grad, inputs, activated, slope)


@pytest.fixture
def layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in plain torch: layers are asked one after the other."""
    monkeypatch.setattr(chain, "_are_native", lambda layers: False)


def watched_layers(*refused: Sequence[str]) -> list[WatchedLinear]:
    layers = make_layers(2, (MASKED,) * 3)
    return [WatchedLinear(layer, names) for layer, names in zip(layers, refused, strict=True)]


@pytest.mark.usefixtures("layer_by_layer")
def test_no_input_gradient_is_computed_where_none_is_wanted():
    layers, parts = watched_layers(["input_grad"], [], []), make_parts()
    x = LayerInput(parts.stored, parts.noise, parts.extra.detach())
    run_layers(layers, 0.01, x).sum().backward()
    assert all(tensor.grad is not None for tensor in leaves(layers))
    assert [layer.asked for layer in layers] == [
        ["weight_grad"],
        [("input_grad", (0, SIZES[1]), 0.01), "weight_grad"],
        [("input_grad", (0, SIZES[2]), 0.01), "weight_grad"],
    ]


@pytest.mark.usefixtures("layer_by_layer")
def test_frozen_layers_give_the_gradient_of_the_action_alone():
    layers, parts = watched_layers(*[["weight_grad"]] * 3), make_parts()
    expected = run_layers(layers, 0.01, parts.x)
    for layer in layers:
        layer.trained.requires_grad_(False)
        layer.bias.requires_grad_(False)
    out = run_layers(layers, 0.01, parts.x)
    assert torch.equal(out, expected)
    out.backward(output_grad(out))
    assert all(tensor.grad is None for tensor in leaves(layers))
    assert layers[0].asked == [("input_grad", (SIZES[0] - NUM_ACTIONS, SIZES[0]), 1.0)]
    learning, again = make_layers(2, (MASKED,) * 3), make_parts()
    other = run_layers(learning, 0.01, again.x)
    other.backward(output_grad(other))
    assert parts.extra.grad is not None and again.extra.grad is not None
    assert torch.equal(parts.extra.grad, again.extra.grad)


@needs_native
@pytest.mark.parametrize("learns", [True, False])
def test_compiled_kernels_are_asked_once_and_for_what_is_wanted(
    learns: bool, monkeypatch: pytest.MonkeyPatch
):
    layers, parts = make_layers(2, (CSR, MASKED, CSR)), make_parts()
    x = parts.x
    if learns:
        x = LayerInput(parts.stored, parts.noise, parts.extra.detach())
    else:
        layers = [layer.frozen() for layer in layers]
    asked = []

    def watch(grad: Tensor, steps: Sequence[BackStep]) -> list[Tensor]:
        asked.append([(step.first, step.num) for step in steps])
        return run_backward(grad, steps)

    monkeypatch.setattr(chain, "run_backward", watch)
    run_layers(layers, 0.01, x).sum().backward()
    hidden = [(0, SIZES[2]), (0, SIZES[1])]
    actions = [(SIZES[0] - NUM_ACTIONS, NUM_ACTIONS)]
    assert asked == [hidden if learns else hidden + actions]


@pytest.mark.parametrize("layouts", LAYOUTS, ids="-".join)
@pytest.mark.parametrize("copy", [slice(0, 1), slice(1, 2), slice(None)])
def test_frozen_copies_have_the_action_gradient_of_these_copies(
    layouts: tuple[str, ...], copy: slice
):
    layers, parts = make_layers(2, layouts), make_parts()
    frozen = [layer.frozen(copy, 2) for layer in layers]
    out = run_layers(frozen, 0.01, parts.x)
    whole = run_layers(layers, 0.01, parts.x)
    assert torch.equal(out, whole.unflatten(0, (L, 2))[:, copy].flatten(0, 1))
    chosen = torch.zeros_like(whole)
    chosen.unflatten(0, (L, 2))[:, copy] = 1.0
    (expected,) = torch.autograd.grad(whole, [parts.extra], chosen)
    out.sum().backward()
    assert parts.extra.grad is not None and torch.equal(parts.extra.grad, expected)
    assert all(tensor.grad is None for tensor in leaves(layers))


@pytest.mark.parametrize("lowest", [1, 2])
def test_nothing_is_computed_below_the_lowest_layer_that_learns(lowest: int):
    refused = [["weight_grad", "input_grad"]] * lowest + [["input_grad"], [], []]
    layers, parts = watched_layers(*refused[:3]), make_parts()
    for layer in layers[:lowest]:
        layer.trained.requires_grad_(False)
        layer.bias.requires_grad_(False)
    x = LayerInput(parts.stored, parts.noise, parts.extra.detach())
    out = run_layers(layers, 0.01, x)
    out.backward(output_grad(out))
    every = make_layers(2, (MASKED,) * 3)
    expected = run_layers(every, 0.01, x)
    expected.backward(output_grad(expected))
    for tensor, other in zip(
        leaves(layers)[2 * lowest :], leaves(every)[2 * lowest :], strict=True
    ):
        assert tensor.grad is not None and other.grad is not None
        assert torch.equal(tensor.grad, other.grad)


@pytest.mark.parametrize("layout", [MASKED, CSR])
@pytest.mark.parametrize("learns_weight", [False, True])
def test_weights_and_biases_learn_apart(layout: str, learns_weight: bool):
    layers, every = (make_layers(2, (layout,) * 3) for _ in range(2))
    x = make_parts().x
    for layer in layers:
        layer.trained.requires_grad_(learns_weight)
        layer.bias.requires_grad_(not learns_weight)
    for network in (layers, every):
        out = run_layers(network, 0.01, x)
        out.backward(output_grad(out))
    for layer, other in zip(layers, every, strict=True):
        learnt, kept = (layer.trained, layer.bias) if learns_weight else (layer.bias, layer.trained)
        expected = other.trained.grad if learns_weight else other.bias.grad
        assert kept.grad is None and learnt.grad is not None and expected is not None
        assert torch.equal(learnt.grad, expected)


def test_nothing_that_requires_a_gradient_gives_a_plain_tensor():
    layers, parts = make_layers(1, (CSR, MASKED, CSR)), make_parts()
    frozen = [layer.frozen() for layer in layers]
    x = LayerInput(parts.stored, parts.noise, parts.extra.detach())
    assert not run_layers(frozen, 0.01, x).requires_grad
    with torch.no_grad():
        assert not run_layers(layers, 0.01, parts.x).requires_grad


def test_features_before_an_action_get_no_gradient():
    layers, parts = make_layers(1, (CSR, MASKED, CSR)), make_parts()
    stored = parts.stored.clone().requires_grad_()
    run_layers(layers, 0.01, LayerInput(stored, parts.noise, parts.extra)).sum().backward()
    assert stored.grad is None and parts.extra.grad is not None


def test_a_policy_learns_through_frozen_critics():
    features = NUM_STORED + NUM_NOISE
    grads = []
    for dtype, is_plain in ((torch.float32, False), (torch.float64, False), (torch.float64, True)):
        actor = make_layers(1, (CSR, MASKED), dtype, (features, 17, NUM_ACTIONS))
        critics = [layer.frozen() for layer in make_layers(2, (CSR, CSR, MASKED), dtype)]
        parts = make_parts(dtype)
        x = LayerInput(parts.stored, parts.noise)
        if is_plain:
            action = torch.tanh(plain_network(actor, 0.0, x.written_out))
            value = plain_network(critics, 0.0, torch.cat([x.written_out, action], 1))
        else:
            action = torch.tanh(run_layers(actor, 0.0, x))
            value = run_layers(critics, 0.0, x.with_extra(action))
        value.unflatten(0, (L, 2)).amin(1).mean(-1).sum().backward()
        grads.append([tensor.grad for tensor in leaves(actor)])
        assert all(tensor.grad is None for tensor in leaves(critics))
    for narrow, wide, plain in zip(*grads, strict=True):
        assert narrow is not None and wide is not None and plain is not None
        torch.testing.assert_close(wide, plain, rtol=1e-11, atol=1e-11)
        # Two networks on top of each other double the rounding; noise differs by 5e-7 of itself.
        scale = 4 * TOLERANCE * float(plain.abs().max())
        torch.testing.assert_close(narrow.double(), plain, rtol=0, atol=scale)


def test_gradients_add_up_over_two_runs():
    layers, parts = make_layers(2, (CSR, MASKED, CSR)), make_parts()
    out = run_layers(layers, 0.01, parts.x)
    grads = torch.autograd.grad(out.sum(), leaves(layers), retain_graph=True)
    again = torch.autograd.grad(out.sum(), leaves(layers))
    assert all(torch.equal(*pair) for pair in zip(grads, again, strict=True))
    twice = run_layers(layers, 0.01, parts.x).sum() + run_layers(layers, 0.01, parts.x).sum()
    twice.backward()
    for tensor, grad in zip(leaves(layers), grads, strict=True):
        assert tensor.grad is not None and torch.equal(tensor.grad, 2 * grad)


def some_lanes(layer: StackedLinear, lanes: slice) -> StackedLinear:
    """A layer of 2 copies with only these lanes."""
    mask = layer.connection_mask()
    assert mask is not None
    weight, bias, mask = (
        tensor.unflatten(0, (L, 2))[lanes].flatten(0, 1)
        for tensor in (layer.to_dense(), layer.bias.detach(), mask)
    )
    if isinstance(layer, CsrLinear):
        return CsrLinear.of_dense(weight, bias.requires_grad_(), mask)
    return MaskedLinear(weight, bias.requires_grad_(), mask)


@needs_native
@pytest.mark.parametrize("layouts", LAYOUTS, ids="-".join)
def test_a_lane_alone_has_the_same_bits(layouts: tuple[str, ...]):
    results, parts, n = [], make_parts(), make_parts().noise
    for lanes in (slice(None), slice(1, 2)):
        layers = [some_lanes(layer, lanes) for layer in make_layers(2, layouts)]
        for layer in layers:
            layer.trained.requires_grad_()
        noise = Noise(n.key[lanes], n.row[lanes], n.stream, n.num, n.std[lanes])
        extra = parts.extra.detach()[lanes].requires_grad_()
        out = run_layers(layers, 0.01, LayerInput(parts.stored[lanes], noise, extra))
        upstream = (
            output_grad(torch.empty(2 * L, SIZES[-1], B)).unflatten(0, (L, 2))[lanes].flatten(0, 1)
        )
        grads = torch.autograd.grad(out, [*leaves(layers), extra], upstream)
        found = [out, *dense_grads(layers, grads[:-1]), grads[-1]]
        results.append([tensor.unflatten(0, (extra.shape[0], -1)) for tensor in found])
    assert all(torch.equal(among[1], alone[0]) for among, alone in zip(*results, strict=True))


@pytest.mark.parametrize("layouts", [(MASKED,) * 3, (CSR,) * 3], ids="-".join)
def test_an_input_that_does_not_fit_is_named(layouts: tuple[str, ...]):
    layers, parts = make_layers(1, layouts), make_parts()
    with pytest.raises(ValueError, match=f"{SIZES[0]}"):
        run_layers(layers, 0.01, LayerInput(parts.stored, parts.noise))
    with pytest.raises(ValueError, match=r"multiple of 2|divisor of 3"):
        run_layers(layers, 0.01, LayerInput(torch.zeros(2, SIZES[0], B)))


def test_connections_that_moved_are_used_by_the_next_run():
    layers, parts = make_layers(1, (CSR, CSR, CSR)), make_parts()
    run_layers(layers, 0.01, parts.x).sum().backward()
    first = layers[0]
    assert isinstance(first, CsrLinear)
    first.set_connections_(first.connection_mask().flatten(1).flip(1).view(first.shape))
    masked = [MaskedLinear(layer.to_dense(), layer.bias.detach()) for layer in layers]
    grads = []
    for network in (layers, masked):
        extra = parts.extra.detach().requires_grad_()
        out = run_layers(network, 0.01, parts.x.with_extra(extra))
        out.backward(output_grad(out))
        assert extra.grad is not None
        grads.append((out.detach(), extra.grad))
    assert torch.equal(grads[0][0], grads[1][0])
    torch.testing.assert_close(grads[0][1], grads[1][1], rtol=1e-5, atol=1e-5)
