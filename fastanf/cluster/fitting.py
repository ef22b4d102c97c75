"""Whether a block fits onto any node of a cluster, and what to type where it does not."""

import math
from collections.abc import Callable, Sequence

from fastanf.cluster.resources import (
    PROCESS_BYTES,
    Node,
    Share,
    counted,
    gpu_bytes,
    host_bytes,
    is_on_gpu,
)
from fastanf.grouping import Block
from fastanf.memory import block_memory, fitting_capacity, mib_text


def fits_nowhere(block: Block, share: Share, nodes: Sequence[Node], number: int) -> str | None:
    """Why no node can take a block even if it is idle, in one line that says what to type.

    Args:
        block: to train.
        share: what it asks for, of `block_share`.
        nodes: of the cluster.
        number: of the block, from 1, as the plan counts them.

    Returns:
        The line, None where some node can take the block.
    """
    if not nodes:
        return f"block {number} has no node to train on: start one with `ray start`"
    where = "no node"
    if is_on_gpu(block):
        fitting, refusal = _gpu_nodes(block, share, nodes)
        if not fitting:
            return f"block {number} {refusal}"
        nodes, where = fitting, "no node with such a GPU"
    fitting, most = _enough(nodes, lambda node: node.num_cpus, share.num_cpus)
    if not fitting:
        asked = f"block {number} asks for {counted(share.num_cpus, 'CPU')}, and {where} has"
        if most < 1:
            return f"{asked} a whole one: start one with `ray start --num-cpus 1` or more"
        return f"{asked} more than {most:g}: give --cpus_per_block {math.floor(most)} or less"
    fitting, most = _enough(fitting, lambda node: node.memory, share.memory)
    if fitting:
        return None
    advice = _fewer_lanes(block, lambda part: host_bytes(part) <= most)
    if not advice:
        fewer = "smaller --envs_per_lane or --eval_episodes"
        advice = fewer if is_on_gpu(block) else _less_replay(block, most - PROCESS_BYTES)
    return (
        f"block {number} with {counted(len(block.lanes), 'lane')} takes {mib_text(share.memory)} "
        f"of its host, and {where} has more than {mib_text(int(most))} for it: give {advice}"
    )


def _gpu_nodes(block: Block, share: Share, nodes: Sequence[Node]) -> tuple[list[Node], str]:
    """The nodes with a GPU that is enough for the block; without any, what is missing."""
    having, most = _enough(nodes, lambda node: node.num_gpus, share.num_gpus)
    if not having:
        advice = "no node has one: give --device cpu, or start one that has"
        if most:
            advice = f"no node has more than {most:g}: give --gpus_per_block {most:g} or less"
        return [], f"asks for {counted(share.num_gpus, 'GPU')}, and {advice}"
    needed = block_memory(block).total
    fitting, most = _enough(having, lambda node: gpu_bytes(node, share), needed)
    if fitting:
        return fitting, ""
    advice = _fewer_lanes(block, lambda part: block_memory(part).total <= most)
    advice = advice or _less_replay(block, most)
    if any(node.gpu_memory >= needed for node in having):
        advice = f"a larger --gpus_per_block, or {advice}"
    return [], (
        f"with {counted(len(block.lanes), 'lane')} takes {mib_text(needed)} of a GPU, and none "
        f"has more than {mib_text(int(most))} for it: give {advice}"
    )


def _enough(
    nodes: Sequence[Node], of: Callable[[Node], float], needed: float
) -> tuple[list[Node], float]:
    """The nodes that have as much of something, and the most that any of all has."""
    return [node for node in nodes if of(node) >= needed], max(map(of, nodes))


def _fewer_lanes(block: Block, fits: Callable[[Block], bool]) -> str:
    """The most lanes that fit, as an option; empty where not even one does."""

    def first(number: int) -> Block:
        return Block(block.indices[:number], block.lanes[:number], block.device)

    low, high = 0, len(block.lanes)
    while high - low > 1:
        middle = (low + high) // 2
        if fits(first(middle)):
            low = middle
        else:
            high = middle
    return f"--lanes_per_block {low} or less" if low else ""


def _less_replay(block: Block, available: float) -> str:
    """The largest replay with which a single lane fits, as an option; else what else is large."""
    lane = Block(block.indices[:1], block.lanes[:1], block.device)
    capacity = fitting_capacity(lane, int(available))
    if capacity:
        return f"--replay_capacity {capacity} or less"
    return "smaller networks (--hidden, --noise_fraction)"
