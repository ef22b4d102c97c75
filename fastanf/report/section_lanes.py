"""The section on single lanes and their settings."""

from collections.abc import Sequence
from typing import Any

from fastanf.curves import panel_title
from fastanf.report.collected import LaneRecord, RunRecord
from fastanf.report.lane_states import (
    LaneState,
    differing_settings,
    shared_settings,
)
from fastanf.report.markup import Column, Markup, details, element, join, note, table
from fastanf.report.merging import ArmRecord
from fastanf.report.phrases import ABSENT, count, returns, setting_text

MANY_LANES = 16
"""From here on the table of lanes is shown on demand only."""


def lanes_section(
    runs: Sequence[RunRecord], records: Sequence[ArmRecord], states: Sequence[LaneState]
) -> Markup:
    """All lanes, what differs between arms, and what all share."""
    lanes = [lane for run in runs for lane in run.lanes]
    return join(
        [
            _lost(states),
            _lane_table(states, has_runs=len(runs) > 1),
            element("h3", "Settings that differ between arms"),
            _differing(records),
            element("h3", "Settings that all lanes share"),
            _shared(lanes),
        ]
    )


def _lost(states: Sequence[LaneState]) -> Markup:
    """Lanes that went wrong, by name; nothing if none did."""
    items = []
    for state in states:
        name = f"lane {state.lane} of {state.run} ({state.policy}, seed {state.seed})"
        if state.lost_from_step is not None:
            items.append(f"{name} has no finite return from step {state.lost_from_step:,} on")
        elif state.num_lost_evaluations:
            lost = count(state.num_lost_evaluations, "evaluation")
            items.append(f"{name} has {lost} without a finite return")
        if state.num_failures:
            times = count(state.num_failures, "time")
            items.append(f"{name}: its simulation broke down {times} while it trained")
    if not items:
        return Markup("")
    return element("ul", *(element("li", item, class_="lost") for item in items), class_="plain")


def _lane_table(states: Sequence[LaneState], has_runs: bool) -> Markup:
    columns = [
        Column("lane", True),
        *([Column("run")] if has_runs else []),
        *([Column("task")] if len({(s.env, s.noise_fraction) for s in states}) > 1 else []),
        Column("policy"),
        *([Column("variant")] if any(state.variant for state in states) else []),
        Column("seed", True),
        Column("status"),
        Column("step", True),
        Column("of", True),
        Column("last return", True),
        Column("evaluations without finite return", True),
        Column("failed simulations", True),
    ]
    heads = {column.head for column in columns}
    rows = []
    for state in states:
        cells = {
            "lane": str(state.lane),
            "run": state.run,
            "task": panel_title((state.env, state.noise_fraction)),
            "policy": state.policy,
            "variant": state.variant,
            "seed": str(state.seed),
            "status": element("span", state.status, class_=f"nowrap {state.status}"),
            "step": f"{state.last_step:,}",
            "of": f"{state.max_steps:,}",
            "last return": returns(state.last_return),
            "evaluations without finite return": str(state.num_lost_evaluations),
            "failed simulations": str(state.num_failures),
        }
        rows.append([cell for head, cell in cells.items() if head in heads])
    shown = table("Lanes", columns, rows)
    if len(states) >= MANY_LANES:
        shown = details(f"All {count(len(states), 'lane')}", shown)
    return join(
        [
            shown,
            note(
                "Step: environment steps after the random start, at the lane's last evaluation. "
                "Last return: mean over the episodes of that evaluation. Failed simulations: "
                "training steps whose simulation broke down; they are not stored. A waiting lane "
                "has not been evaluated yet; a stopped one is broken and has a section of its own."
            ),
        ]
    )


def _differing(records: Sequence[ArmRecord]) -> Markup:
    """A row a setting, a column an arm: arms are fewer."""
    names, settings = differing_settings(records)
    if not names:
        return note("None: the arms differ in task, policy or seed only.")
    has_tasks = len({record.arm.panel for record in records}) > 1
    heads = [
        f"{record.arm.label}, {panel_title(record.arm.panel)}" if has_tasks else record.arm.label
        for record in records
    ]
    rows = [
        [name, *(setting_text(each[name]) if name in each else ABSENT for each in settings)]
        for name in names
    ]
    columns = [Column("setting"), *map(Column, heads)]
    return join(
        [
            table("Settings that differ between arms", columns, rows),
            note(f"{ABSENT}: the setting makes no difference to that arm."),
        ]
    )


def _shared(lanes: Sequence[LaneRecord]) -> Markup:
    shared: dict[str, Any] = shared_settings(lanes)
    rows = [[name, setting_text(value)] for name, value in shared.items()]
    return details(
        f"{count(len(rows), 'setting')}",
        table("Settings that all lanes share", [Column("setting"), Column("value")], rows),
    )
