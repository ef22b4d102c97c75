"""What a user is told while a disk takes no records, and when a run ends before it does again."""

import logging
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from fastanf.files import DISK_TROUBLES

log = logging.getLogger(__name__)


class RecordsPending(OSError):
    """A run ended while its records were not all on the disk."""

    def __init__(self, path: Path, waiting: Mapping[str, int], status: str | None) -> None:
        self.waiting = dict(waiting)
        """Table -> rows that are not on the disk."""
        rows = [f"{number} row{'s' * (number > 1)} of {name}" for name, number in waiting.items()]
        what = [*rows, *([f"status {status}"] if status else [])]
        super().__init__(
            f"not on the disk: {', '.join(what)}; free some space, then "
            f"`python -m fastanf resume {shlex.quote(str(path))}` trains again from the last "
            "checkpoint and writes them"
        )


class DiskTrouble:
    """Says once that the disk takes no records, and once that it does again.

    Args:
        path: of the run folder.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._is_there = path, False

    def begin(self, error: OSError, say: Callable[[str], None] | None) -> None:
        """The disk does not take what it is given.

        Args:
            error: one of `DISK_TROUBLES`.
            say: gets the line; None: the log.
        """
        if not self._is_there:
            self._is_there = True
            (say or log.warning)(
                f"{DISK_TROUBLES[error.errno or 0]}: records of {self._path} wait in memory, the "
                "training goes on; they are written when the disk takes them again"
            )

    def end(self, say: Callable[[str], None] | None) -> None:
        """All that waited is written."""
        if self._is_there:
            self._is_there = False
            (say or log.warning)(f"records of {self._path} are written again")
