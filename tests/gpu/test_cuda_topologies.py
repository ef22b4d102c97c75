"""Topologies beside SET on a GPU: the bits of updates that are called one by one, and no waiting.

RigL's gradients are kept inside a graph, at one place; connections change in plain torch.
"""

from __future__ import annotations

import pytest
import torch

from fastanf.block import TrainingBlock
from fastanf.config import TrainConfig
from fastanf.learner import Learner
from tests.helpers import make_lane, unequal_names

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
pytest.importorskip("triton", reason="Triton is not installed")

# Each of at most four kinds of update is called twice before it is captured; those that keep
# gradients come with every fifth update.
WARM_UPDATES = 17


def lanes_of(algorithm: str) -> list[TrainConfig]:
    settings = [
        {"topology": "rigl"},
        {"topology": "pruning"},
        {"topology": "set", "drop_schedule": "cosine"},
        {"topology": "rigl", "drop_schedule": "cosine", "new_weights": "xavier"},
    ]
    return [
        make_lane(f"ANF-{algorithm}", seed, topology_period=5, max_timesteps=60, **own)
        for seed, own in enumerate(settings)
    ]


def make_block(lanes: list[TrainConfig]) -> TrainingBlock:
    block = TrainingBlock(lanes, torch.device("cuda"), num_threads=1)
    for _ in range(50):
        block.collector.random_step_()
    return block


@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_replayed_updates_are_the_called_ones_to_the_bit(algorithm: str) -> None:
    lanes = lanes_of(algorithm)
    called, replayed = make_block(lanes), make_block(lanes)
    of = called.learner
    called.learner = Learner(of.algorithm, of.replay, of.rng, of.batch_size, graphs=None)
    start = {name: t.clone() for name, t in called.learner.state_dict().items()}
    for _ in range(30):
        called.learner.update_()
        replayed.learner.update_()
    expected = called.learner.state_dict()
    assert not unequal_names(expected, replayed.learner.state_dict())
    for name in ("actor.0.weight.mask", "critic.0.weight.mask"):
        changed = (start[name] != expected[name]).view(len(lanes), -1)
        assert bool(changed.any(1).all())


@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_topology_changes_never_wait_for_the_gpu(algorithm: str) -> None:
    block = make_block(lanes_of(algorithm))
    for _ in range(WARM_UPDATES):
        block.learner.update_()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            block.learner.update_()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
