"""A run as its driver keeps it in a store that many machines reach.

    manifest.json, lanes.csv        as in a run folder
    eval.csv, ...                   tables for readers, copied now and then
    checkpoints/blockN/, laneN/     as in a run folder; workers put all but the JSON files of blocks
    records/blockN-7.jsonl          rows that came with checkpoint 7 of a block (row_chunks.py)
    lock                            the driver's (url_lock.py)

The driver has an ordinary run folder on its own disk. When its machine is lost, another driver
makes that folder anew from what was committed, and goes on.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastanf.checkpoint import checkpoint_numbers
from fastanf.cluster import row_chunks
from fastanf.cluster.run_copy import copy_facts, copy_indexes, is_run, rebuild_tables
from fastanf.cluster.url_folder import NotThere, StoreError, UrlFolder
from fastanf.cluster.url_lock import WATCH_S, UrlLock
from fastanf.files import read_regular
from fastanf.options import shown
from fastanf.run_birth import new_run_dir
from fastanf.run_lock import RunLock
from fastanf.run_manifest import MAX_BYTES, lanes_entry, manifest_bytes, read_manifest
from fastanf.table_seals import ALL_FILES


class RemoteRun:
    """The run under a URL, for the one driver that writes it.

    Args:
        url: of the run; it need not exist.

    Raises:
        ValueError: it is no URL that can be used here.
    """

    def __init__(self, url: str) -> None:
        self._store = UrlFolder(url)
        self.url = self._store.url
        self._lock = UrlLock(self._store)
        self._published: dict[str, tuple[int, ...]] = {}

    def take(self, wait_s: float = WATCH_S, say: Callable[[str], None] = lambda line: None) -> None:
        """Keep other drivers out, before anything else. Args and raises as `UrlLock.take`."""
        self._lock.take(wait_s, say)

    def renew(self) -> None:
        """Show that this driver lives. Raises as `UrlLock.renew`."""
        self._lock.renew()

    def release(self) -> None:
        """Let other drivers in."""
        self._lock.release()

    def exists(self) -> bool:
        """Whether a run is there.

        Raises:
            OSError: it cannot be told.
        """
        return is_run(self._store)

    def fetch(self, folder: Path) -> str | None:
        """Have the run's folder on this machine as it stands in the store.

        It is made where it is missing, or where the run has gone on from another machine since; it
        then holds all records and what each checkpoint is made of, but no tensors.

        Args:
            folder: the run folder, which nobody trains.

        Returns:
            A line that says where an older folder was moved; None where there was none.

        Raises:
            ValueError: it cannot be made, or what is there is damaged or another run's. Nothing
                has changed then.
        """
        moved = None
        if os.path.lexists(folder):
            here = read_manifest(folder)
            try:
                if not self.exists():
                    return None
                if not self._has_gone_on(here):
                    copy_indexes(self._store, folder)  # of a driver that died before it had them
                    return None
            except StoreError as error:
                raise ValueError(error.strerror) from error
            moved = _move_aside(folder)
        try:
            with new_run_dir(folder) as (beside, lock):
                try:
                    manifest = copy_facts(self._store, beside)
                    rebuild_tables(self._store, beside, manifest, copy_indexes(self._store, beside))
                except StoreError as error:
                    raise ValueError(error.strerror) from error
            lock.release()
        except BaseException:
            if moved is not None:
                os.rename(moved, folder)
            raise
        if moved is None:
            return None
        return (
            f"{self.url} has gone on from another machine: {folder} is made anew, and what was "
            f"there is {moved} now"
        )

    def _has_gone_on(self, here: Mapping[str, Any]) -> bool:
        """Whether the run has begun elsewhere since, as a manifest of this machine tells."""
        with tempfile.TemporaryDirectory() as copy:
            there = copy_facts(self._store, Path(copy))
        starts = there.get("starts", [])
        return (
            there.get("num_starts", 0) > here.get("num_starts", 0)
            or here.get("starts", [])[: len(starts)] != starts
        )

    def publish(self, folder: Path) -> None:
        """Put manifest.json, lanes.csv and the tables, as far as they have changed since the last
        call. Whoever reads the run meanwhile finds one that is whole.

        Args:
            folder: of the run.

        Raises:
            OSError: some may be old; the next call puts them.
            ValueError: a file of the folder is none of a run.
        """
        names = [*ALL_FILES, "lanes.csv", "manifest.json"]  # a run is there once its manifest is
        marks = {name: _mark(folder / name) for name in names if (folder / name).exists()}
        for name, mark in marks.items():
            if mark == self._published.get(name):
                continue
            if name == "lanes.csv":
                self._put_lanes(folder)
            else:
                self._store.put_file(name, folder / name)
            self._published[name] = mark

    def _put_lanes(self, folder: Path) -> None:
        """With a manifest before that knows the old and the new one, where there is an old one."""
        lanes_csv = read_regular(folder / "lanes.csv", MAX_BYTES)
        try:
            before = self._store.get("lanes.csv", MAX_BYTES)
        except NotThere:
            before = lanes_csv
        if before != lanes_csv:
            manifest = read_manifest(folder) | lanes_entry(before, lanes_csv)
            self._published.pop("manifest.json", None)
            self._store.put("manifest.json", manifest_bytes(manifest))
        self._store.put("lanes.csv", lanes_csv)

    def commit(
        self,
        block: int,
        name: str,
        data: bytes,
        rows: Sequence[tuple[str, str]],
        after: int | None = None,
    ) -> None:
        """Make files in the store a checkpoint of a block, and keep the rows that belong to it.

        It may be repeated, as after an error.

        Args:
            block: its index in the run.
            name: of the checkpoint's JSON file, whose other files are there.
            data: its content.
            rows: table and line of each row of the block since its last commit.
            after: where the block went back to a checkpoint since its last commit, that one's
                environment step, -1 for its beginning: rows beyond it that came before are void.

        Raises:
            ValueError: the name is no JSON file of a checkpoint, or a row none of a table.
            OSError: it is no checkpoint, as far as the store lets that be undone.
        """
        numbers = checkpoint_numbers([name])
        if not numbers:
            raise ValueError(f"checkpoint must be named like checkpoint-7.json, got {shown(name)}")
        chunk = row_chunks.chunk_bytes(rows, after)
        self._store.below(row_chunks.FOLDER).put(row_chunks.chunk_name(block, numbers[0]), chunk)
        there = self._store.below(f"checkpoints/block{block}")
        try:
            there.put(name, data)
        except BaseException:  # it may be there, though nobody said so
            with suppress(OSError):
                there.remove(name)
            raise


def _move_aside(folder: Path) -> Path:
    """Give a folder another name.

    Raises:
        ValueError: it is being trained, or cannot be renamed.
    """
    lock = RunLock.take(folder)
    try:
        number = 1
        while os.path.lexists(aside := folder.with_name(f"{folder.name}.before-{number}")):
            number += 1
        os.rename(folder, aside)
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be renamed ({error.strerror}), and the run has gone on from another "
            "machine: give a writable place"
        ) from error
    finally:
        lock.release()
    return aside


def _mark(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino
