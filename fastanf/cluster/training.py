"""Trains the blocks of a run on a Ray cluster: a `Trainer` of runner.py."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from fastanf.block_progress import BlockProgress
from fastanf.block_run import Refused, value_errors_refuse
from fastanf.checkpoint import block_path, newest_checkpoint
from fastanf.cluster.connection import cluster_nodes
from fastanf.cluster.cost import relative_cost
from fastanf.cluster.crew import Crew
from fastanf.cluster.desk import Store
from fastanf.cluster.driver import Assignment, Driver
from fastanf.cluster.resources import slots
from fastanf.cluster.site import ClusterSite
from fastanf.cluster.url_lock import LockLost
from fastanf.grouping import Block, block_of
from fastanf.limits import is_finished
from fastanf.progress import Progress
from fastanf.progress_text import spans
from fastanf.records import RunFolder
from fastanf.rows import read_evaluations, read_quarantine
from fastanf.runner import Blocks, lane_numbers
from fastanf.settings import RunConfig
from fastanf.stopping import StopSignals

PUBLISH_S = 60.0
"""Between two copies of the records to where others read them."""
RENEW_S = 30.0
"""Between two signs of life in the store; others take a run over after several times as long."""
LOOK_S = 30.0
"""Between two looks at whether what waits for room can still be placed."""


class RemoteStore(Store, Protocol):
    """Where a run is kept beyond the driver's own disk."""

    url: str

    def publish(self, folder: Path) -> None:
        """Copy the records that have changed."""

    def renew(self) -> None:
        """Say that this driver still trains the run."""


class RayTrainer:
    """Trains on what is there, and on what comes.

    Args:
        site: the nodes as they were, and each block's share of them.
        store: of the run; None where all machines share its folder.
        crew: of the workers; None for Ray's.
    """

    def __init__(
        self, site: ClusterSite, store: RemoteStore | None = None, crew: Crew | None = None
    ) -> None:
        if crew is None:
            from fastanf.cluster.ray_crew import RayCrew

            crew = RayCrew()
        self.site, self.store, self.crew = site, store, crew

    def __call__(
        self,
        folder: RunFolder,
        run: RunConfig,
        blocks: Blocks,
        progress: Progress,
        stop: StopSignals,
    ) -> int:
        """As `Trainer`."""
        numbers = lane_numbers(blocks)
        with value_errors_refuse():
            are_finished = [is_finished(folder.path, index) for index in range(len(blocks))]
            num_stopped = _show_finished(folder, blocks, are_finished, progress)
            left = [index for index, is_over in enumerate(are_finished) if not is_over]
            assignments = self._assignments(run, blocks, numbers, left)
        run_dir = str(Path(folder.path).resolve())
        if self.store is not None:
            run_dir = self.store.url
            with value_errors_refuse():
                self.store.publish(folder.path)
        planned = {each.index: block for each, block in assignments}
        with _Upkeep(self.store, folder, planned, progress) as upkeep:
            driver = Driver(
                folder,
                dataclasses.replace(run, run_dir=run_dir, device=self.site.device_for(run)),
                [each for each, _ in assignments],
                self.crew,
                progress,
                stop,
                self.store,
                upkeep.look,
                shows_hosts=len({node.host for node in self.site.nodes}) > 1,
            )
            return num_stopped + driver.train()

    def _assignments(
        self, run: RunConfig, blocks: Blocks, numbers: Sequence[range], left: Sequence[int]
    ) -> list[tuple[Assignment, Block]]:
        """The longest first: no other order is known to end earlier."""
        device = self.site.device_for(run)
        planned = [block_of(blocks[index], device) for index in left]
        shares = self.site.shares(planned)
        found = [
            (Assignment(index, tuple(blocks[index]), numbers[index], share), block)
            for index, block, share in zip(left, planned, shares, strict=True)
        ]
        return sorted(found, key=lambda pair: -relative_cost(pair[1]))


def _show_finished(
    folder: RunFolder, blocks: Blocks, are_finished: Sequence[bool], progress: Progress
) -> int:
    """Check and show the blocks that need nothing any more.

    Returns:
        How many of their lanes are stopped.
    """
    shown: dict[int, BlockProgress] = {}
    for index, lanes in enumerate(lane_numbers(blocks)):
        if are_finished[index]:
            saved = newest_checkpoint(block_path(folder.path, index))
            assert saved is not None  # it says so
            last_step = saved.state["step"] * blocks[index][0].task.envs_per_lane
            folder.check_seals(saved.state["seals"], lanes, last_step)
            shown |= dict.fromkeys(lanes, progress.block(lanes))
    for row in read_evaluations(folder.path):
        if row.lane in shown:
            shown[row.lane].restore(row.lane, row.step, row.return_mean)
    stopped = [row for row in read_quarantine(folder.path) if row.lane in shown]
    for row in stopped:
        shown[row.lane].restore_stopped(row.lane, row.step, row.cause)
    return len(stopped)


class _Job:
    """Something that is done again and again in a thread of its own, however long it takes.

    Args:
        action: what.
        period_s: between two beginnings, at least.
    """

    def __init__(self, action: Callable[[], None], period_s: float) -> None:
        self._action, self._period_s = action, period_s
        self._due_at: float | None = None
        self._thread: threading.Thread | None = None
        self._trouble: Exception | None = None

    def go_on(self, now: float) -> Exception | None:
        """Begin where it is due.

        Returns:
            What went wrong since the last call.
        """
        trouble, self._trouble = self._trouble, None
        is_busy = self._thread is not None and self._thread.is_alive()
        if not is_busy and (self._due_at is None or now >= self._due_at):
            self._due_at = now + self._period_s
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return trouble

    def wait(self) -> None:
        """Until it is not being done."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._action()
        except Exception as error:
            self._trouble = error


class _Upkeep:
    """What the driver does beside: copies records for readers, and says what waits in vain."""

    def __init__(
        self,
        store: RemoteStore | None,
        folder: RunFolder,
        blocks: Mapping[int, Block],
        progress: Progress,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._progress = progress
        self._blocks, self._clock = blocks, clock
        self._look_at = clock()
        self._jobs = []
        if store is not None:
            self._jobs = [
                _Job(store.renew, RENEW_S),
                _Job(lambda: store.publish(folder.path), PUBLISH_S),
            ]
        self._said: set[int] = set()

    def __enter__(self) -> _Upkeep:
        return self

    def __exit__(self, *_: object) -> None:
        for job in self._jobs:
            job.wait()

    def look(self, waiting: Sequence[Assignment]) -> None:
        """Do what is due; never waits long.

        Args:
            waiting: blocks whose workers have said nothing yet.
        """
        now = self._clock()
        for job in self._jobs:
            self._say_trouble(job.go_on(now))
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            self._look_for_room(waiting)

    def _say_trouble(self, trouble: Exception | None) -> None:
        """Of a job.

        Raises:
            Exception: another driver has taken the run, or it was no trouble of the store.
        """
        if isinstance(trouble, LockLost):
            raise Refused(str(trouble)) from trouble
        if isinstance(trouble, OSError):
            self._progress.note(f"the records are not copied now: {trouble.strerror or trouble}")
        elif trouble is not None:
            raise trouble

    def _look_for_room(self, waiting: Sequence[Assignment]) -> None:
        """Say once of a block that no node there is could ever take it."""
        nodes = cluster_nodes(with_gpus=False) if waiting else []
        for each in waiting:
            if each.index not in self._said and not any(slots(nodes, each.share)):
                self._said.add(each.index)
                self._progress.note(
                    f"lanes {spans(each.lanes)} wait until a node has {each.share.text} for them: "
                    "none that is there could ever have"
                )
