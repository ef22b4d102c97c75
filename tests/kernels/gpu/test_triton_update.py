"""A whole update by Triton's kernels: its numbers against plain torch, and the memory it takes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from fastanf import kernels
from fastanf.block import TrainingBlock
from tests.helpers import make_lane

# Two forms in float32 after three updates: sums in other orders, through Adam's first steps, whose
# size is the learning rate (1e-3 and less) whatever the gradient is.
TOLERANCE = 2e-4


def small_block(policy: str, device: torch.device, **settings: Any) -> TrainingBlock:
    lanes = [make_lane(policy, seed, **settings) for seed in (0, 1)]
    block = TrainingBlock(lanes, device, num_threads=1)
    for _ in range(40):
        block.collector.random_step_()
    return block


@pytest.mark.parametrize("policy", ["ANF-SAC", "ANF-TD3"])
def test_updates_are_those_of_plain_torch(policy: str, device: torch.device) -> None:
    settings = {"topology_period": 2, "activation": "relu"}
    ours = small_block(policy, device, **settings)
    for _ in range(3):
        ours.learner.update_()
    kernels.use("reference")
    theirs = small_block(policy, torch.device("cpu"), **settings)
    for _ in range(3):
        theirs.learner.update_()
    found, expected = ours.learner.state_dict(), theirs.learner.state_dict()
    for name, tensor in expected.items():
        if tensor.is_floating_point() and not name.endswith(("exp_avg", "exp_avg_sq")):
            torch.testing.assert_close(
                found[name].cpu(), tensor, rtol=TOLERANCE, atol=TOLERANCE, msg=name
            )
        elif name.endswith("mask"):
            assert torch.equal(found[name].cpu(), tensor), name


class LargestTensor(TorchDispatchMode):
    """The most elements of a float tensor that an operator makes; the interpreter moves bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        for tensor in tree_flatten(outputs)[0]:
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.num_elements = max(self.num_elements, tensor.numel())
        return outputs


def test_no_tensor_of_lanes_batch_and_features_is_ever_there(device: torch.device) -> None:
    batch_size = 64
    block = small_block("ANF-SAC", device, noise_fraction=0.95, batch_size=batch_size)
    L, F = len(block.lanes), block.features.num_features
    weights = max(math.prod(layer.shape) for layer in block.algorithm.critic.mlp.layers)
    assert weights < L * batch_size * F, "the weights are larger than what must not be there"
    with LargestTensor() as largest:
        block.learner.update_()
    assert 0 < largest.num_elements < L * batch_size * F
