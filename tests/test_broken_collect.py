"""What a broken lane does to its simulator, and what a broken simulator does to the other lanes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from envs.interface import Step
from fastanf.block import TrainingBlock
from fastanf.collect import finite_actions
from fastanf.config import TrainConfig
from tests import fake_env
from tests.fake_env import RowsEnv

SEEDS = (3, 4, 9)
BROKEN, OTHERS = 1, [0, 2]


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)


def make_block(envs_per_lane: int = 1, num_random: int = 0) -> TrainingBlock:
    base = TrainConfig.of(
        env=fake_env.ROWS_ENV_ID, backend="fake", hidden=(8, 5), batch_size=4, max_timesteps=400,
        start_timesteps=20, eval_episodes=2, envs_per_lane=envs_per_lane, noise_fraction=0.5,
    )  # fmt: skip
    block = TrainingBlock([base.replace(seed=seed) for seed in SEEDS], torch.device("cpu"))
    for _ in range(num_random):
        block.collector.random_step_()
    return block


def break_actor_(block: TrainingBlock) -> None:
    for weight in block.algorithm.actor_optimizer.tensors():
        weight.detach()[BROKEN] = float("nan")


def env_of(block: TrainingBlock, name: str = "env") -> RowsEnv:
    env = getattr(block, name)
    assert isinstance(env, RowsEnv)
    return env


def test_finite_actions_keep_every_bit_and_others_become_zero() -> None:
    smallest = float(np.finfo(np.float32).smallest_subnormal)
    kept = torch.tensor([0.0, -0.0, smallest, -smallest, 1e-30, 3.4e38, -3.4e38, -1.5])
    assert torch.equal(finite_actions(kept).view(torch.int32), kept.view(torch.int32))
    lost = torch.tensor([float("nan"), float("inf"), -float("inf")])
    assert finite_actions(lost).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("E", [1, 3])
def test_a_broken_actor_gives_the_simulator_zeros_and_the_others_their_actions(E: int) -> None:
    blocks = make_block(E, 1), make_block(E, 1)
    break_actor_(blocks[1])
    for block in blocks:
        block.collector.step_(1)
    sound, broken = (env_of(block).actions[-1].reshape(3, E, 2) for block in blocks)
    assert (broken[BROKEN] == 0).all() and (sound[BROKEN] != 0).all()
    assert np.array_equal(sound[OTHERS], broken[OTHERS])
    assert bool(blocks[1].replay.action.isfinite().all())


def test_a_broken_actor_is_evaluated_with_zeros_and_the_others_with_their_actions() -> None:
    blocks = make_block(), make_block()
    break_actor_(blocks[1])
    sound, broken = (block.evaluate() for block in blocks)
    assert np.isfinite(broken).all()
    assert np.array_equal(sound[OTHERS], broken[OTHERS])
    first = env_of(blocks[1], "eval_env").actions[0].reshape(3, 2, 2)
    assert (first[BROKEN] == 0).all() and (first[OTHERS] != 0).all()


def test_a_nan_reward_stays_in_its_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    sound, broken = make_block(2), make_block(2)
    env, whole_step = env_of(broken), RowsEnv.step

    def with_nan(actions: np.ndarray) -> Step:
        step = whole_step(env, actions)
        reward = step.reward.copy()
        reward[2 * BROKEN : 2 * BROKEN + 2] = np.nan
        return step._replace(reward=reward)

    monkeypatch.setattr(env, "step", with_nan)
    for block in (sound, broken):
        for _ in range(12):
            block.collector.random_step_()
        block.learner.update_()
    assert bool(broken.replay.reward[BROKEN, :12].isnan().all())
    for name in ("obs", "action", "reward", "not_terminated", "final_slot"):
        one, other = (getattr(block.replay, name)[OTHERS] for block in (sound, broken))
        assert torch.equal(one, other), name
    networks = (block.algorithm.critic.mlp.parameters() for block in (sound, broken))
    for one, other in zip(*networks, strict=True):
        of_lanes = (parameter.tensor.unflatten(0, (3, -1))[OTHERS] for parameter in (one, other))
        assert torch.equal(*of_lanes), one.name
    finished = [block.collector.take_finished() for block in (sound, broken)]
    for lane in OTHERS:
        assert finished[0][lane] == finished[1][lane] != []
    assert finished[1][BROKEN] and np.isnan(finished[1][BROKEN]).all()
    assert broken.learner.watch.broken(1) == {
        BROKEN: "critic loss is inf or nan at update 1 or before",
    }
    assert sound.learner.watch.broken(1) == {}


def test_a_lane_that_always_breaks_down_is_stopped_and_the_others_learn_what_they_would() -> None:
    states = []
    for fails_at in ({}, {BROKEN: set(range(1, 40))}):
        block = make_block()
        env_of(block).fails_at = fails_at
        for _ in range(20):
            block.collector.random_step_()
        for step in range(1, 6):
            block.collector.step_(step)
            block.learner.update_()
        watch = block.learner.watch
        cause = "simulation breaks down in nearly every step"
        assert watch.broken(5) == ({BROKEN: cause} if fails_at else {})
        assert watch.are_recorded == [True, not fails_at, True]
        states.append([p.tensor.detach() for p in block.algorithm.actor_mlp.parameters()])
    for one, other in zip(*states, strict=True):
        assert torch.equal(one[OTHERS], other[OTHERS])
