"""What an exported actor computes, as plain arrays: the form that every format is made from.

    x' = clip((x - shift) / scale, -limit, limit)              where observations are normalised
    h = W x + b,  h' = act(scale * (h - mean h) / sqrt(var h + eps) + shift)     per hidden layer
    a = offset + range * tanh(W h + b)                         the output layer

Gates are folded into the first weights, and of SAC's two heads only the mean is kept.

Axes: F features with noise, O outputs and I inputs of a layer, H units, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastanf.activations import Activation
from fastanf.agent import Agent
from fastanf.observation_statistics import CLIP, EPS

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class PolicyLayer:
    """One linear layer, and what follows it if it is a hidden one."""

    weight: Floats
    """[O, I], zero where no connection is."""
    bias: Floats
    """[O]."""
    mask: NDArray[np.bool_] | None = None
    """[O, I] active connections, None where all are."""
    norm_scale: Floats | None = None
    """[H] of the layer norm; None without one."""
    norm_shift: Floats | None = None
    """[H]."""
    activation: dict[str, Floats] = field(default_factory=dict)
    """[H] or [1] what the activation has learned, by name."""


@dataclass(frozen=True, eq=False)
class Policy:
    """An actor from noisy features [n, F] to deterministic actions [n, A]."""

    layers: tuple[PolicyLayer, ...]
    activation: Activation
    action_scale: Floats
    """[A]."""
    action_offset: Floats
    """[A]."""
    feature_shift: Floats | None = None
    """[F] of the observations' normalisation; None without one."""
    feature_scale: Floats | None = None
    """[F]."""
    feature_limit: float = CLIP

    @property
    def num_features(self) -> int:
        """F."""
        return self.layers[0].weight.shape[1]

    @property
    def num_dense_bytes(self) -> int:
        """Of all weights and biases with every connection there, in float32."""
        return 4 * sum(layer.weight.size + layer.bias.size for layer in self.layers)


def policy_of(agent: Agent) -> Policy:
    """The arrays of an agent's deterministic actor.

    Raises:
        ValueError: the network has a parameter that has no place in a `Policy`.
    """
    mlp, A = agent.mlp, agent.spec.num_actions
    known = {"weight", "bias", "gate", "norm.scale", "norm.shift"}
    for parameter in mlp.parameters():
        part = parameter.name.partition(".")[2]
        if part not in known and not part.startswith("activation."):
            raise ValueError(f"parameter {parameter.name} of the actor cannot be exported")
    layers = []
    for index, layer in enumerate(mlp.layers):
        weight = mlp.input_weight() if index == 0 else layer.to_dense()
        mask = layer.connection_mask()
        is_last = index == len(mlp.layers) - 1
        rows = slice(A if is_last else None)  # the mean comes before the log of the deviation
        norm = mlp.norm_parameters[index] if mlp.norm_parameters and not is_last else {}
        learned = {} if is_last else mlp.activation_parameters[index]
        layers.append(
            PolicyLayer(
                weight=_array(weight[0, rows]),
                bias=_array(layer.bias[0, rows]),
                mask=None if mask is None else mask[0, rows].numpy(),
                norm_scale=_flat(norm.get("scale")),
                norm_shift=_flat(norm.get("shift")),
                activation={name: _array(tensor).ravel() for name, tensor in learned.items()},
            )
        )
    shift, scale = _normalisation(agent)
    return Policy(
        layers=tuple(layers),
        activation=mlp.activation,
        action_scale=_array(agent.action_range.scale).ravel(),
        action_offset=_array(agent.action_range.offset).ravel(),
        feature_shift=shift,
        feature_scale=scale,
    )


def about(agent: Agent) -> dict[str, Any]:
    """What a user of an exported file wants to know, as JSON values."""
    config, evaluation = agent.config, agent.state.evaluation
    return {
        "policy": config.algorithm.policy,
        "algorithm": config.algorithm.algorithm,
        "env": config.task.env,
        "seed": config.algorithm.seed,
        "lane": agent.lane,
        "step": agent.step,
        "updates": agent.num_updates,
        "return_mean": None if evaluation is None else evaluation.return_mean,
        "num_features": agent.num_features,
        "num_real": agent.spec.num_features,
        "real_places": agent.real_places.tolist(),
        "action_low": list(agent.spec.action_low),
        "action_high": list(agent.spec.action_high),
        "versions": dict(agent.state.versions),
    }


def _normalisation(agent: Agent) -> tuple[Floats | None, Floats | None]:
    """What is taken from the features, and what they are divided by (observation_statistics.py)."""
    if agent.features.statistics is None:
        return None, None
    observed = agent.features.statistics.state_dict()
    count, mean, squares = (observed[f"observed{part}"] for part in ("", "_mean", "_squares"))
    scale = (squares / count + EPS).sqrt() if count > 0 else torch.ones_like(mean)
    return _flat(mean), _flat(scale)


def _array(tensor: Tensor) -> Floats:
    return np.ascontiguousarray(tensor.detach().numpy(), dtype=np.float32)


def _flat(tensor: Tensor | None) -> Floats | None:
    return None if tensor is None else _array(tensor).ravel()
