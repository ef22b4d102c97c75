"""The section on costs: time, parameters and operations of each arm."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from fastanf.curves import panel_title
from fastanf.picture import Style
from fastanf.report.arms import Key
from fastanf.report.bands import mean_band
from fastanf.report.collected import RunRecord
from fastanf.report.costs import ArmPace, ArmWork, wall_times
from fastanf.report.figures_costs import (
    Pace,
    Sizes,
    TimedArm,
    parameters_and_flops,
    throughput,
    wall_clock_curves,
)
from fastanf.report.figures_in_page import Shelf
from fastanf.report.markup import Column, Markup, element, join, note, table
from fastanf.report.merging import ArmRecord
from fastanf.report.phrases import ABSENT, duration, short, whole

Costs = tuple[ArmRecord, ArmWork | None, ArmPace]


def costs_section(
    runs: Sequence[RunRecord],
    costs: Sequence[Costs],
    looks: Mapping[Key, Style],
    shelf: Shelf,
) -> Markup:
    """Pace as it was recorded, and work as it follows from the settings."""
    return join(
        [
            element("h3", "Time"),
            _pace_table(costs),
            note(_pace_note(runs)),
            _pace(runs, costs, looks, shelf),
            _wall_clock(runs, costs, looks, shelf),
            element("h3", "Parameters and operations"),
            _work_table(costs),
            note(
                "Each figure is with the active connections, and after “of” with every "
                "connection that a dense network of this size has. Parameters: actor and two "
                "critics with their biases; targets are not counted. Action: 2 operations "
                "(multiply, add) for each connection of the actor, for one observation. Update: "
                "one minibatch through targets, critics and actor, forward and backward, 2 "
                "operations a connection and row, with the optimizer's steps and the noise "
                "features that are drawn; a delayed actor counts as its share."
            ),
            _sizes(costs, looks, shelf),
        ]
    )


def _pace(
    runs: Sequence[RunRecord],
    costs: Sequence[Costs],
    looks: Mapping[Key, Style],
    shelf: Shelf,
) -> Markup:
    paces = [Pace(r.arm, pace.env_steps_per_s, pace.lane_updates_per_s) for r, _, pace in costs]
    if not any(math.isfinite(one.lane_updates_per_s) for one in paces):
        return Markup("")
    return shelf.put(
        "pace",
        throughput(paces, looks, _devices(runs)),
        "Environment steps and updates a second of a lane of each arm",
        "The last two columns as a picture.",
    )


def _wall_clock(
    runs: Sequence[RunRecord],
    costs: Sequence[Costs],
    looks: Mapping[Key, Style],
    shelf: Shelf,
) -> Markup:
    timed = [TimedArm(record.arm, wall_times(record)) for record, _, _ in costs]
    if not any(np.isfinite(one.wall_s).any() for one in timed):
        return Markup("")
    return shelf.put(
        "wall_clock",
        wall_clock_curves(timed, looks, summarize=mean_band, conditions=_devices(runs)),
        "Return of each arm against wall-clock time",
        "Return against the wall-clock time of the block that a lane trained in: more lanes at "
        "once take longer, and share the time. Lanes without a finite return are left out as in "
        "the learning curves.",
    )


def _sizes(costs: Sequence[Costs], looks: Mapping[Key, Style], shelf: Shelf) -> Markup:
    """A picture for the task with most features alone: the others look alike."""
    known = [(record.arm, work) for record, work, _ in costs if work is not None]
    if not known:
        return Markup("")
    panel = max(known, key=lambda pair: pair[1].parameters_dense)[0].panel
    sizes = [
        Sizes(
            arm.key,
            work.parameters_active,
            work.parameters_dense,
            work.update_flops_active,
            work.update_flops_dense,
        )
        for arm, work in known
        if arm.panel == panel
    ]
    others = " The task with the largest networks of the report." if len(known) > len(sizes) else ""
    return shelf.put(
        "sizes",
        parameters_and_flops(sizes, looks, panel_title(panel)),
        f"Parameters and operations of an update of each arm, {panel_title(panel)}",
        f"Parameters and operations of an update, {panel_title(panel)}: filled what is active, "
        f"outline what a dense network has.{others}",
    )


def _devices(runs: Sequence[RunRecord]) -> str:
    return ", ".join(sorted({str(run.manifest.get("device", "unknown device")) for run in runs}))


def _names(costs: Sequence[Costs]) -> tuple[list[Column], list[list[str]]]:
    """Columns that name the arms, and each arm's cells: with its task where there are several."""
    arms = [record.arm for record, _, _ in costs]
    if len({arm.panel for arm in arms}) == 1:
        return [Column("policy")], [[arm.label] for arm in arms]
    columns = [Column("policy"), Column("task")]
    return columns, [[arm.label, panel_title(arm.panel)] for arm in arms]


def _pace_table(costs: Sequence[Costs]) -> Markup:
    names, cells = _names(costs)
    columns = [
        *names,
        Column("wall-clock time", True),
        Column("until step", True),
        Column("lanes together", True),
        Column("environment steps/s of a lane", True),
        Column("updates/s of a lane", True),
    ]
    rows = [
        [
            *cell,
            duration(pace.wall_s),
            f"{pace.step:,}",
            whole(pace.lanes_per_block),
            short(pace.env_steps_per_s),
            short(pace.lane_updates_per_s),
        ]
        for cell, (_, _, pace) in zip(cells, costs, strict=True)
    ]
    return table("Time that each arm took", columns, rows)


def _pace_note(runs: Sequence[RunRecord]) -> str:
    return (
        "Lanes that train together take their steps together: the time is that of all of them, "
        "with random start, evaluations and saving, and is not to be added up. Steps and updates "
        "a second: median over lanes and training intervals, without evaluations (of a lane that "
        "was stopped, those until then: its place in the block goes on); times the lanes "
        f"together it is the throughput. Measured on {_devices(runs)} while the run trained; "
        "other load on the machine is in it."
    )


def _work_table(costs: Sequence[Costs]) -> Markup:
    names, cells = _names(costs)
    columns = [
        *names,
        Column("parameters", True),
        Column("operations for an action", True),
        Column("operations of an update", True),
    ]
    rows = []
    for cell, (_, work, _) in zip(cells, costs, strict=True):
        if work is None:
            rows.append([*cell, ABSENT, ABSENT, ABSENT])
            continue
        rows.append(
            [
                *cell,
                _of(work.parameters_active, work.parameters_dense),
                _of(work.action_flops_active, work.action_flops_dense),
                _of(work.update_flops_active, work.update_flops_dense),
            ]
        )
    return table("Parameters and operations of each arm", columns, rows)


def _of(active: float, dense: float) -> Markup:
    shown = [short(active)]
    if active != dense:
        shown.append(element("span", f" of {short(dense)}", class_="range"))
    return join(shown)
