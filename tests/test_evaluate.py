"""Deterministic episodes: one a row, whatever the simulator can step and however many there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fastanf import recording
from fastanf.block import TrainingBlock
from fastanf.config import TrainConfig
from fastanf.evaluate import evaluate
from fastanf.kernels.layer_input import LayerInput
from tests import fake_env
from tests.fake_env import SPEC, RowsEnv, WholeEnv, episode_length
from tests.helpers import all_state, copy_block, unequal_names

SEEDS = (3, 4)


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)


def make_block(num_episodes: int, env: str = fake_env.ROWS_ENV_ID, **values) -> TrainingBlock:
    base = TrainConfig.of(
        env=env, backend="fake", hidden=(8, 5), batch_size=4, max_timesteps=40,
        start_timesteps=20, eval_episodes=num_episodes, **values,
    )  # fmt: skip
    return TrainingBlock([base.replace(seed=seed) for seed in SEEDS], torch.device("cpu"))


def fake(block: TrainingBlock) -> WholeEnv:
    assert isinstance(block.eval_env, WholeEnv)
    return block.eval_env


def act_plainly(block: TrainingBlock, lane: int, obs: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(obs).view(1, -1, 1).repeat(len(SEEDS), 1, 1)
    return block.algorithm.act(LayerInput(x))[lane, 0].numpy()


@pytest.mark.parametrize("num_episodes", [1, 3, 17])
@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_returns_are_those_of_one_episode_a_row(num_episodes: int, algorithm: str) -> None:
    block = make_block(num_episodes, algorithm=algorithm)
    for round_index in range(2):
        returns = block.evaluate()
        assert returns.shape == (2, num_episodes) and returns.dtype == np.float64
        for row, seed in enumerate(fake(block).seeds.tolist()):
            env = RowsEnv(SPEC, [seed])
            env.episode[0] = fake(block).episode[row] - 2
            obs, total = env.reset(), 0.0
            for _ in range(episode_length(seed, int(env.episode[0]))):
                step = env.step(act_plainly(block, row // num_episodes, obs[0])[None])
                obs, total = step.obs, total + float(step.reward[0])
            assert bool(step.terminated[0] | step.truncated[0])
            # products over other numbers of columns round differently: 6 rewards of order one
            assert returns[row // num_episodes, row % num_episodes] == pytest.approx(
                total, abs=1e-4
            )
        assert block.num_evaluations == round_index + 1


@pytest.mark.parametrize("num_episodes", [1, 3, 17])
def test_finished_rows_are_left_alone_where_the_simulator_can(num_episodes: int) -> None:
    block = make_block(num_episodes)
    block.evaluate()
    env = fake(block)
    lengths = [episode_length(seed, 0) for seed in env.seeds.tolist()]
    assert env.num_steps.tolist() == lengths
    assert min(len(actions) for actions in env.actions) >= 1


def test_a_simulator_without_single_rows_gives_the_same_returns() -> None:
    values: dict[str, Any] = {"noise_fraction": 0.7, "noise_std": 3.0}
    rows, whole = make_block(9, **values), make_block(9, fake_env.WHOLE_ENV_ID, **values)
    assert isinstance(fake(rows), RowsEnv) and not isinstance(fake(whole), RowsEnv)
    assert np.array_equal(rows.evaluate(), whole.evaluate())
    assert fake(whole).num_steps.min() == fake(whole).num_steps.max()
    lengths = [episode_length(seed, 0) for seed in fake(whole).seeds.tolist()]
    assert len(fake(whole).actions) == max(lengths)


@pytest.mark.parametrize("redraw", ["per_call", "per_step"])
def test_noise_differs_between_steps_episodes_and_rounds(
    redraw: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = make_block(3, noise_fraction=0.7, noise_redraw=redraw)
    seen: list[Tensor] = []
    act = block.algorithm.act

    def spy(x: LayerInput) -> Tensor:
        seen.append(x.written_out[:, 3:, :3].flatten())
        return act(x)

    monkeypatch.setattr(block.algorithm, "act", spy)
    block.evaluate()
    block.evaluate()
    noise = torch.cat(seen)
    assert noise.unique().numel() == noise.numel() > 4 * 2 * 7 * 3


def test_a_round_is_repeated_by_its_number() -> None:
    blocks = [make_block(5, noise_fraction=0.7) for _ in range(3)]
    first, again, other = (
        evaluate(block.eval_simulator, block.eval_act, round_index)
        for block, round_index in zip(blocks, (4, 4, 5), strict=True)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_evaluation_changes_nothing_that_trains() -> None:
    block = make_block(3, noise_fraction=0.7)
    for _ in range(4):
        block.collector.random_step_()
    block.evaluate()
    before = all_state(block)
    block.evaluate()
    changed = unequal_names(before, all_state(block))
    of_evaluations = {name for name in before if name.startswith("eval_env/")}
    assert of_evaluations and set(changed) == of_evaluations - {"eval_env/time"} | {
        "block/num_evaluations"
    }


@pytest.mark.parametrize("env", [fake_env.ROWS_ENV_ID, fake_env.WHOLE_ENV_ID])
@pytest.mark.parametrize("num_before", [0, 1, 3])
def test_evaluations_go_on_from_a_checkpoint(tmp_path: Path, env: str, num_before: int) -> None:
    """Other episodes than before, other noise, and the same as without the checkpoint."""
    block = make_block(3, env, noise_fraction=0.7)
    for _ in range(num_before):
        block.evaluate()
    copy = copy_block(block, tmp_path)
    for _ in range(2):
        assert np.array_equal(block.evaluate(), copy.evaluate())
    assert not unequal_names(all_state(block), all_state(copy))


@pytest.mark.parametrize("env", [fake_env.ROWS_ENV_ID, fake_env.WHOLE_ENV_ID])
def test_an_episode_that_breaks_down_has_no_return(env: str) -> None:
    sound, block = make_block(3, env), make_block(3, env)
    fake(block).fails_at = {1: {2}, 3: {1}, 4: {1}, 5: {2}}
    returns, expected = block.evaluate(), sound.evaluate()
    assert np.isnan(returns).tolist() == [[False, True, False], [True, True, True]]
    np.testing.assert_array_equal(returns[0, [0, 2]], expected[0, [0, 2]])
    rows = recording.evaluation_rows(block, range(2), returns, 1, 1, 0.0)
    assert [row.episodes for row in rows] == [2, 0]
    assert rows[0].return_mean == returns[0, [0, 2]].mean() and np.isnan(rows[1].return_max)
