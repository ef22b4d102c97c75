"""The end of a run as a text table: the last returns of each series, the best of a panel first.

A lane that was stopped counts among the lanes of its series, and has no last return.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

from fastanf.rows import EvaluationRow
from fastanf.series import MIN_LANES, Panel, Series, bootstrap_interval, collect_series, shorten
from fastanf.stopped import StoppedLane, without_evaluations


def final_table(
    evaluations: Sequence[EvaluationRow],
    max_width: int = 100,
    num_parameters: Mapping[int, int] | None = None,
    stopped: Sequence[StoppedLane] = (),
) -> str:
    """A text table, one line a series, the best of a panel first.

    Args:
        evaluations: all of the run.
        max_width: in characters; less needed columns are left out and the variant is shortened
            until the table fits, as far as it can.
        num_parameters: lane -> number of active parameters, for a further column.
        stopped: lanes that were; what became of them follows the table.

    Returns:
        The table and a line that defines its columns; no trailing line break.
    """
    panels = collect_series(evaluations)
    if not panels:
        return "\n".join(["no evaluations", *_stopped_lines(stopped, max_width)])
    silent = without_evaluations(stopped, evaluations)
    header = ["env", "noise", "policy", "variant", "lanes", "step", "last return", "95%", "best"]
    if num_parameters is not None:
        header.append("parameters")
    rows = []
    for panel, series in panels.items():
        lines = [
            (
                _last_mean(one),
                _table_row(panel, one, silent.get((panel, one.name), 0), num_parameters),
            )
            for one in series
        ]
        lines.sort(key=lambda line: -line[0] if math.isfinite(line[0]) else math.inf)
        rows += [cells for _, cells in lines]
    idle = {"env"} if len({env for env, _ in panels}) == 1 else set()
    if not any(row[header.index("variant")] for row in rows):
        idle.add("variant")
    keep = [at for at, name in enumerate(header) if name not in idle]
    table = [[row[at] for at in keep] for row in [header, *rows]]
    return "\n".join(
        [
            *_fit(table, max_width),
            "",
            *textwrap.wrap(_table_note(panels, table[0], bool(silent)), max(20, max_width)),
            *_stopped_lines(stopped, max_width),
        ]
    )


def _stopped_lines(stopped: Sequence[StoppedLane], max_width: int) -> list[str]:
    """Which lanes were stopped, where, why, and what there is to go back to."""
    if not stopped:
        return []
    lines = ["", f"stopped, because broken: {len(stopped)} lane{'s' * (len(stopped) > 1)}"]
    for lane in stopped:
        step = lane.row.checkpoint_step
        good = (
            f"sound in the checkpoint of step {step:,}" if step >= 0 else "sound in no checkpoint"
        )
        text = f"{lane.label} at step {lane.row.step:,}: {lane.row.cause}; {good}"
        lines += textwrap.wrap(
            text, max(20, max_width), initial_indent="  ", subsequent_indent="    "
        )
    return lines


def _last_mean(series: Series) -> float:
    return float(series.mean[-1])


def _table_row(
    panel: Panel, series: Series, num_silent: int, num_parameters: Mapping[int, int] | None
) -> list[str]:
    last = series.returns[:, -1:]
    low, high = bootstrap_interval(last)
    n, used = len(series.lanes) + num_silent, int(np.isfinite(last).sum())
    tops = [np.nanmax(lane) for lane in series.returns if np.isfinite(lane).any()]
    row = [
        panel[0],
        f"{panel[1]:g}",
        *series.name,
        str(n) if used == n else f"{used}/{n}",
        f"{int(series.steps[-1]):,}",
        _number(_last_mean(series)),
        f"[{_number(low[0])}, {_number(high[0])}]" if np.isfinite(low[0]) else "-",
        _number(float(np.mean(tops)) if tops else math.nan),
    ]
    if num_parameters is not None:
        counts = sorted({num_parameters[lane] for lane in series.lanes if lane in num_parameters})
        row.append("-".join(f"{count:,}" for count in dict.fromkeys([*counts[:1], *counts[-1:]])))
    return row


def _table_note(
    panels: Mapping[Panel, Sequence[Series]], header: Sequence[str], has_silent: bool
) -> str:
    series = [one for several in panels.values() for one in several]
    note = "last return: mean over lanes at the last evaluation"
    if "95%" in header and any(len(one.lanes) >= MIN_LANES for one in series):
        note += "; 95%: bootstrap interval of that mean over lanes"
    if "best" in header:
        note += "; best: mean over lanes of each lane's best evaluation"
    note += "."
    if has_silent or any(not np.isfinite(one.returns[:, -1]).all() for one in series):
        note += " lanes k/n: only k of n lanes have a finite return there; the others are left out."
    return note


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def _fit(table: list[list[str]], max_width: int) -> list[str]:
    """Lines of aligned columns, text left and numbers right, no wider than they must be."""
    header = table[0]

    def widths() -> list[int]:
        return [max(len(row[at]) for row in table) for at in range(len(header))]

    def excess() -> int:
        return sum(widths()) + 2 * (len(header) - 1) - max_width

    def leave_out(*names: str) -> None:
        for name in names:
            if excess() > 0 and name in header:
                at = header.index(name)
                for row in table:
                    del row[at]

    leave_out("step", "best")
    if excess() > 0 and "variant" in header:
        at = header.index("variant")
        width = max(len("variant"), widths()[at] - excess())
        for row in table[1:]:
            row[at] = shorten(row[at], width)
    leave_out("parameters", "95%")
    is_text = [name in ("env", "policy", "variant") for name in header]
    lines = [
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(row, widths(), is_text, strict=True)
        ).rstrip()
        for row in table
    ]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
