"""The checkpoints of a block in a store that many machines reach, for the process that trains it.

They are made in a scratch folder, as any others are, and their files copied to the store before
the driver is asked to put the JSON file that makes them a checkpoint. Of what is there, another
process fetches the newest that is whole.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fastanf.checkpoint import (
    MOST_INDEX_BYTES,
    BlockCheckpoints,
    Checkpoint,
    belongs_to_checkpoint,
    checkpoint_numbers,
    read_checkpoint,
)
from fastanf.cluster.url_folder import UNFINISHED, NotThere, UrlFolder
from fastanf.files import write_atomic
from fastanf.tensor_file import check_seal


def _no_driver(path: Path, data: bytes) -> None:
    raise ValueError(f"{path.name} is put by the driver alone: give `commit`, which asks it")


@dataclass
class UrlCheckpoints(BlockCheckpoints):
    """The checkpoints of one block; `path` is a scratch folder of this machine."""

    commit: Callable[[Path, bytes], None] = _no_driver
    """Lets the driver put the JSON file into the store, named as the path is; raises if it did not.
    When it is called, all other files are there."""
    url: str = field(default="", kw_only=True)
    """Of the block's folder, as `s3://bucket/runs/x/checkpoints/block0`."""
    _there: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    """What may be in the store now; name -> bytes as they were listed."""

    def __post_init__(self) -> None:
        self.writer = self.writer or secrets.token_hex(4)

    @cached_property
    def _store(self) -> UrlFolder:
        return UrlFolder(self.url)

    @property
    def place(self) -> str:
        """Both of them: what failed is told by the reason beside it."""
        return f"{self.url}, made in {self.path}"

    def load(self) -> tuple[Checkpoint | None, list[str]]:
        """As `BlockCheckpoints.load`; one that is damaged there is not fetched any further.

        Raises:
            ValueError: there are checkpoints, and none is whole; or the URL is wrong.
            OSError: the store cannot be read, or this machine's disk takes nothing.
        """
        self.standing, self._there = [], self._store.sizes()
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            found, damage = super().load()
        except ValueError as error:
            raise ValueError(str(error).replace(str(self.path), self.url)) from error
        wanted = set(found.seals) | {found.index()[0].name} if found else set()
        super()._remove(super()._files() - wanted)
        return found, [line.replace(str(self.path), self.url) for line in damage]

    def keep_for_lane(
        self, lane: int, is_sound: Callable[[Mapping[str, Any]], bool]
    ) -> Checkpoint | None:
        """As `BlockCheckpoints.keep_for_lane`, in the store.

        Raises:
            OSError: it did not take it.
        """
        checkpoint = super().keep_for_lane(lane, is_sound)
        if checkpoint is not None:
            here = self.path.with_name(f"lane{lane}")
            there = UrlFolder(f"{self.url.rstrip('/').rpartition('/')[0]}/lane{lane}")
            for name in (checkpoint.tensors_file, checkpoint.index()[0].name):  # the JSON file last
                there.put_file(name, here / name)
            shutil.rmtree(here)
        return checkpoint

    def _known_numbers(self) -> Iterable[int]:
        return checkpoint_numbers(self._there)

    def _read(self, number: int) -> Checkpoint:
        name = f"checkpoint-{number}.json"
        try:
            write_atomic(self.path / name, self._store.get(name, MOST_INDEX_BYTES))
            checkpoint = read_checkpoint(self.path, number)
            for file, seal in checkpoint.seals.items():
                if self._there.get(file) != seal.size:
                    raise ValueError(f"{file} is not what was written: its size differs")
            for file in checkpoint.seals:
                self._fetch(checkpoint, file)
        except NotThere as error:
            raise ValueError(error.strerror) from error
        return super()._read(number)

    def _fetch(self, checkpoint: Checkpoint, name: str) -> None:
        """Have a file here, unless it is already."""
        seal, path = checkpoint.seals[name], self.path / name
        try:
            check_seal(path, seal)
        except (OSError, ValueError):
            self._store.get_file(name, path, seal.size)

    def _publish(self, checkpoint: Checkpoint) -> None:
        """Copy the files that no checkpoint had before; the JSON file follows by `commit`."""
        before = {name for each in self.standing for name in each.seals}
        # From now on it may be there: its number is never taken again, and it is removed in time.
        self._there[checkpoint.index()[0].name] = 0
        for name, seal in checkpoint.seals.items():
            if name not in before:
                self._there[name] = seal.size
                self._store.put_file(name, self.path / name)

    def _files(self) -> set[str]:
        there = {n for n in self._there if belongs_to_checkpoint(n) or n.startswith(UNFINISHED)}
        return super()._files() | there

    def _remove(self, names: Iterable[str]) -> None:
        ordered = sorted(names)  # the JSON files first: what they need is there as long as they are
        super()._remove(ordered)
        with contextlib.suppress(OSError):
            for name in ordered:
                if name in self._there:
                    self._store.remove(name)
                    del self._there[name]
