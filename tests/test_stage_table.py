"""The table of stages: shares sum to one, limits and savings follow from the work, and what is slow
is named first.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from fastanf.instrument import Recorder, Recording, Stage, stage
from fastanf.nets import TwinCritic
from fastanf.peaks import Peaks
from fastanf.sparse.mask_adam import StackedOptimizer
from fastanf.stage_table import (
    ARITHMETIC,
    MEMORY,
    OVERHEAD,
    UNKNOWN,
    StageTime,
    make_table,
    step_times,
    update_times,
)
from fastanf.stage_text import step_verdict, table_text, verdict
from fastanf.workload import Work, update_work
from tests.helpers import make_block, make_lane
from tests.test_instrument import CountingClock

# 100 GFLOP/s, 10 GB/s and 50 GB/s: 1e8 operations and 5e7 bytes of a cached block take 1 ms.
PEAKS = Peaks(100.0, 10.0, 50.0, 1_000_000)
MS = 1_000_000


def times(**ms: float) -> list[StageTime]:
    return [StageTime(Stage[name], [round(value * MS)], 1.0) for name, value in ms.items()]


WORKS = {
    Stage.TARGET: Work(1e8, 4e8, 1e7, 2e7),  # floor 1 ms, arithmetic 4 ms
    Stage.CRITIC_OPTIMIZER: Work(1e6, 1e6, 5e7, 1e8),  # floor 1 ms, memory 2 ms
    Stage.SAMPLE: Work(0.0, 0.0, 1e4, 1e4),
}
OVERHEADS = {Stage.TARGET: 0.1, Stage.SAMPLE: 0.4}


def table_of(**ms: float):
    return make_table("One update", times(**ms), WORKS, PEAKS, OVERHEADS)


def test_limits_rates_and_savings_follow_from_the_work() -> None:
    table = table_of(TARGET=5.0, CRITIC_OPTIMIZER=2.5, SAMPLE=0.5, OTHER=2.0)
    target, optimizer, sample, other = table.rows
    assert [row.limit for row in table.rows] == [ARITHMETIC, MEMORY, OVERHEAD, UNKNOWN]
    assert target.explained == pytest.approx(4 / 5)
    assert optimizer.explained == pytest.approx(2 / 2.5)
    assert sample.explained == pytest.approx(0.4 / 0.5)
    assert target.useful_gflop_s == pytest.approx(20) and target.done_gflop_s == pytest.approx(80)
    assert target.of_sgemm == pytest.approx(0.8)
    assert optimizer.gb_s == pytest.approx(40) and optimizer.of_copy == pytest.approx(4.0)
    assert (target.saving_ms, optimizer.saving_ms) == pytest.approx((4.0, 1.5))
    assert other.saving_ms == pytest.approx(2.0)  # its work is not counted
    assert table.first is target
    assert table.speed_up([target]) == pytest.approx(10 / 6)
    assert sum(row.share for row in table.rows) == pytest.approx(1)
    assert sum(table.share_of_limits().values()) == pytest.approx(1)


def test_a_rare_stage_counts_by_its_rate() -> None:
    rare = StageTime(Stage.TOPOLOGY, [8 * MS, 12 * MS], 1 / 1000)
    table = make_table("One update", [*times(TARGET=0.99), rare], {}, PEAKS)
    assert table.rows[1].mean_ms == pytest.approx(0.01)
    assert table.rows[1].share == pytest.approx(0.01)
    assert rare.percentiles_ms() == pytest.approx((8.8, 10.0, 11.2))


@pytest.mark.parametrize(
    ("ms", "bound"),
    [
        ({"TARGET": 5.0, "SAMPLE": 0.5}, "arithmetic-bound"),
        ({"CRITIC_OPTIMIZER": 5.0, "SAMPLE": 0.5}, "memory-bound"),
        ({"TARGET": 0.5, "SAMPLE": 5.0}, "overhead-bound"),
    ],
)
def test_the_verdict_names_what_most_of_the_time_is_limited_by(
    ms: dict[str, float], bound: str
) -> None:
    assert verdict(table_of(**ms)).startswith(bound)


def test_the_verdict_says_where_to_begin_and_what_it_brings() -> None:
    text = verdict(table_of(TARGET=5.0, CRITIC_OPTIMIZER=2.5, SAMPLE=0.5, OTHER=2.0))
    assert "reaches 80% of the peak, and 25% of the operations are useful." in text
    assert "Begin with target (50%, 5.000 ms; its useful work takes 1.000 ms" in text
    assert "at most 1.67 times faster" in text


def test_the_verdict_on_a_step_sets_the_update_against_all_else() -> None:
    table = make_table("One training step", times(ACT=1.0, ENV_STEP=3.0, UPDATE=16.0), {}, PEAKS)
    text = step_verdict(table)
    assert text.startswith("The update is 80% of a training step; all else adds 25% to it.")
    assert "begin with env step (15%, 3.000 ms; its work is not counted" in text
    assert "at most 1.18 times faster" in text


def test_text_has_a_line_a_stage_and_the_whole() -> None:
    lines = table_text(table_of(TARGET=5.0, SAMPLE=0.5, OTHER=2.0)).splitlines()
    assert lines[0] == "One update"
    names = [line.split("  ")[0] for line in lines[3:]]
    assert names[:3] == ["target", "sample", "other"]
    assert lines[-1].startswith("whole") and "7.500" in lines[-1] and "100.0%" in lines[-1]
    assert "arithmetic 80%" in lines[3]
    assert max(map(len, lines)) <= 140


def test_without_overheads_a_stage_without_work_has_no_limit() -> None:
    table = make_table("One update", times(SAMPLE=1.0), {}, PEAKS)
    assert table.rows[0].limit == UNKNOWN and math.isnan(table.rows[0].overhead_ms)


def recording_of(frames: list[dict[str, Any]]) -> Recording:
    clock = CountingClock()
    recorder = Recorder(clock)
    with recorder.recording():
        for frame in frames:
            for name, ns in frame.items():
                root, _, leaf = name.partition("/")
                with stage(Stage[root]):
                    if leaf:
                        with stage(Stage[leaf]):
                            clock.time += ns
                    else:
                        clock.time += ns
            recorder.frame()
    return recorder.take()


def test_times_are_per_update_and_per_training_step() -> None:
    step = {"ACT": 3, "ENV_STEP": 5}
    update = {"UPDATE/TARGET": 10, "UPDATE": 2}
    delayed = {"UPDATE/TARGET": 10, "UPDATE/ACTOR_FORWARD": 6}
    recording = recording_of([step, update, delayed, step, update, delayed])
    by_stage = {time.stage: time for time in update_times(recording)}
    assert by_stage[Stage.TARGET].per_step == 1 and by_stage[Stage.ACTOR_FORWARD].per_step == 0.5
    whole = sum(time.mean_ms for time in by_stage.values())
    assert whole == pytest.approx((12 + 16) / 2 * 1e-6)
    steps = {time.stage: time for time in step_times(recording)}
    assert steps[Stage.UPDATE].per_step == 2
    assert sum(time.mean_ms for time in steps.values()) == pytest.approx((8 + 28) * 1e-6)


@pytest.mark.parametrize(
    ("slow", "expected"),
    [("step_", Stage.CRITIC_OPTIMIZER), ("sample", Stage.SAMPLE), ("value", Stage.TARGET)],
)
def test_a_slowed_stage_is_found(
    monkeypatch: pytest.MonkeyPatch, slow: str, expected: Stage
) -> None:
    block = make_block([make_lane("ANF-SAC", seed) for seed in (0, 1)], 20)
    clock = CountingClock()
    owner: Any = {"step_": StackedOptimizer, "sample": block.replay, "value": TwinCritic}[slow]
    original = getattr(owner, slow)

    def slowed(*args: Any, **kwargs: Any) -> Any:
        is_other = args and args[0] in (block.algorithm.actor_optimizer, block.algorithm.critic)
        clock.time += 10 if is_other else 1_000_000
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, slow, slowed)
    recorder = Recorder(clock)
    with recorder.recording():
        for _ in range(3):
            block.learner.update_()
            clock.time += 1
            recorder.frame()
    works = update_work(block.lanes, block.env.spec)
    table = make_table("One update", update_times(recorder.take()), works, PEAKS)
    assert table.first.time.stage == expected
    assert f"Begin with {expected.value}" in verdict(table)
