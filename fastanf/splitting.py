"""Blocks made small enough: for the memory that is free, and for a number of lanes.

A group of lanes that could train together but does not fit is split into as few parts as do, as
even as possible; a lane's numbers do not depend on the part that it is in.
"""

import dataclasses
from collections.abc import Sequence

from fastanf.grouping import Block
from fastanf.memory import block_memory, mib_text


def split_blocks(
    blocks: Sequence[Block], available: int, lanes_per_block: int = 0
) -> tuple[Block, ...]:
    """The blocks with those that are too large in parts; lanes and parts keep their order.

    Args:
        blocks: of a study.
        available: bytes free on the device. Where not even single lanes fit, the parts are single
            lanes, which `Plan.check_memory` refuses.
        lanes_per_block: most lanes of a block; 0 for as many as fit.
    """
    return tuple(part for block in blocks for part in _parts(block, available, lanes_per_block))


def _parts(block: Block, available: int, lanes_per_block: int) -> list[Block]:
    num_lanes = len(block.lanes)
    fewest = -(-num_lanes // lanes_per_block) if lanes_per_block else 1
    number = _fewest_that_fit(block, fewest, available)
    if number == 1:
        return [block]
    if number > fewest:
        reason = (
            f"{num_lanes} lanes together need {mib_text(block_memory(block).total)}, and "
            f"{mib_text(available)} are free on {block.device}"
        )
    else:
        reason = f"at most {lanes_per_block} lanes in a block (--lanes_per_block)"
    return [
        dataclasses.replace(part, split=f"part {index} of {number}: {reason}")
        for index, part in enumerate(_even_parts(block, number), start=1)
    ]


def _fewest_that_fit(block: Block, fewest: int, available: int) -> int:
    """The smallest number of even parts that all fit, by bisection; single lanes if none does."""
    if all(_fits(part, available) for part in _even_parts(block, fewest)):
        return fewest
    too_few, enough = fewest, len(block.lanes)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if all(_fits(part, available) for part in _even_parts(block, middle)):
            enough = middle
        else:
            too_few = middle
    return enough


def _fits(block: Block, available: int) -> bool:
    return block_memory(block).total <= available


def _even_parts(block: Block, number: int) -> list[Block]:
    """The block in that many parts whose numbers of lanes differ by at most one."""
    if number == 1:
        return [block]
    size, larger = divmod(len(block.lanes), number)
    parts, start = [], 0
    for index in range(number):
        end = start + size + (index < larger)
        parts.append(Block(block.indices[start:end], block.lanes[start:end], block.device))
        start = end
    return parts
