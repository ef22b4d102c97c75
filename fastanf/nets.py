"""Stacked multilayer perceptrons of all lanes: tanh actor, squashed-Gaussian actor, twin critic.

Axes: L lanes, C = 2 critics, G = L (actors) or L * C (critics, lane-major), F features, A actions,
H hidden units, B batch. Inside the networks activations are feature-major, [., H, B]
(sparse/layers.py says why).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastanf.activations import Activation
from fastanf.rng import LaneRng, Stream
from fastanf.sparse.layers import LAYERS_PER_NETWORK, MaskedLinear, Parameter
from fastanf.sparse.masks import exact_masks

NUM_CRITICS = 2
LOG_STD_RANGE = (-20.0, 2.0)


class StackedMLP:
    """Layers with an activation between them.

    Args:
        layers: from input to output.
        activation: applied after every layer but the last.
        activation_parameters: per hidden layer, tensors [G, H or 1, 1] of a learnable activation;
            empty for a fixed one.
    """

    def __init__(
        self,
        layers: Sequence[MaskedLinear],
        activation: Activation,
        activation_parameters: Sequence[dict[str, Tensor]],
    ):
        self.layers = list(layers)
        self.activation = activation
        self.activation_parameters = list(activation_parameters)

    def forward(self, x: Tensor) -> Tensor:
        """[L, I, B] -> [G, O, B]."""
        return self._rest(self.layers[0].forward(x))

    def forward_split(self, x: Tensor, action: Tensor) -> Tensor:
        """Like `forward` on an input in two parts: [L, F, B], [L, A, B] -> [G, O, B]."""
        return self._rest(self.layers[0].forward_split(x, action))

    def _rest(self, hidden: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers[1:]):
            parameters = self.activation_parameters[index]
            hidden = layer.forward(self.activation(hidden, index, **parameters))
        return hidden

    def frozen(self, copy: slice = slice(None), num_copies: int = 1) -> StackedMLP:
        """The network without gradients of its own, on the same memory; `copy` picks among a
        lane's C copies.
        """
        activation_parameters = [
            {
                name: tensor.detach().unflatten(0, (-1, num_copies))[:, copy].flatten(0, 1)
                for name, tensor in tensors.items()
            }
            for tensors in self.activation_parameters
        ]
        layers = [layer.frozen(copy, num_copies) for layer in self.layers]
        return StackedMLP(layers, self.activation, activation_parameters)

    def parameters(self) -> Iterator[Parameter]:
        """Every trained tensor, layer by layer."""
        for index, layer in enumerate(self.layers):
            yield Parameter(f"{index}.weight", layer.weight, layer.mask)
            yield Parameter(f"{index}.bias", layer.bias, None)
        for index, tensors in enumerate(self.activation_parameters):
            for name, tensor in tensors.items():
                yield Parameter(f"{index}.activation.{name}", tensor, None)

    def target_copy(self) -> StackedMLP:
        """A copy of the weights, without gradients, on the same connections (the same mask
        tensors).
        """
        layers = [
            MaskedLinear(layer.weight.detach().clone(), layer.bias.detach().clone(), layer.mask)
            for layer in self.layers
        ]
        activation_parameters = [
            {name: tensor.detach().clone() for name, tensor in tensors.items()}
            for tensors in self.activation_parameters
        ]
        return StackedMLP(layers, self.activation, activation_parameters)


def build_mlp(
    rng: LaneRng,
    network: int,
    sizes: Sequence[int],
    active_counts: Sequence[Sequence[int]],
    num_copies: int,
    activation: Activation,
    initialisation: str,
) -> StackedMLP:
    """A stacked network with its own random weights and connections in every lane and copy.

    Weights are drawn as for a dense layer, then masked, without a correction of the fan-in (as
    published).

    Args:
        rng: random numbers of the lanes.
        network: number of the network, so that an actor and a critic differ.
        sizes: I, hidden sizes, O.
        active_counts: per layer, per lane, how many connections are active.
        num_copies: C for critics, 1 for an actor.
        activation: between the layers.
        initialisation: "xavier" (uniform, bias 0; SAC) or "fan_in" (torch.nn.Linear's default;
            TD3).

    Returns:
        A StackedMLP whose tensors require gradients.
    """
    L, C = rng.key.shape[0], num_copies
    layers, activation_parameters = [], []
    for index, (num_inputs, num_outputs) in enumerate(itertools.pairwise(sizes)):
        step = LAYERS_PER_NETWORK * network + index
        shape = (C, num_outputs, num_inputs)
        if initialisation == "xavier":
            bound, bias_bound = math.sqrt(6 / (num_inputs + num_outputs)), 0.0
        else:
            bound = bias_bound = 1 / math.sqrt(num_inputs)
        weight = (2 * rng.uniform(Stream.INIT, step, shape, sub=0) - 1) * bound
        bias = (2 * rng.uniform(Stream.INIT, step, shape[:2], sub=1) - 1) * bias_bound
        weight, bias = weight.flatten(0, 1), bias.flatten(0, 1)  # [L, C, O, I] -> [G, O, I]
        mask = None
        num_connections = num_outputs * num_inputs
        if any(count < num_connections for count in active_counts[index]):
            keys = rng.bits(Stream.MASK, step, shape).reshape(L * C, num_connections)
            counts = torch.tensor(active_counts[index], device=keys.device).repeat_interleave(C)
            mask = exact_masks(keys, counts).view_as(weight)
            weight = torch.where(mask, weight, 0.0)
        layers.append(MaskedLinear(weight.requires_grad_(), bias.requires_grad_(), mask))
        if index < len(sizes) - 2:
            tensors = activation.initial_parameters((L * C,), num_outputs)
            device = rng.key.device
            activation_parameters.append(
                {name: t.to(device).requires_grad_() for name, t in tensors.items()}
            )
    return StackedMLP(layers, activation, activation_parameters)


class ActionRange(NamedTuple):
    """Actions are offset + scale * tanh(.), component by component."""

    scale: Tensor  # [A, 1]
    offset: Tensor  # [A, 1]

    def squash(self, u: Tensor) -> Tensor:
        """Actions from unbounded values, both [L, A, B]."""
        return self.offset + self.scale * torch.tanh(u)

    @staticmethod
    def from_limits(
        low: Sequence[float], high: Sequence[float], device: torch.device
    ) -> ActionRange:
        """The range [low, high] of each action component, in the environment's units."""
        lows, highs = (torch.tensor(x, dtype=torch.float32, device=device) for x in (low, high))
        return ActionRange(((highs - lows) / 2).unsqueeze(1), ((highs + lows) / 2).unsqueeze(1))


class TanhActor:
    """Deterministic policy a = offset + scale * tanh(f(x)).

    Source: Fujimoto et al. 2018, arXiv 1802.09477, Sec. 5.
    """

    def __init__(self, mlp: StackedMLP, action_range: ActionRange):
        self.mlp, self.action_range = mlp, action_range

    def deterministic(self, x: Tensor) -> Tensor:
        """[L, F, B] -> action [L, A, B]."""
        return self.action_range.squash(self.mlp.forward(x))


class GaussianActor:
    """Squashed-Gaussian policy with state-dependent mean and deviation.

    u ~ N(mean(x), exp(log_std(x))^2), a = offset + scale * tanh(u). Source: Haarnoja et al. 2018,
    arXiv 1812.05905, App. C.
    """

    def __init__(self, mlp: StackedMLP, action_range: ActionRange):
        self.mlp, self.action_range = mlp, action_range

    def deterministic(self, x: Tensor) -> Tensor:
        """[L, F, B] -> action [L, A, B] of the mean."""
        mean, _ = self.mlp.forward(x).chunk(2, dim=1)
        return self.action_range.squash(mean)

    def sample(self, x: Tensor, standard_normal: Tensor) -> tuple[Tensor, Tensor]:
        """Reparameterised action and its log-density.

        log pi(a|x) = sum_i log N(u_i; mean_i, std_i) - log(scale_i * (1 - tanh(u_i)^2)), the
        latter in the stable form 2 * (log 2 - u + log sigmoid(2 u)).

        Args:
            x: [L, F, B].
            standard_normal: [L, A, B] the randomness.

        Returns:
            action [L, A, B] and log-density [L, B].
        """
        mean, log_std = self.mlp.forward(x).chunk(2, dim=1)
        log_std = log_std.clamp(*LOG_STD_RANGE)
        u = mean + log_std.exp() * standard_normal
        log_normal = -0.5 * standard_normal.square() - log_std - 0.5 * math.log(2 * math.pi)
        # Not softplus: torch computes it in another way at the end of a tensor, where other lanes
        # may or may not follow.
        log_slope = 2 * (math.log(2) - u + torch.nn.functional.logsigmoid(2 * u))
        log_density = (log_normal - log_slope - self.action_range.scale.log()).sum(1)
        return self.action_range.squash(u), log_density


class TwinCritic:
    """Two action-value functions on one input; the critic is an axis."""

    def __init__(self, mlp: StackedMLP):
        self.mlp = mlp

    def value(self, x: Tensor, action: Tensor) -> Tensor:
        """Q_c(x, a): [L, F + A, B], [L, A, B] -> [L, C, B].

        The last A rows of `x` are left for the action, which is written there.
        """
        x[:, -action.shape[1] :] = action
        return self.mlp.forward(x).view(x.shape[0], -1, x.shape[2])  # [G, 1, B] -> [L, C, B]

    def frozen_value(self, x: Tensor, action: Tensor, num_critics: int = NUM_CRITICS) -> Tensor:
        """Q_c(x, a) of the first critics, with a gradient for the action alone.

        [L, F, B], [L, A, B] -> [L, num_critics, B].
        """
        frozen = self.mlp.frozen(slice(num_critics), NUM_CRITICS)
        return frozen.forward_split(x, action).view(x.shape[0], -1, x.shape[2])

    def target_copy(self) -> TwinCritic:
        """The target network: a copy without gradients on the same connections."""
        return TwinCritic(self.mlp.target_copy())
