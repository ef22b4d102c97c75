"""About how long a block takes, so that blocks can be compared before any of them has trained."""

import functools
from collections.abc import Callable

from envs import registry
from fastanf.cluster.resources import is_on_gpu
from fastanf.config import TrainConfig
from fastanf.grouping import Block
from fastanf.presets import MOST_LANES
from fastanf.workload import total, update_work

Cost = Callable[[Block], float]
"""Seconds of a block, or anything in proportion to them. More lanes cost no less, and lanes in
several blocks no less than in one."""

_UPDATE_S = 3.1e-3
"""Of an update on the CPU, whatever its lanes."""
_FLOPS_PER_S = 71e9
"""Of one CPU."""
_GPU_UPDATE_S = 1e-3
_GPU_BYTES_PER_S = 2e12


def relative_cost(block: Block) -> float:
    """Seconds of all updates of a block: updates x (a fixed part + the work of each lane).

    *CPU.* Both figures are from profiling/results/update.csv (commit 4b9cedc; AMD EPYC, 2 threads,
    ANF-SAC, HalfCheetah at 0.9, batch 100): 1 lane made 207 lane updates a second, 8 lanes 477, so
    an update took 4.8 and 16.8 ms. The line through them is 3.1 ms, and 1.7 ms for the 0.24 GFLOP
    of each lane: 142 GFLOP/s, half of it for each CPU. Some of the fixed part is a second thread
    that a single lane leaves idle, so that with one CPU it is rather less than that.

    *GPU.* Nothing was measured on one. It is assumed that an update of few lanes is bound by the
    launches of its kernels, 1 ms whatever the lanes, and that a lane adds the time in which 2 TB/s
    move its bytes, 12 us of the lane above: stacking lanes is nearly free.

    Left out: environment steps, evaluations, random steps, and more than one CPU for a block. All
    blocks are taken to run on like devices.
    """
    on_gpu = is_on_gpu(block)
    lanes_s = sum(_lane_update_s(lane, on_gpu) for lane in block.lanes)
    return block.config.num_updates * ((_GPU_UPDATE_S if on_gpu else _UPDATE_S) + lanes_s)


@functools.lru_cache(maxsize=2 * MOST_LANES)
def _lane_update_s(lane: TrainConfig, on_gpu: bool) -> float:
    """Seconds that a lane adds to an update of its block, one CPU or one GPU at work."""
    spec = registry.spec(lane.task.env, lane.task.backend)
    work = total(update_work([lane], spec, "cuda" if on_gpu else "cpu"))
    return work.moved_bytes / _GPU_BYTES_PER_S if on_gpu else work.done_flops / _FLOPS_PER_S
