"""Work of an update: against counts by hand and PyTorch's own counter, and its conventions."""

from __future__ import annotations

import dataclasses

import pytest
from torch.utils.flop_counter import FlopCounterMode

from envs import registry
from envs.interface import EnvSpec
from fastanf import kernels
from fastanf.instrument import Stage
from fastanf.presets import lane_config
from fastanf.sparse.layers import CsrLinear
from fastanf.workload import (
    ADAM_FLOPS,
    NORMAL_FLOPS,
    POLYAK_FLOPS,
    QUANTILE_FLOPS,
    step_work,
    total,
    update_work,
    useful_update_flops,
)
from tests.helpers import make_block, make_lane

# D = 3 real features among F = 6, A = 2 actions, two hidden layers of 4 units, B = 5.
SPEC = EnvSpec("Hand-v0", 3, 2, (-1.0, -1.0), (1.0, 1.0), 10)
# The same features, all real.
SIX_REAL = dataclasses.replace(SPEC, num_features=6)
SMALL = {"hidden": (4, 4), "batch_size": 5, "noise_fraction": 0.5}


def hand_lane(policy: str, **settings):
    return lane_config(policy, {**SMALL, **settings}).replace(seed=0)


# Connections, by hand: the actor has 6*4 + 4*4 + 4*(2*2) = 24 + 16 + 16, a critic (6+2)*4 + 4*4 + 4
# = 32 + 16 + 4. ANF keeps half of each first layer here: 12 and 16.
ACTOR, CRITIC = 24 + 16 + 16, 32 + 16 + 4
ACTOR_HALF, CRITIC_HALF = 12 + 16 + 16, 16 + 16 + 4
B, C = 5, 2
# One network call sees 3 noise features in B rows; the critics share them.
DRAW = 3 * B * NORMAL_FLOPS
DRAWS = {
    Stage.TARGET: 2,
    Stage.CRITIC_FORWARD: 1,
    Stage.CRITIC_BACKWARD: 1,
    Stage.ACTOR_FORWARD: 2,
    Stage.ACTOR_BACKWARD: 1,
}
# ANF with half of each first layer, masked or csr.
HALF = {"input_layer_sparsity": 0.5}


@pytest.mark.parametrize(
    ("policy", "actor", "critic", "first_actor", "first_critic"),
    [("SAC", ACTOR, CRITIC, 24, 32), ("ANF-SAC", ACTOR_HALF, CRITIC_HALF, 12, 16)],
)
def test_products_agree_with_a_count_by_hand(
    policy: str, actor: int, critic: int, first_actor: int, first_critic: int
) -> None:
    sparsity = HALF if policy == "ANF-SAC" else {}
    works = update_work([hand_lane(policy, **sparsity)], SPEC)
    useful = {name: works[name].useful_flops - DRAWS[name] * DRAW for name in DRAWS}
    assert useful[Stage.TARGET] == 2 * B * (actor + C * critic)
    assert useful[Stage.CRITIC_FORWARD] == 2 * B * C * critic
    # Gradients of all weights, and of what enters the second and third layer.
    assert useful[Stage.CRITIC_BACKWARD] == 2 * B * C * (2 * critic - first_critic)
    assert useful[Stage.ACTOR_FORWARD] == 2 * B * (actor + C * critic)
    # Through the critics to the actions, 2 of 8 inputs, and then as in any network.
    through = C * (critic - first_critic + first_critic * 2 / 8)
    assert useful[Stage.ACTOR_BACKWARD] == 2 * B * (through + 2 * actor - first_actor)


def test_a_masked_layer_multiplies_every_connection_of_which_the_active_ones_are_useful() -> None:
    dense = update_work([hand_lane("SAC")], SPEC)
    sparse = update_work([hand_lane("ANF-SAC", layout="masked", **HALF)], SPEC)
    for name, work in dense.items():
        assert work.useful_flops == work.done_flops
        assert sparse[name].done_flops == work.done_flops
        assert sparse[name].useful_flops <= work.useful_flops
        assert sparse[name].useful_bytes <= sparse[name].moved_bytes
    assert sparse[Stage.CRITIC_FORWARD].useful_flops < dense[Stage.CRITIC_FORWARD].useful_flops


@pytest.mark.parametrize("policy", ["ANF-SAC", "ANF-TD3"])
def test_a_csr_layer_does_what_is_useful_and_no_more(policy: str) -> None:
    masked = update_work([hand_lane(policy, layout="masked", **HALF)], SPEC)
    csr = update_work([hand_lane(policy, layout="csr", **HALF)], SPEC)
    assert csr.keys() == masked.keys()
    for name, work in csr.items():
        assert work.done_flops == work.useful_flops == masked[name].useful_flops
        assert work.useful_bytes == masked[name].useful_bytes
    useful = {name for name in masked if masked[name].done_flops > masked[name].useful_flops}
    assert {*DRAWS, Stage.CRITIC_OPTIMIZER, Stage.ACTOR_OPTIMIZER} <= useful


def test_the_layout_follows_the_device_and_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = hand_lane("ANF-SAC", input_layer_sparsity=0.75)

    def does_more_than_useful(device: str) -> bool:
        works = (total(update_work([lane], SPEC, device)), step_work([lane], SPEC, 1, device))
        return all(w.done_flops > w.useful_flops for w in (works[0], works[1][Stage.ACT]))

    monkeypatch.setattr(kernels, "NATIVE", object())
    assert not does_more_than_useful("cpu")
    assert does_more_than_useful("cuda")
    monkeypatch.setattr(kernels, "NATIVE", None)
    assert does_more_than_useful("cpu")


# Inputs, real features and actions alone, and outputs of the critics' layers, by values.
CRITIC_VALUES = ((3 + 2) * B + C * 4 * B) + (C * 4 * B + C * 4 * B) + (C * 4 * B + C * B)


@pytest.mark.parametrize(("activation", "num_elementwise"), [("relu", 0), ("leakyrelu", 0),
                                                            ("tanh", 2), ("srelu", 2)])  # fmt: skip
def test_bytes_of_a_forward_pass_agree_with_a_count_by_hand(
    activation: str, num_elementwise: int
) -> None:
    work = update_work([hand_lane("SAC", activation=activation)], SPEC)[Stage.CRITIC_FORWARD]
    activations = num_elementwise * C * B * (4 + 4)
    expected = 4 * (C * CRITIC + CRITIC_VALUES + activations)
    assert work.moved_bytes == work.useful_bytes == expected


def test_a_csr_weight_moves_with_its_index() -> None:
    works = update_work([hand_lane("ANF-SAC", layout="csr", **HALF)], SPEC)
    # First layers alone are sparse: 16 values with their indices, beside 16 + 4 dense weights.
    weights, beside = C * (2 * 16 + 16 + 4), CRITIC_VALUES
    work = works[Stage.CRITIC_FORWARD]
    assert work.moved_bytes == 4 * (weights + beside)
    assert work.useful_bytes == 4 * (C * CRITIC_HALF + beside)
    # The gradients of the weights move as much; those of hidden units pass two dense layers.
    hidden = C * (16 + 4) + (C * 4 * B + C * 4 * B) + (C * 4 * B + C * B)
    assert works[Stage.CRITIC_BACKWARD].moved_bytes == 4 * (weights + beside + hidden)


def test_the_optimizer_of_a_csr_layer_sees_stored_values_only() -> None:
    lanes = [make_lane("ANF-SAC", seed, layout="csr", input_layer_sparsity=s)
             for seed, s in ((0, 0.5), (1, 0.8))]  # fmt: skip
    block = make_block(lanes)
    works = update_work(lanes, block.env.spec)
    for network, name, flops, tensors in (
        (block.algorithm.critic.mlp, Stage.CRITIC_OPTIMIZER, ADAM_FLOPS + POLYAK_FLOPS, 9),
        (block.algorithm.actor_mlp, Stage.ACTOR_OPTIMIZER, ADAM_FLOPS, 7),
    ):
        assert isinstance(network.layers[0], CsrLinear)
        stored = sum(parameter.tensor.numel() for parameter in network.parameters())
        biases = sum(layer.bias.numel() for layer in network.layers)
        active = biases + sum(int(layer.active().sum()) for layer in network.layers)
        assert active < stored  # the sparser lane has room for as many
        assert works[name].done_flops == flops * stored
        assert works[name].moved_bytes == 4 * tensors * stored
        assert works[name].useful_flops == flops * active


def test_masks_are_read_of_layers_where_a_lane_is_sparse() -> None:
    sparse = hand_lane("ANF-SAC", layout="masked", **HALF)
    works = update_work([sparse, hand_lane("SAC", layout="masked")], SPEC)
    weights, biases = 2 * C * CRITIC, 2 * C * (4 + 4 + 1)
    expected = 4 * (7 + 2) * (weights + biases) + 2 * C * 32
    assert works[Stage.CRITIC_OPTIMIZER].moved_bytes == expected


def test_optimizer_noise_and_targets_agree_with_a_count_by_hand() -> None:
    works = update_work([hand_lane("SAC")], SPEC)
    critic_parameters = C * (CRITIC + 4 + 4 + 1)
    assert works[Stage.CRITIC_OPTIMIZER].done_flops == critic_parameters * (
        ADAM_FLOPS + POLYAK_FLOPS
    )
    assert works[Stage.CRITIC_OPTIMIZER].moved_bytes == critic_parameters * 4 * (7 + 2)
    assert works[Stage.ACTOR_OPTIMIZER].done_flops == (ACTOR + 4 + 4 + 4) * ADAM_FLOPS


def test_a_delayed_actor_counts_by_its_share() -> None:
    every = update_work([hand_lane("TD3", policy_delay=1, target_period=1)], SPEC)
    third = update_work([hand_lane("TD3", policy_delay=3, target_period=1)], SPEC)
    assert third[Stage.ACTOR_FORWARD].useful_flops == pytest.approx(
        every[Stage.ACTOR_FORWARD].useful_flops / 3
    )
    parameters = 24 + 16 + 8 + 4 + 4 + 2
    assert third[Stage.POLYAK].done_flops == pytest.approx(parameters * POLYAK_FLOPS * 2 / 3)
    # Where both come at the same updates the target never moves alone.
    together = update_work([hand_lane("TD3", policy_delay=2, target_period=2)], SPEC)
    assert Stage.POLYAK not in together and Stage.POLYAK not in every
    one_step = parameters * (ADAM_FLOPS + POLYAK_FLOPS)
    assert together[Stage.ACTOR_OPTIMIZER].done_flops == pytest.approx(one_step / 2)
    # TD3's actor asks the first critic alone and has one output an action.
    one_head = 24 + 16 + 8
    assert every[Stage.ACTOR_FORWARD].useful_flops == 2 * B * (one_head + CRITIC) + 2 * DRAW


@pytest.mark.parametrize("policy", ["SAC", "ANF-SAC", "TD3", "ANF-TD3"])
def test_noise_counts_wherever_a_kernel_draws_it(policy: str) -> None:
    def drawn(**settings) -> dict[Stage, float]:
        """Operations beyond those of the same layers whose noise features are real ones."""
        lane = hand_lane(policy, policy_delay=1, **settings)
        noisy = update_work([lane], SPEC)
        clean = update_work([lane.replace(noise_fraction=0.0)], SIX_REAL)
        return {name: noisy[name].useful_flops - clean[name].useful_flops for name in noisy}

    expected = {name: DRAWS.get(name, 0) for name in drawn()}
    assert drawn() == {name: count * DRAW for name, count in expected.items()}
    # A replayed noise is drawn at every use, too.
    assert drawn(noise_redraw="per_step") == drawn()
    empirical = drawn(noise_distribution="empirical")
    assert empirical == {name: n * 3 * B * QUANTILE_FLOPS for name, n in expected.items()}


def test_noise_moves_no_bytes() -> None:
    noisy = update_work([hand_lane("SAC")], SPEC)
    clean = update_work([hand_lane("SAC", noise_fraction=0.0)], SIX_REAL)
    for name, num_calls in DRAWS.items():
        saved = 4 * 3 * B * num_calls
        assert clean[name].moved_bytes - noisy[name].moved_bytes == saved


def test_lanes_add_up() -> None:
    lanes = [
        hand_lane("ANF-SAC", layout="masked", input_layer_sparsity=sparsity)
        for sparsity in (0.5, 0.75)
    ]
    alone = [total(update_work([lane], SPEC)) for lane in lanes]
    together = total(update_work(lanes, SPEC))
    assert list(together) == pytest.approx(list(alone[0].plus(alone[1])))
    assert useful_update_flops(lanes, SPEC) == together.useful_flops


@pytest.mark.parametrize("policy", ["SAC", "TD3"])
def test_products_of_a_real_update_agree_with_an_independent_counter(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The counter sees products of plain torch alone; policy_delay 1 puts all of them into one
    # update. Small products of a lone lane are computed twice, so there are two lanes.
    monkeypatch.setattr(kernels, "NATIVE", None)
    lanes = [make_lane(policy, seed, policy_delay=1) for seed in (0, 1)]
    block = make_block(lanes, 20)
    with FlopCounterMode(display=False) as counter:
        block.learner.update_()
    works = update_work(lanes, block.env.spec)
    # 5 noise features of 16 rows in two lanes.
    noise = sum(DRAWS.values()) * 2 * 5 * 16 * NORMAL_FLOPS
    assert counter.get_total_flops() == sum(works[name].done_flops for name in DRAWS) - noise


def test_acting_counts_filled_rows_as_done_and_one_row_as_useful() -> None:
    lane = hand_lane("SAC")
    works = step_work([lane, lane], SPEC, row_multiple=16)
    work = works[Stage.ACT].times(1 / 2)
    assert work.useful_flops == 2 * ACTOR + 3 * NORMAL_FLOPS
    assert work.done_flops == 16 * (2 * ACTOR + 3 * NORMAL_FLOPS)
    assert works[Stage.REPLAY_ADD].moved_bytes == 2 * 2 * 4 * (3 + 2 + 2)
    assert works[Stage.UPDATE] == total(update_work([lane, lane], SPEC))
    several = [hand_lane("SAC", updates_per_step=3)]
    work = step_work(several, SPEC, row_multiple=16)[Stage.UPDATE]
    assert work == total(update_work(several, SPEC)).times(3)


def test_a_known_task_has_the_known_size() -> None:
    # HalfCheetah at 0.9: F = 170. Actor 170*256 + 256*256 + 256*12, critic 176*256 + 256*256 + 256.
    actor, critic = 170 * 256 + 256 * 256 + 256 * 12, 176 * 256 + 256 * 256 + 256
    lane = lane_config("SAC", {"noise_fraction": 0.9}).replace(seed=0)
    works = update_work([lane], registry.spec("HalfCheetah-v3"))
    noise = 2 * 100 * 153 * NORMAL_FLOPS
    assert works[Stage.TARGET].useful_flops == 2 * 100 * (actor + 2 * critic) + noise
