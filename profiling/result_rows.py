"""Result rows: what every measurement is recorded with, and how it is appended to a CSV file."""

from __future__ import annotations

import csv
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
Row = Mapping[str, Any]


def conditions(device: str = "cpu") -> dict[str, Any]:
    """Where and with what a figure was measured."""
    return {
        "device": device,
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "versions": f"python {platform.python_version()}, torch {torch.__version__}",
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def append(name: str, rows: Sequence[Row]) -> Path:
    """Append rows to profiling/results/NAME.csv, with a heading if the file is new.

    Raises:
        ValueError: the file has other columns.
    """
    path = RESULTS / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    columns: list[str] = list(rows[0])
    if path.exists():
        with path.open(newline="") as file:
            found = next(csv.reader(file))
        if found != columns:
            raise ValueError(f"{path} has columns {found}; these rows have {columns}")
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer: csv.DictWriter[str] = csv.DictWriter(file, columns)
        if is_new:
            writer.writeheader()
        writer.writerows(rows)
    return path


def read(name: str) -> list[dict[str, str]]:
    """The rows of profiling/results/NAME.csv; none where there is no such file."""
    path = RESULTS / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "unknown")


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=RESULTS.parent)
    return result.stdout.strip() or "unknown"
