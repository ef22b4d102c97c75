"""What a study is going to train, and whether it fits, before it starts."""

import pytest

from fastanf.grouping import make_blocks
from fastanf.memory import MIB, block_memory
from fastanf.plan import Plan, make_plan
from fastanf.presets import expand


def test_the_largest_block_decides() -> None:
    lanes = expand(["SAC"], envs=["Hopper-v3", "Humanoid-v3", "Ant-v3"]).lanes
    plan = Plan(make_blocks(lanes), "cpu", available=10 * 2**30)
    assert plan.needed == block_memory(plan.blocks[1]).total
    plan.check_memory()


def test_too_little_memory_names_a_replay_that_fits() -> None:
    blocks = make_blocks(expand(["ANF-SAC"], num_seeds=4).lanes)
    available = 200 * MIB
    with pytest.raises(ValueError) as caught:
        Plan(blocks, "cpu", available).check_memory()
    message = str(caught.value)
    assert message.startswith("replay_capacity 1000000 with 4 lanes in block 1 needs more ")
    fits = int(message.split("--replay_capacity ")[1].split()[0])
    assert block_memory(blocks[0], fits).total <= available
    assert block_memory(blocks[0], int(fits * 1.1)).total > available


def test_where_no_replay_fits_fewer_lanes_are_advised() -> None:
    blocks = make_blocks(expand(["ANF-SAC"], num_seeds=4).lanes)
    with pytest.raises(ValueError, match="--num_seeds"):
        Plan(blocks, "cpu", 1 * MIB).check_memory()


def test_devices_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"device must be one of auto, cpu.*got 'tpu'"):
        make_plan((), "tpu")


def test_the_text_groups_like_lanes() -> None:
    overrides = {"noise_fraction": 0.9}
    lanes = expand(
        ["ANF-SAC", "SAC", "TD3"], {"drop_fraction": [0.1, 0.2]}, 4, overrides, first_seed=2
    ).lanes
    text = make_plan(make_blocks(lanes), "cpu", ["a note"]).text()
    lines = text.splitlines()
    assert lines[0] == "plan: 16 lanes in 2 blocks"
    assert sum(line.startswith("  ANF-SAC ") for line in lines) == 1
    assert any(line.split()[:4] == ["ANF-SAC", "8", "2-5", "actor"] for line in lines)
    assert "170x256 0.2 " in text
    assert "77,836/112,652" in text
    assert "170 features (17 real, 153 noise)" in text
    assert "variants: drop_fraction=0.1; drop_fraction=0.2" in text
    assert lines[-1] == "note: a note"
    assert len(lines) < 25


def test_a_raised_global_level_is_told() -> None:
    overrides = {"input_layer_sparsity": 0.8, "global_sparsity": 0.1, "noise_fraction": 0.9}
    plan = make_plan(make_blocks(expand(["ANF-SAC"], overrides=overrides).lanes), "cpu")
    assert any("raises the actor's global sparsity from 0.1 to 0.3" in note for note in plan.notes)
    assert not make_plan(make_blocks(expand(["ANF-SAC"]).lanes), "cpu").notes
