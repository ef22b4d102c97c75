"""How many updates a second a block makes: lane updates, and environment steps with them.

    python profiling/bench_update.py --lanes 1 4 8 --policy ANF-SAC SAC --fake_features 0.9
    python profiling/bench_update.py --sweep batch_size=100,256 noise_fraction=0.8,0.9 --record
    python profiling/bench_update.py --compare HEAD~1
    python profiling/bench_update.py --device cuda --backend stand_in --lanes 1 8 64 256

Axes: L lanes, E environments per lane. Takes train.py's flags, `--lanes` and `--sweep`; every
combination is a point of every policy: lanes of one policy make a block.

* lane_updates_per_s: updates x L by the time of the updates alone;
* env_steps_per_s: environment steps of all lanes by the time of steps and updates, as a run makes
  them (updates_per_step), without evaluations. With `--backend stand_in` there is no simulator
  (stand_in.py), and the figure says what is left without its time;
* useful_gflop_s: floating-point operations of active connections (fastanf/workload.py) by the
  updates' time;
* peak_gflop_s: a large sgemm on the same threads, between the points of each round.

On a GPU both are measured in stretches of their own, whose end is waited for: updates that follow
each other, as replays of the learner's CUDA graphs, which were captured before; then whole steps,
whose updates overlap with the simulation as in a run.

Before timing, lane 0 after three updates is compared between the points that differ in the number
of lanes alone: to the bit on the CPU, in the mean on a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import benchmark
import blocks
import torch
from benchmark import Figures, Point, Round
from torch import Tensor

import envs
from fastanf.block import TrainingBlock
from fastanf.config import TrainConfig, train_option
from fastanf.learner import keep_freed_memory

WARM_STEPS, CHECK_UPDATES = 8, 3
GPU_WARM_UPDATES = 48
"""Beyond the capture of every kind of update, and a change of the topology or two."""
GPU_TOLERANCE = 1e-5
STAGE_SHARE = 0.3
"""Of a round's time, for the stages where they are asked for."""


@dataclass(frozen=True)
class _Work:
    """What a point stands for."""

    lanes: list[TrainConfig]
    device: torch.device
    num_threads: int


class UpdateBenchmark(benchmark.Benchmark):
    """Updates of a whole block, from sampling to the last optimizer."""

    name = "update"
    about = "How many lane updates, and environment steps with them, a block makes a second."
    takes_train_flags = True

    def __init__(self) -> None:
        self._works: dict[tuple, _Work] = {}
        self._lane_zero: dict[tuple, list[Tensor]] = {}
        self._with_stages = False

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """`--lanes` and `--sweep`."""
        add_point_arguments(parser)

    def points(self, arguments: argparse.Namespace, rest: list[str]) -> list[Point]:
        """Every combination of swept settings, policies and numbers of lanes."""
        self._with_stages = arguments.serve
        counts = list(dict.fromkeys(arguments.lanes))
        sweeps = [sweep_flags(item) for item in arguments.sweep]
        points = []
        for chosen in itertools.product(*sweeps):
            flags = [*rest, *itertools.chain.from_iterable(chosen)]
            described = blocks.parse_lanes(flags, max(counts))
            for of_policy, count in itertools.product(described.by_policy.values(), counts):
                work = _Work(of_policy[:count], described.device, described.num_threads)
                point = blocks.block_sizes(work.lanes, work.device)
                if _key(point) in self._works:
                    raise ValueError(
                        f"--sweep must make points that differ, got {' '.join(flags)!r} for two "
                        "that are the same"
                    )
                self._works[_key(point)] = work
                points.append(point)
        if not any(blocks.gives_capacity(flags) for flags in [rest, *itertools.chain(*sweeps)]):
            self._fit_replays(num_processes=2 if arguments.serve else 1)
        self.device = str(next(iter(self._works.values())).device)
        backends = {str(point["backend"]) for point in points}
        self.packages = tuple(name for name in ("envpool", "gymnasium") if name in backends)
        keep_freed_memory()
        return points

    def _fit_replays(self, num_processes: int) -> None:
        total = num_processes * sum(len(work.lanes) for work in self._works.values())
        for key, work in self._works.items():
            first = work.lanes[0]
            spec = envs.spec(first.task.env, first.task.backend)
            capacity = blocks.replay_capacity(first, spec, total, work.device)
            lanes = [lane.replace(replay_capacity=capacity) for lane in work.lanes]
            self._works[key] = _Work(lanes, work.device, work.num_threads)

    def prepare(self, point: Point) -> Round:
        """A block whose replay is full, after its first updates."""
        work = self._works[_key(point)]
        block = blocks.make_block(work.lanes, work.device, work.num_threads)
        self._check_lane_zero(point, block)
        if not is_on_cpu(block):
            for _ in range(GPU_WARM_UPDATES):
                block.learner.update_()
        return BlockRound(block, self._with_stages).measure

    def _check_lane_zero(self, point: Point, block: TrainingBlock) -> None:
        """The measured program computes the same, however many lanes it has."""
        for _ in range(CHECK_UPDATES):
            block.learner.update_()
        weights = [layer.to_dense()[0] for layer in block.algorithm.actor_mlp.layers]
        others = _key({name: value for name, value in point.items() if name != "lanes"})
        expected = self._lane_zero.setdefault(others, weights)
        agree = torch.equal if is_on_cpu(block) else _agree_on_gpu
        if not all(map(agree, expected, weights)):
            raise ValueError(
                f"lane 0 among {point['lanes']} differs from lane 0 in another number of lanes: "
                "the figures would mean nothing"
            )

    def machine(self) -> Figures:
        """A large sgemm on the device of the first point."""
        from fastanf.peaks import sgemm_gflop_s

        return {"peak_gflop_s": sgemm_gflop_s(torch.device(self.device))}

    def derived(self, point: Point, figures: Mapping[str, float]) -> Figures:
        """Useful operations a second of the updates."""
        from fastanf.workload import useful_update_flops

        lanes = self._works[_key(point)].lanes
        spec = envs.spec(lanes[0].task.env, lanes[0].task.backend)
        updates_per_s = figures["lane_updates_per_s"] / len(lanes)
        return {"useful_gflop_s": useful_update_flops(lanes, spec) * updates_per_s / 1e9}


def add_point_arguments(parser: argparse.ArgumentParser) -> None:
    """`--lanes` and `--sweep`, whose combinations are points."""
    parser.add_argument(
        "--lanes",
        type=benchmark.positive_int,
        nargs="+",
        default=[8],
        metavar="L",
        help="numbers of lanes [default 8]",
    )
    parser.add_argument(
        "--sweep",
        nargs="+",
        default=[],
        metavar="FIELD=V1,V2",
        help="settings of training with several values, each combination a point",
    )


def sweep_flags(item: str) -> list[list[str]]:
    """`field=v1,v2` as train.py's flags for each value.

    Raises:
        ValueError: no such setting, or no values.
    """
    name, is_given, values = item.partition("=")
    texts = [text for text in values.split(",") if text]
    if not is_given or not name or not texts:
        raise ValueError(f"--sweep must be field=v1,v2, got {item!r}")
    try:
        field = train_option(name).name
    except ValueError as error:
        raise ValueError(f"--sweep {item}: {error}") from None
    return [[f"--{field}", text] for text in texts]


def is_on_cpu(block: TrainingBlock) -> bool:
    """Where products of stacked lanes have the same bits as those of one lane."""
    return block.replay.obs.device.type == "cpu"


def _agree_on_gpu(one: Tensor, other: Tensor) -> bool:
    # Adam moves nearly every weight by about the learning rate, 1e-3 an update; rounding changes
    # the direction of those few whose gradient is nearly zero.
    return float((one - other).abs().mean()) < GPU_TOLERANCE


def _key(point: Point) -> tuple:
    return tuple(point.items())


class BlockRound:
    """Rounds of one block.

    Args:
        block: with a filled replay.
        with_stages: also time the stages, in a stretch of its own.
    """

    def __init__(self, block: TrainingBlock, with_stages: bool = False):
        self.block, self.with_stages = block, with_stages
        schedule = block.config.schedule
        self.updates_per_step = schedule.updates_per_step

    def measure(self, seconds: float) -> Figures:
        """Rates over that many seconds, and milliseconds of each stage where they are wanted."""
        share = 1 - STAGE_SHARE if self.with_stages else 1.0
        rates = self._rates if is_on_cpu(self.block) else self._gpu_rates
        figures = rates(share * seconds)
        return figures | (self._stages(STAGE_SHARE * seconds) if self.with_stages else {})

    def _rates(self, seconds: float) -> Figures:
        """Steps and updates in turn, the clock read between them."""
        update_s = whole_s = 0.0
        num_steps = 0
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or num_steps < WARM_STEPS:
            start = time.perf_counter()
            self.block.collector.step_(0)
            middle = time.perf_counter()
            self._update_()
            end = time.perf_counter()
            update_s += end - middle
            whole_s += end - start
            num_steps += 1
        return self._figures(num_steps / update_s, num_steps / whole_s)

    def _gpu_rates(self, seconds: float) -> Figures:
        """Two stretches, the clock read where all is done."""
        # Here, because an earlier revision has no such function.
        from fastanf.collect import train_step_

        def step() -> None:
            train_step_(self.block.collector, self.block.learner, 0, self.updates_per_step)

        return self._figures(
            self._per_s(self._update_, seconds / 2), self._per_s(step, seconds / 2)
        )

    def _per_s(self, work: Callable[[], None], seconds: float) -> float:
        """Calls a second on the GPU, `WARM_STEPS` or more at a time without waiting for it."""
        device, count = self.block.replay.obs.device, 0
        torch.cuda.synchronize(device)
        start = now = time.perf_counter()
        while now < start + seconds:
            for _ in range(WARM_STEPS):
                work()
            count += WARM_STEPS
            torch.cuda.synchronize(device)
            now = time.perf_counter()
        return count / (now - start)

    def _figures(self, updates_per_s: float, steps_per_s: float) -> Figures:
        """Rates of all lanes, from those of `updates_per_step` updates and of whole steps."""
        L, E = len(self.block.lanes), self.block.replay.envs_per_lane
        return {
            "lane_updates_per_s": L * self.updates_per_step * updates_per_s,
            "env_steps_per_s": L * E * steps_per_s,
        }

    def _update_(self) -> None:
        for _ in range(self.updates_per_step):
            self.block.learner.update_()

    def _stages(self, seconds: float) -> Figures:
        """Milliseconds of a training step by stage; they sum to the step."""
        try:
            from fastanf.instrument import Recorder, Stage, clock_of
        except ImportError:  # an earlier revision
            return {}
        recorder = Recorder(clock_of(self.block.replay.obs.device))
        until, num_steps = time.perf_counter() + seconds, 0
        with recorder.recording():
            while time.perf_counter() < until or num_steps < WARM_STEPS:
                self.block.collector.step_(0)
                self._update_()
                recorder.frame()
                num_steps += 1
        recording = recorder.take()
        figures: Figures = {}
        for (root, leaf), samples in recording.stages_ns.items():
            # The update is taken apart, the other stages of a step are not.
            name = leaf if root == Stage.UPDATE else root
            metric = f"stage:{name}_ms"
            figures[metric] = figures.get(metric, 0.0) + sum(samples) / num_steps / 1e6
        return figures


if __name__ == "__main__":
    sys.exit(benchmark.main(UpdateBenchmark()))
