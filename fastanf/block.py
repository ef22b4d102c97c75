"""Builds one block: the environments, networks, replay and learner of the lanes that train stacked.

Axes: L lanes, E environments per lane, M evaluation episodes per lane, D real features, F features
with noise, A actions. This is the only place where a configuration becomes tensors; below it
everything takes what it needs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

import envs
from envs.empirical import load_quantiles
from envs.interface import CompiledVecEnv, EnvSpec, SavableVecEnv, SimulationDiffers, VecEnv
from envs.noise import num_features
from fastanf.activations import make_activation
from fastanf.algorithms import ALGORITHMS, AlgorithmSettings
from fastanf.checkpoint import Checkpoint
from fastanf.collect import Collector
from fastanf.config import TrainConfig
from fastanf.evaluate import Act, evaluate
from fastanf.features import NoisyFeatures
from fastanf.graphs import graphs_for
from fastanf.grouping import simulator_options
from fastanf.instrument import Stage, stage
from fastanf.lanes import LaneTable
from fastanf.layouts import block_layouts
from fastanf.learner import Learner
from fastanf.networks import lane_networks
from fastanf.replay import LaneReplay
from fastanf.replay_state import begin_restore_, newest_state
from fastanf.rng import LaneRng, row_seeds
from fastanf.simulator import (
    on_device,
    restore_simulator_,
    simulator_state,
)
from fastanf.sparse.evolution import TopologySettings

log = logging.getLogger(__name__)

# What a simulator's row seeds are for, so that training and evaluation never share a world.
TRAIN_ENVS, EVAL_ENVS = 0, 1
_HEADER_BYTES = 2**20
"""More than the names and shapes of any block's tensors take."""


def algorithm_settings(
    lanes: Sequence[TrainConfig], spec: EnvSpec, device: torch.device
) -> AlgorithmSettings:
    """The settings of stacked lanes as tensors [L] and lists, from configurations that share a
    block key.
    """
    table, first = LaneTable([lane.flat() for lane in lanes]), lanes[0]

    def numbers(name: str) -> Tensor:
        return table.tensor(name, torch.float32, device)

    def column(name: str) -> list:
        return table.column(name)

    networks = [lane_networks(lane, spec) for lane in lanes]  # per lane: actor, critic
    actor_active, critic_active = (
        [list(layer) for layer in zip(*(lane[i].active_counts for lane in networks), strict=True)]
        for i in (0, 1)
    )
    layouts = block_layouts(lanes, networks, device.type)
    topologies = [
        TopologySettings(
            topology=[lane[i].topology for lane in networks],
            drop_fraction=column("drop_fraction"),
            drop_schedule=column("drop_schedule"),
            period=column("topology_period"),
            end_share=column("topology_end"),
            new_weights=column("new_weights"),
            num_updates=first.num_updates,
        )
        for i in (0, 1)
    ]
    optimizers = column("optimizer")
    return AlgorithmSettings(
        num_features=num_features(spec.num_features, first.noise.noise_fraction),
        action_low=spec.action_low,
        action_high=spec.action_high,
        hidden=first.network.hidden,
        activation=make_activation(
            first.network.activation,
            first.network.activation_args,
            first.network.activation_per_neuron,
        ),
        actor_active=actor_active,
        critic_active=critic_active,
        actor_layouts=layouts[0],
        critic_layouts=layouts[1],
        actor_topology=topologies[0],
        critic_topology=topologies[1],
        learning_rate=numbers("learning_rate"),
        weight_decay=numbers("weight_decay"),
        mask_moments=torch.tensor([name == "MaskAdam" for name in optimizers], device=device),
        input_l1=numbers("input_l1"),
        input_group_lasso=numbers("input_group_lasso"),
        discount=numbers("discount"),
        tau=numbers("tau"),
        target_period=column("target_period"),
        policy_delay=first.algorithm.policy_delay,
        temperature=numbers("temperature"),
        automatic_temperature=table.tensor("automatic_temperature", torch.bool, device),
        target_noise=numbers("target_noise"),
        target_noise_clip=numbers("target_noise_clip"),
        exploration_noise=numbers("exploration_noise"),
        layer_norm=first.network.layer_norm,
        input_gate=first.network.input_gate,
        use_sgd=optimizers[0] == "SGD",
        trim_targets=first.sparsity.target_sparsity == "trim",
    )


Announce = Callable[[str, bool], None]
"""Told a line about what takes long, and whether the line is to stay."""


def compile_aloud(env: VecEnv, announce: Announce) -> None:
    """Compile a simulator that wants it, and say how long that took."""
    if not isinstance(env, CompiledVecEnv):
        return
    rows = f"{env.num_rows} environment{'s' * (env.num_rows > 1)} of {env.spec.env_id}"
    announce(f"compiling {rows}", False)
    seconds = env.compile()
    if seconds:
        announce(f"compiled {rows} in {seconds:.1f} s", True)


def _say_nothing(text: str, stays: bool) -> None:
    del text, stays


class TrainingBlock:
    """Everything that trains together.

    Args:
        lanes: configurations with one block key.
        device: of networks and replay.
        num_threads: simulator threads, 0 for all.
        announce: told what takes long.
    """

    def __init__(
        self,
        lanes: Sequence[TrainConfig],
        device: torch.device,
        num_threads: int = 0,
        announce: Announce = _say_nothing,
    ):
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # Triton launches on the current one
        first = self.config = lanes[0]
        task, noise = first.task, first.noise
        self.lanes = list(lanes)
        seeds = [lane.algorithm.seed for lane in lanes]
        L, E = len(lanes), task.envs_per_lane
        self.rng = LaneRng(seeds, device)
        self._device, self._num_threads, self._announce = device, num_threads, announce
        self._make_simulators_(world=0)
        spec = self.env.spec
        settings = algorithm_settings(lanes, spec, device)
        self.features = NoisyFeatures(
            self.rng,
            spec.num_features,
            settings.num_features,
            torch.tensor([lane.noise.noise_std for lane in lanes], device=device),
            noise.noise_redraw,
            _quantiles(first, device),
            noise.permute_replay,
            noise.normalize_observations,
        )
        self.algorithm = ALGORITHMS[first.algorithm.algorithm](settings, self.features, self.rng)
        self.replay = LaneReplay(
            L, first.effective_replay_capacity, spec.num_features, spec.num_actions, E, device
        )
        self.collector = Collector(
            on_device(self.env, device),
            self.algorithm,
            self.replay,
            self.rng,
            noise.permute_period,
            graphs_for(device),
        )
        self.learner = Learner(
            self.algorithm,
            self.replay,
            self.rng,
            first.algorithm.batch_size,
            graphs_for(device),
        )
        self.eval_act = Act(self.algorithm, L, graphs_for(device))
        self.num_evaluations = 0

    def _make_simulators_(self, world: int) -> None:
        """Build both, with seeds of their own for every world: 0, and one more whenever a block
        goes on where its simulators cannot.
        """
        task, num_eval_rows = self.config.task, self.config.schedule.eval_episodes
        seeds = [lane.algorithm.seed for lane in self.lanes]
        options = simulator_options(task, str(self._device))

        def make_env(rows_per_lane: int, purpose: int) -> SavableVecEnv:
            row_seed = row_seeds(seeds, rows_per_lane, 2 * world + purpose)
            env = envs.make(task.env, task.backend, row_seed, self._num_threads, **options)
            compile_aloud(env, self._announce)
            return env

        self.world = world
        self.env, self.eval_env = (
            make_env(task.envs_per_lane, TRAIN_ENVS),
            make_env(num_eval_rows, EVAL_ENVS),
        )
        self.eval_simulator = on_device(self.eval_env, self._device)

    @property
    def num_random_steps(self) -> int:
        """Lock steps with random actions at the start; each is E environment steps of a lane."""
        return -(-self.config.schedule.start_timesteps // self.replay.envs_per_lane)

    def evaluate(self) -> np.ndarray:
        """[L, M] returns of deterministic episodes."""
        with stage(Stage.EVALUATION):
            returns = evaluate(self.eval_simulator, self.eval_act, self.num_evaluations)
        self.num_evaluations += 1
        return returns.numpy()

    def state_dict(self, is_finished: bool = False) -> dict[str, Tensor]:
        """Tensors that continue this block, together with the replay's transitions.

        Args:
            is_finished: without what only a block needs that goes on.
        """
        owners = {"learner": self.learner.state_dict(), "features": self.features.state_dict()}
        if not is_finished:
            owners["replay"] = newest_state(self.replay)
            owners["collector"] = self.collector.state_dict()
            for part, env in self._simulators().items():
                owners[part] = simulator_state(env)
        owners["block"] = {
            "num_evaluations": torch.tensor(self.num_evaluations),
            "world": torch.tensor(self.world),
            "losses": torch.stack(self.algorithm.losses),
        }
        return {f"{part}/{name}": v for part, state in owners.items() for name, v in state.items()}

    @property
    def most_state_bytes(self) -> int:
        """No file of `state_dict` is larger. Of the simulators' episodes and of the features'
        permutations, which grow, it counts the most there can be.
        """
        schedule, noise, spec = self.config.schedule, self.config.noise, self.env.spec
        num_rows = self.env.num_rows + self.eval_env.num_rows
        episodes = num_rows * spec.max_episode_steps * (spec.num_actions + 1)
        num_periods = schedule.max_timesteps // noise.permute_period if noise.permute_period else 0
        orders = len(self.lanes) * (num_periods + 2) * (self.features.num_features + 1)
        standing = sum(tensor.nbytes for tensor in self.state_dict().values())
        return 2 * standing + 8 * (episodes + orders) + _HEADER_BYTES

    def restore_(self, checkpoint: Checkpoint) -> bool:
        """Go on from a checkpoint.

        Returns:
            Whether the simulators are where they were. Where they compute other numbers than they
            did when the checkpoint was written (another machine, another version) they are not,
            and new episodes begin.

        Raises:
            ValueError: the checkpoint is damaged, or of another block.
        """
        tensors = checkpoint.tensors(self.most_state_bytes)
        try:
            self.learner.load_state_dict_(_of_part(tensors, "learner"))
            self.features.load_state_dict_(_of_part(tensors, "features"))
            begin_restore_(self.replay, _of_part(tensors, "replay"))
            checkpoint.restore_transitions_(self.replay)
            self.collector.load_state_dict_(_of_part(tensors, "collector"))
            self.algorithm.restore_losses_(tensors["block/losses"])
            self.num_evaluations = int(tensors["block/num_evaluations"])
            world = int(tensors["block/world"])
        except KeyError as error:
            raise ValueError(f"checkpoint lacks {error}") from error
        except (RuntimeError, IndexError) as error:
            raise ValueError(f"checkpoint cannot be resumed: {error}") from error
        return self._restore_simulators_(world, tensors)

    def _restore_simulators_(self, world: int, tensors: dict[str, Tensor]) -> bool:
        newest = self.replay.observations(self.replay.time).cpu()
        if world != self.world:
            self._change_world_(world)
        try:
            restore_simulator_(self.eval_env, _of_part(tensors, "eval_env"))
            obs = restore_simulator_(self.env, _of_part(tensors, "env"))
            if obs is not None and torch.equal(_bits(obs.view_as(newest)), _bits(newest)):
                return True
        except SimulationDiffers as error:
            log.debug("%s", error)
        self._change_world_(world + 1)
        self.collector.begin_episodes_()
        return False

    def _change_world_(self, world: int) -> None:
        self.close()
        self._make_simulators_(world)
        self.collector.simulator = on_device(self.env, self._device)

    def _simulators(self) -> dict[str, SavableVecEnv]:
        return {"env": self.env, "eval_env": self.eval_env}

    def close(self) -> None:
        """Release the simulators."""
        self.env.close()
        self.eval_env.close()


def _bits(numbers: Tensor) -> Tensor:
    """Float32 as int32, so that a nan equals itself."""
    return numbers.contiguous().view(torch.int32)


def _of_part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """What `state_dict` stored under `part/`, by the names within it."""
    prefix = f"{part}/"
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _quantiles(config: TrainConfig, device: torch.device) -> Tensor | None:
    if config.noise.noise_distribution != "empirical" or config.noise.noise_fraction == 0:
        return None
    return torch.from_numpy(load_quantiles(config.task.env)).to(device)
