"""Stopping a run from outside: a signal asks, and the run stops where its state is whole."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class Interrupted(Exception):
    """A signal asked the run to stop, and it has reached a place where it can."""


class StopSignals:
    """Within this context SIGTERM and Ctrl-C are remembered, and `check` raises.

    A second signal raises KeyboardInterrupt at once, wherever the run is: what was trained since
    the last checkpoint is lost then. Outside the main thread, where Python delivers no signals,
    the caller handles them.
    """

    def __init__(self) -> None:
        self.is_asked = False
        self._before: dict[signal.Signals, object] = {}

    def check(self) -> None:
        """Raise Interrupted if a signal came."""
        if self.is_asked:
            raise Interrupted

    def _ask(self, signum: int, frame: FrameType | None) -> None:
        if self.is_asked:
            raise KeyboardInterrupt
        self.is_asked = True

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._ask)
            except ValueError:
                break
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
