"""What a study is going to train on which node of a cluster, and until when, to be read."""

from collections.abc import Sequence

from fastanf.cluster.cost import Cost, relative_cost
from fastanf.cluster.fitting import fits_nowhere
from fastanf.cluster.resources import Node, Share, counted, largest_share, slots
from fastanf.cluster.schedule import Schedule, schedule
from fastanf.grouping import Block
from fastanf.memory import mib_text
from fastanf.progress import duration

_SHOWN_NAME = 16
"""Longest name of a node that is shown whole; of ids, which are longer, the start is enough."""
_SHOWN_START = 12


def placement_text(
    blocks: Sequence[Block],
    shares: Sequence[Share],
    nodes: Sequence[Node],
    durations_s: Sequence[float | None],
    *,
    cost: Cost = relative_cost,
) -> str:
    """The devices, the blocks with the nodes that they are expected on, and the estimated end.

    The longest block starts first, on the node with a free slot; a slot has room for any of the
    blocks. Which nodes they really go to is up to the cluster.

    Args:
        blocks: of a study, at least one.
        shares: of each block.
        nodes: of the cluster.
        durations_s: seconds that each block is going to take, None where that is not known. As long
            as one is not, the order is by `cost`.
        cost: of a block.
    """
    refusals = [
        refusal
        for number, (block, share) in enumerate(zip(blocks, shares, strict=True), start=1)
        if (refusal := fits_nowhere(block, share, nodes, number))
    ]
    planned, places = None, ["-"] * len(blocks)
    if not refusals:
        known = [seconds for seconds in durations_s if seconds is not None]
        costs = known if len(known) == len(blocks) else [cost(block) for block in blocks]
        owners = _owners(nodes, slots(nodes, largest_share(shares)))
        planned = schedule(costs, len(owners))
        for node, turns in zip(owners, planned.slots, strict=True):
            for turn in turns:
                places[turn.index] = _short(node.name)
    rows = [("block", "lanes", "trains", "asks for", "node", "duration")]
    rows += [
        (
            str(number),
            f"{len(block.lanes):,}",
            _summary(block),
            _share_text(share),
            place,
            "?" if seconds is None else duration(seconds),
        )
        for number, (block, share, place, seconds) in enumerate(
            zip(blocks, shares, places, durations_s, strict=True), start=1
        )
    ]
    num_lanes = sum(len(block.lanes) for block in blocks)
    return "\n".join(
        [
            f"cluster: {counted(len(nodes), 'node')}, "
            f"{counted(sum(node.num_cpus for node in nodes), 'CPU')}, "
            f"{counted(sum(node.num_gpus for node in nodes), 'GPU')}",
            *_node_lines(nodes),
            "",
            f"placement: {counted(num_lanes, 'lane')} in {counted(len(blocks), 'block')}",
            *_columns(rows, right={0, 1}),
            "",
            *refusals,
            _estimate(planned, durations_s),
        ]
    )


def _node_lines(nodes: Sequence[Node]) -> list[str]:
    rows = [("node", "host", "CPUs", "GPUs", "memory")]
    for node in nodes:
        gpus = f"{node.num_gpus:g}"
        if node.num_gpus:
            gpus += f" x {node.gpu_name or 'GPU'}, {mib_text(node.gpu_memory)}"
        memory = mib_text(node.memory)
        rows.append((_short(node.name), node.host, f"{node.num_cpus:g}", gpus, memory))
    return _columns(rows, right={2, 4})


def _owners(nodes: Sequence[Node], numbers: Sequence[int]) -> list[Node]:
    """The node of each slot; the first slots of all nodes come before the second ones."""
    return [
        node
        for turn in range(max(numbers, default=0))
        for node, number in zip(nodes, numbers, strict=True)
        if turn < number
    ]


def _summary(block: Block) -> str:
    """Policies and task."""
    policies = dict.fromkeys(lane.algorithm.policy for lane in block.lanes)
    task = block.config.task
    return f"{', '.join(policies)} on {task.env} ({task.backend})"


def _share_text(share: Share) -> str:
    parts = [counted(share.num_cpus, "CPU")]
    if share.num_gpus:
        parts.append(counted(share.num_gpus, "GPU"))
    return ", ".join([*parts, mib_text(share.memory)])


def _estimate(planned: Schedule | None, durations_s: Sequence[float | None]) -> str:
    if planned is None:
        return "estimate: none, because not every block has a node to go to"
    used = f"{planned.num_used} of {counted(len(planned.slots), 'slot')}"
    known = [seconds for seconds in durations_s if seconds is not None]
    if len(known) < len(durations_s):
        unknown = f"{len(durations_s) - len(known)} of {counted(len(durations_s), 'block')}"
        return f"estimate: none, because the speed of {unknown} is not known; {used} have work"
    return (
        f"estimate: {duration(planned.makespan_s)} with {used}, {planned.busy_share:.0%} busy; "
        f"longest block {duration(max(known))}"
    )


def _short(name: str) -> str:
    return name if len(name) <= _SHOWN_NAME else name[:_SHOWN_START]


def _columns(rows: Sequence[tuple[str, ...]], right: set[int]) -> list[str]:
    """Aligned under the first row, the headings; columns of numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
