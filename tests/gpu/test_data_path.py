"""Copies between host and GPU, and updates that overlap with them: the numbers stay the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastanf.block import TrainingBlock
from fastanf.collect import train_step_
from fastanf.config import TrainConfig
from fastanf.simulator import HostSimulator
from tests import fake_env
from tests.fake_env import SPEC, RowsEnv
from tests.helpers import all_state, copy_block, unequal_names

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")


def test_steps_cross_to_the_gpu_unchanged() -> None:
    """Without waiting between the steps, so that buffers are used again while copies may run."""
    simulator, plain = HostSimulator(RowsEnv(SPEC, range(64)), CUDA), RowsEnv(SPEC, range(64))
    np.testing.assert_array_equal(simulator.reset().cpu().numpy(), plain.reset())
    found, expected = [], []
    actions = torch.rand(50, 64, 2)
    for action in actions.to(CUDA):
        simulator.begin(action)
        found.append(simulator.finish())
    for action in actions:
        expected.append(plain.step(action.numpy()))
    for outcome, step in zip(found, expected, strict=True):
        for tensor, array in zip(outcome.step, step, strict=True):
            assert tensor.is_cuda
            np.testing.assert_array_equal(tensor.cpu().numpy(), array)
        np.testing.assert_array_equal(outcome.is_over.numpy(), step.terminated | step.truncated)
        np.testing.assert_array_equal(outcome.has_failed.numpy(), step.failed)


def lanes_of(E: int, **values: Any) -> list[TrainConfig]:
    base = TrainConfig.of(
        env=fake_env.ROWS_ENV_ID, backend="fake", hidden=(32, 32), batch_size=16,
        max_timesteps=4000, start_timesteps=50 * E, eval_episodes=2, envs_per_lane=E,
        noise_fraction=0.6, input_layer_sparsity=0.5, topology="set", topology_period=20,
        replay_capacity=100 * E, **values,
    )  # fmt: skip
    return [base.replace(seed=seed) for seed in (3, 9)]


@pytest.mark.parametrize("E", [1, 8])
def test_training_is_the_same_whether_updates_overlap(
    E: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_env.register(monkeypatch)
    blocks = [TrainingBlock(lanes_of(E), CUDA) for _ in range(2)]
    answers: list[bool] = []
    for block, overlaps in zip(blocks, (True, False), strict=True):
        collector, learner = block.collector, block.learner
        assert collector.overlaps_updates
        collector.overlaps_updates = overlaps
        may = collector.may_update_early

        def noted(update: int, batch_size: int, may=may) -> bool:
            answers.append(may(update, batch_size))
            return answers[-1]

        monkeypatch.setattr(collector, "may_update_early", noted)
        for _ in range(50):
            collector.random_step_()
        for step in range(1, 301):
            train_step_(collector, learner, step * E, 2)
        assert not bool(block.replay.is_barren.any())
    assert any(answers)
    assert not unequal_names(*map(all_state, blocks))
    assert blocks[0].collector.take_finished() == blocks[1].collector.take_finished()
    update = torch.tensor(7, device=CUDA)
    rng, replay = blocks[0].rng, blocks[0].replay
    for one, other in zip(replay.sample(rng, update, 64), replay.sample(rng, 7, 64), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
@pytest.mark.parametrize("E", [1, 8])
def test_a_copy_that_went_through_a_checkpoint_goes_on_to_the_bit(
    E: int, algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From before graphs are captured and from after it, also in a ring that went around."""
    fake_env.register(monkeypatch)
    block = TrainingBlock(lanes_of(E, algorithm=algorithm, normalize_observations=True), CUDA)
    for _ in range(50):
        block.collector.random_step_()
    step = 0
    for num_steps in (1, 30, 150):
        copy = copy_block(block, tmp_path)
        assert not unequal_names(all_state(block), all_state(copy))
        for each in (block, copy):
            for number in range(step + 1, step + num_steps + 1):
                train_step_(each.collector, each.learner, number * E, 2)
        step += num_steps
        assert (block.evaluate() == copy.evaluate()).all()
        assert not unequal_names(all_state(block), all_state(copy))
