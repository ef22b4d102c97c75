"""What an update asks of the device: operators called, kernels launched, and a trace to look at.

Everything is read from one trace of torch's profiler (Chrome's trace format; Perfetto reads it, and
TensorBoard's profiler plugin where the file's name ends in .pt.trace.json). On a GPU the trace also
has every kernel with its time and occupancy, and the update is tried as a CUDA graph, whose replay
shows what is left when launches cost nothing.
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
_GRAPH_REPLAYS = 20
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


def graph_replay_ms(block: TrainingBlock) -> float | str:
    """Milliseconds of replaying one update as a CUDA graph, or why it cannot be captured.

    The replayed update repeats one minibatch, so it is for timing only; it leaves the block's
    weights changed.
    """
    try:
        for _ in range(3):
            block.learner.update_()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            block.learner.update_()
        graph.replay()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(_GRAPH_REPLAYS):
            graph.replay()
        torch.cuda.synchronize()
    except RuntimeError as error:
        return f"not captured: {str(error).splitlines()[0]}"
    return (time.perf_counter() - start) / _GRAPH_REPLAYS * 1e3


def launches_text(block: TrainingBlock, device: torch.device, update_ms: float) -> str:
    """Lines on calls and launches; on a CPU they say that there is no GPU to ask."""
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
        f"Kernels launched: {counts.kernels:.0f} an update, {counts.kernels_ms:.3f} ms of the "
        f"{update_ms:.3f} ms; achieved occupancy {occupancy}."
    )
    replay = graph_replay_ms(block)
    if isinstance(replay, str):
        lines.append(f"CUDA graph: {replay}")
    else:
        lines.append(
            f"CUDA graph: a replay takes {replay:.3f} ms, its kernels {counts.kernels_ms:.3f} ms."
        )
    return "\n".join(lines)
