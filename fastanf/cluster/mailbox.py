"""How the training of a block, on whatever machine, talks with the process that writes the records.

The training tells (nothing comes back) or calls (it waits for the answer). All of it goes through
`exchange`, which the other side calls again and again: what was told waits until then, a call is
delivered at once. A process that nobody asks any more waits in its next call for ever, and so
changes nothing: that is what happens to one whose machine was given up.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LATEST = ("update",)
"""Messages of which the newest alone matters while they wait."""


@dataclass(frozen=True)
class Message:
    """What a block's training says."""

    name: str
    arguments: tuple[Any, ...] = ()
    number: int | None = None
    """Of a call, which waits for its answer; None where nothing is to come back."""


@dataclass(frozen=True)
class Answer:
    """To a call."""

    number: int
    value: Any = None
    error: BaseException | None = None
    """Is raised where the call was made."""


class Mailbox:
    """Messages out, answers in. One thread trains, another one exchanges."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._messages: list[Message] = []
        self._answers: dict[int, Answer] = {}
        self._numbers = itertools.count(1)
        self._is_urgent = False

    def tell(self, name: str, *arguments: Any) -> None:
        """Say something that needs no answer, with the next exchange."""
        with self._changed:
            self._put(Message(name, arguments))

    def call(self, name: str, *arguments: Any) -> Any:
        """Ask for something and wait for it, however long that takes.

        Raises:
            BaseException: what the other side says.
        """
        number = next(self._numbers)
        with self._changed:
            self._put(Message(name, arguments, number))
            self._is_urgent = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: number in self._answers)
            answer = self._answers.pop(number)
        if answer.error is not None:
            raise answer.error
        return answer.value

    def end(self, name: str, *arguments: Any) -> None:
        """Say the last thing, at once."""
        with self._changed:
            self._put(Message(name, arguments))
            self._is_urgent = True
            self._changed.notify_all()

    def exchange(self, answers: Sequence[Answer], wait_s: float) -> list[Message]:
        """Give answers and take what was said since, in its order.

        Args:
            answers: to calls.
            wait_s: until which nothing need come; a call, or the end, comes at once.
        """
        with self._changed:
            self._answers |= {answer.number: answer for answer in answers}
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_urgent, wait_s)
            messages, self._messages, self._is_urgent = self._messages, [], False
        return messages

    def _put(self, message: Message) -> None:
        last = self._messages[-1].name if self._messages else ""
        if message.name in LATEST and message.name == last:
            self._messages[-1] = message
        else:
            self._messages.append(message)
