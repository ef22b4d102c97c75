"""Stacked networks: their start, their policies and values, and what a frozen one lets through."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, distributions

from fastanf.activations import make_activation
from fastanf.kernels.layer_input import LayerInput, Noise
from fastanf.nets import (
    LOG_STD_RANGE,
    NUM_CRITICS,
    ActionRange,
    GaussianActor,
    StackedMLP,
    TanhActor,
    TwinCritic,
    build_mlp,
)
from fastanf.rng import LaneRng, Stream
from fastanf.sparse.layers import CSR, MASKED, CsrLinear, MaskedLinear

SEEDS = [3, 4, 9]
L, F, A, H = 3, 7, 2, (13, 9)
RELU = make_activation("relu")
LOW, HIGH = (-2.0, -0.5), (1.0, 3.0)
TOLERANCE: dict[str, Any] = {
    "rtol": 1e-5,
    "atol": 1e-5,
}  # sums of a dozen products, in another order

both_layouts = pytest.mark.parametrize("layout", [MASKED, CSR])


def build(
    num_outputs: int,
    num_inputs: int = F,
    num_copies: int = 1,
    counts: tuple[int, ...] | None = None,
    seeds: list[int] = SEEDS,
    activation=RELU,
    initialisation: str = "xavier",
    hidden: tuple[int, ...] = H,
    layout: str = MASKED,
) -> StackedMLP:
    """Layers are dense, but for the first where `counts` says how many connections it has."""
    sizes = (num_inputs, *hidden, num_outputs)
    dense = [a * b for a, b in itertools.pairwise(sizes)]
    active = [[n] * len(seeds) for n in dense]
    if counts is not None:
        active[0] = list(counts)
    layouts = [layout] * len(active)
    return build_mlp(
        LaneRng(seeds), 1, sizes, active, num_copies, activation, initialisation, layouts
    )  # fmt: skip


def weight_of(mlp: StackedMLP, index: int = 0) -> Tensor:
    return mlp.layers[index].to_dense()


def random_input(num_columns: int, num_features: int = F) -> LayerInput:
    return LayerInput(torch.randn(L, num_features, num_columns))


def plain_forward(mlp: StackedMLP, row: int, x: Tensor) -> Tensor:
    """One row's network in textbook form, x [B, I] -> [B, O]."""
    for index, layer in enumerate(mlp.layers):
        x = torch.nn.functional.linear(x, layer.to_dense()[row], layer.bias[row].detach())
        if index < len(mlp.layers) - 1:
            x = torch.relu(x)
    return x


@both_layouts
@pytest.mark.parametrize("num_copies", [1, 2])
@pytest.mark.parametrize("B", [1, 17])
@pytest.mark.parametrize("hidden", [(5,), H, (4, 3, 6)])
def test_forward_is_every_rows_own_network(
    layout: str, num_copies: int, B: int, hidden: tuple[int, ...]
) -> None:
    counts = (20, 5, 7 * hidden[0])
    mlp = build(3, num_copies=num_copies, counts=counts, hidden=hidden, layout=layout)
    x = torch.randn(L, F, B)
    y = mlp.forward(LayerInput(x))
    for row in range(L * num_copies):
        expected = plain_forward(mlp, row, x[row // num_copies].T).T
        torch.testing.assert_close(y[row], expected, **TOLERANCE)
    split = mlp.forward(LayerInput(x[:, :-A]).with_extra(x[:, -A:]))
    torch.testing.assert_close(split, y, **TOLERANCE)


@both_layouts
def test_noise_in_the_input_is_that_of_the_input_written_out(layout: str) -> None:
    mlp = build(3, num_copies=2, counts=(20, 5, 91), layout=layout)
    row = torch.arange(17).expand(L, -1).contiguous()
    noise = Noise(LaneRng(SEEDS).key, row, Stream.LEARN_FEATURES, 4, torch.tensor([0.5, 1.0, 3.0]))
    x = LayerInput(torch.randn(L, F - 4 - A, 17), noise, torch.randn(L, A, 17))
    whole = LayerInput(x.written_out)
    torch.testing.assert_close(mlp.forward(x), mlp.forward(whole), **TOLERANCE)
    weights = [layer.trained for layer in mlp.layers]
    found, expected = (
        torch.autograd.grad(mlp.forward(each).square().sum(), weights) for each in (x, whole)
    )
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


@both_layouts
@pytest.mark.parametrize("name", ["relu", "leakyrelu", "tanh", "srelu"])
def test_gradients_are_those_of_every_rows_own_network(layout: str, name: str) -> None:
    activation = make_activation(name)
    mlp = build(3, num_copies=2, counts=(20, 5, 91), activation=activation, layout=layout)
    x, direction = torch.randn(L, F, 17), torch.randn(2 * L, 3, 17)
    trained = [tensor for layer in mlp.layers for tensor in (layer.trained, layer.bias)]
    dense = [
        tensor.requires_grad_()
        for layer in mlp.layers
        for tensor in (layer.to_dense(), layer.bias.detach().clone())
    ]
    hidden = x.repeat_interleave(2, 0)
    for index in range(len(mlp.layers)):
        hidden = torch.baddbmm(dense[2 * index + 1].unsqueeze(-1), dense[2 * index], hidden)
        if index < len(mlp.layers) - 1:
            own = mlp.activation_parameters[index] if mlp.activation_parameters else {}
            hidden = activation(hidden, index, **own)
    expected = torch.autograd.grad((hidden * direction).sum(), dense)
    found = torch.autograd.grad((mlp.forward(LayerInput(x)) * direction).sum(), trained)
    for index, layer in enumerate(mlp.layers):
        mask = layer.connection_mask()
        weight_grad, own_grad = layer.spread(found[2 * index]), expected[2 * index]
        if mask is not None:
            weight_grad, own_grad = weight_grad[mask], own_grad[mask]
        torch.testing.assert_close(weight_grad, own_grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            found[2 * index + 1], expected[2 * index + 1], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("initialisation", ["xavier", "fan_in"])
def test_initial_weights_fill_their_interval(initialisation: str) -> None:
    mlp = build(256, num_inputs=170, hidden=(256,), initialisation=initialisation)
    for layer, (fan_in, fan_out) in zip(mlp.layers, [(170, 256), (256, 256)], strict=True):
        is_xavier = initialisation == "xavier"
        bound = math.sqrt(6 / (fan_in + fan_out)) if is_xavier else 1 / math.sqrt(fan_in)
        weight = layer.to_dense()
        assert 0.999 * bound < float(weight.abs().max()) <= bound
        # five standard errors of the mean and of the variance of a uniform
        n = weight.numel()
        assert abs(float(weight.mean())) < 5 * bound / math.sqrt(3 * n)
        assert abs(float(weight.var()) * 3 / bound**2 - 1) < 5 * math.sqrt(0.8 / n)
        largest_bias = float(layer.bias.detach().abs().max())
        assert largest_bias == 0 if is_xavier else 0.98 * bound < largest_bias <= bound


@both_layouts
def test_masks_have_exact_counts_and_leave_the_other_weights_alone(layout: str) -> None:
    counts = (40, 1, F * H[0])
    sparse = build(1, num_copies=2, counts=counts, layout=layout)
    dense = build(1, num_copies=2, layout=layout)
    first = sparse.layers[0]
    mask = first.connection_mask()
    assert mask is not None
    assert first.active().tolist() == [n for n in counts for _ in range(2)]
    assert torch.equal(mask.flatten(1).sum(1), first.active())
    assert torch.equal(weight_of(sparse), torch.where(mask, weight_of(dense), 0.0))
    for index, layer in enumerate(sparse.layers):
        assert torch.equal(layer.bias, dense.layers[index].bias)
    for index in (1, 2):
        assert torch.equal(weight_of(sparse, index), weight_of(dense, index))
    others = (*dense.layers, *sparse.layers[1:])
    assert not any(layer.is_sparse or layer.active().unique().numel() > 1 for layer in others)
    assert not torch.equal(mask[0], mask[1])


@both_layouts
def test_only_layers_without_all_connections_are_stored_as_asked(layout: str) -> None:
    kinds = [type(layer) for layer in build(1, counts=(40, 1, 91), layout=layout).layers]
    assert kinds == [CsrLinear if layout == CSR else MaskedLinear, MaskedLinear, MaskedLinear]
    assert all(isinstance(layer, MaskedLinear) for layer in build(1, layout=layout).layers)


def test_critics_lanes_and_networks_start_differently() -> None:
    weight = weight_of(build(1, num_copies=2))
    flat = weight.flatten(1)
    assert torch.unique(flat.flatten()).numel() > 0.99 * flat.numel()
    other = build_mlp(LaneRng(SEEDS), 0, (F, *H, 1), [[1e9] * 3] * 3, 2, RELU, "xavier")  # pyright: ignore[reportArgumentType]
    assert not torch.equal(weight_of(other), weight)


@both_layouts
@pytest.mark.parametrize("lane", [0, 2])
def test_a_lane_alone_starts_and_computes_as_among_others(layout: str, lane: int) -> None:
    counts = (40, 17, 25)
    together = build(3, num_copies=2, counts=counts, layout=layout)
    alone = build(3, num_copies=2, counts=(counts[lane],), seeds=[SEEDS[lane]], layout=layout)
    rows = slice(2 * lane, 2 * lane + 2)
    for one, many in zip(alone.parameters(), together.parameters(), strict=True):
        assert torch.equal(one.to_dense(one.tensor), many.to_dense(many.tensor)[rows])
    x = torch.randn(L, F, 16)
    own = alone.forward(LayerInput(x[lane : lane + 1]))
    assert torch.equal(own, together.forward(LayerInput(x))[rows])


@pytest.mark.parametrize("name", ["srelu", "lex"])
@pytest.mark.parametrize("per_neuron", [False, True])
def test_learnable_activations_are_trained(name: str, per_neuron: bool) -> None:
    mlp = build(2, num_copies=2, activation=make_activation(name, (), per_neuron))
    named = {p.name: p.tensor for p in mlp.parameters()}
    activation = {n: t for n, t in named.items() if ".activation." in n}
    assert len(activation) == 2 * 4 and len(named) == 8 + 2 * 3
    for key, tensor in activation.items():
        width = H[int(key[0])] if per_neuron else 1
        assert tensor.shape == (2 * L, width, 1)
    loss = mlp.forward(LayerInput(3 * torch.randn(L, F, 64))).square().sum()
    grads = torch.autograd.grad(loss, list(activation.values()))
    assert all(bool((grad.flatten(1) != 0).any(1).all()) for grad in grads)
    frozen = mlp.frozen(slice(1), 2)
    x = random_input(5)
    torch.testing.assert_close(frozen.forward(x), mlp.forward(x)[::2].detach(), **TOLERANCE)
    assert not frozen.forward(x).requires_grad


@both_layouts
def test_a_target_copy_shares_connections_but_not_weights(layout: str) -> None:
    mlp = build(2, counts=(9, 20, 91), activation=make_activation("srelu"), layout=layout)
    target = mlp.target_copy()
    for one, other in zip(mlp.parameters(), target.parameters(), strict=True):
        assert one.name == other.name
        own, copied = one.tensor, other.tensor
        assert torch.equal(own, copied) and not copied.requires_grad
        assert one.mask is other.mask and own.data_ptr() != copied.data_ptr()
        copied.add_(1.0)
        assert not torch.equal(own, copied)
    first, follower = mlp.layers[0], target.layers[0]
    mask = first.connection_mask()
    assert mask is not None
    moved = mask.flip(2)
    first.set_connections_(moved.clone())
    found = follower.connection_mask()
    assert found is not None and torch.equal(found, moved)


ACTION_RANGE = ActionRange.from_limits(LOW, HIGH, torch.device("cpu"))


def in_range(action: Tensor) -> bool:
    low, high = torch.tensor(LOW).view(1, A, 1), torch.tensor(HIGH).view(1, A, 1)
    return bool(((action >= low - 1e-6) & (action <= high + 1e-6)).all())


def test_deterministic_actions_fill_the_range() -> None:
    x = LayerInput(30 * torch.randn(L, F, 257))
    tanh = TanhActor(build(A), ACTION_RANGE).deterministic(x).detach()
    gaussian = GaussianActor(build(2 * A), ACTION_RANGE).deterministic(x).detach()
    for action in (tanh, gaussian):
        assert action.shape == (L, A, 257) and in_range(action)
        assert float(action[:, 0].min()) < -1.9 and float(action[:, 1].max()) > 2.9


def test_log_density_is_that_of_a_squashed_normal() -> None:
    actor = GaussianActor(build(2 * A), ACTION_RANGE)
    x, normal = random_input(33), torch.randn(L, A, 33)
    action, log_density = actor.sample(x, normal)
    mean, log_std = actor.mlp.forward(x).double().chunk(2, 1)
    log_std = log_std.clamp(-20.0, 2.0)
    squashed = distributions.TransformedDistribution(
        distributions.Normal(mean, log_std.exp()),
        [
            distributions.TanhTransform(),
            distributions.AffineTransform(
                ACTION_RANGE.offset.double(), ACTION_RANGE.scale.double(), cache_size=1
            ),
        ],
    )
    u = mean + log_std.exp() * normal
    expected = ACTION_RANGE.offset + ACTION_RANGE.scale * torch.tanh(u)
    torch.testing.assert_close(action, expected.float(), **TOLERANCE)
    assert in_range(action)
    # the inverse of tanh loses digits near the limits, float64 leaves enough of them
    torch.testing.assert_close(
        log_density, squashed.log_prob(expected).sum(1).float(), rtol=1e-4, atol=1e-4
    )


def test_log_deviation_is_clamped_and_far_actions_stay_finite() -> None:
    mlp = build(2 * A)
    with torch.no_grad():
        mlp.layers[-1].bias[:, A:] = torch.tensor([-1e3, 1e3])
    x, normal = random_input(5), torch.randn(L, A, 5)
    actor = GaussianActor(mlp, ACTION_RANGE)
    action, log_density = actor.sample(x, normal)
    grads = torch.autograd.grad(log_density.sum(), [layer.trained for layer in mlp.layers])
    for tensor in (action, log_density, *grads):
        assert bool(tensor.isfinite().all())
    narrow = (action - actor.deterministic(x)).detach()[:, 0].abs().max()
    assert float(narrow) <= 4 * 1.5 * math.exp(LOG_STD_RANGE[0]) + 1e-6


@both_layouts
def test_values_of_the_frozen_critic_are_those_of_the_critic(layout: str) -> None:
    critic = TwinCritic(build(1, F + A, NUM_CRITICS, counts=(50, 117, 7), layout=layout))
    x, action = torch.randn(L, F, 11), torch.randn(L, A, 11, requires_grad=True)
    value = critic.value(LayerInput(x), action.detach())
    assert value.shape == (L, NUM_CRITICS, 11)
    for lane in range(L):
        for c in range(NUM_CRITICS):
            joined = torch.cat([x[lane], action[lane]]).T.detach()
            expected = plain_forward(critic.mlp, 2 * lane + c, joined)[:, 0]
            torch.testing.assert_close(value[lane, c], expected, **TOLERANCE)
    for num_critics in (1, 2):
        frozen = critic.frozen_value(LayerInput(x), action, num_critics)
        torch.testing.assert_close(frozen, value[:, :num_critics], **TOLERANCE)
    critic.frozen_value(LayerInput(x), action).sum().backward()
    assert action.grad is not None and bool((action.grad != 0).any())
    assert all(parameter.tensor.grad is None for parameter in critic.mlp.parameters())
    # The gradient for the action is the one that the critic would give.
    (expected,) = torch.autograd.grad(critic.value(LayerInput(x), action).sum(), action)
    torch.testing.assert_close(action.grad, expected, **TOLERANCE)


@both_layouts
def test_a_critics_gradient_stays_in_its_lane(layout: str) -> None:
    critic = TwinCritic(build(1, F + A, NUM_CRITICS, counts=(50, 60, 70), layout=layout))
    value = critic.value(random_input(5), torch.randn(L, A, 5))
    layer = critic.mlp.layers[0]
    (grad,) = torch.autograd.grad(value[1].sum(), layer.trained)
    touched = layer.spread(grad).flatten(1).abs().sum(1) > 0
    assert touched.tolist() == [False, False, True, True, False, False]
