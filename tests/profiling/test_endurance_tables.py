"""Tables of checkpoints and soaks: what the rows have, the newest of each work."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import endurance_tables
import pytest
import result_rows

FACTS = {"device": "cpu", "cpu": "Chip", "threads": 1, "versions": "v", "commit": "c", "date": "d"}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(result_rows, "RESULTS", tmp_path)
    return tmp_path


def write(path: Path, sizes: dict[str, Any], *figures: tuple[str, str, float]) -> None:
    """Rows of (impl, metric, value), spread by a tenth where the metric is in seconds."""
    rows = []
    for impl, metric, value in figures:
        part = value / 10 if metric.endswith("_s") else 0.0
        spread = {"p20": value - part, "p50": value, "p80": value + part, "unit": ""}
        rows.append({"impl": impl, **sizes, "metric": metric, **spread, **FACTS})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_a_block_is_a_line_with_its_newest_figures_and_the_share_of_its_run(results: Path) -> None:
    sizes = {"env": "Humanoid-v3", "noise_fraction": 0.9, "policies": "ANF-SAC", "lanes": 1,
             "replay_capacity": 1_000_000}  # fmt: skip
    block = {"first_s": 4.0, "whole_mib": 1600.4, "later_s": 0.5, "later_mib": 40.2,
             "later_share": 0.00166, "load_s": 2.0, "restore_s": 3.0, "save_extra_mib": 70.0,
             "load_extra_mib": 0.25, "restore_extra_mib": 128.0}  # fmt: skip
    figures = [("block", "first_s", 9.0), *(("block", *pair) for pair in block.items())]
    write(results / "checkpoint.csv", sizes, *figures, ("run", "saving_share", 0.029))
    line = (
        "| Humanoid 0.9, ANF-SAC, 1 lane, replay 1,000,000 | 4.00 (3.60-4.40) | 1,600 | "
        "0.50 (0.45-0.55) | 40 | 0.17% | 2.00 (1.80-2.20) | 3.00 (2.70-3.30) | 70 / 0.2 / 128 | "
        "2.9% |"
    )
    table = endurance_tables.checkpoint_table()
    assert line in table.splitlines() and "Chip, 1 thread, v, d." in table


def test_a_soak_stands_beside_the_run_that_was_never_killed(results: Path) -> None:
    sizes = {"env": "HalfCheetah-v3", "noise_fraction": 0.9, "policies": "ANF-SAC+SAC",
             "max_timesteps": 150_000}  # fmt: skip
    write(results / "soak.csv", sizes, ("soak", "kills_count", 14), ("soak", "lost_s", 20.0),
          ("soak", "rss_growth_within_mib_per_h", 0.256), ("reference", "rss_peak_mib", 520.04),
          ("reference", "rss_growth_within_mib_per_h", -0.125))  # fmt: skip
    lines = endurance_tables.soak_table().splitlines()
    work = "ANF-SAC+SAC, HalfCheetah 0.9, 150,000 steps"
    assert lines[0] == f"| soak | {work}, killed | {work}, never killed |"
    assert "| processes killed | 14 |  |" in lines
    assert "| training repeated after a kill, s | 20.0 (18.0-22.0) |  |" in lines
    assert "| growth within a process, MiB an hour | 0.26 | -0.12 |" in lines
    assert "| peak, MiB |  | 520.0 |" in lines
