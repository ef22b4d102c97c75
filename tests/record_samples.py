"""Run folders and evaluations for the tests of the records and of what is made from them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fastanf.records import RunFolder, read_manifest
from fastanf.rows import EvaluationRow
from fastanf.run_manifest import manifest_bytes

LANES = [
    {"lane": 0, "block": 0, "policy": "ANF-SAC", "seed": 3, "variant": "", "hidden": (256, 256)},
    {"lane": 1, "block": 0, "policy": "SAC", "seed": 4, "variant": "a=1, b=2", "hidden": (256,)},
]


def sample_evaluation(lane: int = 0, step: int = 5000, mean: float = 1.5) -> EvaluationRow:
    return EvaluationRow(
        lane, "ANF-SAC", "Hopper-v3", 3, 0.9, "", step, step, 1.25, mean, 0.5, 1.0, 2.0, 10
    )


def make_run(path: Path, **options: Any) -> RunFolder:
    return RunFolder.create(path / "run", {"device": "cpu"}, LANES, **options)


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def change_manifest(path: Path, **changes: Any) -> None:
    """Replaces entries of a run's manifest as the run itself would, with the right checksum."""
    (path / "manifest.json").write_bytes(manifest_bytes({**read_manifest(path), **changes}))


def fail_after(
    patch: pytest.MonkeyPatch, num_bytes: int, number: int, also: Sequence[str] = ()
) -> None:
    """Lets a disk take some more bytes and then nothing, as if it were full.

    Args:
        patch: ends it.
        num_bytes: in all files together.
        number: errno of the failure.
        also: functions of `os` that fail at once.
    """
    write, left = os.write, [num_bytes]

    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    def write_what_fits(file: int, data: memoryview) -> int:
        if not left[0]:
            fail()
        taken = write(file, data[: left[0]])
        left[0] -= taken
        return taken

    patch.setattr(os, "write", write_what_fits)
    for name in also:
        patch.setattr(os, name, fail)


def evaluation_at(
    lane: int,
    step: int,
    mean: float,
    policy: str = "SAC",
    variant: str = "",
    noise_fraction: float = 0.9,
    env: str = "Hopper-v3",
) -> EvaluationRow:
    return EvaluationRow(
        lane, policy, env, lane, noise_fraction, variant, step, step, 1.0, mean, 0.0, mean, mean, 10
    )


def evaluations_of(values: Sequence[Sequence[float]], **fields: str) -> list[EvaluationRow]:
    return [
        evaluation_at(lane, 1000 * (k + 1), value, **fields)  # pyright: ignore[reportArgumentType]
        for lane, lane_values in enumerate(values)
        for k, value in enumerate(lane_values)
    ]
