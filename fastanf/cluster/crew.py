"""The processes that train blocks, as the driver sees them: hired, heard and dismissed.

One exchange with each is always on its way. What to do when one is lost is for the driver to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fastanf.cluster.mailbox import Answer, Message
from fastanf.cluster.resources import Share
from fastanf.cluster.worker import BlockTask

MOST_EXCHANGES_PER_S = 100
"""Of all workers together, while nothing happens: what a driver takes without being busy."""


@dataclass(frozen=True)
class Lost:
    """A worker, or its machine, has died."""

    why: str


@dataclass(eq=False)
class Hand:
    """One worker."""

    task: BlockTask
    worker: Any
    answers: list[Answer] = field(default_factory=list)
    """That go with the next exchange."""
    is_asked_to_stop: bool = False
    is_heard: bool = False
    """Whether it has said something: before that it may wait for room."""
    awaited: Any = None
    """The exchange that is on its way."""


class Crew(Protocol):
    """Hires workers and brings what they say."""

    def hire(self, task: BlockTask, share: Share) -> Hand:
        """A worker, which begins when and where there is room for its share."""
        ...

    def listen(self, wait_s: float) -> list[tuple[Hand, Sequence[Message] | Lost]]:
        """What came, after waiting for something: each worker says no more until `go_on`."""
        ...

    def go_on(self, hand: Hand) -> None:
        """Exchange again with a worker that was heard."""

    def dismiss(self, hand: Hand) -> None:
        """End a worker at once, wherever it is."""


def wait_between(num_workers: int) -> float:
    """Seconds for which an exchange waits, where nothing is urgent."""
    return max(1.0, num_workers / MOST_EXCHANGES_PER_S)
