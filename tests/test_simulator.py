"""Simulators in the hands of the training loop: halves of a step, and what crosses to a device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from envs.interface import Step
from fastanf.simulator import HostSimulator, StepLayout, restore_simulator_, simulator_state
from tests.fake_env import SPEC, RowsEnv, WholeEnv

SEEDS = range(11, 16)


def random_step(num_rows: int, num_features: int) -> Step:
    rng = np.random.default_rng(num_rows)

    def floats(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32)

    def flags() -> np.ndarray:
        return rng.random(num_rows) < 0.5

    D = num_features
    return Step(
        floats(num_rows, D), floats(num_rows), flags(), flags(), floats(num_rows, D), flags()
    )


@pytest.mark.parametrize(("num_rows", "num_features"), [(1, 1), (5, 17), (64, 3)])
def test_a_step_crosses_in_one_buffer_unchanged(num_rows: int, num_features: int) -> None:
    layout = StepLayout(num_rows, num_features)
    buffer = torch.full((layout.num_bytes,), 255, dtype=torch.uint8)
    assert layout.num_bytes == num_rows * (8 * num_features + 4 + 3)
    step = random_step(num_rows, num_features)
    layout.fill_(buffer, step)
    there = layout.arrays(buffer.clone())
    for name, array, tensor in zip(step._fields, step, there, strict=True):
        assert np.array_equal(tensor.numpy(), array) and tensor.numpy().dtype == array.dtype, name
        assert tensor.is_contiguous()


@pytest.mark.parametrize("kind", [RowsEnv, WholeEnv])
def test_the_halves_of_a_step_are_a_step(kind: type[WholeEnv]) -> None:
    whole, halves = (HostSimulator(kind(SPEC, SEEDS), torch.device("cpu")) for _ in range(2))
    plain = kind(SPEC, SEEDS)
    assert torch.equal(whole.reset(), halves.reset())
    plain.reset()
    for env in (whole._env, halves._env, plain):
        assert isinstance(env, WholeEnv)
        env.fails_at = {2: {3, 9}}
    generator = torch.Generator().manual_seed(0)
    num_over = num_failed = 0
    for _ in range(12):
        actions = torch.rand(len(SEEDS), 2, generator=generator)
        halves.begin(actions)
        expected = plain.step(actions.numpy())
        for outcome in (whole.step(actions), halves.finish()):
            for array, tensor in zip(expected, outcome.step, strict=True):
                assert np.array_equal(tensor.numpy(), array)
            is_over = expected.terminated | expected.truncated
            assert np.array_equal(outcome.is_over.numpy(), is_over)
            assert np.array_equal(outcome.has_failed.numpy(), expected.failed)
        num_over += int(is_over.sum())
        num_failed += int(expected.failed.sum())
    assert num_over > 5 and num_failed == 2


def test_rows_that_stand_still_are_zero_and_neither_over_nor_failed() -> None:
    simulator = HostSimulator(RowsEnv(SPEC, SEEDS), torch.device("cpu"))
    simulator.reset()
    is_running = torch.tensor([True, False, True, True, False])
    num_over = 0
    for _ in range(8):
        step, is_over, has_failed = simulator.step_running(torch.rand(5, 2), is_running)
        assert bool((step.obs[is_running].abs().sum(1) > 0).all())
        for tensor in (*step, is_over, has_failed):
            assert not tensor[~is_running].any()
        num_over += int(is_over.sum())
    assert num_over > 0


@pytest.mark.parametrize("num_steps", [0, 1, 9])
@pytest.mark.parametrize("kind", [RowsEnv, WholeEnv])
def test_a_state_crosses_as_tensors_and_goes_on(kind: type[WholeEnv], num_steps: int) -> None:
    first, second = kind(SPEC, SEEDS), kind(SPEC, SEEDS)
    assert simulator_state(first) == {}
    assert restore_simulator_(second, {}) is None
    obs, actions = first.reset(), np.ones((len(SEEDS), 2), np.float32)
    for _ in range(num_steps):
        obs = first.step(actions).obs
    state = simulator_state(first)
    kept = {name: tensor.clone() for name, tensor in state.items()}
    restored = restore_simulator_(second, state)
    assert restored is not None and np.array_equal(restored.numpy(), obs)
    for _ in range(9):
        for one, other in zip(first.step(actions), second.step(actions), strict=True):
            assert np.array_equal(one, other)
    # Neither goes on in the tensors that it gave or was given.
    assert all(torch.equal(state[name], tensor) for name, tensor in kept.items())
