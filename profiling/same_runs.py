"""Whether two run folders hold the same run, but for what the clock says."""

from __future__ import annotations

from pathlib import Path

import result_rows
from watched_folder import block_paths

from fastanf.checkpoint import newest_checkpoint

CLOCK_COLUMNS = {"wall_s", "env_steps_per_s", "lane_updates_per_s"}
CLOCK_TENSORS = "learner/watch.checkpoint_"
"""They know when the last checkpoint was, and checkpoints come by the clock."""


def differences(run_dir: Path, reference: Path) -> list[str]:
    """In what two finished runs differ: tables, and the tensors of their last checkpoints.

    Returns:
        A line for each table and block that differs; none where they are the same.

    Raises:
        ValueError: the reference holds nothing to compare.
    """
    found = []
    names = sorted(path.name for path in reference.glob("*.csv"))
    if not result_rows.read_file(reference / "eval.csv"):
        raise ValueError(f"{reference} has no evaluations: there is nothing to compare")
    if names != sorted(path.name for path in run_dir.glob("*.csv")):
        return [f"{run_dir} has other tables than {', '.join(names)}"]
    for name in names:
        ours, theirs = _table(run_dir / name), _table(reference / name)
        if ours != theirs:
            pairs = enumerate(zip(ours, theirs, strict=False), start=1)
            number = next((n for n, (a, b) in pairs if a != b), min(len(ours), len(theirs)) + 1)
            lengths = f"{len(ours)} rows and {len(theirs)}"
            found.append(f"{name} differs from row {number} on ({lengths})")
    return found + _network_differences(run_dir, reference)


def _table(path: Path) -> list[dict[str, str]]:
    rows = result_rows.read_file(path)
    return [{k: v for k, v in row.items() if k not in CLOCK_COLUMNS} for row in rows]


def _network_differences(run_dir: Path, reference: Path) -> list[str]:
    """In what the tensors of each block's last checkpoint differ."""
    ours, theirs = block_paths(run_dir), block_paths(reference)
    if [path.name for path in ours] != [path.name for path in theirs]:
        return [f"one has checkpoints of {len(ours)} blocks, the other of {len(theirs)}"]
    found = []
    for path, other in zip(ours, theirs, strict=True):
        states = _last_state(path), _last_state(other)
        names = [
            name
            for name in sorted(states[0].keys() | states[1].keys())
            if states[0].get(name) != states[1].get(name)
        ]
        if names:
            found.append(f"the last checkpoints of {path.name} differ in {', '.join(names)}")
    return found


def _last_state(path: Path) -> dict[str, bytes]:
    """Every tensor's bytes."""
    checkpoint = newest_checkpoint(path)
    if checkpoint is None:
        return {}
    size = checkpoint.seals[checkpoint.tensors_file].size
    return {
        name: tensor.numpy().tobytes()
        for name, tensor in checkpoint.tensors(size).items()
        if not name.startswith(CLOCK_TENSORS)
    }
