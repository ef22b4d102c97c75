"""What blocks ask for, how many go together, and what is said where one fits nowhere."""

import dataclasses

import pytest

from fastanf.cluster.fitting import fits_nowhere
from fastanf.cluster.resources import (
    PROCESS_BYTES,
    Node,
    Share,
    block_share,
    host_bytes,
    largest_share,
    slots,
)
from fastanf.grouping import Block, make_blocks
from fastanf.memory import MIB, block_memory, mib_text
from fastanf.presets import expand

GIB = 2**30
LANES = expand(["ANF-SAC"], num_seeds=6, overrides={"layout": "masked"}).lanes
(CPU_BLOCK,) = make_blocks(LANES, "cpu")
(GPU_BLOCK,) = make_blocks(LANES, "cuda")


def cpu_node(num_cpus: float, memory: int = 64 * GIB) -> Node:
    return Node("c", "10.0.0.1", num_cpus, 0, memory)


def gpu_node(
    num_cpus: float, num_gpus: float, memory: int = 64 * GIB, gpu_memory: int = 80 * GIB
) -> Node:
    return Node("g", "10.0.0.2", num_cpus, num_gpus, memory, gpu_memory, "NVIDIA H200")


def first(block: Block, number: int) -> Block:
    return Block(block.indices[:number], block.lanes[:number], block.device)


@pytest.mark.parametrize(
    ("cpus", "num_blocks", "expected"),
    [
        ((8,), None, 1),
        ((8,), 8, 1),
        ((8,), 20, 1),
        ((8,), 3, 2),
        ((8,), 1, 8),
        ((4, 4), 1, 4),  # never more than a node has
        ((3, 3, 3), 4, 1),  # of two CPUs each, only three go together
        ((3, 3, 3), 3, 3),
        ((0, 0), 1, 1),
    ],
)
def test_blocks_on_cpus_take_as_many_as_all_can_have(
    cpus: tuple[int, ...], num_blocks: int | None, expected: int
) -> None:
    nodes = [cpu_node(number) for number in cpus]
    share = block_share(CPU_BLOCK, nodes, num_blocks=num_blocks)
    assert share == Share(expected, 0, host_bytes(CPU_BLOCK))


def test_blocks_on_gpus_take_one_and_the_cpus_of_the_node_that_has_fewest_for_it() -> None:
    nodes = [gpu_node(64, 8), gpu_node(22, 4), cpu_node(1)]
    assert block_share(GPU_BLOCK, nodes) == Share(5, 1, host_bytes(GPU_BLOCK))
    half = block_share(GPU_BLOCK, nodes, None, 0.5)
    assert (half.num_cpus, half.num_gpus, half.blocks_per_gpu) == (2, 0.5, 2)
    assert block_share(GPU_BLOCK, [gpu_node(1, 8)]).num_cpus == 1


def test_what_is_asked_for_is_given() -> None:
    nodes = [gpu_node(64, 8)]
    assert block_share(CPU_BLOCK, nodes, 3, num_blocks=1).num_cpus == 3
    share = block_share(GPU_BLOCK, nodes, 3, 0.1)
    assert (share.num_cpus, share.num_gpus, share.blocks_per_gpu) == (3, 0.1, 10)


@pytest.mark.parametrize(
    ("block", "cpus", "gpus", "message"),
    [
        (GPU_BLOCK, None, 2.0, r"gpus_per_block must be in \(0, 1\], .*, got 2$"),
        (GPU_BLOCK, None, 0.0, r"gpus_per_block must be in \(0, 1\], .*, got 0$"),
        (CPU_BLOCK, None, 0.5, "gpus_per_block 0.5 goes with --device cuda, got --device cpu"),
        (CPU_BLOCK, 0, None, "cpus_per_block must be an integer of at least 1, got 0"),
    ],
)
def test_shares_that_no_block_can_have_are_refused(
    block: Block, cpus: int | None, gpus: float | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        block_share(block, [gpu_node(8, 1)], cpus, gpus)


@pytest.mark.parametrize(
    ("node", "share", "expected"),
    [
        (cpu_node(8), Share(1, 0, GIB), 8),
        (cpu_node(8), Share(3, 0, GIB), 2),
        (cpu_node(8, 5 * GIB), Share(1, 0, 2 * GIB), 2),
        (cpu_node(8), Share(1, 1, GIB), 0),
        (gpu_node(64, 8), Share(8, 1, GIB), 8),
        (gpu_node(64, 8), Share(1, 0.1, GIB), 64),
        (gpu_node(640, 8), Share(1, 0.1, GIB // 2), 80),
        (gpu_node(64, 8), Share(1, 0.4, GIB), 16),  # two on each, and 0.2 of it left
        (gpu_node(64, 8), Share(1, 0.7, GIB), 8),
        (gpu_node(64, 1.5), Share(1, 0.5, GIB), 3),
        (cpu_node(0.5), Share(1, 0, GIB), 0),
    ],
)
def test_a_node_holds_as_many_blocks_as_its_scarcest_allows(
    node: Node, share: Share, expected: int
) -> None:
    assert slots([node, cpu_node(0)], share) == (expected, 0)


def test_the_largest_share_is_enough_for_every_block() -> None:
    shares = [Share(1, 0.5, 30), Share(4, 0.25, 10)]
    assert largest_share(shares) == Share(4, 0.5, 30)


# --- blocks that fit nowhere ----------------------------------------------------------------------


def refusal(block: Block, nodes: list[Node], share: Share | None = None) -> str | None:
    return fits_nowhere(block, share or block_share(block, nodes), nodes, number=2)


def test_one_node_that_is_enough_is_enough() -> None:
    assert refusal(CPU_BLOCK, [cpu_node(0), cpu_node(1, 10), cpu_node(1)]) is None
    assert refusal(GPU_BLOCK, [cpu_node(9), gpu_node(1, 1)]) is None


def test_too_many_cpus_name_how_many_there_are() -> None:
    nodes = [cpu_node(4), cpu_node(2)]
    assert refusal(CPU_BLOCK, nodes, Share(8, 0, GIB)) == (
        "block 2 asks for 8 CPUs, and no node has more than 4: give --cpus_per_block 4 or less"
    )
    assert refusal(CPU_BLOCK, [cpu_node(0)], Share(1, 0, GIB)) == (
        "block 2 asks for 1 CPU, and no node has a whole one: start one with `ray start "
        "--num-cpus 1` or more"
    )
    assert refusal(GPU_BLOCK, [cpu_node(64), gpu_node(4, 1)], Share(8, 1, GIB)) == (
        "block 2 asks for 8 CPUs, and no node with such a GPU has more than 4: give "
        "--cpus_per_block 4 or less"
    )


def test_a_gpu_that_is_not_there_is_named() -> None:
    assert refusal(GPU_BLOCK, [cpu_node(64)]) == (
        "block 2 asks for 1 GPU, and no node has one: give --device cpu, or start one that has"
    )
    assert refusal(GPU_BLOCK, [gpu_node(64, 0.5)]) == (
        "block 2 asks for 1 GPU, and no node has more than 0.5: give --gpus_per_block 0.5 or less"
    )
    assert refusal(CPU_BLOCK, []) == ("block 2 has no node to train on: start one with `ray start`")


def test_too_little_memory_of_the_host_names_the_lanes_that_fit() -> None:
    four = host_bytes(first(CPU_BLOCK, 4))
    assert refusal(CPU_BLOCK, [cpu_node(4, four), cpu_node(4, 10)]) == (
        f"block 2 with 6 lanes takes {mib_text(host_bytes(CPU_BLOCK))} of its host, and no "
        f"node has more than {mib_text(four)} for it: give --lanes_per_block 4 or less"
    )


def test_too_little_memory_for_a_lane_names_a_replay_that_fits() -> None:
    lane = first(CPU_BLOCK, 1)
    message = refusal(lane, [cpu_node(4, 300 * MIB + PROCESS_BYTES)]) or ""
    assert "block 2 with 1 lane takes " in message
    capacity = int(message.split("--replay_capacity ")[1].split()[0])
    assert block_memory(lane, capacity).total <= 300 * MIB < block_memory(lane).total
    nothing = refusal(lane, [cpu_node(4, MIB)]) or ""
    assert nothing.endswith("give smaller networks (--hidden, --noise_fraction)")


def test_too_little_memory_of_a_gpu_names_the_lanes_that_fit() -> None:
    needed, three = block_memory(GPU_BLOCK).total, block_memory(first(GPU_BLOCK, 3)).total
    nodes = [gpu_node(8, 1, gpu_memory=three)]
    start = f"block 2 with 6 lanes takes {mib_text(needed)} of a GPU, and none has more than "
    assert refusal(GPU_BLOCK, nodes) == (
        f"{start}{mib_text(three)} for it: give --lanes_per_block 3 or less"
    )
    shared = [gpu_node(8, 1, gpu_memory=2 * three), cpu_node(4)]
    assert refusal(GPU_BLOCK, shared, Share(1, 0.5, GIB)) == (
        f"{start}{mib_text(three)} for it: give a larger --gpus_per_block, or --lanes_per_block 3 "
        "or less"
    )


def test_a_host_too_small_beside_a_gpu_names_what_lives_there() -> None:
    lane = first(GPU_BLOCK, 1)
    share = dataclasses.replace(block_share(lane, [gpu_node(8, 1)]), num_cpus=1)
    message = fits_nowhere(lane, share, [gpu_node(8, 1, memory=MIB)], number=1) or ""
    assert message.endswith(
        "of its host, and no node with such a GPU has more than 1.0 MiB for it: give smaller "
        "--envs_per_lane or --eval_episodes"
    )
