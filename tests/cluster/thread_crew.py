"""A crew whose workers are threads of the test's process, so that a study which many machines train
takes a moment, and what can happen to a worker happens exactly where a test says.

By itself an exchange lasts until the worker calls or ends: which messages come together, and in
which order the workers are heard, depends on the study alone.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from fastanf.checkpoint import BlockCheckpoints
from fastanf.cluster.crew import Hand, Lost
from fastanf.cluster.mailbox import Answer, Message
from fastanf.cluster.resources import Node, Share
from fastanf.cluster.worker import ENDS, BlockTask, BlockWorker

GIB = 2**30
NODES = (Node("n1", "one", 2, 0, 64 * GIB), Node("n2", "two", 2, 0, 64 * GIB))
"""Room for four blocks of a CPU."""
WORDS = "its node died"
_FOREVER_S = 120.0
"""For a thread that a test awaits: longer than any takes."""


class Gone(BaseException):
    """Ends the thread of a worker that was given up, once its test is over."""


@dataclass(frozen=True)
class Loss:
    """What becomes of a worker."""

    exchange: int
    """The number of its last one, from 1."""
    is_delivered: bool
    """Whether what it said then was heard: if so, the answers are lost, else the messages."""
    answered_at: int | None = None
    """It gets these answers after all, and goes on to its next call, when the block's next worker
    has come to the call that ends this exchange of its own, and the driver has not heard of it.
    None for when `answer_late` says so, or never."""


@dataclass
class _Place:
    """One worker as the crew knows it."""

    hand: Hand
    attempt: int
    loss: Loss | None
    worker: BlockWorker | None = None
    """None as long as there is no room."""
    num_exchanges: int = 0
    said: deque[Message] = field(default_factory=deque)
    """What the driver has not been given yet."""
    unanswered: dict[int, str] = field(default_factory=dict)
    """Its calls, by their numbers."""
    late: list[Answer] = field(default_factory=list)
    """Answers that are on their way to a worker that was given up."""
    is_awaited: bool = True
    has_ended: bool = False


class ThreadCrew:
    """A `Crew`; a context manager, which ends all threads.

    Args:
        fate: of the worker that is hired for a block, by the block's index and the number of the
            worker among those of the block, from 1; None for one that is not lost.
        room: workers that go together; the others begin when one has left.
        piece: most messages that come together; None for all up to a call.
        wait_s: that an exchange waits for a call at most.
        held: blocks whose workers are heard only when no other one can be.
        actions: done before the exchange of such a number, counted over all workers from 1.
    """

    def __init__(
        self,
        fate: Callable[[int, int], Loss | None] = lambda block, attempt: None,
        *,
        room: int | None = None,
        piece: int | None = None,
        wait_s: float = _FOREVER_S,
        held: Sequence[int] = (),
        actions: Mapping[int, Callable[[], object]] = {},
    ) -> None:
        self.fate, self.room, self.piece, self.wait_s = fate, room, piece, wait_s
        self.held, self.actions = set(held), actions
        self.tasks: list[BlockTask] = []
        """Of the workers that were hired, in their order."""
        self.num_exchanges = 0
        self.num_lost = 0
        self.most_at_once = 0
        """Workers that had begun and not left."""
        self.heard: list[tuple[int, int, Message]] = []
        """Block, number of the worker among the block's, and what the driver was told."""
        self.unheard: list[tuple[int, int, Message]] = []
        """Likewise what nobody was told."""
        self._places: dict[Hand, _Place] = {}
        self._given_up: list[_Place] = []
        self._num_hired: Counter[int] = Counter()

    def hire(self, task: BlockTask, share: Share) -> Hand:
        """As `Crew.hire`."""
        assert share.num_cpus and not share.num_gpus
        self._num_hired[task.index] += 1
        attempt = self._num_hired[task.index]
        hand = Hand(task, None)
        self.tasks.append(task)
        self._places[hand] = _Place(hand, attempt, self.fate(task.index, attempt))
        return hand

    def listen(self, wait_s: float) -> list[tuple[Hand, Sequence[Message] | Lost]]:
        """As `Crew.listen`: of each worker that there is room for and that is not held back."""
        begun = list(self._places.values())[: self.room]
        self.most_at_once = max(self.most_at_once, len(begun))
        for place in begun:
            if place.worker is None:
                place.worker = place.hand.worker = BlockWorker(place.hand.task)
        awaited = [place for place in begun if place.is_awaited]
        free = [place for place in awaited if place.hand.task.index not in self.held]
        found: list[tuple[Hand, Sequence[Message] | Lost]] = []
        for place in free or awaited[:1]:
            self.num_exchanges += 1
            self.actions.get(self.num_exchanges, lambda: None)()
            place.is_awaited, place.hand.is_heard = False, True
            found.append((place.hand, self._exchange(place)))
        return found

    def go_on(self, hand: Hand) -> None:
        """As `Crew.go_on`."""
        self._places[hand].is_awaited = True

    def dismiss(self, hand: Hand) -> None:
        """As `Crew.dismiss`, but that a thread which is in the middle of something goes on to its
        next call, as does the worker of a machine that nobody reaches.
        """
        place = self._places.pop(hand, None)
        if place is None or place.worker is None:
            return
        if place.has_ended:
            _join(place.worker)
        else:
            self._given_up.append(place)

    def __enter__(self) -> ThreadCrew:
        return self

    def __exit__(self, *_: object) -> None:
        with pytest.MonkeyPatch.context() as patch:
            # A call that fails makes a worker remove what it wrote; a dead one removes nothing.
            patch.setattr(BlockCheckpoints, "_remove", lambda self, names: None)
            for place in [*self._given_up, *self._places.values()]:
                worker = place.worker
                while worker is not None and worker._thread.is_alive():
                    answers = [Answer(number, error=Gone()) for number in place.unanswered]
                    said = worker.exchange(answers, True, _FOREVER_S)
                    place.unanswered = _calls(said)
                    if any(message.name in ENDS for message in said):
                        _join(worker)
        self._given_up.clear()

    def is_given_up(self, thread: threading.Thread) -> bool:
        """Whether a thread is that of a worker which nobody hears any more."""
        return any(place.worker and place.worker._thread is thread for place in self._given_up)

    def answer_late(self, block: int) -> None:
        """Let the workers of a block that were given up have the answers that were on their way,
        and go on to their next calls.
        """
        for place in self._given_up:
            if place.hand.task.index == block and place.late:
                late, place.late = place.late, []
                self._take(place, late)
                self._drop(place)

    def _exchange(self, place: _Place) -> Sequence[Message] | Lost:
        """The next messages of a worker, or its loss."""
        block, loss = place.hand.task.index, place.loss
        place.num_exchanges += 1
        answers, place.hand.answers = place.hand.answers, []
        if loss and loss.is_delivered and place.num_exchanges == loss.exchange + 1:
            place.late = answers
            return self._lose(place)
        if not place.said:
            self._take(place, answers)
        if place.num_exchanges in self._late_moments(block):
            self.answer_late(block)
        if loss and not loss.is_delivered and place.num_exchanges == loss.exchange:
            return self._lose(place)
        number = len(place.said) if self.piece is None else self.piece
        messages = [place.said.popleft() for _ in range(min(number, len(place.said)))]
        self.heard += [(block, place.attempt, message) for message in messages]
        place.has_ended = any(message.name in ENDS for message in messages)
        return messages

    def _late_moments(self, block: int) -> set[int | None]:
        """Numbers of the exchanges in which workers of a block have their last answers."""
        of_block = [place for place in self._given_up if place.hand.task.index == block]
        return {place.loss.answered_at for place in of_block if place.loss and place.late}

    def _take(self, place: _Place, answers: Sequence[Answer]) -> None:
        """Exchange with the thread."""
        assert place.worker is not None
        given = {answer.number for answer in answers}
        said = place.worker.exchange(answers, place.hand.is_asked_to_stop, self.wait_s)
        kept = {n: name for n, name in place.unanswered.items() if n not in given}
        place.unanswered = kept | _calls(said)
        place.said.extend(said)

    def _lose(self, place: _Place) -> Lost:
        self._drop(place)
        self.num_lost += 1
        return Lost(WORDS)

    def _drop(self, place: _Place) -> None:
        self.unheard += [(place.hand.task.index, place.attempt, each) for each in place.said]
        place.said.clear()


def _calls(messages: Sequence[Message]) -> dict[int, str]:
    return {each.number: each.name for each in messages if each.number is not None}


def _join(worker: BlockWorker) -> None:
    worker._thread.join(_FOREVER_S)
    assert not worker._thread.is_alive()
