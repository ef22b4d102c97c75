"""The table of stages as text, and what it says in words."""

from __future__ import annotations

from collections.abc import Sequence

from fastanf.instrument import Stage
from fastanf.stage_table import ARITHMETIC, LIMITS, MEMORY, OVERHEAD, UNKNOWN, StageRow, StageTable

_HEADER = (
    "stage", "a step", "p20 ms", "p50 ms", "p80 ms", "ms a step", "share", "useful GFLOP/s", "done",
    "of sgemm", "GB/s", "of copy", "nearest limit",
)  # fmt: skip
NOTES = (
    "a step: how often an update, or a training step, has it; p20, p50, p80: of one occurrence; "
    "ms a step: mean, which the shares are of. useful GFLOP/s counts active connections and "
    "noise that is drawn, done all that the layers' layouts multiply. of sgemm: done against the "
    "measured peak; of copy: against a copy of a large array (above 100% in a cache). nearest "
    "limit: what explains most of the time, and how much of it."
)
_WORDS = {
    ARITHMETIC: "the limit of arithmetic",
    MEMORY: "the limit of memory",
    OVERHEAD: "the overhead of calls",
}


def table_text(table: StageTable) -> str:
    """The table in columns, the whole in its last line."""
    lines = [_cells(row) for row in table.rows]
    flops = sum(row.work.useful_flops for row in table.rows) / table.whole_ms / 1e6
    lines.append(["whole", *[""] * 4, f"{table.whole_ms:.3f}", "100.0%", _number(flops)])
    padded = [[*line, *[""] * (len(_HEADER) - len(line))] for line in (_HEADER, *lines)]
    widths = [max(len(line[i]) for line in padded) for i in range(len(_HEADER))]

    def joined(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if i in (0, len(line) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    rule = "-" * len(joined(_HEADER))
    body = [joined(line) for line in padded]
    return "\n".join([table.title, body[0], rule, *body[1:-1], rule, body[-1]])


def _cells(row: StageRow) -> list[str]:
    has_flops, has_bytes = row.work.done_flops > 0, row.work.moved_bytes > 0
    limit = row.limit if row.limit == UNKNOWN else f"{row.limit} {row.explained:.0%}"
    return [
        row.name,
        f"{row.time.per_step:.4g}",
        *(f"{ms:.3f}" for ms in row.time.percentiles_ms()),
        f"{row.mean_ms:.3f}",
        f"{row.share:.1%}",
        _number(row.useful_gflop_s) if has_flops else "",
        _number(row.done_gflop_s) if has_flops else "",
        f"{row.of_sgemm:.0%}" if has_flops else "",
        _number(row.gb_s) if has_bytes else "",
        f"{row.of_copy:.0%}" if has_bytes else "",
        limit,
    ]


def _number(value: float) -> str:
    return f"{value:.1f}"


def verdict(table: StageTable) -> str:
    """What the table says, in words: the limit of the whole, where to begin, what it can bring."""
    shares = table.share_of_limits()
    bound = max(LIMITS, key=lambda name: shares[name])
    rows = [row for row in table.rows if row.limit == bound]
    lines = [
        f"{bound}-bound: {shares[bound]:.0%} of the time is spent where {_WORDS[bound]} is nearest"
    ]
    time_ms = sum(row.mean_ms for row in rows)
    if bound == ARITHMETIC:
        done = sum(row.work.done_flops for row in rows)
        useful = sum(row.work.useful_flops for row in rows)
        reached = done / time_ms / 1e6 / table.rows[0].peaks.gflop_s
        lines[0] += f"; there it reaches {reached:.0%} of the peak, and {useful / done:.0%} of the"
        lines[0] += " operations are useful."
    elif bound == MEMORY:
        moved = sum(row.work.moved_bytes for row in rows)
        reached = moved / time_ms / 1e6 / table.rows[0].peaks.working_set_gb_s
        lines[0] += f"; there it reaches {reached:.0%} of a copy of the working set."
    else:
        calls = sum(row.overhead_ms for row in rows)
        lines[0] += f"; {calls / time_ms:.0%} of that time passes with nothing to compute, too."
    lines.append(
        f"Begin with {_candidate(table.first)}: at most {table.speed_up([table.first]):.2f} times "
        f"faster. All stages at their floor: {table.speed_up(table.rows):.1f} times."
    )
    return "\n".join(lines)


def step_verdict(table: StageTable) -> str:
    """What the table of a training step says: how much of it the update is, and what else is."""
    rest = [row for row in table.rows if row.time.stage != Stage.UPDATE]
    first = max(rest, key=lambda row: row.saving_ms)
    share = 1 - sum(row.share for row in rest)
    return (
        f"The update is {share:.0%} of a training step; all else adds {(1 - share) / share:.0%} to "
        f"it. Of that, begin with {_candidate(first)}: at most {table.speed_up([first]):.2f} times "
        "faster."
    )


def _candidate(row: StageRow) -> str:
    floor = f"its useful work takes {row.floor_ms:.3f} ms at the peaks"
    floor = floor if row.floor_ms > 0 else "its work is not counted; if it took no time"
    return f"{row.name} ({row.share:.0%}, {row.mean_ms:.3f} ms; {floor})"
