"""What was measured of gathering (bench_gatherer.py), as functions of the size of a run.

Axes: L lanes of a block, N blocks in training at the same time. Between what was measured it is
interpolated; a cost that grows in a line beyond it is continued in that line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import result_rows
from gatherer_rounds import STORED_EVALUATIONS

Row = Mapping[str, Any]
TABLES = ("eval", "train", "topology", "features")


@dataclass(frozen=True)
class Plane:
    """constant + per_lane * L + per_run_lane * N * L, never below 0."""

    constant: float
    per_lane: float
    per_run_lane: float

    def __call__(self, blocks: float, lanes: float) -> float:
        """At N blocks of L lanes."""
        value = self.constant + self.per_lane * lanes + self.per_run_lane * blocks * lanes
        return max(0.0, value)

    @classmethod
    def through(cls, points: Sequence[tuple[float, float, float]]) -> Plane:
        """The plane of least squares through (N, L, value), among those that nowhere sink."""
        sizes = np.array([[1.0, lanes, blocks * lanes] for blocks, lanes, _ in points])
        values = np.array([value for *_, value in points])
        used = [0, 1, 2]
        while True:
            found, *_ = np.linalg.lstsq(sizes[:, used], values, rcond=None)
            rising = [n for n, slope in zip(used, found, strict=True) if n == 0 or slope >= 0]
            if rising == used:
                break
            used = rising
        of_size = dict(zip(used, map(float, found), strict=True))
        return cls(*(of_size.get(number, 0.0) for number in range(3)))


@dataclass(frozen=True)
class Line:
    """Straight from point to point; on beyond the last one as between the last two."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __call__(self, x: float) -> float:
        """The value there, never below 0."""
        if len(self.x) > 1 and x > self.x[-1]:
            slope = (self.y[-1] - self.y[-2]) / (self.x[-1] - self.x[-2])
            return max(0.0, self.y[-1] + slope * (x - self.x[-1]))
        if len(self.x) > 1 and x < self.x[0]:
            slope = (self.y[1] - self.y[0]) / (self.x[1] - self.x[0])
            return max(0.0, self.y[0] + slope * (x - self.x[0]))
        return float(np.interp(x, self.x, self.y))

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> Line:
        """Through all of (x, y)."""
        ordered = sorted(points)
        return cls(tuple(x for x, _ in ordered), tuple(y for _, y in ordered))


@dataclass(frozen=True)
class Costs:
    """Of the gatherer; seconds are of CPU time unless a name says otherwise."""

    rows_s: Plane
    """A block's rows of one evaluation, into the tables; syncs left out."""
    tensorboard_s: Line
    """The same rows by L, into TensorBoard: it knows no other lane."""
    stored_rows_s: Line
    """The same rows by L, kept for a store."""
    stored_commit_s: Line
    """The same rows by L, put into a store with a checkpoint."""
    round_syncs: float
    """For the rows of all blocks that are heard together."""
    sync_wall_s: float
    """One, on the disk that was measured."""
    table_bytes: Mapping[str, float]
    """Table -> bytes of a lane's rows of one evaluation."""
    rows_per_lane: float
    """In all tables."""
    draw_s: Plane
    """The display in lines, once."""
    commit_s: float
    """A checkpoint that is committed."""
    commit_syncs: float
    share_of_exchanges: Line
    """Of one CPU by N, while nothing happens."""
    exchange_s: float
    """One that brings nothing, back to back with others."""
    message_s: Line
    """A block's rows of one evaluation by L, received."""
    message_bytes: Line
    open_s_per_row: float
    """Wall time to open a run again."""
    open_bytes_per_row: float
    """Of memory meanwhile."""
    drop_s_per_row: float
    """Wall time to drop rows of some lanes, however many, by the rows of the whole run."""
    goes_on_s_per_row: float
    """Wall time for a block that goes on, by its own rows: checked and shown."""


def read_costs(rows: Sequence[Row] | None = None) -> Costs:
    """From the newest rows of every point.

    Args:
        rows: as `result_rows.read` gives them; None for those of profiling/results/gatherer.csv.

    Raises:
        ValueError: something was not measured.
    """
    found = _Newest(result_rows.read("gatherer") if rows is None else rows)
    plain = found.by_size("rows", "block_eval_cpu_ms", tensorboard="no", store="")
    mirrored = found.by_size("rows", "block_eval_cpu_ms", tensorboard="yes")
    stored = found.by_size("rows", "block_eval_cpu_ms", store="memory")
    kept = [(size[1], max(0.0, ms - plain[size]) / 1e3) for size, ms in stored.items()]
    commits = found.by_size("commit", "commit_cpu_ms", store="")
    put = [
        (size[1], max(0.0, ms - commits[size]) / 1e3 / STORED_EVALUATIONS)
        for size, ms in found.by_size("commit", "commit_cpu_ms", store="memory").items()
    ]
    messages = found.by_lanes("ray_rows", "exchange_cpu_ms")
    empty_s = messages.pop("") / 1e3
    silent = found.by_size("ray", "gatherer_share")
    restart = found.largest_restart()
    num_rows = restart["rows_count"]
    num_lane_evaluations = restart["blocks"] * restart["lanes"] * restart["evaluations"]
    return Costs(
        rows_s=_plane(plain),
        tensorboard_s=Line.through(
            [
                (
                    lanes,
                    float(
                        np.median(
                            [ms - plain[n, L] for (n, L), ms in mirrored.items() if lanes == L]
                        )
                    )
                    / 1e3,
                )
                for lanes in {lanes for _, lanes in mirrored}
            ]
        ),
        stored_rows_s=Line.through(kept),
        stored_commit_s=Line.through(put),
        round_syncs=found.median("rows", "fsyncs_count"),
        sync_wall_s=found.median("rows", "fsync_ms", tensorboard="no", store="") / 1e3,
        table_bytes={name: found.median("rows", f"{name}_bytes") for name in TABLES},
        rows_per_lane=num_rows / num_lane_evaluations,
        draw_s=_plane(found.by_size("idle", "draw_ms", display="lines")),
        commit_s=float(np.median(list(commits.values()))) / 1e3,
        commit_syncs=found.median("commit", "fsyncs_count"),
        share_of_exchanges=Line.through([(blocks, share) for (blocks, _), share in silent.items()]),
        exchange_s=empty_s,
        message_s=Line.through(
            [(float(lanes), max(0.0, ms / 1e3 - empty_s)) for lanes, ms in messages.items()]
        ),
        message_bytes=Line.through(
            [(float(n), size) for n, size in found.by_lanes("ray_rows", "message_bytes").items()]
        ),
        open_s_per_row=restart["open_s"] / num_rows,
        open_bytes_per_row=restart["open_extra_mib"] * 2**20 / num_rows,
        drop_s_per_row=max(restart["drop_s"], restart["drop_all_s"]) / num_rows,
        goes_on_s_per_row=sum(restart[n] for n in ("check_s", "truncate_s", "evaluations_s"))
        / (num_rows / restart["blocks"]),
    )


def _plane(by_size: Mapping[tuple[float, float], float]) -> Plane:
    """Of milliseconds, in seconds."""
    return Plane.through([(*size, ms / 1e3) for size, ms in by_size.items()])


class _Newest:
    """The newest row of every point and metric."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = {
            (
                *(row[name] for name in ("impl", "blocks", "lanes", "tensorboard", "store")),
                *(row[name] for name in ("display", "evaluations", "metric")),
            ): row
            for row in rows
        }.values()

    def _of(self, part: str, metric: str, **sizes: str) -> list[Row]:
        found = [
            row
            for row in self._rows
            if row["impl"] == part
            and row["metric"] == metric
            and all(row[name] == value for name, value in sizes.items())
        ]
        if not found:
            what = "".join(f", {name} {value or 'none'}" for name, value in sizes.items())
            raise ValueError(
                f"{metric} of part {part}{what} was not measured: record it with "
                "profiling/bench_gatherer.py --record"
            )
        return found

    def median(self, part: str, metric: str, **sizes: str) -> float:
        """Over points."""
        return float(np.median([float(row["p50"]) for row in self._of(part, metric, **sizes)]))

    def by_size(self, part: str, metric: str, **sizes: str) -> dict[tuple[float, float], float]:
        """(N, L) -> median over rounds; L is 0 where a part has none."""
        return {
            (float(row["blocks"]), float(row["lanes"] or 0)): float(row["p50"])
            for row in self._of(part, metric, **sizes)
        }

    def by_lanes(self, part: str, metric: str) -> dict[str, float]:
        """L as text, empty for none -> median over rounds."""
        return {str(row["lanes"]): float(row["p50"]) for row in self._of(part, metric)}

    def largest_restart(self) -> dict[str, float]:
        """Sizes and medians of the run with most rows."""
        most = max(self._of("restart", "rows_count"), key=lambda row: float(row["p50"]))
        sizes = {name: most[name] for name in ("blocks", "lanes", "evaluations")}
        of_most = [
            row
            for row in self._rows
            if row["impl"] == "restart" and all(row[n] == v for n, v in sizes.items())
        ]
        figures = {row["metric"]: float(row["p50"]) for row in of_most}
        return figures | {name: float(value) for name, value in sizes.items()}
