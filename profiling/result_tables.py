"""Markdown tables of measured rows, for README.md and profiling/README.md.

Where the same thing was measured more than once, the newest rows are shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import result_rows

from fastanf.final_table import final_table
from fastanf.instrument import Stage
from fastanf.rows import read_evaluations

Rows = Sequence[Mapping[str, str]]
# The papers' setting; other sizes are measured too.
_PAPERS = {
    "device": "cpu",
    "sparsity": "input 0.8",
    "batch_size": "100",
    "envs_per_lane": "1",
    "settings": "",
}
_SPARSE_LANES = "8"
_PAPERS_SPARSITIES = (_PAPERS["sparsity"], "dense")


def update_table() -> str:
    """Lane updates per second: work and policy by number of lanes."""
    rows = [
        row
        for row in result_rows.read("update")
        if row["metric"] == "lane_updates_per_s"
        and any(_has(row, _PAPERS | {"sparsity": level}) for level in _PAPERS_SPARSITIES)
    ]
    # Earlier rows are of several policies in one block.
    shown = [row for row in rows if "+" not in row["policies"]]
    newest = {(_work(row), int(row["lanes"])): row for row in shown}
    # Sweeps of other sizes are made at one number of lanes: growth_table has them.
    works = [work for work, count in Counter(work for work, _ in newest).items() if count > 1]
    num_works = Counter(count for work, count in newest if work in works)
    lanes = sorted(count for count, n in num_works.items() if n > 1 or len(works) == 1)
    lines = [[work, *(_rate(newest.get((work, count))) for count in lanes)] for work in works]
    used = [newest[key] for key in newest if key[0] in works and key[1] in lanes]
    head = ["lane updates per second", *(plural(count) for count in lanes)]
    return markdown(head, lines, used)


def sparse_table() -> str:
    """Sparse lanes beside the dense ones of the same algorithm and task, in updates per second."""
    rates = {
        (row["env"], row["noise_fraction"], row["policies"], row["sparsity"]): row
        for row in result_rows.read("update")
        if row["metric"] == "lane_updates_per_s"
        and "+" not in row["policies"]
        and _has(row, {**_PAPERS, "sparsity": row["sparsity"], "lanes": _SPARSE_LANES})
    }
    lines, used = [], []
    for (env, noise, policy, sparsity), row in rates.items():
        dense = rates.get((env, noise, policy.rpartition("-")[2], "dense"))
        if sparsity == "dense" or dense is None or not row["impl"].startswith("csr"):
            continue
        ratio = float(row["p50"]) / float(dense["p50"])
        work = f"{task_text(row)}, {policy}, {sparsity}"
        lines.append([work, _spread(row), _spread(dense), f"{ratio:.1f}"])
        used += [row, dense]
    head = ["lane updates per second", "sparse", "dense", "times faster"]
    return markdown(head, sorted(lines), used)


def layouts_table() -> str:
    """Microseconds of a hidden layer's products, dense and stored, by the layer's density."""
    rows = {
        (row["op"], round(1 - float(row["sparsity"]), 6)): row
        for row in result_rows.read("kernels")
        if row["metric"] == "call_us"
        and row["op"].startswith("hidden_")
        and row["impl"] == "native"
        and (row["lanes"], row["batch_size"]) == (_SPARSE_LANES, _PAPERS["batch_size"])
    }
    lines, used = [], []
    for density in sorted({density for _, density in rows}, reverse=True):
        line = [f"{density:g}"]
        for name in ("linear", "weight_grad", "input_grad"):
            dense = f"hidden_linear_{name}".replace("linear_linear", "linear")
            pair = [rows.get((op, density)) for op in (dense, f"hidden_csr_{name}")]
            line += ["" if row is None else f"{float(row['p50']):,.0f}" for row in pair]
            used += [row for row in pair if row is not None]
        lines.append(line)
    head = [
        "density", "forward, us", "stored", "weight gradient", "stored", "input gradient", "stored",
    ]  # fmt: skip
    return markdown(head, lines, used)


def growth_table() -> str:
    """How the update of the papers' HalfCheetah at 0.9 grows, one size changed at a time."""
    base = {
        "env": "HalfCheetah-v3",
        "policies": "ANF-SAC",
        "noise_fraction": "0.9",
        "sparsity": "input 0.8",
        "batch_size": "100",
        "lanes": "8",
        "device": "cpu",
        "settings": "",
    }
    changing = ("lanes", "batch_size", "noise_fraction", "sparsity")
    lines, used = [], []
    rows = result_rows.read("update")
    for name in changing:
        others = {key: value for key, value in base.items() if key != name}
        found: dict[str, dict[str, Mapping[str, str]]] = {}
        for row in rows:
            if _has(row, others):
                found.setdefault(row[name], {})[row["metric"]] = row
        for value in sorted(found, key=_sort_key):
            metrics = found[value]
            if "useful_gflop_s" not in metrics:
                continue
            used += list(metrics.values())
            rate, useful = metrics["lane_updates_per_s"], metrics["useful_gflop_s"]
            peak = float(metrics["peak_gflop_s"]["p50"])
            share = float(useful["p50"]) / peak
            label = f"{name} {value}" + (" (base)" if value == base[name] else "")
            steps = _rate(metrics["env_steps_per_s"])
            lines.append([label, _rate(rate), steps, f"{float(useful['p50']):.0f}", f"{share:.0%}"])
    head = ["changed", "lane updates per second", "environment steps per second",
            "useful GFLOP/s", "of sgemm"]  # fmt: skip
    return markdown(head, lines, used)


def stages_table() -> str:
    """Milliseconds and share of each stage of an update, by work and number of lanes."""
    tables = _newest_stages("update")
    names = [stage.value for stage in Stage if any(stage.value in t for t in tables.values())]
    for table in tables.values():
        place = 0
        for name in table:
            if name not in names:  # a stage of an earlier revision, which is no more
                names.insert(place, name)
            place = names.index(name) + 1
    lines = []
    for name in names:
        cells = [
            f"{float(t[name]['mean_ms']):.2f} ({float(t[name]['share']):.0%})" if name in t else ""
            for t in tables.values()
        ]
        lines.append([name, *cells])
    wholes = [f"{_whole_ms(table):.1f}" for table in tables.values()]
    lines.append(["**one update**", *wholes])
    steps = _newest_stages("step")
    lines.append(["**one training step**", *(f"{_whole_ms(steps[work]):.1f}" for work in tables)])
    used = [row for table in tables.values() for row in table.values()]
    return markdown(["ms (share)", *(_label(work) for work in tables)], lines, used)


def verdict_table() -> str:
    """What limits the update, where to begin, and what that brings at most."""
    lines, used = [], []
    for work, table in _newest_stages("update").items():
        rows = list(table.values())
        used += rows
        whole = _whole_ms(table)
        limits: dict[str, float] = {}
        for row in rows:
            limits[row["limit"]] = limits.get(row["limit"], 0.0) + float(row["share"])
        bound = max(limits, key=lambda name: limits[name])
        saving = {row["metric"]: _saving_ms(row) for row in rows}
        first = max(saving, key=lambda name: saving[name])
        done = sum(float(row["done_gflop_s"]) * float(row["mean_ms"]) for row in rows)
        useful = sum(float(row["useful_gflop_s"]) * float(row["mean_ms"]) for row in rows)
        peak = max(
            float(r["done_gflop_s"]) / float(r["of_sgemm"]) for r in rows if float(r["of_sgemm"])
        )
        lines.append([
            _label(work),
            f"{bound} ({limits[bound]:.0%} of the time)",
            f"{done / whole / peak:.0%}",
            f"{useful / done:.0%}",
            first,
            f"{whole / (whole - saving[first]):.2f}",
            f"{whole / (whole - sum(saving.values())):.1f}",
        ])  # fmt: skip
    head = ["update", "limit", "of sgemm", "useful", "begin with", "at most, times",
            "all stages at their floor"]  # fmt: skip
    return markdown(head, lines, used)


def kernels_table() -> str:
    """Microseconds of single operations: native against plain torch."""
    rows = [row for row in result_rows.read("kernels") if row["metric"] == "call_us"]
    lines: dict[tuple[str, str], dict[str, Mapping[str, str]]] = {}
    for row in rows:
        lines.setdefault((row["op"], _kernel_work(row)), {})[row["impl"]] = row
    text = []
    for (op, work), by_impl in lines.items():
        fast = by_impl.get("native") or by_impl.get("masked") or by_impl.get("torch")
        slow = by_impl.get("reference")
        if fast is None:
            continue
        ratio = f"{float(slow['p50']) / float(fast['p50']):.0f}" if slow else ""
        text.append([op, work, _spread(fast), _spread(slow) if slow else "", ratio])
    head = ["operation", "sizes", "us", "plain torch, us", "times"]
    return markdown(head, text, rows)


def _kernel_work(row: Mapping[str, str]) -> str:
    """Sizes of an operation; layers are measured at several densities."""
    is_hidden = row["op"].startswith("hidden_")
    is_layer = "linear" in row["op"] or row["op"].endswith("_grad")
    task = "256 x 256" if is_hidden else task_text(row)
    density = f", density {1 - float(row['sparsity']):g}" if is_layer else ""
    return f"{task}{density}, {plural(int(row['lanes']))}"


def env_table() -> str:
    """Environment steps per second: task by number of rows; and what compiling took."""
    rows = result_rows.read("env")
    newest = {
        (_simulator(row), int(row["rows"])): row
        for row in rows
        if row["metric"] == "env_steps_per_s"
    }
    compiled = {_simulator(row): row for row in rows if row["metric"] == "compile_s"}
    counts = sorted({count for _, count in newest})
    lines = [[task, *(_rate(newest.get((task, count))) for count in counts),
              f"{float(compiled[task]['p50']):.0f}" if task in compiled else ""]
             for task in dict.fromkeys(task for task, _ in newest)]  # fmt: skip
    counted = [_count(count, "row") for count in counts]
    head = ["environment steps per second", *counted, "compiling, s"]
    return markdown(head, lines, list(newest.values()))


def _simulator(row: Mapping[str, str]) -> str:
    """Task and engine, and its device where that is no CPU."""
    device = "" if row["device"] == "cpu" else f" on {row['device']}"
    return f"{row['env']}, {row['impl'].partition(' ')[0]}{device}"


def train_table() -> str:
    """Whole trainings: rates, start and memory, by work and number of lanes."""
    works: dict[str, dict[str, Mapping[str, str]]] = {}
    for row in result_rows.read("train"):
        work = f"{row['policies']}, {task_text(row)}, {plural(int(row['lanes']))}"
        works.setdefault(work, {})[row["metric"]] = row
    metrics = ("env_steps_per_s", "training_steps_per_s", "start_s", "peak_mib")
    lines = [[work, *(_rate(found.get(metric)) for metric in metrics)]
             for work, found in works.items()]  # fmt: skip
    head = ["training", "environment steps per second", "without evaluations", "start, s",
            "peak memory, MiB"]  # fmt: skip
    return markdown(head, lines, [row for found in works.values() for row in found.values()])


def peers_table() -> str:
    """Other libraries at the same work: environment steps, with an update each, per second."""
    rows = [row for row in result_rows.read("peers") if row["metric"] == "lane_updates_per_s"]
    newest = {(row["impl"], int(row["lanes"]), row["threads_each"]): row for row in rows}
    lines = []
    for (impl, lanes, threads), row in newest.items():
        processes = int(row["processes"])
        how = f"{processes} process" + "es" * (processes > 1)
        each = " each" if processes > 1 else ""
        how += f", {_count(threads, 'thread')}{each}"
        lines.append([_LIBRARIES[impl], str(lanes), how, _rate(row)])
    head = ["library", "agents", "as", "steps and updates per second, all agents"]
    return markdown(head, lines, list(newest.values()))


def replay_table() -> str:
    """Bytes of a million transitions, by task."""
    rows = result_rows.read("replay")
    newest = {row["env"]: row for row in rows}
    cells = [f"{int(row['value']) / 1e6:,.1f}" for row in newest.values()]
    return markdown(["replay of 1,000,000 transitions", *newest], [["MB a lane", *cells]], rows)


def run_table(name: str) -> Callable[[], str]:
    """The final table of a recorded run, from results/NAME/."""

    def table() -> str:
        folder = result_rows.RESULTS / name
        command = (folder / "command.txt").read_text().strip()
        text = final_table(read_evaluations(folder))
        return f"```\n{command}\n\n{text}\n```"

    return table


_LIBRARIES = {
    "sb3": "Stable-Baselines3 SAC",
    "sbx": "SBX SAC (JAX)",
    "fastanf-dense": "fastanf SAC",
    "fastanf": "fastanf ANF-SAC",
}
TABLES: dict[str, Callable[[], str]] = {
    "update": update_table,
    "sparse": sparse_table,
    "layouts": layouts_table,
    "growth": growth_table,
    "stages": stages_table,
    "verdict": verdict_table,
    "kernels": kernels_table,
    "env": env_table,
    "train": train_table,
    "peers": peers_table,
    "replay": replay_table,
    "demonstration": run_table("demonstration"),
    "tutorial": run_table("tutorial"),
    "noise98": run_table("noise98"),
    "anf_noise": run_table("anf_noise"),
}
"""By the name that stands in a text between `<!-- table: NAME -->` and `<!-- end -->`."""


def _has(row: Mapping[str, str], values: Mapping[str, str]) -> bool:
    return all(row[name] == value for name, value in values.items())


def _newest_stages(part: str) -> dict[tuple[str, str], dict[str, Mapping[str, str]]]:
    """Rows of the newest recording by (task, lanes), then stage."""
    tables: dict[tuple[str, str], dict[str, Mapping[str, str]]] = {}
    for row in result_rows.read("stages"):
        if row["part"] == part and _has(row, _PAPERS):
            table = tables.setdefault((task_text(row), row["lanes"]), {})
            if row["metric"] in table:  # another recording begins, maybe of other stages
                table.clear()
            table[row["metric"]] = row
    return tables


def _whole_ms(table: Mapping[str, Mapping[str, str]]) -> float:
    return sum(float(row["mean_ms"]) for row in table.values())


def _saving_ms(row: Mapping[str, str]) -> float:
    return max(0.0, float(row["mean_ms"]) - float(row["floor_ms"]))


def _label(work: tuple[str, str]) -> str:
    task, lanes = work
    return f"{task}, {plural(int(lanes))}"


def task_text(row: Mapping[str, str]) -> str:
    """Task and noise fraction."""
    return f"{row['env'].removesuffix('-v3')} {float(row['noise_fraction']):g}"


def _work(row: Mapping[str, str]) -> str:
    return (
        f"{row['env'].removesuffix('-v3')} at {float(row['noise_fraction']):g}, {row['policies']}"
    )


def _rate(row: Mapping[str, str] | None) -> str:
    return "" if row is None else _spread(row)


def _spread(row: Mapping[str, str]) -> str:
    low, middle, high = (float(row[name]) for name in ("p20", "p50", "p80"))
    digits = 0 if middle >= 100 else 1
    return f"{middle:,.{digits}f} ({low:,.{digits}f}-{high:,.{digits}f})"


def plural(count: int) -> str:
    """Some lanes, in words."""
    return _count(count, "lane")


def _count(count: int | str, thing: str) -> str:
    return f"{count} {thing}" + "s" * (str(count) != "1")


def _sort_key(value: str) -> tuple[float, str]:
    words = value.split()
    try:
        return float(words[-1]), value
    except ValueError:
        return 0.0, value


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]], used: Rows) -> str:
    """The table, and under it the conditions of its rows."""
    marks = ["---", *("---:" for _ in head[1:])]
    table = [f"| {' | '.join(cells)} |" for cells in (head, marks, *lines)]
    facts = [
        f"{row['cpu']}, {_count(row['threads'], 'thread')}, {row['versions']}, {row['date']}"
        for row in used
    ]
    return "\n".join([*table, "", "; ".join(dict.fromkeys(facts)) + "."])
