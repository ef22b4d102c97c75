"""What it costs to gather: the one process that writes the records of a run of many blocks.

    python profiling/bench_gatherer.py --rounds 5 --record
    python profiling/bench_gatherer.py --parts rows --blocks 1000 --lanes 16 --tensorboard yes

Axes: L lanes of a block, N blocks in training at the same time (--blocks). Nothing is trained: the
process of fastanf/cluster/driver.py is given what workers would say, by hand or by Ray's actors on
this machine. CPU time is that of all its threads. The parts:

* rows: blocks' rows of one evaluation, heard in one round (heard_count blocks) and written into the
  tables of a run whose N blocks all have rows there: block_eval_wall_ms and block_eval_cpu_ms of a
  block, fsyncs_count of the round, fsync_ms, and bytes per lane and evaluation in each table and in
  TensorBoard's files (tb_bytes). With `store`, lines are kept for the next checkpoint too, as they
  are for a run under a URL;
* idle: update_us, a message of how far a block is; draw_ms, the display, which is drawn four times
  a second at most (table), or every 30 s and with evaluations (lines);
* commit: a checkpoint of a worker, flushed, sealed and committed: commit_wall_ms, commit_cpu_ms.
  With `store`, the rows of 8 evaluations go into a file system in memory;
* restart: open_s, open_extra_mib and sort_s of a run with --evaluations of all lanes; of one of its
  blocks check_s, truncate_s (nothing to drop), evaluations_s (what a block that goes on asks for)
  and drop_s (its last evaluation is dropped); drop_all_s, the last evaluation of all blocks;
* ray: N exchanges on their way, of workers that say nothing: exchanges_per_s, exchange_cpu_ms,
  gatherer_share (of one CPU), listens_per_s;
* ray_rows: exchanges back to back that bring a block's rows of one evaluation, or nothing:
  exchange_cpu_ms, message_bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

import benchmark
import ray_rounds
from benchmark import Figures, Point, Round
from gatherer_rounds import CommitRound, Gatherer, IdleRound, RestartRound, RowsRound
from gatherer_rows import Speech

from fastanf.cluster.connection import needs_ray

USUAL = ("--policy=ANF-SAC", "--env=HalfCheetah-v3", "--noise_fraction=0.9", "--device=cpu",
         "--num_threads=1")  # fmt: skip
PARTS = ("rows", "idle", "commit", "restart", "ray", "ray_rows")
BLOCKS, LANES, EVALUATIONS = (1, 100, 1000), (2, 16), (10, 30)
RESTART_BLOCKS, RESTART_LANES = 500, 2
RAY_BLOCKS = (1, 8, 64, 256, 1000, 4000)
STORE_URL = "memory://bench_gatherer"
STEP_OF_ROWS = 5000


class GathererBenchmark(benchmark.Benchmark):
    """The gatherer's work, part by part. `close` removes what was written."""

    name = "gatherer"
    about = "What it costs to gather the records of many blocks, in time, bytes and memory."
    takes_train_flags = True
    packages = ("ray", "tensorboard")

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()
        self._ray = contextlib.ExitStack()
        self._has_ray = False
        self._speeches: dict[int, Speech] = {}
        self._flags: list[str] = []
        self._parent: Path | None = None
        self._folder: Path | None = None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """What is measured, and how large it is."""
        add, positive = parser.add_argument, benchmark.positive_int
        add(
            "--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART",
            help=f"of {', '.join(PARTS)} [default all]",
        )  # fmt: skip
        for option, default, letter in (
            ("blocks", BLOCKS, "N"),
            ("lanes", LANES, "L"),
            ("ray_blocks", RAY_BLOCKS, "N"),
            ("evaluations", EVALUATIONS, "N"),
        ):
            usual = f"[default {' '.join(map(str, default))}]"
            add(
                f"--{option}", type=positive, nargs="+", default=default, metavar=letter, help=usual
            )
        for option, number in (
            ("restart_blocks", RESTART_BLOCKS),
            ("restart_lanes", RESTART_LANES),
        ):
            usual = f"of part restart [default {number}]"
            add(f"--{option}", type=positive, default=number, metavar="N", help=usual)
        add(
            "--tensorboard", choices=("no", "yes", "both"), default="both",
            help="of part rows [default both]",
        )  # fmt: skip
        add(
            "--folder", type=Path, metavar="FOLDER",
            help="on the disk to measure [default the system's for temporary files]",
        )  # fmt: skip

    def points(self, arguments: argparse.Namespace, rest: list[str]) -> list[Point]:
        """All parts; those that need Ray come last."""
        if arguments.folder and not arguments.folder.is_dir():
            raise ValueError(f"--folder must be a folder, got {str(arguments.folder)!r}")
        problem = needs_ray()
        if problem and {"ray", "ray_rows"} & set(arguments.parts):
            raise ValueError(f"--parts: {problem}")
        self._flags, self._parent = [*USUAL, *rest], arguments.folder
        mirrored = {"no": ("no",), "yes": ("yes",), "both": ("no", "yes")}[arguments.tensorboard]
        sizes = [(blocks, lanes) for lanes in arguments.lanes for blocks in arguments.blocks]
        most = max(arguments.blocks)
        found = {
            "rows": [
                _point("rows", *size, tensorboard=word) for word in mirrored for size in sizes
            ] + [_point("rows", most, lanes, store="memory") for lanes in arguments.lanes],
            "idle": [
                _point("idle", *size, display=word) for word in ("lines", "table") for size in sizes
            ],
            "commit": [
                _point("commit", most, lanes, store=store)
                for store in ("", "memory") for lanes in arguments.lanes
            ],
            "restart": [
                _point("restart", arguments.restart_blocks, arguments.restart_lanes, evaluations=n)
                for n in arguments.evaluations
            ],
            "ray": [_point("ray", blocks, "") for blocks in arguments.ray_blocks],
            "ray_rows": [_point("ray_rows", 2, lanes) for lanes in ("", *arguments.lanes)],
        }  # fmt: skip
        return [point for part in PARTS if part in arguments.parts for point in found[part]]

    def prepare(self, point: Point) -> Round:
        """A run folder with rows of every block, or nothing where Ray is measured."""
        part, blocks = str(point["impl"]), int(point["blocks"])
        if part == "ray":
            return self._on_ray(ray_rounds.ExchangesRound(blocks).measure)
        if part == "ray_rows":
            lanes = point["lanes"]
            said = self._speech(int(lanes)).evaluation(0, STEP_OF_ROWS) if lanes else []
            return self._on_ray(ray_rounds.ExchangesRound(blocks, said, 0.0).measure)
        speech, path = self._speech(int(point["lanes"])), self._new_path()
        if part == "restart":
            return RestartRound(path, speech, blocks, int(point["evaluations"])).measure
        gatherer = Gatherer(
            path,
            speech,
            blocks,
            tensorboard=point["tensorboard"] == "yes",
            store=_store(f"{STORE_URL}/{path.parent.name}") if point["store"] else None,
            is_live=point["display"] == "table",
        )
        self._open.callback(gatherer.close)
        rounds = {"rows": RowsRound, "idle": IdleRound, "commit": CommitRound}
        return rounds[part](gatherer).measure

    def machine(self) -> Figures:
        """No figure; at the beginning of a round Ray's processes are gone."""
        self._ray.close()
        self._has_ray = False
        return {}

    def close(self) -> None:
        """Remove what was written, and end Ray."""
        self._ray.close()
        self._open.close()

    def _on_ray(self, measure: Round) -> Round:
        def with_ray(seconds: float) -> Figures:
            if not self._has_ray:
                self._ray.enter_context(ray_rounds.local_ray())
                self._has_ray = True
            return measure(seconds)

        return with_ray

    def _new_path(self) -> Path:
        """Of a run folder that is not there yet."""
        if self._folder is None:
            name = tempfile.TemporaryDirectory(prefix="bench_gatherer-", dir=self._parent)
            self._folder = Path(self._open.enter_context(name))
        return Path(tempfile.mkdtemp(dir=self._folder)) / "run"

    def _speech(self, num_lanes: int) -> Speech:
        if num_lanes not in self._speeches:
            self._speeches[num_lanes] = Speech(self._flags, num_lanes)
        return self._speeches[num_lanes]


def _point(
    part: str,
    blocks: int,
    lanes: int | str,
    *,
    tensorboard: str = "no",
    store: str = "",
    display: str = "lines",
    evaluations: int = 1,
) -> Point:
    return {"impl": part, "blocks": blocks, "lanes": lanes, "tensorboard": tensorboard,
            "store": store, "display": display, "evaluations": evaluations}  # fmt: skip


def _store(url: str):
    from fastanf.cluster.remote_run import RemoteRun

    return RemoteRun(url)


if __name__ == "__main__":
    with contextlib.closing(GathererBenchmark()) as bench:
        sys.exit(benchmark.main(bench))
