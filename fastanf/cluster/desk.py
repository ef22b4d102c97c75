"""What the driver does for one block: writes what its training says, and answers what it asks.

Only the worker that trains the block now is heard (driver.py), so that a checkpoint of one that was
given up is never committed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

from fastanf.block_progress import BlockProgress
from fastanf.block_records import FolderRecords
from fastanf.checkpoint import block_path, checkpoint_numbers, newest_checkpoint
from fastanf.cluster.mailbox import Answer, Message
from fastanf.cluster.worker import ENDS
from fastanf.files import write_atomic
from fastanf.options import shown
from fastanf.rows import FILES, PROFILED_FILES, AnyRow, row_lines

_RECORDS = ("append", "flush", "seals", "check_seals", "truncate_after")
_RECORDS += ("evaluations", "quarantine")
_PROGRESS = ("update", "phase", "note", "evaluated", "restore", "stopped", "restore_stopped")


_KEPT = 2
"""Checkpoints of a block that stand: the newest, and the one before."""


class Store(Protocol):
    """Where checkpoints are committed and records kept beyond the driver's own disk."""

    def commit(
        self,
        block: int,
        name: str,
        data: bytes,
        rows: Sequence[tuple[str, str]],
        after: int | None = None,
    ) -> None:
        """Make files a checkpoint of a block.

        Args:
            block: its index in the run.
            name: of the file.
            data: its content.
            rows: table and line of each row of the block since its last commit.
            after: the step to which the block went back since then, -1 for its beginning: rows
                beyond it that came before are void. None where it did not.
        """


class Desk:
    """Of one block.

    Args:
        index: of the block.
        records: of the block.
        progress: of the block.
        store: beyond the run folder; None where the run folder is all there is.
        shows_host: whether lines about the block say where it trains.
    """

    def __init__(
        self,
        index: int,
        records: FolderRecords,
        progress: BlockProgress,
        store: Store | None,
        shows_host: bool = False,
    ) -> None:
        self.index, self.records, self.progress, self.store = index, records, progress, store
        self.has_moved = False
        """Whether there is something new since `begin`: a checkpoint, or an evaluation at a step
        that no worker has come to before."""
        self.end: tuple[str, Any] | None = None
        """How the block ended (worker.ENDS), and what belongs to it."""
        self._shows_host = shows_host
        self._is_unsure = False  # whether the folder has the JSON files that the store has
        self._evaluated_step = -1
        self._rows: list[tuple[str, str]] = []
        self._after: int | None = None
        self._actions = {name: getattr(records, name) for name in _RECORDS}
        self._actions |= {name: getattr(progress, name) for name in _PROGRESS}
        self._actions |= {
            "append": self._append,
            "truncate_after": self._truncate_after,
            "evaluated": self._evaluated,
            "commit": self._commit,
            "begins": self._begins,
        }
        self._actions |= {name: self._ended(name) for name in ENDS}

    def begin(self) -> None:
        """Another worker is going to train the block."""
        self.has_moved, self.end, self._rows = False, None, []

    def handle(self, messages: Sequence[Message]) -> list[Answer]:
        """Do what a worker says, in its order.

        Returns:
            Answers to its calls; what a call raises is raised there.

        Raises:
            OSError: rows cannot be recorded, for another reason than a full or read-only disk.
        """
        answers = []
        for message in messages:
            action = self._actions[message.name]
            if message.number is None:
                action(*message.arguments)
                continue
            try:
                answers.append(Answer(message.number, action(*message.arguments)))
            except (ValueError, OSError) as error:
                answers.append(Answer(message.number, error=error))
        return answers

    def _begins(self, host: str) -> None:
        self.progress.name = host if self._shows_host else ""

    def _append(self, rows: Sequence[AnyRow]) -> None:
        self.records.append(rows)
        if self.store is not None:
            name = {**FILES, **PROFILED_FILES}[type(rows[0])]
            self._rows += [(name, line) for line in row_lines(rows)]

    def _truncate_after(self, last_step: int) -> None:
        self._rows, self._after = [], last_step
        self.records.truncate_after(last_step)

    def _evaluated(self, lane: int, step: int, return_mean: float, return_std: float) -> None:
        if step > self._evaluated_step:
            self.has_moved, self._evaluated_step = True, step
        self.progress.evaluated(lane, step, return_mean, return_std)

    @property
    def committed_step(self) -> int | None:
        """Of the newest checkpoint, in steps of each of a lane's environments; -1 before the first
        one, None where it is not known.
        """
        if self._is_unsure:
            return None
        try:
            newest = newest_checkpoint(block_path(self.records.folder.path, self.index))
        except ValueError:  # whoever reads it to go on says what is wrong
            return None
        step = -1 if newest is None else newest.state.get("step")
        return step if isinstance(step, int) else None

    def _commit(self, name: str, data: bytes) -> None:
        if not checkpoint_numbers([name]):
            raise ValueError(f"checkpoint must be named like checkpoint-7.json, got {shown(name)}")
        path = block_path(self.records.folder.path, self.index) / name
        self._is_unsure = self.store is not None  # it may have it, though nobody says so
        if self.store is not None:
            self.store.commit(self.index, name, data, self._rows, self._after)
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
        self._is_unsure = False
        if self.store is not None:  # where checkpoints are elsewhere, nobody else removes these
            for number in sorted(checkpoint_numbers(os.listdir(path.parent)))[:-_KEPT]:
                path.with_name(f"checkpoint-{number}.json").unlink(missing_ok=True)
        self.has_moved, self._rows, self._after = True, [], None

    def _ended(self, name: str) -> Any:
        def end(value: Any = None) -> None:
            self.end = name, value

        return end
