"""Broken lanes are found, each once and with its cause, and the other lanes keep every bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from fastanf.block import TrainingBlock
from fastanf.config import TrainConfig
from fastanf.quarantine import NO_CHECKPOINT, are_finite, sound_lanes
from fastanf.sparse.layers import CsrLinear
from tests.helpers import lane_state, make_block, make_lane, unequal_names

BROKEN = 1
NUM_RANDOM, NUM_BEFORE, NUM_AFTER = 40, 6, 10
SMALL = {"hidden": (24, 16), "batch_size": 12, "topology_period": 3, "eval_episodes": 2}
NAN, INF = float("nan"), float("inf")


def lanes_of(policies: Sequence[str], **settings: Any) -> list[TrainConfig]:
    """Lanes of some policies; `settings` are of all, and seeds differ."""
    lanes = []
    for index, policy in enumerate(policies):
        own: dict[str, Any] = {"global_sparsity": 0.7} if policy.startswith("TowS") else {}
        lanes.append(make_lane(policy, 3 + 5 * index, **{**SMALL, **settings, **own}))
    return lanes


def train_(block: TrainingBlock, num_steps: int) -> TrainingBlock:
    """Steps with an update each."""
    for step in range(1, num_steps + 1):
        block.collector.step_(step)
        block.learner.update_()
    return block


def set_weights_to_nan(block: TrainingBlock) -> None:
    """In the middle of training, in every network of a lane."""
    with torch.no_grad():
        for network in block.algorithm.networks().values():
            for parameter in network.parameters():
                parameter.tensor.view(len(block.lanes), -1)[BROKEN] = NAN


def set_replay_to_inf(block: TrainingBlock) -> None:
    for name in ("obs", "reward", "final_obs"):
        getattr(block.replay, name)[BROKEN] = INF


def set_temperature_to_nan(block: TrainingBlock) -> None:
    block.algorithm.further_tensors()["log_temperature"][BROKEN] = NAN


def assert_others_equal(sound: TrainingBlock, broken: TrainingBlock) -> None:
    """Weights, masks, moments, replay, observation statistics, returns and evaluations."""
    L = len(sound.lanes)
    others = [lane for lane in range(L) if lane != BROKEN]
    for lane in others:
        state = lane_state(sound, lane)
        assert all(tensor.isfinite().all() for tensor in state.values())
        assert unequal_names(state, lane_state(broken, lane)) == []
    statistics = [block.features.state_dict() for block in (sound, broken)]
    for name, tensor in statistics[0].items():
        at = others if tensor.ndim else ...
        assert torch.equal(tensor[at], statistics[1][name][at]), name
    assert torch.equal(sound.collector.returns[others], broken.collector.returns[others])
    finished = [block.collector.take_finished() for block in (sound, broken)]
    returns = [block.evaluate() for block in (sound, broken)]
    for lane in others:
        assert finished[0][lane] == finished[1][lane]
        assert np.array_equal(returns[0][lane], returns[1][lane])


CASES: dict[str, list[TrainConfig]] = {
    "SAC, masked": lanes_of(
        ["SAC", "ANF-SAC", "TowS-SAC", "DS-SAC", "Static-SAC"], layout="masked"
    ),
    "TD3, masked": lanes_of(["TD3", "ANF-TD3", "TowS-TD3", "DS-TD3"], layout="masked"),
    "SAC, csr": lanes_of(["ANF-SAC", "ANF-SAC", "Static-SAC"], layout="csr"),
    "TD3, csr": lanes_of(["TowS-TD3"] * 3, layout="csr"),
    "RigL": lanes_of(["ANF-SAC"] * 3, topology="rigl"),
    "RigL of TD3, whose actor waits": lanes_of(["ANF-TD3"] * 3, topology="rigl"),
    "pruning": lanes_of(["ANF-TD3"] * 3, topology="pruning", max_timesteps=60),
    "pruning beside SET": [
        *lanes_of(["ANF-SAC"] * 2, topology="pruning", max_timesteps=60, layout="masked"),
        *lanes_of(["ANF-SAC", "SAC"], max_timesteps=60, layout="masked"),
    ],
    "trimmed targets": lanes_of(["TowS-SAC"] * 3, target_sparsity="trim"),
    "normalised observations": lanes_of(["ANF-SAC"] * 3, normalize_observations=True),
    "layer norm": lanes_of(["ANF-TD3"] * 3, layer_norm=True),
    "gates": lanes_of(["ANF-SAC"] * 3, input_gate=True, layout="masked"),
    "penalties": lanes_of(["SAC"] * 3, input_l1=1e-3, input_group_lasso=1e-3),
    "tuned temperature": lanes_of(["ANF-SAC"] * 3, automatic_temperature=True),
    "stochastic gradient descent": lanes_of(["ANF-SAC"] * 3, optimizer="SGD"),
    "environments that share a lane": lanes_of(
        ["ANF-SAC"] * 3, envs_per_lane=3, noise_redraw="per_step", permute_period=9
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_lane_that_breaks_in_mid_training_leaves_the_others_every_bit(case: str) -> None:
    blocks = [make_block(CASES[case], NUM_RANDOM) for _ in range(2)]
    for block in blocks:
        train_(block, NUM_BEFORE)
    set_weights_to_nan(blocks[1])
    for block in blocks:
        train_(block, NUM_AFTER)
    sound, broken = blocks
    update = NUM_BEFORE + NUM_AFTER
    cause = f"critic loss is inf or nan at update {update} or before"
    assert broken.learner.watch.broken(update) == {BROKEN: cause}
    assert sound.learner.watch.broken(update) == {} == sound.learner.watch.unsound(update)
    assert_others_equal(sound, broken)


@pytest.mark.parametrize("case", ["SAC, masked", "TD3, masked", "SAC, csr", "TD3, csr"])
def test_learning_rate_that_diverges_leaves_the_others_every_bit(case: str) -> None:
    lanes = list(CASES[case])
    sound = train_(make_block(lanes, NUM_RANDOM), NUM_BEFORE + NUM_AFTER)
    lanes[BROKEN] = lanes[BROKEN].replace(learning_rate=1e30)
    broken = train_(make_block(lanes, NUM_RANDOM), NUM_BEFORE + NUM_AFTER)
    found = broken.learner.watch.broken(16)
    assert set(found) == {BROKEN} and found[BROKEN].startswith("critic loss is ")
    assert_others_equal(sound, broken)


@pytest.mark.parametrize("break_", [set_replay_to_inf, set_temperature_to_nan])
@pytest.mark.parametrize("layout", ["masked", "csr"])
def test_other_ways_to_break_are_found_too(
    layout: str, break_: Callable[[TrainingBlock], None]
) -> None:
    lanes = lanes_of(["ANF-SAC"] * 3, layout=layout, automatic_temperature=True)
    sound, broken = (make_block(lanes, NUM_RANDOM) for _ in range(2))
    break_(broken)
    for block in (sound, broken):
        train_(block, NUM_AFTER)
    assert set(broken.learner.watch.broken(NUM_AFTER)) == {BROKEN}
    assert_others_equal(sound, broken)


@pytest.mark.parametrize("layout", ["masked", "csr"])
def test_broken_lane_keeps_its_numbers_of_connections(layout: str) -> None:
    lanes = lanes_of(["ANF-SAC"] * 3, layout=layout, topology_period=1)
    block = train_(make_block(lanes, NUM_RANDOM), 2)
    layers = [mlp.layers[0] for mlp in block.algorithm.networks().values()]
    assert all(isinstance(layer, CsrLinear) == (layout == "csr") for layer in layers)
    before = [layer.active().clone() for layer in layers]
    set_weights_to_nan(block)
    train_(block, NUM_AFTER)
    for layer, active in zip(layers, before, strict=True):
        mask = layer.connection_mask()
        assert mask is not None
        assert torch.equal(layer.active(), active)
        assert torch.equal(mask.flatten(1).sum(1), active)


def test_sound_lanes_are_never_stopped() -> None:
    block = train_(make_block(CASES["SAC, masked"], NUM_RANDOM), NUM_AFTER)
    watch = block.learner.watch
    assert watch.broken(NUM_AFTER) == {} == watch.unsound(NUM_AFTER)
    assert watch.check_returns(block.evaluate()) == {}
    assert watch.are_recorded == [True] * 5
    assert sound_lanes(block.algorithm).tolist() == [True] * 5


@pytest.mark.parametrize("policy", ["SAC", "TD3"])
def test_loss_that_was_not_finite_once_is_remembered(policy: str) -> None:
    block = train_(make_block(lanes_of([policy] * 3), NUM_RANDOM), 2)
    watch, seen = block.learner.watch, block.algorithm.seen
    assert seen.critic is not None and seen.actor is not None
    seen.critic[1][0, 1, 3] = 2e19  # finite, but its square is no float32
    seen.actor[0][2, 5] = -INF
    watch.see_(actor_moved=True)
    train_(block, 2)
    actor_loss = {2: "actor loss is inf or nan at update 1,234 or before"}
    assert (
        watch.broken(1234)
        == {0: "critic loss is inf or nan at update 1,234 or before"} | actor_loss
    )
    assert watch.broken(1235) == {}
    assert watch.are_recorded == [False, True, False]


def test_finite_losses_stop_no_lane_though_their_sum_is_beyond_float32() -> None:
    block = train_(make_block(lanes_of(["SAC"] * 2), NUM_RANDOM), 2)
    watch, seen = block.learner.watch, block.algorithm.seen
    assert seen.critic is not None and seen.actor is not None
    seen.critic[1][:] = -1.8e19
    for part in seen.actor:
        part[:] = -3.4e38
    for _ in range(3):
        watch.see_(actor_moved=True)
    assert watch.broken(2) == {}


def test_actor_that_did_not_move_is_not_looked_at() -> None:
    block = train_(make_block(lanes_of(["TD3"] * 2), NUM_RANDOM), 2)
    assert block.algorithm.seen.actor is not None
    block.algorithm.seen.actor[0][:] = NAN
    block.learner.watch.see_(actor_moved=False)
    assert block.learner.watch.broken(2) == {}
    block.learner.watch.see_(actor_moved=True)
    cause = "actor loss is inf or nan at update 2 or before"
    assert block.learner.watch.broken(2) == {0: cause, 1: cause}


@pytest.mark.parametrize("layout", ["masked", "csr"])
def test_tensor_that_is_not_finite_is_found_where_no_loss_shows_it(layout: str) -> None:
    block = train_(make_block(lanes_of(["ANF-SAC"] * 3, layout=layout), NUM_RANDOM), 2)
    algorithm, watch = block.algorithm, block.learner.watch
    with torch.no_grad():
        algorithm.critic_optimizer.exp_avg_sq[0][2 * BROKEN + 1].view(-1)[3] = INF
        algorithm.actor_mlp.layers[1].bias[2, 3] = -INF
        algorithm.actor_optimizer.exp_avg[2][2] = NAN
    assert sound_lanes(algorithm).tolist() == [True, False, False]
    assert watch.broken(7) == {}
    assert watch.unsound(7) == {
        1: "critic.0.weight.exp_avg_sq holds inf or nan after update 7",
        2: "actor.1.bias and 1 more hold inf or nan after update 7",
    }
    assert watch.unsound(8) == {}
    assert watch.broken(8) == {}


@pytest.mark.parametrize("shape", [(3,), (3, 1), (6, 5), (12, 7, 171), (3, 2, 0)])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_finite_lanes_are_those_without_any_other_number(
    shape: tuple[int, ...], value: float
) -> None:
    tensor = torch.full(shape, 3.4e38)  # a sum of these would not be finite
    assert are_finite([tensor], 3).tolist() == [[True] * 3]
    for place in range(0, tensor.numel(), 11):
        broken = tensor.clone()
        broken.view(-1)[place] = value
        lane = place // (tensor.numel() // 3)
        assert are_finite([tensor, broken], 3)[1].tolist() == [k != lane for k in range(3)]


def test_returns_stop_a_lane_if_one_is_infinite_or_all_are_nan() -> None:
    watch = make_block(lanes_of(["SAC"] * 5)).learner.watch
    returns = np.array([[1.0, 2.0], [NAN, 5.0], [NAN, NAN], [4.0, -INF], [INF, NAN]])
    causes = {
        2: "return is nan in all 2 episodes of an evaluation",
        3: "return is -inf in an evaluation",
        4: "return is inf in an evaluation",
    }
    assert watch.check_returns(returns) == causes == watch.stopped
    assert watch.check_returns(returns) == {}
    assert watch.are_recorded == [True, True, False, False, False]


def test_last_good_checkpoint_is_the_last_one_before_a_lane_broke() -> None:
    block = train_(make_block(lanes_of(["SAC"] * 3), NUM_RANDOM), 1)
    watch = block.learner.watch
    assert watch.checkpoint_steps == [NO_CHECKPOINT] * 3
    watch.note_checkpoint_(100, 1)
    with torch.no_grad():
        block.algorithm.actor_mlp.layers[0].bias[BROKEN, 0] = NAN
    watch.note_checkpoint_(200, 1)  # before anybody has found out
    assert watch.checkpoint_steps == [200, 100, 200]
    watch.restore_({0: "return is inf in an evaluation"})
    watch.note_checkpoint_(300, 1)
    assert watch.checkpoint_steps == [200, 100, 300]


def test_what_was_seen_survives_a_checkpoint() -> None:
    lanes = lanes_of(["TD3"] * 3)
    block = train_(make_block(lanes, NUM_RANDOM), 2)
    assert block.algorithm.seen.critic is not None
    block.algorithm.seen.critic[1][2] = INF
    block.learner.watch.see_(actor_moved=False)
    block.replay.is_barren[0] = 1
    block.learner.watch.note_checkpoint_(50, 2)
    resumed = make_block(lanes, NUM_RANDOM)
    resumed.learner.load_state_dict_(block.learner.state_dict())
    watch = resumed.learner.watch
    assert watch.checkpoint_steps == [NO_CHECKPOINT, 50, NO_CHECKPOINT]
    watch.restore_({2: "critic loss is inf or nan at update 2 or before"})
    assert watch.broken(3) == {0: "simulation breaks down in nearly every step"}
    other = make_block(lanes[:2], NUM_RANDOM).learner.watch
    with pytest.raises(ValueError, match=r"^watch.marks has shape \(3, 2\); .* \(2, 2\)$"):
        other.load_state_dict_(block.learner.watch.state_dict())


@pytest.mark.parametrize("num_before", [3, 8, 9])
def test_resumed_run_finds_a_broken_lane_when_the_unbroken_one_does(num_before: int) -> None:
    """It is looked after updates 4 and 12, wherever the checkpoint falls."""
    lanes = lanes_of(["ANF-SAC", "SAC", "Static-SAC"], layout="masked")
    lanes[BROKEN] = lanes[BROKEN].replace(learning_rate=1e30)
    reports: list[dict[int, dict[int, str]]] = []
    for checkpoints in ([], [num_before]):
        block, found = make_block(lanes, NUM_RANDOM), {}
        for update in range(1, 13):
            train_(block, 1)
            if update in (4, 12):
                found[update] = block.learner.watch.broken(update)
            if update in checkpoints:
                resumed = make_block(lanes, NUM_RANDOM)
                resumed.learner.load_state_dict_(block.learner.state_dict())
                resumed.learner.watch.restore_(block.learner.watch.stopped)
                for _ in range(update):
                    resumed.collector.random_step_()
                block = resumed
        reports.append(found)
    assert reports[0] == reports[1]
    assert set(reports[0][4] | reports[0][12]) == {BROKEN}
