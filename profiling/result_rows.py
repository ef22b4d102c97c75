"""Result rows: what every measurement is recorded with, how it is summarized and shown, and how it
is appended to a CSV file.
"""

from __future__ import annotations

import csv
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent
Row = Mapping[str, Any]

_MEASURED_CODE = ("fastanf", "envs", "setup.py")
# By the end of the name, the longer ones first.
_UNITS = (
    ("_gflop_s", "GFLOP/s"),
    ("_gb_s", "GB/s"),
    ("_mib_per_h", "MiB/h"),
    ("_per_s", "1/s"),
    ("_ms", "ms"),
    ("_us", "us"),
    ("_ns", "ns"),
    ("_mib", "MiB"),
    ("_bytes", "B"),
    ("_s", "s"),
    ("_share", ""),
    ("_ratio", ""),
    ("_count", ""),
)


class Summary(NamedTuple):
    """Percentiles over rounds."""

    p20: float
    p50: float
    p80: float

    def __str__(self) -> str:
        return f"{self.p50:g} ({self.p20:g}..{self.p80:g})"


def summary(samples: Sequence[float]) -> Summary:
    """The 20th, 50th and 80th percentile (linear between samples), to five significant digits."""
    import numpy as np

    return Summary(*(float(f"{value:.5g}") for value in np.percentile(samples, [20, 50, 80])))


def unit(metric: str) -> str:
    """The unit that a metric's name ends in; empty for shares, ratios and counts.

    Raises:
        ValueError: the name has no such ending.
    """
    for ending, name in _UNITS:
        if metric.endswith(ending):
            return name
    raise ValueError(f"metric {metric!r} must end in one of {', '.join(e for e, _ in _UNITS)}")


def conditions(device: str = "cpu", packages: Sequence[str] = ()) -> dict[str, Any]:
    """Where and with what a figure was measured.

    Args:
        device: cpu, cuda or cuda:N; a GPU is recorded with its name.
        packages: distributions whose versions matter beside Python's and torch's.
    """
    versions = [f"python {platform.python_version()}", f"torch {torch.__version__}"]
    versions += [f"{name} {_version(name)}" for name in packages]
    is_gpu = device.startswith("cuda")
    return {
        "device": f"{device} ({torch.cuda.get_device_name(device)})" if is_gpu else device,
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "versions": ", ".join(versions),
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def check(name: str, columns: Sequence[str], folder: Path | None = None) -> None:
    """See before a long measurement that its rows can be appended to NAME.csv in a folder, by
    default profiling/results.

    Raises:
        ValueError: the file has other columns, or cannot be written.
    """
    path = (folder or RESULTS) / f"{name}.csv"
    try:
        path.parent.mkdir(exist_ok=True)
        existed = path.exists()
        with path.open("a+", newline="") as file:
            file.seek(0)
            found = next(csv.reader(file), list(columns))
        if not existed:
            path.unlink()
    except OSError as error:
        raise ValueError(f"--record: {path} cannot be written ({error.strerror})") from None
    if found != list(columns):
        raise ValueError(f"--record: {path} has columns {found}; these rows have {list(columns)}")


def append(name: str, rows: Sequence[Row], folder: Path | None = None) -> Path:
    """Append rows to NAME.csv in a folder, by default profiling/results, with a heading if the
    file is new.

    Raises:
        ValueError: the file has other columns, or cannot be written.
    """
    columns: list[str] = list(rows[0])
    check(name, columns, folder)
    path = (folder or RESULTS) / f"{name}.csv"
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
    return read_file(path) if path.exists() else []


def read_file(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, as text."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns: words to the left, what begins like a number to the right."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    is_number = [
        all(not row[column] or row[column].lstrip("-+.")[:1].isdigit() for row in rows)
        for column in range(len(header))
    ]

    def cells(line: Sequence[str]) -> str:
        aligned = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_number, strict=True)
        )
        return "  ".join(aligned).rstrip()

    return "\n".join(cells(line) for line in lines)


def common_and_labels(points: Sequence[Row]) -> tuple[str, list[dict[str, str]]]:
    """The sizes that all points share, as text, and for each point those that differ."""
    shared = {
        name: value
        for name, value in points[0].items()
        if all(point[name] == value for point in points)
    }
    common = ", ".join(f"{name} {value}" for name, value in shared.items() if value != "")
    labels = [
        {name: str(value) for name, value in point.items() if name not in shared}
        for point in points
    ]
    return common, labels


def show_progress(text: str) -> None:
    """One line on stderr that replaces the last one, where someone watches."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "unknown")


def _commit() -> str:
    """The commit that was measured, with -dirty where the measured code differs from it."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        changed = _git("diff", "--name-only", "HEAD", "--", *_MEASURED_CODE).stdout
    except OSError:  # no git
        return "unknown"
    commit = head.stdout.strip() or "unknown"
    return f"{commit}-dirty" if changed.strip() else commit


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=ROOT)
