"""What a study is going to train, to be read: blocks, networks with their densities, and memory.

Axes: F features with noise, D real ones. Blocks run one after the other, so the largest one decides
what memory is needed.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastanf.grouping import Block
from fastanf.layouts import layout_reason
from fastanf.memory import MIB, available_bytes, block_memory, fitting_capacity, resolve_device
from fastanf.networks import NetworkPlan
from fastanf.sparse.layers import CSR


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
            fits = fitting_capacity(block, self.available)
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
        ValueError: a device that is not there, networks that cannot be made so sparse, or a
            simulator that cannot run on the device.
    """
    resolved = resolve_device(device)
    for block in blocks:
        _ = block.simulation_bytes  # asks whether it can run
    notes = (*notes, *_raised(blocks), *_regimes(blocks))
    return Plan(tuple(blocks), resolved, available_bytes(resolved), notes)


def _regimes(blocks: Sequence[Block]) -> tuple[str, ...]:
    """Notes on blocks that do not make one update for each environment step, as the papers do."""
    notes: dict[str, None] = {}
    for config in (block.config for block in blocks):
        E, updates = config.task.envs_per_lane, config.schedule.updates_per_step
        if E > 1 or updates > 1:
            notes[
                f"{_count(updates, 'update')} for {_count(E, 'environment step')} of a lane, "
                f"{updates / E:.3g} each: not the papers' experiment, which makes 1 for 1"
            ] = None
    return tuple(notes)


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
        + (f", simulation {_mib(memory.simulation)}" if memory.simulation else "")
    )
    return [*head, *_columns(rows), *_layout_lines(block), *variants, tail]


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
        for network, layouts, label in zip(
            block.networks[positions[0]], block.layouts, ("actor", "critic x2"), strict=True
        ):
            layers = _layers_text(network, layouts)
            rows.append((*start, label, layers, f"{network.num_active:,}/{network.num_total:,}"))
            start = ("", "", "")
    return rows


def _layers_text(network: NetworkPlan, layouts: Sequence[str]) -> str:
    """Size and density of each layer, and `csr` where it stores active connections only."""
    pairs = itertools.pairwise(network.sizes)
    layers = zip(pairs, network.active_counts, layouts, strict=True)
    return "  ".join(
        f"{n_in}x{n_out} {active / (n_in * n_out):.4g}{' csr' * (layout == CSR)}"
        for (n_in, n_out), active, layout in layers
    )


def _layout_lines(block: Block) -> list[str]:
    """Why the sparse layers are stored as they are; lanes of one block may have other reasons."""
    reasons = dict.fromkeys(
        layout_reason(lane, block.device)
        for lane, networks in zip(block.lanes, block.networks, strict=True)
        if any(network.active_counts != network.connections for network in networks)
    )
    return [f"  layout: {'; '.join(reasons)}"] if reasons else []


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
