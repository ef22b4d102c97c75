"""One writer of a run folder: a lock that names its owner, and that a killed owner leaves free.

RUN/lock is held by flock and says {pid, host, started, since}. The kernel frees it with the end of
its process, so that what a killed one left in the file stops nobody. On a file system without flock
the content alone decides; of two processes that begin in the same moment there, both may get in.

flock belongs to the open file, not to the process: a forked child holds it too, and would go on
holding it after its parent was killed. Children of `os.fork` therefore close it at once, and
programs that are executed never get it (O_CLOEXEC).
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import weakref
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

NAME = "lock"
_MAX_BYTES = 4096


@dataclass(frozen=True)
class Owner:
    """A process that holds or held a lock."""

    pid: int
    host: str
    started: int | None
    """Clock ticks after boot, which tell it from a later process of that number; None: unknown."""
    since: str
    """When it took the lock, ISO 8601."""

    @classmethod
    def this_process(cls) -> "Owner":
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(os.getpid(), socket.gethostname(), _state_and_start(os.getpid())[1], now)

    @property
    def is_here(self) -> bool:
        """Whether it is of this host."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether it still runs, for one of this host."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # another user's
            pass
        state, started = _state_and_start(self.pid)
        if state in ("Z", "X"):  # it has ended, and its parent has not asked how
            return False
        return started is None or self.started is None or started == self.started


class RunLock:
    """The right to write into a run folder, until `release` or the end of the process."""

    def __init__(self, descriptor: int, owner: Owner, took_over: Owner | None) -> None:
        self.took_over = took_over
        """Who left the lock without releasing it: a process that was killed."""
        self._owner = owner
        self._descriptor: int | None = descriptor
        _HELD.add(self)

    @classmethod
    def take(cls, run_dir: Path) -> "RunLock":
        """Locks a run folder for this process.

        Raises:
            ValueError: another process holds it, or may do so where nothing can tell; or the lock
                file cannot be written or is no regular file.
        """
        descriptor = _opened(run_dir)
        try:
            has_flock = _flock(descriptor, run_dir)
            before = _read_owner(descriptor)
            if not has_flock and before is not None:
                _check_is_stale(before, run_dir)
            owner = Owner.this_process()
            try:
                _write_owner(descriptor, owner)
            except OSError as error:  # as on a full disk; flock holds without the words
                if not has_flock:
                    raise ValueError(_unwritable(run_dir, error)) from error
            return cls(descriptor, owner, before)
        except BaseException:
            os.close(descriptor)
            raise

    def release(self) -> None:
        """Lets others take it; the file stays, empty."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            try:
                with contextlib.suppress(OSError):
                    if _read_owner(descriptor) == self._owner:
                        os.ftruncate(descriptor, 0)
            finally:
                os.close(descriptor)

    def _drop_in_child(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_HELD: "weakref.WeakSet[RunLock]" = weakref.WeakSet()


def _drop_all_in_child() -> None:
    for lock in list(_HELD):
        lock._drop_in_child()


os.register_at_fork(after_in_child=_drop_all_in_child)


def _opened(run_dir: Path) -> int:
    safely = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(run_dir / NAME, os.O_RDWR | os.O_CREAT | safely, 0o666)
    except OSError as error:
        raise ValueError(_unwritable(run_dir, error)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"run_dir {str(run_dir)!r} has a lock that is no regular file: remove it")
    return descriptor


def _flock(descriptor: int, run_dir: Path) -> bool:
    """Whether it is held now; False where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(_is_trained(run_dir, _read_owner(descriptor))) from None
    except OSError:
        return False
    return True


def _check_is_stale(owner: Owner, run_dir: Path) -> None:
    """Without flock: only an owner of this host can be seen to have ended."""
    if not owner.is_here:
        raise ValueError(
            f"run_dir {str(run_dir)!r} was locked by process {owner.pid} on {owner.host} since "
            f"{owner.since}, and its file system cannot tell whether that still runs: if process "
            f"{owner.pid} on {owner.host} has ended, delete {run_dir / NAME}"
        )
    if owner.is_alive:
        raise ValueError(_is_trained(run_dir, owner))


def _is_trained(run_dir: Path, owner: Owner | None) -> str:
    who, how = "another process", ""
    # A name of the past would be the wrong one to kill: the holder may not have written its own.
    if owner is not None and (not owner.is_here or owner.is_alive):
        who = f"process {owner.pid} on {owner.host} since {owner.since}"
        how = f" (kill {owner.pid}{'' if owner.is_here else f' on {owner.host}'})"
    return f"run_dir {str(run_dir)!r} is being trained by {who}: wait for it, or stop it{how}"


def _unwritable(run_dir: Path, error: OSError) -> str:
    return (
        f"run_dir {str(run_dir)!r} cannot be locked ({error.strerror}): give a folder that can be "
        "written, in which lock is a regular file"
    )


def _read_owner(descriptor: int) -> Owner | None:
    """Who the file names; None where it is empty, damaged or not written by `_write_owner`."""
    try:
        data = os.pread(descriptor, _MAX_BYTES + 1, 0)
        content: Any = json.loads(data) if 0 < len(data) <= _MAX_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
    if not _names_an_owner(content):
        return None
    return Owner(content["pid"], content["host"], content["started"], content["since"])


def _names_an_owner(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and set(content) == {"pid", "host", "started", "since"}
        and _is_whole(content["pid"], 1, 2**31 - 1)
        and (content["started"] is None or _is_whole(content["started"], 0, 2**63))
        and all(_is_word(content[name]) for name in ("host", "since"))
    )


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_word(value: Any) -> bool:
    """Whether it can stand in a line of an error."""
    return isinstance(value, str) and 0 < len(value) <= 255 and value.isprintable()


def _write_owner(descriptor: int, owner: Owner) -> None:
    data = (json.dumps(asdict(owner)) + "\n").encode()
    os.ftruncate(descriptor, 0)
    if os.pwrite(descriptor, data, 0) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(descriptor)


def _state_and_start(pid: int) -> tuple[str | None, int | None]:
    """State and start time of a process (fields 3 and 22 of its stat, proc(5)); None: unknown."""
    try:
        stat_text = Path(f"/proc/{pid}/stat").read_bytes()
        fields = stat_text.rpartition(b")")[2].split()  # its name may hold blanks and brackets
        return fields[0].decode(), int(fields[19])
    except (OSError, ValueError, IndexError):
        return None, None
