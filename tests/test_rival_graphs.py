"""Layer norm, normalised observations, penalties and gates in updates and acts that are recorded
once and replayed, as test_graphs.py shows it of the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fastanf import kernels
from fastanf.block import TrainingBlock
from fastanf.collect import Collector
from fastanf.evaluate import Act
from fastanf.graphs import Graphs
from fastanf.learner import Learner
from tests.helpers import all_state, make_block, make_lane, unequal_names

pytest.importorskip("triton", reason="Triton is not installed")
if torch.cuda.is_available():
    pytest.skip("tests/gpu captures real graphs", allow_module_level=True)

from tests.recorded_graph import Recordings

CASES: dict[str, dict[str, Any]] = {
    "norm, observations": {
        "layer_norm": True, "normalize_observations": True, "envs_per_lane": 2,
        "noise_redraw": "per_step",
    },
    "penalties, gate": {"input_l1": 0.01, "input_group_lasso": 0.02, "input_gate": True},
    "observations": {"normalize_observations": True},
}  # fmt: skip


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    before = kernels.NATIVE, kernels.TRITON
    kernels.use("triton")
    yield
    kernels.NATIVE, kernels.TRITON = before


def block_with(graphs: Graphs | None, algorithm: str, case: str) -> TrainingBlock:
    """A sparse and a dense lane whose acts, updates and evaluations use the graphs."""
    tiny = {"hidden": (6, 5), "batch_size": 4, **CASES[case]}
    lanes = [make_lane(policy.format(algorithm), 1, **tiny) for policy in ("ANF-{}", "{}")]
    block = make_block(lanes)
    collector, learner = block.collector, block.learner
    block.collector = Collector(
        collector.simulator, collector.algorithm, collector.replay, collector.rng, graphs=graphs
    )
    block.learner = Learner(
        learner.algorithm, learner.replay, learner.rng, learner.batch_size, graphs
    )
    block.eval_act = Act(block.algorithm, 2, graphs)
    for _ in range(8):
        block.collector.random_step_()
    return block


@pytest.mark.parametrize(
    ("algorithm", "case"),
    [("SAC", "norm, observations"), ("TD3", "penalties, gate")],
)
def test_replayed_training_is_the_eager_one_to_the_bit(algorithm: str, case: str) -> None:
    recordings = Recordings()
    eager, replayed = (
        block_with(graphs, algorithm, case) for graphs in (None, Graphs(lambda: recordings))
    )
    places = [
        parameter.tensor.data_ptr()
        for network in replayed.algorithm.networks().values()
        for parameter in network.parameters()
    ]
    num_kinds = eager.config.algorithm.policy_delay
    for block in (eager, replayed):
        for step in range(1, 3 * num_kinds + 3):
            block.collector.step_(step)
            block.learner.update_()
    # Of acts, and of each kind of update.
    assert len(recordings.graphs) == 1 + num_kinds
    assert not unequal_names(all_state(eager), all_state(replayed))
    assert places == [
        parameter.tensor.data_ptr()
        for network in replayed.algorithm.networks().values()
        for parameter in network.parameters()
    ]
    assert (eager.evaluate() == replayed.evaluate()).all()


def test_an_act_that_is_replayed_sees_the_newest_statistics() -> None:
    recordings = Recordings()
    block = block_with(None, "SAC", "observations")
    replayed, called = (
        Act(block.algorithm, 2, graphs) for graphs in (Graphs(lambda: recordings), None)
    )
    obs, statistics = block.replay.observations(3).flatten(0, 1), block.features.statistics
    assert statistics is not None
    for _ in range(4):
        before = replayed(obs, 5).clone()
    assert len(recordings.graphs) == 1
    statistics.observe_(torch.full((2, block.features.num_features, 1), 30.0))
    after = replayed(obs, 5)
    assert not torch.equal(after, before)
    assert torch.equal(after, called(obs, 5))
    assert len(recordings.graphs) == 1
