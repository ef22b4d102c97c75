"""Updates as CUDA graphs: the bits of updates that are called one by one, no memory, no waiting.

tests/test_graphs.py says what a graph needs of an update, with an imitation on the CPU; here the
graphs are real. Axes: L lanes, F features with noise, B minibatch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastanf.block import TrainingBlock
from fastanf.config import TrainConfig
from fastanf.learner import Learner
from tests.helpers import make_lane, unequal_names

sys.path.insert(0, str(Path(__file__).parents[2] / "profiling"))

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
pytest.importorskip("triton", reason="Triton is not installed")

CUDA = torch.device("cuda")
# Each kind of update is called twice before it is captured; there are two kinds at most.
WARM_UPDATES = 12
REAL_SIZES: dict[str, Any] = {"env": "Cheetah-v0", "noise_fraction": 0.9, "hidden": (256, 256),
                              "batch_size": 100}  # fmt: skip


def make_block(lanes: Sequence[TrainConfig], num_random_steps: int = 150) -> TrainingBlock:
    block = TrainingBlock(lanes, CUDA, num_threads=1)
    for _ in range(num_random_steps):
        block.collector.random_step_()
    return block


def update_(block: TrainingBlock, count: int) -> None:
    for _ in range(count):
        block.learner.update_()
    torch.cuda.synchronize()


def lane_of(state: dict[str, Tensor], lane: int, num_lanes: int) -> dict[str, Tensor]:
    """What belongs to one lane; the temperature's moments have another axis first."""
    return {
        name: tensor.reshape(num_lanes, -1)[lane]
        for name, tensor in state.items()
        if tensor.ndim and name != "log_temperature.moments"
    }


@pytest.mark.parametrize("policy", ["ANF-SAC", "ANF-TD3"])
def test_replayed_updates_are_the_called_ones_to_the_bit(policy: str) -> None:
    lanes = [make_lane(policy, seed, **REAL_SIZES, topology_period=3) for seed in (0, 1)]
    called, replayed = make_block(lanes), make_block(lanes)
    of = called.learner
    called.learner = Learner(of.algorithm, of.replay, of.rng, of.batch_size, graphs=None)
    start = {name: t.clone() for name, t in called.learner.state_dict().items()}
    for _ in range(20):
        update_(called, 1)
        update_(replayed, 1)
    assert replayed.learner._graphs is not None and replayed.learner._graphs.is_warm
    expected, found = called.learner.state_dict(), replayed.learner.state_dict()
    assert not unequal_names(expected, found)
    masks = [name for name in expected if name.endswith(".mask")]
    assert masks and not any(torch.equal(start[name], expected[name]) for name in masks[:1])
    for ours, theirs in zip(called.algorithm.losses, replayed.algorithm.losses, strict=True):
        assert torch.equal(ours.nan_to_num(-1), theirs.nan_to_num(-1))


def test_a_lane_learns_the_same_bits_alone_and_among_63_others() -> None:
    lanes = [make_lane("ANF-SAC", seed, **REAL_SIZES, topology_period=3) for seed in range(64)]
    together, alone = make_block(lanes), make_block(lanes[37:38])
    update_(together, 8)
    update_(alone, 8)
    among = lane_of(together.learner.state_dict(), 37, 64)
    assert not unequal_names(among, lane_of(alone.learner.state_dict(), 0, 1))


def test_replays_allocate_nothing() -> None:
    block = make_block([make_lane("ANF-SAC", seed, topology_period=1000) for seed in range(4)])
    update_(block, WARM_UPDATES)
    counters = ("allocation.all.allocated", "segment.all.allocated", "allocated_bytes.all.current")
    before = torch.cuda.memory_stats()
    update_(block, 50)
    after = torch.cuda.memory_stats()
    assert {name: before[name] for name in counters} == {name: after[name] for name in counters}


@pytest.mark.parametrize("policy", ["ANF-SAC", "ANF-TD3"])
def test_updates_and_topology_changes_never_wait_for_the_gpu(policy: str) -> None:
    block = make_block([make_lane(policy, seed, topology_period=5) for seed in range(4)])
    # What the host says once, such as which lanes are due, has been said.
    update_(block, WARM_UPDATES)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            block.learner.update_()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()


def test_inputs_with_noise_are_never_written_out() -> None:
    """Humanoid at noise 0.99 has 37,600 features. With these sizes one written-out input [L, B, F]
    takes more than all gradients of the critics, the largest that an update holds.
    """
    import stand_in

    stand_in.register()
    L, B, F = 16, 256, 37_600
    lanes = [
        make_lane("ANF-SAC", seed, env="Humanoid-v3", backend=stand_in.NAME, noise_fraction=0.99,
                  hidden=(64, 64), batch_size=B, replay_capacity=1000)
        for seed in range(L)
    ]  # fmt: skip
    block = make_block(lanes, num_random_steps=300)
    assert block.features.num_features == F
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    update_(block, 1)
    written_out = 4 * L * B * F
    largest = max(parameter.tensor.numel() for parameter in block.algorithm.critic.mlp.parameters())
    assert 4 * largest < written_out
    peak = torch.cuda.max_memory_allocated() - before
    assert 4 * largest <= peak < written_out
    # Nor by graphs, which keep their memory.
    update_(block, WARM_UPDATES)
    torch.cuda.reset_peak_memory_stats()
    assert torch.cuda.memory_allocated() - before < written_out
