"""The kernels as operators of torch: gradients, shapes for tracing, schemas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, library

from fastanf.kernels import ops
from fastanf.kernels.csr import Connections, csr_linear
from fastanf.kernels.layer_input import LayerInput, Noise
from fastanf.kernels.linear import linear
from fastanf.kernels.mask_adam import mask_adam_
from fastanf.kernels.noise import noise_

L, C, O, D, N, A, B = 2, 2, 7, 5, 9, 3, 20
G, I = L * C, D + N + A
SLOPE = 0.1


def make_input(requires_grad: bool = False) -> LayerInput:
    generator = torch.Generator().manual_seed(1)
    stored = torch.randn(L, D, B, generator=generator).requires_grad_(requires_grad)
    extra = torch.randn(L, A, B, generator=generator).requires_grad_(requires_grad)
    row = torch.arange(L * B).view(L, B)
    return LayerInput(stored, Noise(torch.arange(L), row, 3, N, torch.ones(L)), extra)


def make_layer() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(G, O, I, generator=generator)
    bias = torch.randn(G, O, generator=generator)
    return weight, bias, torch.rand(G, O, I, generator=generator) < 0.4


def plain(x: LayerInput, weight: Tensor, bias: Tensor) -> Tensor:
    """The layer in torch's own operators."""
    assert x.extra is not None
    joined = torch.cat([x.stored, x.written_out[:, D : D + N].detach(), x.extra], 1)
    z = (weight.view(L, C * O, I) @ joined).view(G, O, B) + bias.unsqueeze(-1)
    return torch.nn.functional.leaky_relu(z, SLOPE)


def assert_close(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_linear_and_all_its_gradients() -> None:
    x, (weight, bias, _) = make_input(True), make_layer()
    leaves = [weight.requires_grad_(), bias.requires_grad_(), x.stored, x.extra]
    out = ops.linear(x, weight, bias, SLOPE)
    assert torch.equal(out, linear(x, weight, bias, SLOPE))
    grad = torch.randn_like(out)
    expected = plain(x, weight, bias)
    got = torch.autograd.grad(out, leaves, grad)
    assert_close((out, *got), (expected, *torch.autograd.grad(expected, leaves, grad)))


def test_csr_linear_and_all_its_gradients() -> None:
    x, (weight, bias, mask) = make_input(True), make_layer()
    at = Connections.of_mask(mask)
    value = at.from_dense(weight).requires_grad_()
    dense = (weight * mask).requires_grad_()
    rest = [bias.requires_grad_(), x.stored, x.extra]
    out = ops.csr_linear(x, value, at, bias, SLOPE)
    assert torch.equal(out, csr_linear(x, value, at, bias, SLOPE))
    grad = torch.randn_like(out)
    expected = plain(x, dense, bias)
    got = torch.autograd.grad(out, [value, *rest], grad)
    dense_grad, *others = torch.autograd.grad(expected, [dense, *rest], grad)
    assert_close((out, *got), (expected, at.from_dense(dense_grad), *others))


def test_weights_alone_learn_where_the_input_does_not() -> None:
    x, (weight, bias, mask) = make_input(), make_layer()
    at = Connections.of_mask(mask)
    value = at.from_dense(weight).requires_grad_()
    ops.csr_linear(x, value, at, bias).sum().backward()
    assert value.grad is not None and x.stored.grad is None


def test_torch_checks_schemas_shapes_and_gradients() -> None:
    x, (weight, bias, mask) = make_input(), make_layer()
    at = Connections.of_mask(mask)
    value = at.from_dense(weight)
    flat = ops._flat(x)
    leaves = (weight.requires_grad_(), bias.requires_grad_())
    library.opcheck(torch.ops.fastanf.linear.default, (*flat, *leaves, SLOPE))
    csr = (*flat, value.requires_grad_(), *ops._places(at), *ops._turned(at), bias, SLOPE)
    library.opcheck(torch.ops.fastanf.csr_linear.default, csr)
    assert x.noise is not None
    drawn = (x.noise.key, x.noise.row, 3, N, x.noise.std, None)
    library.opcheck(torch.ops.fastanf.noise.default, drawn)
    step = [torch.randn(L, 6) for _ in range(3)] + [torch.rand(L, 6)]
    lanes = torch.full((L,), 1e-3), torch.zeros(L)
    arguments = (*step, 3, *lanes, torch.rand(L, 6) < 0.5, None, None, None)
    library.opcheck(torch.ops.fastanf.mask_adam_.default, arguments)


def test_noise_and_mask_adam_are_the_functions() -> None:
    key, row, std = torch.arange(L), torch.arange(L * B).view(L, B), torch.rand(L)
    expected = noise_(torch.empty(L, N, B), key, row, 5, std)
    assert torch.equal(ops.noise(key, row, 5, N, std), expected)
    state = [torch.randn(L, 6) for _ in range(3)] + [torch.rand(L, 6)]
    again = [tensor.clone() for tensor in state]
    rate, decay = torch.full((L,), 1e-3), torch.zeros(L)
    for step, (weight, grad, exp_avg, exp_avg_sq) in ((ops.mask_adam_, state), (mask_adam_, again)):
        step(weight, grad, exp_avg, exp_avg_sq, 2, rate, decay)
    assert all(torch.equal(*pair) for pair in zip(state, again, strict=True))


def test_a_compiled_model_traces_through_the_operator() -> None:
    x, (weight, bias, _) = make_input(), make_layer()

    def model(stored: Tensor) -> Tensor:
        return ops.linear(LayerInput(stored), weight[:, :, :D].contiguous(), bias, 0.0) * 2

    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x.stored), model(x.stored))


@pytest.mark.parametrize("name", ["linear", "csr_linear", "noise", "mask_adam_"])
def test_operators_are_registered(name: str) -> None:
    assert hasattr(torch.ops.fastanf, name)
