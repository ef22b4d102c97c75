"""A Ray cluster as the place where the blocks of a study train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastanf.cluster.fitting import fits_nowhere
from fastanf.cluster.placement import cut
from fastanf.cluster.resources import Node, Share, block_share, slots, smallest_share
from fastanf.disk import make_disk_plan
from fastanf.grouping import Block
from fastanf.plan import Plan, make_plan
from fastanf.settings import RunConfig


@dataclass(frozen=True)
class ClusterSite:
    """Blocks train at the same time on nodes."""

    nodes: Sequence[Node]
    cpus_per_block: int | None = None
    """None for as many as there are for each."""
    gpus_per_block: float | None = None
    """None for a whole one."""
    has_store: bool = False
    """Whether checkpoints are kept elsewhere than in the run folder."""

    def device_for(self, run: RunConfig) -> str:
        """As `Site.device_for`. Of several GPUs, Ray gives each block one, which is its only one.

        Raises:
            ValueError: there is no such device.
        """
        has_gpu = any(node.num_gpus for node in self.nodes)
        if run.device == "auto":
            return "cuda" if has_gpu else "cpu"
        allowed = ["auto", "cpu"] + ["cuda"] * has_gpu
        if run.device not in allowed:
            raise ValueError(
                f"device must be one of {', '.join(allowed)} with --ray on these nodes, got "
                f"{run.device!r}"
            )
        return run.device

    def shares(self, blocks: Sequence[Block]) -> list[Share]:
        """What each of the blocks asks for."""
        return [
            block_share(
                block, self.nodes, self.cpus_per_block, self.gpus_per_block, num_blocks=len(blocks)
            )
            for block in blocks
        ]

    def num_at_once(self, shares: Sequence[Share]) -> int:
        """Blocks of such shares that may train at the same time, the smallest of them: no more
        than these, and at least 1.
        """
        if not shares:
            return 1
        return max(1, min(len(shares), sum(slots(self.nodes, smallest_share(shares)))))

    def cut(self, blocks: Sequence[Block], run: RunConfig) -> tuple[Block, ...]:
        """As `Site.cut`: they fill the devices there are."""
        return cut(
            blocks,
            self.nodes,
            cpus_per_block=self.cpus_per_block,
            gpus_per_block=self.gpus_per_block,
            lanes_per_block=run.lanes_per_block,
        )

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
        """As `Site.plan`.

        Raises:
            ValueError: a block that fits onto no node; one line says what to type.
        """
        shares = self.shares(blocks)
        for number, (block, share) in enumerate(zip(blocks, shares, strict=True), start=1):
            problem = fits_nowhere(block, share, self.nodes, number)
            if problem:
                raise ValueError(problem)
        device, disk = self.device_for(run), None
        if not self.has_store:
            at_once = self.num_at_once(shares)
            disk = make_disk_plan(blocks, run, run.run_dir or "", standing_blocks, at_once)
        on_gpu = device.startswith("cuda")
        return make_plan(
            blocks,
            device,
            max((node.gpu_memory if on_gpu else node.memory for node in self.nodes), default=0),
            notes,
            num_fixed=num_fixed,
            num_trained=num_trained,
            disk=disk,
        )
