"""Blocks cut so that they fill the devices of a cluster.

A group of lanes that could train together is cut as memory and --lanes_per_block force it, and
further where that is estimated to bring the end of the last block forward. A lane's numbers do not
depend on the part that it is in.
"""

import dataclasses
import heapq
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastanf.cluster.cost import Cost, relative_cost
from fastanf.cluster.resources import (
    PROCESS_BYTES,
    Node,
    Share,
    block_share,
    gpu_bytes,
    host_bytes,
    is_on_gpu,
    slots,
)
from fastanf.cluster.schedule import makespan_s
from fastanf.grouping import Block
from fastanf.memory import block_memory, mib_text
from fastanf.splitting import split_blocks

_LEAST_GAIN = 0.01
"""What a cut must bring where all devices have a block: one more has a start and an end of its own,
which costs leave out."""


def cut(
    blocks: Sequence[Block],
    nodes: Sequence[Node],
    *,
    cpus_per_block: int | None = None,
    gpus_per_block: float | None = None,
    lanes_per_block: int = 0,
    cost: Cost = relative_cost,
) -> tuple[Block, ...]:
    """The blocks in parts that fill the devices; lanes and parts keep their order.

    At first every block is in as few parts as memory and `lanes_per_block` allow. Then the one
    whose parts take longest is cut into one part more, again and again until no cut can bring the
    end forward any more, or all lanes stand alone; the earliest end that was met on the way
    decides, and of those the fewest parts. To find it, the lanes of a block are taken to cost
    alike; by the true costs of all parts, the end is never later than without these cuts.

    Args:
        blocks: of a study, grouped by their static settings.
        nodes: of the cluster. A part is made to fit beside others on all that have room for a lane
            of it; where none has, the parts are single lanes, which `fits_nowhere` refuses.
        cpus_per_block, gpus_per_block: as in `block_share`.
        lanes_per_block: most lanes of a block; 0 for as many as fit.
        cost: of a block.

    Raises:
        ValueError: a share that no block can have.
    """
    shares = [block_share(block, nodes, cpus_per_block, gpus_per_block) for block in blocks]
    rooms = [_room(block, nodes, share) for block, share in zip(blocks, shares, strict=True)]
    groups = [
        _Group(block, room, _forced(block, room, lanes_per_block), cost)
        for block, room in zip(blocks, rooms, strict=True)
    ]
    forced = _flat([group.forced for group in groups])
    # Blocks that need little room count, so that none of the nodes is left idle.
    num_slots = sum(max(column) for column in zip(*(room.slots for room in rooms), strict=True))
    if not num_slots:
        return forced
    aim = f"to fill {num_slots} {_unit(blocks[0], shares[0])}"
    numbers = _best_numbers(groups, num_slots)
    found = _flat([group.parts(n, aim) for group, n in zip(groups, numbers, strict=True)])

    def end(parts: Sequence[Block]) -> float:
        return makespan_s([(cost(part), 1) for part in parts], num_slots, math.inf)

    return min(found, forced, key=end)


def _flat(parts: Sequence[Sequence[Block]]) -> tuple[Block, ...]:
    return tuple(part for group in parts for part in group)


def _unit(block: Block, share: Share) -> str:
    """What slots are."""
    if is_on_gpu(block):
        return "GPUs" if share.blocks_per_gpu == 1 else "slots"
    return "CPUs" if share.num_cpus == 1 else "slots"


# --- what memory forces ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Room:
    """What a part of a block may take, so that as many as have a device fit beside each other."""

    slots: tuple[int, ...]
    """Parts that each node holds at once."""
    host: int
    """Bytes of the host."""
    device: int
    """Bytes of the device."""

    def holds(self, part: Block) -> bool:
        """Whether the part fits, beside others like it."""
        return block_memory(part).total <= self.device and host_bytes(part) <= self.host


def _room(block: Block, nodes: Sequence[Node], share: Share) -> _Room:
    """Decided by the least node of those that hold a lane: fewer parts go beside each other there
    where not even single lanes would fit otherwise.
    """
    lane = Block(block.indices[:1], block.lanes[:1], block.device)
    needed = block_memory(lane).total
    on_gpu = is_on_gpu(block)
    numbers = slots(nodes, dataclasses.replace(share, memory=host_bytes(lane)))
    if on_gpu:
        fits = [gpu_bytes(node, share) >= needed for node in nodes]
        numbers = tuple(number * fit for number, fit in zip(numbers, fits, strict=True))
    held = [(node, number) for node, number in zip(nodes, numbers, strict=True) if number]
    host = min((node.memory // number for node, number in held), default=0)
    device = (
        min((gpu_bytes(node, share) for node, _ in held), default=0)
        if on_gpu
        else host - PROCESS_BYTES
    )
    return _Room(numbers, host, device)


def _forced(block: Block, room: _Room, lanes_per_block: int) -> tuple[Block, ...]:
    """The block in as few parts as fit and are no larger than asked for."""
    parts = split_blocks([block], room.device, lanes_per_block)
    if not is_on_gpu(block) or all(room.holds(part) for part in parts):
        return parts
    number = _fewest_that_fit(block, room, len(parts))
    reason = (
        f"{len(block.lanes)} lanes together need {mib_text(host_bytes(block))} of the host, which "
        f"has {mib_text(room.host)} for each block"
    )
    return tuple(_even_parts(block, number, reason))


def _fewest_that_fit(block: Block, room: _Room, at_least: int) -> int:
    """The fewest even parts that all fit; single lanes if none do."""
    number, num_lanes = at_least, len(block.lanes)
    while number < num_lanes and not all(room.holds(p) for p in _even_parts(block, number)):
        number += 1
    return number


def _even_parts(block: Block, number: int, reason: str = "") -> Iterator[Block]:
    """The block in that many parts whose numbers of lanes differ by at most one."""
    size, larger = divmod(len(block.lanes), number)
    for index in range(number):
        start = index * size + min(index, larger)
        end = start + size + (index < larger)
        yield Block(
            block.indices[start:end],
            block.lanes[start:end],
            block.device,
            f"part {index + 1} of {number}: {reason}",
        )


# --- what brings the end forward ------------------------------------------------------------------


class _Group:
    """Lanes that could train together, and what their parts cost."""

    def __init__(self, block: Block, room: _Room, forced: tuple[Block, ...], cost: Cost) -> None:
        self.forced = forced
        self.num_lanes = len(block.lanes)
        self._block, self._room, self._cost = block, room, cost
        self._costs: dict[int, float] = {}

    def classes(self, number: int) -> Counter[float]:
        """How many of so many parts cost how much."""
        size, larger = divmod(self.num_lanes, number)
        classes = Counter({self._cost_of(size): number - larger})
        if larger:
            classes[self._cost_of(size + 1)] += larger  # may cost the same
        return classes

    def longest(self, number: int) -> float:
        """The cost of the longest of so many parts."""
        return self._cost_of(-(-self.num_lanes // number))

    def _cost_of(self, num_lanes: int) -> float:
        if num_lanes not in self._costs:
            block = self._block
            first = Block(block.indices[:num_lanes], block.lanes[:num_lanes], block.device)
            self._costs[num_lanes] = self._cost(first)
        return self._costs[num_lanes]

    def parts(self, number: int, aim: str) -> tuple[Block, ...]:
        """So many parts, or a few more where lanes are so different that those would not fit."""
        if number == len(self.forced):
            return self.forced
        number = _fewest_that_fit(self._block, self._room, number)
        return tuple(_even_parts(self._block, number, f"{self.num_lanes} lanes {aim}"))


class _Cuts:
    """How many parts each group is in, and how long all of them take."""

    def __init__(self, groups: Sequence[_Group], num_slots: int) -> None:
        self.numbers = [len(group.forced) for group in groups]
        self.num_parts = sum(self.numbers)
        self._groups, self._num_slots = groups, num_slots
        self._classes: Counter[float] = Counter()
        for group, number in zip(groups, self.numbers, strict=True):
            self._classes.update(group.classes(number))
        self._total = sum(cost * number for cost, number in self._classes.items())
        self._longest_single = 0.0
        self._waiting: list[tuple[float, int]] = []
        for index in range(len(groups)):
            self._wait(index)

    def _wait(self, index: int) -> None:
        group, number = self._groups[index], self.numbers[index]
        if number < group.num_lanes:
            heapq.heappush(self._waiting, (-group.longest(number), index))
        else:
            self._longest_single = max(self._longest_single, group.longest(number))

    @property
    def are_over(self) -> bool:
        """Whether all lanes stand alone."""
        return not self._waiting

    @property
    def bound(self) -> float:
        """No end is earlier than this, of these parts or of smaller ones."""
        return max(self._total / self._num_slots, self._longest_single)

    def end(self, enough: float) -> float:
        """When the last part ends, or `enough` where that is no earlier."""
        if self.num_parts > self._num_slots:
            classes = [(cost, number) for cost, number in self._classes.items() if number]
            return makespan_s(classes, self._num_slots, enough)
        longest = -self._waiting[0][0] if self._waiting else 0.0
        return min(enough, max(longest, self._longest_single))

    def cut_longest(self) -> None:
        """One part more of the group with the longest ones."""
        _, index = heapq.heappop(self._waiting)
        group, number = self._groups[index], self.numbers[index]
        before, after = group.classes(number), group.classes(number + 1)
        self._classes.subtract(before)
        self._classes.update(after)
        self._total += sum(cost * number for cost, number in after.items())
        self._total -= sum(cost * number for cost, number in before.items())
        self.numbers[index] += 1
        self.num_parts += 1
        self._wait(index)


def _best_numbers(groups: Sequence[_Group], num_slots: int) -> list[int]:
    """The numbers of parts of all groups with the earliest end."""
    cuts = _Cuts(groups, num_slots)
    best, end = list(cuts.numbers), cuts.end(math.inf)
    while not cuts.are_over:
        is_full = cuts.num_parts >= num_slots
        enough = (1 - _LEAST_GAIN) * end if is_full else end
        if is_full and cuts.bound >= enough:
            break
        cuts.cut_longest()
        found = cuts.end(enough)
        if found < enough:
            best, end = list(cuts.numbers), found
    return best
