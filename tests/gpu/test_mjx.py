"""The MJX backend on a GPU: the numbers of the CPU, tensors without a copy, a training on it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

import envs
from envs.interface import TensorVecEnv
from tests.helpers import all_state, copy_block, unequal_names

jax = pytest.importorskip("jax", reason="needs the extra fastanf[mjx]")


def _jax_has_gpu() -> bool:
    return any(device.platform == "gpu" for device in jax.devices())


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(not _jax_has_gpu(), reason="needs a JAX that sees the GPU"),
]
IMPLS = [
    "jax",
    pytest.param(
        "warp",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("warp") is None, reason="needs the package warp-lang"
        ),
    ),
]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("env_id", ["HalfCheetah-v3", "Ant-v3", "Humanoid-v3"])
def test_a_few_steps_are_those_of_the_cpu(env_id: str, impl: str) -> None:
    seeds = range(16)
    device = envs.make(env_id, "mjx", seeds, device="cuda", impl=impl)
    host = envs.make(env_id, "mjx", seeds, device="cpu")
    np.testing.assert_allclose(device.reset(), host.reset(), rtol=1e-4, atol=1e-4)
    actions = np.random.default_rng(0).uniform(-0.4, 0.4, (3, 16, device.spec.num_actions))
    for action in actions.astype(np.float32):
        on_device, on_host = device.step(action), host.step(action)
        off = np.abs(on_device.obs - on_host.obs) / (1 + np.abs(on_host.obs))
        # Contacts drive rounding apart: most rows agree, and none is far.
        assert np.quantile(off.max(1), 0.75) < 1e-2
        assert np.quantile(np.abs(on_device.reward - on_host.reward), 0.75) < 1e-2
        assert not on_device.failed.any()


def test_observations_stay_on_the_gpu() -> None:
    env = envs.make("Hopper-v3", "mjx", range(64), device="cuda")
    assert isinstance(env, TensorVecEnv)
    assert env.reset_tensor().is_cuda
    step = env.step_tensors(torch.zeros(64, 3, device="cuda"))
    assert all(tensor.is_cuda for tensor in step)
    torch.cuda.synchronize()
    assert torch.isfinite(step.obs).all()


def test_a_block_trains_on_it_and_comes_back_from_a_checkpoint(tmp_path: Path) -> None:
    from fastanf.block import TrainingBlock
    from fastanf.config import TrainConfig

    base = TrainConfig.of(
        env="HalfCheetah-v3", backend="mjx", envs_per_lane=32, hidden=(64, 64), batch_size=64,
        max_timesteps=4096, start_timesteps=1024, eval_episodes=1, noise_fraction=0.9,
    )  # fmt: skip
    block = TrainingBlock([base.replace(seed=seed) for seed in (0, 1)], torch.device("cuda"))
    for _ in range(32):
        block.collector.random_step_()
    for step in range(1, 21):
        block.collector.step_(32 * step)
        block.learner.update_()
    losses = torch.stack(list(block.algorithm.losses)[:2])
    assert torch.isfinite(losses).all() and int(block.collector.num_failures.sum()) == 0
    copy = copy_block(block, tmp_path)
    assert not unequal_names(all_state(block), all_state(copy))
    block.close()
    copy.close()
