"""One driver of a run in a store: a lock that is alive as long as it changes.

The file `lock` says {host, pid, started, since, kernel, token, count}. Its driver counts on now and
then. No clocks are compared: whoever finds a lock watches whether it changes, and takes it over if
it does not; at once, where it can see that the process has ended.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastanf.cluster.url_folder import NotThere, UrlFolder
from fastanf.options import start_of
from fastanf.run_lock import Owner
from fastanf.strict_json import strict_loads

NAME = "lock"
WATCH_S = 180.0
"""How long a lock is watched by default. A driver that lives renews its own more often."""
_NUM_LOOKS = 9
_MOST_BYTES = 4096


class LockLost(ValueError):
    """Another driver has taken the run over, or its lock was deleted: this one is to stop."""


class UrlLock:
    """The right to write a run in a store, from `take` until `release`.

    Args:
        store: the run's folder.
        sleep: waits for some seconds.
    """

    def __init__(self, store: UrlFolder, sleep: Callable[[float], None] = time.sleep) -> None:
        self._store, self._sleep = store, sleep
        self._content: dict[str, Any] | None = None

    def take(self, wait_s: float = WATCH_S, say: Callable[[str], None] = lambda line: None) -> None:
        """Take the lock.

        Args:
            wait_s: how long one that is there is watched.
            say: told that it is.

        Raises:
            ValueError: another driver holds it.
            OSError: the store cannot be read or written.
        """
        found = self._read()
        if found is not None and _has_ended(found):
            self._store.remove(NAME)
        elif found is not None:
            say(
                f"{self._store.url} is locked {_by(found)}: watching for {wait_s:.0f} s whether "
                "that still trains"
            )
            self._watch(found, wait_s)
        self._content = {
            **asdict(Owner.this_process()),
            "kernel": _kernel(),
            "token": secrets.token_hex(16),
            "count": 0,
        }
        try:
            if not (
                self._store.put_new(NAME, _bytes(self._content)) and self._is_own(self._read())
            ):
                raise ValueError(
                    f"{self._store.url} was locked by another driver in this moment: wait for it, "
                    "or stop it and type the command again"
                )
        except BaseException:  # it may be there nevertheless
            self.release()
            raise

    def _watch(self, found: bytes, wait_s: float) -> None:
        """Remove a lock that nobody renews."""
        for _ in range(_NUM_LOOKS):
            self._sleep(wait_s / _NUM_LOOKS)
            current = self._read()
            if current is None:
                return  # it was released
            if current != found:
                raise ValueError(
                    f"{self._store.url} is being trained {_by(current)}: wait for it, or stop it"
                )
        self._store.remove(NAME)

    def renew(self) -> None:
        """Show that this driver lives; several times within the time that others watch.

        Raises:
            LockLost: it is not this driver's any more.
            OSError: the store cannot be read or written; if that lasts, others take the lock.
        """
        found = self._read()
        if self._content is None or not self._is_own(found):
            who = "its lock is gone" if found is None else f"it is locked {_by(found)}"
            raise LockLost(
                f"{self._store.url} is no longer this driver's ({who}): it stops, and what is "
                "committed stays"
            )
        self._content["count"] += 1
        self._store.put(NAME, _bytes(self._content))

    def release(self) -> None:
        """Let others take it at once; where the store does not let that be said, they wait."""
        if self._content is None:
            return
        with suppress(OSError, ValueError):
            if self._is_own(self._read()):
                self._store.remove(NAME)
        self._content = None

    def _is_own(self, found: bytes | None) -> bool:
        try:
            token = strict_loads(found or b"")["token"]
        except (ValueError, TypeError, KeyError):
            return False
        return self._content is not None and token == self._content["token"]

    def _read(self) -> bytes | None:
        try:
            return self._store.get(NAME, _MOST_BYTES)
        except NotThere:
            return None


def _kernel() -> str:
    """Of the running system and its processes' numbers: the same words, the same processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _has_ended(found: bytes) -> bool:
    """Whether the lock is of a process that could be seen here, and is not there any more."""
    try:
        content = strict_loads(found)
        owner = Owner(*(content[name] for name in ("pid", "host", "started", "since")))
        is_here = content["kernel"] == _kernel() != ""
        return is_here and type(owner.pid) is int and 0 < owner.pid < 2**31 and not owner.is_alive
    except (ValueError, TypeError, KeyError):
        return False


def _bytes(content: dict[str, Any]) -> bytes:
    return (json.dumps(content) + "\n").encode()


def _by(found: bytes) -> str:
    """Whose lock it is, as far as it can be told."""
    try:
        content = strict_loads(found)
        host, pid, since = (start_of(str(content[name]), 80) for name in ("host", "pid", "since"))
    except (ValueError, TypeError, KeyError):
        return "by another driver"
    return f"by process {pid} on {host} since {since}"
