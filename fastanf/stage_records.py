"""The table of stages of a run that trains (--profile): one at each evaluation."""

from __future__ import annotations

import torch

from fastanf.block import TrainingBlock
from fastanf.collect import row_multiple
from fastanf.grouping import block_of
from fastanf.instrument import Recorder, Stage, clock_of
from fastanf.memory import block_memory
from fastanf.peaks import measure_peaks
from fastanf.rows import ProfileRow, stage_column
from fastanf.stage_table import StageTable, make_table, step_times, update_times
from fastanf.workload import step_work, update_work

_FIGURES = (
    "mean_ms", "share", "useful_gflop_s", "done_gflop_s", "of_sgemm", "gb_s", "of_copy", "limit",
)  # fmt: skip


class StageProfiler:
    """Times the stages of one block while it trains, and makes rows of them.

    Measuring the machine's peaks takes about a second, once.

    Args:
        block: that trains.
        device: that it is on.
    """

    def __init__(self, block: TrainingBlock, device: torch.device):
        lanes, spec = block.lanes, block.env.spec
        self.recorder = Recorder(clock_of(device))
        self._works = {
            "update": update_work(lanes, spec, device.type),
            "step": step_work(lanes, spec, row_multiple(device), device.type),
        }
        self._peaks = measure_peaks(device, block_memory(block_of(lanes, device.type)).working_set)

    def rows(self, lane: int, step: int, updates: int) -> list[ProfileRow]:
        """The stages since the last call, one row each; none where nothing trained since.

        Args:
            lane: the block's first lane.
            step: environment steps of a lane.
            updates: of a lane.
        """
        recording = self.recorder.take()
        if Stage.ACT not in recording.roots_ns or Stage.UPDATE not in recording.roots_ns:
            return []
        times = {"update": update_times(recording), "step": step_times(recording)}
        return [
            row
            for part, work in self._works.items()
            for row in _rows(
                part, make_table(part, times[part], work, self._peaks), lane, step, updates
            )
        ]


def stage_columns(rows: list[ProfileRow]) -> dict[str, float]:
    """The same milliseconds as columns of train.csv."""
    return {stage_column(row.part, row.stage): row.mean_ms for row in rows}


def _rows(part: str, table: StageTable, lane: int, step: int, updates: int) -> list[ProfileRow]:
    return [
        ProfileRow(
            lane,
            step,
            updates,
            part,
            row.name,
            row.time.per_step,
            *row.time.percentiles_ms(),
            **{name: getattr(row, name) for name in _FIGURES},
        )
        for row in table.rows
    ]
