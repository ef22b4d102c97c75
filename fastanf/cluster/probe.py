"""How long blocks are going to take, by a few seconds of each kind of them where they train."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastanf import kernels
from fastanf.block import TrainingBlock
from fastanf.cluster.cost import relative_cost
from fastanf.cluster.resources import Share
from fastanf.collect import train_step_
from fastanf.config import TrainConfig, block_key
from fastanf.grouping import Block
from fastanf.learner import keep_freed_memory
from fastanf.progress import duration
from fastanf.settings import RunConfig

PROBE_S = 4.0
"""Of training, at least."""
_FEWEST_STEPS = 20
_WARM_UP_STEPS = 10


@dataclass(frozen=True)
class Pace:
    """What was measured of a block."""

    building_s: float
    random_step_s: float
    """A lock step with random actions."""
    step_s: float
    """A lock step with its updates."""
    evaluation_s: float

    def block_s(self, config: TrainConfig) -> float:
        """Seconds of a whole block; what its checkpoints take is not in it, 3% at most."""
        E, schedule = config.task.envs_per_lane, config.schedule
        last_step = -(-schedule.max_timesteps // E)
        num_evaluations = -(-last_step // max(1, schedule.eval_freq // E))
        return (
            self.building_s
            + self.random_step_s * -(-schedule.start_timesteps // E)
            + self.step_s * last_step
            + self.evaluation_s * num_evaluations
        )


def measure(configs: Sequence[TrainConfig], run: RunConfig, device: str, num_threads: int) -> Pace:
    """Train a block for some seconds, where nothing is written.

    Args:
        configs: its lanes.
        run: settings of the command.
        device: cpu or cuda.
        num_threads: of the CPU; 0 for all.
    """
    kernels.use(run.impl)
    kernels.use_precision(run.matmul_precision)
    keep_freed_memory()
    if num_threads:
        torch.set_num_threads(num_threads)
    started_s = time.perf_counter()
    block = TrainingBlock(configs, torch.device(device), num_threads)
    try:
        building_s = time.perf_counter() - started_s
        E, schedule = configs[0].task.envs_per_lane, configs[0].schedule
        random_step_s = _mean_s(block.collector.random_step_, device, min_steps=2 * 100 // E + 1)
        while block.replay.time * E < configs[0].algorithm.batch_size:
            block.collector.random_step_()
        numbers = iter(range(1, 10**9))

        def step() -> None:
            train_step_(
                block.collector, block.learner, next(numbers) * E, schedule.updates_per_step
            )

        for _ in range(_WARM_UP_STEPS):
            step()
        step_s = _mean_s(step, device, _FEWEST_STEPS, PROBE_S)
        evaluation_s = _mean_s(block.evaluate, device, 1)
        return Pace(building_s, random_step_s, step_s, evaluation_s)
    finally:
        block.close()


def _mean_s(action: Callable[[], object], device: str, min_steps: int, min_s: float = 0.0) -> float:
    started_s, num_steps = time.perf_counter(), 0
    while num_steps < min_steps or time.perf_counter() - started_s < min_s:
        action()
        num_steps += 1
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return (time.perf_counter() - started_s) / num_steps


def kinds(blocks: Sequence[Block]) -> dict[object, Block]:
    """Of blocks that differ in their lanes alone, the one that is going to take longest."""
    found: dict[object, Block] = {}
    for block in blocks:
        key = block_key(block.config), block.layouts
        if key not in found or relative_cost(block) > relative_cost(found[key]):
            found[key] = block
    return found


def durations(blocks: Sequence[Block], paces: dict[object, Pace]) -> list[float]:
    """Seconds of each block, those of fewer lanes than the measured one in proportion to its cost.

    Args:
        blocks: of a study; those that have begun are counted whole.
        paces: of `kinds`.
    """
    measured = kinds(blocks)
    found = []
    for block in blocks:
        key = block_key(block.config), block.layouts
        share = relative_cost(block) / relative_cost(measured[key])
        found.append(paces[key].block_s(block.config) * share)
    return found


def measure_here(blocks: Sequence[Block], run: RunConfig) -> str:
    """One line with the time that the blocks take here, one after the other."""
    if not blocks:
        return "estimate: nothing is left to train"
    paces = {
        key: measure(block.lanes, run, block.device, run.num_threads)
        for key, block in kinds(blocks).items()
    }
    each = durations(blocks, paces)
    return (
        f"estimate: {duration(sum(each))} on {blocks[0].device}, by {len(paces)} "
        f"measurement{'s' * (len(paces) > 1)} of some seconds; longest block {duration(max(each))}"
    )


def measure_there(blocks: Sequence[Block], shares: Sequence[Share], run: RunConfig) -> list[float]:
    """Seconds of each block, measured on the cluster with the share that it asks for.

    Raises:
        ValueError: a block cannot be built there; one line says why.
    """
    import ray
    from ray.exceptions import RayError

    look: Any = ray.remote(measure)
    share_of = {id(block): share for block, share in zip(blocks, shares, strict=True)}
    looks = {}
    for key, block in kinds(blocks).items():
        share = share_of[id(block)]
        options = {"num_cpus": share.num_cpus, "num_gpus": share.num_gpus, "memory": share.memory}
        num_threads = run.num_threads or max(1, int(share.num_cpus))
        device = "cuda" if share.num_gpus else "cpu"
        looks[key] = look.options(**options, max_retries=0).remote(
            block.lanes, run, device, num_threads
        )
    try:
        paces: dict[object, Pace] = {key: ray.get(result) for key, result in looks.items()}
    except RayError as error:
        line = str(error).strip().splitlines()[-1]
        raise ValueError(f"a block cannot be measured on the cluster: {line}") from error
    return durations(blocks, paces)
