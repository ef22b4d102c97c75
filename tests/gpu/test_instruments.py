"""Instruments on a GPU: event clocks, launches, occupancy, peaks."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

from fastanf.block import TrainingBlock
from fastanf.instrument import Recorder, Stage, clock_of, peak_memory_bytes, stage
from fastanf.peaks import measure_peaks
from tests.helpers import make_lane

sys.path.insert(0, str(Path(__file__).parents[2] / "profiling"))

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def block() -> TrainingBlock:
    block = TrainingBlock([make_lane("ANF-SAC", seed) for seed in (0, 1)], torch.device("cuda"), 1)
    for _ in range(40):
        block.collector.random_step_()
    return block


def test_events_charge_the_work_to_its_stage() -> None:
    device = torch.device("cuda")
    a = torch.rand(4096, 4096, device=device)
    torch.mm(a, a)
    recorder = Recorder(clock_of(device))
    with recorder.recording():
        for _ in range(3):
            with stage(Stage.TARGET):
                torch.mm(a, a)
            with stage(Stage.SAMPLE):
                torch.add(a[:1], 1)
            recorder.frame()
    recording = recorder.take()
    target = recording.stages_ns[Stage.TARGET, Stage.TARGET]
    sample = recording.stages_ns[Stage.SAMPLE, Stage.SAMPLE]
    assert len(target) == 3 and sum(target) > sum(sample) >= 0
    assert sum(recording.frames_ns) == sum(map(sum, recording.stages_ns.values()))


def test_an_update_launches_kernels_whose_time_is_known(block: TrainingBlock) -> None:
    import launches

    counts = launches.launches(block, torch.device("cuda"))
    assert counts.kernels > 50 and counts.kernels_ms > 0
    assert math.isnan(counts.occupancy) or 0 < counts.occupancy <= 1


def test_a_graph_is_replayed_or_the_reason_is_told(block: TrainingBlock) -> None:
    import launches

    replay = launches.graph_replay_ms(block)
    assert replay.startswith("not captured: ") if isinstance(replay, str) else replay > 0


def test_peaks_and_memory_are_finite() -> None:
    device = torch.device("cuda")
    peaks = measure_peaks(device, 50_000_000)
    assert peaks.gflop_s > 1000 and peaks.memory_gb_s > 100
    assert peak_memory_bytes(device) > 0
