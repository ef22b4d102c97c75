"""What the training of one block writes down, and asks of what it wrote before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from fastanf.records import RunFolder
from fastanf.rows import AnyRow, EvaluationRow, QuarantineRow
from fastanf.table_seals import Seals


class BlockRecords(Protocol):
    """The records of one block's lanes, wherever its run folder is."""

    def append(self, rows: Sequence[AnyRow]) -> None:
        """Rows of one class, as `RunFolder.append`."""

    def flush(self) -> bool:
        """Whether nothing waits any more for a disk that takes it."""
        ...

    def seals(self) -> dict[str, dict[str, Any]]:
        """Of the block's rows on the disk, for a checkpoint to keep."""
        ...

    def check_seals(self, seals: Seals, last_step: int) -> None:
        """See whether the block's rows are those of a checkpoint at that step.

        Raises:
            ValueError: they were changed or are damaged.
        """

    def truncate_after(self, last_step: int) -> None:
        """Drop the rows beyond a step, which come again; all of them with -1."""

    def evaluations(self) -> list[EvaluationRow]:
        """The block's, in their order."""
        ...

    def quarantine(self) -> list[QuarantineRow]:
        """The block's lanes that were stopped."""
        ...


class FolderRecords:
    """Those of a run folder that this process writes.

    Args:
        folder: of the run.
        lanes: numbers of the block's lanes.
    """

    def __init__(self, folder: RunFolder, lanes: range) -> None:
        self.folder, self.lanes = folder, lanes

    def append(self, rows: Sequence[AnyRow]) -> None:
        self.folder.append(rows)

    def flush(self) -> bool:
        return self.folder.flush()

    def seals(self) -> dict[str, dict[str, Any]]:
        return self.folder.seals(self.lanes)

    def check_seals(self, seals: Seals, last_step: int) -> None:
        self.folder.check_seals(seals, self.lanes, last_step)

    def truncate_after(self, last_step: int) -> None:
        self.folder.truncate(dict.fromkeys(self.lanes, last_step))

    def evaluations(self) -> list[EvaluationRow]:
        return self.folder.rows(EvaluationRow, self.lanes)

    def quarantine(self) -> list[QuarantineRow]:
        return self.folder.rows(QuarantineRow, self.lanes)
