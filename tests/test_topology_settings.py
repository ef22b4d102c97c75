"""What the settings of topologies say before anything trains: which matter, which are refused, how
layers are stored, what the plan and the memory are.
"""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from envs import registry
from fastanf import kernels
from fastanf.config import TrainConfig, csr_obstacle, idle_names
from fastanf.grouping import block_of, make_blocks
from fastanf.layouts import layout_reason
from fastanf.memory import block_memory
from fastanf.networks import lane_networks
from fastanf.plan import make_plan
from fastanf.presets import expand, lane_config
from fastanf.sparse.layers import CSR, MASKED

CHEETAH = registry.spec("HalfCheetah-v3", "envpool")
REPLACEMENT = {"drop_fraction", "drop_schedule", "new_weights"}
NEW = {"drop_schedule", "topology_end", "evolving_networks", "sparse_networks"}
FREE = 2**40
"""Bytes, more than any block needs."""


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layouts are those of a machine with compiled kernels; nothing here computes with them."""
    monkeypatch.setattr(kernels, "NATIVE", ctypes.CDLL(None))


def topologies(policy: str = "ANF-SAC", **settings: Any) -> tuple[str, ...]:
    return tuple(plan.topology for plan in lane_networks(lane_config(policy, settings), CHEETAH))


def is_sparse(policy: str = "ANF-SAC", **settings: Any) -> tuple[bool, ...]:
    plans = lane_networks(lane_config(policy, settings), CHEETAH)
    return tuple(plan.num_active < plan.num_total for plan in plans)


def test_defaults_are_what_training_did_without_these_settings() -> None:
    config = TrainConfig()
    values = [config.get(name) for name in ("topology", *sorted(NEW))]
    assert values == ["set", "constant", "both", "both", 1.0]
    assert topologies() == ("set", "set") and is_sparse() == (True, True)


def test_the_updates_of_a_run_are_those_of_its_lock_steps() -> None:
    assert TrainConfig().num_updates == 1_000_000
    shared = TrainConfig.of(max_timesteps=25, envs_per_lane=4, updates_per_step=3)
    assert shared.num_updates == 7 * 3


def test_networks_that_do_not_evolve_are_static() -> None:
    for topology in ("set", "rigl", "pruning"):
        assert topologies(topology=topology) == (topology, topology)
        assert topologies(topology=topology, evolving_networks="actor") == (topology, "static")
        assert topologies(topology=topology, evolving_networks="critic") == ("static", topology)


def test_networks_that_are_not_sparse_are_dense_and_static() -> None:
    for policy in ("ANF-TD3", "TowS-SAC"):
        assert is_sparse(policy, sparse_networks="actor") == (True, False)
        assert is_sparse(policy, sparse_networks="critic") == (False, True)
        assert topologies(policy, sparse_networks="critic") == ("static", "set")
    alone, both = (
        lane_networks(lane_config("TowS-SAC", {"sparse_networks": which}), CHEETAH)
        for which in ("actor", "both")
    )
    assert alone[0] == both[0]


def test_a_level_that_cannot_be_met_is_no_matter_in_a_dense_network() -> None:
    settings = {"global_sparsity": 0.997, "sparse_output_layer": True}
    with pytest.raises(ValueError, match="critic of TowS-SAC"):
        is_sparse("TowS-SAC", **settings)
    assert is_sparse("TowS-SAC", **settings, sparse_networks="actor") == (True, False)


@pytest.mark.parametrize(("sparse", "evolving"), [("actor", "critic"), ("critic", "actor")])
def test_a_dense_network_cannot_evolve(sparse: str, evolving: str) -> None:
    settings = {"sparse_networks": sparse, "evolving_networks": evolving}
    with pytest.raises(ValueError) as caught:
        lane_config("ANF-SAC", settings)
    assert str(caught.value) == (
        f"evolving_networks must be both or {sparse} with sparse_networks {sparse}, "
        f"got {evolving!r}"
    )
    lane_config("Static-SAC", settings)  # nothing evolves
    lane_config("SAC", settings)


@pytest.mark.parametrize(
    ("settings", "idle"),
    [
        ({"topology": "set"}, set()),
        ({"topology": "rigl"}, set()),
        ({"topology": "pruning"}, REPLACEMENT),
        (
            {"topology": "static"},
            REPLACEMENT | {"topology_period", "topology_end", "evolving_networks"},
        ),
        ({"input_layer_sparsity": 0.0}, NEW | REPLACEMENT | {"topology", "topology_period"}),
    ],
)
def test_settings_that_make_no_difference(settings: dict[str, Any], idle: set[str]) -> None:
    own = NEW | REPLACEMENT | {"topology", "topology_period"}
    assert idle_names(lane_config("ANF-SAC", settings)) & own == idle


def test_lanes_are_merged_where_a_varied_setting_makes_no_difference() -> None:
    vary = {"topology": ["static", "pruning", "rigl"], "drop_schedule": ["constant", "cosine"]}
    lanes = expand(["ANF-SAC", "SAC"], vary).lanes
    assert [lane.algorithm.variant for lane in lanes] == [
        "topology=static",
        "topology=pruning",
        "topology=rigl,drop_schedule=constant",
        "topology=rigl,drop_schedule=cosine",
        "",
    ]


@pytest.mark.parametrize("topology", ["rigl", "pruning"])
def test_what_csr_cannot_serve_is_masked_or_refused(topology: str) -> None:
    lane = lane_config("TowS-SAC", {"topology": topology})
    assert csr_obstacle(lane) == f"topology {topology}"
    assert block_of([lane]).layouts == ((MASKED,) * 3,) * 2
    assert layout_reason(lane, "cpu") == f"masked, because of topology {topology}"
    with pytest.raises(ValueError) as caught:
        lane_config("TowS-SAC", {"topology": topology, "layout": "csr"})
    assert str(caught.value) == (
        f"layout csr does not go with topology {topology}; allowed is layout masked, or auto"
    )


def test_set_with_a_cosine_or_an_end_stays_in_csr() -> None:
    for settings in ({"drop_schedule": "cosine"}, {"topology_end": 0.5}):
        lane = lane_config("ANF-SAC", {"noise_fraction": 0.9, **settings})
        assert block_of([lane]).layouts[0][0] == CSR
    # One sparse network is stored by its connections, the dense one is not.
    lane = lane_config("ANF-SAC", {"noise_fraction": 0.9, "sparse_networks": "critic"})
    assert [layers[0] for layers in block_of([lane]).layouts] == [MASKED, CSR]


def test_masked_lanes_of_all_topologies_are_one_block() -> None:
    vary = {"topology": ["set", "static", "rigl", "pruning"], "sparse_networks": ["both", "actor"]}
    lanes = expand(["ANF-SAC", "SAC"], vary, overrides={"layout": "masked"}).lanes
    assert len(lanes) == 9
    assert len(make_blocks(lanes)) == 1


def test_the_plan_says_that_pruning_starts_dense_and_where_it_ends() -> None:
    shared = {"noise_fraction": 0.9, "layout": "masked", "max_timesteps": 5000}
    vary = {"topology": ["pruning", "set"], "topology_end": [0.5, 1.0]}
    lanes = expand(["ANF-SAC"], vary, overrides={**shared, "evolving_networks": "actor"}).lanes
    lines = make_plan(make_blocks(lanes), "cpu", FREE).text().splitlines()
    assert lines[0] == "plan: 4 lanes in 1 block"
    actors = [line for line in lines if line.startswith("  ANF-SAC ")]
    assert len(actors) == 2  # lanes that are pruned, and the others
    assert "170x256 1 to 0.2  256x256 1  256x12 1  " in actors[0]
    assert "170x256 0.2  256x256 1  256x12 1  " in actors[1]
    critics = [line for line in lines if " critic x2 " in line]
    assert all("176x256 0.2  256x256 1  256x1 1  " in line for line in critics)
    (pruning,) = [line for line in lines if line.startswith("  pruning: ")]
    assert pruning == (
        "  pruning: starts dense and ends at the density, at update 2,500, 5,000 of 5,000"
    )


def test_a_plan_without_pruning_says_nothing_of_it() -> None:
    lanes = expand(["ANF-SAC", "SAC"], {"topology": ["set", "rigl"]}).lanes
    text = make_plan(make_blocks(lanes), "cpu", FREE).text()
    assert "pruning" not in text and "1 to " not in text


def test_gradients_that_are_kept_are_counted_for_the_lanes_and_layers_that_grow_by_them() -> None:
    def moments(*settings: dict[str, Any]) -> int:
        lanes = [lane_config("TowS-SAC", {"layout": "masked", **own}) for own in settings]
        return block_memory(block_of(lanes)).moments

    rigl, plain = {"topology": "rigl"}, {"topology": "set"}
    actor, critic = lane_networks(lane_config("TowS-SAC"), CHEETAH)
    of_actor = 4 * sum(actor.connections[:2])  # outputs are dense
    of_critics = 2 * 4 * sum(critic.connections[:2])
    assert moments(rigl) - moments(plain) == of_actor + of_critics
    assert moments(rigl, plain, rigl) - moments(plain, plain, plain) == 2 * (of_actor + of_critics)
    only_actor = {**rigl, "evolving_networks": "actor"}
    assert moments(only_actor) - moments(plain) == of_actor
