"""Where the time of an update goes, how far that is from what the machine can do, where to begin.

    python profiling/profile_update.py --policy ANF-SAC --fake_features 0.9 --lanes 8
    python profiling/profile_update.py --lanes 8 --plot stages.png --trace update.pt.trace.json

Takes train.py's flags; lanes are dealt out evenly over several policies, which must train in one
block (`--layout masked` where their layouts would differ). Prints two tables, the stages of one
update and of one training step, each with its verdict (fastanf/stage_table.py defines the columns),
and what the instruments cost. On a GPU the stages are those of an update that is called operation
by operation, by events in its stream; as it trains, an update is one CUDA graph, and what a replay
of it takes stands below the tables. `--json` prints one object instead, `--record` appends rows to
profiling/results/stages.csv.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import benchmark
import blocks
import flame
import launches
import numpy as np
import result_rows
import stage_profile
import stage_rows

import envs
from fastanf.block import TrainingBlock
from fastanf.cli import complain
from fastanf.config import TrainConfig
from fastanf.instrument import peak_memory_bytes
from fastanf.learner import keep_freed_memory
from fastanf.stage_text import NOTES, step_verdict, table_text, verdict

_OUTPUTS = ("trace", "flame", "plot")
_SECONDS = "of recorded training steps, and as many again without instruments [default 5]"
_TRACE = (
    "write a trace for Perfetto or chrome://tracing; for TensorBoard's profiler plugin let the "
    "name end in .pt.trace.json"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Profile the block that the arguments describe.

    Args:
        argv: arguments without the program's name; None for the process's own.

    Returns:
        The exit code.

    Raises:
        SystemExit: code 2 after one line on stderr for anything that is wrong.
    """
    try:
        own, train_flags = _parser().parse_known_args(argv)
        for name in _OUTPUTS:
            if getattr(own, name) is not None:
                check_writable(getattr(own, name), f"--{name}")
        if own.plot is not None:
            import stage_plot  # matplotlib takes a second to import

            stage_plot.file_format(own.plot)
        if own.flame is not None:
            flame.py_spy()
        described = blocks.parse_lanes(train_flags, own.lanes)
        dealt = blocks.deal(described.by_policy, own.lanes)
        blocks.check_one_block(dealt, described.device, "profile")
        lanes = _with_capacity(dealt, described, train_flags)
        keep_freed_memory()
        if own.record:
            sizes = blocks.block_sizes(lanes, described.device)
            facts = result_rows.conditions(str(described.device))
            result_rows.check("stages", stage_rows.columns(sizes, facts))
        block = blocks.make_block(lanes, described.device, described.num_threads)
        try:
            return _profile(own, described, block)
        finally:
            block.close()
    except ValueError as error:
        complain(str(error))
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = benchmark.ArgumentParser(
        description="Where the time of an update goes. Takes train.py's flags too.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--lanes", type=benchmark.positive_int, default=8, metavar="L", help="lanes [default 8]")
    add("--seconds", type=benchmark.positive_float, default=5.0, metavar="X", help=_SECONDS)
    add("--plot", type=Path, metavar="FILE.png", help="draw a roofline and the stages")
    add("--trace", type=Path, metavar="FILE.json", help=_TRACE)
    add("--flame", type=Path, metavar="FILE.svg", help="draw a flame graph of the Python side")
    add("--json", action="store_true", help="print one JSON object")
    add("--record", action="store_true", help="append rows to profiling/results/stages.csv")
    return parser


def check_writable(path: Path, option: str) -> None:
    """See that a file can be written there; nothing is left behind.

    Raises:
        ValueError: it cannot.
    """
    is_new = not path.exists()
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise ValueError(
            f"{option} must be a file in a writable folder, got {str(path)!r} ({error.strerror})"
        ) from None
    if is_new:
        path.unlink()


def _with_capacity(
    lanes: Sequence[TrainConfig], described: blocks.Described, train_flags: Sequence[str]
) -> list[TrainConfig]:
    if blocks.gives_capacity(train_flags):
        return list(lanes)
    first = lanes[0]
    spec = envs.spec(first.task.env, first.task.backend)
    capacity = blocks.replay_capacity(first, spec, len(lanes), described.device)
    return [lane.replace(replay_capacity=capacity) for lane in lanes]


def _profile(own: argparse.Namespace, described: blocks.Described, block: TrainingBlock) -> int:
    device = described.device
    profile = stage_profile.profile_block(block, device, own.seconds)
    sizes = blocks.block_sizes(block.lanes, device)
    facts = result_rows.conditions(str(device))
    called_ms = profile.update.whole_ms
    replay = launches.graph_replay_ms(block) if device.type == "cuda" else None
    trains_ms = replay if isinstance(replay, float) else called_ms
    rate = len(block.lanes) / trains_ms * 1e3
    calls = launches.launches_text(block, device, called_ms, replay)
    title = _title(sizes)
    if own.json:
        print(json.dumps(stage_rows.as_json(profile, sizes, facts)))
    else:
        print(title, end="\n\n")
        print(table_text(profile.update), verdict(profile.update), sep="\n", end="\n\n")
        print(table_text(profile.step), step_verdict(profile.step), sep="\n", end="\n\n")
        print(_machine_text(profile, device, calls, rate, facts))
    if own.record:
        result_rows.append("stages", stage_rows.rows(profile, sizes, facts))
    if own.plot is not None:
        import stage_plot

        stage_plot.write_plot(own.plot, profile.update, profile.step, title)
    if own.trace is not None:
        launches.traced_steps(block, device, own.trace)
    if own.flame is not None:
        flame.write_flame(own.flame, lambda: _one_step(block), own.seconds)
    for name in _OUTPUTS:
        if getattr(own, name) is not None:
            print(f"wrote {getattr(own, name)}", file=sys.stderr)
    return 0


def _one_step(block: TrainingBlock) -> None:
    block.collector.step_(0)
    block.learner.update_()


def _title(sizes: dict[str, Any]) -> str:
    lanes = f"{sizes['lanes']} lane" + "s" * (sizes["lanes"] > 1)
    facts = [
        str(sizes["policies"]),
        f"{sizes['env']} at noise {sizes['noise_fraction']:g}",
        str(sizes["sparsity"]),
        lanes,
        f"batch {sizes['batch_size']}",
        str(sizes["impl"]),
        str(sizes["settings"]),
    ]
    return ", ".join(fact for fact in facts if fact)


def _machine_text(
    profile: stage_profile.Profile, device: Any, calls: str, rate: float, facts: dict[str, Any]
) -> str:
    peaks = profile.peaks
    low, middle, high = np.percentile(profile.instrument_ratios, [20, 50, 80])
    lines = [
        f"{rate:.1f} lane updates per second. {profile.num_frames} steps and updates were "
        f"recorded; {profile.num_disturbed} took more than {stage_profile.DISTURBED:g} times their "
        "median and count as the median. With instruments a step took "
        f"{middle:.3f} ({low:.3f} to {high:.3f}) times as long as without.",
        f"Peaks in this run: sgemm {peaks.gflop_s:.0f} GFLOP/s, copy {peaks.memory_gb_s:.0f} GB/s, "
        f"copy of a working set of {peaks.working_set_bytes / 1e6:.1f} MB "
        f"{peaks.working_set_gb_s:.0f} GB/s.",
        f"{calls} Peak memory {peak_memory_bytes(device) / 2**20:,.0f} MiB.",
        ", ".join(f"{name} {value}" for name, value in facts.items() if name != "versions")
        + f", {facts['versions']}.",
        "",
        textwrap.fill(NOTES, 100),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
