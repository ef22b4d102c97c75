"""Tables of what gathering costs (bench_gatherer.py) and how it grows (cluster_model.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import cluster_model
import result_rows
from cluster_model import GPUS, LANES, SPEEDS, make_run, measured_start_s
from result_tables import markdown, plural

from fastanf.progress import duration

Row = Mapping[str, str]
SHOWN_LANES = LANES[-1]
_ROWS = (
    ("rows of an evaluation, CPU ms", "rows", "block_eval_cpu_ms", {"tensorboard": "no"}),
    ("the same, wall ms", "rows", "block_eval_wall_ms", {"tensorboard": "no"}),
    ("with TensorBoard, CPU ms", "rows", "block_eval_cpu_ms", {"tensorboard": "yes"}),
    ("kept for a store too, CPU ms", "rows", "block_eval_cpu_ms", {"store": "memory"}),
    ("a checkpoint committed, CPU ms", "commit", "commit_cpu_ms", {"store": ""}),
    ("with the rows of 8 evaluations into a store", "commit", "commit_cpu_ms", {"store": "memory"}),
    ("the display once, lines, CPU ms", "idle", "draw_ms", {"display": "lines"}),
    ("the display once, table, CPU ms", "idle", "draw_ms", {"display": "table"}),
    ("a message, us", "idle", "update_us", {"display": "lines"}),
)
_SIZES = (
    ("eval_bytes", "rows", "bytes a lane and evaluation, eval.csv"),
    ("train_bytes", "rows", "train.csv"),
    ("topology_bytes", "rows", "topology.csv"),
    ("features_bytes", "rows", "features.csv"),
    ("tb_bytes", "rows", "TensorBoard"),
    ("fsyncs_count", "rows", "syncs, of the rows of all blocks that are heard together"),
    ("fsync_ms", "rows", "a sync, ms"),
)
_RESTART = (
    ("open_s", "opened again, s"),
    ("open_extra_mib", "memory meanwhile, MiB"),
    ("sort_s", "rows sorted, s"),
    ("check_s", "a block's rows checked, s"),
    ("evaluations_s", "a block's evaluations read, s"),
    ("drop_s", "a block's last evaluation dropped, s"),
    ("drop_all_s", "every block's last evaluation dropped, s"),
)


def gatherer_table() -> str:
    """What a block costs the gatherer, by the number of blocks and of lanes."""
    rows = _newest()
    sizes = sorted(
        {(int(r["lanes"]), int(r["blocks"])) for r in rows if r["impl"] in ("rows", "idle")}
    )
    lines, used = [], []
    for label, part, metric, where in _ROWS:
        found = {
            (int(row["lanes"]), int(row["blocks"])): row
            for row in rows
            if row["impl"] == part and row["metric"] == metric
            and row["store"] == where.get("store", "")
            and all(row[name] == value for name, value in where.items())
        }  # fmt: skip
        if found:
            used += list(found.values())
            lines.append([label, *(_spread(found.get(size)) for size in sizes)])
    heads = [f"{blocks:,} x {plural(lanes)}" for lanes, blocks in sizes]
    return markdown(["blocks x lanes", *heads], lines, used)


def gatherer_ray_table() -> str:
    """What Ray's exchanges cost the gatherer, and a block's rows that come with one."""
    rows = [row for row in _newest() if row["impl"] == "ray"]
    blocks = sorted({int(row["blocks"]) for row in rows})
    metrics = {
        "exchanges_per_s": "exchanges a second",
        "gatherer_share": "of the gatherer's CPU, %",
        "exchange_cpu_ms": "CPU ms of an exchange",
    }
    lines = []
    for metric, label in metrics.items():
        found = {int(row["blocks"]): row for row in rows if row["metric"] == metric}
        scale = 100 if metric.endswith("_share") else 1
        lines.append([label, *(_spread(found.get(number), scale) for number in blocks)])
    return markdown(["blocks that say nothing", *(f"{n:,}" for n in blocks)], lines, rows)


def gatherer_sizes_table() -> str:
    """Bytes, syncs, and what a run costs that is opened again."""
    rows = _newest()
    lines, used = [], []
    for metric, part, label in _SIZES:
        found = [row for row in rows if row["impl"] == part and row["metric"] == metric
                 and int(row["lanes"]) == SHOWN_LANES]  # fmt: skip
        if found:
            used.append(found[-1])
            lines.append([label, _spread(found[-1])])
    for metric, label in (
        ("exchange_cpu_ms", "brought by Ray, CPU ms"),
        ("message_bytes", "bytes"),
    ):
        for row in rows:
            if row["impl"] == "ray_rows" and row["metric"] == metric:
                what = f"rows of {plural(int(row['lanes']))}" if row["lanes"] else "nothing"
                used.append(row)
                lines.append([f"{what}, {label}", _spread(row)])
    restart = [row for row in rows if row["impl"] == "restart"]
    for evaluations in sorted({int(row["evaluations"]) for row in restart}):
        figures = {row["metric"]: row for row in restart if int(row["evaluations"]) == evaluations}
        size = f"{float(figures['rows_count']['p50']):,.0f} rows"
        for metric, label in _RESTART:
            used.append(figures[metric])
            lines.append([f"{size}: {label}", _spread(figures[metric])])
    return markdown(["", "measured"], lines, used)


def scaling_table() -> str:
    """How full everything is, of the assumed speed, in a shared folder with TensorBoard."""
    run = make_run(SHOWN_LANES, 1.0, tensorboard=True, has_url=False)
    lines = []
    for name, at in run.order():
        shares = [run.uses(N)[name].share for N in GPUS]
        lines.append([f"**{name}**", *map(_share, shares), _gpus(at)])
        if name == "gatherer, its thread":
            lines += [
                [part, *(_share(run.thread(N)[part]) for N in GPUS), ""] for part in run.thread(1)
            ]
    return _table(["of its capacity", *_heads(), "full at, GPUs"], lines)


def scaling_first_table() -> str:
    """The first two bottlenecks, by speed, lanes, and where the run is kept."""
    lines = []
    for lanes in LANES:
        for speed in SPEEDS:
            for tensorboard, has_url in ((True, False), (False, False), (False, True)):
                run = make_run(lanes, speed, tensorboard=tensorboard, has_url=has_url)
                (first, at), (second, then) = run.order()[:2]
                parts = run.thread(at)
                most = max(parts, key=lambda name: parts[name])
                cause = f" ({most})" if first == "gatherer, its thread" else ""
                lines.append(
                    [
                        f"{plural(lanes)}, {run.block.lock_steps_per_s:,.0f} lock steps/s",
                        "store" if has_url else "folder",
                        "yes" if tensorboard else "no",
                        first + cause,
                        _gpus(at),
                        second,
                        _gpus(then),
                    ]
                )
    head = ["block (speed assumed)", "run in a", "TensorBoard", "first", "full at, GPUs", "second",
            "full at, GPUs"]  # fmt: skip
    return _table(head, lines)


def scaling_times_table() -> str:
    """What happens once, or when something is lost."""
    run, start_s = make_run(SHOWN_LANES, 1.0, tensorboard=True, has_url=False), measured_start_s()
    lines = [
        [name, *(duration(run.times(N, start_s)[name]) for N in GPUS)]
        for name in run.times(1, start_s)
    ]
    memory = [f"{run.open_bytes(N) / 2**30:,.1f} GiB" for N in GPUS]
    lines.append(["new gatherer, memory", *memory])
    losses = [f"{run.loss_share(N, start_s):.3%}" for N in GPUS]
    lines.append(["GPUs' time for lost nodes", *losses])
    return _table(["", *_heads()], lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """The conditions are those of what was measured."""
    rows = [row for row in _newest() if row["metric"] == "block_eval_cpu_ms"]
    return markdown(head, lines, rows)


def _heads() -> list[str]:
    return [f"{N:,} GPU{'s' * (N > 1)}" for N in GPUS]


def _newest() -> list[Row]:
    """The newest row of every point and metric."""
    columns = ("impl", "blocks", "lanes", "tensorboard", "store", "display", "evaluations")
    rows = result_rows.read("gatherer")
    return list({(*(row[name] for name in columns), row["metric"]): row for row in rows}.values())


def _share(share: float) -> str:
    text = f"{share:.1%}" if share < 0.1 else f"{share:,.0%}"
    return f"**{text}**" if share >= 1 else text


def _gpus(number: int) -> str:
    return f"{number:,}" if number < cluster_model.MOST_GPUS else "more than a million"


def _spread(row: Row | None, scale: float = 1.0) -> str:
    """The median, and the percentiles where they differ."""
    if row is None:
        return ""
    low, middle, high = (_digits(scale * float(row[name])) for name in ("p20", "p50", "p80"))
    return middle if low == high else f"{middle} ({low}-{high})"


def _digits(value: float) -> str:
    """Three of them, or all before the point."""
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.2g}"


TABLES: dict[str, Callable[[], str]] = {
    "gatherer": gatherer_table,
    "gatherer_ray": gatherer_ray_table,
    "gatherer_sizes": gatherer_sizes_table,
    "scaling": scaling_table,
    "scaling_first": scaling_first_table,
    "scaling_times": scaling_times_table,
}
"""As those of result_tables.py."""
