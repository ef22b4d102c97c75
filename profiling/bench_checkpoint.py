"""What checkpoints cost: seconds, bytes and memory of saving a block and of going on from it.

    python profiling/bench_checkpoint.py --num_threads 1 --record
    python profiling/bench_checkpoint.py --lanes 1 8 --env Hopper-v3 --steps 5000

Axes: L lanes. Takes train.py's flags and `--lanes`; without any work named, the blocks are those of
`WORKS`. Each is two points. `impl` block is a block whose replay is full (--replay_capacity, a
million transitions a lane unless said otherwise); its rounds take as long as they take:

* train_steps_per_s: lock steps with their updates, measured before the rounds;
* first_s, whole_mib: a checkpoint that writes the whole replay;
* later_s, later_mib: one after five minutes' worth of steps at that rate (or --steps), and
  later_share, what it is of five minutes; later_state_s of it collect the tensors;
* load_s: finding the newest checkpoint and reading all of it once for its checksums; restore_s:
  into a new block; restore_simulators_s of it bring the simulators back into the middle of their
  episodes. The files were just written: they come from memory, not from the disk;
* save_extra_mib, load_extra_mib, restore_extra_mib: resident memory at the peak beyond what is
  there before (saving, loading) or after (restoring);
* disk_gb_s: what the disk takes, a file of 64 MiB with fsync.

In every round the restored block must have the state and the minibatches of the one that was saved.

`impl` run is a training of that block from its first step on (--round_s), with checkpoints a second
apart if the rule of fastanf/saving.py lets them: saving_share is what they take of the time from
the first to the last but one (the last comes when the run is finished). The rule says 3% at most.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import benchmark
import blocks
import process_status
import torch
from benchmark import Figures, Point, Round
from checkpoint_rounds import BlockRound, RunRound, steps_per_s

from fastanf.block import TrainingBlock
from fastanf.config import ALIASES, OPTIONS, RUN_OPTIONS, TrainConfig, normalize
from fastanf.learner import keep_freed_memory

WORKS = (("HalfCheetah-v3", 8), ("Humanoid-v3", 1))
"""Task and lanes, at the papers' noise of 0.9."""
NOISE = "0.9"
PERIOD_S = 60 * float(RUN_OPTIONS["checkpoint_minutes"].default)
RATE_S = 5.0
"""How long the rate of training is measured."""
DISK_BYTES = 2**26
REFUSED = ("run_dir", "plan", "study", "num_seeds", "lanes_per_block", "checkpoint_minutes",
           "max_timesteps", "start_timesteps", "eval_freq", "eval_episodes")  # fmt: skip
"""Flags of train.py that are given here."""


class _Work(NamedTuple):
    """What a point stands for."""

    lanes: list[TrainConfig]
    flags: list[str]
    device: torch.device
    num_threads: int


class CheckpointBenchmark(benchmark.Benchmark):
    """Checkpoints of whole blocks, and of runs. `close` removes them."""

    name = "checkpoint"
    about = "What checkpoints cost: seconds, bytes, memory, and their share of a run's time."
    round_s = 60.0
    takes_train_flags = True
    packages = ("envpool",)

    def __init__(self) -> None:
        self._works: dict[tuple, _Work] = {}
        self._open = contextlib.ExitStack()
        self._folder: Path | None = None
        self._rates: dict[tuple, float] = {}

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """`--lanes`, `--steps` and `--folder`."""
        parser.add_argument(
            "--lanes", type=benchmark.positive_int, nargs="+", metavar="L",
            help="numbers of lanes [default 8 of HalfCheetah and 1 of Humanoid]",
        )  # fmt: skip
        parser.add_argument(
            "--steps", type=benchmark.positive_int, metavar="N",
            help="lock steps between two checkpoints [default five minutes' worth]",
        )  # fmt: skip
        parser.add_argument(
            "--folder", type=Path, metavar="FOLDER",
            help="on the disk to measure [default the system's for temporary files]",
        )  # fmt: skip

    def points(self, arguments: argparse.Namespace, rest: list[str]) -> list[Point]:
        """The block and the run of every task and number of lanes."""
        process_status.check_is_linux()
        names = _names(rest)
        for name in REFUSED:
            if name in names:
                raise ValueError(f"{names[name]} must not be given: the benchmark gives it")
        if arguments.folder and not arguments.folder.is_dir():
            raise ValueError(f"--folder must be a folder, got {str(arguments.folder)!r}")
        self._steps, self._parent = arguments.steps, arguments.folder
        # The papers' capacity and noise; what the flags say comes later and holds.
        usual = [f"--replay_capacity={OPTIONS['replay_capacity'].default}"]
        usual += [f"--noise_fraction={NOISE}"]
        works = [(env, lanes) for env, lanes in WORKS]
        if "env" in names or arguments.lanes:
            works = [(WORKS[0][0], lanes) for lanes in dict.fromkeys(arguments.lanes or [1])]
        points: list[Point] = []
        for env, num_lanes in works:
            points += self._add_points([f"--env={env}", *usual, *rest], num_lanes)
        keep_freed_memory()
        return points

    def _add_points(self, flags: list[str], num_lanes: int) -> list[Point]:
        described = blocks.parse_lanes(flags, num_lanes)
        if len(described.by_policy) > 1:
            raise ValueError(f"--policy must be one, got {' '.join(described.by_policy)}")
        (lanes,) = described.by_policy.values()
        self.device = str(described.device)
        sizes = blocks.block_sizes(lanes, described.device)
        sizes |= {"impl": "block", "replay_capacity": lanes[0].schedule.replay_capacity}
        work = _Work(
            lanes, [*flags, f"--num_seeds={num_lanes}"], described.device, described.num_threads
        )
        points = [sizes | {"steps": self._steps or ""}, sizes | {"impl": "run", "steps": ""}]
        for point in points:
            self._works[_key(point)] = work
        return points

    def prepare(self, point: Point) -> Round:
        """A block with a full replay and its first checkpoint; for a run, the rate of its steps."""
        work = self._works[_key(point)]
        if self._folder is None:
            name = tempfile.TemporaryDirectory(prefix="bench_checkpoint-", dir=self._parent)
            self._folder = Path(self._open.enter_context(name))
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        if point["impl"] == "run":
            rate = self._rates[_key(point | {"impl": "block"})]
            return RunRound(work.flags, folder, rate, work.lanes[0].task.envs_per_lane).measure
        block = blocks.make_block(work.lanes, work.device, work.num_threads)
        self._open.callback(block.close)
        rate = self._rates[_key(point | {"steps": ""})] = steps_per_s(block, RATE_S)
        make = functools.partial(TrainingBlock, work.lanes, work.device, work.num_threads)
        num_steps = self._steps or int(PERIOD_S * rate)
        return BlockRound(make, block, folder, num_steps, PERIOD_S, rate).measure

    def machine(self) -> Figures:
        """The disk, once a round."""
        assert self._folder is not None  # made by `prepare`
        path, data = self._folder / "disk", os.urandom(DISK_BYTES)
        start = time.perf_counter()
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        seconds = time.perf_counter() - start
        path.unlink()
        return {"disk_gb_s": DISK_BYTES / seconds / 1e9}

    def close(self) -> None:
        """Release the simulators, and remove what was written."""
        self._open.close()


def _key(point: Point) -> tuple:
    return tuple(point.items())


def _names(flags: Sequence[str]) -> dict[str, str]:
    """Flags by the name of their setting, as typed."""
    typed = [token.partition("=")[0] for token in flags if token.startswith("--")]
    return {ALIASES.get(normalize(token), ""): token for token in typed}


if __name__ == "__main__":
    with contextlib.closing(CheckpointBenchmark()) as bench:
        sys.exit(benchmark.main(bench))
