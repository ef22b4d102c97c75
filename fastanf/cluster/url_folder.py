"""A folder in a store that many machines reach (`s3://bucket/runs/x`), through fsspec.

A file is put as a whole or not at all: object stores do so; elsewhere it is put under another name
and moved to its own. What is read has a limit. Nothing is remembered between calls.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations

from fastanf.files import sync_folder
from fastanf.options import shown, start_of
from fastanf.paths import is_url

PUT_AT_ONCE = frozenset(
    {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "oci", "r2", "memory"}
)
"""Protocols whose stores show a file when all of it is there."""
UNFINISHED = ".put-"
"""How the name of a file begins that is to be moved to its own."""
PIECE_BYTES = 128 * 2**20
"""So much is in memory at once while a file is fetched."""
_KEPT = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
_KEPT |= {errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL}
_ADVICE = {
    errno.ENOENT: "make the bucket or folder first, or give another URL",
    errno.EACCES: "log in to the store with an account that may read and write there",
    errno.ENOSPC: "free some space there",
    errno.EIO: "see whether the store can be reached from this machine",
}
_ADVICE |= {errno.EPERM: _ADVICE[errno.EACCES], errno.EDQUOT: _ADVICE[errno.ENOSPC]}


class StoreError(OSError):
    """The store does not do what it should; `strerror` is a line that says what to do. Troubles
    that may pass have the errno EIO, as those of a disk."""


class NotThere(StoreError):
    """There is no such file."""


class UrlFolder:
    """Files under a URL.

    Args:
        url: of the folder, with a protocol that fsspec knows. It need not exist.

    Raises:
        ValueError: it is no such URL, or the package for its protocol is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._files, self._root = _file_system(self.url)
        protocols = self._files.protocol
        names = {protocols} if isinstance(protocols, str) else set(protocols)
        self._is_put_at_once = bool(names & PUT_AT_ONCE)

    def below(self, name: str) -> UrlFolder:
        """A folder in this one."""
        return UrlFolder(f"{self.url}/{name}")

    def sizes(self) -> dict[str, int]:
        """Name -> bytes of the files that are in the folder itself; none where it is not there.

        Raises:
            StoreError: it cannot be told.
        """
        return {name: size for name, size, is_file in self._list() if is_file}

    def folders(self) -> list[str]:
        """Names of the folders in this one. Raises as `sizes`."""
        return [name for name, _, is_file in self._list() if not is_file]

    def _list(self) -> list[tuple[str, int, bool]]:
        try:
            with self._told("listed", self.url):
                self._files.invalidate_cache()
                entries: list[dict[str, Any]] = self._files.ls(self._root, detail=True)
        except NotThere:
            return []
        found = []
        for entry in entries:
            path, kind = str(entry["name"]).rstrip("/"), entry["type"]
            if path != self._root.rstrip("/") and kind in ("file", "directory"):
                found.append((path.rpartition("/")[2], int(entry["size"] or 0), kind == "file"))
        return found

    def has(self, name: str) -> bool:
        """Whether a file is there.

        Raises:
            StoreError: it cannot be told.
        """
        try:
            with self._told("read", self._url_of(name)):
                self._files.invalidate_cache()
                return self._files.info(self._path(name))["type"] == "file"
        except NotThere:
            return False

    def put(self, name: str, data: bytes) -> None:
        """Put a file, in the place of one that may be there.

        Raises:
            StoreError: it may not be there, or the old one.
        """
        with self._told("written", self._url_of(name)), self._place(name) as place:
            self._files.pipe_file(place, data)

    def put_new(self, name: str, data: bytes) -> bool:
        """Put a file unless one is there.

        Returns:
            Whether it was put. A store that cannot do both as one puts it anyhow: read it again.

        Raises:
            StoreError: as `put`.
        """
        with self._told("written", self._url_of(name)):
            self._make_folder()
            try:
                self._files.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
            except (TypeError, NotImplementedError, OSError) as error:
                if isinstance(error, OSError) and error.errno != errno.ENOSYS:
                    raise
                self._files.pipe_file(self._path(name), data)
        return True

    def put_file(self, name: str, path: Path) -> None:
        """Put a file of this machine. Raises as `put`."""
        with self._told("written", self._url_of(name)), self._place(name) as place:
            self._files.put_file(str(path), place)

    def get(self, name: str, most_bytes: int) -> bytes:
        """The content of a file.

        Raises:
            NotThere: there is none.
            StoreError: it cannot be read.
            ValueError: it is larger than that.
        """
        try:
            data = self._piece(name, 0, most_bytes + 1)
        except NotThere:
            raise
        except StoreError:
            if not self._is_empty(name):
                raise
            data = b""  # no bytes of it can be asked for
        if len(data) > most_bytes:
            raise ValueError(
                f"{self._url_of(name)} has more than the {most_bytes} bytes that are allowed"
            )
        return data

    def get_file(self, name: str, path: Path, size: int) -> None:
        """Fetch a file of a known size to this machine, in the place of one that may be there.

        Raises:
            NotThere, StoreError: as `get`.
            ValueError: it is shorter.
            OSError: the disk does not take it.
        """
        path.unlink(missing_ok=True)
        with open(path, "xb") as file:
            for begin in range(0, size, PIECE_BYTES):
                end = min(size, begin + PIECE_BYTES)
                data = self._piece(name, begin, end)
                if len(data) != end - begin:
                    raise ValueError(f"{self._url_of(name)} is cut off")
                file.write(data)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            StoreError: it may be there still.
        """
        with suppress(NotThere), self._told("removed", self._url_of(name)):
            self._files.rm_file(self._path(name))

    def _is_empty(self, name: str) -> bool:
        try:
            with self._told("read", self._url_of(name)):
                return self._files.info(self._path(name))["size"] == 0
        except StoreError:
            return False

    def _piece(self, name: str, begin: int, end: int) -> bytes:
        with self._told("read", self._url_of(name)):
            return bytes(self._files.cat_file(self._path(name), start=begin, end=end))  # type: ignore

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _url_of(self, name: str) -> str:
        return f"{self.url}/{name}"

    def _make_folder(self) -> None:
        if not self._is_put_at_once:
            self._files.makedirs(self._root, exist_ok=True)

    @contextmanager
    def _place(self, name: str) -> Iterator[str]:
        """Where to put a file, which is at its own place once the block has ended well."""
        if self._is_put_at_once:
            yield self._path(name)
            return
        self._make_folder()
        place = self._path(f"{UNFINISHED}{secrets.token_hex(4)}-{name}")
        try:
            yield place
            if isinstance(self._files, LocalFileSystem):
                _sync(place)
            self._files.mv(place, self._path(name))
        except BaseException:
            with suppress(Exception):  # what is left harms nobody
                self._files.rm_file(place)
            raise
        if isinstance(self._files, LocalFileSystem):
            sync_folder(Path(self._root))

    @contextmanager
    def _told(self, what: str, url: str) -> Iterator[None]:
        """Within, any error of the store is a StoreError."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            raise _store_error(error, what, url) from error


def _file_system(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    protocol, _, rest = url.partition("://")
    is_relative = protocol in ("file", "local") and not rest.startswith("/")
    if not is_url(url) or not rest.strip("/") or "::" in url or is_relative:
        raise ValueError(
            f"URL must be like s3://BUCKET/RUN or file:///FOLDER/RUN, with a protocol and a place "
            f"in its store, got {shown(url)}"
        )
    try:
        files, root = url_to_fs(url)
        return files, str(files._strip_protocol(root))
    except ImportError as error:
        package = known_implementations.get(protocol, {}).get("class", protocol).split(".")[0]
        raise ValueError(
            f"{url} needs the package {package} on every machine: pip install {package} "
            f"({_words(error)})"
        ) from error
    except Exception as error:
        if isinstance(error, ValueError) and "rotocol not known" in str(error):
            raise ValueError(
                f"URL must begin with a protocol that fsspec knows (s3, gs, abfs, file, ...), got "
                f"{shown(url)}"
            ) from error
        raise ValueError(f"{url} cannot be used ({_words(error)}): give another URL") from error


def _store_error(error: Exception, what: str, url: str) -> StoreError:
    number = _number_of(error)
    line = f"{url} cannot be {what} ({_words(error)}): {_ADVICE.get(number, 'give another URL')}"
    return (NotThere if number == errno.ENOENT else StoreError)(number, line)


def _number_of(error: Exception) -> int:
    name = type(error).__name__
    if isinstance(error, FileNotFoundError):
        return errno.ENOENT
    if isinstance(error, PermissionError) or "Credential" in name or "Authentication" in name:
        return errno.EACCES
    number = error.errno if isinstance(error, OSError) else None
    return number if number in _KEPT else errno.EIO  # connections, time limits, busy stores


def _words(error: BaseException) -> str:
    name = type(error).__name__
    text = getattr(error, "strerror", None) or str(error)
    text = " ".join(start_of(str(text), 300).split())
    return f"{name}: {text}" if text else name


def _sync(path: str) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
