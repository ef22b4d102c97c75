"""Of drivers of one run in a store, one writes; a dead one keeps nobody out for long."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastanf.cluster import url_lock
from fastanf.cluster.remote_run import RemoteRun
from fastanf.cluster.url_folder import StoreError, UrlFolder
from fastanf.cluster.url_lock import LockLost, UrlLock
from tests.cluster.faulty_store import KINDS, Faults, faulty, names_at, read_at, url, write_at

__all__ = ["faulty", "url"]

FAULTY = "faulty://bucket/runs/x"


class Clock:
    """Time that passes when somebody waits, in which others do what they do."""

    def __init__(self, meanwhile: Callable[[], Any] = lambda: None) -> None:
        self.waited_s, self.meanwhile = 0.0, meanwhile

    def sleep(self, seconds: float) -> None:
        self.waited_s += seconds
        self.meanwhile()


def lock_at(url: str, clock: Clock | None = None) -> UrlLock:
    return UrlLock(UrlFolder(url), (clock or Clock()).sleep)


def test_a_free_lock_is_taken_at_once_and_released(url: str) -> None:
    clock = Clock()
    for count in range(3):
        lock = lock_at(url, clock)
        lock.take()
        for _ in range(count):
            lock.renew()
        content = json.loads(read_at(f"{url}/lock"))
        assert set(content) == {"host", "pid", "started", "since", "kernel", "token", "count"}
        assert content["count"] == count and "lock" in names_at(url)
        lock.release()
        lock.release()
        with pytest.raises(LockLost):
            lock.renew()
    assert clock.waited_s == 0


def test_a_lock_of_a_process_that_is_seen_to_have_ended_is_taken_at_once(url: str) -> None:
    first, clock = lock_at(url), Clock()
    first.take()
    content = json.loads(read_at(f"{url}/lock"))
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    store = UrlFolder(url)
    for change, is_taken in (
        ({"pid": ended.pid, "kernel": "another"}, False),  # a process of another machine
        ({"pid": ended.pid, "kernel": ""}, False),
        ({"pid": -1}, False),
        ({"pid": "1"}, False),
        ({"started": (content["started"] or 0) + 1}, True),  # its number was given to another
        ({"pid": ended.pid}, True),
    ):
        store.put("lock", json.dumps({**content, **change}).encode())
        lock, before = lock_at(url, clock), clock.waited_s
        lock.take(9.0)
        assert (clock.waited_s == before) == is_taken, change
        lock.release()


def test_a_driver_that_lives_keeps_others_out(url: str) -> None:
    first = lock_at(url)
    first.take()
    clock, said = Clock(first.renew), []
    with pytest.raises(ValueError, match=r"is being trained by process \d+ on .* since") as caught:
        lock_at(url, clock).take(90.0, said.append)
    assert "\n" not in str(caught.value) and clock.waited_s <= 90
    assert len(said) == 1 and "90 s" in said[0] and url in said[0]
    first.renew()  # it holds it still


def test_a_lock_that_never_changes_is_taken_over(url: str) -> None:
    dead = lock_at(url)
    dead.take()
    clock = Clock()
    lock = lock_at(url, clock)
    lock.take(90.0)
    assert clock.waited_s == pytest.approx(90.0)
    lock.renew()
    with pytest.raises(LockLost, match="no longer this driver's"):  # it was not dead, only away
        dead.renew()
    dead.release()
    lock.renew()


def test_a_lock_that_is_released_meanwhile_is_taken_sooner(url: str) -> None:
    first = lock_at(url)
    first.take()
    clock = Clock(first.release)
    lock_at(url, clock).take(90.0)
    assert 0 < clock.waited_s < 90


def test_of_two_that_wait_for_a_dead_one_the_second_is_told(url: str) -> None:
    lock_at(url).take()
    other = lock_at(url)
    looks = []

    def take_too() -> None:
        looks.append(1)
        if len(looks) == 1:
            other.take(0.0)

    with pytest.raises(ValueError, match="is being trained"):
        lock_at(url, Clock(take_too)).take(90.0)
    other.renew()


def test_of_two_that_find_none_one_takes_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However close they are: a store puts a new file once. Where it cannot, reading it tells."""
    first, second = lock_at(url), lock_at(url)
    put_new = UrlFolder.put_new

    def after_the_other(store: UrlFolder, name: str, data: bytes) -> bool:
        monkeypatch.setattr(UrlFolder, "put_new", put_new)
        second.take()
        return put_new(store, name, data)

    monkeypatch.setattr(UrlFolder, "put_new", after_the_other)
    with pytest.raises(ValueError, match="in this moment"):
        first.take()
    second.renew()

    def is_overwritten(store: UrlFolder, name: str, data: bytes) -> bool:
        store.put(name, data)
        store.put(name, data.replace(b'"token": "', b'"token": "f'))
        return True

    second.release()
    monkeypatch.setattr(UrlFolder, "put_new", is_overwritten)
    with pytest.raises(ValueError, match="in this moment"):
        first.take()
    assert "lock" in names_at(url)  # it is the other's


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"token": 1}', b"\xff", b'"lock"'])
def test_a_damaged_lock_is_watched_as_any_other(url: str, content: bytes) -> None:
    write_at(f"{url}/lock", content)
    numbers = iter(range(100))
    clock = Clock(lambda: write_at(f"{url}/lock", content + bytes([next(numbers)])))
    with pytest.raises(ValueError, match="is being trained by another driver"):
        lock_at(url, clock).take(9.0)
    lock_at(url).take(9.0)


def test_a_lock_that_is_deleted_is_lost(url: str) -> None:
    lock = lock_at(url)
    lock.take()
    UrlFolder(url).remove("lock")
    with pytest.raises(LockLost, match="its lock is gone"):
        lock.renew()


def test_a_huge_lock_is_not_read(url: str) -> None:
    write_at(f"{url}/lock", bytes(10**6))
    with pytest.raises(ValueError, match="more than the 4096 bytes"):
        lock_at(url).take()


@pytest.mark.parametrize("kind", KINDS)
def test_an_operation_that_fails_never_lets_two_in(faulty: Any, kind: str) -> None:
    at = 0
    while True:
        at += 1
        faulty.files.clear()
        faulty.faults = faults = Faults(at, kind)
        lock, is_held = lock_at(FAULTY), False
        try:
            lock.take()
            is_held = True
            lock.renew()
        except StoreError as error:
            assert "\n" not in str(error)
        faulty.faults = Faults()
        if is_held:  # a renewal that failed is made good by the next, whatever became of it
            lock.renew()
            with pytest.raises(ValueError, match="is being trained"):
                lock_at(FAULTY, Clock(lock.renew)).take()
        else:
            clock = Clock()
            lock_at(FAULTY, clock).take()
            assert clock.waited_s == 0 or kind == "torn"  # half a lock is nobody's
        if not faults.has_failed:
            break
    assert at > 4


def test_a_run_is_locked_by_its_driver(url: str, tmp_path: Path) -> None:
    assert url_lock.WATCH_S >= 120  # drivers renew about once a minute
    first, second = RemoteRun(url), RemoteRun(url)
    first.take()
    first.renew()
    with pytest.raises(LockLost):
        second.renew()
    first.release()
    second.take()
    second.release()
    assert not first.exists()
