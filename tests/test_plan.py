"""Blocks, networks and memory of a study before it starts."""

from pathlib import Path

import pytest

from envs import registry
from fastanf import plan as planning
from fastanf.plan import MIB, Plan, block_memory, lane_networks, make_blocks, make_plan
from fastanf.presets import expand, lane_config
from fastanf.replay import replay_bytes

CHEETAH = registry.spec("HalfCheetah-v3", "envpool")


def test_policies_of_one_algorithm_share_a_block() -> None:
    lanes = expand(["SAC", "Static-SAC", "ANF-SAC", "TowS-SAC"], num_seeds=2).lanes
    blocks = make_blocks(lanes)
    assert [block.indices for block in blocks] == [tuple(range(8))]
    assert blocks[0].table.column("seed") == [0, 1] * 4


@pytest.mark.parametrize(
    ("policies", "vary", "sizes"),
    [
        (["SAC", "TD3"], {}, [1, 1]),
        (["ANF-SAC", "DS-SAC"], {}, [1, 1]),  # batch 100 and 256
        (["TD3", "ANF-TD3", "Static-TD3", "TowS-TD3", "DS-TD3"], {}, [5]),
        (["ANF-SAC"], {"optimizer": ["Adam", "SGD", "MaskAdam"]}, [2, 1]),
        (["ANF-SAC"], {"noise_fraction": [0.9, 0.95], "learning_rate": [1e-3, 1e-4]}, [2, 2]),
        (["ANF-SAC"], {"hidden": [(64,), (32, 32)]}, [1, 1]),
        (["ANF-SAC"], {"drop_fraction": [0.1, 0.2], "weight_decay": [0.0, 1e-4]}, [4]),
    ],
)
def test_blocks_part_where_a_static_setting_differs(
    policies: list[str], vary: dict[str, list[object]], sizes: list[int]
) -> None:
    blocks = make_blocks(expand(policies, vary).lanes)
    assert [len(block.lanes) for block in blocks] == sizes


def test_network_sizes_follow_algorithm_noise_and_hidden_layers() -> None:
    overrides = {"noise_fraction": 0.9, "hidden": (64, 32, 16)}
    actor, critic = lane_networks(lane_config("ANF-SAC", overrides), CHEETAH)
    assert actor.sizes == (170, 64, 32, 16, 12)
    assert critic.sizes == (176, 64, 32, 16, 1)
    actor, _ = lane_networks(lane_config("ANF-TD3", overrides), CHEETAH)
    assert actor.sizes[-1] == 6


def test_counts_of_an_anf_agent_are_exact() -> None:
    actor, critic = lane_networks(lane_config("ANF-SAC", {"noise_fraction": 0.9}), CHEETAH)
    assert actor.active_counts == (8704, 65536, 3072)
    assert critic.active_counts == (9011, 65536, 256)
    assert actor.num_active == 8704 + 65536 + 3072 + 256 + 256 + 12
    assert actor.num_total == 43520 + 65536 + 3072 + 256 + 256 + 12


def test_published_number_of_parameters() -> None:
    """TowS poster, Humanoid: actor and one critic with biases, in thousands."""
    spec = registry.spec("Humanoid-v3", "envpool")
    published = {("TowS-SAC", 0.9): 35, ("TowS-TD3", 0.9): 34, ("TowS-SAC", 0.7): 102}
    for (policy, level), thousands in published.items():
        networks = lane_networks(lane_config(policy, {"global_sparsity": level}), spec)
        assert round(sum(network.num_active for network in networks) / 1000) == thousands
    dense = lane_networks(lane_config("SAC"), spec)
    assert round(sum(network.num_active for network in dense) / 1000) == 338


def test_dense_lanes_have_every_connection() -> None:
    for network in lane_networks(lane_config("TD3"), CHEETAH):
        assert network.num_active == network.num_total


def test_only_the_actors_output_layer_may_be_sparse() -> None:
    config = lane_config("TowS-SAC", {"sparse_output_layer": True})
    actor, critic = lane_networks(config, CHEETAH)
    assert actor.active_counts[-1] < actor.connections[-1]
    assert critic.active_counts[-1] == critic.connections[-1]


def test_impossible_levels_name_option_and_lane() -> None:
    with pytest.raises(ValueError, match=r"global_sparsity=0.999 .*actor of TowS-SAC on HalfChee"):
        lane_networks(lane_config("TowS-SAC", {"global_sparsity": 0.999}), CHEETAH)
    with pytest.raises(ValueError, match=r"input_layer_sparsity must leave .*got 0.99999"):
        lane_networks(lane_config("ANF-SAC", {"input_layer_sparsity": 0.99999}), CHEETAH)


def test_memory_grows_with_lanes_and_replay() -> None:
    one, four = (make_blocks(expand(["ANF-SAC"], num_seeds=n).lanes)[0] for n in (1, 4))
    assert block_memory(four).total == 4 * block_memory(one).total
    assert block_memory(one).replay == replay_bytes(1_000_000, 17, 6, 1)
    assert block_memory(one, 1000).replay == replay_bytes(1000, 17, 6, 1)
    assert block_memory(one, 1000).weights == block_memory(one).weights


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


def test_memory_limits_of_all_control_groups_above_count(tmp_path: Path) -> None:
    def group(path: str, limit: str, used: int, cache: int = 0) -> None:
        folder = tmp_path / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\n")

    group("outer", "1000", 400, cache=100)
    group("outer/inner", "max", 300)
    free = planning._control_group_free(tmp_path, "/outer/inner")
    assert free == [700]
    group("outer/inner", "500", 300)
    assert sorted(planning._control_group_free(tmp_path, "/outer/inner")) == [200, 700]
    assert planning._control_group_free(tmp_path, "/elsewhere") == []


def test_memory_of_this_machine_is_positive() -> None:
    assert planning.available_bytes("cpu") > 0


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
