"""Activations at hand-computed points, their gradients, parameters and refusals."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fastanf.activations import ACTIVATIONS, Activation, make_activation

LEARNABLE = ("lex", "srelu")
# One rounding or two of a double.
TOL_VALUE = 1e-15

E1 = math.e
HAND_COMPUTED = [
    ("relu", (), 0, {-2.0: 0.0, 0.0: 0.0, 3.0: 3.0}),
    ("tanh", (), 0, {0.5: math.tanh(0.5), -0.5: -math.tanh(0.5)}),
    ("sigmoid", (), 0, {0.0: 0.5, math.log(3.0): 0.75}),
    ("elu", (), 0, {2.0: 2.0, -1.0: 1 / E1 - 1}),
    ("elu", (0.5,), 0, {2.0: 2.0, -1.0: 0.5 * (1 / E1 - 1)}),
    ("leakyrelu", (), 0, {2.0: 2.0, -3.0: -0.03}),
    ("leakyrelu", (0.2,), 1, {2.0: 2.0, -3.0: -0.6}),
    ("swish", (), 0, {0.0: 0.0, math.log(3.0): 0.75 * math.log(3.0)}),
    ("selu", (), 0, {1.0: 1.0507009873554805, -1.0: 1.7580993408473766 * (1 / E1 - 1)}),
    ("symsqrt", (), 0, {4.0: 2.0, -9.0: -3.0, 0.25: 0.5, 0.0: 0.0}),
    ("symsqrt1", (), 0, {4.0: 2.0, -9.0: -3.0, 0.25: 0.25, -1.0: -1.0, 0.0: 0.0}),
    ("nonlex", (), 0, {3.0: 3.0, -9.0: -3.0, 0.0: 0.0}),
    ("nonlex", (2.0, 3.0, 0.5, 2.0), 0, {2.0: 16.0, -3.0: -4.5}),
    ("fixedsrelu", (), 0, {0.3: 0.3, 1.4: 0.6, -0.9: -0.5}),
    ("fixedsrelu", (1.0, 0.5, -2.0, 0.25), 0, {3.0: 2.0, -4.0: -2.5, -2.0: -2.0}),
    ("allrelu", (), 0, {2.0: 2.0, -1.0: 0.6}),
    ("allrelu", (), 1, {2.0: 2.0, -1.0: -0.6}),
    ("allrelu", (0.25,), 2, {-4.0: 1.0}),
    ("lex", (), 0, {3.0: 3.0, -9.0: -3.0, 0.0: 0.0}),
    ("srelu", (), 0, {0.3: 0.3, 1.4: 0.6, -0.9: -0.5}),
]


def parameters_of(activation, leading, num_neurons):
    return {
        name: value.double().requires_grad_(True)
        for name, value in activation.initial_parameters(leading, num_neurons).items()
    }


@pytest.mark.parametrize(("name", "args", "layer_index", "points"), HAND_COMPUTED)
def test_values_at_hand_computed_points(name, args, layer_index, points):
    activation = make_activation(name, args)
    h = torch.tensor(list(points), dtype=torch.float64).view(1, -1, 1)
    # Parameters are stored in float32; in double the values typed are wanted.
    names = activation.initial_parameters((1,), 1)
    values = zip(names, activation.args, strict=False)
    parameters = {key: torch.full((1, 1, 1), value, dtype=torch.float64) for key, value in values}
    out = activation(h, layer_index, **parameters)
    assert out.flatten().tolist() == pytest.approx(list(points.values()), rel=4e-15, abs=TOL_VALUE)


def test_all_published_activations_are_there():
    assert len(ACTIVATIONS) == 14
    assert {case[0] for case in HAND_COMPUTED} == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("layer_index", [0, 1])
@pytest.mark.parametrize("leading", [(2,), (2, 2)])
def test_gradients_match_finite_differences(name, layer_index, leading):
    generator = torch.Generator().manual_seed(0)
    activation = make_activation(name, per_neuron=name in LEARNABLE)
    parameters = parameters_of(activation, leading, 3)
    # Between the kinks (0, +-0.4, +-1): finite differences across one are wrong.
    centres = torch.tensor([-2.0, -0.7, -0.2, 0.2, 0.7, 2.0], dtype=torch.float64)
    jitter = 0.05 * torch.rand(*leading, 3, 6, generator=generator, dtype=torch.float64)
    h = (centres + jitter).requires_grad_(True)
    names = list(parameters)

    def apply(h, *values):
        return activation(h, layer_index, **dict(zip(names, values, strict=True)))

    assert torch.autograd.gradcheck(apply, (h, *parameters.values()))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_are_finite_at_zero_and_far_out(name):
    activation = make_activation(name)
    parameters = parameters_of(activation, (1,), 1)
    h = torch.tensor([[[0.0, -0.0, 1e6, -1e6]]], dtype=torch.float64, requires_grad=True)
    activation(h, 0, **parameters).sum().backward()
    for tensor in (h, *parameters.values()):
        assert tensor.grad is not None and tensor.grad.isfinite().all()


@pytest.mark.parametrize("name", ["symsqrt", "lex"])
def test_roots_have_gradient_zero_at_zero(name):
    activation = make_activation(name)
    h = torch.zeros(1, 1, 1, dtype=torch.float64, requires_grad=True)
    activation(h, 0, **parameters_of(activation, (1,), 1)).sum().backward()
    assert h.grad is not None and float(h.grad) == 0.0


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_nan_stays_a_nan_and_stays_in_its_lane(name):
    activation = make_activation(name)
    parameters = activation.initial_parameters((2,), 3)
    h = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    clean = activation(h, 0, **parameters)
    h[1] = float("nan")
    out = activation(h, 0, **parameters)
    assert torch.equal(out[0], clean[0])
    assert out[1].isnan().all()


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.int32)


def forward_and_backward(
    activation: Activation, h: Tensor, parameters: dict[str, Tensor], weight: Tensor
) -> list[Tensor]:
    """The output, and the gradients of sum(weight * output) for h and each parameter."""
    leaves = [tensor.clone().requires_grad_() for tensor in (h, *parameters.values())]
    out = activation(leaves[0], 0, **dict(zip(parameters, leaves[1:], strict=True)))
    return [out.detach(), *torch.autograd.grad(out, leaves, weight)]


SPECIAL = [0.0, -0.0, 0.4, -0.4, 1.0, -1.0, 1e-30, -1e-30, 1e-42, 17.0, -17.0, 90.0, -90.0, 1e6]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_bits_do_not_depend_on_position(name: str) -> None:
    """The scalar code at the end of a tensor and the vector code before it round alike."""
    generator = torch.Generator().manual_seed(3)
    scales = torch.tensor([0.01, 1.0, 10.0]).repeat(120)
    h = torch.cat([torch.tensor(SPECIAL), scales * torch.randn(360, generator=generator)])
    weight = torch.randn(h.shape, generator=generator)
    args = (1.5, 0.7, 0.5, 1.3) if name in ("lex", "nonlex") else ()
    activation = make_activation(name, args, per_neuron=name in LEARNABLE)
    parameters = activation.initial_parameters((1,), h.numel())

    def part(start: int, stop: int) -> list[Tensor]:
        rows = {key: value[:, start:stop] for key, value in parameters.items()}
        column = (1, stop - start, 1)
        given, shared = h[start:stop].view(column), weight[start:stop].view(column)
        return forward_and_backward(activation, given, rows, shared)

    whole = part(0, h.numel())
    for size in (1, 7, 33):
        parts = [part(k, min(k + size, h.numel())) for k in range(0, h.numel(), size)]
        for expected, pieces in zip(whole, zip(*parts, strict=True), strict=True):
            assert torch.equal(bits(torch.cat(pieces, 1)), bits(expected)), size


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def assert_lanes_are_alike_alone(name: str, shape: tuple[int, ...], per_neuron: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    activation = make_activation(name, per_neuron=per_neuron)
    h, weight = 3 * torch.randn(2, *shape, generator=generator)
    parameters = activation.initial_parameters(shape[:-2], shape[-2])
    parameters = {  # every lane has its own
        key: value * (1 + 0.1 * torch.rand(value.shape, generator=generator))
        for key, value in parameters.items()
    }
    together = forward_and_backward(activation, h, parameters, weight)
    for lane in range(shape[0]):
        one = slice(lane, lane + 1)
        own = {key: value[one] for key, value in parameters.items()}
        alone = forward_and_backward(activation, h[one], own, weight[one])
        for expected, found in zip(together, alone, strict=True):
            assert torch.equal(bits(expected[one]), bits(found)), (lane, shape)


@pytest.mark.parametrize(
    ("name", "per_neuron"),
    [*((name, False) for name in ACTIVATIONS), *((name, True) for name in LEARNABLE)],
)
def test_a_lane_has_the_same_bits_alone_and_among_others(name: str, per_neuron: bool) -> None:
    for shape in [(3, 1, 1), (2, 5, 3), (5, 7, 13), (3, 257, 17), (4, 1, 101), (3, 2, 5, 7)]:
        assert_lanes_are_alike_alone(name, shape, per_neuron)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("name", ["sigmoid", "srelu", "lex"])
@pytest.mark.parametrize("shape", [(2, 171, 257), (8, 256, 100)])
def test_a_lane_has_the_same_bits_alone_and_among_others_on_two_threads(
    name: str, shape: tuple[int, ...]
) -> None:
    """Sizes above and below 32768 elements, from which on torch shares work between threads."""
    for per_neuron in {False, name in LEARNABLE}:
        assert_lanes_are_alike_alone(name, shape, per_neuron)


@pytest.mark.parametrize("name", LEARNABLE)
@pytest.mark.parametrize("leading", [(3,), (3, 2)])
@pytest.mark.parametrize("num_neurons", [1, 3, 257])
def test_parameters_are_per_layer_or_per_neuron(name, leading, num_neurons):
    h = torch.randn(*leading, num_neurons, 5)
    for per_neuron, rows in ((False, 1), (True, num_neurons)):
        activation = make_activation(name, per_neuron=per_neuron)
        parameters = activation.initial_parameters(leading, num_neurons)
        assert len(parameters) == 4
        for value, parameter in zip(activation.args, parameters.values(), strict=True):
            assert parameter.shape == (*leading, rows, 1) and parameter.dtype == torch.float32
            assert torch.equal(parameter, torch.full_like(parameter, value))
        assert activation(h, 0, **parameters).shape == h.shape


@pytest.mark.parametrize(("name", "fixed"), [("lex", "nonlex"), ("srelu", "fixedsrelu")])
def test_learnable_activations_start_as_their_fixed_forms(name, fixed):
    h = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(2))
    args = (0.5, 0.75, -0.25, 2.0) if name == "srelu" else (0.5, 0.75, 0.25, 2.0)
    activation = make_activation(name, args)
    learned = activation(h, 0, **activation.initial_parameters((2,), 5))
    # A power by a tensor and by a number take different routes in float32.
    torch.testing.assert_close(learned, make_activation(fixed, args)(h), rtol=1e-6, atol=1e-7)


def test_each_neuron_follows_its_own_parameters():
    activation = make_activation("srelu", per_neuron=True)
    parameters = activation.initial_parameters((1,), 2)
    parameters["slope_right"][0, 1] = 0.0
    out = activation(torch.full((1, 2, 1), 1.4), 0, **parameters)
    # float32 rounding of 0.4 + 0.2 * 1.0.
    assert out.flatten().tolist() == pytest.approx([0.6, 0.4], rel=1e-6)


def test_an_override_of_per_neuron_shapes_the_parameters():
    parameters = make_activation("lex").initial_parameters((2,), 5, per_neuron=True)
    assert parameters["exponent_left"].shape == (2, 5, 1)


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - set(LEARNABLE)))
def test_fixed_activations_have_no_parameters(name):
    activation = make_activation(name)
    assert not activation.is_learnable
    assert activation.initial_parameters((2,), 5) == {}


def test_unknown_names_get_the_nearest():
    with pytest.raises(ValueError, match=r"activation='leaky_relu' .*nearest: leakyrelu"):
        make_activation("leaky_relu")


@pytest.mark.parametrize(
    ("name", "args"),
    [("relu", (0.1,)), ("elu", (1.0, 2.0)), ("srelu", (0.4,)), ("lex", (1.0,) * 5)],
)
def test_a_wrong_number_of_arguments_is_refused(name, args):
    with pytest.raises(ValueError, match=f"act_func_args=.*{name} takes none"):
        make_activation(name, args)


def test_per_neuron_is_refused_where_nothing_is_learned():
    with pytest.raises(ValueError, match="act_func_per_neuron=True"):
        make_activation("relu", per_neuron=True)
