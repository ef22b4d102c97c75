"""What an update asks of the device: operators called, kernels launched, and a trace to look at.

Everything is read from traces of torch's profiler (Chrome's trace format; Perfetto reads it, and
TensorBoard's profiler plugin where the file's name ends in .pt.trace.json). While stages are
recorded an update is called operation by operation, on a GPU too; there the trace also has every
kernel with its time and occupancy. As it trains, an update is a replay of the learner's CUDA graph:
that is timed apart, and a trace of replays says how long the GPU waits between its kernels.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from fastanf.block import TrainingBlock
from fastanf.instrument import Recorder, Stage, clock_of

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler logs each start and stop on stderr

NUM_TRACED_STEPS = 3
_WARM_UPDATES, _TIMED_UPDATES, _TRACED_UPDATES = 24, 200, 20
_GPU_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
_NOT_CAPTURED = "not captured: "
_US_PER_MS = 1000.0
_MB = 1e6


@dataclass(frozen=True)
class Launches:
    """Counts per update."""

    operators: float
    """Operators that the update's own code and autograd call, not those that operators call."""
    kernels: float
    """Kernels launched on a GPU; 0 on a CPU."""
    kernels_ms: float
    """Their time, summed."""
    allocations: float
    """Tensors that get memory."""
    allocated_mb: float
    """Their bytes, summed; memory that is given back and taken again counts each time."""
    largest_mb: float
    """The largest of them."""
    occupancy: float
    """Achieved occupancy of the kernels in [0, 1], weighted by time; nan where it is not known."""


def traced_steps(block: TrainingBlock, device: torch.device, path: Path) -> None:
    """Write the trace of some training steps, with every stage as a range.

    Args:
        block: trains on while it is traced.
        device: that it is on.
        path: a Chrome trace; compressed where it ends in .gz.

    Raises:
        ValueError: the file cannot be written.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    recorder = Recorder(clock_of(device), annotate=record_function)
    with profile(activities=activities, profile_memory=True) as profiler, recorder.recording():
        for _ in range(NUM_TRACED_STEPS):
            block.collector.step_(0)
            block.learner.update_()
            recorder.frame()
    try:
        path.touch()
    except OSError as error:
        raise ValueError(f"--trace {str(path)!r} cannot be written ({error.strerror})") from None
    profiler.export_chrome_trace(str(path))


def launches(block: TrainingBlock, device: torch.device) -> Launches:
    """Count what the updates of some training steps call and launch."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        traced_steps(block, device, path)
        return count_launches(read_events(path))


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a Chrome trace."""
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return json.loads(text)["traceEvents"]


def count_launches(events: Sequence[Mapping[str, Any]]) -> Launches:
    """Counts per update from a trace's events.

    An operator counts where no other operator on its thread encloses it, inside an update. Kernels
    count where the call that launched them lies inside an update.
    """
    updates = [e for e in events if e.get("cat") == "user_annotation" and e["name"] == Stage.UPDATE]
    spans = [(e["ts"], e["ts"] + e["dur"]) for e in updates]
    if not spans:
        return Launches(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, float("nan"))

    def is_inside(event: Mapping[str, Any]) -> bool:
        return any(start <= event["ts"] < end for start, end in spans)

    operators = [e for e in events if e.get("cat") == "cpu_op" and is_inside(e)]
    allocated = [
        e["args"]["Bytes"] / _MB
        for e in events
        if e.get("name") == "[memory]" and is_inside(e) and e["args"]["Bytes"] > 0
    ]
    launched = {
        e["args"].get("correlation")
        for e in events
        if e.get("cat") in ("cuda_runtime", "cuda_driver") and is_inside(e)
    }
    kernels = [
        e
        for e in events
        if e.get("cat") == "kernel" and e.get("args", {}).get("correlation") in launched
    ]
    kernel_us = sum(e["dur"] for e in kernels)
    count = len(spans)
    return Launches(
        len(_outermost(operators)) / count,
        len(kernels) / count,
        kernel_us / count / _US_PER_MS,
        len(allocated) / count,
        sum(allocated) / count,
        max(allocated, default=0.0),
        _occupancy(kernels),
    )


def _outermost(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    outermost, until = [], {}
    for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
        thread = (event.get("pid"), event.get("tid"))
        if event["ts"] >= until.get(thread, float("-inf")):
            outermost.append(event)
            until[thread] = event["ts"] + event["dur"]
    return outermost


def _occupancy(kernels: Sequence[Mapping[str, Any]]) -> float:
    """Percentages that the profiler estimates for each kernel, as one share."""
    known = [
        (e["dur"], e["args"]["est. achieved occupancy %"] / 100)
        for e in kernels
        if "est. achieved occupancy %" in e.get("args", {})
    ]
    busy = sum(us for us, _ in known)
    return sum(us * share for us, share in known) / busy if busy else float("nan")


@dataclass(frozen=True)
class Replays:
    """What the GPU did while updates were replayed, per update."""

    kernels: float
    """Kernels of the graph, and of topology changes that follow it."""
    busy_ms: float
    """At least one kernel, copy or fill was running."""
    idle_share: float
    """Of the time from the first kernel's start to the last one's end, without the pauses between
    updates; nan where nothing ran.
    """


def count_replays(events: Sequence[Mapping[str, Any]], num_updates: int) -> Replays:
    """Counts from the trace of that many updates of one block, with nothing else on the GPU.

    The profiler slows the host down, so that the GPU may wait for the next update: the longest
    pauses, one fewer than there are updates, are taken for those between them and left out.
    """
    works = sorted((e for e in events if e.get("cat") in _GPU_WORK), key=lambda e: e["ts"])
    busy_us, pauses = 0.0, []
    until = works[0]["ts"] if works else 0.0
    for event in works:
        start, end = event["ts"], event["ts"] + event["dur"]
        if start > until:
            pauses.append(start - until)
        busy_us += max(0.0, end - max(start, until))
        until = max(until, end)
    waited_us = sum(sorted(pauses)[: max(0, len(pauses) - num_updates + 1)])
    whole_us = busy_us + waited_us
    return Replays(
        sum(e["cat"] == "kernel" for e in works) / num_updates,
        busy_us / num_updates / _US_PER_MS,
        waited_us / whole_us if whole_us else float("nan"),
    )


def replays(block: TrainingBlock, device: torch.device) -> Replays:
    """Trace updates as they train, replayed from the learner's graphs."""
    _run_updates(block, device, _WARM_UPDATES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            _run_updates(block, device, _TRACED_UPDATES)
        profiler.export_chrome_trace(str(path))
        return count_replays(read_events(path), _TRACED_UPDATES)


def graph_replay_ms(block: TrainingBlock) -> float | str:
    """Milliseconds of an update as it trains, replayed from the learner's own CUDA graphs, or why
    there are none. Topology changes that fall due are in it.
    """
    if not block.algorithm.is_capturable:
        return f"{_NOT_CAPTURED}the update asks the host, as csr layers do"
    device = block.replay.obs.device
    try:
        _run_updates(block, device, _WARM_UPDATES)
        start = time.perf_counter()
        _run_updates(block, device, _TIMED_UPDATES)
    except RuntimeError as error:
        return f"{_NOT_CAPTURED}{str(error).splitlines()[0]}"
    return (time.perf_counter() - start) / _TIMED_UPDATES * _US_PER_MS


def _run_updates(block: TrainingBlock, device: torch.device, count: int) -> None:
    """That many updates one behind the other, and the end of the last."""
    for _ in range(count):
        block.learner.update_()
    torch.cuda.synchronize(device)


def launches_text(
    block: TrainingBlock, device: torch.device, update_ms: float, replay: float | str | None
) -> str:
    """Lines on calls and launches; on a CPU they say that there is no GPU to ask.

    Args:
        block: trains on.
        device: that it is on.
        update_ms: of an update that is called operation by operation.
        replay: `graph_replay_ms` on a GPU.
    """
    counts = launches(block, device)
    lines = [
        f"Operators called: {counts.operators:.0f} an update.",
        f"Memory taken: {counts.allocations:.0f} tensors an update, {counts.allocated_mb:.1f} MB; "
        f"the largest {counts.largest_mb:.2f} MB.",
    ]
    if device.type != "cuda":
        lines.append("Kernels, CUDA graph, occupancy: not measured, the block is on a CPU.")
        return "\n".join(lines)
    occupancy = (
        f"{counts.occupancy:.0%}" if counts.occupancy == counts.occupancy else "not reported"
    )
    lines.append(
        f"Called one by one, as in the tables: {counts.kernels:.0f} kernels an update, "
        f"{counts.kernels_ms:.3f} ms of the {update_ms:.3f} ms; achieved occupancy {occupancy}."
    )
    if replay is None or isinstance(replay, str):
        lines.append(f"CUDA graph: {replay}.")
        return "\n".join(lines)
    traced = replays(block, device)
    lines.append(
        f"CUDA graph, as it trains: an update takes {replay:.3f} ms, {update_ms / replay:.1f} "
        f"times faster; {traced.kernels:.0f} kernels, {traced.busy_ms:.3f} ms of work, between "
        f"which the GPU is idle {traced.idle_share:.0%} of the time."
    )
    return "\n".join(lines)
