"""The memory that a block needs, and what is free on the device that it runs on.

Axes: L lanes of a block, C = 2 critics. Free is what the machine has and what every control group
above the process allows; the file cache that the kernel gives back under pressure counts as free.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from fastanf.grouping import Block
from fastanf.kernels.csr import block_size_for
from fastanf.nets import NUM_CRITICS
from fastanf.networks import NetworkPlan
from fastanf.replay import replay_bytes
from fastanf.sparse.layers import CSR
from fastanf.sparse.topology import TOPOLOGIES

MIB = 2**20
_FLOAT_BYTES = 4
_ONLINE_COPIES = 4
"""A trained parameter is stored with its gradient and two moments."""
_MASK_BYTES = 1
_INDEX_BYTES = 4
_STATISTICS_BYTES = 24
"""Of a feature that is normalised: two numbers in float64, two in float32."""


def mib_text(num_bytes: int) -> str:
    """Bytes as they are shown: `1,234.5 MiB`."""
    return f"{num_bytes / MIB:,.1f} MiB"


@dataclass(frozen=True)
class BlockMemory:
    """Bytes that a block takes on its device."""

    replay: int
    weights: int
    """Online and target networks, and where their connections are."""
    moments: int
    """Gradients and both moments; gradients that are kept for connections to grow by."""
    work: int
    """Minibatches and activations of an update, roughly."""
    simulation: int = 0
    """A simulator that lives on the device, roughly."""

    @property
    def total(self) -> int:
        return self.replay + self.working_set + self.simulation

    @property
    def working_set(self) -> int:
        """What one update touches, the replay's few rows left out."""
        return self.weights + self.moments + self.work


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
    return BlockMemory(
        replay=num_lanes * replay,
        weights=num_lanes * (_FLOAT_BYTES * stored + connections),
        moments=num_lanes * _FLOAT_BYTES * (_ONLINE_COPIES - 1) * online + _kept_bytes(block),
        work=num_lanes * _work_bytes(block, critic, critic_layers[0].values),
        simulation=block.simulation_bytes,
    )


def _kept_bytes(block: Block) -> int:
    """Dense gradients that are kept, of all lanes whose connections grow by them."""
    return _FLOAT_BYTES * sum(
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
    return _FLOAT_BYTES * floats + statistics


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
                mask = _MASK_BYTES * possible if min(counts) < possible else 0
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
    config = block.config
    low = max(config.algorithm.batch_size, 2 * config.task.envs_per_lane)
    high = config.effective_replay_capacity
    if block_memory(block, low).total > available:
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        if block_memory(block, middle).total <= available:
            low = middle
        else:
            high = middle
    unit = 10 ** max(0, int(math.log10(low)) - 1)
    return low // unit * unit


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
    """Memory that is free now: of the GPU, or of the machine within its control group's limits."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(torch.device(device))[0]
    return min([_machine_free(), *_control_group_free()])


def _machine_free() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _control_group_free(root: Path = Path("/sys/fs/cgroup"), own: str | None = None) -> list[int]:
    """Bytes below each memory limit that the process's control group or one above it has."""
    if own is None:
        try:
            lines = Path("/proc/self/cgroup").read_text().splitlines()
        except OSError:
            lines = []
        own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    group = root / own.strip("/")
    folders = [group, *(parent for parent in group.parents if parent.is_relative_to(root))]
    free = []
    for folder, limit, used in [
        *((folder, "memory.max", "memory.current") for folder in folders),
        (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ]:
        try:
            allowed, current = (folder / limit).read_text(), (folder / used).read_text()
            free.append(max(0, int(allowed) - int(current) + _reclaimable(folder)))
        except (OSError, ValueError):  # no such limit, or the word max
            continue
    return free


def _reclaimable(folder: Path) -> int:
    """File cache that the kernel gives back under pressure."""
    for line in (folder / "memory.stat").read_text().splitlines():
        if line.startswith("inactive_file "):
            return int(line.split()[1])
    return 0
