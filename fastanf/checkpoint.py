"""Checkpoints of a block: tensors in safetensors, counters in JSON, never pickle.

A checkpoint is a folder with `tensors.safetensors` and `state.json`. It is written beside its
place, flushed to disk and then renamed; the one before stays until the new one is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT = 1


def block_path(run_dir: str | Path, index: int) -> Path:
    """Where a run keeps the checkpoint of one of its blocks."""
    return Path(run_dir) / "checkpoints" / f"block{index}"


def save(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write a checkpoint folder, replacing the one that stands there.

    Args:
        path: the folder.
        tensors: by name; moved to the host and made contiguous.
        state: JSON values.
    """
    fresh = path.with_name(path.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(host, fresh / "tensors.safetensors")
    (fresh / "state.json").write_text(json.dumps({"format": FORMAT, **state}, indent=1))
    for file in fresh.iterdir():
        _flush(file)
    old = path.with_name(path.name + ".old")
    if path.exists():  # else a crash came between the renames, and `old` is the one to keep
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    fresh.rename(path)
    _flush(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Read a checkpoint folder; None where there is none.

    Where a crash came between the two renames of `save`, the previous checkpoint is read.

    Raises:
        ValueError: a file is missing, damaged or of another format.
    """
    standing = standing_path(path)
    if standing is None:
        return None
    state = _state(standing)
    try:
        return load_file(standing / "tensors.safetensors"), state
    except (OSError, SafetensorError) as error:
        raise ValueError(f"checkpoint {standing} cannot be read: {error}") from error


def load_state(path: Path) -> dict[str, Any] | None:
    """The counters of a checkpoint folder without its tensors; None where there is none.

    Raises:
        ValueError: the file is missing, damaged or of another format.
    """
    standing = standing_path(path)
    return None if standing is None else _state(standing)


def standing_path(path: Path) -> Path | None:
    """The folder to read: where a crash came between the two renames of `save`, the previous."""
    return next((p for p in (path, path.with_name(path.name + ".old")) if p.exists()), None)


def _state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads((path / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"checkpoint {path} has an unknown format; this version reads {FORMAT}")
    return state


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
