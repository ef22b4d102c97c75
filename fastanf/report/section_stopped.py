"""The section on lanes that were stopped because they were broken, and on what numbers lack."""

from collections.abc import Mapping, Sequence

import numpy as np

from fastanf.curves import panel_title
from fastanf.report.answers import Final
from fastanf.report.arms import Panel, label_among
from fastanf.report.lane_states import LaneState
from fastanf.report.markup import Column, Markup, element, join, note, paragraph, table
from fastanf.report.merging import ArmRecord
from fastanf.report.phrases import ABSENT, left_out, part_of

MEANING = (
    "A lane is stopped when a loss, a weight or a return of it is no finite number, or when its "
    "simulation breaks down in nearly every step; lanes that train beside it are not touched. It "
    "has no evaluation from there on. Numbers of a step are over the lanes that have a return "
    "there: a learning curve holds the lane until it was stopped, a final return, a probability "
    "of improvement and a score over tasks do not hold it. An arm that loses its worst lanes this "
    "way looks better than it is."
)


def stopped_section(
    panels: Mapping[Panel, Sequence[Final]],
    records: Sequence[ArmRecord],
    states: Sequence[LaneState],
) -> Markup:
    """How many lanes were stopped, which, and what is missing where.

    Args:
        panels: the arms that have returns.
        records: all arms.
        states: all lanes, of which one at least was stopped.
    """
    stopped = [state for state in states if state.stopped_at is not None]
    return join(
        [
            paragraph(_in_words(records, len(stopped), len(states))),
            _lane_table(stopped, {state.run for state in states}),
            element("h3", "Lanes behind each number"),
            _numbers_table(panels, records),
            note(MEANING),
        ]
    )


def _in_words(records: Sequence[ArmRecord], num_stopped: int, num_lanes: int) -> str:
    every = [record.arm for record in records]
    arms = left_out(
        (label_among(record.arm, every), len(record.stopped), len(record.lanes))
        for record in records
    )
    verb = "was" if num_stopped == 1 else "were"
    total = part_of(num_stopped, num_lanes, "lane")
    return f"{total} {verb} stopped" + (f": {arms}." if arms else ".")


def _lane_table(stopped: Sequence[LaneState], runs: set[str]) -> Markup:
    columns = [
        Column("lane", True),
        *([Column("run")] if len(runs) > 1 else []),
        *([Column("task")] if len({(s.env, s.noise_fraction) for s in stopped}) > 1 else []),
        Column("policy"),
        *([Column("variant")] if any(state.variant for state in stopped) else []),
        Column("seed", True),
        Column("stopped at step", True),
        Column("of", True),
        Column("because"),
        Column("last good checkpoint", True),
    ]
    heads = {column.head for column in columns}
    rows = []
    for state in stopped:
        step = state.checkpoint_step
        cells = {
            "lane": str(state.lane),
            "run": state.run,
            "task": panel_title((state.env, state.noise_fraction)),
            "policy": state.policy,
            "variant": state.variant,
            "seed": str(state.seed),
            "stopped at step": f"{state.stopped_at:,}",
            "of": f"{state.max_steps:,}",
            "because": state.cause or ABSENT,
            "last good checkpoint": "none" if step is None else f"step {step:,}",
        }
        rows.append([cell for head, cell in cells.items() if head in heads])
    return table("Lanes that were stopped", columns, rows)


def _numbers_table(panels: Mapping[Panel, Sequence[Final]], records: Sequence[ArmRecord]) -> Markup:
    """Of each arm that lost a lane, how many lanes are in its numbers."""
    finals = {id(final.record): final for of_task in panels.values() for final in of_task}
    every = [record.arm for record in records]
    rows = []
    for record in records:
        if not record.stopped:
            continue
        label = label_among(record.arm, every)
        num_lanes, final = len(record.lanes), finals.get(id(record))
        num_stopped = part_of(len(record.stopped), num_lanes, "lane")
        if final is None:
            rows.append([label, num_stopped, ABSENT, ABSENT, ABSENT])
            continue
        at_first, at_last = (int(np.isfinite(record.arm.returns[:, k]).sum()) for k in (0, -1))
        rows.append(
            [
                label,
                num_stopped,
                part_of(at_first, num_lanes, "lane"),
                f"{part_of(at_last, num_lanes, 'lane')} (step {final.step:,})",
                part_of(final.mean.num_runs, num_lanes, "lane"),
            ]
        )
    columns = [
        Column("arm"),
        Column("stopped", True),
        Column("in the first point of the curve", True),
        Column("in its last point", True),
        Column("in the final return", True),
    ]
    return table("Lanes behind each number of the arms that lost some", columns, rows)
