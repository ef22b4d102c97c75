"""Whole trainings as a user runs them: train.py in a process of its own, with its records.

    python profiling/bench_train.py --lanes 1 8 --fake_features 0.9
    python profiling/bench_train.py --sweep eval_freq=500,1000 --max_timesteps 4000 --record
    python profiling/bench_train.py --rounds 3 --compare HEAD~1

Axes: L lanes. Takes train.py's flags, `--lanes` and `--sweep`; every combination is a point. The
schedule is short unless the flags say otherwise (`SHORT`). A round is one training, however long it
takes (--round_s changes nothing), and the first one is thrown away. Several policies must train in
one block, because blocks train one after the other. Evaluations, checkpoints,
TensorBoard and the final picture take place; the run folder is a temporary one (TMPDIR).

* env_steps_per_s: environment steps of all lanes between the first and the last evaluation by the
  time between them (wall_s of eval.csv), so that all but one of the evaluations count;
* training_steps_per_s: the same steps by the time without evaluations (train.csv, lanes summed);
* start_s: from the start of the process to its first evaluation, less the training before it: the
  imports, the plan, building, random steps and that evaluation;
* whole_s: from the start to the end of the process;
* peak_mib: its largest resident set.

All trainings of a point must reach the same returns; on a GPU, where sums may be made in another
order, the same evaluations.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import benchmark
import blocks
import result_rows
import stand_in
import workers
from bench_update import add_point_arguments, sweep_flags
from benchmark import Figures, Point, Round

import fastanf
from fastanf.cli import parse_command_line
from fastanf.config import ALIASES, OPTIONS, RUN_OPTIONS, TrainConfig, normalize

SHORT = {"start_timesteps": 1000, "max_timesteps": 2000, "eval_freq": 500, "eval_episodes": 2}
"""The schedule where the flags give no other."""
REFUSED = {
    "run_dir": "the run folder is a temporary one",
    "plan": "nothing would be trained",
    "num_seeds": "--lanes says how many lanes train",
    "study": "a point is one combination of settings",
    "lanes_per_block": "the lanes of a point train together",
}
"""Flags of train.py that have no meaning here."""
RUN_SETTINGS = ("tensorboard", "wandb_mode", "profile", "checkpoint_minutes")
"""Settings of the command that its time depends on and that have no column."""

Rows = Sequence[Mapping[str, str]]
"""Of a table of the records, as text."""


class TrainBenchmark(benchmark.Benchmark):
    """Runs of train.py from the start of the process to its end."""

    name = "train"
    about = "How long whole trainings take: start-up, training, evaluations, records, memory."
    takes_train_flags = True

    def __init__(self) -> None:
        self._commands: dict[tuple, tuple[list[str], int]] = {}
        """Flags of train.py and the number of evaluations, by point."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """`--lanes` and `--sweep`."""
        add_point_arguments(parser)

    def points(self, arguments: argparse.Namespace, rest: list[str]) -> list[Point]:
        """Every combination of swept settings and numbers of lanes."""
        _check_flags(rest)
        sweeps = [sweep_flags(item) for item in arguments.sweep]
        # As a run has it: `blocks` would else check a small one.
        capacity = f"--replay_capacity={OPTIONS['replay_capacity'].default}"
        schedule = [capacity, *(f"--{name}={value}" for name, value in SHORT.items())]
        points = []
        for chosen in itertools.product(*sweeps):
            flags = [*schedule, *rest, *itertools.chain.from_iterable(chosen)]
            num_policies = len(blocks.parse_lanes(flags, 1).by_policy)
            for count in dict.fromkeys(arguments.lanes):
                if count % num_policies:
                    raise ValueError(
                        f"--lanes must be a multiple of the {num_policies} policies, got {count}"
                    )
                points.append(self._add_point(flags, count // num_policies))
        backends = {str(point["backend"]) for point in points}
        self.packages = tuple(name for name in ("envpool", "gymnasium") if name in backends)
        return points

    def _add_point(self, flags: list[str], num_seeds: int) -> Point:
        described = blocks.parse_lanes(flags, num_seeds)
        lanes = [lane for of_policy in described.by_policy.values() for lane in of_policy]
        blocks.check_one_block(lanes, described.device, "measure")
        if lanes[0].task.backend == stand_in.NAME:
            raise ValueError(
                f"--backend must be one that train.py has, got {stand_in.NAME}, which is for "
                "bench_update.py and profile_update.py"
            )
        schedule = lanes[0].schedule
        point = blocks.block_sizes(lanes, described.device)
        point["settings"] = f"{point['settings']} {_run_text(flags)}".strip()
        point |= {name: getattr(schedule, name) for name in (*SHORT, "replay_capacity")}
        if _key(point) in self._commands:
            raise ValueError(
                f"--sweep must make points that differ, got {' '.join(flags)!r} for two that are "
                "the same"
            )
        self._commands[_key(point)] = (
            [*flags, "--num_seeds", str(num_seeds)],
            num_evaluations(lanes[0]),
        )
        self.device = str(described.device)
        return point

    def prepare(self, point: Point) -> Round:
        """Nothing is built: each round starts a process."""
        tree = Path(fastanf.__file__).resolve().parent.parent
        if not (tree / "train.py").exists():
            raise ValueError(f"{tree}, where fastanf comes from, holds no train.py")
        flags, evaluations = self._commands[_key(point)]
        is_exact = self.device == "cpu"
        return Trainings(tree, flags, int(point["lanes"]), evaluations, is_exact).measure


def _key(point: Point) -> tuple:
    return tuple(point.items())


def _check_flags(flags: Sequence[str]) -> None:
    for token in flags:
        name = ALIASES.get(normalize(token.partition("=")[0])) if token.startswith("--") else None
        if name in REFUSED:
            raise ValueError(f"{token} must not be given: {REFUSED[name]}")


def _run_text(flags: Sequence[str]) -> str:
    """Settings of the command that are not the usual ones, as field=value."""
    run = parse_command_line(flags).run
    return " ".join(
        f"{name}={RUN_OPTIONS[name].spell(getattr(run, name))}"
        for name in RUN_SETTINGS
        if name in RUN_OPTIONS and getattr(run, name) != RUN_OPTIONS[name].default
    )


def num_evaluations(lane: TrainConfig) -> int:
    """Evaluations of a run: one each `eval_freq` steps, and one at its end.

    Raises:
        ValueError: fewer than two, so that there is no time between them.
    """
    E, schedule = lane.task.envs_per_lane, lane.schedule
    period, last = max(1, schedule.eval_freq // E), -(-schedule.max_timesteps // E)
    if last <= period:
        raise ValueError(
            f"--max_timesteps must be more than eval_freq ({schedule.eval_freq}), so that there "
            f"are two evaluations, got {schedule.max_timesteps}"
        )
    return -(-last // period)


class Trainings:
    """Runs of one command, one a round.

    Args:
        tree: whose train.py is run, with its own fastanf and envs.
        flags: of train.py, --run_dir left out.
        num_lanes: L.
        num_evaluations: of each lane.
        is_exact: whether equal seeds must give equal returns.
    """

    def __init__(
        self, tree: Path, flags: Sequence[str], num_lanes: int, num_evaluations: int, is_exact: bool
    ):
        self.tree, self.flags = tree, flags
        self.num_lanes, self.num_evaluations = num_lanes, num_evaluations
        self.is_exact = is_exact
        self._first_returns: list[str] | None = None

    def measure(self, seconds: float) -> Figures:
        """One whole training.

        Args:
            seconds: not regarded.

        Raises:
            ValueError: it failed, or its records are not those that they should be.
        """
        with tempfile.TemporaryDirectory(prefix="bench_train-") as name:
            folder = Path(name)
            run_dir = folder / "run"
            process = run_train(self.tree, [*self.flags, "--run_dir", str(run_dir)], folder)
            evaluations = result_rows.read_file(run_dir / "eval.csv")
            training = result_rows.read_file(run_dir / "train.csv")
            last_evaluation = (run_dir / "eval.csv").stat().st_mtime
        self._check(evaluations)
        figures = rates(evaluations, training)
        start_s = last_evaluation - process.started_at - after_first_s(evaluations, training)
        figures |= {"start_s": start_s, "whole_s": process.whole_s}
        return figures | ({} if process.peak_mib is None else {"peak_mib": process.peak_mib})

    def _check(self, evaluations: Rows) -> None:
        found, expected = len(evaluations), self.num_lanes * self.num_evaluations
        if found != expected:
            raise ValueError(f"eval.csv of a training has {found} rows, it should have {expected}")
        returns = [row["return_mean"] for row in evaluations]
        self._first_returns = self._first_returns or returns
        if self.is_exact and returns != self._first_returns:
            raise ValueError(
                "two trainings with the same seeds reached different returns: "
                "the figures would mean nothing"
            )


class Ended(NamedTuple):
    """A process that has ended well."""

    started_at: float
    """Seconds since the epoch, as files' times are."""
    whole_s: float
    peak_mib: float | None
    """Largest resident set; None where it is not known."""


def run_train(tree: Path, flags: Sequence[str], folder: Path) -> Ended:
    """Run a tree's train.py to its end.

    Args:
        tree: first on PYTHONPATH.
        flags: of train.py.
        folder: the process's working folder; what it prints is kept there.

    Raises:
        ValueError: it failed; says its last line on stderr.
    """
    paths = [str(tree), *filter(None, [os.environ.get("PYTHONPATH")])]
    # workers.py hides an editable installation, whose modules an earlier revision may lack.
    command = [sys.executable, workers.__file__, str(tree / "train.py"), *flags]
    stderr = folder / "stderr"
    with (folder / "stdout").open("wb") as out, stderr.open("wb") as err:
        started_at, start = time.time(), time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        whole_s = time.perf_counter() - start
    process.returncode = code = os.waitstatus_to_exitcode(status)  # Popen need not wait
    if code:
        lines = stderr.read_text(errors="replace").strip().splitlines()
        detail = lines[-1].removeprefix("fastanf: error: ") if lines else "it said nothing"
        raise ValueError(f"train.py ended with exit code {code}: {detail}")
    return Ended(started_at, whole_s, _peak_mib(usage))


def _peak_mib(usage: resource.struct_rusage) -> float | None:
    # A new process begins with the peak of the one that started it: less than its own, as long as
    # that one has trained nothing itself.
    if usage.ru_maxrss <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
        return None
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def rates(evaluations: Rows, training: Rows) -> Figures:
    """Environment steps of all lanes a second between the first and the last evaluation.

    Args:
        evaluations: rows of eval.csv, of two evaluations or more.
        training: rows of train.csv.

    Returns:
        env_steps_per_s, all time counted; training_steps_per_s, without that of evaluations.
    """
    training_s = training_seconds(training)
    first, *later = sorted(training_s)
    num_lanes = len({row["lane"] for row in training})
    num_steps = num_lanes * (later[-1] - first)
    return {
        "env_steps_per_s": num_steps / _between_s(evaluations),
        "training_steps_per_s": num_steps / sum(training_s[step] for step in later),
    }


def after_first_s(evaluations: Rows, training: Rows) -> float:
    """Seconds of the steps before the first evaluation, and of all between it and the last."""
    training_s = training_seconds(training)
    return training_s[min(training_s)] + _between_s(evaluations)


def training_seconds(training: Rows) -> dict[int, float]:
    """Seconds of the steps up to each evaluation's step since the one before."""
    lane_rates: dict[int, list[float]] = {}
    for row in training:
        lane_rates.setdefault(int(row["step"]), []).append(float(row["env_steps_per_s"]))
    steps = sorted(lane_rates)
    return {
        step: (step - before) * len(lane_rates[step]) / sum(lane_rates[step])
        for before, step in itertools.pairwise([0, *steps])
    }


def _between_s(evaluations: Rows) -> float:
    return float(evaluations[-1]["wall_s"]) - float(evaluations[0]["wall_s"])


if __name__ == "__main__":
    # The training in progress ends with this process, and its folder goes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(benchmark.main(TrainBenchmark()))
