"""One writer of a run folder: who is refused, what a killed owner leaves, and no lock at all."""

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastanf.run_lock import Owner, RunLock

HOLD = """
import os, subprocess, sys
from pathlib import Path
from fastanf.run_lock import RunLock
lock = RunLock.take(Path(sys.argv[1]))
"""
WAIT = "print(os.getpid(), flush=True)\nsys.stdin.read()\n"


@contextmanager
def holder(folder: Path, script: str = HOLD + WAIT) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until the block ends or it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def ended_pid() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def write_owner(folder: Path, **changes: Any) -> dict[str, Any]:
    content = {**vars(Owner.this_process()), **changes}
    (folder / "lock").write_text(json.dumps(content))
    return content


def without_flock(patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    patch.setattr(fcntl, "flock", refuse)


@pytest.fixture(params=["flock", "no flock"])
def any_file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "no flock":
        without_flock(monkeypatch)
    return request.param


def test_a_second_process_is_refused_and_told_whom_to_stop(
    tmp_path: Path, any_file_system: str
) -> None:
    with holder(tmp_path) as process:
        pid = int(line_of(process))
        line = (
            rf"run_dir '{re.escape(str(tmp_path))}' is being trained by process {pid} on "
            rf"{re.escape(socket.gethostname())} since \d{{4}}-\d\d-\d\dT[\d:]+\+00:00: wait for "
            rf"it, or stop it \(kill {pid}\)"
        )
        for _ in range(2):
            with pytest.raises(ValueError, match=f"^{line}$"):
                RunLock.take(tmp_path)
        content = json.loads((tmp_path / "lock").read_text())
    assert (content["pid"], set(content)) == (pid, {"pid", "host", "started", "since"})


def test_a_process_does_not_lock_twice(tmp_path: Path, any_file_system: str) -> None:
    lock = RunLock.take(tmp_path)
    with pytest.raises(ValueError, match=rf"by process {os.getpid()} on "):
        RunLock.take(tmp_path)
    lock.release()
    RunLock.take(tmp_path).release()


def test_a_killed_owner_stops_nobody_and_is_known(tmp_path: Path, any_file_system: str) -> None:
    with holder(tmp_path) as process:
        pid = int(line_of(process))
        kill(process)
        lock = RunLock.take(tmp_path)
    assert lock.took_over is not None
    assert (lock.took_over.pid, lock.took_over.host) == (pid, socket.gethostname())
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    lock.release()


def test_a_released_lock_is_an_empty_file_without_an_owner(
    tmp_path: Path, any_file_system: str
) -> None:
    lock = RunLock.take(tmp_path)
    inode = os.stat(tmp_path / "lock").st_ino
    lock.release()
    lock.release()
    assert (tmp_path / "lock").read_bytes() == b""
    again = RunLock.take(tmp_path)
    assert again.took_over is None and os.stat(tmp_path / "lock").st_ino == inode
    again.release()


def test_a_later_process_of_the_same_number_is_not_the_owner(
    tmp_path: Path, any_file_system: str
) -> None:
    started = Owner.this_process().started
    assert started is not None
    write_owner(tmp_path, started=started - 1)
    lock = RunLock.take(tmp_path)
    assert lock.took_over is not None and lock.took_over.started == started - 1
    lock.release()


def test_without_flock_an_owner_whose_start_is_unknown_counts_as_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_flock(monkeypatch)
    write_owner(tmp_path, started=None)
    with pytest.raises(ValueError, match="is being trained by process"):
        RunLock.take(tmp_path)


def test_without_flock_another_user_s_process_counts_as_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_flock(monkeypatch)
    write_owner(tmp_path)

    def forbid(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "kill", forbid)
    with pytest.raises(ValueError, match="is being trained by process"):
        RunLock.take(tmp_path)


def test_without_flock_an_ended_process_that_nobody_asked_after_is_no_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_flock(monkeypatch)
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    write_owner(tmp_path, pid=process.pid, started=None)
    lock = RunLock.take(tmp_path)
    assert lock.took_over is not None and lock.took_over.pid == process.pid
    lock.release()
    process.wait()


def test_without_flock_another_host_is_refused_until_the_file_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_flock(monkeypatch)
    content = write_owner(tmp_path, host="node7", pid=ended_pid())
    advice = f"if process {content['pid']} on node7 has ended, delete {tmp_path / 'lock'}"
    with pytest.raises(ValueError, match=rf"^run_dir .* on node7 since .*{re.escape(advice)}$"):
        RunLock.take(tmp_path)
    (tmp_path / "lock").unlink()
    RunLock.take(tmp_path).release()


def test_with_flock_an_owner_of_another_host_is_refused_by_name_and_taken_over_when_gone(
    tmp_path: Path,
) -> None:
    content = write_owner(tmp_path, host="node7")
    descriptor = os.open(tmp_path / "lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match=rf"stop it \(kill {content['pid']} on node7\)$"):
        RunLock.take(tmp_path)
    os.close(descriptor)
    lock = RunLock.take(tmp_path)
    assert lock.took_over == Owner(**content)
    lock.release()


def test_a_process_of_the_past_is_not_the_one_to_kill(tmp_path: Path) -> None:
    write_owner(tmp_path, pid=ended_pid())
    descriptor = os.open(tmp_path / "lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match=r"by another process: wait for it, or stop it$"):
        RunLock.take(tmp_path)
    os.close(descriptor)


OWNER = {"pid": 1, "host": "h", "started": 1, "since": "now"}
DAMAGED = {
    "text": b"pid 12\n",
    "half": b'{"pid": 12, "ho',
    "no object": b"[1, 2]",
    "number": b"7",
    "bytes": b"\xff\xfe\x00\xd8",
    "zeros": bytes(64),
    "deep": b"[" * 4000,
    "huge": b'{"pid": 1}' + b" " * 10**6,
    "digits": b'{"pid": ' + b"9" * 4000 + b"}",
    **{
        f"{name} {value!r:.20}": json.dumps(OWNER | {name: value}).encode()
        for name, value in [
            ("pid", "12"),
            ("pid", True),
            ("pid", 0),
            ("pid", -1),
            ("pid", 2**70),
            ("pid", 1.5),
            ("started", "x"),
            ("started", -1),
            ("started", 2**70),
            ("host", None),
            ("host", ""),
            ("host", "a\nb"),
            ("host", "\x1b[2J"),
            ("host", "h" * 300),
            ("since", ["now"]),
            ("since", "\ud800"),
            ("more", 1),
        ]
    },
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_content_is_no_owner(tmp_path: Path, any_file_system: str, content: bytes) -> None:
    (tmp_path / "lock").write_bytes(content)
    lock = RunLock.take(tmp_path)
    assert lock.took_over is None
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    lock.release()


def test_a_lock_that_leads_elsewhere_is_refused_and_its_target_untouched(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(ValueError, match=r"^run_dir .* cannot be locked \(.*regular file$"):
        RunLock.take(tmp_path)
    assert (tmp_path / "target").read_text() == "mine"
    (tmp_path / "lock").unlink()
    os.mkfifo(tmp_path / "lock")
    with pytest.raises(ValueError, match="no regular file"):
        RunLock.take(tmp_path)
    (tmp_path / "lock").unlink()
    (tmp_path / "lock").mkdir()
    with pytest.raises(ValueError, match="cannot be locked"):
        RunLock.take(tmp_path)


def test_a_read_only_folder_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(ValueError, match=r"cannot be locked \(Read-only file system\)"):
            RunLock.take(tmp_path)


def test_on_a_full_disk_flock_holds_without_the_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *_: 3)
        lock = RunLock.take(tmp_path)
        with pytest.raises(ValueError, match="by another process"):
            RunLock.take(tmp_path)
        lock.release()
        without_flock(patch)
        with pytest.raises(ValueError, match=r"cannot be locked \(No space left on device\)"):
            RunLock.take(tmp_path)
    RunLock.take(tmp_path).release()


def test_release_leaves_another_owner_s_words(tmp_path: Path) -> None:
    lock = RunLock.take(tmp_path)
    other = write_owner(tmp_path, pid=1)
    lock.release()
    assert json.loads((tmp_path / "lock").read_text()) == other


DIE = "os.kill(os.getpid(), 9)\n"
CHILDREN = {
    "forked": f"if os.fork():\n    {DIE}{WAIT}",
    "executed": (
        "child = subprocess.Popen(['cat'], close_fds=False)\nprint(child.pid, flush=True)\n" + DIE
    ),
}


@pytest.mark.parametrize("kind", CHILDREN)
def test_a_child_that_outlives_its_parent_holds_no_lock(tmp_path: Path, kind: str) -> None:
    with holder(tmp_path, HOLD + CHILDREN[kind]) as process:
        child = int(line_of(process))
        assert process.wait() == -signal.SIGKILL
        os.kill(child, 0)  # it lives, until its input ends
        lock = RunLock.take(tmp_path)
        assert lock.took_over is not None and lock.took_over.pid == process.pid
        lock.release()


def test_a_forked_child_leaves_its_parent_s_lock_alone(tmp_path: Path) -> None:
    script = HOLD + (
        "child = os.fork()\nif not child:\n    lock.release()\n    os._exit(0)\n"
        "os.waitpid(child, 0)\n" + WAIT
    )
    with holder(tmp_path, script) as process:
        pid = int(line_of(process))
        with pytest.raises(ValueError, match=rf"by process {pid} on "):
            RunLock.take(tmp_path)
