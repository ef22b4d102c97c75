"""What a study is going to train, and whether it fits, before it starts."""

import ctypes

import pytest

from fastanf import kernels
from fastanf.grouping import make_blocks
from fastanf.memory import MIB, block_memory, resolve_device
from fastanf.plan import Plan, make_plan
from fastanf.presets import expand

FREE = 2**40
"""Bytes, more than any block needs."""


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layouts are those of a machine with compiled kernels; nothing here computes with them."""
    monkeypatch.setattr(kernels, "NATIVE", ctypes.CDLL(None))


def test_the_largest_block_decides() -> None:
    lanes = expand(["SAC"], envs=["Hopper-v3", "Humanoid-v3", "Ant-v3"]).lanes
    plan = Plan(make_blocks(lanes), "cpu", available=10 * 2**30)
    assert plan.needed == block_memory(plan.blocks[1]).total
    plan.check_memory()


def test_too_little_memory_names_a_replay_that_fits() -> None:
    blocks = make_blocks(expand(["ANF-SAC"], num_seeds=4).lanes)
    available = 400 * MIB
    with pytest.raises(ValueError) as caught:
        Plan(blocks, "cpu", available).check_memory()
    message = str(caught.value)
    assert message.startswith("replay_capacity 1000000 with 4 lanes in block 1 needs more ")
    fits = int(message.split("--replay_capacity ")[1].split()[0])
    assert block_memory(blocks[0], fits).total <= available
    assert block_memory(blocks[0], int(fits * 1.1)).total > available


def test_where_no_replay_fits_smaller_networks_are_advised() -> None:
    blocks = make_blocks(expand(["ANF-SAC"]).lanes)
    with pytest.raises(ValueError, match=r"even the smallest replay with 1 lane .*--hidden"):
        Plan(blocks, "cpu", 1 * MIB).check_memory()


def test_a_block_that_stands_in_a_folder_is_told_apart_where_it_does_not_fit() -> None:
    blocks = make_blocks(expand(["ANF-SAC"], num_seeds=4).lanes)
    with pytest.raises(ValueError, match=r"with 4 lanes in block 1 .*another machine"):
        Plan(blocks, "cpu", 200 * MIB, num_fixed=1).check_memory()


def test_a_limit_of_addresses_is_held_against_what_is_reserved_too() -> None:
    blocks = make_blocks(expand(["ANF-SAC"]).lanes)
    needed = block_memory(blocks[0])
    Plan(blocks, "cpu", FREE, address_space=needed.total + needed.addresses).check_memory()
    limited = make_plan(blocks, "cpu", FREE, address_space=20 * MIB)
    assert "free on cpu, 20.0 MiB left to reserve (ulimit)" in limited.text()
    tight = Plan(blocks, "cpu", FREE, address_space=needed.addresses + needed.total - 20 * MIB)
    with pytest.raises(ValueError, match=r"free within ulimit .*; allowed is --replay_capacity"):
        tight.check_memory()
    with pytest.raises(ValueError, match=r"the 0\.0 MiB free within ulimit .*--hidden"):
        Plan(blocks, "cpu", FREE, address_space=MIB).check_memory()


def test_a_gpu_wants_memory_of_the_host_too() -> None:
    lanes = expand(["SAC"], overrides={"envs_per_lane": 64}).lanes
    blocks = make_blocks(lanes, "cuda")
    needed = block_memory(blocks[0]).host_total
    enough = make_plan(blocks, "cuda", FREE, host_available=needed)
    enough.check()
    host = f"{needed / MIB:,.1f} MiB"
    assert f"free on cuda; {host} of the host's, {host} free" in enough.text()
    assert "simulators and libraries on the host" in enough.text()
    with pytest.raises(ValueError, match=r"memory of the host than the .*--envs_per_lane"):
        make_plan(blocks, "cuda", FREE, host_available=needed - 1).check()


def test_devices_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"device must be one of auto, cpu.*got 'tpu'"):
        resolve_device("tpu")


def test_the_text_groups_like_lanes() -> None:
    overrides = {"noise_fraction": 0.9}
    lanes = expand(
        ["ANF-SAC", "SAC", "TD3"], {"drop_fraction": [0.1, 0.2]}, 4, overrides, first_seed=2
    ).lanes
    text = make_plan(make_blocks(lanes), "cpu", FREE, ["a note"]).text()
    lines = text.splitlines()
    assert lines[0] == "plan: 16 lanes in 3 blocks"
    assert sum(line.startswith("  ANF-SAC ") for line in lines) == 1
    assert any(line.split()[:4] == ["ANF-SAC", "8", "2-5", "actor"] for line in lines)
    assert "170x256 0.2 csr  256x256 1  256x12 1  " in text
    assert "77,836/112,652" in text
    assert "170 features (17 real, 153 noise)" in text
    assert "variants: drop_fraction=0.1; drop_fraction=0.2" in text
    assert lines[-1] == "note: a note"
    assert len(lines) < 34


def test_the_text_says_why_sparse_layers_are_stored_as_they_are() -> None:
    lanes = expand(["ANF-SAC", "SAC", "TowS-SAC"], overrides={"noise_fraction": 0.9}).lanes
    anf, dense, tows = make_plan(make_blocks(lanes), "cpu", FREE).text().split("\n\n")[1:4]
    reason = (
        "  layout: csr below a density of 0.6, where it was measured to be faster "
        "(profiling/README.md)"
    )
    for sparse in (anf, tows):
        assert sparse.splitlines().count(reason) == 1
    assert "layout" not in dense and "csr" not in dense
    assert (anf.count(" csr  "), tows.count(" csr  ")) == (2, 4)  # actor and critics


def test_lanes_of_one_masked_block_may_have_different_reasons() -> None:
    values = {"noise_fraction": 0.9, "batch_size": 100, "input_layer_sparsity": 0.3}
    lanes = expand(["SAC", "ANF-SAC", "DS-SAC", "Static-SAC"], overrides=values).lanes
    lines = make_plan(make_blocks(lanes), "cpu", FREE).text().splitlines()
    assert lines[0] == "plan: 4 lanes in 1 block"
    (layout,) = [line for line in lines if line.startswith("  layout: ")]
    first, second = layout.removeprefix("  layout: ").split("; ")
    assert first.startswith("csr below a density of 0.6")
    assert second.startswith("masked, because of optimizer Adam")


def test_the_text_groups_sparse_lanes_by_density_within_a_ragged_block() -> None:
    lanes = expand(["ANF-SAC"], {"input_layer_sparsity": [0.8, 0.9]}, 3).lanes
    lines = make_plan(make_blocks(lanes), "cpu", FREE).text().splitlines()
    assert lines[0] == "plan: 6 lanes in 1 block"
    rows = [line for line in lines if line.startswith("  ANF-SAC ")]
    assert [row.split()[1:3] for row in rows] == [["3", "0-2"]] * 2
    first = [row.split("17x256 ")[1].split("  ")[0] for row in rows]
    assert first == ["0.1999 csr", "0.09995 csr"]


def test_a_raised_global_level_is_told() -> None:
    overrides = {"input_layer_sparsity": 0.8, "global_sparsity": 0.1, "noise_fraction": 0.9}
    plan = make_plan(make_blocks(expand(["ANF-SAC"], overrides=overrides).lanes), "cpu", FREE)
    assert any("raises the actor's global sparsity from 0.1 to 0.3" in note for note in plan.notes)
    assert not make_plan(make_blocks(expand(["ANF-SAC"]).lanes), "cpu", FREE).notes
