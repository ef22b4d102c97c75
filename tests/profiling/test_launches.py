"""Counts of calls and launches: from a trace drawn by hand, and from a real one of a tiny block."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import launches
import pytest

from tests.helpers import CPU, make_block, make_lane


def event(cat: str, name: str, ts: float, dur: float, tid: int = 1, **args: Any) -> dict[str, Any]:
    return {
        "ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "pid": 1, "tid": tid,
        "args": args,
    }  # fmt: skip


TWO_UPDATES = [
    event("user_annotation", "update", 0, 100),
    event("user_annotation", "update", 200, 100),
    event("user_annotation", "target", 0, 50),
    event("cpu_op", "aten::linear", 10, 20),
    event("cpu_op", "aten::addmm", 12, 10),  # inside linear
    event("cpu_op", "aten::relu", 40, 5),
    event("cpu_op", "aten::mm", 12, 10, tid=2),  # at once on another thread
    event("cpu_op", "aten::add", 150, 5),  # between the updates
    event("cpu_op", "aten::add", 210, 5),
]
LAUNCHED = [
    event("cuda_runtime", "cudaLaunchKernel", 12, 1, correlation=7),
    event("cuda_runtime", "cudaLaunchKernel", 150, 1, correlation=8),
    event("cuda_driver", "cuLaunchKernel", 210, 1, correlation=9),
    event("kernel", "gemm", 400, 3000, tid=7, correlation=7, **{"est. achieved occupancy %": 50}),
    event("kernel", "add", 3500, 500, tid=7, correlation=8, **{"est. achieved occupancy %": 1}),
    event("kernel", "noise", 4500, 1000, tid=7, correlation=9, **{"est. achieved occupancy %": 90}),
]


def test_outermost_operators_inside_updates_count() -> None:
    counts = launches.count_launches(TWO_UPDATES)
    assert counts.operators == 4 / 2  # linear, relu, the other thread's mm; add
    assert (counts.kernels, counts.kernels_ms) == (0, 0) and math.isnan(counts.occupancy)


def test_kernels_count_where_they_were_launched_from() -> None:
    counts = launches.count_launches([*TWO_UPDATES, *LAUNCHED])
    assert counts.kernels == 2 / 2  # the second was launched between the updates
    assert counts.kernels_ms == pytest.approx((3.0 + 1.0) / 2)
    assert counts.occupancy == pytest.approx((3 * 0.5 + 1 * 0.9) / 4)


def work(cat: str, start: float, end: float) -> dict[str, Any]:
    return event(cat, "work", start, end - start, tid=7)


def test_a_gpu_is_idle_where_nothing_of_a_replay_runs() -> None:
    events = [
        work("kernel", 0, 10),
        work("kernel", 5, 12),  # at once on another stream
        work("kernel", 14, 20),
        work("gpu_memset", 21, 22),
        work("kernel", 500, 516),  # the second update, after the host
        work("gpu_memcpy", 517, 518),
        work("kernel", 518, 520),
        event("cuda_runtime", "cudaGraphLaunch", 480, 15),
    ]
    found = launches.count_replays(events, num_updates=2)
    assert found.kernels == 5 / 2
    assert found.busy_ms == pytest.approx((12 + 6 + 1 + 16 + 1 + 2) / 2 / 1000)
    assert found.idle_share == pytest.approx((2 + 1 + 1) / (38 + 4))
    assert math.isnan(launches.count_replays([], 1).idle_share)


def test_an_update_that_asks_the_host_is_no_graph() -> None:
    block = make_block([make_lane("ANF-SAC", 0, layout="csr")], 20)
    assert str(launches.graph_replay_ms(block)).startswith("not captured: the update asks the host")


def test_a_replay_is_an_update_of_the_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    block = make_block([make_lane("SAC", 0)], 20)
    ends: list[int] = []
    monkeypatch.setattr(
        launches.torch.cuda, "synchronize", lambda _: ends.append(block.learner.num_updates)
    )
    monkeypatch.setattr(launches, "_TIMED_UPDATES", 5)
    monkeypatch.setattr(launches.time, "perf_counter", lambda: float(block.learner.num_updates))
    # Each update takes a second of this clock.
    assert launches.graph_replay_ms(block) == 1000.0
    assert ends == [launches._WARM_UPDATES, launches._WARM_UPDATES + 5]


def test_a_trace_without_updates_counts_nothing() -> None:
    assert launches.count_launches(TWO_UPDATES[2:]).operators == 0


@pytest.mark.parametrize("name", ["steps.json", "steps.pt.trace.json", "steps.json.gz"])
def test_a_trace_has_every_stage_as_a_range(tmp_path: Path, name: str) -> None:
    block = make_block([make_lane("ANF-SAC", seed) for seed in (0, 1)], 20)
    launches.traced_steps(block, CPU, tmp_path / name)
    events = launches.read_events(tmp_path / name)
    ranges = [e["name"] for e in events if e.get("cat") == "user_annotation"]
    steps = launches.NUM_TRACED_STEPS
    assert ranges.count("update") == ranges.count("critic backward") == steps
    assert ranges.count("env step") == ranges.count("target") == steps
    assert launches.count_launches(events).operators > 50


def test_without_a_gpu_the_lines_say_so() -> None:
    block = make_block([make_lane("SAC", 0)], 20)
    text = launches.launches_text(block, CPU, 1.0, None)
    assert text.startswith("Operators called: ") and "not measured, the block is on a CPU" in text


def test_an_unwritable_trace_is_refused(tmp_path: Path) -> None:
    block = make_block([make_lane("SAC", 0)], 20)
    with pytest.raises(ValueError, match=r"--trace .* cannot be written"):
        launches.traced_steps(block, CPU, tmp_path / "none" / "steps.json")
