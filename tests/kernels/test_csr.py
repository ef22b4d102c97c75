"""Layers of active connections only: where these are, float64 parity, the dense layer's bits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fastanf import kernels
from fastanf.kernels.csr import (
    Connections,
    block_size_for,
    csr_input_grad,
    csr_input_grad_ref,
    csr_linear,
    csr_linear_ref,
    csr_weight_grad,
    csr_weight_grad_ref,
)
from fastanf.kernels.layer_input import LayerInput, Noise
from fastanf.kernels.linear import linear, through_activation_ref
from fastanf.kernels.native import VARIANTS

# Of the largest magnitude: float32 sums of up to 700 products of order one, in any order.
TOLERANCE = 3e-6
SLOPES = (0.0, 0.01, 1.0)
# L, C, O, I, B, density: each size odd and in every place, several blocks of inputs and of outputs,
# more columns than the kernels take at a time, nothing active and everything.
SHAPES = [
    (1, 1, 1, 1, 1, 1.0),
    (3, 2, 3, 5, 1, 0.5),
    (2, 1, 5, 171, 3, 0.2),
    (2, 2, 171, 3, 5, 0.2),
    (3, 1, 17, 257, 100, 0.05),
    (1, 2, 257, 171, 5, 0.2),
    (1, 1, 171, 257, 171, 0.05),
    (2, 2, 5, 171, 257, 0.3),
    (2, 1, 257, 1, 257, 0.5),
    (2, 1, 1, 257, 171, 0.05),
    (3, 2, 3, 5, 257, 0.5),
    (2, 2, 12, 700, 9, 0.05),
    (2, 1, 12, 700, 9, 0.2),
    (2, 1, 5, 7, 9, 0.0),
    (2, 1, 5, 171, 9, 1.0),
]
Shape = tuple[int, int, int, int, int, float]

needs_native = pytest.mark.skipif(kernels.NATIVE is None, reason="kernels are not compiled")


def make_mask(G: int, O: int, I: int, density: float, seed: int = 0) -> Tensor:
    """[G, O, I] connections, their number differing from matrix to matrix, some rows empty."""
    generator = torch.Generator().manual_seed(seed + G + 3 * O + 5 * I)
    mask = torch.rand(G, O, I, generator=generator) < density
    if density < 1 and O > 2:
        mask[:, 1] = False
        mask[-1, -1] = False
    return mask


class Case(NamedTuple):
    """A layer, what enters it, and the gradient behind it."""

    x: LayerInput
    mask: Tensor
    weight: Tensor
    bias: Tensor
    grad: Tensor
    """[G, O, B]."""
    activated: Tensor
    """[G, I, B], as if an activation had made each copy's input."""

    def wide(self) -> Case:
        """The same in float64."""
        wide = (tensor.double() for tensor in self[2:])
        return Case(LayerInput(self.x.written_out.double()), self.mask, *wide)

    def lanes(self, lanes: slice) -> Case:
        """Some of the lanes."""
        L = self.x.num_lanes
        noise = self.x.noise
        if noise is not None:
            key, row, std = noise.key[lanes], noise.row[lanes], noise.std[lanes]
            noise = Noise(key, row, noise.stream, noise.num, std, noise.quantiles)
        x = LayerInput(self.x.stored[lanes], noise)
        return Case(x, *(t.unflatten(0, (L, -1))[lanes].flatten(0, 1) for t in self[1:]))


def make_case(L: int, C: int, O: int, I: int, B: int, density: float, num_noise: int = 0) -> Case:
    generator = torch.Generator().manual_seed(L + 2 * C + 3 * O + 5 * I + 7 * B)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    noise, G = None, L * C
    if num_noise:
        key, row = torch.arange(L) + 3, torch.arange(L * B).view(L, B)
        noise = Noise(key, row, 4, num_noise, torch.linspace(0.5, 2.0, L))
    x, mask = LayerInput(randn(L, I - num_noise, B), noise), make_mask(G, O, I, density)
    activated = randn(G, I, B)
    activated[randn(G, I, B) < -0.5] = 0.0
    return Case(x, mask, randn(G, O, I) * mask, randn(G, O), randn(G, O, B), activated)


def ranges(I: int) -> list[slice]:
    """All inputs, the last ones (actions), the first, some in between, one."""
    return [
        slice(None), slice(-(I // 3) - 1, None), slice(0, (I + 1) // 2), slice(I // 4, I),
        slice(I // 2, I // 2 + 1),
    ]  # fmt: skip


def results(case: Case, is_reference: bool = False, num_stored: int | None = None) -> list[Tensor]:
    """All that the three operations give for a case; the gradient of values at the end, dense."""
    x, mask, weight, bias, grad, activated = case
    at = Connections.of_mask(mask, num_stored)
    value = at.from_dense(weight)
    forward, weight_grad, input_grad = csr_linear, csr_weight_grad, csr_input_grad
    if is_reference:
        forward, weight_grad, input_grad = csr_linear_ref, csr_weight_grad_ref, csr_input_grad_ref
    found = [forward(x, value, at, bias, slope) for slope in SLOPES]
    for inputs, slope in itertools.product(ranges(weight.shape[2]), SLOPES):
        found.append(input_grad(value, at, grad, inputs))
        part = activated[:, inputs].contiguous()
        found.append(input_grad(value, at, grad, inputs, part, slope))
    value_grad, bias_grad = weight_grad(x, grad, at)
    assert value_grad.shape == value.shape
    assert (value_grad[at.place == mask[0].numel()] == 0).all()
    return [*found, bias_grad, at.to_dense(value_grad)]


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


# Where connections are.

MASKS = [(1, 1, 1, 1.0), (3, 3, 5, 0.5), (2, 5, 171, 0.2), (2, 171, 257, 0.05), (3, 257, 5, 0.3)]
MASKS += [(2, 5, 257, 0.95), (2, 3, 7, 0.0), (1, 1, 700, 0.05)]


def segments(at: Connections, g: int) -> list[tuple[int, int, int]]:
    """(block, output, input) of the values of matrix g, read off `start` and `column`."""
    found = []
    for segment, (first, last) in enumerate(itertools.pairwise(at.start[g].tolist())):
        block, output = divmod(segment, at.num_outputs)
        found += [(block, output, i) for i in at.column[g, first:last].tolist()]
    return found


@pytest.mark.parametrize(("G", "O", "I", "density"), MASKS)
@pytest.mark.parametrize("num_spare", [0, 3])
def test_values_are_in_the_order_block_output_input(
    G: int, O: int, I: int, density: float, num_spare: int
):
    mask = make_mask(G, O, I, density)
    counts = mask.flatten(1).sum(1)
    at = Connections.of_mask(mask, int(counts.max()) + num_spare if num_spare else None)
    assert (at.num_matrices, at.num_outputs, at.num_inputs) == (G, O, I)
    assert at.num_stored == int(counts.max()) + num_spare and torch.equal(at.counts, counts)
    assert at.start.dtype == at.column.dtype == torch.int32
    assert at.start.shape == (G, at.num_blocks * O + 1)
    assert at.block_size == block_size_for(at.num_stored / (O * I), I)
    for turned in (at, at.transposed[0]):
        for g in range(G):
            found, count = segments(turned, g), int(counts[g])
            assert found == sorted(found) and len(set(found)) == count
            assert all(i // turned.block_size == block for block, _, i in found)
            assert turned.output[g, :count].tolist() == [o for _, o, _ in found]
    expected = [tuple(place) for place in mask[0].nonzero().tolist()]
    assert sorted((o, i) for _, o, i in segments(at, 0)) == expected
    expected = sorted((i, o) for o, i in expected)
    assert sorted((i, o) for _, i, o in segments(at.transposed[0], 0)) == expected


@pytest.mark.parametrize(("G", "O", "I", "density"), MASKS)
def test_a_mask_and_dense_values_survive_the_round_trip(G: int, O: int, I: int, density: float):
    mask = make_mask(G, O, I, density)
    at = Connections.of_mask(mask)
    assert torch.equal(at.mask(), mask)
    dense = torch.randn(G, O, I, generator=torch.Generator().manual_seed(1))
    value = at.from_dense(dense)
    assert value.shape == (G, at.num_stored)
    assert torch.equal(at.to_dense(value), torch.where(mask, dense, 0.0))
    assert torch.equal(at.from_dense(at.to_dense(value)), value)
    assert at.is_ragged == bool((at.counts != at.counts.max()).any())
    for g in range(G):
        found = [float(dense[g, o, i]) for _, o, i in segments(at, g)]
        assert value[g].tolist() == found + [0.0] * (at.num_stored - len(found))


def test_ragged_connections_are_ragged_and_the_others_are_not():
    mask = torch.zeros(3, 2, 4, dtype=torch.bool)
    mask[:, 0, :2] = True
    assert not Connections.of_mask(mask).is_ragged and Connections.of_mask(mask, 3).is_ragged
    mask[1] = False
    at = Connections.of_mask(mask)
    assert at.is_ragged and at.counts.tolist() == [2, 0, 2]
    assert at.place.tolist() == [[0, 1], [8, 8], [0, 1]]


@pytest.mark.parametrize(("G", "O", "I", "density"), MASKS)
def test_values_that_belong_to_no_connection_are_not_read(G: int, O: int, I: int, density: float):
    mask = make_mask(G, O, I, density)
    at = Connections.of_mask(mask, int(mask.flatten(1).sum(1).max()) + 2)
    value = at.from_dense(torch.randn(G, O, I))
    spoiled = torch.where(at.place == O * I, torch.nan, value)
    assert spoiled.isnan().any()
    assert torch.equal(at.to_dense(spoiled), at.to_dense(value))
    x, bias, grad = LayerInput(torch.randn(G, I, 9)), torch.randn(G, O), torch.randn(G, O, 9)
    got = csr_linear(x, spoiled, at, bias), csr_input_grad(spoiled, at, grad)
    assert_equal([*got], [csr_linear(x, value, at, bias), csr_input_grad(value, at, grad)])


@pytest.mark.parametrize(("G", "O", "I", "density"), MASKS)
def test_transposed_connections_hold_the_transposed_matrix(G: int, O: int, I: int, density: float):
    for num_spare in (0, 2):
        mask = make_mask(G, O, I, density)
        at = Connections.of_mask(mask, int(mask.flatten(1).sum(1).max()) + num_spare)
        dense = torch.randn(G, O, I) * mask
        turned, source = at.transposed
        value = at.from_dense(dense).gather(1, source.long())
        assert (turned.num_outputs, turned.num_inputs) == (I, O)
        assert turned.start.dtype == turned.column.dtype == source.dtype == torch.int32
        assert torch.equal(turned.to_dense(value), dense.transpose(1, 2))
        assert torch.equal(turned.mask(), mask.transpose(1, 2))


def picked_copies(tensor: Tensor, num_lanes: int, copy: slice) -> Tensor:
    """[L * 2, ...] -> [L, ...]"""
    return tensor.unflatten(0, (num_lanes, 2))[:, copy].flatten(0, 1)


@pytest.mark.parametrize("copy", [slice(0, 1), slice(1, 2), slice(-1, None)])
def test_picked_copies_are_the_connections_of_these_copies(copy: slice):
    # Plain torch rounds rows the same way alone and among others where B is a multiple of 4.
    case = make_case(3, 2, 17, 257, 12, 0.2)
    at = Connections.of_mask(case.mask)
    value = at.from_dense(case.weight)
    picked = at.pick(copy, 2)
    mask, value_of, bias, grad = (
        picked_copies(tensor, 3, copy) for tensor in (case.mask, value, case.bias, case.grad)
    )
    assert picked.num_matrices == 3 and torch.equal(picked.mask(), mask)
    for name in ("start", "column"):
        memory = getattr(at, name).untyped_storage().data_ptr()
        assert getattr(picked, name).untyped_storage().data_ptr() == memory
    turned, source = picked.transposed
    turned_value = value_of.gather(1, source.long())
    assert torch.equal(turned.to_dense(turned_value), picked.to_dense(value_of).transpose(1, 2))
    expected = [
        csr_linear(case.x, value, at, case.bias, 0.01),
        csr_input_grad(value, at, case.grad, slice(200, None)),
    ]
    # Values may lie with gaps, as the copies of a layer do, or without.
    for given in (value_of, value_of.contiguous()):
        got = [
            csr_linear(case.x, given, picked, bias, 0.01),
            csr_input_grad(given, picked, grad, slice(200, None)),
        ]
        assert_equal(got, [picked_copies(tensor, 3, copy) for tensor in expected])


@pytest.mark.parametrize("L", [1, 3])
@pytest.mark.parametrize("copy", [slice(0, 1), slice(1, 2)])
def test_picked_copies_have_the_gradients_of_these_copies(copy: slice, L: int):
    case = make_case(L, 2, 17, 257, 9, 0.2)
    at = Connections.of_mask(case.mask)
    expected = [picked_copies(t, L, copy) for t in csr_weight_grad(case.x, case.grad, at)]
    grad = picked_copies(case.grad, L, copy)
    assert_equal([*csr_weight_grad(case.x, grad, at.pick(copy, 2))], expected)


def test_all_copies_are_the_connections_themselves():
    at = Connections.of_mask(make_mask(4, 3, 5, 0.5))
    assert at.pick(slice(None), 2) is at and at.pick(slice(0, 2), 2) is at


def moved_mask(mask: Tensor) -> Tensor:
    """Other connections, as many in each matrix."""
    return mask.flatten(1).flip(1).view_as(mask)


def test_moved_connections_are_those_of_the_other_on_the_same_memory():
    case = make_case(2, 2, 17, 257, 9, 0.2)
    at = Connections.of_mask(case.mask)
    value = at.from_dense(case.weight)
    before = csr_linear(case.x, value, at, case.bias), csr_input_grad(value, at, case.grad)
    memory = at.start.data_ptr(), at.column.data_ptr()
    assert torch.equal(at.mask(), case.mask) and at.transposed
    mask = moved_mask(case.mask)
    fresh = Connections.of_mask(mask)
    at.move_to_(fresh)
    assert (at.start.data_ptr(), at.column.data_ptr()) == memory
    assert not torch.equal(mask, case.mask) and torch.equal(at.mask(), mask)
    for name in ("start", "column", "counts", "output", "place"):
        assert torch.equal(getattr(at, name), getattr(fresh, name))
    assert torch.equal(at.transposed[0].mask(), mask.transpose(1, 2))
    after = csr_linear(case.x, value, at, case.bias), csr_input_grad(value, at, case.grad)
    expected = (
        csr_linear(case.x, value, fresh, case.bias), csr_input_grad(value, fresh, case.grad),
    )  # fmt: skip
    assert_equal([*after], [*expected])
    assert not torch.equal(after[0], before[0]) and not torch.equal(after[1], before[1])


def test_connections_do_not_move_to_other_counts():
    mask = torch.zeros(2, 3, 5, dtype=torch.bool)
    mask[0, 0], mask[1, 2, :3] = True, True
    at, one_more = Connections.of_mask(mask), mask.clone()
    one_more[1, 0, 0] = True
    for other in (one_more, mask.flip(0)):
        assert not torch.equal(other.flatten(1).sum(1), at.counts)
        with pytest.raises(ValueError, match="cannot take the place"):
            at.move_to_(Connections.of_mask(other))
        with pytest.raises(ValueError, match="cannot take the place"):
            at.move_to_(Connections.of_mask(other, 20))
    assert torch.equal(at.mask(), mask)


@pytest.mark.parametrize(("O", "I"), [(3, 9), (4, 5)])
def test_connections_do_not_move_to_matrices_of_another_size(O: int, I: int):
    mask, other = torch.zeros(2, 3, 5, dtype=torch.bool), torch.zeros(2, O, I, dtype=torch.bool)
    mask[:, 0, :2] = other[:, -1, -2:] = True
    at = Connections.of_mask(mask)
    with pytest.raises(ValueError, match="cannot take the place"):
        at.move_to_(Connections.of_mask(other))


# What the operations compute.


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_compiled_operations_agree_with_the_float64_reference(variant: int, shape: Shape):
    case = make_case(*shape)
    expected = results(case.wide(), is_reference=True)
    assert_near(results(case), expected)
    num_stored = int(case.mask.flatten(1).sum(1).max()) + 5
    assert_equal(results(case, num_stored=num_stored), results(case))


@pytest.mark.parametrize("num_noise", [1, 6, 160])
def test_inputs_with_noise_agree_with_the_float64_reference(variant: int, num_noise: int):
    for C, O in ((1, 3), (2, 12)):
        case = make_case(2, C, O, num_noise + 11, 37, 0.3, num_noise)
        assert_near(results(case), results(case.wide(), is_reference=True))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_plain_torch_agrees_with_the_float64_reference(
    monkeypatch: pytest.MonkeyPatch, shape: Shape
):
    monkeypatch.setattr(kernels, "NATIVE", None)
    case = make_case(*shape)
    assert_near(results(case), results(case.wide(), is_reference=True))
    assert_equal(results(case), results(case, is_reference=True))


def test_float64_tensors_are_computed_in_float64():
    case = make_case(2, 2, 5, 7, 9, 0.5).wide()
    assert_equal(results(case), results(case, is_reference=True))


class _ReferenceLayer(torch.autograd.Function):
    """act(b + W x) of active connections with the gradients of the reference."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, value: Tensor, bias: Tensor, at: Connections, slope: float
    ) -> Tensor:
        out = csr_linear_ref(LayerInput(x), value, at, bias, slope)
        ctx.save_for_backward(x, value, out)
        ctx.at, ctx.slope = at, slope
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, value, out = ctx.saved_tensors
        grad = through_activation_ref(grads[0], out, ctx.slope)
        input_grad = csr_input_grad_ref(value, ctx.at, grad).unflatten(0, (x.shape[0], -1)).sum(1)
        return input_grad, *csr_weight_grad_ref(LayerInput(x), grad, ctx.at), None, None


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("C", [1, 2])
def test_gradients_of_the_reference_are_the_derivatives(C: int, slope: float):
    generator = torch.Generator().manual_seed(C)
    at = Connections.of_mask(make_mask(2 * C, 3, 5, 0.6))
    shapes = [(2, 5, 4), (2 * C, at.num_stored), (2 * C, 3)]
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    for tensor in tensors:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda *t: _ReferenceLayer.apply(*t, at, slope), tensors)


def test_to_dense_and_from_dense_have_derivatives():
    at = Connections.of_mask(make_mask(2, 3, 5, 0.6))
    value = torch.randn(2, at.num_stored, dtype=torch.float64, requires_grad=True)
    dense = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(at.to_dense, [value])
    assert torch.autograd.gradcheck(at.from_dense, [dense])


def test_a_golden_layer():
    mask = torch.tensor([[[True, False, True], [False, False, False], [False, True, False]]])
    at = Connections.of_mask(mask)
    assert at.column.tolist() == [[0, 2, 1]] and at.start.tolist() == [[0, 2, 2, 3]]
    x = LayerInput(torch.tensor([[[1.0, -1.0], [2.0, 0.5], [3.0, 0.0]]]))
    value, bias = torch.tensor([[1.0, -1.0, 2.0]]), torch.tensor([[1.0, -1.0, 0.0]])
    grad = torch.tensor([[[1.0, 2.0], [0.0, -1.0], [2.0, 0.0]]])
    got = csr_linear(x, value, at, bias, 0.5)
    assert got.tolist() == [[[-0.5, 0.0], [-0.5, -0.5], [4.0, 1.0]]]
    value_grad, bias_grad = csr_weight_grad(x, grad, at)
    assert value_grad.tolist() == [[-1.0, 3.0, 4.0]] and bias_grad.tolist() == [[3.0, -1.0, 2.0]]
    assert csr_input_grad(value, at, grad).tolist() == [[[1.0, 2.0], [4.0, 0.0], [-1.0, -2.0]]]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_have_the_bits_of_the_dense_layer(variant: int, shape: Shape):
    for num_noise in (0, shape[3] // 2):
        case = make_case(*shape, num_noise)
        at = Connections.of_mask(case.mask)
        value = at.from_dense(case.weight)
        for slope in SLOPES:
            got = csr_linear(case.x, value, at, case.bias, slope)
            assert torch.equal(got, linear(case.x, case.weight, case.bias, slope))


@needs_native
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_variants_with_fused_operations_give_the_same_bits(shape: Shape):
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


@pytest.mark.parametrize("shape", [*SHAPES, (3, 2, 257, 257, 100, 0.2)], ids=str)
def test_the_number_of_threads_changes_nothing(variant: int, shape: Shape):
    case, threads, found = make_case(*shape, shape[3] // 2), torch.get_num_threads(), []
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
def test_a_lane_gives_the_same_bits_alone_and_beside_broken_lanes(variant: int, shape: Shape):
    case, L = make_case(*shape, shape[3] // 2), 3
    # A lane alone may choose other blocks, where it has fewer connections than its neighbours.
    num_stored = int(case.mask.flatten(1).sum(1).max())
    expected = of_lane(results(case), 1, L)
    for stored in (num_stored, None):
        assert_equal(of_lane(results(case.lanes(slice(1, 2)), False, stored), 0, 1), expected)
    x = LayerInput(case.x.stored.clone(), case.x.noise)
    broken = Case(x, case.mask, *(tensor.clone() for tensor in case[2:]))
    for tensor in (broken.x.stored, *broken[2:]):
        for lane in (0, 2):
            tensor.unflatten(0, (L, -1))[lane] = torch.nan
    found = results(broken)
    assert found[0].unflatten(0, (L, -1))[[0, 2]].isnan().all()
    assert_equal(of_lane(found, 1, L), expected)


def test_a_range_of_input_gradients_has_the_bits_of_all(variant: int):
    case = make_case(2, 2, 257, 171, 37, 0.2)
    at = Connections.of_mask(case.mask)
    value = at.from_dense(case.weight)
    whole = csr_input_grad(value, at, case.grad, slice(None), case.activated, 0.01)
    for inputs in ranges(171):
        part = case.activated[:, inputs].contiguous()
        got = csr_input_grad(value, at, case.grad, inputs, part, 0.01)
        assert torch.equal(got, whole[:, inputs])


def test_strided_gradients_and_values_give_the_same_bits(variant: int):
    case = make_case(2, 1, 17, 37, 9, 0.3)
    at = Connections.of_mask(case.mask)
    value, grad = at.from_dense(case.weight), case.grad
    turned, turned_grad = value.T.contiguous().T, grad.mT.contiguous().mT
    got = [
        csr_linear(case.x, turned, at, case.bias), csr_input_grad(turned, at, turned_grad),
        *csr_weight_grad(case.x, turned_grad, at),
    ]  # fmt: skip
    expected = [
        csr_linear(case.x, value, at, case.bias), csr_input_grad(value, at, grad),
        *csr_weight_grad(case.x, grad, at),
    ]  # fmt: skip
    assert_equal(got, expected)


def test_strided_biases_give_the_same_bits(variant: int):
    case = make_case(2, 1, 17, 37, 9, 0.3)
    at = Connections.of_mask(case.mask)
    value, turned = at.from_dense(case.weight), case.bias.T.contiguous().T
    got = csr_linear(case.x, value, at, turned)
    assert torch.equal(got, csr_linear(case.x, value, at, case.bias))


def test_strided_activations_give_the_same_bits(variant: int):
    case = make_case(2, 1, 17, 37, 9, 0.3)
    at = Connections.of_mask(case.mask)
    value, turned = at.from_dense(case.weight), case.activated.mT.contiguous().mT
    got = csr_input_grad(value, at, case.grad, slice(None), turned, 0.01)
    expected = csr_input_grad(value, at, case.grad, slice(None), case.activated, 0.01)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("is_native", [pytest.param(True, marks=needs_native), False])
@pytest.mark.parametrize("wrong", ["lanes", "inputs", "value", "bias"])
def test_shapes_that_do_not_fit_are_named(
    monkeypatch: pytest.MonkeyPatch, wrong: str, is_native: bool
):
    if not is_native:
        monkeypatch.setattr(kernels, "NATIVE", None)
    at = Connections.of_mask(torch.ones(4, 3, 5, dtype=torch.bool))
    shapes = {"x": (2, 5, 9), "value": (4, 15), "bias": (4, 3)}
    shapes |= {
        "lanes": {"x": (3, 5, 9)}, "inputs": {"x": (2, 6, 9)}, "value": {"value": (4, 14)},
        "bias": {"bias": (2, 3)},
    }[wrong]  # fmt: skip
    x, value, bias = (torch.zeros(shapes[name]) for name in ("x", "value", "bias"))
    needed = r"4 matrices of 3 x 5 need \[4, 15\], \[4, 3\] and \[L, 5, B\], L a divisor of 4"
    with pytest.raises(ValueError, match=needed) as error:
        csr_linear(LayerInput(x), value, at, bias)
    assert all(str([*shape]) in str(error.value) for shape in shapes.values())
