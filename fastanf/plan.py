"""What a study is going to train: blocks, networks with their densities, and memory.

Axes: L lanes of a block, C = 2 critics, F features with noise, A actions. The actor has sizes
(F, *hidden, A) in TD3 and (F, *hidden, 2A) in SAC (mean, log std), each critic (F + A, *hidden, 1).
Blocks run one after the other, so the largest one decides what memory is needed.
"""

import itertools
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from envs import noise, registry
from envs.interface import EnvSpec
from fastanf.config import TrainConfig, block_key
from fastanf.lanes import LaneTable, group_lanes
from fastanf.replay import replay_bytes
from fastanf.sparse.distribution import LayerSparsity, active_count, layer_sparsity

NUM_CRITICS = 2
MIB = 2**20
_FLOAT_BYTES = 4
_ONLINE_COPIES = 4
"""A trained parameter is stored with its gradient and two moments."""


@dataclass(frozen=True)
class NetworkPlan:
    """Sizes and sparsity of an actor, or of one critic."""

    name: str
    sizes: tuple[int, ...]
    """Input, hidden layers, output."""
    sparsity: LayerSparsity

    @property
    def connections(self) -> tuple[int, ...]:
        """Possible connections of each layer."""
        return tuple(n_in * n_out for n_in, n_out in itertools.pairwise(self.sizes))

    @property
    def active_counts(self) -> tuple[int, ...]:
        """Active connections of each layer."""
        pairs = zip(self.connections, self.sparsity.sparsities, strict=True)
        return tuple(active_count(n, s) for n, s in pairs)

    @property
    def num_biases(self) -> int:
        return sum(self.sizes[1:])

    @property
    def num_active(self) -> int:
        """Active parameters, biases included."""
        return sum(self.active_counts) + self.num_biases

    @property
    def num_total(self) -> int:
        """Parameters of the dense network."""
        return sum(self.connections) + self.num_biases


def lane_networks(config: TrainConfig, spec: EnvSpec) -> tuple[NetworkPlan, NetworkPlan]:
    """The actor and one critic of a lane.

    The critics' output layer is always dense (it has one neuron), as in the published code.

    Raises:
        ValueError: a global level that cannot be met, or a layer left without connections.
    """
    num_features = noise.num_features(spec.num_features, config.noise.noise_fraction)
    num_heads = 2 if config.algorithm.algorithm == "sac" else 1
    hidden, sparsity = config.network.hidden, config.sparsity
    all_sizes = {
        "actor": (num_features, *hidden, num_heads * spec.num_actions),
        "critic": (num_features + spec.num_actions, *hidden, 1),
    }
    plans = []
    for name, sizes in all_sizes.items():
        owner = f"{name} of {config.algorithm.policy} on {config.task.env}"
        try:
            solved = layer_sparsity(
                sizes,
                sparsity.global_sparsity or 0.0,
                sparsity.input_layer_sparsity,
                sparsity.sparsity_distribution,
                sparsity.sparse_output_layer and name == "actor",
            )
        except ValueError as error:
            raise ValueError(f"{error} ({owner})") from None
        plan = NetworkPlan(name, sizes, solved)
        if 0 in plan.active_counts:
            layer = plan.active_counts.index(0) + 1
            raise ValueError(
                f"input_layer_sparsity must leave a connection in layer {layer} of the {owner}, "
                f"got {sparsity.input_layer_sparsity} of {plan.connections[layer - 1]} connections"
            )
        plans.append(plan)
    return plans[0], plans[1]


@dataclass(frozen=True)
class Block:
    """Lanes that train together: their static settings agree."""

    indices: tuple[int, ...]
    """Position of each lane in the study."""
    lanes: tuple[TrainConfig, ...]

    @property
    def config(self) -> TrainConfig:
        """The first lane's settings, for everything static."""
        return self.lanes[0]

    @property
    def spec(self) -> EnvSpec:
        return registry.spec(self.config.task.env, self.config.task.backend)

    @property
    def num_features(self) -> int:
        """F, noise included."""
        return noise.num_features(self.spec.num_features, self.config.noise.noise_fraction)

    @cached_property
    def table(self) -> LaneTable:
        """The settings as columns over the lanes."""
        return LaneTable([lane.flat() for lane in self.lanes])

    @cached_property
    def networks(self) -> tuple[tuple[NetworkPlan, NetworkPlan], ...]:
        """Actor and critic of each lane."""
        return tuple(lane_networks(lane, self.spec) for lane in self.lanes)


def make_blocks(lanes: Sequence[TrainConfig]) -> tuple[Block, ...]:
    """The lanes grouped by their static settings and by SGD against Adam, in first-seen order."""
    groups = group_lanes([{"key": block_key(lane)} for lane in lanes], ["key"])
    return tuple(Block(group, tuple(lanes[index] for index in group)) for group in groups)


@dataclass(frozen=True)
class BlockMemory:
    """Bytes that a block takes on its device."""

    replay: int
    weights: int
    """Online and target networks, and the masks."""
    moments: int
    """Gradients and both moments."""
    work: int
    """Minibatches and activations of an update, roughly."""

    @property
    def total(self) -> int:
        return self.replay + self.weights + self.moments + self.work


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
    actor, critic = block.networks[0]
    actor_targets = 0 if config.algorithm.algorithm == "sac" else 1
    online = actor.num_total + NUM_CRITICS * critic.num_total
    stored = online + actor_targets * actor.num_total + NUM_CRITICS * critic.num_total
    masks = sum(actor.connections) + NUM_CRITICS * sum(critic.connections)
    # Per transition: two inputs with noise, and each network's activations with their gradients.
    widths = 2 * critic.sizes[0] + 2 * (1 + NUM_CRITICS) * sum(config.network.hidden)
    return BlockMemory(
        replay=num_lanes * replay,
        weights=num_lanes * (_FLOAT_BYTES * stored + masks),
        moments=num_lanes * _FLOAT_BYTES * (_ONLINE_COPIES - 1) * online,
        work=num_lanes * _FLOAT_BYTES * config.algorithm.batch_size * widths,
    )


@dataclass(frozen=True)
class Plan:
    """The blocks of a study and the memory of the device that they run on."""

    blocks: tuple[Block, ...]
    device: str
    """cpu, cuda or cuda:N."""
    available: int
    """Bytes free on the device."""
    notes: tuple[str, ...] = ()

    @property
    def needed(self) -> int:
        """Bytes of the largest block."""
        return max(block_memory(block).total for block in self.blocks)

    def check_memory(self) -> None:
        """Refuse a study that does not fit.

        Raises:
            ValueError: names the replay capacity, or the number of lanes, that would fit.
        """
        for number, block in enumerate(self.blocks, start=1):
            needed = block_memory(block).total
            if needed <= self.available:
                continue
            fits = _fitting_capacity(block, self.available)
            capacity = block.config.schedule.replay_capacity
            subject, advice = (
                (f"replay_capacity {capacity}", f"allowed is --replay_capacity {fits} or less")
                if fits
                else (
                    "even the smallest replay",
                    "allowed are fewer lanes or smaller networks "
                    "(--num_seeds, --hidden, --noise_fraction)",
                )
            )
            raise ValueError(
                f"{subject} with {_count(len(block.lanes), 'lane')} in block {number} needs more "
                f"memory than the {_mib(self.available)} free on {self.device} "
                f"({_mib(needed)} as given); {advice}"
            )

    def text(self) -> str:
        """The plan to be read, one table a block."""
        return plan_text(self)


def make_plan(blocks: Sequence[Block], device: str = "auto", notes: Sequence[str] = ()) -> Plan:
    """The plan of these blocks on this machine, as it is now.

    Raises:
        ValueError: a device that is not there, or networks that cannot be made so sparse.
    """
    resolved = resolve_device(device)
    return Plan(tuple(blocks), resolved, available_bytes(resolved), (*notes, *_raised(blocks)))


def _raised(blocks: Sequence[Block]) -> tuple[str, ...]:
    """Notes on global levels that a fixed input layer raises."""
    notes: dict[str, None] = {}
    for block in blocks:
        for lane, networks in zip(block.lanes, block.networks, strict=True):
            asked = lane.sparsity.global_sparsity
            for network in networks:
                if asked and network.sparsity.is_raised:
                    policy = lane.algorithm.policy
                    note = (
                        f"{policy}: input_layer_sparsity raises the {network.name}'s "
                        f"global sparsity from {asked:g} to {network.sparsity.reached:.4f}"
                    )
                    notes[note] = None
    return tuple(notes)


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


def _fitting_capacity(block: Block, available: int) -> int:
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


def plan_text(plan: Plan) -> str:
    """Blocks, lanes, layers with densities, parameters and memory; like lanes share a row."""
    num_lanes = sum(len(block.lanes) for block in plan.blocks)
    lines = [f"plan: {_count(num_lanes, 'lane')} in {_count(len(plan.blocks), 'block')}"]
    for number, block in enumerate(plan.blocks, start=1):
        lines += ["", *_block_lines(block, f"block {number} of {len(plan.blocks)}")]
    lines += [
        "",
        f"memory: {_mib(plan.needed)} needed, {_mib(plan.available)} free on {plan.device}",
    ]
    lines += [f"note: {note}" for note in plan.notes]
    return "\n".join(lines)


def _block_lines(block: Block, title: str) -> list[str]:
    config, D, F = block.config, block.spec.num_features, block.num_features
    schedule, memory = config.schedule, block_memory(block)
    E, method = config.task.envs_per_lane, config.algorithm.algorithm.upper()
    envs = "" if E == 1 else f" x {E} environments"
    head = [
        f"{title}: {_count(len(block.lanes), 'lane')}{envs}, {method} on {config.task.env} "
        f"({config.task.backend}), {F} features ({D} real, {F - D} noise), "
        f"{_count(block.spec.num_actions, 'action')}",
        f"  {schedule.start_timesteps:,} random + {schedule.max_timesteps:,} learning steps a "
        f"lane, batch {config.algorithm.batch_size}, replay {config.effective_replay_capacity:,}, "
        f"{config.network.activation}",
    ]
    rows = [
        ("policy", "lanes", "seeds", "network", "layers: inputs x outputs, density", "active/all")
    ]
    rows += _lane_rows(block)
    variants = _variant_lines(block)
    tail = (
        f"  memory: replay {_mib(memory.replay)}, networks {_mib(memory.weights)}, "
        f"gradients and moments {_mib(memory.moments)}, work {_mib(memory.work)}"
    )
    return [*head, *_columns(rows), *variants, tail]


def _alike(block: Block) -> dict[tuple[object, ...], list[int]]:
    """Lanes of equal policy and densities, by position in the block."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for position, (lane, networks) in enumerate(zip(block.lanes, block.networks, strict=True)):
        counts = tuple(network.active_counts for network in networks)
        groups.setdefault((lane.algorithm.policy, counts), []).append(position)
    return groups


def _lane_rows(block: Block) -> list[tuple[str, ...]]:
    rows = []
    for positions in _alike(block).values():
        lane = block.lanes[positions[0]]
        seeds = _ranges(sorted({block.lanes[p].algorithm.seed for p in positions}))
        start: tuple[str, ...] = (lane.algorithm.policy, str(len(positions)), seeds)
        for network, label in zip(
            block.networks[positions[0]], ("actor", "critic x2"), strict=True
        ):
            layers = "  ".join(
                f"{n_in}x{n_out} {active / (n_in * n_out):.4g}"
                for (n_in, n_out), active in zip(
                    itertools.pairwise(network.sizes), network.active_counts, strict=True
                )
            )
            rows.append((*start, label, layers, f"{network.num_active:,}/{network.num_total:,}"))
            start = ("", "", "")
    return rows


def _variant_lines(block: Block) -> list[str]:
    names = dict.fromkeys(lane.algorithm.variant for lane in block.lanes if lane.algorithm.variant)
    return [f"  variants: {'; '.join(names)}"] if names else []


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    align: list[Callable[[str, int], str]] = [str.ljust] * len(widths)
    align[1] = str.rjust
    return [
        "  "
        + "  ".join(pad(cell, n) for pad, cell, n in zip(align, row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _ranges(numbers: Sequence[int]) -> str:
    """0-3,7 for 0, 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / MIB:,.1f} MiB"
