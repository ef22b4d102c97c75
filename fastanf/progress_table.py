"""The live table of a run: a line a lane where they fit, else those at work and a line a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from fastanf.progress_text import duration, mean, number

if TYPE_CHECKING:
    from fastanf.progress import Progress

HEADINGS = ("lane", "", "step", "of", "return", "steps/s", "left")
LEFT_ALIGNED = ("", "left", "on")


def lane_table(run: Progress, num_rows: int) -> Table:
    """The lanes of a run.

    Args:
        run: what is known of them.
        num_rows: the most that fit below the heading. Where there are more lanes, those at work
            come first, then those that wait, then the finished ones, and groups have a line each;
            so are the groups chosen where not even they fit.
    """
    has_names = any(block.name for block in run.at_work)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in (*HEADINGS, "on") if has_names else HEADINGS:
        justify = "left" if heading in LEFT_ALIGNED else "right"
        table.add_column(heading, justify=justify, no_wrap=True)
    L = len(run.labels)
    if num_rows >= L:
        shown, groups = list(range(L)), []
    else:
        ranks = [_rank(run, lane) for lane in range(L)]
        by_rank = sorted(range(L), key=ranks.__getitem__)
        shown = sorted(by_rank[: max(0, num_rows - len(run.lanes_of))])
        groups = list(run.lanes_of)
        if len(groups) > num_rows:
            groups.sort(key=lambda group: min(ranks[lane] for lane in run.lanes_of[group]))
    for lane in shown:
        _add_lane(table, run, lane, has_names)
    for group in groups[: num_rows - len(shown)]:
        _add_group(table, run, group)
    return table


def _rank(run: Progress, lane: int) -> int:
    """0 at work, 1 there but done, 2 waits, 3 done or stopped."""
    block = run.block_of(lane)
    is_at_work = block is not None and block.is_at_work and lane not in run.stopped_because
    return 2 * (not is_at_work) + (run.state(lane) != "")


def _add_lane(table: Table, run: Progress, lane: int, has_names: bool) -> None:
    block, state = run.block_of(lane), run.state(lane)
    is_in_training = block is not None and block.is_training and state == ""
    speed, left = "", state or "waiting"
    if block is not None and is_in_training:
        speed, left = number(block.steps_per_s), duration(block.seconds_left(run.clock()))
    # A single block has its phase below the table.
    is_in_phase = block is not None and block.doing != "" and len(run.at_work) > 1
    if block is not None and is_in_phase and lane not in run.stopped_because:
        left = block.doing
    name = block.name if block is not None and block.is_at_work else ""
    table.add_row(
        str(lane),
        Text(run.labels[lane]),  # a string would be read as markup
        f"{run.steps[lane]:,}",
        f"{run.max_steps[lane]:,}",
        number(run.returns[lane]),
        speed,
        Text(left),
        *([Text(name)] if has_names else ()),
        style="" if is_in_training else "dim",
    )


def _add_group(table: Table, run: Progress, group: str) -> None:
    every = run.lanes_of[group]
    lanes = [lane for lane in every if lane not in run.stopped_because]
    num_stopped = len(every) - len(lanes)
    count = max(1, len(lanes))
    stopped = f", {num_stopped} stopped" if num_stopped else ""
    table.add_row(
        "",
        Text(f"{group}, mean of {len(lanes)}{stopped}"),
        f"{sum(run.steps[lane] for lane in lanes) // count:,}",
        f"{sum(run.max_steps[lane] for lane in lanes) // count:,}",
        number(mean([run.returns[lane] for lane in lanes])),
        style="bold",
    )
