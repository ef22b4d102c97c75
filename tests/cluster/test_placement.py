"""Blocks cut so that they fill a cluster: hand-checked cuts, limits, ends that come no later."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastanf.cluster.cost import Cost
from fastanf.cluster.fitting import fits_nowhere
from fastanf.cluster.placement import cut
from fastanf.cluster.resources import Node, block_share, host_bytes, slots
from fastanf.cluster.schedule import schedule
from fastanf.config import TrainConfig
from fastanf.grouping import Block, block_of, make_blocks
from fastanf.memory import block_memory, mib_text
from fastanf.presets import expand, lane_config
from fastanf.splitting import split_blocks

GIB = 2**30
ROUNDING = 1e-9
"""Relative; sums in another order."""
MASKED = {"layout": "masked"}


def lanes_of(*numbers: int) -> tuple[TrainConfig, ...]:
    """Lanes of as many groups; those of a group train together."""
    settings = [{**MASKED, "batch_size": 100 + group} for group in range(len(numbers))]
    configs = [lane_config("ANF-SAC", {**each, "replay_capacity": 1000}) for each in settings]
    return tuple(
        config.replace(seed=seed)
        for config, number in zip(configs, numbers, strict=True)
        for seed in range(number)
    )


def cpus(*numbers: int, memory: int = 1024 * GIB) -> list[Node]:
    return [Node(f"n{i}", f"10.0.0.{i}", number, 0, memory) for i, number in enumerate(numbers)]


def gpus(*numbers: int, memory: int = 1024 * GIB, gpu_memory: int = 80 * GIB) -> list[Node]:
    return [
        Node(f"g{i}", f"10.0.1.{i}", 8 * number, number, memory, gpu_memory, "NVIDIA H200")
        for i, number in enumerate(numbers)
    ]


def per_lane(fixed: float) -> Cost:
    return lambda block: fixed + len(block.lanes)


def sizes(parts: Sequence[Block]) -> list[int]:
    return [len(part.lanes) for part in parts]


# --- cuts -----------------------------------------------------------------------------------------


def test_one_block_is_cut_into_as_many_parts_as_there_are_devices() -> None:
    for device, nodes, unit in (("cpu", cpus(5, 3), "CPUs"), ("cuda", gpus(4, 4), "GPUs")):
        blocks = make_blocks(lanes_of(60), device)
        parts = cut(blocks, nodes, cost=per_lane(0.1))
        assert sizes(parts) == [8, 8, 8, 8, 7, 7, 7, 7]
        assert [part.split for part in parts[:2]] == [
            f"part {number} of 8: 60 lanes to fill 8 {unit}" for number in (1, 2)
        ]
        assert {part.device for part in parts} == {device}


def test_cpus_and_gpus_that_blocks_ask_for_make_the_slots() -> None:
    four = cut(make_blocks(lanes_of(8)), cpus(9, 8), cpus_per_block=4, cost=per_lane(0))
    assert (sizes(four), four[0].split) == ([2] * 4, "part 1 of 4: 8 lanes to fill 4 slots")
    half = cut(make_blocks(lanes_of(8), "cuda"), gpus(2), gpus_per_block=0.5, cost=per_lane(0))
    assert (sizes(half), half[0].split) == ([2] * 4, "part 1 of 4: 8 lanes to fill 4 slots")


def test_where_stacking_is_free_nothing_is_cut() -> None:
    blocks = make_blocks(lanes_of(6, 2))
    assert cut(blocks, cpus(8), cost=lambda block: 1.0) == blocks


def test_single_lanes_are_the_end() -> None:
    parts = cut(make_blocks(lanes_of(3, 2)), cpus(64), cost=per_lane(9))
    assert sizes(parts) == [1] * 5


def test_equal_blocks_are_all_cut_though_the_first_cut_alone_brings_nothing() -> None:
    # 4 | 4 | - is as late as 2 2 | 4 | -, and 2 2 | 2 | 2; the end is 3 with 2 1 | 2 1 | 2.
    blocks = make_blocks(lanes_of(4, 4))
    assert sizes(cut(blocks, cpus(3), cost=per_lane(0))) == [2, 1, 1, 2, 2]
    # With a fixed part of 2 those five take 7, and the two blocks 6.
    assert cut(blocks, cpus(3), cost=per_lane(2)) == blocks


def test_the_block_that_takes_longest_is_cut() -> None:
    parts = cut(make_blocks(lanes_of(2, 12, 4)), cpus(5), cost=per_lane(0.1))
    assert sizes(parts) == [2, 4, 4, 4, 4]
    assert [bool(part.split) for part in parts] == [False, True, True, True, False]


def test_a_single_lane_that_takes_longest_leaves_the_rest_as_it_is() -> None:
    blocks = make_blocks(lanes_of(1, 6, 6))
    long = blocks[0].config.algorithm.batch_size

    def cost(block: Block) -> float:
        return 20.0 if block.config.algorithm.batch_size == long else float(len(block.lanes))

    assert cut(blocks, cpus(2), cost=cost) == blocks
    assert cut(blocks, cpus(8), cost=cost) == blocks


@pytest.mark.parametrize(
    ("fixed", "expected"), [(0, [2, 1, 1, 2]), (0.5, [2, 1, 1, 2]), (0.98, [4, 2]), (2, [4, 2])]
)
def test_more_parts_than_slots_must_gain_more_than_they_cost(
    fixed: float, expected: list[int]
) -> None:
    # 4 | 2 takes 4, 2 1 | 2 1 takes 3, with two fixed parts instead of one.
    assert sizes(cut(make_blocks(lanes_of(4, 2)), cpus(2), cost=per_lane(fixed))) == expected


def test_lanes_per_block_is_a_limit_for_every_part() -> None:
    blocks = make_blocks(lanes_of(9, 2))
    parts = cut(blocks, cpus(1), lanes_per_block=4, cost=per_lane(1))
    assert sizes(parts) == [3, 3, 3, 2]
    assert parts == split_blocks(blocks, 1024 * GIB, 4)
    assert parts[0].split.endswith("at most 4 lanes in a block (--lanes_per_block)")


def test_nothing_to_train_and_nothing_to_train_on() -> None:
    assert cut([], cpus(2)) == ()
    assert sizes(cut(make_blocks(lanes_of(3)), [])) == [1, 1, 1]


def test_shares_that_no_block_can_have_are_refused() -> None:
    with pytest.raises(ValueError, match=r"gpus_per_block must be in \(0, 1\]"):
        cut(make_blocks(lanes_of(1), "cuda"), gpus(1), gpus_per_block=2.0)


# --- memory ---------------------------------------------------------------------------------------


def part_bytes(number: int, device: str, of: Callable[[Block], int]) -> int:
    return of(block_of(lanes_of(number), device))


def total_bytes(block: Block) -> int:
    return block_memory(block).total


def worker_bytes(block: Block) -> int:
    return host_bytes(block)


def test_parts_fit_the_smallest_gpu() -> None:
    three = part_bytes(3, "cuda", total_bytes)
    nodes = [*gpus(1, gpu_memory=three), *gpus(1)]
    parts = cut(make_blocks(lanes_of(12), "cuda"), nodes, cost=lambda block: 1.0)
    assert sizes(parts) == [3] * 4
    assert parts[0].split.endswith(f"and {mib_text(three)} are free on cuda")


def test_blocks_that_share_a_gpu_share_its_memory() -> None:
    nodes = gpus(1, gpu_memory=2 * part_bytes(3, "cuda", total_bytes))
    blocks = make_blocks(lanes_of(12), "cuda")
    assert sizes(cut(blocks, nodes, gpus_per_block=0.5, cost=lambda block: 1.0)) == [3] * 4


def test_parts_fit_the_host_beside_each_other_too() -> None:
    two = part_bytes(2, "cuda", worker_bytes)
    parts = cut(make_blocks(lanes_of(6), "cuda"), gpus(2, memory=2 * two), cost=lambda block: 1.0)
    assert sizes(parts) == [2] * 3
    assert parts[0].split.endswith(f"of the host, which has {mib_text(two)} for each block")


def test_memory_of_a_node_is_divided_by_the_blocks_that_it_holds() -> None:
    three = part_bytes(3, "cpu", worker_bytes)
    blocks = make_blocks(lanes_of(12))
    assert sizes(cut(blocks, cpus(4, memory=4 * three), cost=lambda block: 1.0)) == [3] * 4
    assert sizes(cut(blocks, cpus(1, memory=4 * three), cost=lambda block: 1.0))[0] > 3


def test_a_node_without_room_for_a_lane_is_left_out() -> None:
    tiny = gpus(1, gpu_memory=part_bytes(1, "cuda", total_bytes) - 1)
    parts = cut(make_blocks(lanes_of(12), "cuda"), [*tiny, *gpus(3)], cost=per_lane(0))
    assert sizes(parts) == [4] * 3


def test_a_node_with_less_memory_than_its_cpus_need_holds_fewer_blocks() -> None:
    lane = part_bytes(1, "cpu", worker_bytes)
    nodes = cpus(8, memory=2 * lane + lane // 2)
    parts = cut(make_blocks(lanes_of(4)), nodes, cost=per_lane(1))
    assert parts[0].split.startswith("part 1 of ")
    assert all(total_bytes(part) <= nodes[0].memory // 2 for part in parts)


def test_lanes_that_fit_nowhere_are_single_and_refused() -> None:
    nodes = cpus(2, memory=GIB // 64)
    parts = cut(make_blocks(lanes_of(3)), nodes)
    assert sizes(parts) == [1, 1, 1]
    assert fits_nowhere(parts[0], block_share(parts[0], nodes), nodes, 1)


def test_smaller_parts_that_would_not_fit_where_lanes_differ_are_made_smaller_still() -> None:
    # 399 lanes: twenty parts of 20 fit. Of 21 parts one has the 19 lanes that keep gradients for
    # connections to grow by, which two parts of 20 divide among them.
    small = {**MASKED, "replay_capacity": 1000, "batch_size": 4}
    light, heavy = (
        lane_config("TowS-SAC", {**small, "topology": topology}) for topology in ("set", "rigl")
    )
    lanes = [heavy if 190 <= index < 209 else light for index in range(399)]
    blocks = make_blocks(lanes, "cuda")
    room = max(total_bytes(block_of(lanes[start : start + 20], "cuda")) for start in (180, 200))
    assert total_bytes(block_of(lanes[190:209], "cuda")) > room
    assert len(split_blocks(blocks, room)) == 20
    parts = cut(blocks, gpus(22, gpu_memory=room), cost=per_lane(0))
    assert list(itertools.chain.from_iterable(part.lanes for part in parts)) == lanes
    assert sizes(parts) == [19] * 3 + [18] * 19
    assert all(total_bytes(part) <= room for part in parts)
    # With one GPU less they would wait for each other, and the end come later than with twenty.
    assert len(cut(blocks, gpus(21, gpu_memory=room), cost=per_lane(0))) == 20


# --- properties -----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.lists(st.integers(1, 13), min_size=1, max_size=4),
    node_cpus=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    lanes_per_block=st.integers(0, 6),
    room=st.integers(1, 12),
    fixed=st.sampled_from([0.0, 0.3, 2.0, 30.0]),
)
def test_all_lanes_in_order_within_the_limits_and_never_later_than_uncut(
    numbers: list[int],
    node_cpus: list[int],
    lanes_per_block: int,
    room: int,
    fixed: float,
) -> None:
    lane = part_bytes(1, "cpu", worker_bytes)
    nodes = cpus(*node_cpus, memory=room * lane)
    blocks = make_blocks(lanes_of(*numbers))
    cost = per_lane(fixed)
    parts = cut(blocks, nodes, lanes_per_block=lanes_per_block, cost=cost)
    lanes = lanes_of(*numbers)
    assert tuple(itertools.chain.from_iterable(part.lanes for part in parts)) == lanes
    indices = tuple(itertools.chain.from_iterable(part.indices for part in parts))
    assert indices == tuple(range(len(lanes)))
    assert not lanes_per_block or max(sizes(parts)) <= lanes_per_block
    if not any(node_cpus):
        return
    shares = [block_share(part, nodes) for part in parts]
    assert all(sum(slots(nodes, share)) for share in shares)
    uncut = cut(blocks, nodes, lanes_per_block=lanes_per_block, cost=lambda block: 1.0)
    num_slots = sum(min(room, number) for number in node_cpus)
    ends = [schedule([cost(p) for p in each], num_slots).makespan_s for each in (parts, uncut)]
    assert ends[0] <= ends[1] * (1 + ROUNDING)
    assert len(parts) >= len(uncut)


def test_costs_that_differ_within_a_block_never_make_it_later_than_uncut() -> None:
    # By its first lanes, two parts are estimated to take half as long; in truth the last lane
    # takes all the time, and the fixed part is spent twice on the same slot.
    lanes = lanes_of(4, 1)
    last = lanes[3]

    def cost(block: Block) -> float:
        return 10.0 * (last in block.lanes) + 1.0 * len(block.lanes) + 5.0

    blocks = make_blocks(lanes)
    for number in (1, 2, 3, 4):
        found = cut(blocks, cpus(number), cost=cost)
        ends = [schedule([cost(p) for p in each], number).makespan_s for each in (found, blocks)]
        assert ends[0] <= ends[1]
    assert cut(blocks, cpus(1), cost=cost) == blocks


def test_two_thousand_lanes_fill_a_thousand_slots_without_asking_for_costs_over_and_over() -> None:
    asked: Counter[int] = Counter()

    def cost(block: Block) -> float:
        asked[len(block.lanes)] += 1
        return 1.0 + len(block.lanes)

    blocks = make_blocks(lanes_of(2000))
    parts = cut(blocks, cpus(*[100] * 10, memory=2**50), cost=cost)
    assert Counter(sizes(parts)) == {2: 1000}
    assert parts[999].split == "part 1000 of 1000: 2000 lanes to fill 1000 CPUs"
    assert asked.pop(2) == 1 + 1000  # of that size, and of the parts found
    assert asked.pop(2000) == 2  # and of the block as it was
    assert set(asked.values()) == {1}


def test_by_default_every_device_has_a_block_and_none_has_more() -> None:
    lanes = expand(["ANF-SAC"], num_seeds=64, overrides=MASKED).lanes
    for device, nodes in (("cpu", cpus(16)), ("cuda", gpus(8, 8))):
        assert sizes(cut(make_blocks(lanes, device), nodes)) == [4] * 16
