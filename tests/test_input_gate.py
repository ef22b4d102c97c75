"""Gates of the features: their numbers and gradients, and that every copy of a network has them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from fastanf.activations import make_activation
from fastanf.kernels.input_gate import FIRST_GATE, gate_of, gated_weight
from fastanf.kernels.layer_input import LayerInput, Noise
from fastanf.nets import NUM_CRITICS, StackedMLP, TwinCritic, build_mlp
from fastanf.rng import LaneRng, Stream
from tests.helpers import make_block, make_lane

SEEDS = [3, 4, 9]
L, F, A, HIDDEN = 3, 7, 2, (13, 9)
TOLERANCE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}  # sums of a dozen products


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def build(num_inputs: int, num_copies: int, has_layer_norm: bool = False) -> StackedMLP:
    """Gates of F features, all different; half of the first layer's connections."""
    sizes = (num_inputs, *HIDDEN, 1)
    active = [[a * b] * L for a, b in itertools.pairwise(sizes)]
    active[0] = [count // 2 for count in active[0]]
    mlp = build_mlp(
        LaneRng(SEEDS), 1, sizes, active, num_copies, make_activation("relu"), "fan_in",
        has_layer_norm=has_layer_norm, num_gates=F,
    )  # fmt: skip
    assert mlp.gate is not None and mlp.gate.shape == (L * num_copies, F)
    assert bool((mlp.gate == FIRST_GATE).all())
    with torch.no_grad():
        mlp.gate.copy_(2 * random(L * num_copies, F, seed=8))
    return mlp


def test_a_gate_is_between_0_and_1_and_half_open_at_0() -> None:
    t = torch.tensor([-1e3, -2.0, 0.0, FIRST_GATE, 1e3], dtype=torch.float64)
    gate = gate_of(t)
    assert bool(((gate >= 0) & (gate <= 1)).all()) and bool((gate.diff() > 0).all())
    assert gate[2] == 0.5
    torch.testing.assert_close(gate[3], torch.tensor(0.9472135955, dtype=torch.float64))
    torch.testing.assert_close(gate + gate_of(-t), torch.ones_like(t))


@pytest.mark.parametrize(("O", "I"), [(1, 7), (5, 9), (171, 8), (257, 7)])
def test_gradients_are_those_that_torch_finds(O: int, I: int) -> None:
    weight = random(4, O, I, dtype=torch.float64).requires_grad_()
    t = random(4, F, seed=1, dtype=torch.float64).requires_grad_()
    direction = random(4, O, I, seed=2, dtype=torch.float64)
    gate = torch.cat([gate_of(t), torch.ones(4, I - F, dtype=torch.float64)], 1)
    expected = weight * gate.unsqueeze(1)
    found = gated_weight(weight, t)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    ours, theirs = (
        torch.autograd.grad(y, (weight, t), direction, retain_graph=True) for y in (found, expected)
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_bits_of_a_matrix_do_not_depend_on_its_neighbours() -> None:
    weight, t = random(5, 33, 9).requires_grad_(), random(5, F, seed=1).requires_grad_()
    direction = random(5, 33, 9, seed=2)
    y = gated_weight(weight, t)
    grads = torch.autograd.grad(y, (weight, t), direction)
    for g in range(5):
        own = [x[g : g + 1].detach().clone().requires_grad_() for x in (weight, t)]
        alone = gated_weight(own[0], own[1])
        assert torch.equal(alone[0], y[g])
        for one, many in zip(
            torch.autograd.grad(alone, own, direction[g : g + 1]), grads, strict=True
        ):
            assert torch.equal(one[0], many[g])


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"need \[4, F\], F at most 9"):
        gated_weight(random(4, 5, 9), random(4, 10))


@pytest.mark.parametrize("has_layer_norm", [False, True])
def test_gating_weights_is_gating_features(has_layer_norm: bool) -> None:
    """Noise in the input included, actions left as they are."""
    gated = build(F + A, NUM_CRITICS, has_layer_norm)
    row = torch.arange(16).expand(L, -1).contiguous()
    noise = Noise(LaneRng(SEEDS).key, row, Stream.LEARN_FEATURES, 4, torch.tensor([0.5, 1.0, 3.0]))
    x = LayerInput(random(L, F - 4, 16), noise, random(L, A, 16, seed=1))
    found = gated.forward(x)
    assert gated.gate is not None
    gates = torch.cat([gate_of(gated.gate), torch.ones(L * NUM_CRITICS, A)], 1)
    plain = StackedMLP(
        gated.layers, gated.activation, gated.activation_parameters, gated.norm_parameters
    )
    for c in range(NUM_CRITICS):
        own = x.written_out * gates[c::NUM_CRITICS].unsqueeze(2)
        expected = plain.forward(LayerInput(own))[c::NUM_CRITICS]
        torch.testing.assert_close(found[c::NUM_CRITICS], expected, **TOLERANCE)


def test_the_input_weight_is_the_one_that_acts() -> None:
    gated = build(F + A, NUM_CRITICS)
    assert gated.gate is not None
    weight, shown = gated.layers[0].to_dense(), gated.input_weight()
    assert not shown.requires_grad and shown.shape == weight.shape
    assert torch.equal(shown[:, :, F:], weight[:, :, F:])
    assert torch.equal(shown[:, :, :F], weight[:, :, :F] * gate_of(gated.gate).unsqueeze(1))
    mask = gated.layers[0].connection_mask()
    assert mask is not None and not bool(shown[~mask].any())
    bare = StackedMLP(gated.layers, gated.activation, gated.activation_parameters)
    assert torch.equal(bare.input_weight(), weight)


def test_frozen_and_target_critics_see_the_gates() -> None:
    critic = TwinCritic(build(F + A, NUM_CRITICS))
    gate = critic.mlp.gate
    assert gate is not None
    x, action = LayerInput(random(L, F, 11)), random(L, A, 11, seed=1).requires_grad_()
    target = critic.target_copy()
    assert target.mlp.gate is not None and not target.mlp.gate.requires_grad
    for num_critics in (1, 2):  # made once, and used after the gates have moved
        critic.frozen_value(x, action, num_critics)
    before = critic.value(x, action).detach()
    with torch.no_grad():
        gate.sub_(1.0)
    value = critic.value(x, action)
    assert not torch.equal(value, before)
    torch.testing.assert_close(target.value(x, action).detach(), before, **TOLERANCE)
    for num_critics in (1, 2):
        frozen = critic.frozen_value(x, action, num_critics)
        torch.testing.assert_close(frozen, value[:, :num_critics], **TOLERANCE)
    (found,) = torch.autograd.grad(critic.frozen_value(x, action).sum(), action)
    (expected,) = torch.autograd.grad(value.sum(), action)
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_gates_learn_and_targets_follow_in_every_network(algorithm: str) -> None:
    lane = make_lane(f"ANF-{algorithm}", 0, input_gate=True, weight_decay=0.0, tau=0.5)
    block = make_block([lane], 30)
    for _ in range(4):
        block.learner.update_()
    networks = block.algorithm.networks()
    F = block.features.num_features
    for name, network in networks.items():
        gate = network.gate
        num_copies = NUM_CRITICS if "critic" in name else 1
        assert gate is not None and gate.shape == (num_copies, F)
        assert bool((gate != FIRST_GATE).any(1).all())
        assert f"{name}.0.gate" in block.algorithm.state_dict()
        own = networks[name.removeprefix("target_")].gate
        assert own is not None and torch.equal(gate, own) == (not name.startswith("target"))
    critic = networks["critic"].gate
    assert critic is not None and not torch.equal(critic[0], critic[1])


@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_gradients_of_gates_are_differences_of_the_loss(algorithm: str) -> None:
    """Of the critics of a whole block."""
    block = make_block([make_lane(algorithm, 0, input_gate=True)], 30)
    critic, t = block.algorithm.critic, block.algorithm.critic.mlp.gate
    assert t is not None
    batch = block.replay.sample(block.rng, 1, 16)
    x, action = LayerInput(random(1, t.shape[1], 16)), batch.action.transpose(1, 2)

    def loss() -> Tensor:
        return critic.value(x, action).square().sum()

    (grad,) = torch.autograd.grad(loss(), t)
    step = 1e-2
    for c, feature in ((0, 0), (1, 3), (1, t.shape[1] - 1)):
        with torch.no_grad():
            t[c, feature] += step
            above = loss()
            t[c, feature] -= 2 * step
            below = loss()
            t[c, feature] += step
        expected = float(above - below) / (2 * step)
        assert float(grad[c, feature]) == pytest.approx(expected, rel=0.05, abs=2e-2)
