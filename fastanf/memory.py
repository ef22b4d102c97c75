"""The memory that a block needs, and what is free on the device that it runs on.

Axes: L lanes of a block, C = 2 critics. What is free on the host is in free_memory.py. Figures that
follow from no size of a tensor are measured (`profiling/bench_memory.py`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from envs import registry
from fastanf.checkpoint import SPAN_BYTES
from fastanf.free_memory import address_space_free, host_free_bytes
from fastanf.grouping import Block
from fastanf.kernels.csr import block_size_for
from fastanf.nets import NUM_CRITICS
from fastanf.networks import NetworkPlan
from fastanf.replay import replay_bytes
from fastanf.sparse.layers import CSR
from fastanf.sparse.topology import TOPOLOGIES
from fastanf.state_bytes import (
    FLOAT_BYTES,
    MASK_BYTES,
    num_rows,
    spread_bytes,
    state_bytes,
)

MIB = 2**20
_ONLINE_COPIES = 4
"""A trained parameter is stored with its gradient and two moments."""
_INDEX_BYTES = 4
_STATISTICS_BYTES = 24
"""Of a feature that is normalised: two numbers in float64, two in float32."""


def mib_text(num_bytes: int) -> str:
    """Bytes as they are shown: `1,234.5 MiB`."""
    return f"{num_bytes / MIB:,.1f} MiB"


@dataclass(frozen=True)
class BlockMemory:
    """Bytes that a block takes on its device and on the host."""

    replay: int
    weights: int
    """Online and target networks, and where their connections are."""
    moments: int
    """Gradients and both moments; gradients that are kept for connections to grow by."""
    work: int
    """Minibatches and activations of an update, roughly."""
    simulation: int
    """A simulator that lives on the device, roughly."""
    building: int
    """While the largest layer is made, roughly. The C library keeps it, in pieces that what is
    larger than an update's tensors finds no room in."""
    recording: int
    """While an evaluation is recorded or a checkpoint is written, roughly."""
    reading: int
    """While a file of a checkpoint is read, on the host: a run must be able to go on where it can
    begin."""
    host: int
    """Simulators on the host, and libraries that are loaded for them and for the records."""
    addresses: int
    """What libraries, threads and simulators on the host reserve beside it and never touch."""
    is_on_host: bool
    """Whether the device is the host's memory."""

    @property
    def total(self) -> int:
        """Of the device at the moment of the greatest need."""
        standing = self.replay + self.weights + self.moments + self.simulation
        if self.is_on_host:
            passing = max(self.work, self.recording, self.reading)
            return standing + self.building + passing + self.host
        return standing + self.building + max(self.work, self.recording)

    @property
    def passing(self) -> int:
        """What of `total` comes and goes and is no work of an update."""
        standing = self.replay + self.working_set + self.simulation
        return self.total - standing - self.host * self.is_on_host

    @property
    def host_total(self) -> int:
        """Of the host beside a device that is not its own memory."""
        return self.host + max(self.reading, SPAN_BYTES)

    @property
    def working_set(self) -> int:
        """What one update touches, the replay's few rows left out."""
        return self.weights + self.moments + self.work


_ROW_BYTES = 5 * MIB // 4
"""Of an environment on the host: 0.7 to 1.2 MiB were measured, envpool and gymnasium, 10 rows and
more of HalfCheetah, Hopper, Walker2d, Ant and Humanoid, with their logs of actions."""
_LIBRARY_BYTES = 160 * MIB
"""What a run with hardly a tensor took beyond its plan: 137 MiB, simulators' libraries and
TensorBoard loaded."""
_JAX_BYTES = 384 * MIB
"""What JAX and a compilation of MJX take of the host: 255 to 390 MiB were measured."""
_ROW_ADDRESSES = 32 * MIB
"""MuJoCo's arena of an environment, of which hardly a page is touched: 8 to 29 MiB."""
_LIBRARY_ADDRESSES = 1280 * MIB
"""Beyond `_LIBRARY_BYTES`: 1,100 MiB were measured with two threads and four lanes."""
_BUILDING_BYTES, _BUILDING_CSR_BYTES = 16, 24
"""A possible connection of a layer while it is made: its random numbers, their order, its mask."""
_RECORDING_BYTES = 16
"""A possible connection of a first layer while its features' weights are recorded: as it is, its
magnitude, and that in float64."""
_READING_COPIES = 2
"""The bytes of a checkpoint's file, and its tensors. What csr layers hold is written out beside
them, to be compared."""


def block_memory(block: Block, replay_capacity: int | None = None) -> BlockMemory:
    """Estimate of a block's memory.

    Args:
        block: the lanes.
        replay_capacity: transitions per lane; None for what the run can fill.
    """
    config, spec, num_lanes = block.config, block.spec, len(block.lanes)
    capacity = replay_capacity or config.effective_replay_capacity
    E = config.task.envs_per_lane
    replay = replay_bytes(capacity, spec.num_features, spec.num_actions, E)
    _, critic = block.networks[0]
    actor_layers, critic_layers = _stored_layers(block)
    has_target_actor = config.algorithm.algorithm != "sac"
    online_actor = sum(layer.values for layer in actor_layers)
    online_critics = NUM_CRITICS * sum(layer.values for layer in critic_layers)
    online = online_actor + online_critics
    stored = online + has_target_actor * online_actor + online_critics
    # Targets share their network's connections.
    connections = sum(layer.connection_bytes for layer in actor_layers)
    connections += NUM_CRITICS * sum(layer.connection_bytes for layer in critic_layers)
    lives_on_device = registry.lives_on_device(config.task.backend)
    rows = 0 if lives_on_device else num_rows(block)
    first = num_lanes * NUM_CRITICS * critic.connections[0]
    span = min(SPAN_BYTES, num_lanes * replay)
    return BlockMemory(
        replay=num_lanes * replay,
        weights=num_lanes * (FLOAT_BYTES * stored + connections),
        moments=num_lanes * FLOAT_BYTES * (_ONLINE_COPIES - 1) * online + _kept_bytes(block),
        work=num_lanes * _work_bytes(block, critic, critic_layers[0].values),
        simulation=block.simulation_bytes,
        building=num_lanes * NUM_CRITICS * _building_bytes(block, critic),
        recording=max(_RECORDING_BYTES * first, spread_bytes(block), span),
        reading=_READING_COPIES * max(state_bytes(block), span) + spread_bytes(block),
        host=_LIBRARY_BYTES + _JAX_BYTES * lives_on_device + _ROW_BYTES * rows,
        addresses=_LIBRARY_ADDRESSES + (_ROW_ADDRESSES - _ROW_BYTES) * rows,
        is_on_host=not block.device.startswith("cuda"),
    )


def _building_bytes(block: Block, critic: NetworkPlan) -> int:
    """The most of any layer of one critic, whose layers are the largest."""
    return max(
        (_BUILDING_CSR_BYTES if layout == CSR else _BUILDING_BYTES) * connections
        for connections, layout in zip(critic.connections, block.layouts[1], strict=True)
    )


def _kept_bytes(block: Block) -> int:
    """Dense gradients that are kept, of all lanes whose connections grow by them."""
    return FLOAT_BYTES * sum(
        possible * copies
        for networks in block.networks
        for network, copies in zip(networks, (1, NUM_CRITICS), strict=True)
        if TOPOLOGIES[network.topology].needs_gradient
        for possible, active in zip(network.connections, network.active_counts, strict=True)
        if active < possible
    )


def _work_bytes(block: Block, critic: NetworkPlan, first_layer: int) -> int:
    """Of one lane, whose critics' first layers store that many values each."""
    config = block.config
    # Per transition: inputs with noise of actor and critics, once more where they are normalised.
    num_inputs = 2 + 2 * config.noise.normalize_observations
    # Each network's activations with their gradients; normalised, scaled and their gradient.
    num_hidden = 2 + 3 * config.network.layer_norm
    widths = num_inputs * critic.sizes[0]
    widths += num_hidden * (1 + NUM_CRITICS) * sum(config.network.hidden)
    # First layers: gated weights and two gradients; penalties and what they are made of.
    has_penalty = any(
        lane.optimizer.input_l1 or lane.optimizer.input_group_lasso for lane in block.lanes
    )
    num_copies = 3 * config.network.input_gate + 3 * has_penalty
    floats = config.algorithm.batch_size * widths
    floats += num_copies * NUM_CRITICS * first_layer
    statistics = _STATISTICS_BYTES * block.num_features * config.noise.normalize_observations
    return FLOAT_BYTES * floats + statistics


@dataclass(frozen=True)
class _StoredLayer:
    """One layer of one lane and copy, in the layout of its block."""

    values: int
    """Weights and biases that are stored and trained; a layer norm's and gates with them."""
    connection_bytes: int
    """What says where the connections are."""


def _stored_layers(block: Block) -> tuple[list[_StoredLayer], list[_StoredLayer]]:
    """The layers of the actor and of a critic; a csr layer has room for the lane with most
    connections, and a layer has a mask as soon as one lane is sparse there.
    """
    stored: list[list[_StoredLayer]] = []
    for index, layouts in enumerate(block.layouts):
        lanes = [networks[index] for networks in block.networks]
        network, layers = lanes[0], []
        for position, layout in enumerate(layouts):
            possible, biases = network.connections[position], network.sizes[position + 1]
            biases += network.num_norms[position] + network.num_gates * (position == 0)
            counts = [lane.active_counts[position] for lane in lanes]
            if layout == CSR:
                # The gradient of an actor's own input is never wanted, that of an action is.
                is_turned = index == 1 or position > 0
                size = network.sizes[position], network.sizes[position + 1]
                connection_bytes = _csr_bytes(max(counts), *size, is_turned)
                layers.append(_StoredLayer(max(counts) + biases, connection_bytes))
            else:
                mask = MASK_BYTES * possible if min(counts) < possible else 0
                layers.append(_StoredLayer(possible + biases, mask))
        stored.append(layers)
    return stored[0], stored[1]


def _csr_bytes(active: int, num_inputs: int, num_outputs: int, is_turned: bool) -> int:
    """What says where the connections of one csr layer are (kernels/csr.py): the input of each,
    and where each output's part of a block of inputs starts. Turned, for the gradient of the
    inputs, once more: the output of each and where its value is, and the starts of each input.
    """
    density = active / (num_inputs * num_outputs)

    def starts(lines: int, across: int) -> int:
        return lines * -(-across // block_size_for(density, across)) + 1

    indices = active + starts(num_outputs, num_inputs)
    if is_turned:
        indices += 2 * active + starts(num_inputs, num_outputs)
    return _INDEX_BYTES * indices


def fitting_capacity(block: Block, available: int) -> int:
    """The largest replay capacity that fits, two digits of it; 0 if none does."""
    return largest_capacity(
        [block], lambda capacity: block_memory(block, capacity).total <= available
    )


def largest_capacity(blocks: Sequence[Block], fits: Callable[[int], bool]) -> int:
    """The largest replay capacity that fits, two digits of it; 0 if none does.

    Args:
        blocks: whose settings bound it; what they have now does not fit.
        fits: of a capacity; true of every smaller one, too.
    """
    configs = [block.config for block in blocks]
    smallest = low = max(max(c.algorithm.batch_size, 2 * c.task.envs_per_lane) for c in configs)
    high = max(low, *(config.effective_replay_capacity for config in configs))
    if not fits(low):
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    unit = 10 ** max(0, int(math.log10(low)) - 1)
    return max(smallest, low // unit * unit)


def resolve_device(device: str) -> str:
    """`auto` as the device that it stands for here.

    Raises:
        ValueError: a device that this machine does not have.
    """
    if device == "cpu":
        return device
    import torch

    num_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if num_cuda else "cpu"
    allowed = ["auto", "cpu"] + ["cuda"] * (num_cuda > 0) + [f"cuda:{i}" for i in range(num_cuda)]
    if device not in allowed:
        raise ValueError(
            f"device must be one of {', '.join(allowed)} on this machine, got {device!r}"
        )
    return device


def available_bytes(device: str) -> int:
    """Memory that is free now: of the GPU, or of the host within the limits of the process."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(torch.device(device))[0]
    return host_free_bytes()


def host_beside(device: str) -> int | None:
    """Bytes free on the host, for a device whose memory is its own; None where it is the host's."""
    return host_free_bytes() if device.startswith("cuda") else None


def addresses_left(device: str) -> int | None:
    """Bytes of memory that a block on the host may still reserve; None where nothing limits it. A
    limit that CUDA can live with is far beyond what a block needs.
    """
    return None if device.startswith("cuda") else address_space_free()
