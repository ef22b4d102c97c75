"""What the nodes of a cluster offer, what a block asks for, and how many blocks go together.

Bytes of memory are those that tasks may take. A block trains on one device: some CPUs of a node, or
one GPU, or a share of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fastanf.grouping import Block
from fastanf.memory import block_memory, mib_text

PROCESS_BYTES = 288 * 2**20
"""Of a worker's process before it builds its block: 266 MiB were measured, with torch and Ray."""
_ROUNDING = 1e-6
"""Shares of a GPU are no exact binary numbers: 1 / 0.1 is to be ten."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster."""

    name: str
    """Its id."""
    host: str
    """Name or address."""
    num_cpus: float
    num_gpus: float
    memory: int
    """Bytes of the host that tasks may take."""
    gpu_memory: int = 0
    """Bytes of one of its GPUs; 0 where there is none."""
    gpu_name: str = ""


@dataclass(frozen=True)
class Share:
    """What one block asks of its node."""

    num_cpus: float
    num_gpus: float
    """0 for a block on the CPU, else in (0, 1]."""
    memory: int
    """Bytes of the host."""

    @property
    def text(self) -> str:
        """To be read: `2 CPUs, 1 GPU and 1,000.0 MiB`."""
        gpus = f", {counted(self.num_gpus, 'GPU')}" if self.num_gpus else ""
        return f"{counted(self.num_cpus, 'CPU')}{gpus} and {mib_text(self.memory)}"

    @property
    def blocks_per_gpu(self) -> int:
        """Blocks of such a share that one GPU holds; 0 for a block on the CPU."""
        return math.floor(1 / self.num_gpus + _ROUNDING) if self.num_gpus else 0


def is_on_gpu(block: Block) -> bool:
    """Whether the block trains on a GPU."""
    return block.device.startswith("cuda")


def host_bytes(block: Block) -> int:
    """Bytes of the host that a block's worker takes; all of them, where the host is its device."""
    memory = block_memory(block)
    return PROCESS_BYTES + (memory.total if memory.is_on_host else memory.host_total)


def gpu_bytes(node: Node, share: Share) -> int:
    """Bytes of a node's GPU for each of the blocks of such a share that it holds."""
    return node.gpu_memory // max(1, share.blocks_per_gpu)


def block_share(
    block: Block,
    nodes: Sequence[Node],
    cpus_per_block: int | None = None,
    gpus_per_block: float | None = None,
    *,
    num_blocks: int | None = None,
) -> Share:
    """What a block asks for.

    On GPUs that is one GPU, and as many CPUs as there are for each block on the node that has
    fewest for it. On CPUs it is one, and where there are fewer blocks than CPUs, as many as all
    blocks can have at the same time.

    Args:
        block: to train.
        nodes: of the cluster.
        cpus_per_block: at least 1; None for the above.
        gpus_per_block: in (0, 1], for blocks on a GPU; None for 1.
        num_blocks: of the study; None before it is known, for no more CPUs than one.

    Raises:
        ValueError: names the option and what is allowed.
    """
    if cpus_per_block is not None and cpus_per_block < 1:
        raise ValueError(f"cpus_per_block must be an integer of at least 1, got {cpus_per_block}")
    memory = host_bytes(block)
    if not is_on_gpu(block):
        if gpus_per_block is not None:
            raise ValueError(
                f"gpus_per_block {gpus_per_block:g} goes with --device cuda, got --device "
                f"{block.device}; leave it out, or train on GPUs"
            )
        return Share(cpus_per_block or _cpus_for(num_blocks, nodes), 0, memory)
    num_gpus = 1.0 if gpus_per_block is None else gpus_per_block
    if not 0 < num_gpus <= 1:
        raise ValueError(
            f"gpus_per_block must be in (0, 1], because a block trains on one GPU, got {num_gpus:g}"
        )
    share = Share(1, num_gpus, memory)
    if cpus_per_block is None:
        least = min((n.num_cpus / n.num_gpus for n in nodes if n.num_gpus), default=1.0)
        cpus_per_block = max(1, math.floor(least / share.blocks_per_gpu + _ROUNDING))
    return Share(cpus_per_block, num_gpus, memory)


def _cpus_for(num_blocks: int | None, nodes: Sequence[Node]) -> int:
    """The most CPUs that every one of the blocks can have at the same time, at least 1."""
    if not num_blocks:
        return 1
    most = math.floor(sum(node.num_cpus for node in nodes) / num_blocks)
    for num_cpus in range(most, 1, -1):
        if sum(node.num_cpus // num_cpus for node in nodes) >= num_blocks:
            return num_cpus
    return 1


def slots(nodes: Sequence[Node], share: Share) -> tuple[int, ...]:
    """How many blocks of a share each node holds at once, in the order of the nodes.

    A GPU's own memory is no part of a share: `gpu_bytes` says what a block may take of it.
    """
    return tuple(_slots(node, share) for node in nodes)


def _slots(node: Node, share: Share) -> int:
    numbers = [node.num_cpus / share.num_cpus] if share.num_cpus else []
    if share.memory:
        numbers.append(node.memory / share.memory)
    if share.num_gpus:
        whole, rest = divmod(node.num_gpus + _ROUNDING, 1)
        numbers.append(whole * share.blocks_per_gpu + rest // share.num_gpus)
    return math.floor(min(numbers) + _ROUNDING)


def counted(number: float, noun: str) -> str:
    """`1 CPU`, `0.5 GPU`, `1,000 lanes`."""
    return f"{number:,g} {noun}{'' if 0 < number <= 1 else 's'}"


def largest_share(shares: Sequence[Share]) -> Share:
    """What is enough for any one of them."""
    return Share(
        max(share.num_cpus for share in shares),
        max(share.num_gpus for share in shares),
        max(share.memory for share in shares),
    )


def smallest_share(shares: Sequence[Share]) -> Share:
    """What none of them has less of."""
    return Share(
        min(share.num_cpus for share in shares),
        min(share.num_gpus for share in shares),
        min(share.memory for share in shares),
    )
