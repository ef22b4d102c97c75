"""The placement as it is read, word for word."""

from fastanf.cluster.placement_text import placement_text
from fastanf.cluster.resources import Node, Share
from fastanf.grouping import Block, make_blocks
from fastanf.presets import expand

MIB, GIB = 2**20, 2**30
CPU_NODES = [
    Node("small", "10.0.0.1", 1, 0, 4 * GIB),
    Node("0123456789abcdef" * 3, "10.0.0.2", 2, 0, 8 * GIB),
]
TASKS = make_blocks(
    expand(
        ["SAC", "ANF-SAC"],
        num_seeds=2,
        overrides={"layout": "masked"},
        envs=["Hopper-v3", "Ant-v3", "Hopper-v4", "Ant-v4"],
    ).lanes
)
SHARES = [Share(1, 0, 512 * MIB)] * 4


def last_line(text: str) -> str:
    return text.splitlines()[-1]


def test_devices_blocks_and_the_estimated_end() -> None:
    text = placement_text(TASKS, SHARES, CPU_NODES, [60.0, 5400.0, 7200.0, 3600.0])
    assert text.splitlines() == [
        "cluster: 2 nodes, 3 CPUs, 0 GPUs",
        "  node          host      CPUs  GPUs       memory",
        "  small         10.0.0.1     1  0     4,096.0 MiB",
        "  0123456789ab  10.0.0.2     2  0     8,192.0 MiB",
        "",
        "placement: 16 lanes in 4 blocks",
        "  block  lanes  trains                               asks for          node          "
        "duration",
        "      1      4  SAC, ANF-SAC on Hopper-v3 (envpool)  1 CPU, 512.0 MiB  0123456789ab  "
        "1 min 00 s",
        "      2      4  SAC, ANF-SAC on Ant-v3 (envpool)     1 CPU, 512.0 MiB  0123456789ab  "
        "1 h 30 min",
        "      3      4  SAC, ANF-SAC on Hopper-v4 (envpool)  1 CPU, 512.0 MiB  small         "
        "2 h 00 min",
        "      4      4  SAC, ANF-SAC on Ant-v4 (envpool)     1 CPU, 512.0 MiB  0123456789ab  "
        "1 h 00 min",
        "",
        # 7200 | 5400 | 3600 + 60 of 3 x 7200 s
        "estimate: 2 h 00 min with 3 of 3 slots, 75% busy; longest block 2 h 00 min",
    ]


def test_gpus_are_named_with_their_memory() -> None:
    node = Node("g", "10.0.0.3", 16, 2, 64 * GIB, 80 * GIB, "NVIDIA H200")
    (block,) = make_blocks(expand(["SAC"]).lanes, "cuda")
    text = placement_text([block], [Share(8, 0.5, GIB)], [node], [30.0])
    assert "cluster: 1 node, 16 CPUs, 2 GPUs\n" in text
    assert "  g     10.0.0.3    16  2 x NVIDIA H200, 81,920.0 MiB  65,536.0 MiB\n" in text
    assert "SAC on HalfCheetah-v3 (envpool)  8 CPUs, 0.5 GPU, 1,024.0 MiB  g     30 s\n" in text
    # 16 CPUs are enough for two blocks of 8.
    assert last_line(text) == "estimate: 30 s with 1 of 2 slots, 50% busy; longest block 30 s"


def test_unknown_durations_are_said_and_the_order_is_by_cost() -> None:
    def cost(block: Block) -> float:
        return 2.0 if block is TASKS[3] else 1.0

    text = placement_text(TASKS, SHARES, CPU_NODES, [60.0, None, None, 9.0], cost=cost)
    rows = [line.split() for line in text.splitlines() if "envpool" in line]
    assert [row[-1] for row in rows[1:3]] == ["?", "?"]
    assert rows[3][-3:] == ["small", "9", "s"]  # the longest goes to the first slot
    assert last_line(text) == (
        "estimate: none, because the speed of 2 of 4 blocks is not known; 3 of 3 slots have work"
    )


def test_memory_of_the_largest_block_decides_how_many_go_together() -> None:
    shares = [*SHARES[:3], Share(1, 0, 5 * GIB)]
    text = placement_text(TASKS, shares, CPU_NODES, [10.0] * 4)
    assert last_line(text) == "estimate: 40 s with 1 of 1 slot, 100% busy; longest block 10 s"


def test_blocks_that_fit_nowhere_are_named() -> None:
    shares = [*SHARES[:3], Share(8, 0, GIB)]
    lines = placement_text(TASKS, shares, CPU_NODES, [10.0] * 4).splitlines()
    assert lines[-2:] == [
        "block 4 asks for 8 CPUs, and no node has more than 2: give --cpus_per_block 2 or less",
        "estimate: none, because not every block has a node to go to",
    ]
    assert lines[7].split()[-3:] == ["-", "10", "s"]
