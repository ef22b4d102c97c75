"""Penalties on the weights of the features: their gradients, and what they leave alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastanf.config import TrainConfig, csr_obstacle
from fastanf.sparse.input_penalty import InputPenalty
from fastanf.sparse.layers import CsrLinear, MaskedLinear, StackedLinear
from tests.helpers import make_block, make_lane

L, C, O, F, A = 3, 2, 4, 5, 2
NOTHING = torch.zeros(L)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layers() -> tuple[MaskedLinear, CsrLinear]:
    """The same critics' layer in both layouts; feature 1 has no connection in matrix 0."""
    mask = random(L * C, O, F + A, seed=7) > -0.3
    mask[0, :, 1] = False
    weight, bias = torch.where(mask, random(L * C, O, F + A), 0.0), torch.zeros(L * C, O)
    return MaskedLinear(weight, bias, mask), CsrLinear.of_dense(weight, bias, mask)


def test_the_gradient_of_l1_is_the_sign_of_the_weight() -> None:
    masked, csr = layers()
    strength = torch.tensor([0.1, 0.0, 2.0])
    grad = random(L * C, O, F + A, seed=3)
    per_matrix = strength.repeat_interleave(C).view(-1, 1, 1)
    expected = grad + per_matrix * masked.weight.sign()
    expected[:, :, F:] = grad[:, :, F:]
    found = InputPenalty(masked, F, strength, NOTHING).added(grad)
    assert torch.equal(found, expected) and found.is_contiguous()
    found = InputPenalty(csr, F, strength, NOTHING).added(csr.collect(grad))
    assert torch.equal(found, csr.collect(expected))


def test_csr_follows_connections_that_change() -> None:
    masked, csr = layers()
    penalty = InputPenalty(csr, F, torch.ones(L), NOTHING)
    mask = masked.connection_mask()
    assert mask is not None
    csr.set_connections_(mask.flip(2))
    dense = csr.to_dense()
    found = csr.spread(penalty.added(torch.zeros_like(csr.value)))
    assert torch.equal(found[:, :, :F], dense[:, :, :F].sign())
    assert not bool(found[:, :, F:].any())


def test_the_gradient_of_group_lasso_is_the_direction_of_each_column() -> None:
    masked, _ = layers()
    strength = torch.tensor([0.1, 0.0, 2.0])
    grad = random(L * C, O, F + A, seed=3)
    found = InputPenalty(masked, F, NOTHING, strength).added(grad)
    for g in range(L * C):
        for i in range(F + A):
            column = masked.weight[g, :, i].double()
            norm = column.square().sum().sqrt()
            expected = grad[g, :, i].double()
            if i < F and norm > 0:
                expected = expected + float(strength[g // C]) * column / norm
            torch.testing.assert_close(found[g, :, i].double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(found[0, :, 1], grad[0, :, 1])  # without a connection
    added = (found - grad)[:, :, :F].square().sum(1).sqrt()  # [G, F]
    has_any = (masked.weight[:, :, :F] != 0).any(1)
    each = strength.repeat_interleave(C).unsqueeze(1).expand_as(added)
    torch.testing.assert_close(added, torch.where(has_any, each, 0.0), rtol=1e-5, atol=1e-5)


def test_both_penalties_are_the_gradient_of_their_sum() -> None:
    masked, _ = layers()
    weight = masked.weight.double().requires_grad_()
    features = weight[:, :, :F]
    l1, group = torch.tensor([0.1, 0.3, 2.0]), torch.tensor([1.0, 0.2, 0.4])
    loss = (l1.repeat_interleave(C) * features.abs().sum((1, 2))).sum()
    norms = features.square().sum(1)
    norms = torch.where(norms > 0, norms, 1.0).sqrt()  # of no gradient where a column is empty
    loss = loss + (group.repeat_interleave(C) * norms.sum(1)).sum()
    (expected,) = torch.autograd.grad(loss, weight)
    found = InputPenalty(masked, F, l1, group).added(torch.zeros_like(masked.weight))
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("index", [0, 1], ids=["masked", "csr"])
def test_lanes_without_penalty_keep_their_bits_even_beside_broken_ones(index: int) -> None:
    layer: StackedLinear = layers()[index]
    with torch.no_grad():
        layer.trained[0] = float("nan")
    grad = random(*layer.trained.shape, seed=3)
    grad[C] = -0.0
    group = NOTHING if index else torch.tensor([0.5, 0.0, 0.0])
    found = InputPenalty(layer, F, torch.tensor([0.1, 0.0, 0.0]), group).added(grad)
    assert not torch.equal(found[1], grad[1])
    assert torch.equal(found[C:], grad[C:])
    assert torch.equal(found[C].signbit(), grad[C].signbit())


def test_nothing_is_computed_where_no_lane_has_a_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    masked, csr = layers()
    for layer in (masked, csr):
        assert InputPenalty(layer, F, NOTHING, NOTHING).is_nothing
    assert not InputPenalty(masked, F, NOTHING, torch.tensor([0.0, 0.0, 1e-6])).is_nothing

    def fail(*_: object) -> Tensor:
        raise AssertionError("a penalty was added")

    monkeypatch.setattr(InputPenalty, "added", fail)
    block = make_block([make_lane("ANF-SAC", 0)], 30)
    block.learner.update_()
    with pytest.raises(AssertionError, match="was added"):
        make_block([make_lane("ANF-SAC", 0, input_l1=1e-6)], 30).learner.update_()


def test_group_lasso_and_csr_do_not_go_together() -> None:
    _, csr = layers()
    with pytest.raises(ValueError, match=r"input_group_lasso 0\.5 does not go with csr"):
        InputPenalty(csr, F, NOTHING, torch.full((L,), 0.5))
    sparse = {"input_layer_sparsity": 0.8}
    assert csr_obstacle(TrainConfig.of(**sparse, input_l1=0.1)) is None
    assert csr_obstacle(TrainConfig.of(**sparse, input_group_lasso=0.1)) == "input_group_lasso 0.1"
    assert csr_obstacle(TrainConfig.of(**sparse, input_gate=True)) == "input_gate true"
    for setting in ({"input_group_lasso": 0.1}, {"input_gate": True}):
        with pytest.raises(ValueError, match="layout csr does not go with input_g"):
            TrainConfig.of(**sparse, **setting, layout="csr")
        TrainConfig.of(**setting, layout="csr")  # a dense lane has no csr layer


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["input_l1", "input_group_lasso"])
def test_a_negative_or_infinite_penalty_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be a number in \[0, 1e\+30\]"):
        TrainConfig.of(**{name: value})


@pytest.mark.parametrize("layout", ["masked", "csr"])
@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_a_step_of_descent_moves_feature_weights_by_the_penalty(
    algorithm: str, layout: str
) -> None:
    """Of actor and critics; what moves else is the same with and without a penalty."""
    settings = {
        "optimizer": "SGD", "learning_rate": 1e-4, "weight_decay": 0.0, "topology": "static",
        "layout": layout, "policy_delay": 1,
    }  # fmt: skip
    strengths = (0.0, 8.0)
    blocks = [
        make_block([make_lane(f"ANF-{algorithm}", 0, **settings, input_l1=strength)], 30)
        for strength in strengths
    ]
    F = blocks[0].features.num_features
    for network in blocks[1].algorithm.networks().values():
        assert isinstance(network.layers[0], CsrLinear) == (layout == "csr")
    before = [block.algorithm.critic.mlp.layers[0].to_dense() for block in blocks]
    assert torch.equal(*before)
    start = blocks[0].algorithm.actor_mlp.layers[0].to_dense()
    for block in blocks:
        block.learner.update_()
    plain, penalised = (block.algorithm.critic.mlp.layers[0].to_dense() for block in blocks)
    moved = plain - penalised
    # Rounded where two nearly equal weights of at most 1 are subtracted.
    expected = 1e-4 * 8.0 * before[0].sign()
    expected[:, :, F:] = 0.0
    torch.testing.assert_close(moved, expected, rtol=0, atol=3e-7)
    actors = [block.algorithm.actor_mlp.layers[0].to_dense() for block in blocks]
    # The actor's own gradient differs a little, since its critics have moved.
    torch.testing.assert_close(actors[0] - actors[1], 8e-4 * start.sign(), rtol=0, atol=1e-4)
