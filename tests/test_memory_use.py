"""What an update takes of memory: no inputs written out, and the same again and again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from fastanf import kernels
from fastanf.block import TrainingBlock
from tests.helpers import make_block, make_lane

pytestmark = pytest.mark.skipif(kernels.NATIVE is None, reason="kernels are not compiled")

NUM_FEATURES = 1000  # of which 40 are real: the input would be by far the largest tensor
HIDDEN = 16


def wide_block(policy: str) -> TrainingBlock:
    settings = {
        "env": "Humanoid-v0", "noise_fraction": 0.96, "hidden": (HIDDEN, HIDDEN),
        "batch_size": 64, "input_layer_sparsity": 0.9,
    }  # fmt: skip
    return make_block([make_lane(policy, seed, **settings) for seed in (0, 1)], 100)


def allocations(block: TrainingBlock, folder: Path) -> list[int]:
    """Bytes of each tensor that gets memory in one update."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        block.learner.update_()
    trace = folder / "trace.json"
    profiler.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    sizes = [event["args"]["Bytes"] for event in events if event["name"] == "[memory]"]
    return [size for size in sizes if size > 0]


@pytest.mark.parametrize("policy", ["ANF-SAC", "ANF-TD3"])
def test_no_input_with_its_noise_is_ever_written_out(policy: str, tmp_path: Path) -> None:
    block = wide_block(policy)
    assert block.features.num_features == NUM_FEATURES
    for _ in range(4):
        block.learner.update_()
        taken = allocations(block, tmp_path)
        assert taken
        # One lane's input of one minibatch; the largest that there is are the weights' gradients.
        assert max(taken) < 4 * 64 * NUM_FEATURES
        assert max(taken) <= 4 * 2 * 2 * HIDDEN * (NUM_FEATURES + 17) // 10 + 64


def test_steady_updates_take_the_same_memory(tmp_path: Path) -> None:
    block = wide_block("ANF-SAC")
    for _ in range(4):
        block.learner.update_()
    first = allocations(block, tmp_path)
    block.learner.update_()
    assert sorted(allocations(block, tmp_path)) == sorted(first)


def test_kept_tensors_stay_where_they_are() -> None:
    block = wide_block("ANF-SAC")
    algorithm = block.algorithm
    kept = [*algorithm.actor_optimizer.tensors(), *algorithm.critic_optimizer.tensors()]
    kept += [*algorithm.actor_optimizer.exp_avg, *algorithm.critic_optimizer.exp_avg_sq]
    before = [tensor.data_ptr() for tensor in kept]
    for _ in range(5):  # with a change of connections
        block.learner.update_()
    assert [tensor.data_ptr() for tensor in kept] == before
    assert all(torch.isfinite(tensor).all() for tensor in kept)
