"""TensorBoard's event files, many at a time: no thread and no open file for any of them.

Values of one step go into one event, which is what a reader and a checksum are spent on.
"""

import itertools
import os
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_VERSION = "brain.Event:2"
"""Of the format: TensorBoard reads it from the first event."""
_numbers = itertools.count()  # two files that one process begins within a second differ


class EventFile:
    """One event file, made with the first values.

    Args:
        folder: that holds it, made where it is missing.
        purge_after: TensorBoard forgets what older files of the folder have beyond this step; None:
            nothing.
    """

    def __init__(self, folder: Path, purge_after: int | None = None) -> None:
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}"
        self.path = folder / f"{name}.{os.getpid()}.{next(_numbers):06d}"
        self._purge_after = purge_after
        self._is_begun = False

    def add(self, steps: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Appends values, tag by tag, of some steps.

        Raises:
            OSError: not all of it was written.
        """
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        protocol: Any = event_pb2  # whose classes are made when it is imported
        summaries: Any = summary_pb2
        make, now = protocol.Event, time.time()
        events = []
        for step, values in steps:
            pairs = [
                summaries.Summary.Value(tag=tag, simple_value=value)
                for tag, value in values.items()
            ]
            summary = summaries.Summary(value=pairs)
            events.append(make(wall_time=now, step=step, summary=summary))
        if not self._is_begun:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            first = [make(wall_time=now, file_version=_VERSION)]
            if self._purge_after is not None:
                begins = protocol.SessionLog(status=protocol.SessionLog.START)
                first.append(make(wall_time=now, step=self._purge_after + 1, session_log=begins))
            events = first + events
        with open(self.path, "ab" if self._is_begun else "xb") as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(event.SerializeToString())
        self._is_begun = True
