"""Dense stacked layers: float64 parity, gradients, the same bits in any company."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fastanf import kernels
from fastanf.kernels.layer_input import LayerInput, Noise
from fastanf.kernels.linear import (
    activate_ref,
    linear,
    linear_input_grad,
    linear_input_grad_ref,
    linear_ref,
    linear_weight_grad,
    linear_weight_grad_ref,
    stacked_product,
    through_activation_ref,
)
from fastanf.kernels.native import VARIANTS

# Of the largest magnitude: float32 sums of up to 700 products of order one, in any order.
TOLERANCE = 3e-6
SLOPES = (0.0, 0.01, 1.0)
# L, C, O, I, B: each size odd and in every place, thin and long matrices, and more inputs or
# columns than the kernels take at a time.
SHAPES = [
    (1, 1, 1, 1, 1),
    (3, 2, 3, 5, 1),
    (2, 1, 5, 171, 3),
    (2, 2, 171, 3, 5),
    (3, 1, 17, 257, 100),
    (1, 2, 257, 171, 5),
    (1, 1, 171, 257, 171),
    (2, 2, 5, 171, 257),
    (2, 1, 257, 1, 257),
    (2, 1, 1, 257, 171),
    (3, 2, 3, 5, 257),
    (2, 2, 12, 700, 9),
]

needs_native = pytest.mark.skipif(kernels.NATIVE is None, reason="kernels are not compiled")


class Case(NamedTuple):
    """A layer, what enters it, and the gradient behind it."""

    x: LayerInput
    weight: Tensor
    bias: Tensor
    grad: Tensor
    """[G, O, B]."""
    activated: Tensor
    """[G, I, B], as if an activation had made each copy's input."""

    def wide(self) -> Case:
        """The same in float64."""
        return Case(LayerInput(self.x.written_out.double()), *(t.double() for t in self[1:]))

    def lanes(self, lanes: slice) -> Case:
        """Some of the lanes."""
        L = self.x.num_lanes
        noise = self.x.noise
        if noise is not None:
            key, row, std = noise.key[lanes], noise.row[lanes], noise.std[lanes]
            noise = Noise(key, row, noise.stream, noise.num, std, noise.quantiles)
        x = LayerInput(self.x.stored[lanes], noise)
        return Case(x, *(t.unflatten(0, (L, -1))[lanes].flatten(0, 1) for t in self[1:]))


def make_case(L: int, C: int, O: int, I: int, B: int, num_noise: int = 0) -> Case:
    generator = torch.Generator().manual_seed(L + 2 * C + 3 * O + 5 * I + 7 * B)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    noise, G = None, L * C
    if num_noise:
        key, row = torch.arange(L) + 3, torch.arange(L * B).view(L, B)
        noise = Noise(key, row, 4, num_noise, torch.linspace(0.5, 2.0, L))
    x = LayerInput(randn(L, I - num_noise, B), noise)
    activated = randn(G, I, B)
    activated[randn(G, I, B) < -0.5] = 0.0
    return Case(x, randn(G, O, I), randn(G, O), randn(G, O, B), activated)


def ranges(I: int) -> list[slice]:
    """All inputs, the last ones (actions), the first, some in between, one."""
    return [
        slice(None), slice(-(I // 3) - 1, None), slice(0, (I + 1) // 2), slice(I // 4, I),
        slice(I // 2, I // 2 + 1),
    ]  # fmt: skip


def results(case: Case, is_reference: bool = False) -> list[Tensor]:
    """All that the three operations give for a case."""
    x, weight, bias, grad, activated = case
    forward, weight_grad, input_grad = linear, linear_weight_grad, linear_input_grad
    if is_reference:
        forward, weight_grad, input_grad = (
            linear_ref, linear_weight_grad_ref, linear_input_grad_ref,
        )  # fmt: skip
    found = [forward(x, weight, bias, slope) for slope in SLOPES]
    found += weight_grad(x, grad)
    for inputs, slope in itertools.product(ranges(weight.shape[2]), SLOPES):
        found.append(input_grad(weight, grad, inputs))
        part = activated[:, inputs].contiguous()
        found.append(input_grad(weight, grad, inputs, part, slope))
    return found


def assert_near(got: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape and other.dtype == torch.float64
        scale = float(other.abs().max())
        torch.testing.assert_close(one.double(), other, rtol=0, atol=TOLERANCE * scale)


def assert_equal(got: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


@pytest.fixture(params=range(3), ids=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Iterator[int]:
    """Each instruction set that this processor has."""
    if kernels.NATIVE is None:
        pytest.skip("kernels are not compiled")
    best = kernels.NATIVE.fastanf_variant()
    if request.param > best:
        pytest.skip(f"no {VARIANTS[request.param]} here")
    kernels.NATIVE.fastanf_set_variant(request.param)
    yield request.param
    kernels.NATIVE.fastanf_set_variant(best)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_compiled_operations_agree_with_the_float64_reference(
    variant: int, shape: tuple[int, int, int, int, int]
):
    case = make_case(*shape)
    assert_near(results(case), results(case.wide(), is_reference=True))


@pytest.mark.parametrize("num_noise", [1, 6, 160])
def test_inputs_with_noise_agree_with_the_float64_reference(variant: int, num_noise: int):
    for C, O in ((1, 3), (2, 12)):
        case = make_case(2, C, O, num_noise + 11, 37, num_noise)
        assert_near(results(case), results(case.wide(), is_reference=True))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_plain_torch_agrees_with_the_float64_reference(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int, int, int]
):
    monkeypatch.setattr(kernels, "NATIVE", None)
    case = make_case(*shape)
    assert_near(results(case), results(case.wide(), is_reference=True))
    assert_equal(results(case), results(case, is_reference=True))


def test_float64_tensors_are_computed_in_float64():
    case = make_case(2, 2, 5, 7, 9).wide()
    assert_equal(results(case), results(case, is_reference=True))


class _ReferenceLayer(torch.autograd.Function):
    """act(b + W x) with the gradients of the reference."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
        out = linear_ref(LayerInput(x), weight, bias, slope)
        ctx.save_for_backward(x, weight, out)
        ctx.slope = slope
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, out = ctx.saved_tensors
        grad = through_activation_ref(grads[0], out, ctx.slope)
        input_grad = linear_input_grad_ref(weight, grad).unflatten(0, (x.shape[0], -1)).sum(1)
        return input_grad, *linear_weight_grad_ref(LayerInput(x), grad), None


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("C", [1, 2])
def test_gradients_of_the_reference_are_the_derivatives(C: int, slope: float):
    generator = torch.Generator().manual_seed(C)
    shapes = [(2, 5, 4), (2 * C, 3, 5), (2 * C, 3)]
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    for tensor in tensors:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda *t: _ReferenceLayer.apply(*t, slope), tensors)


@pytest.mark.parametrize("slope", SLOPES)
def test_input_gradients_go_on_through_the_activation(slope: float):
    case = make_case(2, 2, 5, 7, 9).wide()
    before = case.activated.clone().requires_grad_()
    activated = activate_ref(before, slope)
    torch.bmm(case.weight, activated).backward(case.grad)
    assert before.grad is not None
    for inputs in ranges(7):
        part = activated.detach()[:, inputs].contiguous()
        got = linear_input_grad_ref(case.weight, case.grad, inputs, part, slope)
        # Exactly zero is below the kink here, and at a kink autograd picks the same side.
        torch.testing.assert_close(got, before.grad[:, inputs], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("slope", SLOPES)
def test_activation_of_the_reference_is_the_leaky_rectifier(slope: float):
    z = torch.tensor([-2.0, -0.0, 0.0, 3.0], dtype=torch.float64)
    assert torch.equal(activate_ref(z, slope), torch.nn.functional.leaky_relu(z, slope))
    grad = torch.full_like(z, 5.0)
    expected = torch.where(z > 0, grad, slope * grad)
    assert torch.equal(through_activation_ref(grad, activate_ref(z, slope), slope), expected)


def test_a_golden_layer():
    x = LayerInput(torch.tensor([[[1.0, -1.0], [2.0, 0.5], [3.0, 0.0]]]))
    weight = torch.tensor([[[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]]])
    bias, grad = torch.tensor([[1.0, -1.0]]), torch.tensor([[[1.0, 2.0], [0.0, -1.0]]])
    # z = [[-1, 0], [3.5, -0.5]]
    assert linear(x, weight, bias, 0.5).tolist() == [[[-0.5, 0.0], [3.5, -0.25]]]
    weight_grad, bias_grad = linear_weight_grad(x, grad)
    assert weight_grad.tolist() == [[[-1.0, 3.0, 3.0], [1.0, -0.5, 0.0]]]
    assert bias_grad.tolist() == [[3.0, -1.0]]
    assert linear_input_grad(weight, grad).tolist() == [[[1.0, 1.5], [0.0, -2.0], [-1.0, -2.0]]]
    got = linear_input_grad(weight, grad, slice(1, 3), x.stored[:, 1:].contiguous(), 0.5)
    assert got.tolist() == [[[0.0, -2.0], [-1.0, -1.0]]]


@needs_native
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_variants_with_fused_operations_give_the_same_bits(
    shape: tuple[int, int, int, int, int],
):
    assert kernels.NATIVE is not None
    best, found, case = kernels.NATIVE.fastanf_variant(), [], make_case(*shape)
    try:
        for variant in range(min(1, best), best + 1):
            assert kernels.NATIVE.fastanf_set_variant(variant) == variant
            found.append(results(case))
    finally:
        kernels.NATIVE.fastanf_set_variant(best)
    for one in found[1:]:
        assert_equal(one, found[0])


@pytest.mark.parametrize("shape", [*SHAPES, (3, 2, 257, 257, 100)], ids=str)
def test_the_number_of_threads_changes_nothing(variant: int, shape: tuple[int, int, int, int, int]):
    L, C, O, I, B = shape
    case, threads, found = make_case(L, C, O, I, B, I // 2), torch.get_num_threads(), []
    try:
        for count in range(1, 5):
            torch.set_num_threads(count)
            found.append(results(case))
    finally:
        torch.set_num_threads(threads)
    for one in found[1:]:
        assert_equal(one, found[0])


def of_lane(found: list[Tensor], lane: int, num_lanes: int) -> list[Tensor]:
    return [tensor.unflatten(0, (num_lanes, -1))[lane] for tensor in found]


@pytest.mark.parametrize("shape", [(3, *shape[1:]) for shape in SHAPES], ids=str)
def test_a_lane_gives_the_same_bits_alone_and_beside_broken_lanes(
    variant: int, shape: tuple[int, int, int, int, int]
):
    L, C, O, I, B = shape
    case = make_case(L, C, O, I, B, I // 2)
    expected = of_lane(results(case), 1, L)
    assert_equal(of_lane(results(case.lanes(slice(1, 2))), 0, 1), expected)
    broken = Case(LayerInput(case.x.stored.clone(), case.x.noise), *(t.clone() for t in case[1:]))
    for tensor in (broken.x.stored, *broken[1:]):
        for lane in (0, 2):
            tensor.unflatten(0, (L, -1))[lane] = torch.nan
    found = results(broken)
    assert found[0].unflatten(0, (L, -1))[[0, 2]].isnan().all()
    assert_equal(of_lane(found, 1, L), expected)


def test_copies_on_strided_memory_give_the_same_bits(variant: int):
    x, weight, bias, grad, _ = make_case(3, 2, 17, 37, 9)

    def products(weight: Tensor, bias: Tensor, grad: Tensor) -> list[Tensor]:
        input_grad = linear_input_grad(weight, grad, slice(5, 30))
        return [linear(x, weight, bias, 0.01), input_grad, *linear_weight_grad(x, grad)]

    for copy in (0, 1):
        strided = [t[copy::2] for t in (weight, bias, grad)]  # [L, ...] with gaps between lanes
        assert not strided[0].is_contiguous()
        got = products(*strided)
        assert_equal(got, products(*(t.contiguous() for t in strided)))
        assert_equal(got, [t[copy::2] for t in products(weight, bias, grad)])


def test_transposed_tensors_give_the_same_bits(variant: int):
    x, weight, bias, grad, _ = make_case(2, 1, 17, 37, 9)
    turned, turned_grad = weight.mT.contiguous().mT, grad.mT.contiguous().mT
    turned_bias = bias.T.contiguous().T
    assert_equal(
        [linear(x, turned, turned_bias), linear_input_grad(turned, turned_grad),
         *linear_weight_grad(x, turned_grad)],
        [linear(x, weight, bias), linear_input_grad(weight, grad), *linear_weight_grad(x, grad)],
    )  # fmt: skip


def test_strided_activations_give_the_same_bits(variant: int):
    _, weight, _, grad, activated = make_case(2, 1, 17, 37, 9)
    turned = activated.mT.contiguous().mT
    got = linear_input_grad(weight, grad, slice(None), turned, 0.01)
    assert torch.equal(got, linear_input_grad(weight, grad, slice(None), activated, 0.01))


def test_a_range_of_input_gradients_has_the_bits_of_all(variant: int):
    _, weight, _, grad, activated = make_case(2, 2, 257, 171, 37)
    whole = linear_input_grad(weight, grad, slice(None), activated, 0.01)
    for inputs in ranges(171):
        part = activated[:, inputs].contiguous()
        got = linear_input_grad(weight, grad, inputs, part, 0.01)
        assert torch.equal(got, whole[:, inputs])


def test_plain_torch_gives_the_same_bits_for_a_lane_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels, "NATIVE", None)
    for O, I, B in itertools.product((1, 3, 17, 64), (3, 17, 100), (4, 16, 100)):
        case = make_case(3, 1, O, I, B)
        x, weight, bias, _, _ = case
        alone = linear(LayerInput(x.stored[1:2]), weight[1:2], bias[1:2], 0.01)
        assert torch.equal(alone[0], linear(x, weight, bias, 0.01)[1])


def test_stacked_product_starts_from_a_tensor_or_from_zero():
    generator = torch.Generator().manual_seed(0)
    for L, rows in itertools.product((1, 3), (1, 16, 40)):
        a, b = (
            torch.randn(L, *shape, generator=generator, dtype=torch.float64)
            for shape in ((rows, 7), (7, 9))
        )
        start = torch.randn(L, rows, 1, generator=generator, dtype=torch.float64)
        expected = torch.einsum("lik,lkj->lij", a, b)
        torch.testing.assert_close(stacked_product(a, b), expected)
        torch.testing.assert_close(stacked_product(a, b, start), start + expected)


@pytest.mark.parametrize("is_native", [pytest.param(True, marks=needs_native), False])
@pytest.mark.parametrize(
    ("weight", "bias"),
    [((4, 3, 6), (4, 3)), ((3, 3, 5), (3, 3)), ((4, 3, 5), (4, 2)), ((4, 3, 5), (2, 3))],
)
def test_shapes_that_do_not_fit_are_named(
    monkeypatch: pytest.MonkeyPatch, weight: tuple[int, ...], bias: tuple[int, ...], is_native: bool
):
    if not is_native:
        monkeypatch.setattr(kernels, "NATIVE", None)
    x = LayerInput(torch.zeros(2, 5, 9))
    with pytest.raises(
        ValueError, match=r"needs \[G, O, 5\], \[G, O\], G a multiple of 2"
    ) as error:
        linear(x, torch.zeros(weight), torch.zeros(bias))
    assert str([*weight]) in str(error.value) and str([*bias]) in str(error.value)
