"""What a Ray cluster costs a block: the same study in a plain process and on Ray, in pairs.

    python profiling/bench_cluster.py --lanes 1 4 --rounds 5 --record

Axes: L lanes of one block. A round is one `python -m fastanf study FILE` and one with `--ray`, each
in a process of its own and with one thread for the block, one after the other; which goes first
alternates. Ray is started by the command, on this machine's loopback interface. The first pair is
thrown away. Both reach the same returns, or the round fails.

* process_env_steps_per_s, ray_env_steps_per_s: environment steps of all lanes between the first and
  the last evaluation by the time between them, evaluations, records and checkpoints included;
* overhead_share: how much longer the same steps take on Ray;
* process_start_s, ray_start_s: from the start of the process to its first evaluation, less the
  training before it; what Ray adds is starting it, and the worker's own imports;
* process_end_s, ray_end_s: from the last evaluation to the end of the process.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import benchmark
import blocks
import result_rows
from bench_train import Rows, after_first_s, rates
from benchmark import Figures, Point, Round

import fastanf

STEPS, EVALUATIONS = 4000, 4
SETTINGS = {"start_timesteps": 500, "eval_episodes": 1, "noise_fraction": 0.9}
SIDES = {"process": (), "ray": ("--ray",)}


class ClusterBenchmark(benchmark.Benchmark):
    """A block in a plain process against the same block on Ray."""

    name = "cluster"
    about = "What a Ray cluster costs a block: throughput, start and end, against a plain process."
    packages = ("envpool", "ray")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """`--lanes`, `--policy` and `--steps`."""
        parser.add_argument("--lanes", type=int, nargs="+", default=[1, 4], help="L")
        parser.add_argument("--policy", default="ANF-SAC")
        parser.add_argument(
            "--steps", type=int, default=STEPS, help=f"learning steps of a lane [{STEPS}]"
        )

    def points(self, arguments: argparse.Namespace, rest: list[str]) -> list[Point]:
        """A block for each number of lanes."""
        del rest
        if min(arguments.lanes) < 1 or arguments.steps < EVALUATIONS:
            raise ValueError(
                f"--lanes must be at least 1 and --steps at least {EVALUATIONS}, got "
                f"{arguments.lanes} and {arguments.steps}"
            )
        found = []
        for num_lanes in dict.fromkeys(arguments.lanes):
            flags = [f"--policy={arguments.policy}", f"--max_timesteps={arguments.steps}"]
            flags += [f"--{name}={value}" for name, value in SETTINGS.items()]
            described = blocks.parse_lanes(flags, num_lanes)
            lanes = [lane for of_policy in described.by_policy.values() for lane in of_policy]
            found.append(
                blocks.block_sizes(lanes, described.device) | {"max_timesteps": arguments.steps}
            )
        self._policy = arguments.policy
        return found

    def prepare(self, point: Point) -> Round:
        """Nothing is built: each round starts two processes."""
        return Pairs(self._policy, int(point["lanes"]), int(point["max_timesteps"])).measure


class Pairs:
    """Pairs of trainings of one study.

    Args:
        policy: of the block.
        num_lanes: L, seeds from 0.
        max_timesteps: learning steps of a lane.
    """

    def __init__(self, policy: str, num_lanes: int, max_timesteps: int) -> None:
        self.text = study_text(policy, num_lanes, max_timesteps)
        self.num_pairs = 0

    def measure(self, seconds: float) -> Figures:
        """One pair.

        Args:
            seconds: not regarded.

        Raises:
            ValueError: a process failed, or they reached different returns.
        """
        del seconds
        names = list(SIDES) if self.num_pairs % 2 == 0 else list(reversed(SIDES))
        self.num_pairs += 1
        figures, returns = {}, {}
        for name in names:
            trained = train(self.text, *SIDES[name])
            returns[name] = [row["return_mean"] for row in trained.evaluations]
            figures[f"{name}_env_steps_per_s"] = rates(trained.evaluations, trained.training)[
                "env_steps_per_s"
            ]
            figures[f"{name}_start_s"] = trained.start_s
            figures[f"{name}_end_s"] = trained.end_s
        if returns["process"] != returns["ray"]:
            raise ValueError("the two sides reached different returns: the figures mean nothing")
        slower = figures["process_env_steps_per_s"] / figures["ray_env_steps_per_s"]
        return figures | {"overhead_share": slower - 1}


def study_text(policy: str, num_lanes: int, max_timesteps: int) -> str:
    """The file of a study of one block."""
    settings = SETTINGS | {
        "max_timesteps": max_timesteps,
        "eval_freq": max_timesteps // EVALUATIONS,
    }
    lines = [f"{name} = {value}" for name, value in settings.items()]
    head = ['name = "bench"', 'about = "One block."', f'policy = "{policy}"']
    head += ['env = "HalfCheetah-v3"', f"num_seeds = {num_lanes}", "[settings]"]
    return "\n".join([*head, *lines, ""])


class Trained(NamedTuple):
    """A training that has ended well."""

    evaluations: Rows
    training: Rows
    start_s: float
    end_s: float


def train(text: str, *flags: str) -> Trained:
    """Train a study in a process of its own.

    Raises:
        ValueError: it failed; says its last line on stderr.
    """
    tree = Path(fastanf.__file__).resolve().parent.parent
    paths = [str(tree), *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryDirectory(prefix="bench_cluster-") as name:
        folder = Path(name)
        (folder / "bench.toml").write_text(text)
        command = [sys.executable, "-m", "fastanf", "study", "bench.toml", "--num_threads", "1"]
        if flags:  # one block at a time has room, so that the lanes stay one
            command += ["--cpus_per_block", str(os.cpu_count())]
        started_at, start = time.time(), time.perf_counter()
        done = subprocess.run(
            [*command, "--run_dir", "run", *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            check=False,
        )
        whole_s = time.perf_counter() - start
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["it said nothing"]
            raise ValueError(f"study ended with exit code {done.returncode}: {lines[-1]}")
        evaluations = result_rows.read_file(folder / "run" / "eval.csv")
        training = result_rows.read_file(folder / "run" / "train.csv")
        last_s = (folder / "run" / "eval.csv").stat().st_mtime - started_at
    return Trained(
        evaluations, training, last_s - after_first_s(evaluations, training), whole_s - last_s
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(benchmark.main(ClusterBenchmark()))
