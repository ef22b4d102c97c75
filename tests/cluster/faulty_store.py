"""Stores for tests: `file://`, `memory://`, and one that fails at any operation that one wants."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from fastanf.cluster import url_folder

KINDS = ("before", "after", "torn")
"""An operation fails and does nothing; does all and then fails, as where the answer is lost; or
leaves half of a file, where the store shows such."""


class Unreachable(Exception):
    """What a store raises that knows nothing of OSError."""


@dataclass
class Faults:
    """Which operations fail."""

    at: int = 0
    """The number of the first one, from 1; 0 for none."""
    kind: str = "before"
    is_lasting: bool = False
    """Whether all later ones fail too and do nothing, as for a process that is dead."""
    done: list[tuple[str, str]] = field(default_factory=list)
    """Name and path of every operation until now."""

    @property
    def has_failed(self) -> bool:
        return 0 < self.at <= len(self.done)


class FaultyFileSystem(AbstractFileSystem):
    """Files in memory."""

    protocol = "faulty"
    files: ClassVar[dict[str, bytes]] = {}
    faults: ClassVar[Faults] = Faults()

    def _do(self, name: str, path: str, effect: Callable[[], Any], half: Any = None) -> Any:
        faults = type(self).faults
        faults.done.append((name, path))
        number = len(faults.done)
        if faults.at == number:
            if faults.kind == "after":
                effect()
            elif faults.kind == "torn" and half is not None:
                half()
            raise Unreachable(f"{name} {number}")
        if faults.is_lasting and faults.has_failed:
            raise Unreachable("gone")
        return effect()

    def _store(self, name: str, path: str, data: bytes) -> None:
        def put(part: bytes) -> None:
            self.files[path] = part

        at_once = "faulty" in url_folder.PUT_AT_ONCE
        half = None if at_once else lambda: put(data[: len(data) // 2])
        self._do(name, path, lambda: put(data), half)

    def _content(self, path: str) -> bytes:
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path]

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        def look() -> list[Any]:
            start = f"{path.rstrip('/')}/"
            below = {p[len(start) :]: d for p, d in self.files.items() if p.startswith(start)}
            if not below:
                raise FileNotFoundError(path)
            names = dict.fromkeys(name.partition("/")[0] for name in below)
            entries = [
                {"name": start + name, "type": "file", "size": len(below[name])}
                if name in below
                else {"name": start + name, "type": "directory", "size": 0}
                for name in names
            ]
            return entries if detail else [entry["name"] for entry in entries]

        return self._do("ls", path, look)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return self._do(
            "info",
            path,
            lambda: {"name": path, "type": "file", "size": len(self._content(path))},
        )

    def cat_file(self, path: str, start: Any = None, end: Any = None, **_: Any) -> bytes:
        def read() -> bytes:
            data = self._content(path)
            if not data and end:
                raise OSError(22, "The requested range is not satisfiable")  # as S3 says
            return data[start:end]

        return self._do("cat_file", path, read)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        if mode == "create" and path in self.files:
            raise FileExistsError(path)
        self._store("pipe_file", path, bytes(value))

    def put_file(self, lpath: Any, rpath: str, *_: Any, **__: Any) -> None:
        self._store("put_file", rpath, Path(lpath).read_bytes())

    def rm_file(self, path: str) -> None:
        self._content(path)
        self._do("rm_file", path, lambda: self.files.pop(path))

    def mv(self, path1: str, path2: str, *_: Any, **__: Any) -> None:
        def move() -> None:
            self.files[path2] = self.files.pop(path1)

        self._do("mv", path1, move)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self._do("makedirs", path, lambda: None)


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of an empty folder."""
    if request.param == "file":
        yield f"file://{tmp_path}/store/runs/x"
        return
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield "memory://bucket/runs/x"
    MemoryFileSystem.store.clear()


@pytest.fixture(params=["put at once", "put and moved"])
def faulty(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    """The store that fails, as `faulty://bucket/runs/x`; empty, and as yet without faults."""
    if request.param == "put at once":
        monkeypatch.setattr(
            url_folder, "PUT_AT_ONCE", frozenset({*url_folder.PUT_AT_ONCE, "faulty"})
        )
    fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
    monkeypatch.setattr(FaultyFileSystem, "files", {})
    monkeypatch.setattr(FaultyFileSystem, "faults", Faults())
    return FaultyFileSystem


def names_at(url: str) -> set[str]:
    """Names of what is in a folder of a store."""
    files, root = fsspec.core.url_to_fs(url)
    files.invalidate_cache()
    return {os.path.basename(path.rstrip("/")) for path in files.ls(root, detail=False)}


def read_at(url: str) -> bytes:
    """The content of a file in a store."""
    files, path = fsspec.core.url_to_fs(url)
    return files.cat_file(path)


def write_at(url: str, data: bytes) -> None:
    """Put a file, as anybody could."""
    options = {"auto_mkdir": True} if url.startswith("file:") else {}
    files, path = fsspec.core.url_to_fs(url, **options)
    files.pipe_file(path, data)


def remove_at(url: str) -> None:
    """Remove a file."""
    files, path = fsspec.core.url_to_fs(url)
    files.rm_file(path)
