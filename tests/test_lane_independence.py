"""A lane's result has the same bits alone, among others, in any order, and beside broken lanes.

This is exact on a CPU: every stacked product must round as it does for one lane. The sizes are
those at which matrix libraries choose other routes: heads of 3, 6 and 34 rows, 512 joint rows of
twin critics, inputs of 170 and more features. Minibatches are a multiple of 4 (sparse/layers.py).

On the masked layout sparse and dense lanes share a block. On csr all are sparse, with different
numbers of connections, so that every lane but one has places that hold nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from fastanf.block import TrainingBlock
from fastanf.config import TrainConfig
from fastanf.sparse.layers import CsrLinear
from tests.helpers import lane_state, make_block, make_lane, unequal_names

POLICIES = ("ANF-{}", "{}", "DS-{}", "Static-{}", "TowS-{}", "ANF-{}", "ANF-{}", "Static-{}")
CSR_POLICIES = ("ANF-{}", "Static-{}", "ANF-{}", "Static-{}", "ANF-{}")
CSR_SPARSITIES = (0.8, 0.7, 0.95, 0.6, 0.9)
SHARED = {"batch_size": 100, "hidden": (256, 256), "topology_period": 20, "layout": "masked"}
LAYOUTS = ("masked", "csr")


@pytest.fixture(autouse=True)
def two_threads_at_most() -> Iterator[None]:
    """More threads divide the columns of a lone product, which then rounds differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)


def lanes_of(algorithm: str, num_lanes: int, **settings: Any) -> list[TrainConfig]:
    """Lanes of different policies, seeds, noise and temperature."""
    lanes = []
    for index in range(num_lanes):
        own: dict[str, Any] = {"noise_std": 1.0 + index % 2}
        if algorithm == "SAC" and index % 3 == 1:
            own["automatic_temperature"] = True
        if index % 4 == 2:
            own |= {"target_period": 6, "tau": 1.0, "drop_fraction": 0.3}
        if index % 4 == 0:
            own["new_weights"] = "xavier"
        policies = POLICIES
        if settings.get("layout") == "csr":
            policies, own["input_layer_sparsity"] = CSR_POLICIES, CSR_SPARSITIES[index]
        if policies[index].startswith("TowS"):
            own["global_sparsity"] = 0.7
        policy = policies[index].format(algorithm)
        lanes.append(make_lane(policy, 100 + 7 * index, **{**SHARED, **settings, **own}))
    return lanes


def is_csr(block: TrainingBlock) -> bool:
    """Whether the first layers of actor and critics are."""
    networks = (block.algorithm.actor_mlp, block.algorithm.critic.mlp)
    return all(isinstance(network.layers[0], CsrLinear) for network in networks)


def train(lanes: Sequence[TrainConfig], num_random: int, num_steps: int) -> TrainingBlock:
    """A block after some random steps and some exploring ones with an update each."""
    block = make_block(lanes, num_random)
    for step in range(1, num_steps + 1):
        block.collector.step_(step)
        block.learner.update_()
    return block


def assert_same_lane(one: TrainingBlock, lane: int, other: TrainingBlock, other_lane: int) -> None:
    state = lane_state(one, lane)
    assert all(tensor.isfinite().all() for tensor in state.values())
    assert unequal_names(state, lane_state(other, other_lane)) == []


@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_lane_among_eight_equals_lane_alone_on_halfcheetah(algorithm: str) -> None:
    simulated = {"env": "HalfCheetah-v3", "backend": "envpool", "noise_fraction": 0.9}
    lanes = lanes_of(algorithm, 8, **simulated, start_timesteps=100)
    together = train(lanes, 100, 200)
    for lane in (0, 2):
        alone = train([lanes[lane]], 100, 200)
        assert_same_lane(together, lane, alone, 0)
        alone.close()
    together.close()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
@pytest.mark.parametrize(
    "size",
    [
        {"env": "Humanoid-v0", "noise_fraction": 0.8},
        {"env": "Small-v0", "noise_fraction": 0.9, "hidden": (64, 32), "batch_size": 12},
        {"env": "Cheetah-v0", "noise_redraw": "per_step", "envs_per_lane": 3},
    ],
    ids=["17 actions", "small", "per_step"],
)
def test_lane_among_three_equals_lane_alone(
    algorithm: str, size: dict[str, Any], layout: str
) -> None:
    lanes = lanes_of(algorithm, 3, **size, layout=layout)
    together = train(lanes, 60, 25)
    assert is_csr(together) == (layout == "csr")
    for lane in range(3):
        assert_same_lane(together, lane, train([lanes[lane]], 60, 25), 0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_lane_and_its_evaluation_are_the_same_alone_on_hopper(algorithm: str, layout: str) -> None:
    simulated = {"env": "Hopper-v3", "backend": "envpool", "noise_fraction": 0.9}
    lanes = lanes_of(algorithm, 3, **simulated, eval_episodes=2, layout=layout)
    together = train(lanes, 60, 40)
    assert is_csr(together) == (layout == "csr")
    returns = [together.evaluate(), together.evaluate()]
    for lane in range(3):
        alone = train([lanes[lane]], 60, 40)
        assert_same_lane(together, lane, alone, 0)
        for expected in returns:
            np.testing.assert_array_equal(alone.evaluate()[0], expected[lane])
        alone.close()
    together.close()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_order_of_lanes_does_not_matter(algorithm: str, layout: str) -> None:
    small = {"env": "Cheetah-v0", "hidden": (48, 32), "permute_period": 10, "layout": layout}
    lanes = lanes_of(algorithm, 5, **small)
    forward, backward = train(lanes, 60, 45), train(lanes[::-1], 60, 45)
    assert is_csr(forward) == (layout == "csr")
    assert forward.features.source is not None
    for lane in range(5):
        assert_same_lane(forward, lane, backward, 4 - lane)


@pytest.mark.parametrize(
    ("target_sparsity", "layout"), [("mask", "masked"), ("trim", "masked"), ("mask", "csr")]
)
@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_broken_lanes_leave_a_lane_unchanged(
    algorithm: str, target_sparsity: str, layout: str
) -> None:
    settings = {"env": "Cheetah-v0", "hidden": (48, 32), "target_sparsity": target_sparsity}
    lanes = lanes_of(algorithm, 4, **settings, layout=layout)
    sound, broken = train(lanes, 60, 15), train(lanes, 60, 15)
    others = torch.arange(4) != 2
    with torch.no_grad():
        for network in broken.algorithm.networks().values():
            for _, tensor, _ in network.parameters():
                tensor.view(4, -1)[others] = float("nan")
        for kept in ("obs", "action", "reward", "final_obs"):
            getattr(broken.replay, kept)[others] = float("nan")
    for block in (sound, broken):
        for step in range(16, 41):
            block.collector.step_(step)
            block.learner.update_()
    assert_same_lane(sound, 2, broken, 2)
    assert not broken.algorithm.losses.critic[others].isfinite().any()
