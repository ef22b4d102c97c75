"""What several tests share: a random task, small blocks, their state and copies of them.

Axes: L lanes, N = L * E environment rows, D real features, A actions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import envs
from envs.interface import EnvSpec, Step
from fastanf.block import TrainingBlock
from fastanf.checkpoint import BlockCheckpoints, Checkpoint
from fastanf.config import TrainConfig
from fastanf.kernels.layer_input import LayerInput
from fastanf.nets import ActionRange
from fastanf.presets import lane_config
from fastanf.replay import Batch, LaneReplay
from fastanf.replay_state import span_tensors

CPU = torch.device("cpu")


class RandomVecEnv:
    """Observations drawn at random, rewards of obs and action; episodes end both ways."""

    def __init__(self, spec: EnvSpec, seeds: Sequence[int], num_threads: int = 1):
        self.spec, self.num_rows, self._seeds = spec, len(seeds), seeds
        self._rngs = [np.random.default_rng(seed) for seed in seeds]
        self._num_draws = np.zeros(1, dtype=np.int64)
        self._elapsed = np.zeros(self.num_rows, dtype=np.int64)
        self._obs = np.zeros((self.num_rows, spec.num_features), dtype=np.float32)

    def _draw(self) -> NDArray[np.float32]:
        D = self.spec.num_features
        self._num_draws += 1
        return np.stack([rng.normal(size=D) for rng in self._rngs]).astype(np.float32)

    def reset(self) -> NDArray[np.float32]:
        self._elapsed[:] = 0
        self._obs = self._draw()
        return self._obs

    def step(self, actions: NDArray[np.float32]) -> Step:
        reward = (self._obs[:, 0] - np.square(actions - self._obs[:, :1]).sum(1)).astype(np.float32)
        self._elapsed += 1
        final_obs, next_episode = self._draw(), self._draw()
        terminated = final_obs[:, 0] > 1.5
        truncated = (self._elapsed >= self.spec.max_episode_steps) & ~terminated
        done = terminated | truncated
        self._elapsed[done] = 0
        self._obs = np.where(done[:, None], next_episode, final_obs)
        return Step(self._obs, reward, terminated, truncated, final_obs, np.zeros_like(terminated))

    def state(self) -> dict[str, NDArray[np.generic]]:
        held = {"num_draws": self._num_draws, "elapsed": self._elapsed, "obs": self._obs}
        return {name: array.copy() for name, array in held.items()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        self._rngs = [np.random.default_rng(seed) for seed in self._seeds]
        self._num_draws[:] = 0
        for _ in range(int(state["num_draws"][0])):
            self._draw()
        self._elapsed, self._obs = state["elapsed"].copy(), state["obs"].copy()
        return self._obs

    def close(self) -> None:
        pass


def _random_task(env_id: str, num_features: int, num_actions: int, limit: float) -> EnvSpec:
    low, high = (-limit,) * num_actions, (limit,) * num_actions
    return EnvSpec(env_id, num_features, num_actions, low, high, max_episode_steps=9)


envs.register_backend(
    "random",
    RandomVecEnv,
    [
        _random_task("Small-v0", 5, 2, 1.0),
        _random_task("Cheetah-v0", 17, 6, 1.0),
        _random_task("Humanoid-v0", 40, 17, 0.4),
    ],
)


def make_lane(policy: str, seed: int, **settings: Any) -> TrainConfig:
    """A lane on the random task Small-v0, small networks, unless the settings say otherwise."""
    small = {
        "env": "Small-v0",
        "backend": "random",
        "noise_fraction": 0.5,
        "hidden": (12, 9),
        "batch_size": 16,
        "start_timesteps": 150,
        "max_timesteps": 500,
        "eval_episodes": 1,
    }
    if small.keys() & settings.keys():
        small = {name: value for name, value in small.items() if name not in settings}
    return lane_config(policy, {**small, **settings}).replace(seed=seed)


def make_block(lanes: Sequence[TrainConfig], num_random_steps: int = 0) -> TrainingBlock:
    """A block on the CPU whose replay holds that many random steps."""
    block = TrainingBlock(lanes, CPU, num_threads=1)
    for _ in range(num_random_steps):
        block.collector.random_step_()
    return block


def saved(block: TrainingBlock, path: Path) -> Checkpoint:
    """The checkpoint of a block in a folder, as another process finds it."""
    BlockCheckpoints(path).save(block.state_dict(), {"step": block.replay.time}, block.replay)
    checkpoint, damage = BlockCheckpoints(path).load()
    assert checkpoint is not None and not damage
    return checkpoint


def copy_block(
    block: TrainingBlock, path: Path, lanes: Sequence[TrainConfig] | None = None
) -> TrainingBlock:
    """A new block that went through a checkpoint, its simulators included.

    Args:
        block: stays as it is.
        path: a folder for the checkpoint.
        lanes: of the new block, where they differ in what checkpoints do not depend on.
    """
    copy = TrainingBlock(lanes or block.lanes, block.replay.obs.device, num_threads=1)
    assert copy.restore_(saved(block, path))
    return copy


def all_state(block: TrainingBlock) -> dict[str, Tensor]:
    """All that a block goes on from, transitions that can be sampled included; what is NaN before
    the first update, as bits.
    """
    replay, state = block.replay, block.state_dict()
    state["block/losses"] = state["block/losses"].view(torch.int32)
    for name, tensor in span_tensors(replay, replay.oldest, replay.time).items():
        state[f"replay/{name}"] = tensor
    return {name: tensor.clone() for name, tensor in state.items()}


def lane_of_batch(batch: Batch, lane: int) -> Batch:
    """One lane's minibatch, without the lane axis."""
    return Batch(*(tensor[lane] for tensor in batch))


def lane_state(block: TrainingBlock, lane: int) -> dict[str, Tensor]:
    """All that training changed in one lane: networks, masks, moments, replay in order of time."""
    L = len(block.lanes)
    state = {}
    for name, tensor in block.learner.state_dict().items():
        if name == "log_temperature.moments":  # [2, L, 1]
            tensor = tensor.transpose(0, 1)
        state[name] = tensor.reshape(L, -1)[lane] if tensor.ndim else tensor
    for name, tensor in list(state.items()):
        # Without a sparse lane beside it, a dense one has no mask.
        if name.endswith(".weight") and not name.startswith("target"):
            state.setdefault(f"{name}.mask", torch.ones_like(tensor, dtype=torch.bool))
    for name, tensor in replay_content(block.replay)._asdict().items():
        state[f"replay.{name}"] = tensor[lane]
    return state


def replay_content(replay: LaneReplay) -> Batch:
    """All transitions of a replay, oldest first."""
    E = replay.envs_per_lane
    pick = torch.arange(replay.size)
    time, env = replay.time - replay.size // E + pick // E, pick % E
    L = replay.obs.shape[0]
    return replay.transitions(time.expand(L, -1), env.expand(L, -1))


def unequal_names(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that differ in any bit of their values (NaN differs from NaN)."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def _widening(draw: Callable[..., Any]) -> Callable[..., Any]:
    def drawn(*args: Any, **kwargs: Any) -> Any:
        given = draw(*args, **kwargs)
        if isinstance(given, LayerInput):
            return LayerInput(given.written_out.double())
        return given.double()

    return drawn


def to_float64_(block: TrainingBlock) -> None:
    """Let a block's learner compute in float64; what the random streams give stays what it is.

    The caller makes the reference kernels compute, because the compiled ones know float32 only.
    """
    algorithm, lanes = block.algorithm, block.lanes

    decimals = {
        field.name: torch.tensor([lane.get(field.name) for lane in lanes], dtype=torch.float64)
        for field in dataclasses.fields(algorithm.settings)
        if isinstance(getattr(algorithm.settings, field.name), Tensor)
        and getattr(algorithm.settings, field.name).dtype == torch.float32
    }
    algorithm.settings = dataclasses.replace(algorithm.settings, **decimals)
    for network in algorithm.networks().values():
        for parameter in network.parameters():
            parameter.tensor.data = parameter.tensor.data.double()
    for optimizer in (algorithm.actor_optimizer, algorithm.critic_optimizer):
        optimizer.learning_rate = algorithm.settings.learning_rate
        optimizer.weight_decay = algorithm.settings.weight_decay
        optimizer.exp_avg = [moment.double() for moment in optimizer.exp_avg]
        optimizer.exp_avg_sq = [moment.double() for moment in optimizer.exp_avg_sq]
    for name in ("log_temperature", "_temperature_moments"):
        if hasattr(algorithm, name):
            setattr(algorithm, name, getattr(algorithm, name).double())
    action_range = ActionRange(*(limit.double() for limit in algorithm.action_range))
    algorithm.action_range = action_range
    for name in ("actor", "target_actor"):
        if hasattr(algorithm, name):
            actor = getattr(algorithm, name)
            setattr(algorithm, name, type(actor)(actor.mlp, action_range))
    # What the streams give is widened where it enters.
    for owner, name in ((block.features, "draw"), (algorithm.rng, "normal")):
        setattr(owner, name, _widening(getattr(owner, name)))
