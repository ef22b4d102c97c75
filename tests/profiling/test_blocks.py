"""Blocks for measuring: their lanes, what rows say about them, their filled replay."""

from __future__ import annotations

import blocks
import pytest
import torch

import envs
from fastanf.block import TrainingBlock
from fastanf.grouping import Block
from fastanf.replay import replay_bytes
from tests.helpers import CPU, make_block, make_lane, replay_content

SMALL = ["--env", "Small-v0", "--backend", "random", "--hidden", "8", "--replay_capacity", "400",
         "--batch_size", "8", "--num_threads", "1", "--device", "cpu"]  # fmt: skip


def test_lanes_are_dealt_evenly_over_the_policies() -> None:
    described = blocks.parse_lanes([*SMALL, "--policy", "ANF-SAC", "SAC"], 3)
    lanes = blocks.deal(described.by_policy, 3)
    assert [(lane.algorithm.policy, lane.algorithm.seed) for lane in lanes] == [
        ("ANF-SAC", 0), ("SAC", 0), ("ANF-SAC", 1),
    ]  # fmt: skip


def test_policies_of_different_layouts_are_no_block(monkeypatch: pytest.MonkeyPatch) -> None:
    masked, csr = (
        [make_lane(policy, 0, layout=layout) for policy in ("ANF-SAC", "SAC")]
        for layout in ("masked", "csr")
    )
    blocks.check_one_block(masked, CPU, "profile")
    with pytest.raises(ValueError, match=r"got ANF-SAC SAC, .* profile one policy at a time"):
        blocks.check_one_block(csr, CPU, "profile")
    assert [blocks.layout_text(lanes, CPU) for lanes in (masked, csr)] == ["masked", "csr"]
    # An earlier revision knows one layout only.
    monkeypatch.delattr(Block, "layouts")
    blocks.check_one_block(csr, CPU, "profile")
    assert blocks.layout_text(csr, CPU) == "masked"


@pytest.mark.parametrize(
    ("flags", "sparsity", "settings"),
    [
        ("--policy SAC Static-SAC --input_layer_sparsity 0", "dense", ""),
        ("--policy TowS-TD3 --global_sparsity 0.3", "global 0.3", ""),
        ("--policy SAC ANF-SAC", "input 0.8", ""),
        ("--global_sparsity 0.3 --input_layer_sparsity 0.5", "global 0.3, input 0.5", ""),
        ("--noise_redraw per_step --zeta 0.1", "input 0.8", " drop_fraction=0.1"),
    ],
)
def test_rows_say_what_the_work_depends_on(flags: str, sparsity: str, settings: str) -> None:
    given = [*SMALL, "--fake_features", "0.5", *flags.split()]
    described = blocks.parse_lanes(given, 2)
    point = blocks.block_sizes(blocks.deal(described.by_policy, 2), CPU)
    assert point["sparsity"] == sparsity
    redraw = "noise_redraw=per_step " if "redraw" in flags else ""
    assert point["settings"] == f"{redraw}hidden=8{settings}"


def transitions(block: TrainingBlock, lane: int) -> list[tuple]:
    """All that the replay holds of a lane, oldest first, ids left out."""
    batch = replay_content(block.replay)
    parts = (batch.obs, batch.action, batch.reward, batch.not_terminated, batch.next_obs)
    flat = [part[lane].reshape(part.shape[1], -1) for part in parts]
    return [tuple(row) for row in torch.cat(flat, 1).tolist()]


@pytest.mark.parametrize("envs_per_lane", [1, 3])
def test_filled_replay_holds_made_transitions_only(envs_per_lane: int) -> None:
    lanes = [make_lane("ANF-SAC", seed, envs_per_lane=envs_per_lane, replay_capacity=600)
             for seed in (0, 1)]  # fmt: skip
    block = make_block(lanes, num_random_steps=37)
    made = [transitions(block, lane) for lane in (0, 1)]
    newest = block.replay.obs[:, block.replay.time].clone()
    blocks.fill_replay_(block, 500)
    assert block.replay.size == 500 // envs_per_lane * envs_per_lane
    for lane in (0, 1):
        found = transitions(block, lane)
        assert set(found) == set(made[lane])
        assert found[-len(made[lane]) :] == made[lane]
    assert torch.equal(block.replay.obs[:, block.replay.time], newest)


def test_filled_replay_may_wrap_around_later() -> None:
    block = make_block([make_lane("SAC", 0, replay_capacity=200)], num_random_steps=37)
    blocks.fill_replay_(block, 200)
    made = set(transitions(block, 0))
    for _ in range(150):
        block.collector.random_step_()
    after = transitions(block, 0)
    assert set(after[:50]) <= made
    # Every end of an episode has a row of its own.
    slots = block.replay.final_slot[block.replay.final_slot >= 0].tolist()
    assert len(slots) == len(set(slots)) > 0
    block.learner.update_()


def test_replay_that_wrapped_or_is_full_is_not_filled() -> None:
    block = make_block([make_lane("SAC", 0, replay_capacity=20)], num_random_steps=30)
    with pytest.raises(ValueError, match="1 to 20 lock steps, got 30"):
        blocks.fill_replay_(block, 20)
    block = make_block([make_lane("SAC", 0, replay_capacity=20)], num_random_steps=20)
    before = transitions(block, 0)
    blocks.fill_replay_(block, 20)
    assert transitions(block, 0) == before


@pytest.mark.parametrize(
    ("free", "num_lanes", "capacity"),
    [(1e12, 4, 100_000), (1e9, 64, 80_000), (1e3, 64, 256)],
)
def test_replays_of_all_lanes_fit_the_free_memory(
    free: float, num_lanes: int, capacity: int, monkeypatch
) -> None:
    monkeypatch.setattr(blocks, "available_bytes", lambda device: int(free))
    spec = envs.spec("Cheetah-v0", "random")
    lane = make_lane("SAC", 0)
    found = blocks.replay_capacity(lane, spec, num_lanes, CPU)
    assert found <= 100_000
    if capacity == 80_000:
        assert found > 256
        assert num_lanes * replay_bytes(found, 17, 6) < 0.4 * free
    else:
        assert found == capacity


@pytest.mark.parametrize(
    ("flags", "gives"),
    [
        (["--buffer-size", "5"], True),
        (["--replay_capacity=5"], True),
        (["--batch_size", "5", "--lanes"], False),
    ],
)
def test_flags_that_give_a_capacity_are_recognized(flags: list[str], gives: bool) -> None:
    assert blocks.gives_capacity(flags) is gives


def test_block_has_a_full_replay_however_small_it_is() -> None:
    for capacity in (20, 1000):
        block = blocks.make_block([make_lane("SAC", 0, replay_capacity=capacity,
                                             max_timesteps=10_000)], CPU)  # fmt: skip
        assert block.replay.size == capacity
