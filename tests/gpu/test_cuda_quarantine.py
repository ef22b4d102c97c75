"""Broken lanes under real CUDA graphs; tests/test_quarantine_graphs.py imitates them on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastanf.block import TrainingBlock
from fastanf.collect import finite_actions
from fastanf.replay import FAILED
from tests.helpers import make_lane, unequal_names

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
pytest.importorskip("triton", reason="Triton is not installed")

CUDA = torch.device("cuda")
NUM_WARM = 12
"""Each of two kinds of update is called twice before it is captured."""


def learned(block: TrainingBlock, lane: int) -> dict[str, Tensor]:
    """What the learner holds of one lane, the temperature's moments left out: they are [2, L]."""
    return {
        name: tensor.reshape(len(block.lanes), -1)[lane]
        for name, tensor in block.learner.state_dict().items()
        if tensor.ndim and name != "log_temperature.moments"
    }


@pytest.mark.parametrize("kind", ["SAC", "TD3"])
def test_replayed_updates_remember_a_broken_lane_and_leave_the_others_every_bit(kind: str) -> None:
    lanes = [
        make_lane(policy, seed, topology_period=3)
        for seed, policy in enumerate((f"ANF-{kind}", kind, f"ANF-{kind}"))
    ]
    blocks = [TrainingBlock(lanes, CUDA, num_threads=1) for _ in range(2)]
    for block in blocks:
        for _ in range(60):
            block.collector.random_step_()
        for _ in range(NUM_WARM):
            block.learner.update_()
    sound, broken = blocks
    assert broken.learner.watch.broken(NUM_WARM) == {} == broken.learner.watch.unsound(NUM_WARM)
    broken.replay.reward[1] = float("nan")
    for block in blocks:
        for _ in range(10):
            block.learner.update_()
    update = NUM_WARM + 10
    cause = f"critic loss is inf or nan at update {update} or before"
    assert broken.learner.watch.broken(update) == {1: cause}
    assert sound.learner.watch.broken(update) == {} == sound.learner.watch.unsound(update)
    for lane in (0, 2):
        state, other = learned(sound, lane), learned(broken, lane)
        assert all(bool(tensor.isfinite().all()) for tensor in state.values())
        assert unequal_names(state, other) == []
    sound.replay.final_slot[0] = FAILED
    sound.learner.update_()
    barren = {0: "simulation breaks down in nearly every step"}
    assert sound.learner.watch.broken(update + 1) == barren


def test_finite_actions_keep_every_bit_and_others_become_zero() -> None:
    nan, inf = float("nan"), float("inf")
    actions = torch.tensor([1e-45, -0.0, 3.4e38, nan, inf, -inf], device=CUDA)
    expected = torch.tensor([1e-45, -0.0, 3.4e38, 0.0, 0.0, 0.0], device=CUDA)
    found = finite_actions(actions)
    assert torch.equal(found.view(torch.int32), expected.view(torch.int32))
