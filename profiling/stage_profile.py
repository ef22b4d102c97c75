"""Measures the stages of a block: its updates, its training steps, and what the measuring costs.

The tables come from four recordings: training steps, changes of the topology, one evaluation, and
the same training steps of a *hollow* block, whose networks have four units and whose minibatches
four rows. What a stage takes there is the overhead of calling it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import blocks
import numpy as np
import torch

from fastanf.block import TrainingBlock
from fastanf.collect import row_multiple
from fastanf.config import TrainConfig
from fastanf.grouping import block_of
from fastanf.instrument import Recorder, Recording, Stage, clock_of, stage
from fastanf.memory import block_memory
from fastanf.peaks import Peaks, measure_peaks
from fastanf.sparse.layers import CSR, MASKED
from fastanf.sparse.schedule import FIRST_UPDATE
from fastanf.stage_table import StageTable, StageTime, make_table, step_times, update_times
from fastanf.workload import step_work, update_work

# A frame that took so many times the median of its like met another process.
DISTURBED = 1.5
WARM_STEPS, NUM_CHUNKS, NUM_TOPOLOGY_CHANGES = 8, 16, 5
_HOLLOW_UNITS = 4
_HOLLOW_SHARE = 0.25  # of the time of the block itself


@dataclass(frozen=True)
class Profile:
    """What was measured of one block."""

    update: StageTable
    step: StageTable
    peaks: Peaks
    instrument_ratios: np.ndarray
    """Time of a training step with instruments to that without, pair by pair."""
    num_frames: int
    """Environment steps and updates that were recorded."""
    num_disturbed: int
    """Of these, how many took too long and were replaced by a typical one."""


def profile_block(block: TrainingBlock, device: torch.device, seconds: float) -> Profile:
    """Measure every stage of a block whose replay is filled.

    Args:
        block: trains on while it is measured.
        device: that it is on.
        seconds: of recorded training steps, about; as many again without instruments.
    """
    peaks = measure_peaks(device, block_memory(block_of(block.lanes, device.type)).working_set)
    recorded, ratios = record_steps(block, device, seconds)
    steps, num_disturbed = recorded.undisturbed(DISTURBED)
    hollow = hollow_block(block.lanes, device)
    try:
        overheads = record_steps(hollow, device, _HOLLOW_SHARE * seconds)[0]
        hollow_topology = record_topology(hollow, device)
    finally:
        hollow.close()
    topology, evaluation = record_topology(block, device), record_evaluation(block, device)
    spec, lanes = block.env.spec, block.lanes
    update = make_table(
        "One update",
        _with_topology(update_times(steps), topology, block),
        update_work(lanes, spec, device.type),
        peaks,
        _typical_ms(_with_topology(update_times(overheads), hollow_topology, block)),
    )
    step = make_table(
        "One training step",
        _with_evaluation(step_times(steps), evaluation, block),
        step_work(lanes, spec, row_multiple(device), device.type),
        peaks,
        _typical_ms(step_times(overheads)),
    )
    return Profile(update, step, peaks, ratios, steps.num_frames, num_disturbed)


def record_steps(
    block: TrainingBlock, device: torch.device, seconds: float
) -> tuple[Recording, np.ndarray]:
    """Record training steps, with a frame for every environment step and every update.

    Stretches with and without instruments take turns.

    Returns:
        The recording, and [NUM_CHUNKS] ratios of a step's time with instruments to that without.
    """
    recorder = Recorder(clock_of(device))
    start = time.perf_counter()
    _run_steps(block, WARM_STEPS)
    _wait(device)
    per_step = (time.perf_counter() - start) / WARM_STEPS
    count = max(4, round(seconds / per_step / NUM_CHUNKS))
    ratios = []
    for _ in range(NUM_CHUNKS):
        took = []
        for is_on in (True, False):
            _wait(device)
            start = time.perf_counter()
            if is_on:
                with recorder.recording():
                    _run_steps(block, count, recorder)
            else:
                _run_steps(block, count)
            _wait(device)
            took.append(time.perf_counter() - start)
        ratios.append(took[0] / took[1])
    return recorder.take(), np.array(ratios)


def _run_steps(block: TrainingBlock, count: int, recorder: Recorder | None = None) -> None:
    for _ in range(count):
        block.collector.step_(0)
        if recorder is not None:
            recorder.frame()
        for _ in range(block.config.schedule.updates_per_step):
            block.learner.update_()
            if recorder is not None:
                recorder.frame()


def record_topology(block: TrainingBlock, device: torch.device) -> Recording:
    """Record changes of the topology of all lanes at once."""
    recorder = Recorder(clock_of(device))
    with recorder.recording():
        for _ in range(NUM_TOPOLOGY_CHANGES):
            with stage(Stage.UPDATE):
                for topology in block.algorithm.topologies:
                    topology.evolve_if_due_(FIRST_UPDATE)
            recorder.frame()
    return recorder.take()


def record_evaluation(block: TrainingBlock, device: torch.device) -> Recording:
    """Record one evaluation as one frame."""
    recorder = Recorder(clock_of(device))
    with recorder.recording():
        block.evaluate()
        recorder.frame()
    return recorder.take()


def _with_topology(
    times: list[StageTime], topology: Recording, block: TrainingBlock
) -> list[StageTime]:
    """The stages of an update with the topology's, at the rate of its own period."""
    samples = topology.within(Stage.UPDATE).get(Stage.TOPOLOGY, [])
    times = [time for time in times if time.stage != Stage.TOPOLOGY]
    if not samples:
        return times
    periods = [lane.sparsity.topology_period for lane in block.lanes]
    per_update = sum(1 / period for period in periods) / len(periods)
    rest = times.pop()  # Stage.OTHER comes last
    return [*times, StageTime(Stage.TOPOLOGY, samples, per_update), rest]


def _with_evaluation(
    times: list[StageTime], evaluation: Recording, block: TrainingBlock
) -> list[StageTime]:
    """The stages of a training step with the evaluation's, at the rate of its own period."""
    E = block.replay.envs_per_lane
    per_step = 1 / max(1, block.config.schedule.eval_freq // E)
    samples = evaluation.roots_ns[Stage.EVALUATION]
    rest = times.pop()
    return [*times, StageTime(Stage.EVALUATION, samples, per_step), rest]


def _typical_ms(times: Sequence[StageTime]) -> dict[Stage, float]:
    """Median milliseconds per step: an overhead is what is left undisturbed."""
    return {t.stage: t.percentiles_ms()[1] * t.per_step for t in times}


def hollow_block(lanes: Sequence[TrainConfig], device: torch.device) -> TrainingBlock:
    """The same lanes with next to nothing to compute: every call is made, on tiny tensors."""
    block = block_of(lanes, device.type)
    spec = block.spec
    has_noise = lanes[0].noise.noise_fraction > 0
    D = spec.num_features
    tiny = {
        "hidden": (_HOLLOW_UNITS,) * len(lanes[0].network.hidden),
        "batch_size": _HOLLOW_UNITS,
        "noise_fraction": _HOLLOW_UNITS / (D + _HOLLOW_UNITS) if has_noise else 0.0,
        # Asked for by name: a tiny layer is not as sparse as the one that it stands for.
        "layout": CSR if any(CSR in network for network in block.layouts) else MASKED,
        "replay_capacity": 2 * blocks.NUM_REAL_STEPS * lanes[0].task.envs_per_lane,
    }
    hollow = []
    for lane in lanes:
        levels = (lane.sparsity.input_layer_sparsity, lane.sparsity.global_sparsity)
        is_sparse = any(level for level in levels)
        sparsity = {"input_layer_sparsity": 0.5 if is_sparse else None, "global_sparsity": None}
        hollow.append(lane.replace(**tiny, **sparsity))
    return blocks.make_block(hollow, device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
