"""How much work one update is: floating-point operations and bytes of each stage, counted from the
configuration alone.

Axes: B minibatch, C = 2 critics, D real features, F features with noise, A actions, I inputs, O
outputs, H hidden units. All figures are of one update of all lanes, averaged over the updates in
which a stage is left out (a delayed actor).

What is counted:

* a product: 2 operations (multiply, add) a connection and row of the minibatch. *Useful* are active
  connections; *done* are those that the layer's layout multiplies: all of a masked layer, the
  active ones of a csr layer;
* the optimizer and the targets, a stored value, from the equations in kernels/mask_adam.py: Adam
  15, SGD 4, a target's step 3. A csr layer stores as many values as the lane with most;
* noise, a value, from kernels/native: Philox 14 integer operations, Box and Muller 21
  floating-point and 10 integer, quantiles 4 and 4. It counts as useful, in every stage that draws
  it: a forward pass, and the weight gradient of a first layer, which draws it again. It takes no
  bytes. So the compiled kernels do it; plain torch draws it once an input and writes it out;
* bytes: every operand of a product, activation or optimizer read or written once. What a processor
  moves in truth depends on its caches. Useful bytes hold the active weights only; those moved hold
  what is stored, in products of a csr layer an index with every value.

Left out because they are small: biases in products, losses, the squashing of actions. Activation
functions count as bytes, not as operations; those that the layers' kernels apply themselves (relu,
leakyrelu) take none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from envs import noise
from envs.interface import EnvSpec
from fastanf.activations import make_activation
from fastanf.config import TrainConfig
from fastanf.instrument import Stage
from fastanf.layouts import layer_layouts
from fastanf.nets import NUM_CRITICS
from fastanf.networks import NetworkPlan, lane_networks
from fastanf.sparse.layers import CSR

FLOAT_BYTES, INDEX_BYTES = 4, 4
ADAM_FLOPS, SGD_FLOPS, POLYAK_FLOPS = 15, 4, 3
NORMAL_FLOPS, QUANTILE_FLOPS = 14 + 21 + 10, 14 + 4 + 4
# Tensors read and written: weight, gradient and moments in, weight and moments out.
ADAM_TENSORS, SGD_TENSORS, POLYAK_TENSORS = 7, 3, 2


class Work(NamedTuple):
    """Operations and bytes of a stage."""

    useful_flops: float = 0.0
    """Of active connections."""
    done_flops: float = 0.0
    """Of the layout in use."""
    useful_bytes: float = 0.0
    moved_bytes: float = 0.0

    def plus(self, other: Work) -> Work:
        """The sum, field by field."""
        return Work(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, factor: float) -> Work:
        """Every field multiplied."""
        return Work(*(factor * value for value in self))


NOTHING = Work()


def total(works: Mapping[Any, Work]) -> Work:
    """The sum over what the mapping names."""
    whole = NOTHING
    for work in works.values():
        whole = whole.plus(work)
    return whole


def update_work(
    lanes: Sequence[TrainConfig], spec: EnvSpec, device: str = "cpu"
) -> dict[Stage, Work]:
    """Work of each stage of one update of all lanes, by the conventions above.

    Args:
        lanes: configurations that share a block key.
        spec: of their task.
        device: that they train on, "cpu" or "cuda", which decides the layers' layouts.
    """
    works: dict[Stage, Work] = {}
    for lane, layers in zip(lanes, _layers(lanes, spec, device), strict=True):
        for name, work in _lane_update(lane, layers, spec).items():
            works[name] = works.get(name, NOTHING).plus(work)
    return works


def useful_update_flops(lanes: Sequence[TrainConfig], spec: EnvSpec) -> float:
    """Useful operations of one update of all lanes, whatever the layout."""
    return total(update_work(lanes, spec)).useful_flops


def step_work(
    lanes: Sequence[TrainConfig], spec: EnvSpec, row_multiple: int, device: str = "cpu"
) -> dict[Stage, Work]:
    """Work of the stages of one training step of all lanes, where it is counted.

    Args:
        lanes: configurations that share a block key.
        spec: of their task.
        row_multiple: acting fills its rows up to a multiple of this; the fill is done, not useful.
        device: that they train on, "cpu" or "cuda".
    """
    E = lanes[0].task.envs_per_lane
    filled = -(-E // row_multiple) * row_multiple
    useful, done = _act(lanes, spec, E, device), _act(lanes, spec, filled, device)
    transition = 2.0 * FLOAT_BYTES * (spec.num_features + spec.num_actions + 2) * E * len(lanes)
    updates = total(update_work(lanes, spec, device)).times(lanes[0].schedule.updates_per_step)
    return {
        Stage.ACT: Work(
            useful.useful_flops, done.done_flops, useful.useful_bytes, done.moved_bytes
        ),
        Stage.REPLAY_ADD: Work(useful_bytes=transition, moved_bytes=transition),
        Stage.UPDATE: updates,
    }


def _act(lanes: Sequence[TrainConfig], spec: EnvSpec, num_rows: int, device: str) -> Work:
    works = (
        _network(lane, spec, actor, 1, num_rows).forward().plus(_noise(lane, spec, num_rows))
        for lane, (actor, _) in zip(lanes, _layers(lanes, spec, device), strict=True)
    )
    return total(dict(enumerate(works)))


@dataclass(frozen=True)
class _Layer:
    """One layer of one lane's network, in one copy."""

    num_inputs: int
    num_outputs: int
    active: int
    """Active connections."""
    is_csr: bool
    stored: int
    """Weights in memory."""
    has_mask: bool
    """Whether a byte a weight says which are active."""

    @property
    def multiplied(self) -> int:
        """Connections that a product takes."""
        return self.active if self.is_csr else self.stored

    @property
    def weight_bytes(self) -> int:
        """What a product reads or writes of the weights."""
        return self.multiplied * (FLOAT_BYTES + INDEX_BYTES * self.is_csr)


_Layers = tuple[_Layer, ...]


def _layers(
    lanes: Sequence[TrainConfig], spec: EnvSpec, device: str
) -> list[tuple[_Layers, _Layers]]:
    """The layers of each lane's actor and critic. A lane stores what its block makes it store."""
    plans = [lane_networks(lane, spec) for lane in lanes]
    layouts = [layer_layouts(lane, plan, device) for lane, plan in zip(lanes, plans, strict=True)]
    actors, critics = (
        _stored_alike(
            [_plan_layers(plan[i], layout[i]) for plan, layout in zip(plans, layouts, strict=True)]
        )
        for i in (0, 1)
    )
    return list(zip(actors, critics, strict=True))


def _plan_layers(plan: NetworkPlan, layouts: Sequence[str]) -> _Layers:
    sizes = itertools.pairwise(plan.sizes)
    return tuple(
        _Layer(I, O, n, layout == CSR, n if layout == CSR else I * O, layout != CSR and n < I * O)
        for (I, O), n, layout in zip(sizes, plan.active_counts, layouts, strict=True)
    )


def _stored_alike(networks: Sequence[_Layers]) -> list[_Layers]:
    """The same network of several lanes: as many values are stored in each, and a mask in all if
    in any.
    """
    columns = []
    for layers in zip(*networks, strict=True):
        stored = max(layer.stored for layer in layers)
        has_mask = any(layer.has_mask for layer in layers)
        columns.append([replace(layer, stored=stored, has_mask=has_mask) for layer in layers])
    return list(zip(*columns, strict=True))


@dataclass(frozen=True)
class _Network:
    """Products of one lane's network, C copies of it on one input."""

    layers: _Layers
    copies: int
    batch_size: int
    num_drawn: int
    """Inputs that are noise, drawn inside the first layer's kernels."""
    applies_activation: bool
    """Whether the layers' kernels apply the activation themselves."""

    def _product(self, layer: _Layer, share: float, values: float) -> Work:
        """One product of every copy with a share of a layer's connections; `values` are what it
        reads or writes beside the weights, over all copies.
        """
        C, B = self.copies, self.batch_size
        beside = FLOAT_BYTES * values
        return Work(
            2.0 * B * C * share * layer.active,
            2.0 * B * C * share * layer.multiplied,
            FLOAT_BYTES * C * share * layer.active + beside,
            C * share * layer.weight_bytes + beside,
        )

    def _elementwise(self, num_tensors: int) -> Work:
        """An activation function on all hidden units, reading and writing `num_tensors`."""
        if self.applies_activation:
            return NOTHING
        num_units = sum(layer.num_outputs for layer in self.layers[:-1])
        size = FLOAT_BYTES * self.copies * self.batch_size * num_units
        return Work(useful_bytes=num_tensors * size, moved_bytes=num_tensors * size)

    def _inputs(self, index: int) -> float:
        """Stored values that enter a layer: the network's input is shared by the copies."""
        num_inputs = self.layers[index].num_inputs
        if index == 0:
            return self.batch_size * (num_inputs - self.num_drawn)
        return self.copies * self.batch_size * num_inputs

    def _outputs(self, index: int) -> float:
        return self.copies * self.batch_size * self.layers[index].num_outputs

    def forward(self) -> Work:
        """[I, B] -> [O, B]; the noise is not counted here."""
        return self.weight_gradients().plus(self._elementwise(2))

    def weight_gradients(self) -> Work:
        """Gradients of all weights from those of all outputs: as many products as forward."""
        work = NOTHING
        for index, layer in enumerate(self.layers):
            work = work.plus(self._product(layer, 1.0, self._inputs(index) + self._outputs(index)))
        return work

    def input_gradients(self, num_first_columns: int = 0) -> Work:
        """Gradients of what enters each layer but the first, and there of the last columns only.

        Args:
            num_first_columns: inputs of the first layer that want a gradient (a critic's actions);
                their share of the active connections is taken as that of all inputs.
        """
        work = self._elementwise(3)
        if num_first_columns:
            first = self.layers[0]
            values = self.batch_size * num_first_columns + self._outputs(0)
            work = work.plus(self._product(first, num_first_columns / first.num_inputs, values))
        for index, layer in enumerate(self.layers[1:], 1):
            work = work.plus(self._product(layer, 1.0, self._inputs(index) + self._outputs(index)))
        return work

    def backward(self) -> Work:
        """Gradients of all weights from that of the output."""
        return self.weight_gradients().plus(self.input_gradients())

    def optimizer(self, use_sgd: bool, follow_share: float) -> Work:
        """A step of all parameters; in a share of the steps the target follows in the same pass."""
        flops = (SGD_FLOPS if use_sgd else ADAM_FLOPS) + POLYAK_FLOPS * follow_share
        tensors = (SGD_TENSORS if use_sgd else ADAM_TENSORS) + POLYAK_TENSORS * follow_share
        return self._per_parameter(flops, tensors)

    def polyak(self) -> Work:
        """The target's step alone."""
        return self._per_parameter(POLYAK_FLOPS, POLYAK_TENSORS + 1)

    def _per_parameter(self, flops: float, tensors: float) -> Work:
        C, num_biases = self.copies, sum(layer.num_outputs for layer in self.layers)
        active = C * (num_biases + sum(layer.active for layer in self.layers))
        stored = C * (num_biases + sum(layer.stored for layer in self.layers))
        mask_bytes = C * sum(layer.stored for layer in self.layers if layer.has_mask)
        return Work(
            flops * active,
            flops * stored,
            FLOAT_BYTES * tensors * active,
            FLOAT_BYTES * tensors * stored + mask_bytes,
        )


def _network(
    lane: TrainConfig, spec: EnvSpec, layers: _Layers, copies: int, num_rows: int
) -> _Network:
    network = lane.network
    activation = make_activation(
        network.activation, network.activation_args, network.activation_per_neuron
    )
    is_applied = activation.slope_below_zero is not None
    return _Network(layers, copies, num_rows, _num_drawn(lane, spec), is_applied)


def _num_drawn(lane: TrainConfig, spec: EnvSpec) -> int:
    """Noise features."""
    return noise.num_features(spec.num_features, lane.noise.noise_fraction) - spec.num_features


def _noise(lane: TrainConfig, spec: EnvSpec, num_rows: int) -> Work:
    """Noise features of some rows, drawn once for all copies of a network."""
    is_gaussian = lane.noise.noise_distribution == "gaussian"
    num_values = num_rows * _num_drawn(lane, spec)
    flops = num_values * (NORMAL_FLOPS if is_gaussian else QUANTILE_FLOPS)
    return Work(flops, flops)


def _lane_update(
    lane: TrainConfig, layers: tuple[_Layers, _Layers], spec: EnvSpec
) -> dict[Stage, Work]:
    settings, B = lane.algorithm, lane.algorithm.batch_size
    is_sac, use_sgd = settings.algorithm == "sac", lane.optimizer.optimizer == "SGD"
    actor = _network(lane, spec, layers[0], 1, B)
    critic = _network(lane, spec, layers[1], NUM_CRITICS, B)
    # TD3's actor learns from the first critic alone.
    judge = critic if is_sac else replace(critic, copies=1)
    actor_share = 1 / settings.policy_delay
    follow_share = 1 / settings.target_period
    # Updates in which the actor learns and its target moves in the same pass.
    both_share = 1 / math.lcm(settings.policy_delay, settings.target_period)
    drawn = _noise(lane, spec, B)
    sampled = 2 * FLOAT_BYTES * B * (2 * spec.num_features + spec.num_actions + 2)
    works = {
        Stage.SAMPLE: Work(useful_bytes=sampled, moved_bytes=sampled),
        Stage.TARGET: actor.forward().plus(critic.forward()).plus(drawn.times(2)),
        Stage.CRITIC_FORWARD: critic.forward().plus(drawn),
        Stage.CRITIC_BACKWARD: critic.backward().plus(drawn),
        Stage.CRITIC_OPTIMIZER: critic.optimizer(use_sgd, follow_share),
        Stage.ACTOR_FORWARD: actor.forward()
        .plus(judge.forward())
        .plus(drawn.times(2))
        .times(actor_share),
        Stage.ACTOR_BACKWARD: judge.input_gradients(spec.num_actions)
        .plus(actor.backward())
        .plus(drawn)
        .times(actor_share),
        Stage.ACTOR_OPTIMIZER: actor.optimizer(
            use_sgd, 0 if is_sac else both_share / actor_share
        ).times(actor_share),
    }
    if not is_sac and follow_share > both_share:
        works[Stage.POLYAK] = actor.polyak().times(follow_share - both_share)
    return works
