"""Work of an update: against counts by hand and PyTorch's own counter, and its conventions."""

from __future__ import annotations

import pytest
from torch.utils.flop_counter import FlopCounterMode

from envs import registry
from envs.interface import EnvSpec
from fastanf.instrument import Stage
from fastanf.presets import lane_config
from fastanf.workload import (
    ADAM_FLOPS,
    NORMAL_FLOPS,
    POLYAK_FLOPS,
    step_work,
    total,
    update_work,
    useful_update_flops,
)
from tests.helpers import make_block, make_lane

# D = 3 real features among F = 6, A = 2 actions, two hidden layers of 4 units, B = 5.
SPEC = EnvSpec("Hand-v0", 3, 2, (-1.0, -1.0), (1.0, 1.0), 10)
SMALL = {"hidden": (4, 4), "batch_size": 5, "noise_fraction": 0.5}


def hand_lane(policy: str, **settings):
    return lane_config(policy, {**SMALL, **settings}).replace(seed=0)


# Connections, by hand: the actor has 6*4 + 4*4 + 4*(2*2) = 24 + 16 + 16, a critic (6+2)*4 + 4*4 + 4
# = 32 + 16 + 4. ANF keeps half of each first layer here: 12 and 16.
ACTOR, CRITIC = 24 + 16 + 16, 32 + 16 + 4
ACTOR_HALF, CRITIC_HALF = 12 + 16 + 16, 16 + 16 + 4
B, C = 5, 2


@pytest.mark.parametrize(
    ("policy", "actor", "critic", "first_actor", "first_critic"),
    [("SAC", ACTOR, CRITIC, 24, 32), ("ANF-SAC", ACTOR_HALF, CRITIC_HALF, 12, 16)],
)
def test_products_agree_with_a_count_by_hand(
    policy: str, actor: int, critic: int, first_actor: int, first_critic: int
) -> None:
    sparsity = {"input_layer_sparsity": 0.5} if policy == "ANF-SAC" else {}
    works = update_work([hand_lane(policy, **sparsity)], SPEC)
    useful = {name: work.useful_flops for name, work in works.items()}
    assert useful[Stage.TARGET] == 2 * B * (actor + C * critic)
    assert useful[Stage.CRITIC_FORWARD] == 2 * B * C * critic
    # Gradients of all weights, and of what enters the second and third layer.
    assert useful[Stage.CRITIC_BACKWARD] == 2 * B * C * (2 * critic - first_critic)
    assert useful[Stage.ACTOR_FORWARD] == 2 * B * (actor + C * critic)
    # Through the critics to the actions, 2 of 8 inputs, and then as in any network.
    through = C * (critic - first_critic + first_critic * 2 / 8)
    assert useful[Stage.ACTOR_BACKWARD] == 2 * B * (through + 2 * actor - first_actor)


def test_done_counts_every_stored_connection_and_useful_the_active_ones() -> None:
    dense = update_work([hand_lane("SAC")], SPEC)
    sparse = update_work([hand_lane("ANF-SAC", input_layer_sparsity=0.5)], SPEC)
    for name, work in dense.items():
        assert work.useful_flops == work.done_flops
        assert sparse[name].done_flops == work.done_flops
        assert sparse[name].useful_flops <= work.useful_flops
        assert sparse[name].useful_bytes <= sparse[name].moved_bytes
    assert sparse[Stage.CRITIC_FORWARD].useful_flops < dense[Stage.CRITIC_FORWARD].useful_flops


def test_bytes_of_a_forward_pass_agree_with_a_count_by_hand() -> None:
    work = update_work([hand_lane("SAC")], SPEC)[Stage.CRITIC_FORWARD]
    weights = C * CRITIC
    layers = (8 * B + C * 4 * B) + (C * 4 * B + C * 4 * B) + (C * 4 * B + C * B)
    activations = 2 * C * B * (4 + 4)
    assert work.moved_bytes == work.useful_bytes == 4 * (weights + layers + activations)


def test_optimizer_noise_and_targets_agree_with_a_count_by_hand() -> None:
    works = update_work([hand_lane("SAC")], SPEC)
    critic_parameters = C * (CRITIC + 4 + 4 + 1)
    assert works[Stage.CRITIC_OPTIMIZER].done_flops == critic_parameters * (
        ADAM_FLOPS + POLYAK_FLOPS
    )
    assert works[Stage.CRITIC_OPTIMIZER].moved_bytes == critic_parameters * 4 * (7 + 2)
    assert works[Stage.ACTOR_OPTIMIZER].done_flops == (ACTOR + 4 + 4 + 4) * ADAM_FLOPS
    # Five network calls see noise of their own: 3 noise features, B rows.
    assert works[Stage.NOISE].useful_flops == 5 * 3 * B * NORMAL_FLOPS
    per_step = update_work([hand_lane("SAC", noise_redraw="per_step")], SPEC)
    assert per_step[Stage.NOISE].useful_flops == 2 * 3 * B * NORMAL_FLOPS


def test_a_delayed_actor_counts_by_its_share() -> None:
    every = update_work([hand_lane("TD3", policy_delay=1, target_period=1)], SPEC)
    third = update_work([hand_lane("TD3", policy_delay=3, target_period=1)], SPEC)
    assert third[Stage.ACTOR_FORWARD].useful_flops == pytest.approx(
        every[Stage.ACTOR_FORWARD].useful_flops / 3
    )
    assert third[Stage.NOISE].useful_flops == pytest.approx(
        every[Stage.NOISE].useful_flops * (3 + 2 / 3) / 5
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
    assert every[Stage.ACTOR_FORWARD].useful_flops == 2 * B * (one_head + CRITIC)


def test_lanes_add_up() -> None:
    lanes = [hand_lane("SAC"), hand_lane("ANF-SAC", input_layer_sparsity=0.5)]
    alone = [total(update_work([lane], SPEC)) for lane in lanes]
    together = total(update_work(lanes, SPEC))
    assert together == pytest.approx(alone[0].plus(alone[1]))
    assert useful_update_flops(lanes, SPEC) == together.useful_flops


@pytest.mark.parametrize("policy", ["SAC", "TD3"])
def test_products_of_a_real_update_agree_with_an_independent_counter(policy: str) -> None:
    # The counter sees products alone; policy_delay 1 puts all of them into one update. Small
    # products of a lone lane are computed twice, so there are two lanes.
    lanes = [make_lane(policy, seed, policy_delay=1) for seed in (0, 1)]
    block = make_block(lanes, 20)
    with FlopCounterMode(display=False) as counter:
        block.learner.update_()
    products = {Stage.TARGET, Stage.CRITIC_FORWARD, Stage.CRITIC_BACKWARD, Stage.ACTOR_FORWARD}
    products.add(Stage.ACTOR_BACKWARD)
    works = update_work(lanes, block.env.spec)
    assert counter.get_total_flops() == sum(works[name].done_flops for name in products)


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
    assert works[Stage.TARGET].useful_flops == 2 * 100 * (actor + 2 * critic)
