"""Broken lanes under updates that are recorded once and replayed, as CUDA graphs are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fastanf import kernels
from fastanf.block import TrainingBlock
from fastanf.graphs import Graphs
from fastanf.learner import Learner
from fastanf.replay import FAILED
from tests.helpers import lane_state, make_block, make_lane, unequal_names

pytest.importorskip("triton", reason="Triton is not installed")
if torch.cuda.is_available():
    pytest.skip("tests/gpu captures real graphs", allow_module_level=True)

from tests.recorded_graph import Recordings

NAN = float("nan")


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    before = kernels.NATIVE, kernels.TRITON
    kernels.use("triton")
    yield
    kernels.NATIVE, kernels.TRITON = before


def recorded_block(policies: list[str]) -> TrainingBlock:
    """A block whose updates are replayed: all kinds of them have been recorded."""
    small = {"hidden": (5, 4), "batch_size": 4, "topology_period": 3}
    lanes = [make_lane(policy, seed, **small) for seed, policy in enumerate(policies)]
    block = make_block(lanes, 20)
    recordings, old = Recordings(), block.learner
    graphs = Graphs(lambda: recordings)
    block.learner = Learner(old.algorithm, old.replay, old.rng, old.batch_size, graphs)
    num_kinds = lanes[0].algorithm.policy_delay
    for _ in range(3 * num_kinds):
        block.learner.update_()
    assert len(recordings.graphs) == num_kinds
    return block


@pytest.mark.parametrize("kind", ["SAC", "TD3"])
def test_replayed_updates_remember_a_broken_lane_and_leave_the_others_every_bit(kind: str) -> None:
    block = recorded_block([f"ANF-{kind}", kind])
    learner, watch = block.learner, block.learner.watch
    start = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    states, update = [], learner.num_updates + 2
    causes = ({}, {1: f"critic loss is inf or nan at update {update} or before"})
    for expected in causes:
        learner.load_state_dict_(start)
        if expected:
            block.replay.reward[1] = NAN
        for _ in range(2):
            learner.update_()
        assert watch.broken(update) == expected
        states.append({name: t.clone() for name, t in lane_state(block, 0).items()})
    assert all(tensor.isfinite().all() for tensor in states[0].values())
    assert unequal_names(*states) == []
    # The device finds a lane barren, and the host asks the watch alone.
    block.replay.final_slot[0] = FAILED
    learner.update_()
    assert watch.broken(update + 1) == {0: "simulation breaks down in nearly every step"}
