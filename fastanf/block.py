"""Builds one block: the environments, networks, replay and learner of the lanes that train stacked.

Axes: L lanes, E environments per lane, M evaluation episodes per lane, D real features, F features
with noise, A actions. This is the only place where a configuration becomes tensors; below it
everything takes what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

import envs
from envs.empirical import load_quantiles
from envs.interface import CompiledVecEnv, EnvSpec, VecEnv
from envs.noise import num_features
from fastanf.activations import make_activation
from fastanf.algorithms import ALGORITHMS, AlgorithmSettings
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
from fastanf.rng import LaneRng, row_seeds
from fastanf.simulator import (
    on_device,
    restore_simulator_,
    simulator_state,
)
from fastanf.sparse.evolution import TopologySettings

# What a simulator's row seeds are for, so that training and evaluation never share a world.
TRAIN_ENVS, EVAL_ENVS = 0, 1


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
        num_starts: how often the run was resumed, so that a resumed run's environments are new
            ones, where their state cannot be restored.
        announce: told what takes long.
    """

    def __init__(
        self,
        lanes: Sequence[TrainConfig],
        device: torch.device,
        num_threads: int = 0,
        num_starts: int = 0,
        announce: Announce = _say_nothing,
    ):
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # Triton launches on the current one
        first = self.config = lanes[0]
        task, noise, schedule = first.task, first.noise, first.schedule
        self.lanes = list(lanes)
        seeds = [lane.algorithm.seed for lane in lanes]
        L, E, M = len(lanes), task.envs_per_lane, schedule.eval_episodes
        self.rng = LaneRng(seeds, device)
        options = simulator_options(task, str(device))

        # What can be restored goes on in its own episodes; anything else begins new ones.
        start = 0 if envs.saves_state(task.backend) else num_starts

        def make_env(rows_per_lane: int, purpose: int) -> VecEnv:
            row_seed = row_seeds(seeds, rows_per_lane, 2 * start + purpose)
            env = envs.make(task.env, task.backend, row_seed, num_threads, **options)
            compile_aloud(env, announce)
            return env

        self.env, self.eval_env = make_env(E, TRAIN_ENVS), make_env(M, EVAL_ENVS)
        self.eval_simulator = on_device(self.eval_env, device)
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

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Tensors and counters that continue this block.

        Simulators that cannot be saved begin new episodes.
        """
        tensors = {
            f"{part}/{name}": tensor
            for part, owner in self._parts().items()
            for name, tensor in owner.state_dict().items()
        }
        tensors["num_periods"] = self.collector.num_periods
        tensors["num_failures"] = self.collector.num_failures
        for part, env in self._simulators().items():
            for name, tensor in (simulator_state(env) or {}).items():
                tensors[f"{part}/{name}"] = tensor
        if _of_part(tensors, "env"):  # the episodes go on, and so do their returns
            tensors["returns"] = self.collector.returns
        return tensors, {"num_evaluations": self.num_evaluations}

    def load_state_dict_(self, tensors: dict[str, Tensor], state: dict[str, int]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: a tensor is missing or has another shape.
        """
        newest = self.replay.obs[:, self.replay.time % self.replay.num_slots].clone()
        try:
            self._load_parts_(tensors)
            self.collector.num_periods = tensors["num_periods"]
            self.collector.num_failures = tensors["num_failures"]
            self.num_evaluations = state["num_evaluations"]
        except KeyError as error:
            raise ValueError(f"checkpoint lacks {error}, so it cannot be resumed") from error
        for part, env in self._simulators().items():
            saved = _of_part(tensors, part)
            if saved:
                restore_simulator_(env, saved)
        if _of_part(tensors, "env"):  # the newest observation is the simulator's
            self.collector.returns.copy_(tensors["returns"])
        else:
            self.replay.start_(newest)

    def _simulators(self) -> dict[str, VecEnv]:
        return {"env": self.env, "eval_env": self.eval_env}

    def _parts(self) -> dict[str, Learner | LaneReplay | NoisyFeatures]:
        return {"learner": self.learner, "replay": self.replay, "features": self.features}

    def _load_parts_(self, tensors: dict[str, Tensor]) -> None:
        for part, owner in self._parts().items():
            owner.load_state_dict_(_of_part(tensors, part))

    def close(self) -> None:
        """Release the simulators."""
        self.env.close()
        self.eval_env.close()


def _of_part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """What `state_dict` stored under `part/`, by the names within it."""
    prefix = f"{part}/"
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _quantiles(config: TrainConfig, device: torch.device) -> Tensor | None:
    if config.noise.noise_distribution != "empirical":
        return None
    return torch.from_numpy(load_quantiles(config.task.env)).to(device)
