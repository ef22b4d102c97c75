"""Files that are whole or not there: replaced at once, or appended to with a sync.

What is opened is a regular file: never a link, which could lead out of its folder, nor a FIFO or
device, at which a reader would wait forever.
"""

import contextlib
import errno
import hashlib
import io
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_SAFELY = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_CHUNK = 1 << 20
DISK_TROUBLES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk fails",
}
"""Failures that pass, in words."""


def is_disk_trouble(error: OSError) -> bool:
    """Whether a disk takes nothing now, and may again: it is full, read-only or fails."""
    return error.errno in DISK_TROUBLES


def write_atomic(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Replaces a file as a whole: a reader sees the old content or the new one, never a part.

    Args:
        path: the file.
        data: its content, or pieces of it, one after the other.

    Raises:
        OSError: the write failed; the old file is as it was and nothing is left beside it.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)  # of a killed process that had the same number, or a link
        file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY, 0o666)
        try:
            for piece in [data] if isinstance(data, bytes) else data:
                _write_all(file, piece)
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    sync_folder(path.parent)


def remove_unfinished(folder: Path, names: Iterable[str]) -> None:
    """Removes what processes that were killed in `write_atomic` have left beside some files.

    Args:
        folder: in which nobody writes now.
        names: of the files.
    """
    pattern = re.compile(rf"\.({'|'.join(map(re.escape, names))})\.\d+\.tmp")
    with contextlib.suppress(OSError):
        for entry in folder.iterdir():
            if pattern.fullmatch(entry.name) and not entry.is_dir():
                entry.unlink()


def append_text(path: Path, text: str, keep: int | None = None) -> None:
    """Appends to a file and syncs it.

    Args:
        path: a regular file.
        text: what comes behind its end.
        keep: bytes that stay; what is behind them was left by an attempt that failed, and is cut
            off first. None: the file is whole.

    Raises:
        OSError: the write failed; the file is as it was, or has a part of the text behind its end
            where the device did not even let that be cut off: then give `keep` the next time.
        ValueError: it is no regular file.
    """
    file = _open_regular(path, os.O_WRONLY | os.O_APPEND)
    try:
        size = os.fstat(file).st_size
        if keep is not None and keep < size:
            os.ftruncate(file, keep)
            size = keep
        try:
            _write_all(file, text.encode())
            os.fsync(file)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(file, size)
            raise
    finally:
        os.close(file)


def cut_file(path: Path, size: int) -> None:
    """Shortens a regular file to `size` bytes, if it has more, and syncs it; needs no space.

    Raises:
        OSError: it failed. ValueError: it is no regular file.
    """
    file = _open_regular(path, os.O_WRONLY)
    try:
        if os.fstat(file).st_size > size:
            os.ftruncate(file, size)
            os.fsync(file)
    finally:
        os.close(file)


def read_regular(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file, never of a link, a FIFO or a device.

    Args:
        path: the file.
        max_bytes: the most that it may hold; more is refused before memory is taken for it.

    Raises:
        OSError: it cannot be opened or read.
        ValueError: it is no regular file, or larger than that.
    """
    file = _open_regular(path, os.O_RDONLY)
    try:
        size = os.fstat(file).st_size
        data = bytearray()
        while size <= max_bytes and (chunk := os.read(file, _CHUNK)):
            data += chunk
            size = max(size, len(data))  # it may grow while it is read
    finally:
        os.close(file)
    if size > max_bytes:
        raise ValueError(f"{str(path)!r} has {size} bytes: at most {max_bytes} are allowed")
    return bytes(data)


def whole_bytes(path: Path) -> tuple[int, int]:
    """How many bytes the whole lines at the beginning of a regular file have, and how many it has.

    Raises:
        OSError, ValueError: as `read_regular`.
    """
    with open_regular(path) as file:
        start = size = os.fstat(file.fileno()).st_size
        while start:
            start, end = max(0, start - _CHUNK), start
            found = os.pread(file.fileno(), end - start, start).rfind(b"\n")
            if found >= 0:
                return start + found + 1, size
    return 0, size


def open_regular(path: Path) -> io.BufferedReader:
    """A regular file to be read, args and errors as `read_regular`; the caller closes it."""
    return os.fdopen(_open_regular(path, os.O_RDONLY), "rb")


def sha256_of(path: Path, num_bytes: int) -> "tuple[int, hashlib._Hash]":
    """SHA-256 of a regular file's first bytes.

    Args:
        path: the file.
        num_bytes: how many; fewer are taken where it has fewer.

    Returns:
        The number of bytes taken, and their sum as it can be gone on with.

    Raises:
        OSError, ValueError: as `read_regular`.
    """
    file = _open_regular(path, os.O_RDONLY)
    try:
        rest, digest = num_bytes, hashlib.sha256()
        while rest and (chunk := os.read(file, min(rest, _CHUNK))):
            digest.update(chunk)
            rest -= len(chunk)
    finally:
        os.close(file)
    return num_bytes - rest, digest


def check_own_entries(folder: Path, files: Iterable[str], folders: Iterable[str]) -> None:
    """Refuses links, FIFOs, sockets and devices where a program keeps its own files.

    Args:
        folder: that holds them; it may be a link itself. Other names in it are not looked at.
        files: names in it that are regular files, where they are there.
        folders: names in it that are real folders with regular files and real folders below them.

    Raises:
        ValueError: names the first entry that is something else.
        OSError: a folder cannot be read.
    """
    expected = {**dict.fromkeys(files, stat.S_IFREG), **dict.fromkeys(folders, stat.S_IFDIR)}
    below = []
    for name, kind in expected.items():
        with contextlib.suppress(FileNotFoundError):
            mode = os.lstat(folder / name).st_mode
            if stat.S_IFMT(mode) != kind:
                raise ValueError(_refusal(folder, folder / name, mode))
            if kind == stat.S_IFDIR:
                below.append(folder / name)
    while below:
        with os.scandir(below.pop()) as entries:
            for entry in entries:
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode):
                    below.append(Path(entry.path))
                elif not stat.S_ISREG(mode):
                    raise ValueError(_refusal(folder, Path(entry.path), mode))


def sync_folder(path: Path) -> None:
    """Makes what was created, renamed or removed in a folder last; some file systems cannot."""
    with contextlib.suppress(OSError):
        folder = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _open_regular(path: Path, flags: int) -> int:
    try:
        file = os.open(path, flags | _SAFELY)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):  # a link, FIFO or folder
            raise ValueError(_no_regular_file(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ValueError(_no_regular_file(path))
    return file


def _no_regular_file(path: Path) -> str:
    return f"{str(path)!r} is no regular file: links, folders and devices are not allowed there"


_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a file",
}


def _refusal(folder: Path, entry: Path, mode: int) -> str:
    wanted = "regular files and real folders are allowed"
    return (
        f"{str(folder)!r} has {str(entry.relative_to(folder))!r}, which is "
        f"{_KINDS.get(stat.S_IFMT(mode), 'something else')}: only {wanted} there; remove it, or "
        "put what it stands for in its place"
    )


def _write_all(file: int, data: Any) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
