"""The table of stages: how long each takes, how near that is to the machine's limits, what limits
it, and where to begin.

A stage's time is compared with three others: what its operations would take at the measured peak,
what its bytes would take at the measured copy, and what the same stage takes where there is nothing
to compute (the overhead of calls). The longest of the three is its *limit*. The *floor* is the
longer of useful operations and useful bytes at their peaks; time above the floor can be saved.

Source of the model: Williams et al. 2009, Roofline, Communications of the ACM 52(4); of the
bound on the speed-up: Amdahl 1967.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fastanf.instrument import STEP_STAGES, UPDATE_STAGES, Recording, Stage
from fastanf.peaks import Peaks
from fastanf.workload import NOTHING, Work

ARITHMETIC, MEMORY, OVERHEAD = "arithmetic", "memory", "overhead"
LIMITS: tuple[str, ...] = (ARITHMETIC, MEMORY, OVERHEAD)
UNKNOWN = "-"
_MS = 1e-6


@dataclass(frozen=True)
class StageTime:
    """Durations of one stage."""

    stage: Stage
    samples_ns: Sequence[int]
    """Of each frame in which it occurred."""
    per_step: float
    """Frames in which it occurs, per training step."""

    @property
    def mean_ms(self) -> float:
        """Milliseconds per training step, those in which it does not occur included."""
        return float(np.mean(self.samples_ns)) * _MS * self.per_step

    def percentiles_ms(self) -> tuple[float, float, float]:
        """20th, 50th and 80th percentile over the frames in which it occurred."""
        low, middle, high = np.percentile(self.samples_ns, [20, 50, 80]) * _MS
        return float(low), float(middle), float(high)


def times_of(samples: Mapping[Stage, Sequence[int]], count: int) -> list[StageTime]:
    """Stages in the order of a table, with how often each occurs in `count` steps."""
    return [
        StageTime(name, samples[name], len(samples[name]) / count)
        for name in (*STEP_STAGES, *UPDATE_STAGES, Stage.OTHER)
        if samples.get(name)
    ]


def update_times(recording: Recording) -> list[StageTime]:
    """The stages of the recorded updates, per update; what lies between is `Stage.OTHER`."""
    return times_of(recording.within(Stage.UPDATE), len(recording.roots_ns[Stage.UPDATE]))


def step_times(recording: Recording) -> list[StageTime]:
    """The stages of the recorded training steps, per step: those in which agents acted."""
    return times_of(recording.roots_ns, len(recording.roots_ns[Stage.ACT]))


@dataclass(frozen=True)
class StageRow:
    """One line of the table."""

    time: StageTime
    share: float
    """Of the whole, in [0, 1]."""
    work: Work
    """Per training step; zero where it is not counted."""
    peaks: Peaks
    overhead_ms: float
    """Per training step, nan where it was not measured."""

    @property
    def name(self) -> str:
        return self.time.stage.value

    @property
    def mean_ms(self) -> float:
        """Milliseconds per training step."""
        return self.time.mean_ms

    @property
    def useful_gflop_s(self) -> float:
        """10^9 operations of active connections per second."""
        return self.work.useful_flops / self.mean_ms / 1e6

    @property
    def done_gflop_s(self) -> float:
        """10^9 operations per second, those on inactive connections included."""
        return self.work.done_flops / self.mean_ms / 1e6

    @property
    def gb_s(self) -> float:
        """10^9 bytes per second."""
        return self.work.moved_bytes / self.mean_ms / 1e6

    @property
    def of_sgemm(self) -> float:
        """Operations done, as a share of the measured peak."""
        return self.done_gflop_s / self.peaks.gflop_s

    @property
    def of_copy(self) -> float:
        """Bytes moved, as a share of the measured copy of a large array; above 1 in a cache."""
        return self.gb_s / self.peaks.memory_gb_s

    def limits_ms(self) -> dict[str, float]:
        """Milliseconds that each limit alone would take; nan where it is not known."""
        return {
            ARITHMETIC: self.work.done_flops / self.peaks.gflop_s / 1e6,
            MEMORY: self.work.moved_bytes / self.peaks.working_set_gb_s / 1e6,
            OVERHEAD: self.overhead_ms,
        }

    @property
    def limit(self) -> str:
        """The limit that explains most of the time, or UNKNOWN where none is counted."""
        known = {name: ms for name, ms in self.limits_ms().items() if ms > 0}
        return max(known, key=known.__getitem__) if known else UNKNOWN

    @property
    def explained(self) -> float:
        """Share of the time that the nearest limit explains."""
        return self.limits_ms().get(self.limit, 0.0) / self.mean_ms

    @property
    def floor_ms(self) -> float:
        """What the useful work takes at the peaks; 0 where the work is not counted."""
        useful_gb = self.work.useful_bytes / 1e6
        return max(
            self.work.useful_flops / self.peaks.gflop_s / 1e6,
            useful_gb / self.peaks.working_set_gb_s,
        )

    @property
    def saving_ms(self) -> float:
        """Time above the floor."""
        return max(0.0, self.mean_ms - self.floor_ms)


@dataclass(frozen=True)
class StageTable:
    """Rows that sum to a whole."""

    title: str
    rows: tuple[StageRow, ...]

    @property
    def whole_ms(self) -> float:
        """Milliseconds of all rows, per training step."""
        return sum(row.mean_ms for row in self.rows)

    @property
    def first(self) -> StageRow:
        """The stage with most to save."""
        return max(self.rows, key=lambda row: row.saving_ms)

    def speed_up(self, rows: Sequence[StageRow]) -> float:
        """Of the whole, if these rows took their floor only (Amdahl)."""
        return self.whole_ms / max(self.whole_ms - sum(row.saving_ms for row in rows), 1e-12)

    def share_of_limits(self) -> dict[str, float]:
        """Share of the whole that is spent in the stages of each limit."""
        shares: dict[str, float] = dict.fromkeys((*LIMITS, UNKNOWN), 0.0)
        for row in self.rows:
            shares[row.limit] += row.share
        return shares


def make_table(
    title: str,
    times: Sequence[StageTime],
    works: Mapping[Stage, Work],
    peaks: Peaks,
    overhead_ms: Mapping[Stage, float] | None = None,
) -> StageTable:
    """Stages with their work, their share of the whole and their limits.

    Args:
        title: heading.
        times: the stages, the rest (`Stage.OTHER`) included, so that they sum to the whole.
        works: work of a stage per training step, where it is counted.
        peaks: limits of the machine, measured in the same run.
        overhead_ms: what a stage takes with nothing to compute, or None if that was not measured.
    """
    whole_ms = sum(time.mean_ms for time in times)
    missing = float("nan")
    overheads = overhead_ms or {}
    return StageTable(
        title,
        tuple(
            StageRow(
                time,
                time.mean_ms / whole_ms,
                works.get(time.stage, NOTHING),
                peaks,
                overheads.get(time.stage, missing),
            )
            for time in times
        ),
    )
