"""Whole runs on the fake simulator that take a moment, and what is read off their folders."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

from fastanf import runner
from fastanf.__main__ import main
from fastanf.checkpoint import Checkpoint, block_path, newest_checkpoint
from fastanf.cli import parse_command_line
from tests import fake_env
from tests.interruptions import Records, records, rows_of

MAX_STEPS, START_STEPS, EVAL_FREQ = 25, 9, 7
EVAL_STEPS = [7, 14, 21, 25]
OPTIONS = {
    "policy": "SAC ANF-SAC", "env": fake_env.ROWS_ENV_ID, "backend": "fake", "num_seeds": 1,
    "hidden": "8x5", "batch_size": 4, "noise_fraction": 0.7, "topology_period": 3,
    "drop_fraction": 0.3,  # so that some of few connections change
    "max_timesteps": MAX_STEPS, "start_timesteps": START_STEPS, "eval_freq": EVAL_FREQ,
    "eval_episodes": 3, "tensorboard": "false", "device": "cpu",
    "layout": "masked",  # so that a sparse and a dense lane are one block
}  # fmt: skip
ALWAYS_SAVING: dict[str, Any] = {"checkpoint_minutes": 1e-9}
"""A checkpoint after every step, where `saving.MOST_SHARE` is 1."""
CSR_OPTIONS = {"layout": "csr", "policy": "ANF-SAC TowS-SAC", "global_sparsity": 0.5}
BOTH = f"{fake_env.ROWS_ENV_ID} {fake_env.WHOLE_ENV_ID}"
"""Two tasks, which are two blocks."""


def train(path: Path, **options: Any) -> int:
    """A run into a new folder; returns its exit code."""
    arguments = ["--plain", "--run_dir", str(path)]
    for name, value in (OPTIONS | options).items():
        arguments += [f"--{name}", *str(value).split()]
    return runner.train(parse_command_line(arguments))


def unbroken(**options: Any) -> Records:
    """The records of a run that nothing stops; trained once."""
    return _unbroken(tuple(sorted(options.items())))


@functools.cache
def _unbroken(options: tuple[tuple[str, Any], ...]) -> Records:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        assert train(path, **dict(options)) == 0
        return records(path)


def resume(path: Path) -> int:
    """Go on with a run; returns its exit code."""
    return main(["resume", str(path)])


def status_of(path: Path) -> str:
    return json.loads((path / "manifest.json").read_text())["status"]


def steps_of(path: Path, lane: int, name: str = "eval.csv") -> list[int]:
    """Of a lane's rows in a table."""
    return [int(row["step"]) for row in rows_of(path, name) if int(row["lane"]) == lane]


def newest(path: Path, block: int = 0) -> Checkpoint:
    """The newest checkpoint of a block of a run."""
    found = newest_checkpoint(block_path(path, block))
    assert found is not None
    return found
