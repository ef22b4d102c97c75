"""What a training thread says and asks comes in its order, and every answer where it belongs."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from fastanf.cluster.mailbox import Answer, Mailbox, Message

LONG_S = 60.0
"""An exchange that is not ended by a call fails its test after so long."""


class Speaker:
    """A thread that uses a mailbox."""

    def __init__(self, mailbox: Mailbox, speak: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(speak,), daemon=True)
        self.mailbox = mailbox
        self._thread.start()

    def _run(self, speak: Callable[[], Any]) -> None:
        try:
            self.result = speak()
        except BaseException as error:
            self.error = error

    def ended(self) -> Speaker:
        self._thread.join(LONG_S)
        assert not self._thread.is_alive()
        return self

    @property
    def is_waiting(self) -> bool:
        return self._thread.is_alive()


def told(mailbox: Mailbox) -> list[tuple[str, tuple[Any, ...]]]:
    """What waits in a mailbox, where nobody calls."""
    return [(message.name, message.arguments) for message in mailbox.exchange([], 0.0)]


def test_what_is_told_comes_in_its_order_and_once() -> None:
    mailbox = Mailbox()
    mailbox.tell("phase", "building")
    mailbox.tell("append", [1, 2], 3)
    mailbox.tell("phase", "")
    assert told(mailbox) == [("phase", ("building",)), ("append", ([1, 2], 3)), ("phase", ("",))]
    assert told(mailbox) == []


def test_of_updates_that_wait_the_newest_counts() -> None:
    mailbox = Mailbox()
    for step in (1, 2, 3):
        mailbox.tell("update", step)
    mailbox.tell("phase", "saving")
    mailbox.tell("phase", "saving")
    for step in (4, 5):
        mailbox.tell("update", step)
    expected = [("update", (3,)), ("phase", ("saving",)), ("phase", ("saving",)), ("update", (5,))]
    assert told(mailbox) == expected
    mailbox.tell("update", 6)
    assert told(mailbox) == [("update", (6,))]


def test_a_call_comes_behind_what_was_told_and_waits_for_its_answer() -> None:
    mailbox = Mailbox()

    def speak() -> int:
        mailbox.tell("update", 1)
        value = mailbox.call("seals", "of", 3)
        mailbox.tell("update", value)
        return value

    speaker = Speaker(mailbox, speak)
    first, second = mailbox.exchange([], LONG_S)
    assert (first.name, first.number) == ("update", None)
    assert (second.name, second.arguments) == ("seals", ("of", 3)) and second.number is not None
    # Nothing is said until the answer, nor by one to another call.
    assert mailbox.exchange([Answer(second.number + 100, "another's")], 0.0) == []
    assert speaker.is_waiting
    mailbox.exchange([Answer(second.number, 7)], 0.0)
    assert speaker.ended().result == 7
    assert told(mailbox) == [("update", (7,))]


def test_a_call_ends_an_exchange_that_waits() -> None:
    """And so does each further one; without that the test would take minutes."""
    mailbox = Mailbox()
    speaker = Speaker(mailbox, lambda: [mailbox.call("flush") for _ in range(20)])
    answers: list[Answer] = []
    for count in range(20):
        (message,) = mailbox.exchange(answers, LONG_S)
        assert message.number is not None
        answers = [Answer(message.number, count)]
    assert mailbox.exchange(answers, 0.0) == []
    assert speaker.ended().result == list(range(20))


def test_an_exchange_ends_after_its_time_where_nobody_calls() -> None:
    mailbox = Mailbox()
    mailbox.tell("update", 1)
    assert [message.name for message in mailbox.exchange([], 0.01)] == ["update"]
    assert mailbox.exchange([], 0.01) == []


def test_calls_of_several_threads_get_their_own_answers() -> None:
    mailbox = Mailbox()
    speakers = [Speaker(mailbox, lambda n=n: mailbox.call("double", n)) for n in range(8)]
    open_calls: list[Message] = []
    while len(open_calls) < len(speakers):
        open_calls += mailbox.exchange([], LONG_S)
    assert len({message.number for message in open_calls}) == len(speakers)
    answers = [Answer(each.number or 0, 2 * each.arguments[0]) for each in reversed(open_calls)]
    mailbox.exchange(answers, 0.0)
    assert [speaker.ended().result for speaker in speakers] == [2 * n for n in range(8)]


@pytest.mark.parametrize("error", [ValueError("the row"), OSError(28, "No space left on device")])
def test_an_error_is_raised_where_the_call_was_made(error: Exception) -> None:
    """As it was, also where the answer went through another process; and the next call is new."""
    mailbox = Mailbox()

    def speak() -> str:
        with pytest.raises(type(error)) as caught:
            mailbox.call("commit")
        assert caught.value.args == error.args
        return mailbox.call("again")

    speaker = Speaker(mailbox, speak)
    (message,) = mailbox.exchange([], LONG_S)
    answer = pickle.loads(pickle.dumps(Answer(message.number or 0, error=error)))
    (message,) = mailbox.exchange([answer], LONG_S)
    assert message.name == "again"
    mailbox.exchange([Answer(message.number or 0, "went on")], 0.0)
    assert speaker.ended().error is None and speaker.result == "went on"


def test_the_end_is_said_at_once_and_behind_everything() -> None:
    mailbox = Mailbox()

    def speak() -> None:
        mailbox.tell("update", 9)
        mailbox.end("finished", 0)

    Speaker(mailbox, speak).ended()
    names = [message.name for message in mailbox.exchange([], LONG_S)]
    assert names == ["update", "finished"]
    assert mailbox.exchange([], 0.0) == []


def test_a_call_that_nobody_answers_waits_and_nothing_is_said_meanwhile() -> None:
    mailbox = Mailbox()
    speaker = Speaker(mailbox, lambda: mailbox.call("commit", "checkpoint-1.json"))
    (message,) = mailbox.exchange([], LONG_S)
    for _ in range(3):
        assert mailbox.exchange([], 0.001) == []
    assert speaker.is_waiting
    mailbox.exchange([Answer(message.number or 0)], 0.0)
    speaker.ended()
