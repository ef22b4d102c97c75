"""What a run folder shows of its run to a process that only reads: which block trains, how far it
was when it was saved, what the disk holds, and whether a checkpoint is being written.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from pathlib import Path
from typing import NamedTuple

from fastanf.checkpoint import Checkpoint, newest_checkpoint

_INDEX = re.compile(r"checkpoint-(\d+)\.json")
_PART = re.compile(r"(?:tensors|replay)-(\d+)[-.].*", re.DOTALL)
_ATTEMPTS = 5
"""Files that are replaced while one reads are read again."""


class FolderState(NamedTuple):
    """A run folder at one moment."""

    block: int
    """The first one that is not finished."""
    step: int
    """Lock steps after the random ones that its newest checkpoint knows; 0 without one."""
    saved_at: float
    """When that checkpoint was written, seconds since the epoch; 0 without one."""
    has_finished: bool
    num_checkpoints: int
    """Of all blocks."""
    num_bytes: int


def folder_state(run_dir: Path) -> FolderState:
    """What a run folder holds now; it need not be there yet.

    Raises:
        ValueError: it has a checkpoint that cannot be read.
    """
    paths = block_paths(run_dir)
    saved = [_newest(path) for path in paths]
    block, step, saved_at = len(paths), 0, 0.0
    for index, checkpoint in enumerate(saved):
        if checkpoint is None or not checkpoint.state["is_finished"]:
            block, step = index, checkpoint.state["step"] if checkpoint else 0
            saved_at = _saved_at(paths[index])
            break
    names = [name for path in paths for name in _names(path)]
    num_checkpoints = sum(_INDEX.fullmatch(name) is not None for name in names)
    return FolderState(
        block, step, saved_at, _has_finished(run_dir), num_checkpoints, _num_bytes(run_dir)
    )


def block_paths(run_dir: Path) -> list[Path]:
    """Where the blocks that have begun keep their checkpoints, in their order."""
    folder = run_dir / "checkpoints"
    numbers = [name.removeprefix("block") for name in _names(folder) if name.startswith("block")]
    return [folder / f"block{number}" for number in sorted(map(int, numbers))]


def is_being_saved(run_dir: Path, since: float = 0.0) -> bool:
    """Whether there are files of a checkpoint that is none yet.

    Args:
        run_dir: the run folder.
        since: seconds since the epoch; files that were last written before are what a process that
            was killed has left.
    """
    for path in block_paths(run_dir):
        names = _names(path)
        newest = max((int(found[1]) for found in map(_INDEX.fullmatch, names) if found), default=0)
        for found in filter(None, map(_PART.fullmatch, names)):
            if int(found[1]) > newest and _written_at(path / found[0]) >= since:
                return True
    return False


def seconds_since_saved(run_dir: Path) -> float:
    """How old the newest checkpoint is; infinite where there is none."""
    newest = max(map(_saved_at, block_paths(run_dir)), default=0.0)
    return time.time() - newest if newest else float("inf")


def owner(run_dir: Path) -> int | None:
    """The number of the process that has the folder, or had it when it was killed."""
    try:
        return int(json.loads((run_dir / "lock").read_text())["pid"])
    except (OSError, ValueError, KeyError):
        return None


def _newest(path: Path) -> Checkpoint | None:
    """A checkpoint may be removed between two looks, always after a newer one is there."""
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(ValueError):
            return newest_checkpoint(path)
    return newest_checkpoint(path)


def _saved_at(path: Path) -> float:
    """When the newest checkpoint of a block was written; 0 where there is none."""
    names = filter(_INDEX.fullmatch, _names(path))
    return max((_written_at(path / name) for name in names), default=0.0)


def _written_at(path: Path) -> float:
    """When a file was last written; 0 where there is none."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _has_finished(run_dir: Path) -> bool:
    try:
        return json.loads((run_dir / "manifest.json").read_text())["status"] == "finished"
    except FileNotFoundError:
        return False


def _num_bytes(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(path, name)).st_size
    return total


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
