"""A block's profile as rows of profiling/results/stages.csv and as one JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from stage_profile import Profile

from fastanf.stage_table import StageRow
from fastanf.stage_text import step_verdict, verdict


def _figures(row: StageRow) -> dict[str, float]:
    low, middle, high = row.time.percentiles_ms()
    return {
        "per_step": row.time.per_step,
        "p20": low,
        "p50": middle,
        "p80": high,
        "mean_ms": row.mean_ms,
        "share": row.share,
        "useful_gflop_s": row.useful_gflop_s,
        "done_gflop_s": row.done_gflop_s,
        "gb_s": row.gb_s,
        "of_sgemm": row.of_sgemm,
        "of_copy": row.of_copy,
        "explained": row.explained,
        "floor_ms": row.floor_ms,
    }


FIGURES = (
    "per_step", "p20", "p50", "p80", "mean_ms", "share", "useful_gflop_s", "done_gflop_s", "gb_s",
    "of_sgemm", "of_copy", "explained", "floor_ms",
)  # fmt: skip


def columns(sizes: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """The columns of a row."""
    return ["bench", *sizes, "part", "metric", "unit", *FIGURES, "limit", *facts]


def rows(
    profile: Profile, sizes: Mapping[str, Any], facts: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One row a stage, of one update and of one training step.

    `metric` is the stage; p20, p50, p80 are milliseconds of one occurrence.

    Args:
        profile: of a block.
        sizes: of the block.
        facts: conditions of the measurement.
    """
    return [
        {
            "bench": "stages",
            **sizes,
            "part": part,
            "metric": row.name,
            "unit": "ms",
            **{name: float(f"{value:.5g}") for name, value in _figures(row).items()},
            "limit": row.limit,
            **facts,
        }
        for part, table in (("update", profile.update), ("step", profile.step))
        for row in table.rows
    ]


def as_json(profile: Profile, sizes: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything measured, with the figures of the whole at the top."""
    L, E = sizes["lanes"], sizes["envs_per_lane"]
    low, middle, high = np.percentile(profile.instrument_ratios, [20, 50, 80])
    useful = sum(row.work.useful_flops for row in profile.update.rows)
    return {
        "bench": "stages",
        **sizes,
        "lane_updates_per_s": L / profile.update.whole_ms * 1e3,
        "env_steps_per_s": L * E / profile.step.whole_ms * 1e3,
        "useful_gflop_s": useful / profile.update.whole_ms / 1e6,
        "peak_gflop_s": profile.peaks.gflop_s,
        "peak_memory_gb_s": profile.peaks.memory_gb_s,
        "peak_working_set_gb_s": profile.peaks.working_set_gb_s,
        "instrument_ratio": {"p20": low, "p50": middle, "p80": high},
        "stages": rows(profile, {}, {}),
        "verdicts": {"update": verdict(profile.update), "step": step_verdict(profile.step)},
        **facts,
    }
