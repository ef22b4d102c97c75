"""What a study is going to train, to be read: blocks, networks with their densities, memory and
disk space.

Axes: F features with noise, D real ones. Blocks run one after the other, so the largest one decides
what memory is needed.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastanf.disk import DiskPlan
from fastanf.grouping import Block
from fastanf.layouts import layout_reason
from fastanf.memory import BlockMemory, block_memory, fitting_capacity, mib_text
from fastanf.networks import NetworkPlan
from fastanf.sparse.layers import CSR
from fastanf.sparse.schedule import Clock


@dataclass(frozen=True)
class Plan:
    """The blocks of a study, and the memory and the disk that they run with."""

    blocks: tuple[Block, ...]
    device: str
    """cpu, cuda or cuda:N."""
    available: int
    """Bytes free on the device."""
    notes: tuple[str, ...] = ()
    num_fixed: int = 0
    """How many of the blocks, the first ones, stand in a run folder and stay as they are."""
    num_trained: int = 0
    """Lanes that a run folder holds already, trained to their end."""
    host_available: int | None = None
    """Bytes free on the host, where the device is not its memory."""
    address_space: int | None = None
    """Bytes that the process may still reserve (`ulimit`); None for no limit."""
    disk: DiskPlan | None = None
    """Of the run folder; None where nothing is going to be written."""

    @property
    def needed(self) -> int:
        """Bytes of the largest block."""
        return max((block_memory(block).total for block in self.blocks), default=0)

    @property
    def host_needed(self) -> int:
        """Bytes of the host that the largest block takes beside a device that is not its memory."""
        return max((block_memory(block).host_total for block in self.blocks), default=0)

    def check(self) -> None:
        """Refuse a study that does not fit into the memory or onto the disk.

        Raises:
            ValueError: names what would fit.
        """
        self.check_memory()
        if self.disk is not None:
            self.disk.check()

    def check_memory(self) -> None:
        """Refuse a study with a block that does not fit; its blocks are as small as can be.

        Raises:
            ValueError: names the replay capacity that would fit.
        """
        for number, block in enumerate(self.blocks, start=1):
            needed, free = block_memory(block), self._free_for(block)
            if needed.total > free:
                raise ValueError(self._refusal(number, block, needed.total, free))
            host_free = self.host_available
            if host_free is not None and needed.host_total > host_free:
                raise ValueError(
                    f"{_count(len(block.lanes), 'lane')} in block {number} needs more memory of "
                    f"the host than the {mib_text(host_free)} free ({mib_text(needed.host_total)} "
                    "for simulators and checkpoints); allowed are fewer (--lanes_per_block, "
                    "--envs_per_lane, --eval_episodes)"
                )

    def _free_for(self, block: Block) -> int:
        """Bytes of the device; on the host, not more than a limit of addresses leaves."""
        if self.address_space is None or not block_memory(block).is_on_host:
            return self.available
        return min(self.available, max(0, self.address_space - block_memory(block).addresses))

    def _refusal(self, number: int, block: Block, needed: int, free: int) -> str:
        capacity = block.config.schedule.replay_capacity
        subject, advice = f"replay_capacity {capacity}", "free some, or use another machine"
        if number > self.num_fixed:
            fits = fitting_capacity(block, free)
            if fits:
                advice = f"allowed is --replay_capacity {fits} or less"
            else:
                subject = "even the smallest replay"
                advice = "allowed are smaller networks (--hidden, --noise_fraction)"
        where = f"on {self.device}" if free == self.available else "within ulimit -v or -d"
        return (
            f"{subject} with {_count(len(block.lanes), 'lane')} in block {number} needs more "
            f"memory than the {mib_text(free)} free {where} "
            f"({mib_text(needed)} as given); {advice}"
        )

    def text(self) -> str:
        """The plan to be read, one table a block."""
        return plan_text(self)


def make_plan(
    blocks: Sequence[Block],
    device: str,
    available: int,
    notes: Sequence[str] = (),
    *,
    num_fixed: int = 0,
    num_trained: int = 0,
    host_available: int | None = None,
    address_space: int | None = None,
    disk: DiskPlan | None = None,
) -> Plan:
    """The plan of these blocks.

    Args:
        blocks: those that a run folder holds already and that are not trained to their end first.
        device: that they run on: cpu, cuda or cuda:N.
        available: bytes free there.
        notes: to be read with the plan.
        num_fixed, num_trained, host_available, address_space, disk: as in `Plan`.

    Raises:
        ValueError: networks that cannot be made so sparse, or a simulator that cannot run on the
            device.
    """
    for block in blocks:
        _ = block.simulation_bytes  # asks whether it can run
    notes = (*notes, *_raised(blocks), *_regimes(blocks))
    return Plan(
        tuple(blocks), device, available, notes, num_fixed, num_trained, host_available,
        address_space, disk,
    )  # fmt: skip


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
    """Blocks, lanes, layers with densities, parameters, memory and disk space; like lanes share a
    row.
    """
    num_lanes = sum(len(block.lanes) for block in plan.blocks)
    trained = _count(plan.num_trained, "lane")
    if not plan.blocks:
        notes = [f"note: {note}" for note in plan.notes]
        return "\n".join([f"plan: nothing is left to train, all {trained} are there", *notes])
    lines = [f"plan: {_count(num_lanes, 'lane')} in {_count(len(plan.blocks), 'block')}"]
    if plan.num_trained:
        lines[0] += f", beside {trained} that the folder holds, trained"
    for number, block in enumerate(plan.blocks, start=1):
        lines += ["", *_block_lines(block, f"block {number} of {len(plan.blocks)}")]
    lines += [
        "",
        f"memory: {mib_text(plan.needed)} needed, {mib_text(plan.available)} free on {plan.device}",
    ]
    if plan.host_available is not None:
        lines[-1] += (
            f"; {mib_text(plan.host_needed)} of the host's, {mib_text(plan.host_available)} free"
        )
    if plan.address_space is not None:
        lines[-1] += f", {mib_text(plan.address_space)} left to reserve (ulimit)"
    if plan.disk is not None:
        lines.append(plan.disk.text())
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
        *([f"  {block.split}"] if block.split else []),
    ]
    rows = [
        ("policy", "lanes", "seeds", "network", "layers: inputs x outputs, density", "active/all")
    ]
    rows += _lane_rows(block)
    variants = _variant_lines(block)
    lines = [*_columns(rows), *_layout_lines(block), *_pruning_lines(block)]
    return [*head, *lines, *variants, *_memory_lines(memory)]


def _memory_lines(memory: BlockMemory) -> list[str]:
    """What stays, and what comes and goes."""
    parts = {
        "replay": memory.replay,
        "networks": memory.weights,
        "gradients and moments": memory.moments,
        "work": memory.work,
        "simulation": memory.simulation,
    }
    shown = [f"{name} {mib_text(n)}" for name, n in parts.items() if n or name != "simulation"]
    host = mib_text(memory.host if memory.is_on_host else memory.host_total)
    beside = "simulators and libraries" + " on the host" * (not memory.is_on_host)
    return [
        f"  memory: {', '.join(shown)}",
        f"          building, recording and saving {mib_text(memory.passing)}, {beside} {host}",
    ]


def _alike(block: Block) -> dict[tuple[object, ...], list[int]]:
    """Lanes of equal policy and densities, by position in the block."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for position, (lane, networks) in enumerate(zip(block.lanes, block.networks, strict=True)):
        counts = tuple((network.active_counts, network.starts_dense) for network in networks)
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
    """Size and density of each layer, the first and the last one where it is pruned, and `csr`
    where it stores active connections only.
    """
    pairs = itertools.pairwise(network.sizes)
    layers = zip(pairs, network.active_counts, layouts, strict=True)
    return "  ".join(
        f"{n_in}x{n_out} {'1 to ' * (network.starts_dense and active < n_in * n_out)}"
        f"{active / (n_in * n_out):.4g}{' csr' * (layout == CSR)}"
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


def _pruning_lines(block: Block) -> list[str]:
    """When the lanes that start dense are as sparse as their densities say."""
    ends = {
        Clock(lane.sparsity.topology_period, lane.sparsity.topology_end, lane.num_updates).end
        for lane, networks in zip(block.lanes, block.networks, strict=True)
        if any(network.starts_dense for network in networks)
    }
    updates = ", ".join(f"{end:,}" for end in sorted(ends))
    text = f"  pruning: starts dense and ends at the density, at update {updates} of"
    return [f"{text} {block.config.num_updates:,}"] if ends else []


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
