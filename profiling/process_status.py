"""What Linux says about a process's memory, threads and open files: /proc/PID."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
KIB_PER_MIB = 1024
_CLEAR_PEAK = "5"
"""What clear_refs takes to begin a new VmHWM (man 5 proc)."""


class Status(NamedTuple):
    """Of a process, at one moment."""

    rss_mib: float
    """Its resident set: what it has in memory."""
    peak_mib: float
    """The largest resident set, since its start or since `clear_peak`."""
    num_threads: int
    num_files: int
    """Open descriptors."""


def status(pid: int | str = "self") -> Status:
    """A process's status now.

    Raises:
        OSError: there is no such process, or no /proc.
    """
    folder = PROC / str(pid)
    lines = (line.partition(":") for line in (folder / "status").read_text().splitlines())
    words = {name: value.split() for name, _, value in lines}
    if "VmRSS" not in words:  # it has ended, and its parent has not asked how
        raise ProcessLookupError(f"process {pid} has no memory any more")
    return Status(
        int(words["VmRSS"][0]) / KIB_PER_MIB,
        int(words["VmHWM"][0]) / KIB_PER_MIB,
        int(words["Threads"][0]),
        len(os.listdir(folder / "fd")),
    )


def clear_peak() -> bool:
    """Begin this process's peak anew.

    Returns:
        Whether the system lets it.
    """
    try:
        (PROC / "self" / "clear_refs").write_text(_CLEAR_PEAK)
    except OSError:
        return False
    return True


def release_freed_memory() -> None:
    """Give back what the C library keeps of freed memory, so that what is taken next is seen.

    Where it is not glibc, nothing happens.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def check_is_linux() -> None:
    """See that /proc can be read.

    Raises:
        ValueError: it cannot.
    """
    try:
        status()
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"processes are watched in {PROC}, which only Linux has") from error
