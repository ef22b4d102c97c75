"""A run's records on this machine, made anew from a store that keeps the run.

Tables in the store are copies for readers and may be old. What is made here is of the rows that
came with the checkpoints, so that every block's part is at least that of its checkpoint.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastanf.checkpoint import MOST_INDEX_BYTES, block_path, checkpoint_numbers
from fastanf.cluster import row_chunks
from fastanf.cluster.url_folder import NotThere, UrlFolder
from fastanf.files import write_atomic
from fastanf.rows import FILES, PROFILED_FILES, columns, csv_line
from fastanf.run_manifest import MAX_BYTES, check_lanes, read_manifest, run_settings

_NUM_TRIES = 3
_NUM_INDEXES = 2
"""Checkpoints of a block that may stand beside each other."""
_BLOCK = re.compile(r"block(0|[1-9][0-9]{0,8})")
_LANE = re.compile(r"lane(0|[1-9][0-9]{0,8})")


def is_run(store: UrlFolder) -> bool:
    """Whether a run is kept there.

    Raises:
        OSError: it cannot be told.
    """
    return store.has("manifest.json")


def block_numbers(store: UrlFolder) -> list[int]:
    """Of the blocks with checkpoints, rising. Raises OSError."""
    return _numbers(store, _BLOCK)


def lane_numbers(store: UrlFolder) -> list[int]:
    """Of the lanes that broke down and of which a checkpoint was kept, rising. Raises OSError."""
    return _numbers(store, _LANE)


def _numbers(store: UrlFolder, pattern: re.Pattern[str]) -> list[int]:
    found = map(pattern.fullmatch, store.below("checkpoints").folders())
    return sorted(int(one[1]) for one in found if one)


def copy_facts(store: UrlFolder, folder: Path) -> dict[str, Any]:
    """Bring manifest.json and lanes.csv, which belong together.

    Returns:
        The manifest.

    Raises:
        ValueError: there are none, or they are damaged. OSError: the store cannot be read.
    """
    for attempt in range(1, _NUM_TRIES + 1):  # a driver may be replacing them
        for name in ("manifest.json", "lanes.csv"):
            try:
                write_atomic(folder / name, store.get(name, MAX_BYTES))
            except NotThere as error:
                raise ValueError(
                    f"{store.url} has no {name}: give the URL of a run, as --run_dir had it"
                ) from error
        try:
            manifest = read_manifest(folder)
            check_lanes(folder, manifest)
        except ValueError as error:
            if attempt < _NUM_TRIES:
                continue
            raise ValueError(str(error).replace(str(folder), store.url)) from error
        return manifest
    raise AssertionError("a try returns or raises")


def copy_indexes(store: UrlFolder, folder: Path) -> dict[int, int]:
    """Bring the JSON files of every block's checkpoints, none of their tensors.

    Returns:
        Block -> number of its newest checkpoint.

    Raises:
        ValueError, OSError: as `copy_facts`.
    """
    newest: dict[int, int] = {}
    for block in block_numbers(store):
        there, here = store.below(f"checkpoints/block{block}"), block_path(folder, block)
        numbers = sorted(checkpoint_numbers(there.sizes()))[-_NUM_INDEXES:]
        for number in numbers:
            name = f"checkpoint-{number}.json"
            here.mkdir(parents=True, exist_ok=True)
            with suppress(NotThere):  # a worker that was given up may still remove an old one
                write_atomic(here / name, there.get(name, MOST_INDEX_BYTES))
                newest[block] = number
    return newest


def rebuild_tables(
    store: UrlFolder, folder: Path, manifest: Mapping[str, Any], newest: Mapping[int, int]
) -> None:
    """Write all tables of a run, the rows of its blocks one block after the other.

    Args:
        store: the run's.
        folder: into which they come.
        manifest: of the run.
        newest: block -> number of the checkpoint up to which its rows are taken.

    Raises:
        ValueError: rows are damaged, or the manifest has no settings.
        OSError: the store cannot be read, or the disk takes nothing.
    """
    files = PROFILED_FILES if run_settings(manifest).profile else FILES
    texts = {name: [csv_line(columns(kind))] for kind, name in files.items()}
    chunks = store.below(row_chunks.FOLDER)
    names = list(chunks.sizes()) if newest else []
    for block, last_number in sorted(newest.items()):
        for table, lines in _rows_of(chunks, names, block, last_number).items():
            if table not in texts:
                raise ValueError(
                    f"{chunks.url} has rows of {table}, which the run's settings do not make: put "
                    "its files back as the run wrote them, or start a new run"
                )
            texts[table] += lines
    for name, lines in texts.items():
        write_atomic(folder / name, "".join(lines).encode())


def _rows_of(
    chunks: UrlFolder, names: list[str], block: int, last_number: int
) -> dict[str, list[str]]:
    """Table -> lines of a block."""
    found = []
    for number in row_chunks.numbers_of(names, block):
        if number <= last_number:
            name = row_chunks.chunk_name(block, number)
            data = chunks.get(name, row_chunks.MAX_BYTES)
            found.append(row_chunks.read_chunk(f"{chunks.url}/{name}", data))
    lines: defaultdict[str, list[str]] = defaultdict(list)
    for row in row_chunks.merged(found):
        lines[row.table].append(row.line)
    return lines
