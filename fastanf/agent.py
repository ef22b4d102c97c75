"""One trained lane on its own, ready to act: `load_agent(path).act(obs)`.

Axes: n observations, D real features, F features with noise, A actions; inside, the lane axis L is
1. Actor and features are built by the code that trained them, so that an agent's actions are those
of its lane in the block, to the bit.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from envs.empirical import load_quantiles
from fastanf.activations import make_activation
from fastanf.agent_file import read_agent, write_agent
from fastanf.agent_state import AgentState, read_lane
from fastanf.algorithms import ALGORITHMS
from fastanf.algorithms.actor_critic import ACTOR
from fastanf.collect import fill_rows
from fastanf.config import TrainConfig
from fastanf.features import NoisyFeatures
from fastanf.kernels.layer_input import LayerInput
from fastanf.layouts import block_layouts
from fastanf.nets import ActionRange, GaussianActor, StackedMLP, TanhActor, build_mlp
from fastanf.networks import NetworkPlan, lane_networks
from fastanf.paths import expanded
from fastanf.rng import LaneRng, Stream

Array = TypeVar("Array", Tensor, np.ndarray)
AGENT_SUFFIX = ".safetensors"
_ACTORS = {"sac": GaussianActor, "td3": TanhActor}
_CPU = torch.device("cpu")


class Agent:
    """The actor of one lane, on the CPU.

    Args:
        state: its settings and tensors.

    Raises:
        ValueError: the tensors are not those that the settings make.
    """

    def __init__(self, state: AgentState):
        self.state = state
        self.config, self.spec, self.lane = state.config, state.spec, state.lane
        self.step, self.num_updates = state.step, state.num_updates
        networks = lane_networks(self.config, self.spec)
        # First: settings may claim networks that no memory holds, tensors are there.
        for index, (num_inputs, num_outputs) in enumerate(itertools.pairwise(networks[0].sizes)):
            _tensor(state, f"actor.{index}.weight", (1, num_outputs, num_inputs))
        rng = LaneRng([self.config.algorithm.seed], _CPU)
        self.features = _features(self.config, self.spec.num_features, networks[0].sizes[0], rng)
        _load_features_(self.features, state)
        self.mlp = _actor_network(state, networks, rng)
        _load_network_(self.mlp, state)
        limits = self.spec.action_low, self.spec.action_high
        self.action_range = ActionRange.from_limits(*limits, _CPU)
        self._actor = _ACTORS[self.config.algorithm.algorithm](self.mlp, self.action_range)

    @property
    def num_features(self) -> int:
        """F, noise included."""
        return self.features.num_features

    @property
    def real_columns(self) -> Tensor:
        """[F] bool: which features are real, in the newest order."""
        return self.features.real_columns()[0]

    @property
    def real_places(self) -> Tensor:
        """[D] int64 where each real feature stands among all features, in the newest order."""
        source = self.features.source
        places = torch.arange(self.num_features) if source is None else source[0, -1].argsort()
        return places[: self.spec.num_features]

    @torch.no_grad()
    def act(self, obs: Array, row: int = 0) -> Array:
        """Deterministic actions on real features, among noise drawn as evaluations draw it.

        Args:
            obs: [n, D] in the units of the task.
            row: number of the first observation's noise; the others' follow. At step t of
                evaluation r with M episodes it is (r * max_episode_steps + t) * M.

        Returns:
            [n, A] float32 in the units of the task, a tensor for a tensor and an array for an
            array.

        Raises:
            ValueError: on another shape.
        """
        real = _checked("obs", obs, self.spec.num_features)
        rows = row + torch.arange(real.shape[0]).unsqueeze(0)
        x = fill_rows(real.unsqueeze(0))
        x = self.features.draw(x, fill_rows(rows), Stream.EVAL_FEATURES)
        return _like(obs, self._actions(x, len(obs)))

    @torch.no_grad()
    def act_on_features(self, features: Array) -> Array:
        """Deterministic actions on features that hold their noise already.

        Args:
            features: [n, F] in the newest order, as the task shows them: they are normalised here
                if the lane does that.

        Returns:
            [n, A], as `act`.

        Raises:
            ValueError: on another shape.
        """
        x = fill_rows(_checked("features", features, self.num_features).unsqueeze(0))
        x = x.transpose(1, 2)
        statistics = self.features.statistics
        x = x.contiguous() if statistics is None else statistics.normalised(x)
        return _like(features, self._actions(LayerInput(x), len(features)))

    def _actions(self, x: LayerInput, num_rows: int) -> Tensor:
        return self._actor.deterministic(x).transpose(1, 2)[0, :num_rows]


def load_agent(path: str | Path, lane: int | None = None) -> Agent:
    """The agent of one lane.

    Args:
        path: the folder of a run, which may still be going on, or a file of `save_agent`.
        lane: its number in the run, by default 0; of a file, the one it has or None.

    Raises:
        ValueError: there is no such run, lane or file, it is not saved yet, or it is damaged.
    """
    path = expanded(path, "path")
    # os.path says no to a name that is too long, where Path raises.
    if os.path.isdir(path):
        return Agent(read_lane(path, 0 if lane is None else lane))
    if not os.path.isfile(path) or path.suffix != AGENT_SUFFIX:
        raise ValueError(
            f"path must be the folder of a run or the file of an agent (*{AGENT_SUFFIX}), "
            f"got {str(path)!r}"
        )
    state = read_agent(path)
    if lane is not None and lane != state.lane:
        raise ValueError(
            f"lane must be {state.lane}, the only one in {str(path)!r}, or left out, got {lane}"
        )
    return Agent(state)


def save_agent(agent: Agent, path: str | Path) -> None:
    """Write one file from which `load_agent` makes the same agent.

    Args:
        agent: to save.
        path: a name that ends in .safetensors; a file there is replaced as a whole.

    Raises:
        ValueError: the name ends otherwise.
        OSError: it cannot be written.
    """
    path = expanded(path, "path")
    if path.suffix != AGENT_SUFFIX:
        raise ValueError(f"path must end in {AGENT_SUFFIX}, got {str(path)!r}")
    write_agent(path, agent.state)


def _features(config: TrainConfig, num_real: int, num_features: int, rng: LaneRng) -> NoisyFeatures:
    noise, quantiles = config.noise, None
    if noise.noise_distribution == "empirical" and noise.noise_fraction > 0:
        quantiles = torch.from_numpy(load_quantiles(config.task.env).copy())
        if quantiles.shape[0] != num_real:
            raise ValueError(
                f"noise_distribution empirical has {quantiles.shape[0]} features of "
                f"{config.task.env}, the agent {num_real}"
            )
    return NoisyFeatures(
        rng,
        num_real,
        num_features,
        torch.tensor([noise.noise_std]),
        noise.noise_redraw,
        quantiles,
        noise.permute_replay,
        noise.normalize_observations,
    )


def _actor_network(
    state: AgentState, networks: tuple[NetworkPlan, NetworkPlan], rng: LaneRng
) -> StackedMLP:
    """The actor's network as training builds it, with as many connections as the state has; its
    weights are yet to be loaded.
    """
    config, (plan, _) = state.config, networks
    counts = []
    for index, num_possible in enumerate(plan.connections):
        mask = state.tensors.get(f"actor.{index}.weight.mask")
        counts.append([num_possible if mask is None else int(mask.sum())])
    activation = make_activation(
        config.network.activation, config.network.activation_args,
        config.network.activation_per_neuron,
    )  # fmt: skip
    return build_mlp(
        rng, ACTOR, plan.sizes, counts, 1, activation,
        ALGORITHMS[config.algorithm.algorithm].initialisation,
        block_layouts([config], [networks], "cpu")[0], plan.has_layer_norm, plan.num_gates,
    )  # fmt: skip


def _load_features_(features: NoisyFeatures, state: AgentState) -> None:
    prefix = "features."
    own = {k.removeprefix(prefix): v for k, v in state.tensors.items() if k.startswith(prefix)}
    F = features.num_features
    order = own.get("source")
    if order is not None and not (
        tuple(order.shape) == (1, 1, F)
        and order.dtype == torch.int64
        and torch.equal(order[0, 0].sort().values, torch.arange(F))
    ):
        raise ValueError(f"{_whose(state)}: features.source is no order of its {F} features")
    kept = {} if features.statistics is None else features.statistics.state_dict()
    places = {} if order is None else {"since": torch.zeros(1, 1)}
    for name, place in (kept | places).items():
        if name not in own:
            raise ValueError(f"{_whose(state)} lacks features that its settings need: {name}")
        found = _check_numbers(state, f"{prefix}{name}", own[name], tuple(place.shape))
        if name in ("observed", "observed_squares") and (found < 0).any():
            raise ValueError(f"{_whose(state)}: {prefix}{name} must not be negative")
    strange = set(own) - {"source", "since"} - set(kept)
    if strange:
        raise ValueError(f"{_whose(state)} has features of no use: {', '.join(sorted(strange))}")
    features.load_state_dict_(own)


@torch.no_grad()
def _load_network_(network: StackedMLP, state: AgentState) -> None:
    """Fill a network of one lane by the names of its parameters.

    Raises:
        ValueError: a tensor is missing, unknown or of another shape, or a layer has another number
            of connections.
    """
    unknown = {name for name in state.tensors if name.startswith("actor.")}
    for parameter in network.parameters():
        name, layer = f"actor.{parameter.name}", parameter.layer
        expected = tuple(parameter.tensor.shape if layer is None else layer.shape)
        tensor = _tensor(state, name, expected)
        unknown -= {name, f"{name}.mask"}
        if layer is not None and layer.is_sparse:
            try:
                layer.set_connections_(_tensor(state, f"{name}.mask", expected))
            except ValueError as error:
                raise ValueError(f"{_whose(state)}: {error}") from None
        parameter.tensor.copy_(parameter.from_dense(tensor))
    if unknown:
        raise ValueError(
            f"{_whose(state)} has tensors that its settings have no place for: "
            f"{', '.join(sorted(unknown))}"
        )


def _tensor(state: AgentState, name: str, shape: tuple[int, ...]) -> Tensor:
    return _check_numbers(state, name, state.tensors.get(name), shape)


def _check_numbers(
    state: AgentState, name: str, found: Tensor | None, shape: tuple[int, ...]
) -> Tensor:
    if found is None or tuple(found.shape) != shape:
        held = "none" if found is None else tuple(found.shape)
        raise ValueError(
            f"{_whose(state)}: tensor {name} must have the shape {shape}, as its settings say, "
            f"got {held}"
        )
    if not found.isfinite().all():
        raise ValueError(f"{_whose(state)}: tensor {name} has values that are not finite")
    return found


def _whose(state: AgentState) -> str:
    return f"lane {state.lane} ({state.config.algorithm.policy} on {state.config.task.env})"


def _checked(name: str, given: Tensor | np.ndarray, num_columns: int) -> Tensor:
    """[n, ...] rows as float32 on the host."""
    if given.ndim != 2 or given.shape[0] < 1 or given.shape[1] != num_columns:
        raise ValueError(
            f"{name} must have the shape [n, {num_columns}] with n of at least 1, got "
            f"{[*given.shape]}"
        )
    return torch.as_tensor(given, dtype=torch.float32, device=_CPU)


def _like(given: Array, actions: Tensor) -> Array:
    return actions if isinstance(given, Tensor) else actions.numpy()  # pyright: ignore
