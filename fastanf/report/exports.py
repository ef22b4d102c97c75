"""The numbers of the page as CSV tables, with a word on each column.

Cells of numbers are written in full; a number that is not there is an empty cell. A text that a
spreadsheet would compute (it begins with = + - @) has an apostrophe before it.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastanf.plain_text import visible
from fastanf.report.answers import Final, pairs_of, published_step
from fastanf.report.arms import Arm, Panel
from fastanf.report.bands import iqm_band, mean_band
from fastanf.report.collected import LaneRecord
from fastanf.report.lane_states import LaneState
from fastanf.report.merging import ArmRecord
from fastanf.rows import TopologyRow, csv_line

_ARM = {
    "env": "task",
    "noise_fraction": "share of noise features",
    "policy": "policy",
    "variant": "what sets the arm apart from others of its policy",
}
_FORMULA_STARTS = ("=", "+", "-", "@")
_STEP = "environment steps of a lane after the random start"


@dataclass(frozen=True)
class Export:
    """One table."""

    name: str
    about: str
    columns: Mapping[str, str]
    """Name -> meaning."""
    rows: tuple[tuple[Any, ...], ...]

    def text(self) -> str:
        """The table as CSV with a header."""
        return "".join(csv_line(map(_cell, row)) for row in [tuple(self.columns), *self.rows])


def _cell(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    if isinstance(value, str):
        text = visible(" ".join(value.splitlines()))  # a line is a row
        return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
    return "" if value is None else value


def exports(
    panels: Mapping[Panel, Sequence[Final]],
    records: Sequence[ArmRecord],
    states: Sequence[LaneState],
) -> list[Export]:
    """All tables."""
    return [
        _finals([final for finals in panels.values() for final in finals]),
        _pairs(panels),
        _curves([record for record in records if record.has_returns]),
        _connections(records),
        _lanes(states),
    ]


def _finals(finals: Iterable[Final]) -> Export:
    columns = {
        **_ARM,
        "lanes": "lanes in the figures of this row",
        "lanes_left_out": "lanes of the arm without a finite final return",
        "lanes_stopped": "lanes of the arm that were stopped, because they were broken",
        "step": f"{_STEP}, at the last evaluation",
        "evaluations": "last evaluations whose mean is a lane's final return",
        "mean": "mean over lanes of the final return",
        "mean_low": "its 95% bootstrap interval",
        "mean_high": "its 95% bootstrap interval",
        "iqm": "interquartile mean over lanes of the final return",
        "iqm_low": "its 95% bootstrap interval",
        "iqm_high": "its 95% bootstrap interval",
        "published_source": "who published a return; several sources are several rows",
        "published_step": "step of the published return that is compared",
        "published_return": "published mean return",
        "published_seeds": "seeds behind it; empty if not known",
        "our_step": "our evaluation that is compared; empty if we have not come so far",
        "our_mean": "mean over our lanes there",
        "our_low": "its 95% bootstrap interval",
        "our_high": "its 95% bootstrap interval",
    }
    return Export(
        "final.csv",
        "final returns of the arms, best first in each task, beside published ones",
        columns,
        tuple(row for final in finals for row in _final_rows(final)),
    )


def _final_rows(final: Final) -> list[tuple[Any, ...]]:
    start = (
        *_arm_cells(final.record.arm), final.mean.num_runs, final.mean.num_left_out,
        len(final.record.stopped), final.step, final.num_averaged, final.mean.value,
        final.mean.low, final.mean.high, final.iqm.value, final.iqm.low, final.iqm.high,
    )  # fmt: skip
    rows = []
    for one in final.comparisons:
        published, ours = one.published, one.ours
        rows.append(
            (*start, published.source, published_step(published), published.return_mean,
             published.num_seeds, one.step, ours.value, ours.low, ours.high)
        )  # fmt: skip
    for published in final.beyond:
        rows.append(
            (*start, published.source, published_step(published), published.return_mean,
             published.num_seeds, None, None, None, None)
        )  # fmt: skip
    return rows or [(*start, *(None,) * 8)]


def _pairs(panels: Mapping[Panel, Sequence[Final]]) -> Export:
    columns = {
        "env": "task",
        "noise_fraction": "share of noise features",
        "policy": "policy of the arm that ranks higher by its final mean",
        "variant": "its variant",
        "other_policy": "policy of the other arm",
        "other_variant": "its variant",
        "step": f"{_STEP}: the last that both have reached",
        "probability": "chance that a lane of the arm has a higher final return than one of the "
        "other",
        "low": "its 95% bootstrap interval",
        "high": "its 95% bootstrap interval",
        "lanes": "lanes of both arms together",
        "lanes_left_out": "lanes of both without a finite final return",
    }
    rows = []
    for finals in panels.values():
        for pair in pairs_of(finals):
            chance = pair.probability
            rows.append(
                (*_arm_cells(pair.better), pair.worse.policy, pair.worse.variant, pair.step,
                 chance.value, chance.low, chance.high, chance.num_runs, chance.num_left_out)
            )  # fmt: skip
    return Export("pairs.csv", "every two arms of a task", columns, tuple(rows))


def _curves(records: Sequence[ArmRecord]) -> Export:
    columns = {
        **_ARM,
        "step": _STEP,
        "lanes": "lanes with a finite return at this step",
        "mean": "mean over them",
        "mean_low": "its 95% bootstrap interval, of this step by itself",
        "mean_high": "its 95% bootstrap interval, of this step by itself",
        "iqm": "interquartile mean over them",
        "iqm_low": "its 95% bootstrap interval, of this step by itself",
        "iqm_high": "its 95% bootstrap interval, of this step by itself",
        "lowest": "lowest return of a lane",
        "highest": "highest return of a lane",
    }
    return Export(
        "curves.csv",
        "learning curves of the arms",
        columns,
        tuple(row for record in records for row in _curve_rows(record.arm)),
    )


def _curve_rows(arm: Arm) -> Iterable[tuple[Any, ...]]:
    means, iqms = mean_band(arm.returns), iqm_band(arm.returns)
    for at, step in enumerate(arm.steps):
        finite = [float(value) for value in arm.returns[:, at] if math.isfinite(value)]
        yield (
            *_arm_cells(arm), int(step), len(finite), *(float(part[at]) for part in means),
            *(float(part[at]) for part in iqms), min(finite, default=None),
            max(finite, default=None),
        )  # fmt: skip


def _connections(records: Sequence[ArmRecord]) -> Export:
    columns = {
        "run": "name of the run",
        "lane": "number of the lane in its run",
        **_ARM,
        "seed": "of the lane",
        "step": _STEP,
        "updates": "of the lane",
        "network": "actor, critic1 or critic2",
        "real_connections": "active connections of the first layer that start at a real feature; "
        "empty in a dense layer",
        "noise_connections": "those that start at a noise feature; empty in a dense layer",
        "precision": "real / (real + noise)",
        "num_real": "real features",
        "num_features": "all features",
        "real_weight": "mean |weight| of a real feature over the hidden units, zeros included",
        "noise_weight": "the same of a noise feature",
    }
    rows = [
        row
        for record in records
        for lane in record.lanes
        for row in _lane_connections(record, lane)
    ]
    return Export("connections.csv", "first layers of the lanes", columns, tuple(rows))


def _lane_connections(record: ArmRecord, lane: LaneRecord) -> Iterable[tuple[Any, ...]]:
    first: dict[tuple[int, str], TopologyRow] = {
        (row.step, row.network): row for row in lane.topology if row.layer == 0
    }
    features = {(row.step, row.network): row for row in lane.features}
    for step, network in sorted({*first, *features}):
        counts, weights = first.get((step, network)), features.get((step, network))
        either = counts or weights
        assert either is not None
        yield (
            lane.run, lane.number, *_arm_cells(record.arm), lane.seed, step, either.updates,
            network,
            *((counts.real_connections, counts.noise_connections, counts.precision)
              if counts else (None,) * 3),
            *((weights.num_real, weights.num_features, weights.real_weight, weights.noise_weight)
              if weights else (None,) * 4),
        )  # fmt: skip


def _lanes(states: Sequence[LaneState]) -> Export:
    columns = {
        "run": "name of the run",
        "lane": "number of the lane in its run",
        **_ARM,
        "seed": "of the lane",
        "status": "finished, stopped (broken), training, waiting, interrupted or failed",
        "last_step": f"{_STEP}, at its last evaluation",
        "max_steps": "steps that it is to train",
        "last_return": "of its last evaluation",
        "num_evaluations": "evaluations so far",
        "num_lost_evaluations": "those without a finite return",
        "lost_from_step": "step from which on none has a finite return",
        "num_failures": "training steps whose simulation broke down",
        "stopped_at": f"{_STEP}, at which it was stopped; empty if it was not",
        "cause": "what was broken then",
        "checkpoint_step": "step of the last checkpoint that held it sound",
    }
    rows = tuple(dataclasses.astuple(state) for state in states)
    assert tuple(columns) == tuple(field.name for field in dataclasses.fields(LaneState))
    return Export("lanes.csv", "every lane as it is now", columns, rows)


def _arm_cells(arm: Arm) -> tuple[Any, ...]:
    return arm.env, arm.noise_fraction, arm.policy, arm.variant
