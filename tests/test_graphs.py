"""Updates that are recorded once and replayed: what a CUDA graph needs of them, shown on a CPU.

Triton's kernels compute, interpreted; `RecordedGraph` refuses what a capture refuses, and replays
with the numbers and the tensors of the recording. That eager and replayed updates end in the same
bits therefore says: nothing that changes from update to update is in the host's hands.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fastanf import kernels
from fastanf.block import TrainingBlock
from fastanf.collect import Collector
from fastanf.evaluate import Act
from fastanf.graphs import Graphs
from fastanf.learner import Learner
from tests.helpers import make_block, make_lane

pytest.importorskip("triton", reason="Triton is not installed")
if torch.cuda.is_available():
    pytest.skip("tests/gpu captures real graphs", allow_module_level=True)

from tests.recorded_graph import Recordings

NUM_RANDOM_STEPS = 15


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    before = kernels.NATIVE, kernels.TRITON
    kernels.use("triton")
    yield
    kernels.NATIVE, kernels.TRITON = before


def with_graphs(block: TrainingBlock) -> Recordings:
    """Let a block's updates be recorded and replayed."""
    recordings, old = Recordings(), block.learner
    block.learner = Learner(
        old.algorithm, old.replay, old.rng, old.batch_size, Graphs(lambda: recordings)
    )
    return recordings


def addresses(block: TrainingBlock) -> dict[str, int]:
    """Where the tensors lie that an update reads and writes."""
    algorithm = block.algorithm
    found: dict[str, Tensor] = {
        f"{name}.{p.name}": p.tensor
        for name, network in algorithm.networks().items()
        for p in network.parameters()
    }
    for name, network in algorithm.networks().items():
        for index, layer in enumerate(network.layers):
            mask = layer.connection_mask()
            if mask is not None:
                found[f"{name}.{index}.mask"] = mask
    for name, optimizer in (
        ("actor", algorithm.actor_optimizer),
        ("critic", algorithm.critic_optimizer),
    ):
        moments = [*optimizer.exp_avg, *optimizer.exp_avg_sq]
        found |= {f"{name}.moment{index}": moment for index, moment in enumerate(moments)}
        assert isinstance(optimizer.num_steps, Tensor)
        found[f"{name}.num_steps"] = optimizer.num_steps
    for topology in algorithm.topologies:
        for index, kept in enumerate(topology.kept_gradients):
            found[f"{topology.network}.gradient{index}"] = kept.kept
    replay = block.replay
    found |= {"obs": replay.obs, "final_obs": replay.final_obs, "clock": replay.clock}
    return {name: tensor.data_ptr() for name, tensor in found.items()}


CASES = {
    "SAC and ANF-SAC, topology and temperature": [
        make_lane("ANF-SAC", 0, topology_period=2, automatic_temperature=True),
        make_lane("SAC", 1),
    ],
    "TD3 with a delayed actor and targets of two periods": [
        make_lane("ANF-TD3", 0, topology_period=5, target_period=2),
        make_lane("Static-TD3", 1, target_period=3),
    ],
    "SAC that grows by the gradient, beside pruning": [
        make_lane("ANF-SAC", 0, topology="rigl", topology_period=1),
        make_lane("ANF-SAC", 1, topology="pruning", topology_period=2),
        make_lane("DS-SAC", 2, topology="rigl", topology_period=1, batch_size=16),
    ],
    "TD3 that grows by the gradient, also after updates without a step of the actor": [
        make_lane("ANF-TD3", 0, topology_period=1, topology="rigl"),
        make_lane("ANF-TD3", 1, topology_period=1, drop_schedule="cosine"),
    ],
    "targets that are trimmed": [make_lane("ANF-SAC", 0, target_sparsity="trim")],
    "noise that is replayed, environments that share a lane": [
        make_lane(
            "TowS-SAC",
            0,
            global_sparsity=0.5,
            topology_period=2,
            noise_redraw="per_step",
            envs_per_lane=2,
        )
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_replayed_updates_are_the_eager_ones_to_the_bit(case: str) -> None:
    eager, replayed = (make_block(CASES[case], NUM_RANDOM_STEPS) for _ in range(2))
    recordings = with_graphs(replayed)
    before = addresses(replayed)
    # Two plain updates of a kind come before the one that is recorded.
    num_kinds = CASES[case][0].algorithm.policy_delay
    for _ in range(3 * num_kinds):
        replayed.learner.update_()
    eager.learner.load_state_dict_(replayed.learner.state_dict())
    for block in (eager, replayed):
        block.learner.update_()
        block.collector.random_step_()  # graphs of before sample what is stored later
        block.learner.update_()
    assert recordings.graphs
    expected, found = eager.learner.state_dict(), replayed.learner.state_dict()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    for ours, theirs in zip(eager.algorithm.losses, replayed.algorithm.losses, strict=True):
        assert torch.equal(ours.nan_to_num(-1), theirs.nan_to_num(-1))
    assert addresses(replayed) == before


def test_every_kind_of_update_is_one_graph_that_later_ones_share() -> None:
    block = make_block([make_lane("TD3", 0)], NUM_RANDOM_STEPS)
    recordings = with_graphs(block)
    for _ in range(7):
        block.learner.update_()
    with_actor, without = sorted(recordings.graphs, key=lambda g: len(g.nodes), reverse=True)
    assert len(with_actor.nodes) > len(without.nodes)


def test_replay_that_moved_is_captured_anew() -> None:
    block = make_block([make_lane("SAC", 0)], NUM_RANDOM_STEPS)
    recordings = with_graphs(block)
    for _ in range(3):
        block.learner.update_()
    block.replay._grow_finals_()
    block.learner.update_()
    block.learner.update_()
    assert len(recordings.graphs) == 2


def test_recording_of_stages_calls_every_operation() -> None:
    from fastanf.instrument import HostClock, Recorder, Stage

    block = make_block([make_lane("SAC", 0)], NUM_RANDOM_STEPS)
    recordings = with_graphs(block)
    recorder = Recorder(HostClock())
    with recorder.recording():
        for _ in range(3):
            block.learner.update_()
            recorder.frame()
    assert not recordings.graphs
    assert (Stage.UPDATE, Stage.CRITIC_FORWARD) in recorder.take().stages_ns


@pytest.mark.parametrize("redraw", ["per_call", "per_step"])
def test_replayed_acts_are_those_of_calls_to_the_bit(redraw: str) -> None:
    lanes = [make_lane("ANF-SAC", seed, noise_redraw=redraw) for seed in (0, 1)]
    recordings, actions = Recordings(), []
    for graphs in (None, Graphs(lambda: recordings)):
        block = make_block(lanes, NUM_RANDOM_STEPS)
        old = block.collector
        collector = Collector(old.simulator, old.algorithm, old.replay, old.rng, graphs=graphs)
        for step in range(9):
            if step == 5:  # features change places: new tensors
                block.features.permute_(torch.tensor([True, False]), block.replay.time)
            collector.step_(step)
        actions.append(block.replay.action)
    assert len(recordings.graphs) == 2
    assert torch.equal(*actions)


def test_replayed_evaluations_are_those_of_calls_to_the_bit() -> None:
    recordings, returns = Recordings(), []
    for graphs in (None, Graphs(lambda: recordings)):
        block = make_block([make_lane("ANF-SAC", seed) for seed in (0, 1)])
        block.eval_act = Act(block.algorithm, 2, graphs)
        returns += [block.evaluate(), block.evaluate()]
    assert len(recordings.graphs) == 1
    assert (returns[0] == returns[2]).all() and (returns[1] == returns[3]).all()
    assert (returns[0] != returns[1]).any()


def test_resumed_learner_draws_what_the_unbroken_one_draws() -> None:
    lanes = [make_lane("ANF-SAC", 0)]
    unbroken, resumed = (make_block(lanes, NUM_RANDOM_STEPS) for _ in range(2))
    with_graphs(unbroken)
    with_graphs(resumed)
    for _ in range(3):
        unbroken.learner.update_()
    resumed.learner.load_state_dict_(unbroken.learner.state_dict())
    for block in (unbroken, resumed):
        block.learner.update_()
    expected, found = unbroken.learner.state_dict(), resumed.learner.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())


def test_csr_layers_are_called_each_time() -> None:
    block = make_block([make_lane("ANF-SAC", 0, layout="csr")], NUM_RANDOM_STEPS)
    recordings = with_graphs(block)
    for _ in range(3):
        block.learner.update_()
    assert not recordings.graphs
