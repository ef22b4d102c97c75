"""Tables of the README files: newest rows, shares and verdicts as the rows have them."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import readme_tables
import result_rows
import result_tables

FACTS = {"device": "cpu", "cpu": "Chip", "threads": 2, "versions": "v", "commit": "c", "date": "d"}
SIZES = {
    "impl": "masked/native", "policies": "ANF-SAC", "env": "HalfCheetah-v3", "backend": "envpool",
    "noise_fraction": 0.9, "sparsity": "input 0.8", "batch_size": 100, "lanes": 8,
    "envs_per_lane": 1, "settings": "",
}  # fmt: skip


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(result_rows, "RESULTS", tmp_path)
    return tmp_path


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def update_row(metric: str, p50: float, **sizes: Any) -> dict[str, Any]:
    spread = {"p20": p50 - 1, "p50": p50, "p80": p50 + 1}
    return {"bench": "update", **SIZES, **sizes, "metric": metric, **spread, "unit": "", **FACTS}


def update_rows(rate: float, **sizes: Any) -> list[dict[str, Any]]:
    figures = {
        "lane_updates_per_s": rate,
        "env_steps_per_s": rate / 2,
        "useful_gflop_s": 50.0,
        "peak_gflop_s": 200.0,
    }
    return [update_row(metric, value, **sizes) for metric, value in figures.items()]


def stage_row(stage: str, mean_ms: float, share: float, floor_ms: float, **figures: Any):
    numbers = {
        "done_gflop_s": 100.0,
        "useful_gflop_s": 25.0,
        "of_sgemm": 0.5,
        "limit": "arithmetic",
    }
    return {
        "bench": "stages", **SIZES, "part": "update", "metric": stage, "mean_ms": mean_ms,
        "share": share, "floor_ms": floor_ms, **numbers, **figures, **FACTS,
    }  # fmt: skip


def test_the_newest_rate_of_the_papers_setting_is_shown(results: Path) -> None:
    csr, dense = {"impl": "csr/native"}, {"policies": "SAC", "sparsity": "dense"}
    rows = update_rows(150.0) + update_rows(140.0, lanes=1)  # older, masked
    rows += update_rows(100.0, **csr) + update_rows(320.0, **csr)
    rows += update_rows(200.0, lanes=1, **csr)
    rows += update_rows(160.0, **dense) + update_rows(170.0, lanes=1, **dense)
    other = update_rows(999.0, batch_size=256) + update_rows(998.0, policies="ANF-SAC+SAC")
    other += update_rows(997.0, sparsity="input 0.5") + update_rows(996.0, noise_fraction=0.5)
    other += update_rows(995.0, lanes=64)
    write(results / "update.csv", rows + other)
    table = result_tables.update_table()
    assert "| HalfCheetah at 0.9, ANF-SAC | 200 (199-201) | 320 (319-321) |" in table
    assert "| HalfCheetah at 0.9, SAC | 170 (169-171) | 160 (159-161) |" in table
    assert "99" not in table.replace("199", "") and "Chip, 2 threads, v, d." in table


def test_sparse_lanes_stand_beside_the_dense_ones_of_their_task(results: Path) -> None:
    csr, dense = {"impl": "csr/native"}, {"policies": "SAC", "sparsity": "dense"}
    rows = update_rows(300.0, **csr) + update_rows(150.0, **dense)
    rows += update_rows(500.0, sparsity="global 0.9", policies="TowS-SAC", **csr)
    rows += update_rows(999.0, noise_fraction=0.5, **csr)  # no dense rows of this task
    rows += update_rows(998.0, lanes=1, **csr) + update_rows(997.0, policies="ANF-TD3", **csr)
    write(results / "update.csv", rows)
    table = result_tables.sparse_table()
    assert "| HalfCheetah 0.9, ANF-SAC, input 0.8 | 300 (299-301) | 150 (149-151) | 2.0 |" in table
    assert "TowS-SAC, global 0.9 | 500 (499-501) | 150 (149-151) | 3.3 |" in table
    assert "99" not in table.replace("499", "").replace("299", "")


def test_growth_changes_one_size_at_a_time(results: Path) -> None:
    rows = update_rows(320.0) + update_rows(200.0, lanes=1) + update_rows(90.0, batch_size=256)
    rows += update_rows(1.0, lanes=1, batch_size=256)  # two changes
    write(results / "update.csv", rows)
    table = result_tables.growth_table()
    assert "| lanes 1 | 200 (199-201) | 100 (99-101) | 50 | 25% |" in table
    assert "| lanes 8 (base) | 320 (319-321)" in table and "| batch_size 256 | 90.0" in table
    assert table.count("lanes 1 |") == 1


def test_stages_and_verdict_follow_from_the_rows(results: Path) -> None:
    rows = [
        stage_row("target", 6.0, 0.6, 2.0),
        stage_row("sample", 3.0, 0.3, 0.5, limit="overhead"),
        stage_row("other", 1.0, 0.1, 0.0, limit="-", done_gflop_s=0.0, of_sgemm=0.0,
                  useful_gflop_s=0.0),
    ]  # fmt: skip
    step = stage_row("update", 10.0, 1.0, 2.5)
    write(results / "stages.csv", [*rows, step | {"part": "step"}])
    table = result_tables.stages_table()
    assert "| target | 6.00 (60%) |" in table
    assert "| **one update** | 10.0 |" in table and "| **one training step** | 10.0 |" in table
    verdict = result_tables.verdict_table()
    # 900 of 10 ms x 200 GFLOP/s; target could save 4 of 10 ms, all stages 7.5.
    expected = "arithmetic (60% of the time) | 45% | 25% | target | 1.67 | 4.0 |"
    assert f"| HalfCheetah 0.9, 8 lanes | {expected}" in verdict


def test_stages_of_an_earlier_recording_are_not_mixed_with_the_newest(results: Path) -> None:
    def recording(*stages: str, ms: float) -> list[dict[str, Any]]:
        rows = [stage_row(stage, ms, 1 / len(stages), 0.5) for stage in stages]
        return [*rows, stage_row("update", ms * len(stages), 1.0, 1.0) | {"part": "step"}]

    old = recording("sample", "noise", "target", ms=4.0)
    write(results / "stages.csv", old)
    assert "| noise | 4.00 (33%) |" in result_tables.stages_table()
    write(results / "stages.csv", [*old, *recording("sample", "target", ms=1.0)])
    table = result_tables.stages_table()
    assert "noise" not in table and "| **one update** | 2.0 |" in table
    assert "| target | 1.00 (50%) |" in table


def test_layers_are_told_apart_by_their_density(results: Path) -> None:
    sizes = {"env": "HalfCheetah-v3", "lanes": 8, "metric": "call_us", **FACTS}
    ops = [("csr_linear", 0.9, 0.8), ("csr_linear", 0.9, 0.95), ("hidden_linear", 0.0, 0.5),
           ("linear_input_grad", 0.99, 0.8)]  # fmt: skip
    rows = [
        {
            "impl": impl, "op": op, "noise_fraction": noise, "sparsity": sparsity, **sizes,
            "p20": us, "p50": us, "p80": us,
        }
        for op, noise, sparsity in ops
        for impl, us in (("native", 10.0 + sparsity), ("reference", 500.0))
    ]  # fmt: skip
    write(results / "kernels.csv", rows)
    table = result_tables.kernels_table()
    for words in (
        "| csr_linear | HalfCheetah 0.9, density 0.2, 8 lanes | 10.8",
        "| csr_linear | HalfCheetah 0.9, density 0.05, 8 lanes | 10.9",
        "| hidden_linear | 256 x 256, density 0.5, 8 lanes | 10.5",
        "| linear_input_grad | HalfCheetah 0.99, density 0.2, 8 lanes | 10.8",
    ):
        assert words in table, words


def test_kernels_stand_beside_plain_torch(results: Path) -> None:
    sizes = {"op": "noise", "env": "HalfCheetah-v3", "noise_fraction": 0.9, "lanes": 1}
    rows = [
        {"impl": impl, **sizes, "metric": "call_us", "p20": us, "p50": us, "p80": us, **FACTS}
        for impl, us in (("native", 20.0), ("reference", 500.0))
    ]
    write(results / "kernels.csv", rows)
    line = "| noise | HalfCheetah 0.9, 1 lane | 20.0 (20.0-20.0) | 500 (500-500) | 25 |"
    assert line in result_tables.kernels_table()


def test_every_table_that_a_readme_names_exists() -> None:
    for path in readme_tables.FILES:
        names = re.findall(r"<!-- table: (\w+) -->", path.read_text())
        assert names and set(names) <= readme_tables.TABLES.keys()
