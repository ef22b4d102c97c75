"""The same work in other libraries, beside ours, in one run: Stable-Baselines3 and SBX.

    python profiling/bench_peers.py
    python profiling/bench_peers.py --peers sbx fastanf --lanes 1 8 --rounds 5 --record

The work: SAC on HalfCheetah with 153 noise features beside the 17 real ones, drawn once an
environment step and replayed, two hidden layers of 256, minibatches of 256, one update an
environment step, fixed temperature, a replay of 100,000. The others simulate with gymnasium
(HalfCheetah-v4), we with envpool (HalfCheetah-v3); our optimizer also decays weights.

A lane is an agent. The others train one agent a process: eight lanes are eight processes at once
with one thread each, whose steps in a common window of time are added up; one lane is measured with
one thread and with all. Ours are all lanes in one process with all threads: `fastanf-dense` is the
same work, `fastanf` is ANF-SAC with input sparsity 0.8. All are measured in turn, several rounds.

The others are installed from PyPI (peers/requirements.txt) into build/peers, once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import benchmark
import blocks
import result_rows
import torch
from bench_update import BlockRound

from fastanf.learner import keep_freed_memory

HERE = Path(__file__).parent
VENV = HERE.parent / "build" / "peers"
SCRIPT, REQUIREMENTS = HERE / "peers" / "train_peer.py", HERE / "peers" / "requirements.txt"
LIBRARIES = {"sb3": "stable-baselines3", "sbx": "sbx-rl"}
POLICIES = {"fastanf-dense": "SAC", "fastanf": "ANF-SAC"}
PEERS = (*LIBRARIES, *POLICIES)
PACKAGES = ("torch", "jax", "stable-baselines3", "sbx-rl", "gymnasium", "mujoco")
WORK = {"env": "HalfCheetah", "num_features": 170, "batch_size": 256, "hidden": "256x256"}
OWN_FLAGS = (
    *("--env", "HalfCheetah-v3", "--noise_fraction", "0.9"),
    *("--batch_size", "256", "--replay_capacity", "100000"),
    *("--learning_rate", "1e-3", "--temperature", "0.2"),
    *("--noise_redraw", "per_step"),  # the others replay the noise that was observed
)


@dataclass(frozen=True)
class Entry:
    """One line of the comparison, ready to be measured."""

    sizes: dict[str, Any]
    facts: dict[str, Any]
    """Conditions of its measurement."""
    measure: Callable[[float], float]
    """Environment steps of all lanes per second, over about that many seconds."""
    close: Callable[[], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Install, measure, print a table.

    Args:
        argv: arguments without the program's name; None for the process's own.

    Returns:
        The exit code.

    Raises:
        SystemExit: code 2 after one line on stderr for anything that is wrong.
    """
    try:
        own = _parser().parse_args(argv)
        if own.record:
            result_rows.check("peers", _columns())
        if set(own.peers) & LIBRARIES.keys():
            install()
        entries = make_entries(own.peers, own.lanes)
        try:
            samples = measure(entries, own.rounds, own.window_s)
        finally:
            for entry in entries:
                entry.close()
        rows = as_rows(entries, samples)
        print(json.dumps({"bench": "peers", "points": rows}) if own.json else as_text(rows))
        if own.record:
            result_rows.append("peers", rows)
    except ValueError as error:
        benchmark.complain(str(error))
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = benchmark.ArgumentParser(
        description="The same work in other libraries, beside ours.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--peers", nargs="+", choices=PEERS, default=list(PEERS), metavar="NAME",
        help=f"of {', '.join(PEERS)} [default all]")  # fmt: skip
    add("--lanes", type=benchmark.positive_int, nargs="+", default=[1, 8], metavar="L",
        help="numbers of agents [default 1 8]")  # fmt: skip
    add("--rounds", type=benchmark.positive_int, default=5, metavar="N", help="rounds [default 5]")
    add("--window_s", type=benchmark.positive_float, default=10.0, metavar="X",
        help="seconds of each in a round [default 10]")  # fmt: skip
    add("--json", action="store_true", help="print one JSON object")
    add("--record", action="store_true", help="append rows to profiling/results/peers.csv")
    return parser


def install() -> None:
    """Make the environment of the others, unless one with the same requirements is there.

    Raises:
        ValueError: pip failed; says with what.
    """
    mark = VENV / "requirements.txt"
    if mark.exists() and mark.read_text() == REQUIREMENTS.read_text():
        return
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(VENV)],
        [str(VENV / "bin" / "pip"), "install", "-q", "-r", str(REQUIREMENTS)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            reason = (errors or done.stderr.splitlines() or ["no reason given"])[-1]
            raise ValueError(f"--peers could not be installed into {VENV.name}: {reason}")
    mark.write_text(REQUIREMENTS.read_text())


def make_entries(peers: Sequence[str], lanes: Sequence[int]) -> list[Entry]:
    """Start everything that is to be measured; the processes wait until it is their turn."""
    entries: list[Entry] = []
    all_threads = torch.get_num_threads()
    for count in dict.fromkeys(lanes):
        for peer in dict.fromkeys(peers):
            if peer in POLICIES:
                entries.append(own_entry(peer, count))
                continue
            # Several agents share the cores; a lone one may have all of them.
            for threads in dict.fromkeys([1] if count > 1 else [1, all_threads]):
                entries.append(peer_entry(peer, count, threads))
    return entries


def own_entry(peer: str, count: int) -> Entry:
    """All lanes in this process."""
    keep_freed_memory()
    described = blocks.parse_lanes([*OWN_FLAGS, "--policy", POLICIES[peer]], count)
    block = blocks.make_block(blocks.deal(described.by_policy, count), torch.device("cpu"))
    measured = BlockRound(block)
    sizes = _sizes(peer, count, 1, torch.get_num_threads())
    return Entry(
        sizes,
        result_rows.conditions("cpu", ("mujoco", "envpool")),
        lambda seconds: measured.measure(seconds)["env_steps_per_s"],
        block.close,
    )


def peer_entry(peer: str, count: int, threads: int) -> Entry:
    """An agent a process, each waiting for the word to go."""
    python = str(VENV / "bin" / "python")
    with _log(peer).open("w") as log:
        processes = [
            subprocess.Popen(
                [python, str(SCRIPT), peer, str(threads), str(seed)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                cwd=VENV,  # MuJoCo writes its log where it runs
            )
            for seed in range(count)
        ]  # fmt: skip
    for process in processes:
        if _read(process, peer) != ["ready"]:
            raise ValueError(f"--peers {peer} did not get ready: it printed something else")

    def measure_window(seconds: float) -> float:
        for process in processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it ended, as reading it will tell
                process.stdin.write(f"go {seconds}\n")
                process.stdin.flush()
        return total_rate([_read(process, peer) for process in processes])

    def close() -> None:
        for process in processes:
            process.kill()
            process.wait()

    facts = result_rows.conditions() | {"threads": threads, "versions": _peer_versions(python)}
    return Entry(_sizes(peer, count, count, threads), facts, measure_window, close)


def _read(process: subprocess.Popen[str], peer: str) -> list[str]:
    """The next line of a process, as words; what a library prints by itself is passed over."""
    assert process.stdout is not None
    for line in process.stdout:
        words = line.split()
        if words == ["ready"] or (len(words) == 2 and words[0].isdecimal()):
            return words
    said = _log(peer).read_text().strip().splitlines() or ["it said nothing"]
    raise ValueError(f"--peers {peer} ended with exit code {process.wait()}: {said[-1]}")


def _log(peer: str) -> Path:
    return VENV / f"{peer}.log"


def total_rate(reports: Sequence[Sequence[str]]) -> float:
    """Steps per second of all processes: each reports its steps and its seconds, which began
    together and last equally long but for a step.
    """
    return sum(int(steps) / float(seconds) for steps, seconds in reports)


def measure(entries: Sequence[Entry], rounds: int, window_s: float) -> list[list[float]]:
    """Rates of each entry, all measured in turn."""
    samples: list[list[float]] = [[] for _ in entries]
    for number in range(rounds + 1):
        for entry, rates in zip(entries, samples, strict=True):
            result_rows.show_progress(f"round {number} of {rounds}: {entry.sizes['impl']}")
            rate = entry.measure(window_s if number else min(window_s, 1.0))
            if number:
                rates.append(rate)
    result_rows.show_progress("")
    return samples


def as_rows(entries: Sequence[Entry], samples: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Two rows an entry: one update follows each environment step, so both rates are the same."""
    rows = []
    for entry, rates in zip(entries, samples, strict=True):
        spread = result_rows.summary(rates)._asdict()
        for metric in ("env_steps_per_s", "lane_updates_per_s"):
            unit = result_rows.unit(metric)
            figures = {"metric": metric, **spread, "unit": unit}
            rows.append({"bench": "peers", **entry.sizes, **figures, **entry.facts})
    return rows


def as_text(rows: Sequence[dict[str, Any]]) -> str:
    """A table of the rates, and the versions below it."""
    shown = [row for row in rows if row["metric"] == "lane_updates_per_s"]
    lines = [
        [
            str(row["impl"]), str(row["lanes"]), str(row["processes"]), str(row["threads"]),
            str(result_rows.Summary(row["p20"], row["p50"], row["p80"])),
        ]
        for row in shown
    ]  # fmt: skip
    head = ["impl", "lanes", "processes", "threads each", "steps and updates per second"]
    work = ", ".join(f"{name} {value}" for name, value in WORK.items())
    facts = dict.fromkeys(f"{row['cpu']}, {row['versions']}, {row['date']}" for row in shown)
    return "\n".join([f"SAC, {work}", result_rows.text_table(head, lines), *facts])


def _sizes(peer: str, lanes: int, processes: int, threads: int) -> dict[str, Any]:
    return {"impl": peer, **WORK, "lanes": lanes, "processes": processes, "threads_each": threads}


def _columns() -> list[str]:
    sizes = _sizes("", 1, 1, 1)
    spread = result_rows.Summary._fields
    return ["bench", *sizes, "metric", *spread, "unit", *result_rows.conditions()]


def _peer_versions(python: str) -> str:
    code = (
        "import importlib.metadata as m, platform, sys;"
        "print(', '.join([f'python {platform.python_version()}'] + "
        "[f'{p} {m.version(p)}' for p in sys.argv[1:]]))"
    )
    return subprocess.run(
        [python, "-c", code, *PACKAGES], capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
