"""Workers that are Ray actors, each with its share of a node.

An actor is never restarted by Ray and no call is repeated: a block that is lost begins again with
another actor, from its checkpoint (driver.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayError

from fastanf.cluster.crew import Hand, Lost, wait_between
from fastanf.cluster.mailbox import Message
from fastanf.cluster.resources import Share
from fastanf.cluster.worker import BlockTask, BlockWorker
from fastanf.options import start_of


class RayCrew:
    """A `Crew` of actors in the cluster that this process is connected with."""

    def __init__(self) -> None:
        self._hands: dict[Any, Hand] = {}  # by the exchange that is on its way
        self._make: Any = ray.remote(BlockWorker)

    def hire(self, task: BlockTask, share: Share) -> Hand:
        """As `Crew.hire`."""
        make = self._make.options(
            num_cpus=share.num_cpus,
            num_gpus=share.num_gpus,
            memory=share.memory,
            max_restarts=0,
            max_task_retries=0,
        )
        hand = Hand(task, make.remote(task))
        self.go_on(hand)
        return hand

    def listen(self, wait_s: float) -> list[tuple[Hand, Sequence[Message] | Lost]]:
        """As `Crew.listen`."""
        if not self._hands:
            return []
        ready, _ = ray.wait(list(self._hands), num_returns=1, timeout=wait_s)
        if ready and len(self._hands) > 1:  # and the others that have come meanwhile
            ready, _ = ray.wait(list(self._hands), num_returns=len(self._hands), timeout=0)
        heard: list[tuple[Hand, Sequence[Message] | Lost]] = []
        for exchange in ready:
            hand = self._hands.pop(exchange)
            hand.awaited, hand.is_heard = None, True
            heard.append((hand, _result(exchange)))
        return heard

    def go_on(self, hand: Hand) -> None:
        """As `Crew.go_on`."""
        answers, hand.answers = hand.answers, []
        wait_s = wait_between(len(self._hands))
        hand.awaited = hand.worker.exchange.remote(answers, hand.is_asked_to_stop, wait_s)
        self._hands[hand.awaited] = hand

    def dismiss(self, hand: Hand) -> None:
        """As `Crew.dismiss`."""
        self._hands.pop(hand.awaited, None)
        ray.kill(hand.worker, no_restart=True)


def _result(exchange: Any) -> Sequence[Message] | Lost:
    try:
        return ray.get(exchange)
    except RayError as error:
        return Lost(_why(error))


def _why(error: RayError) -> str:
    """One line of what Ray says, which may be a log."""
    if isinstance(error, OutOfMemoryError):
        return "it took more memory than its node has"
    if isinstance(error, ActorUnavailableError):  # what it said last may be lost: no second try
        return "it cannot be reached any more"
    text = str(error)
    if ("node" in text and "terminated" in text) or "node died" in text.lower():
        return "its node died"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return start_of(lines[-1] if "creation task" in text else lines[0], 300)
