"""Stacked multilayer perceptrons of all lanes: tanh actor, squashed-Gaussian actor, twin critic.

Axes: L lanes, C = 2 critics, G = L (actors) or L * C (critics, lane-major), F features, A actions,
H hidden units, B batch. Inside the networks activations are feature-major, [., H, B]
(sparse/layers.py says why).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastanf.activations import Activation
from fastanf.chain import run_layers
from fastanf.kernels.input_gate import FIRST_GATE, gated_weight
from fastanf.kernels.layer_input import LayerInput
from fastanf.kernels.layer_norm import layer_norm
from fastanf.kernels.squashed_gaussian import Squashing, sample_squashed
from fastanf.rng import LaneRng, Stream
from fastanf.sparse.layers import (
    CSR,
    LAYERS_PER_NETWORK,
    CsrLinear,
    MaskedLinear,
    Parameter,
    StackedLinear,
    pick_copies,
)
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
        norm_parameters: per hidden layer, its `scale` and `shift` [G, H, 1] of the layer norm
            before the activation; none without one.
        gate: [G, F] what the features' gates are made of (kernels/input_gate.py), with a masked
            first layer; None without gates.
    """

    def __init__(
        self,
        layers: Sequence[StackedLinear],
        activation: Activation,
        activation_parameters: Sequence[dict[str, Tensor]],
        norm_parameters: Sequence[dict[str, Tensor]] = (),
        gate: Tensor | None = None,
    ):
        self.layers = list(layers)
        self.activation = activation
        self.activation_parameters = list(activation_parameters)
        self.norm_parameters = list(norm_parameters)
        self.gate = gate

    def forward(self, x: LayerInput) -> Tensor:
        """[L, I, B] -> [G, O, B]."""
        layers = [self._first_layer(), *self.layers[1:]]
        slope = self.activation.slope_below_zero
        if slope is not None and not self.norm_parameters:
            return run_layers(layers, slope, x)
        hidden = run_layers(layers[:1], 1.0, x)
        for index, layer in enumerate(layers[1:]):
            if self.norm_parameters:
                hidden = layer_norm(hidden, **self.norm_parameters[index])
            parameters = self.activation_parameters[index]
            hidden = self.activation(hidden, index, **parameters)
            hidden = run_layers([layer], 1.0, LayerInput(hidden))
        return hidden

    def _first_layer(self) -> StackedLinear:
        """The first layer as it takes its inputs, through the gates."""
        layer = self.layers[0]
        if self.gate is None:
            return layer
        return MaskedLinear(gated_weight(layer.trained, self.gate), layer.bias)

    def frozen(self, copy: slice = slice(None), num_copies: int = 1) -> StackedMLP:
        """The network without gradients of its own, on the same memory; `copy` picks among a
        lane's C copies.
        """

        def pick(tensor: Tensor) -> Tensor:
            return pick_copies(tensor.detach(), copy, num_copies)

        return self._with([layer.frozen(copy, num_copies) for layer in self.layers], pick)

    def _with(
        self, layers: Sequence[StackedLinear], change: Callable[[Tensor], Tensor]
    ) -> StackedMLP:
        """A network of other layers, with `change` applied to all tensors beside them."""
        activation_parameters, norm_parameters = (
            [{name: change(tensor) for name, tensor in tensors.items()} for tensors in per_layer]
            for per_layer in (self.activation_parameters, self.norm_parameters)
        )
        gate = None if self.gate is None else change(self.gate)
        return StackedMLP(layers, self.activation, activation_parameters, norm_parameters, gate)

    def input_weight(self) -> Tensor:
        """[G, H, I] weights with which the first layer takes its inputs, zero where no connection
        is; without a gradient.
        """
        with torch.no_grad():
            return self._first_layer().to_dense()

    def parameters(self) -> Iterator[Parameter]:
        """Every trained tensor, layer by layer."""
        for index, layer in enumerate(self.layers):
            yield Parameter(f"{index}.weight", layer.trained, layer)
            yield Parameter(f"{index}.bias", layer.bias)
        if self.gate is not None:
            yield Parameter("0.gate", self.gate)
        for index, tensors in enumerate(self.norm_parameters):
            for name, tensor in tensors.items():
                yield Parameter(f"{index}.norm.{name}", tensor)
        for index, tensors in enumerate(self.activation_parameters):
            for name, tensor in tensors.items():
                yield Parameter(f"{index}.activation.{name}", tensor)

    def target_copy(self) -> StackedMLP:
        """A copy of the weights, without gradients, on the same connections."""
        layers = [layer.target_copy() for layer in self.layers]
        return self._with(layers, lambda tensor: tensor.detach().clone())


def build_mlp(
    rng: LaneRng,
    network: int,
    sizes: Sequence[int],
    active_counts: Sequence[Sequence[int]],
    num_copies: int,
    activation: Activation,
    initialisation: str,
    layouts: Sequence[str] = (),
    has_layer_norm: bool = False,
    num_gates: int = 0,
    starts_dense: Sequence[bool] = (),
) -> StackedMLP:
    """A stacked network with its own random weights and connections in every lane and copy.

    Weights are drawn as for a dense layer, then masked, without a correction of the fan-in (as
    published).

    Args:
        rng: random numbers of the lanes.
        network: number of the network, so that an actor and a critic differ.
        sizes: I, hidden sizes, O.
        active_counts: per layer, per lane, how many connections are active at the end.
        num_copies: C for critics, 1 for an actor.
        activation: between the layers.
        initialisation: "xavier" (uniform, bias 0; SAC) or "fan_in" (torch.nn.Linear's default;
            TD3).
        layouts: per layer, how its connections are stored if any is missing: "masked" (also where
            nothing is given) or "csr".
        has_layer_norm: normalise every hidden layer before its activation.
        num_gates: how many of the inputs, from the first, have a gate; the first layer is masked.
        starts_dense: per lane, whether all connections are active at first; none where not given.

    Returns:
        A StackedMLP whose tensors require gradients.
    """
    L, C = rng.key.shape[0], num_copies
    layers, activation_parameters, norm_parameters = [], [], []
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
        mask, num_prunable = None, None
        num_connections = num_outputs * num_inputs
        if any(count < num_connections for count in active_counts[index]):
            keys = rng.bits(Stream.MASK, step, shape).reshape(L * C, num_connections)
            counts = torch.tensor(active_counts[index], device=keys.device).repeat_interleave(C)
            if any(starts_dense):
                is_dense = torch.tensor(starts_dense, device=keys.device).repeat_interleave(C)
                num_prunable = torch.where(is_dense, num_connections - counts, 0)
                counts += num_prunable
            mask = exact_masks(keys, counts).view_as(weight)
            weight = torch.where(mask, weight, 0.0)
        if mask is not None and layouts and layouts[index] == CSR:
            layer: StackedLinear = CsrLinear.of_dense(weight, bias, mask)
        else:
            layer = MaskedLinear(weight, bias, mask, num_prunable)
        layer.trained.requires_grad_()
        layer.bias.requires_grad_()
        layers.append(layer)
        if index < len(sizes) - 2:
            tensors = activation.initial_parameters((L * C,), num_outputs)
            device = rng.key.device
            activation_parameters.append(
                {name: t.to(device).requires_grad_() for name, t in tensors.items()}
            )
            if has_layer_norm:
                scale = torch.ones(L * C, num_outputs, 1, device=device, requires_grad=True)
                shift = torch.zeros_like(scale, requires_grad=True)
                norm_parameters.append({"scale": scale, "shift": shift})
    gate = None
    if num_gates:
        gate = torch.full((L * C, num_gates), FIRST_GATE, device=rng.key.device, requires_grad=True)
    return StackedMLP(layers, activation, activation_parameters, norm_parameters, gate)


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

    def deterministic(self, x: LayerInput) -> Tensor:
        """[L, F, B] -> action [L, A, B]."""
        return self.action_range.squash(self.mlp.forward(x))


class GaussianActor:
    """Squashed-Gaussian policy with state-dependent mean and deviation.

    u ~ N(mean(x), exp(log_std(x))^2), a = offset + scale * tanh(u). Source: Haarnoja et al. 2018,
    arXiv 1812.05905, App. C.
    """

    def __init__(self, mlp: StackedMLP, action_range: ActionRange):
        self.mlp, self.action_range = mlp, action_range

    @property
    def action_range(self) -> ActionRange:
        """Range of the actions."""
        return self._action_range

    @action_range.setter
    def action_range(self, action_range: ActionRange) -> None:
        self._action_range = action_range
        self._squashing = Squashing.of(*action_range, *LOG_STD_RANGE)

    def deterministic(self, x: LayerInput) -> Tensor:
        """[L, F, B] -> action [L, A, B] of the mean."""
        mean, _ = self.mlp.forward(x).chunk(2, dim=1)
        return self.action_range.squash(mean)

    def sample(self, x: LayerInput, standard_normal: Tensor) -> tuple[Tensor, Tensor]:
        """Reparameterised action and its log-density (kernels/squashed_gaussian.py).

        Args:
            x: [L, F, B].
            standard_normal: [L, A, B] the randomness.

        Returns:
            action [L, A, B] and log-density [L, B].
        """
        return sample_squashed(self.mlp.forward(x), standard_normal, self._squashing)


class TwinCritic:
    """Two action-value functions on one input; the critic is an axis."""

    def __init__(self, mlp: StackedMLP):
        self.mlp = mlp
        # The first critics by number, on the network's memory.
        self._frozen: dict[int, StackedMLP] = {}

    def value(self, x: LayerInput, action: Tensor) -> Tensor:
        """Q_c(x, a): [L, F, B], [L, A, B] -> [L, C, B]."""
        q = self.mlp.forward(x.with_extra(action))  # [G, 1, B]
        return q.view(x.num_lanes, -1, x.num_columns)

    def frozen_value(self, x: LayerInput, action: Tensor, num_critics: int = NUM_CRITICS) -> Tensor:
        """Q_c(x, a) of the first critics, with a gradient for the action alone.

        [L, F, B], [L, A, B] -> [L, num_critics, B].
        """
        if num_critics not in self._frozen:
            self._frozen[num_critics] = self.mlp.frozen(slice(num_critics), NUM_CRITICS)
        return (
            self._frozen[num_critics]
            .forward(x.with_extra(action))
            .view(x.num_lanes, -1, x.num_columns)
        )

    def target_copy(self) -> TwinCritic:
        """The target network: a copy without gradients on the same connections."""
        return TwinCritic(self.mlp.target_copy())
