"""Bytes of what a checkpoint of a block holds beside its replay, the most there can be.

Axes: L lanes, C = 2 critics, E environments and M evaluation episodes of a lane, F features with
noise, D real ones, A actions. Tensors are dense there, whatever the layout of their layers.
"""

from fastanf.grouping import Block
from fastanf.nets import NUM_CRITICS
from fastanf.sparse.layers import CSR
from fastanf.sparse.topology import TOPOLOGIES

FLOAT_BYTES = 4
MASK_BYTES = 1
_WIDE_BYTES = 8
_ACTIVATION_PARAMETERS = 4
"""Of a unit, or of a layer where units share them: no activation has more."""
_HEADER_BYTES = 64 * 1024
"""Names and shapes, counters, and what a lane has but a few numbers of."""


def state_bytes(block: Block, is_finished: bool = False) -> int:
    """Everything in a checkpoint but the replay's transitions, at most.

    Args:
        block: the lanes.
        is_finished: of the last checkpoint, which nothing goes on from.
    """
    spec, num_lanes = block.spec, len(block.lanes)
    networks = sum(_network_bytes(block, index, False) for index in (0, 1))
    total = networks + num_lanes * feature_bytes(block) + _HEADER_BYTES
    if is_finished:
        return total
    rows = num_rows(block)
    # An episode's actions and counters, or a simulator's arrays of some numbers a feature.
    row = FLOAT_BYTES * spec.num_actions * spec.max_episode_steps + _WIDE_BYTES * spec.num_features
    newest = FLOAT_BYTES * block.config.task.envs_per_lane * (spec.num_features + 1)
    # Returns of the episodes since the last evaluation, of eight steps or more.
    schedule = block.config.schedule
    returns = min(schedule.eval_freq, schedule.start_timesteps + schedule.max_timesteps)
    return total + rows * row + num_lanes * (newest + returns)


def spread_bytes(block: Block) -> int:
    """What a checkpoint writes out of layers that store their active connections only: weights,
    moments, targets and masks in dense form, at the same time.
    """
    return sum(_network_bytes(block, index, True) for index in (0, 1))


def num_rows(block: Block) -> int:
    """Environments of the block's two simulators: to train in and to evaluate in."""
    config = block.config
    return len(block.lanes) * (config.task.envs_per_lane + config.schedule.eval_episodes)


def _network_bytes(block: Block, index: int, csr_only: bool) -> int:
    """The actor (0) or all critics (1) of all lanes.

    Args:
        block: the lanes.
        index: of the network.
        csr_only: count connections of csr layers and nothing else.
    """
    config, copies = block.config, NUM_CRITICS if index else 1
    plans = [networks[index] for networks in block.networks]
    has_target = index == 1 or config.algorithm.algorithm != "sac"
    num_floats = 1 + has_target + 2 * (config.optimizer.optimizer != "SGD")
    connection_bytes = 0
    for position, layout in enumerate(block.layouts[index]):
        possible = plans[0].connections[position]
        is_sparse = any(plan.active_counts[position] < possible for plan in plans)
        if layout == CSR or not csr_only:
            each = FLOAT_BYTES * num_floats + MASK_BYTES * is_sparse
            connection_bytes += len(plans) * possible * each
        if not csr_only and index == 0 and config.algorithm.policy_delay > 1 and is_sparse:
            # The actor's gradients are kept where connections are to grow by them.
            num_kept = sum(TOPOLOGIES[plan.topology].needs_gradient for plan in plans)
            connection_bytes += FLOAT_BYTES * num_kept * possible
    if csr_only:
        return copies * connection_bytes
    units = sum(config.network.hidden)
    if not config.network.activation_per_neuron:
        units = len(config.network.hidden)
    others = plans[0].num_dense + _ACTIVATION_PARAMETERS * units
    return copies * (connection_bytes + FLOAT_BYTES * num_floats * len(plans) * others)


def feature_bytes(block: Block) -> int:
    """Of one lane: every order that its features have had, and what they were normalised by."""
    noise, schedule = block.config.noise, block.config.schedule
    num_orders = 0
    if noise.permute_period:
        steps = schedule.start_timesteps + schedule.max_timesteps
        num_orders = steps // noise.permute_period + 2
    orders = num_orders * _WIDE_BYTES * (block.num_features + 1)
    return orders + 2 * _WIDE_BYTES * block.num_features * noise.normalize_observations
