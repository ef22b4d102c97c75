"""Stages of a frame: every nanosecond is charged once, to the innermost stage that is open."""

from __future__ import annotations

import pytest
import torch

from fastanf import instrument
from fastanf.instrument import (
    STEP_STAGES,
    UPDATE_STAGES,
    CudaClock,
    HostClock,
    Recorder,
    Stage,
    clock_of,
    stage,
)
from tests.helpers import make_block, make_lane


class CountingClock:
    """Moments are whole numbers that the test advances."""

    def __init__(self, is_immediate: bool = True) -> None:
        self.time, self.is_immediate, self.num_synchronized = 0, is_immediate, 0

    def now(self) -> int:
        return self.time

    def elapsed_ns(self, start: int, end: int) -> int:
        return end - start

    def synchronize(self) -> None:
        self.num_synchronized += 1


def nested_frame(clock: CountingClock) -> None:
    clock.time += 1  # other
    with stage(Stage.UPDATE):
        clock.time += 2
        with stage(Stage.TARGET):
            clock.time += 10
            with stage(Stage.SAMPLE):
                clock.time += 100
            clock.time += 20
        with stage(Stage.SAMPLE):
            clock.time += 200
    clock.time += 4  # other


@pytest.mark.parametrize("is_immediate", [True, False])
def test_time_is_charged_to_the_innermost_stage(is_immediate: bool) -> None:
    clock = CountingClock(is_immediate)
    recorder = Recorder(clock)
    with recorder.recording():
        nested_frame(clock)
        recorder.frame()
    recording = recorder.take()
    assert recording.stages_ns == {
        (Stage.OTHER, Stage.OTHER): [5],
        (Stage.UPDATE, Stage.UPDATE): [2],
        (Stage.UPDATE, Stage.TARGET): [30],
        (Stage.UPDATE, Stage.SAMPLE): [300],
    }
    assert recording.roots_ns == {Stage.OTHER: [5], Stage.UPDATE: [332]}
    assert recording.frames_ns == [337]
    assert clock.num_synchronized == (0 if is_immediate else 1)


def test_the_same_stage_in_two_places_is_kept_apart() -> None:
    clock = CountingClock()
    recorder = Recorder(clock)
    with recorder.recording():
        for root, ns in ((Stage.ACT, 3), (Stage.UPDATE, 5)):
            with stage(root), stage(Stage.SAMPLE):
                clock.time += ns
        recorder.frame()
    recording = recorder.take()
    assert recording.within(Stage.ACT) == {Stage.SAMPLE: [3], Stage.OTHER: [0]}
    assert recording.within(Stage.UPDATE) == {Stage.SAMPLE: [5], Stage.OTHER: [0]}


def test_stages_sum_to_the_frames_and_rare_ones_have_fewer_samples() -> None:
    clock = CountingClock()
    recorder = Recorder(clock)
    with recorder.recording():
        for index in range(7):
            nested_frame(clock)
            if index % 3 == 0:
                with stage(Stage.TOPOLOGY):
                    clock.time += 1000
            recorder.frame()
    recording = recorder.take()
    assert recording.num_frames == 7
    assert sum(recording.frames_ns) == sum(map(sum, recording.stages_ns.values())) == clock.time
    assert recording.stages_ns[Stage.TOPOLOGY, Stage.TOPOLOGY] == [1000] * 3


def test_frames_that_were_disturbed_are_replaced_by_a_typical_one_of_their_kind() -> None:
    clock = CountingClock()
    recorder = Recorder(clock)
    with recorder.recording():
        for ns in (100, 110, 90, 400, 100):
            with stage(Stage.ACT):
                clock.time += ns
            recorder.frame()
        for ns in (1000, 1100, 5000):  # another kind of frame, with a median of its own
            with stage(Stage.UPDATE):
                clock.time += ns
            recorder.frame()
    recording, num_replaced = recorder.take().undisturbed(1.5)
    assert recording.roots_ns[Stage.ACT] == [100, 110, 90, 100, 100]
    assert recording.roots_ns[Stage.UPDATE] == [1000, 1100, 1100]
    assert num_replaced == 2


def test_take_begins_a_new_recording_and_skipped_time_belongs_to_no_frame() -> None:
    clock = CountingClock()
    recorder = Recorder(clock)
    with recorder.recording():
        nested_frame(clock)
        recorder.frame()
        assert recorder.take().num_frames == 1
        clock.time += 10_000
        recorder.skip()
        nested_frame(clock)
        recorder.frame()
    assert recorder.take().frames_ns == [337]
    assert recorder.take().num_frames == 0


def test_an_error_inside_a_stage_leaves_the_recorder_usable() -> None:
    clock = CountingClock()
    recorder = Recorder(clock)
    with pytest.raises(KeyError), recorder.recording(), stage(Stage.ACT):
        raise KeyError
    with recorder.recording():
        nested_frame(clock)
        recorder.frame()
    assert recorder.take().frames_ns == [337]


def test_off_stages_are_not_timed_and_one_recorder_records_at_a_time() -> None:
    clock = CountingClock()
    recorder = Recorder(clock)
    nested_frame(clock)
    assert recorder.take().num_frames == 0
    with (
        recorder.recording(),
        pytest.raises(RuntimeError, match="another recorder"),
        Recorder(clock).recording(),
    ):
        pass
    assert stage(Stage.ACT) is stage(Stage.SAMPLE)  # the empty context


def test_annotations_nest_as_the_stages_do() -> None:
    opened: list[str] = []

    class Range:
        def __init__(self, name: str) -> None:
            self.name = name

        def __enter__(self) -> None:
            opened.append(f"+{self.name}")

        def __exit__(self, *_: object) -> None:
            opened.append(f"-{self.name}")

    with Recorder(CountingClock(), Range).recording(), stage(Stage.ACT), stage(Stage.SAMPLE):
        pass
    assert opened == ["+act", "+sample", "-sample", "-act"]


def test_the_clock_follows_the_device() -> None:
    assert isinstance(clock_of(torch.device("cpu")), HostClock)
    assert isinstance(clock_of(torch.device("cuda:0")), CudaClock)
    assert instrument.peak_memory_bytes(torch.device("cpu")) > 10_000_000


@pytest.mark.parametrize("policy", ["ANF-SAC", "ANF-TD3"])
def test_a_training_step_visits_every_stage(policy: str) -> None:
    settings = {"topology_period": 2, "target_period": 1}
    block = make_block([make_lane(policy, seed, **settings) for seed in (0, 1)], 20)
    recorder = Recorder(HostClock())
    with recorder.recording():
        for _ in range(4):
            block.collector.step_(0)
            block.learner.update_()
            recorder.frame()
        block.evaluate()
        recorder.frame()
    recording = recorder.take()
    assert {root for root, _ in recording.stages_ns} == {*STEP_STAGES, Stage.OTHER}
    # SAC's targets move in the optimizer's pass; TD3's actor target moves alone while it waits.
    fused = {Stage.POLYAK} if policy == "ANF-SAC" else set()
    assert set(recording.within(Stage.UPDATE)) == {*UPDATE_STAGES, Stage.OTHER} - fused
    assert sum(recording.frames_ns) == sum(map(sum, recording.stages_ns.values()))
