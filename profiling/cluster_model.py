"""What a study on many GPUs asks of its gatherer and its storage, and what gives out first.

    python profiling/cluster_model.py
    python profiling/cluster_model.py --gpus 8 64 --lanes 2 16 --speeds 0.25 --no-tensorboard --url

Axes: L lanes of a block, N blocks, one on each GPU. Arithmetic, no run: what the gatherer (the
driver of fastanf/cluster) takes is from profiling/results/gatherer.csv, measured on one machine;
bytes of checkpoints are from fastanf/disk.py and state_bytes.py. What was not measured is in
`Assumed` and in cluster_study.py, the speed of a GPU above all: --speeds are multiples of it.

A use is a load over a capacity: 1 is full. It is in proportion to N, or grows faster.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import benchmark
import result_rows
from cluster_costs import Costs, read_costs
from cluster_study import StudyBlock, env_steps_per_s, gpu_steps_per_s, make_block

from fastanf.cli import complain
from fastanf.cluster.crew import wait_between
from fastanf.cluster.training import PUBLISH_S
from fastanf.presets import MOST_LANES
from fastanf.progress import REDRAW_S
from fastanf.table_seals import MAX_BYTES

GPUS = (1, 8, 64, 256, 1000, 4000)
SPEEDS = (0.25, 1.0, 3.0)
LANES = (2, 16)
MOST_GPUS = 10**6
CALLS_PER_CHECKPOINT = 3
"""Exchanges that come at once: seals, flush, commit."""
PUTS_PER_COMMIT = 2


@dataclass(frozen=True)
class Assumed:
    """What was not measured here."""

    storage_bytes_per_s: float = 1e9
    """Of a shared file system or a store, all nodes together. Large ones do many times that."""
    files_per_s: float = 1000.0
    """That a shared file system makes."""
    puts_per_s: float = 3500.0
    """Of S3 for a prefix, at least (docs.aws.amazon.com/AmazonS3/latest/userguide/
    optimizing-performance.html)."""
    put_s: float = 0.03
    """Until S3 has taken a small object; the gatherer waits for it."""
    copy_bytes_per_s: float = 100e6
    """Of one thread that puts a large file."""
    shared_sync_s: float = 0.002
    """A sync of a file on a shared file system, where the run folder is one."""
    network_bytes_per_s: float = 1.25e9
    """Of the gatherer's machine: 10 Gbit/s."""
    actors_per_s: float = 551.0
    """That Ray starts; its own measurement of 10,000 (ray-project/ray, release/perf_metrics/
    benchmarks/many_actors.json)."""
    compile_s: float = 30.0
    """Of kernels and graphs, on a GPU."""
    detection_s: float = 65.0
    """Until Ray gives up a silent node: 5 checks of 10 s, 3 s apart (ray_config_def.h)."""
    gpu_hours_per_loss: float = 16384 * 54 * 24 / 419
    """419 interruptions in 54 days on 16,384 GPUs (Llama 3, arXiv 2407.21783, section 3.3.4)."""
    gpus_per_node: int = 8


@dataclass(frozen=True)
class Use:
    """Of one resource."""

    load: float
    capacity: float
    unit: str

    @property
    def share(self) -> float:
        """1 is full."""
        return self.load / self.capacity


@dataclass(frozen=True)
class Run:
    """A study on GPUs.

    Args:
        block: each of its blocks.
        tensorboard: whether the gatherer mirrors the rows.
        has_url: whether it is in an object store; else in a folder that all machines share.
    """

    block: StudyBlock
    costs: Costs
    assumed: Assumed = Assumed()
    tensorboard: bool = True
    has_url: bool = False

    def thread(self, N: int) -> dict[str, float]:
        """What the gatherer's thread does, in seconds a second: it does one after the other.

        The syncs of rows are left out. They take what is left: the longer they last, the more
        blocks are heard together the next time, whose rows then share them.
        """
        costs, block, L = self.costs, self.block, self.block.num_lanes
        evaluations, checkpoints = N / block.period_s, N / block.checkpoint_s
        syncs = checkpoints * (costs.round_syncs + costs.commit_syncs)
        sync_s = costs.sync_wall_s if self.has_url else self.assumed.shared_sync_s
        draws = min(1 / REDRAW_S, evaluations)
        parts = {
            "TensorBoard": self.tensorboard * evaluations * costs.tensorboard_s(L),
            "rows into tables": evaluations * costs.rows_s(N, L),
            "rows from Ray": evaluations * costs.message_s(L),
            "exchanges": costs.share_of_exchanges(N)
            + checkpoints * CALLS_PER_CHECKPOINT * costs.exchange_s,
            "display": draws * costs.draw_s(N, L),
            "commits": checkpoints * costs.commit_s + syncs * sync_s,
        }
        if self.has_url:
            stored_s = costs.stored_rows_s(L) + costs.stored_commit_s(L)
            parts["commits"] += evaluations * stored_s
            parts["puts"] = checkpoints * PUTS_PER_COMMIT * self.assumed.put_s
        return parts

    def uses(self, N: int) -> dict[str, Use]:
        """Resource -> use, with N GPUs."""
        block, assumed, L = self.block, self.assumed, self.block.num_lanes
        evaluations, checkpoints = N / block.period_s, N / block.checkpoint_s
        table_bytes = self.table_bytes(N)
        files = checkpoints * block.files_per_checkpoint
        uses = {
            "gatherer, its thread": Use(sum(self.thread(N).values()), 1.0, "s/s"),
            "gatherer, network": Use(
                evaluations * self.costs.message_bytes(L), assumed.network_bytes_per_s, "B/s"
            ),
            "storage, checkpoints": Use(
                N * block.checkpoint_bytes_per_s, assumed.storage_bytes_per_s, "B/s"
            ),
        }
        if self.has_url:
            puts = files + checkpoints * (PUTS_PER_COMMIT - 1)  # the JSON file is one of both
            copied = sum(table_bytes.values()) / PUBLISH_S
            uses["store, puts"] = Use(puts, assumed.puts_per_s, "1/s")
            uses["store, tables for readers"] = Use(copied, assumed.copy_bytes_per_s, "B/s")
        else:
            uses["storage, new files"] = Use(files, assumed.files_per_s, "1/s")
        largest = max(table_bytes, key=lambda name: table_bytes[name])
        uses[f"limit of {largest}.csv"] = Use(table_bytes[largest], MAX_BYTES, "B")
        uses["limit of lanes"] = Use(N * L, MOST_LANES, "lanes")
        return uses

    def table_bytes(self, N: int) -> dict[str, float]:
        """Table -> bytes at the end of the run."""
        num = N * self.block.num_lanes * self.block.num_evaluations
        return {name: num * each for name, each in self.costs.table_bytes.items()}

    def num_rows(self, N: int) -> float:
        """In all tables at the end of the run."""
        num = N * self.block.num_lanes * self.block.num_evaluations
        return num * self.costs.rows_per_lane

    def full_at(self, share: Callable[[int], float]) -> int:
        """The fewest GPUs for which a use is 1 or more; at most `MOST_GPUS`."""
        low, high = 0, 1
        while share(high) < 1:
            low, high = high, 2 * high
            if high > MOST_GPUS:
                return MOST_GPUS
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if share(middle) < 1 else (low, middle)
        return high

    def order(self) -> list[tuple[str, int]]:
        """Resources by the number of GPUs for which they are full, the first bottleneck first."""
        found = [(name, self.full_at(lambda N, name=name: self.uses(N)[name].share))
                 for name in self.uses(1)]  # fmt: skip
        return sorted(found, key=lambda pair: pair[1])

    def times(self, N: int, start_s: float) -> dict[str, float]:
        """What happens once, in seconds, with N GPUs.

        Args:
            N: GPUs.
            start_s: until a process trains, once it is begun; its compilation left out.
        """
        block, assumed, costs = self.block, self.assumed, self.costs
        begin_s = start_s + assumed.compile_s
        rows, storage = self.num_rows(N), assumed.storage_bytes_per_s
        others = min(N, assumed.gpus_per_node)
        loss_s = assumed.detection_s + begin_s + others * block.whole_bytes / storage
        drop_s, go_on_s = rows * costs.drop_s_per_row, rows * costs.goes_on_s_per_row
        return {
            "run": block.run_s,
            "start": N / assumed.actors_per_s + begin_s,
            "wait of an exchange": wait_between(N),
            "first checkpoint of all blocks": N * block.first_bytes / storage,
            "loss of a node, its blocks": loss_s + block.checkpoint_s / 2,
            "loss of a node, gatherer": drop_s + others * go_on_s / N,
            "new gatherer, opening": rows * costs.open_s_per_row,
            "new gatherer, its blocks": drop_s + go_on_s,
            "new gatherer, reading": N * block.whole_bytes / storage,
        }

    def open_bytes(self, N: int) -> float:
        """Of memory while a new gatherer opens the run at its end."""
        return self.num_rows(N) * self.costs.open_bytes_per_row

    def loss_share(self, N: int, start_s: float) -> float:
        """Of all GPUs' time that lost nodes cost; the gatherer's left out."""
        assumed = self.assumed
        cost_s = self.times(N, start_s)["loss of a node, its blocks"] * assumed.gpus_per_node
        return cost_s / (assumed.gpu_hours_per_loss * 3600)


def make_run(lanes: int, speed: float, *, tensorboard: bool, has_url: bool) -> Run:
    """A study of such blocks.

    Args:
        lanes: L.
        speed: of a GPU, as a multiple of the assumed one.
        tensorboard: as of `Run`.
        has_url: as of `Run`.

    Raises:
        ValueError: something was not measured.
    """
    block = make_block(lanes)
    steps_per_s = speed * gpu_steps_per_s(block)
    study = StudyBlock(block, steps_per_s, env_steps_per_s())
    return Run(study, read_costs(), tensorboard=tensorboard, has_url=has_url)


def measured_start_s() -> float:
    """Until a training of most lanes begins, on this machine's CPU.

    Raises:
        ValueError: it was not measured.
    """
    rows = [row for row in result_rows.read("train") if row["metric"] == "start_s"]
    if not rows:
        raise ValueError("start_s was not measured: record it with bench_train.py --record")
    return float(max(rows, key=lambda row: int(row["lanes"]))["p50"])


def text(run: Run, gpus: Sequence[int]) -> str:
    """Tables of uses and times."""
    start_s = measured_start_s()
    heads = [f"{N:,}" for N in gpus]
    parts = [
        [f"  {name}", *(f"{run.thread(N)[name]:.1%}" for N in gpus), ""] for name in run.thread(1)
    ]
    uses = [
        [name, *(f"{run.uses(N)[name].share:.1%}" for N in gpus), f"{at:,}"]
        for name, at in run.order()
    ]
    where = next(i for i, line in enumerate(uses) if line[0].startswith("gatherer, its"))
    uses[where + 1 : where + 1] = parts
    times = [
        [name, *(f"{run.times(N, start_s)[name]:,.3g}" for N in gpus)]
        for name in run.times(1, start_s)
    ]
    block, mirror = run.block, "with" if run.tensorboard else "without"
    return "\n".join(
        [
            f"{block.num_lanes} lanes a block, {block.lock_steps_per_s:,.0f} lock steps/s "
            f"(assumed), an evaluation every {block.period_s:.1f} s, {mirror} TensorBoard, in "
            f"{'an object store' if run.has_url else 'a shared folder'}",
            result_rows.text_table(["use", *heads, "full at"], uses),
            result_rows.text_table(["seconds", *heads], times),
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Show the model for what the arguments ask.

    Returns:
        The exit code.
    """
    parser = benchmark.ArgumentParser(
        description="What a study on many GPUs asks of its gatherer and storage.",
        allow_abbrev=False,
    )
    add, positive = parser.add_argument, benchmark.positive_int
    add("--gpus", type=positive, nargs="+", default=GPUS, metavar="N", help="[default %(default)s]")
    add("--lanes", type=positive, nargs="+", default=LANES, metavar="L", help="of a block")
    add("--speeds", type=benchmark.positive_float, nargs="+", default=SPEEDS, metavar="X",
        help="of a GPU, as multiples of what is assumed")  # fmt: skip
    add("--no-tensorboard", action="store_true", help="nothing is mirrored")
    add("--url", action="store_true", help="the run is in an object store")
    try:
        own = parser.parse_args(sys.argv[1:] if argv is None else argv)
        for lanes in own.lanes:
            for speed in own.speeds:
                run = make_run(lanes, speed, tensorboard=not own.no_tensorboard, has_url=own.url)
                print(f"{text(run, own.gpus)}\n")
    except ValueError as error:
        complain(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
