"""Whether a run that stands in a folder still fits into the memory and onto the disk, before any
of it goes on.
"""

from collections.abc import Sequence
from pathlib import Path

from fastanf import memory
from fastanf.checkpoint import block_path, newest_checkpoint
from fastanf.config import TrainConfig
from fastanf.disk import make_disk_plan
from fastanf.grouping import block_of
from fastanf.plan import Plan, make_plan
from fastanf.settings import RunConfig


def check_limits(
    blocks: Sequence[Sequence[TrainConfig]], run: RunConfig, run_dir: str | Path
) -> None:
    """Refuse to go on with a run whose unfinished blocks do not fit here any more.

    Args:
        blocks: all blocks of the run, in the order of their numbers; they stay as they are.
        run: settings of the command.
        run_dir: its folder.

    Raises:
        ValueError: what is too small, in one line; or a device that is not there, or a simulator
            that cannot run on it.
    """
    remaining_plan(blocks, run, run_dir).check()


def remaining_plan(
    blocks: Sequence[Sequence[TrainConfig]], run: RunConfig, run_dir: str | Path
) -> Plan:
    """The plan of a run's unfinished blocks. Args and raises as `check_limits`."""
    device = memory.resolve_device(run.device)
    numbers = [n for n in range(len(blocks)) if not is_finished(run_dir, n)]
    unfinished = [block_of(blocks[number], device) for number in numbers]
    return make_plan(
        unfinished,
        device,
        memory.available_bytes(device),
        num_fixed=len(unfinished),
        num_trained=sum(len(block) for block in blocks) - sum(len(b.lanes) for b in unfinished),
        host_available=memory.host_beside(device),
        address_space=memory.addresses_left(device),
        disk=make_disk_plan(unfinished, run, run_dir, numbers),
    )


def is_finished(run_dir: str | Path, number: int) -> bool:
    """Whether a block needs nothing any more; one with a damaged checkpoint does, if anything.

    Args:
        run_dir: of the run.
        number: of the block, from 0.
    """
    try:
        checkpoint = newest_checkpoint(block_path(run_dir, number))
    except ValueError:  # who reads it to go on says what is wrong
        return False
    return checkpoint is not None and checkpoint.state.get("is_finished") is True
