"""How much work one update is: floating-point operations and bytes of each stage, counted from the
configuration alone.

Axes: B minibatch, C = 2 critics, D real features, F features with noise, A actions, I inputs, O
outputs, H hidden units. All figures are of one update of all lanes, averaged over the updates in
which a stage is left out (a delayed actor).

What is counted:

* a product: 2 operations (multiply, add) a connection and row of the minibatch. *Useful* are active
  connections; *done* are those that the layout multiplies, which in the masked layout are all;
* the optimizer and the targets, a parameter, from the equations in kernels/mask_adam.py: Adam 15,
  SGD 4, a target's step 3;
* noise, a value, from kernels/native: Philox 14 integer operations, Box and Muller 21
  floating-point and 10 integer, quantiles 4 and 4. It counts as useful.
* bytes: every operand of a product, activation or optimizer read or written once. What a processor
  moves in truth depends on its caches. Useful bytes hold the active weights only.

Left out because they are small: biases, losses, the squashing of actions. Activation functions
count as bytes, not as operations.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from envs import noise
from envs.interface import EnvSpec
from fastanf.config import TrainConfig
from fastanf.instrument import Stage
from fastanf.nets import NUM_CRITICS
from fastanf.networks import NetworkPlan, lane_networks

FLOAT_BYTES = 4
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


def update_work(lanes: Sequence[TrainConfig], spec: EnvSpec) -> dict[Stage, Work]:
    """Work of each stage of one update of all lanes, by the conventions above.

    Args:
        lanes: configurations that share a block key.
        spec: of their task.
    """
    works: dict[Stage, Work] = {}
    for lane in lanes:
        for name, work in _lane_update(lane, spec).items():
            works[name] = works.get(name, NOTHING).plus(work)
    return works


def useful_update_flops(lanes: Sequence[TrainConfig], spec: EnvSpec) -> float:
    """Useful operations of one update of all lanes."""
    return total(update_work(lanes, spec)).useful_flops


def step_work(lanes: Sequence[TrainConfig], spec: EnvSpec, row_multiple: int) -> dict[Stage, Work]:
    """Work of the stages of one training step of all lanes, where it is counted.

    Args:
        lanes: configurations that share a block key.
        spec: of their task.
        row_multiple: acting fills its rows up to a multiple of this; the fill is done, not useful.
    """
    E = lanes[0].task.envs_per_lane
    filled = -(-E // row_multiple) * row_multiple
    useful, done = _act(lanes, spec, E), _act(lanes, spec, filled)
    transition = 2.0 * FLOAT_BYTES * (spec.num_features + spec.num_actions + 2) * E * len(lanes)
    updates = total(update_work(lanes, spec)).times(lanes[0].schedule.updates_per_step)
    return {
        Stage.ACT: Work(
            useful.useful_flops, done.done_flops, useful.useful_bytes, done.moved_bytes
        ),
        Stage.REPLAY_ADD: Work(useful_bytes=transition, moved_bytes=transition),
        Stage.UPDATE: updates,
    }


def _act(lanes: Sequence[TrainConfig], spec: EnvSpec, num_rows: int) -> Work:
    works = (
        _Network(lane_networks(lane, spec)[0], 1, num_rows)
        .forward()
        .plus(_noise(lane, spec, num_rows))
        for lane in lanes
    )
    return total(dict(enumerate(works)))


@dataclass(frozen=True)
class _Network:
    """Products of one lane's network, C copies of it on one input."""

    plan: NetworkPlan
    copies: int
    batch_size: int

    def _layers(self) -> list[tuple[int, int, int]]:
        """(inputs, outputs, active connections) from input to output."""
        sizes = itertools.pairwise(self.plan.sizes)
        return [(*pair, n) for pair, n in zip(sizes, self.plan.active_counts, strict=True)]

    def _product(self, active: float, possible: float, activations: float) -> Work:
        """One product of every copy; `activations` are the values it reads or writes beside the
        weights, over all copies.
        """
        C, B = self.copies, self.batch_size
        beside = FLOAT_BYTES * activations
        return Work(
            2.0 * B * C * active,
            2.0 * B * C * possible,
            FLOAT_BYTES * C * active + beside,
            FLOAT_BYTES * C * possible + beside,
        )

    def _elementwise(self, num_tensors: int) -> Work:
        """An activation function on all hidden units, reading and writing `num_tensors`."""
        size = FLOAT_BYTES * self.copies * self.batch_size * sum(self.plan.sizes[1:-1])
        return Work(useful_bytes=num_tensors * size, moved_bytes=num_tensors * size)

    def _inputs(self, index: int) -> float:
        """Values that enter a layer: the network's input is shared by the copies."""
        copies = 1 if index == 0 else self.copies
        return copies * self.batch_size * self.plan.sizes[index]

    def _outputs(self, index: int) -> float:
        return self.copies * self.batch_size * self.plan.sizes[index + 1]

    def forward(self) -> Work:
        """[I, B] -> [O, B]."""
        return self.weight_gradients().plus(self._elementwise(2))

    def weight_gradients(self) -> Work:
        """Gradients of all weights from those of all outputs: as many products as forward."""
        work = NOTHING
        for index, (num_inputs, num_outputs, active) in enumerate(self._layers()):
            values = self._inputs(index) + self._outputs(index)
            work = work.plus(self._product(active, num_inputs * num_outputs, values))
        return work

    def input_gradients(self, num_first_columns: int = 0) -> Work:
        """Gradients of what enters each layer but the first, and there of the last columns only.

        Args:
            num_first_columns: inputs of the first layer that want a gradient (a critic's actions);
                their share of the active connections is taken as that of all inputs.
        """
        work = self._elementwise(3)
        for index, (num_inputs, num_outputs, active) in enumerate(self._layers()):
            share = 1.0 if index else num_first_columns / num_inputs
            if share:
                values = share * self._inputs(index) + self._outputs(index)
                possible = num_inputs * num_outputs
                work = work.plus(self._product(share * active, share * possible, values))
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
        active, stored = self.copies * self.plan.num_active, self.copies * self.plan.num_total
        mask_bytes = stored if self.plan.num_active < self.plan.num_total else 0
        return Work(
            flops * active,
            flops * stored,
            FLOAT_BYTES * tensors * active,
            FLOAT_BYTES * tensors * stored + mask_bytes,
        )


def _noise(lane: TrainConfig, spec: EnvSpec, num_rows: float) -> Work:
    """Noise features of some rows, each drawn once and written."""
    F = noise.num_features(spec.num_features, lane.noise.noise_fraction)
    num_values = num_rows * (F - spec.num_features)
    is_gaussian = lane.noise.noise_distribution == "gaussian"
    flops = num_values * (NORMAL_FLOPS if is_gaussian else QUANTILE_FLOPS)
    # The real features are copied beside the noise: read and written.
    moved = FLOAT_BYTES * (num_values + 2 * num_rows * spec.num_features)
    return Work(flops, flops, moved, moved)


def _lane_update(lane: TrainConfig, spec: EnvSpec) -> dict[Stage, Work]:
    settings, B = lane.algorithm, lane.algorithm.batch_size
    is_sac, use_sgd = settings.algorithm == "sac", lane.optimizer.optimizer == "SGD"
    actor_plan, critic_plan = lane_networks(lane, spec)
    actor, critic = _Network(actor_plan, 1, B), _Network(critic_plan, NUM_CRITICS, B)
    # TD3's actor learns from the first critic alone.
    judge = _Network(critic_plan, NUM_CRITICS if is_sac else 1, B)
    actor_share = 1 / settings.policy_delay
    follow_share = 1 / settings.target_period
    # Updates in which the actor learns and its target moves in the same pass.
    both_share = 1 / math.lcm(settings.policy_delay, settings.target_period)
    if lane.noise.noise_redraw == "per_step":
        num_draws = 2.0
    else:  # target: actor and critic; critic; actor: actor and critic
        num_draws = 3 + 2 * actor_share
    sampled = 2 * FLOAT_BYTES * B * (2 * spec.num_features + spec.num_actions + 2)
    works = {
        Stage.SAMPLE: Work(useful_bytes=sampled, moved_bytes=sampled),
        Stage.NOISE: _noise(lane, spec, B).times(num_draws),
        Stage.TARGET: actor.forward().plus(critic.forward()),
        Stage.CRITIC_FORWARD: critic.forward(),
        Stage.CRITIC_BACKWARD: critic.backward(),
        Stage.CRITIC_OPTIMIZER: critic.optimizer(use_sgd, follow_share),
        Stage.ACTOR_FORWARD: actor.forward().plus(judge.forward()).times(actor_share),
        Stage.ACTOR_BACKWARD: judge.input_gradients(spec.num_actions)
        .plus(actor.backward())
        .times(actor_share),
        Stage.ACTOR_OPTIMIZER: actor.optimizer(
            use_sgd, 0 if is_sac else both_share / actor_share
        ).times(actor_share),
    }
    if not is_sac and follow_share > both_share:
        works[Stage.POLYAK] = actor.polyak().times(follow_share - both_share)
    return works
