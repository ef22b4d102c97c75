"""How much memory the host has free now: of the machine, within every limit above the process.

Limits are those of the control groups, of both versions and at every level, and of the process
itself (`ulimit`). Swap never counts as memory. The file cache that the kernel gives back under
pressure counts as free.

Sources: Linux Documentation/admin-guide/cgroup-v1/memory.rst, cgroup-v2.rst; proc_pid_cgroup(5),
proc_pid_mountinfo(5), getrlimit(2).
"""

import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

PROC = Path("/proc")
_ESCAPED = re.compile(r"\\([0-7]{3})")


def host_free_bytes(proc: Path = PROC) -> int:
    """Bytes that the process may still touch: the machine's, or less within a control group."""
    return min([machine_free(proc), *control_group_free(proc)])


def machine_free(proc: Path = PROC) -> int:
    """What the kernel says is available without swapping; all memory where it says nothing."""
    try:
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def address_space_free(proc: Path = PROC) -> int | None:
    """Bytes that the process may still map (RLIMIT_AS, RLIMIT_DATA), touched or not; None where
    it has no such limit.
    """
    limits = (resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")
    free = [
        max(0, allowed - _status_bytes(proc, used))
        for allowed, used in ((resource.getrlimit(limit)[0], used) for limit, used in limits)
        if allowed != resource.RLIM_INFINITY
    ]
    return min(free, default=None)


def _status_bytes(proc: Path, name: str) -> int:
    """A size of the process; 0 where the system does not tell."""
    try:
        for line in (proc / "self" / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


class _Files(NamedTuple):
    """What a version of control groups calls its files; limits, use, and statistics' cache."""

    limits: tuple[str, ...]
    used: str
    caches: tuple[str, ...]


# memory.high does not kill, but nobody trains at the pace that is left beyond it.
_SECOND = _Files(("memory.max", "memory.high"), "memory.current", ("inactive_file",))
_FIRST = _Files(
    ("memory.limit_in_bytes",),
    "memory.usage_in_bytes",
    ("total_inactive_file", "inactive_file"),  # the total has the groups below in it, as the use
)


def control_group_free(proc: Path = PROC) -> list[int]:
    """Bytes below each memory limit of the process's control groups and of those above them."""
    return [
        free
        for folder, files in _groups(proc / "self")
        for name in files.limits
        if (free := _below(folder, name, files)) is not None
    ]


def _below(folder: Path, limit: str, files: _Files) -> int | None:
    try:
        allowed, used = int((folder / limit).read_text()), int((folder / files.used).read_text())
    except (OSError, ValueError):  # no such limit, or the word max
        return None
    return max(0, allowed - used + _reclaimable(folder, files.caches))


def _reclaimable(folder: Path, names: tuple[str, ...]) -> int:
    """File cache that the kernel gives back under pressure; the first name that is there."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
        found = dict(line.split(maxsplit=1) for line in lines if " " in line)
        return next((int(found[name]) for name in names if name in found), 0)
    except (OSError, ValueError):
        return 0


def _groups(process: Path) -> Iterator[tuple[Path, _Files]]:
    """The folders of the process's memory groups and of all above them, as far as they are
    mounted here.
    """
    try:
        own = _own_groups((process / "cgroup").read_text())
        mounts = (process / "mountinfo").read_text().splitlines()
    except OSError:
        return
    for line in mounts:
        mounted = _memory_mount(line)
        if mounted is None or mounted.files not in own:
            continue
        group = PurePosixPath(own[mounted.files])
        # A group beyond what is mounted, as of a container whose names are its own: the top.
        is_inside = group.is_relative_to(mounted.root) and ".." not in group.parts
        below = group.relative_to(mounted.root) if is_inside else PurePosixPath()
        folder = mounted.folder / below
        yield folder, mounted.files
        while folder != mounted.folder:
            folder = folder.parent
            yield folder, mounted.files


def _own_groups(text: str) -> dict[_Files, str]:
    """The paths of the process's groups that limit memory, from /proc/self/cgroup."""
    own = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            own[_SECOND] = path
        elif "memory" in controllers.split(","):
            own[_FIRST] = path
    return own


class _Mount(NamedTuple):
    files: _Files
    root: str
    """The group that is mounted."""
    folder: Path


def _memory_mount(line: str) -> _Mount | None:
    """A line of /proc/self/mountinfo; None where it mounts no groups that limit memory."""
    before, _, after = line.partition(" - ")
    place, kind = before.split(), after.split()
    if len(place) < 5 or len(kind) < 3:
        return None
    root, folder = (_ESCAPED.sub(lambda match: chr(int(match[1], 8)), p) for p in place[3:5])
    if kind[0] == "cgroup2":
        return _Mount(_SECOND, root, Path(folder))
    if kind[0] == "cgroup" and "memory" in kind[-1].split(","):
        return _Mount(_FIRST, root, Path(folder))
    return None
