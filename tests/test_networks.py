"""Sizes and active connections of a lane's networks before they are built."""

import pytest

from envs import registry
from fastanf.networks import lane_networks
from fastanf.presets import lane_config

CHEETAH = registry.spec("HalfCheetah-v3", "envpool")


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
