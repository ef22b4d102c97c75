"""Layer norm, normalised observations, input penalties and gates in training: each leaves lanes
independent to the bit, learns in recorded graphs and beside steps that are under way, is saved and
goes on, and whole runs train with it and without.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastanf import runner
from fastanf.__main__ import main
from fastanf.block import TrainingBlock
from fastanf.cli import parse_command_line
from fastanf.collect import train_step_
from fastanf.config import TrainConfig
from fastanf.grouping import block_of
from fastanf.memory import block_memory
from fastanf.networks import lane_networks
from fastanf.sparse.layers import CsrLinear
from tests import fake_env
from tests.helpers import (
    all_state,
    copy_block,
    lane_state,
    make_block,
    make_lane,
    saved,
    unequal_names,
)
from tests.interruptions import records, rows_of, signal_at_update

RIVALS: dict[str, dict[str, Any]] = {
    "norm": {"layer_norm": True},
    "learned activation": {"layer_norm": True, "activation": "srelu"},
    "observations": {"normalize_observations": True},
    "l1": {"input_l1": 0.01},
    "group lasso": {"input_group_lasso": 0.02},
    "gate": {"input_gate": True},
    "all": {
        "layer_norm": True, "normalize_observations": True, "input_l1": 0.01,
        "input_group_lasso": 0.02, "input_gate": True, "noise_redraw": "per_step",
    },
}  # fmt: skip
NEEDS_MASKED = {"group lasso", "gate", "all"}
POLICIES = ("ANF-{}", "{}", "Static-{}")

rivals = pytest.mark.parametrize("rival", RIVALS)
algorithms = pytest.mark.parametrize("algorithm", ["SAC", "TD3"])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lanes_of(algorithm: str, rival: str, **settings: Any) -> list[TrainConfig]:
    """Three lanes, the last one without the penalties that the others have."""
    shared: dict[str, Any] = {
        "env": "Cheetah-v0", "hidden": (48, 31), "topology_period": 5, "layout": "masked",
        **RIVALS[rival], **settings,
    }  # fmt: skip
    policies = POLICIES if shared["layout"] == "masked" else ("ANF-{}", "Static-{}", "ANF-{}")
    lanes = []
    for index, policy in enumerate(policies):
        own: dict[str, Any] = {"noise_std": 1.0 + index}
        if index == 2:
            own |= {name: 0.0 for name in ("input_l1", "input_group_lasso") if name in shared}
        if shared["layout"] == "csr":
            own["input_layer_sparsity"] = (0.8, 0.7, 0.9)[index]
        lanes.append(make_lane(policy.format(algorithm), 50 + 7 * index, **{**shared, **own}))
    return lanes


def train(lanes: Sequence[TrainConfig], num_random: int = 40, num_steps: int = 15) -> TrainingBlock:
    block = make_block(lanes, num_random)
    go_on_(block, range(1, num_steps + 1))
    return block


def go_on_(block: TrainingBlock, steps: range) -> None:
    for step in steps:
        train_step_(block.collector, block.learner, step, 1)


def state_of(block: TrainingBlock, lane: int) -> dict[str, Tensor]:
    state, statistics = lane_state(block, lane), block.features.statistics
    if statistics is not None:
        state |= {"mean": statistics.mean[lane], "squares": statistics.squares[lane]}
    return state


def assert_same_lane(one: TrainingBlock, lane: int, other: TrainingBlock, other_lane: int) -> None:
    state = state_of(one, lane)
    assert all(tensor.isfinite().all() for tensor in state.values())
    assert unequal_names(state, state_of(other, other_lane)) == []


@rivals
@algorithms
def test_a_lane_and_its_evaluation_are_the_same_alone_and_on_two_threads(
    algorithm: str, rival: str
) -> None:
    lanes = lanes_of(algorithm, rival)
    together = train(lanes)
    returns = together.evaluate()
    torch.set_num_threads(2)
    for lane in range(3):
        alone = train([lanes[lane]])
        assert_same_lane(together, lane, alone, 0)
        np.testing.assert_array_equal(alone.evaluate()[0], returns[lane])


@pytest.mark.parametrize("rival", [name for name in RIVALS if name not in NEEDS_MASKED])
@algorithms
def test_a_lane_with_csr_layers_is_the_same_alone(algorithm: str, rival: str) -> None:
    lanes = lanes_of(algorithm, rival, layout="csr")
    together = train(lanes)
    assert isinstance(together.algorithm.critic.mlp.layers[0], CsrLinear)
    for lane in range(3):
        assert_same_lane(together, lane, train([lanes[lane]]), 0)


@rivals
def test_order_of_lanes_does_not_matter_while_features_change_places(rival: str) -> None:
    lanes = lanes_of("SAC", rival, permute_period=5, permute_replay=False, envs_per_lane=3)
    forward, backward = train(lanes), train(lanes[::-1])
    assert forward.features.source is not None
    for lane in range(3):
        assert_same_lane(forward, lane, backward, 2 - lane)


@rivals
@algorithms
def test_broken_lanes_leave_a_lane_unchanged(algorithm: str, rival: str) -> None:
    lanes = lanes_of(algorithm, rival)
    sound, broken = train(lanes), train(lanes)
    others = torch.tensor([True, False, True])
    with torch.no_grad():
        for network in broken.algorithm.networks().values():
            for _, tensor, _ in network.parameters():
                tensor.view(3, -1)[others] = float("nan")
        for kept in ("obs", "action", "reward", "final_obs"):
            getattr(broken.replay, kept)[others] = float("nan")
    for block in (sound, broken):
        go_on_(block, range(16, 31))
    assert_same_lane(sound, 1, broken, 1)
    assert not broken.algorithm.losses.critic[others].isfinite().any()


@rivals
def test_a_setting_changes_the_lanes_that_have_it_and_no_other(rival: str) -> None:
    lanes, names = lanes_of("SAC", rival), RIVALS[rival]
    defaults = {name: TrainConfig().get(name) for name in names}
    penalties = names.keys() & {"input_l1", "input_group_lasso"}
    with_all, without = train(lanes), train([lane.replace(**defaults) for lane in lanes])
    bare = train([lane.replace(**dict.fromkeys(penalties, 0.0)) for lane in lanes])
    for lane in range(3):
        learned = with_all.algorithm.critic.mlp.layers[0].to_dense().view(3, -1)[lane]
        plain, no_penalty = (
            block.algorithm.critic.mlp.layers[0].to_dense().view(3, -1)[lane]
            for block in (without, bare)
        )
        is_changed = lane != 2 or names.keys() > penalties
        assert torch.equal(learned, plain) == (not is_changed)
        assert torch.equal(learned, no_penalty) == (lane == 2 or not penalties)


@rivals
@algorithms
def test_a_checkpoint_goes_on_as_if_nothing_had_happened(
    algorithm: str, rival: str, tmp_path: Path
) -> None:
    unbroken = train(lanes_of(algorithm, rival))
    resumed = copy_block(unbroken, tmp_path)
    assert not unequal_names(all_state(unbroken), all_state(resumed))
    for block in (unbroken, resumed):
        go_on_(block, range(16, 31))
    assert not unequal_names(all_state(unbroken), all_state(resumed))
    assert (unbroken.evaluate() == resumed.evaluate()).all()


def test_a_checkpoint_without_statistics_is_refused_where_they_are_needed(tmp_path: Path) -> None:
    with_them, without = (
        make_block([make_lane("SAC", 0, normalize_observations=value)], 20)
        for value in (True, False)
    )
    with pytest.raises(ValueError, match="checkpoint lacks 'observed'"):
        with_them.restore_(saved(without, tmp_path))


@rivals
@algorithms
def test_updates_beside_a_step_give_what_updates_after_it_give(
    algorithm: str, rival: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_env.register(monkeypatch)
    tiny = {"env": fake_env.ROWS_ENV_ID, "backend": "fake", "hidden": (8, 5), "batch_size": 4}
    blocks = []
    for overlaps in (True, False):
        block = make_block(lanes_of(algorithm, rival, **tiny), 30)
        block.collector.overlaps_updates = overlaps
        blocks.append(block)
        go_on_(block, range(1, 61))
    assert not unequal_names(*map(all_state, blocks))
    assert (blocks[0].evaluate() == blocks[1].evaluate()).all()


@pytest.mark.parametrize("rival", ["norm", "gate", "all"])
@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_parameters_and_memory_are_counted(algorithm: str, rival: str) -> None:
    (lane,) = lanes_of(algorithm, rival, hidden=(64, 48))[1:2]
    block = make_block([lane], 20)
    block.learner.update_()
    networks = block.algorithm.networks()
    actor, critic = lane_networks(lane, block.env.spec)
    counted = {"actor": actor.num_total, "critic": 2 * critic.num_total}
    held = {
        name: sum(parameter.tensor.numel() for parameter in network.parameters())
        for name, network in networks.items()
    }
    assert held == {name: counted[name.removeprefix("target_")] for name in held}
    estimate = block_memory(block_of([lane]))
    assert estimate.weights == 4 * sum(held.values())
    assert estimate.moments == 3 * 4 * (held["actor"] + held["critic"])
    plain = lane.replace(**{name: TrainConfig().get(name) for name in RIVALS[rival]})
    assert estimate.work > block_memory(block_of([plain])).work
    extra = [0, 0]
    for index, network in enumerate((actor, critic)):
        extra[index] = network.num_total - lane_networks(plain, block.env.spec)[index].num_total
    norms = 2 * (64 + 48) * lane.network.layer_norm
    assert extra == [norms + block.features.num_features * lane.network.input_gate] * 2


@rivals
@algorithms
def test_whole_runs_train_are_interrupted_and_go_on(
    algorithm: str, rival: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_env.register(monkeypatch)
    monkeypatch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())
    path = tmp_path / "run"
    command = [
        "--plain", "--policy", algorithm, f"ANF-{algorithm}", "--env", fake_env.ROWS_ENV_ID,
        "--backend", "fake", "--hidden", "8x5", "--batch_size", "4", "--noise_fraction", "0.7",
        "--max_timesteps", "20", "--start_timesteps", "9", "--eval_freq", "10",
        "--eval_episodes", "2", "--tensorboard", "false", "--device", "cpu",
        "--topology_period", "3", "--layout", "masked", "--run_dir", str(path),
    ]  # fmt: skip
    for name, value in RIVALS[rival].items():
        command += [f"--{name}", str(value).lower()]
    whole = tmp_path / "whole"
    elsewhere = [str(whole) if word == str(path) else word for word in command]
    assert runner.train(parse_command_line(elsewhere)) == 0
    with signal_at_update(15):
        assert runner.train(parse_command_line(command)) == runner.EXIT_INTERRUPTED
    assert main(["resume", str(path)]) == 0
    assert [row["step"] for row in rows_of(path, "eval.csv")] == ["10", "10", "20", "20"]
    assert records(path) == records(whole)
    for row in rows_of(path, "train.csv"):
        assert all(np.isfinite(float(row[name])) for name in ("critic_loss", "q_mean"))
    for row in rows_of(path, "lanes.csv"):
        for name, value in RIVALS[rival].items():
            assert row[name].lower() == str(value).lower()
