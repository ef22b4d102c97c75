"""The records and the display of a run as the training of a block sees them from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastanf.cluster.mailbox import Mailbox
from fastanf.rows import AnyRow, EvaluationRow, QuarantineRow
from fastanf.table_seals import Seals


class RemoteRecords:
    """A `BlockRecords` whose run folder another process writes.

    Rows go with the next exchange; `flush` waits until all are there, and a checkpoint waits for
    it.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    def append(self, rows: Sequence[AnyRow]) -> None:
        if rows:
            self._mailbox.tell("append", list(rows))

    def flush(self) -> bool:
        return self._mailbox.call("flush")

    def seals(self) -> dict[str, dict[str, Any]]:
        return self._mailbox.call("seals")

    def check_seals(self, seals: Seals, last_step: int) -> None:
        self._mailbox.call("check_seals", seals, last_step)

    def truncate_after(self, last_step: int) -> None:
        self._mailbox.call("truncate_after", last_step)

    def evaluations(self) -> list[EvaluationRow]:
        return self._mailbox.call("evaluations")

    def quarantine(self) -> list[QuarantineRow]:
        return self._mailbox.call("quarantine")

    def commit(self, path: Path, data: bytes) -> None:
        """Let the other process write the file that makes others a checkpoint: it knows whether
        this one still trains the block.
        """
        self._mailbox.call("commit", path.name, data)


class RemoteProgress:
    """A `BlockProgress` whose run another process displays."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._tell = mailbox.tell

    def update(self, step: int, steps_per_s: float) -> None:
        self._tell("update", step, steps_per_s)

    def phase(self, text: str) -> None:
        self._tell("phase", text)

    def note(self, text: str) -> None:
        self._tell("note", text)

    def evaluated(self, lane: int, step: int, return_mean: float, return_std: float) -> None:
        self._tell("evaluated", lane, step, return_mean, return_std)

    def restore(self, lane: int, step: int, return_mean: float) -> None:
        self._tell("restore", lane, step, return_mean)

    def stopped(self, lane: int, cause: str) -> None:
        self._tell("stopped", lane, cause)

    def restore_stopped(self, lane: int, step: int, cause: str) -> None:
        self._tell("restore_stopped", lane, step, cause)
