"""Where the blocks of a study are going to train: what there is, and how they are cut for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fastanf import memory
from fastanf.disk import make_disk_plan
from fastanf.grouping import Block
from fastanf.plan import Plan, make_plan
from fastanf.settings import RunConfig
from fastanf.splitting import split_blocks


class Site(Protocol):
    """One machine, or many."""

    def device_for(self, run: RunConfig) -> str:
        """What `--device` stands for there: cpu, cuda or cuda:N.

        Raises:
            ValueError: there is no such device.
        """
        ...

    def cut(self, blocks: Sequence[Block], run: RunConfig) -> tuple[Block, ...]:
        """Blocks made small enough for what there is.

        Args:
            blocks: of a study, grouped by their static settings.
            run: settings of the command.
        """
        ...

    def plan(
        self,
        blocks: Sequence[Block],
        run: RunConfig,
        notes: Sequence[str],
        *,
        num_fixed: int,
        num_trained: int,
        standing_blocks: Sequence[int] | None,
    ) -> Plan:
        """The plan of blocks that are cut; args as `make_plan` and `make_disk_plan`."""
        ...


class ThisMachine:
    """Blocks train one after the other in this process."""

    def device_for(self, run: RunConfig) -> str:
        """As `Site.device_for`."""
        return memory.resolve_device(run.device)

    def cut(self, blocks: Sequence[Block], run: RunConfig) -> tuple[Block, ...]:
        """As `Site.cut`."""
        available = memory.available_bytes(self.device_for(run))
        return split_blocks(blocks, available, run.lanes_per_block)

    def plan(
        self,
        blocks: Sequence[Block],
        run: RunConfig,
        notes: Sequence[str],
        *,
        num_fixed: int,
        num_trained: int,
        standing_blocks: Sequence[int] | None,
    ) -> Plan:
        """As `Site.plan`."""
        device = self.device_for(run)
        return make_plan(
            blocks,
            device,
            memory.available_bytes(device),
            notes,
            num_fixed=num_fixed,
            num_trained=num_trained,
            host_available=memory.host_beside(device),
            address_space=memory.addresses_left(device),
            disk=make_disk_plan(blocks, run, run.run_dir or "", standing_blocks),
        )
