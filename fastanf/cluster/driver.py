"""Trains the blocks of a run at the same time, in workers wherever there is room for them.

This process alone writes the run folder and commits checkpoints. A worker that is lost costs what
its block did since its last checkpoint: another worker goes on from there, to the same end.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastanf.block_records import FolderRecords
from fastanf.block_run import Refused
from fastanf.cluster.crew import Crew, Hand, Lost
from fastanf.cluster.desk import Desk, Store
from fastanf.cluster.resources import Share
from fastanf.cluster.worker import BROKEN, FINISHED, INTERRUPTED, BlockTask
from fastanf.config import TrainConfig
from fastanf.progress import Progress
from fastanf.progress_text import spans
from fastanf.provenance import start
from fastanf.records import RunFolder
from fastanf.run_manifest import check_lanes, lanes_entry
from fastanf.settings import RunConfig
from fastanf.stopping import Interrupted, StopSignals

log = logging.getLogger(__name__)

MOST_LOSSES = 5
"""Workers of one block that may be lost one after the other without anything new from any."""
MOST_BREAKS = 2
"""Likewise of workers that ended with an error: a machine may be at fault once."""
LISTEN_S = 0.25


@dataclass(frozen=True)
class Assignment:
    """A block that is to be trained."""

    index: int
    """Of the block in the run."""
    configs: tuple[TrainConfig, ...]
    lanes: range
    """Their numbers in the run."""
    share: Share
    """What its worker asks for."""


class Driver:
    """Trains what is assigned.

    Args:
        folder: of the run.
        run: settings of the command; `run_dir` is where every machine finds the checkpoints.
        assignments: the blocks.
        crew: of the workers.
        progress: shows the run.
        stop: asked again and again.
        store: beyond the run folder; None where the run folder is all there is.
        regularly: called a few times a second, with the blocks whose workers have said nothing yet.
        shows_hosts: whether lines about a block say where it trains.
    """

    def __init__(
        self,
        folder: RunFolder,
        run: RunConfig,
        assignments: Sequence[Assignment],
        crew: Crew,
        progress: Progress,
        stop: StopSignals,
        store: Store | None = None,
        regularly: Callable[[Sequence[Assignment]], None] = lambda waiting: None,
        *,
        shows_hosts: bool = False,
    ) -> None:
        self.folder, self.run, self.crew, self.progress = folder, run, crew, progress
        self.stop, self.regularly = stop, regularly
        self.assignments = list(assignments)
        self.desks = [
            Desk(
                each.index,
                FolderRecords(folder, each.lanes),
                progress.block(each.lanes),
                store,
                shows_hosts,
            )
            for each in assignments
        ]
        self._code = start()
        self._lanes_entry = lanes_entry(check_lanes(folder.path, folder.manifest))
        self._working: dict[Hand, int] = {}
        self._losses = [0] * len(self.assignments)
        self._breaks = [0] * len(self.assignments)
        self._without_worker: list[int] = []
        self._num_finished = self._num_stopped = 0
        self._failures: list[str] = []

    def train(self) -> int:
        """Train every block to its end.

        Returns:
            How many lanes were stopped.

        Raises:
            Interrupted: a signal came, and every block is saved as far as it was.
            Refused: blocks could not be trained; the others are.
        """
        try:
            self._hire(range(len(self.assignments)))
            while self._working:
                if self.stop.is_asked:
                    self._ask_to_stop()
                heard = self.crew.listen(LISTEN_S)
                with self.folder.together():
                    for hand, said in heard:
                        self._hear(hand, said)
                self._hire(self._without_worker)
                self._without_worker = []
                self.progress.refresh_if_due()
                self.regularly(self._waiting())
        finally:  # an error, or a second signal: nobody is to go on alone
            for hand in self._working:
                self.crew.dismiss(hand)
        if self._failures:
            more = len(self._failures) - 1
            others = f" (and {more} more block{'s' * (more > 1)})" if more else ""
            raise Refused(f"{self._failures[0]}{others}")
        if self._num_finished < len(self.assignments):
            raise Interrupted
        return self._num_stopped

    def _waiting(self) -> list[Assignment]:
        return [self.assignments[n] for hand, n in self._working.items() if not hand.is_heard]

    def _hire(self, positions: Sequence[int]) -> None:
        """Begin blocks, or go on with them, each with a worker of its own.

        What comes after their checkpoints will come again; it is dropped here for all blocks at
        once, which reads a table once. Each worker does so too, after the checkpoint that it takes.
        """
        last_steps: dict[int, int] = {}
        for position in positions:
            each, step = self.assignments[position], self.desks[position].committed_step
            if step is not None:
                step *= each.configs[0].task.envs_per_lane
                last_steps |= dict.fromkeys(each.lanes, step)
        if last_steps:
            with contextlib.suppress(OSError, ValueError):  # a worker's own call says what is wrong
                self.folder.truncate(last_steps)
        for position in positions:
            self._hire_one(position)

    def _hire_one(self, position: int) -> None:
        each = self.assignments[position]
        task = BlockTask(
            run=self.run,
            index=each.index,
            configs=each.configs,
            lanes=each.lanes,
            num_threads=self.run.num_threads or max(1, int(each.share.num_cpus)),
            writer=secrets.token_hex(4),
            lanes_entry=self._lanes_entry,
            code=self._code,
        )
        self.desks[position].begin()
        self._working[self.crew.hire(task, each.share)] = position

    def _ask_to_stop(self) -> None:
        for hand in list(self._working):
            hand.is_asked_to_stop = True
            if not hand.is_heard:  # it waits for room, or has not begun
                self.crew.dismiss(hand)
                del self._working[hand]

    def _hear(self, hand: Hand, said: object) -> None:
        position = self._working[hand]
        desk = self.desks[position]
        if isinstance(said, Lost):
            self._lose(hand, position, said.why)
            return
        hand.answers += desk.handle(said)  # type: ignore[arg-type]
        if desk.end is None:
            self.crew.go_on(hand)
            return
        kind, value = desk.end
        self._leave(hand, position)
        if kind == FINISHED:
            self._num_finished += 1
            self._num_stopped += value
        elif kind == BROKEN:
            self._break(position, value)
        elif kind != INTERRUPTED:
            self._fail(position, value)

    def _leave(self, hand: Hand, position: int) -> None:
        self.crew.dismiss(hand)
        del self._working[hand]
        self.desks[position].progress.leave()

    def _lose(self, hand: Hand, position: int, why: str) -> None:
        self._leave(hand, position)
        self._losses[position] = 1 + self._losses[position] * (not self.desks[position].has_moved)
        lanes = spans(self.assignments[position].lanes)
        if self.stop.is_asked:
            self.progress.note(f"lanes {lanes}: the worker was lost ({why}) before it had saved")
        elif self._losses[position] < MOST_LOSSES:
            self.progress.note(f"lanes {lanes}: the worker was lost ({why}); another one goes on")
            self._without_worker.append(position)
        else:
            self._fail(position, f"{MOST_LOSSES} workers were lost one after the other: {why}")

    def _break(self, position: int, words: str) -> None:
        self._breaks[position] = 1 + self._breaks[position] * (not self.desks[position].has_moved)
        log.error("%s", words)
        last = words.strip().splitlines()[-1]
        if self._breaks[position] < MOST_BREAKS and not self.stop.is_asked:
            lanes = spans(self.assignments[position].lanes)
            self.progress.note(f"lanes {lanes}: {last}; another worker tries once more")
            self._without_worker.append(position)
        else:
            self._fail(position, last)

    def _fail(self, position: int, why: str) -> None:
        each = self.assignments[position]
        self._failures.append(f"block {each.index} (lanes {spans(each.lanes)}): {why}")
        self.progress.note(self._failures[-1])
