"""Markdown tables of what checkpoints cost (bench_checkpoint.py), of long soaks (soak.py), and of
what a Ray cluster costs a block (bench_cluster.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import result_rows
from result_tables import markdown, plural, task_text

Row = Mapping[str, str]


def checkpoint_table() -> str:
    """Seconds, bytes and memory of saving a block and of going on from it, and a run's share."""
    works: dict[tuple[str, ...], dict[str, Row]] = {}
    shares: dict[tuple[str, ...], Row] = {}
    for row in result_rows.read("checkpoint"):
        if row["metric"] == "saving_share":
            shares[_work(row)] = row
        elif row["impl"] == "block":
            works.setdefault(_work(row), {})[row["metric"]] = row
    lines, used = [], []
    for work, found in works.items():
        memory = [found[f"{name}_extra_mib"] for name in ("save", "load", "restore")]
        share = shares.get(work)
        lines.append(
            [
                ", ".join(work),
                _seconds(found["first_s"]),
                _mib(found["whole_mib"]),
                _seconds(found["later_s"]),
                _mib(found["later_mib"]),
                f"{float(found['later_share']['p50']):.2%}",
                _seconds(found["load_s"]),
                _seconds(found["restore_s"]),
                " / ".join(map(_mib, memory)),
                f"{float(share['p50']):.1%}" if share else "",
            ]
        )
        used += [*found.values(), *([share] if share else [])]
    head = ["block", "whole replay, s", "MiB", "after five minutes, s", "MiB", "of the time",
            "checked, s", "restored, s", "memory to save / check / restore, MiB",
            "of a run that saves as often as it may"]  # fmt: skip
    return markdown(head, lines, used)


def cluster_table() -> str:
    """A block in a plain process and on Ray: pace, start and end."""
    works: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in result_rows.read("cluster"):
        work = task_text(row), row["policies"], plural(int(row["lanes"]))
        works.setdefault(work, {})[row["metric"]] = row
    lines, used = [], []
    for work, found in works.items():
        share = found["overhead_share"]
        spread = f"{float(share['p20']):+.1%} to {float(share['p80']):+.1%}"
        lines.append(
            [
                ", ".join(work),
                *(f"{float(found[f'{side}_env_steps_per_s']['p50']):,.1f}" for side in _SIDES),
                f"{float(share['p50']):+.1%} ({spread})",
                *(_seconds(found[f"{side}_start_s"]) for side in _SIDES),
                *(_seconds(found[f"{side}_end_s"]) for side in _SIDES),
            ]
        )
        used += found.values()
    head = ["block", "steps/s, process", "on Ray", "longer on Ray", "start s, process", "on Ray",
            "end s, process", "on Ray"]  # fmt: skip
    return markdown(head, lines, used)


_SIDES = ("process", "ray")


def soak_table() -> str:
    """What soaks saw: kills, memory and its growth, threads, files, the disk."""
    runs: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in result_rows.read("soak"):
        kind = "killed" if row["impl"] == "soak" else "never killed"
        steps = f"{int(row['max_timesteps']):,} steps"
        work = (f"{row['policies']}, {task_text(row)}", steps, kind)
        runs.setdefault(work, {})[row["metric"]] = row
    lines = []
    for metric, (label, digits) in _SOAK_METRICS.items():
        cells = [_value(found.get(metric), digits) for found in runs.values()]
        if any(cells):
            lines.append([label, *cells])
    used = [row for found in runs.values() for row in found.values()]
    return markdown(["soak", *(", ".join(work) for work in runs)], lines, used)


_SOAK_METRICS = {
    "kills_count": ("processes killed", 0),
    "kills_while_saving_count": ("of them while a checkpoint was written", 0),
    "trained_s": ("time of all processes, s", 0),
    "lost_s": ("training repeated after a kill, s", 1),
    "rss_start_mib": ("resident memory, warm, MiB", 1),
    "rss_end_mib": ("at the end of a process, MiB", 1),
    "rss_peak_mib": ("peak, MiB", 1),
    "rss_growth_within_mib_per_h": ("growth within a process, MiB an hour", 2),
    "rss_growth_late_mib_per_h": ("in its second half, MiB an hour", 2),
    "rss_growth_across_mib_per_h": ("growth from process to process, MiB an hour", 2),
    "threads_count": ("threads", 0),
    "files_count": ("open files", 0),
    "folder_most_mib": ("the folder at most, MiB", 1),
    "folder_planned_mib": ("as planned, MiB", 1),
    "checkpoints_most_count": ("checkpoints at most", 0),
}
"""What a metric is called, and its digits."""

TABLES: dict[str, Callable[[], str]] = {
    "checkpoint": checkpoint_table,
    "cluster": cluster_table,
    "soak": soak_table,
}
"""As those of result_tables.py."""


def _work(row: Row) -> tuple[str, ...]:
    replay = f"replay {int(row['replay_capacity']):,}"
    return task_text(row), row["policies"], plural(int(row["lanes"])), replay


def _seconds(row: Row) -> str:
    return _value(row, 2)


def _mib(row: Row) -> str:
    value = float(row["p50"])
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _value(row: Row | None, digits: int) -> str:
    """The median, and the percentiles where they differ."""
    if row is None:
        return ""
    low, middle, high = (f"{float(row[name]):,.{digits}f}" for name in ("p20", "p50", "p80"))
    return middle if low == high else f"{middle} ({low}-{high})"
