"""Where a training step's time goes: named stages in the code, and a recorder that times them.

The code says `with stage(Stage.TARGET):` around what belongs together. Without a recorder that is
an empty context; `Recorder.recording()` turns the clock on.

Stages nest, and each is charged for what it does itself: a target that is computed during an update
counts as target, and what an update does between its stages as update. A recorder notes the clock
at every beginning and end; the time between two notes belongs to the innermost stage that is open,
or to `Stage.OTHER` where none is. So the stages of a frame (one training step) always sum to the
frame.

On a GPU a note is an event in the stream, read when all is done: the host does not wait.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

# torch is imported where a GPU is asked: who reads a run's records needs the stages' names only.


class Stage(StrEnum):
    """A part of a training step, in the order of a table."""

    ACT = "act"
    ENV_STEP = "env step"
    REPLAY_ADD = "replay add"
    UPDATE = "update"
    EVALUATION = "evaluation"

    SAMPLE = "sample"
    TARGET = "target"
    CRITIC_FORWARD = "critic forward"
    CRITIC_BACKWARD = "critic backward"
    CRITIC_OPTIMIZER = "critic optimizer"
    ACTOR_FORWARD = "actor forward"
    ACTOR_BACKWARD = "actor backward"
    ACTOR_OPTIMIZER = "actor optimizer"
    POLYAK = "polyak"
    TOPOLOGY = "topology"

    OTHER = "other"


STEP_STAGES = (Stage.ACT, Stage.ENV_STEP, Stage.REPLAY_ADD, Stage.UPDATE, Stage.EVALUATION)
"""The stages of one training step."""
UPDATE_STAGES = tuple(Stage)[len(STEP_STAGES) : -1]
"""The stages of one update."""

Key = tuple[Stage, Stage]
"""The outermost and the innermost open stage; the same where only one is open."""


class Clock(Protocol):
    """Notes moments; what lies between two of them may be known later."""

    is_immediate: bool
    """Whether `elapsed_ns` may be asked at once."""

    def now(self) -> Any:
        """A moment."""
        ...

    def elapsed_ns(self, start: Any, end: Any) -> int:
        """Nanoseconds from one moment to another."""
        ...

    def synchronize(self) -> None:
        """Wait until every moment that was noted has passed."""
        ...


class HostClock:
    """The processor's monotonic clock."""

    is_immediate = True
    now = staticmethod(time.perf_counter_ns)

    def elapsed_ns(self, start: int, end: int) -> int:
        return end - start

    def synchronize(self) -> None:
        return


class CudaClock:
    """Events in the current stream of a GPU, with a resolution of about half a microsecond."""

    is_immediate = False

    def __init__(self, device: torch.device):
        from torch import cuda

        self.device, self._cuda = device, cuda

    def now(self) -> torch.cuda.Event:
        event = self._cuda.Event(enable_timing=True)
        event.record(self._cuda.current_stream(self.device))
        return event

    def elapsed_ns(self, start: torch.cuda.Event, end: torch.cuda.Event) -> int:
        return round(start.elapsed_time(end) * 1e6)

    def synchronize(self) -> None:
        self._cuda.synchronize(self.device)


def clock_of(device: torch.device) -> Clock:
    """The clock that sees the work of a device."""
    return CudaClock(device) if device.type == "cuda" else HostClock()


@dataclass(frozen=True)
class Recording:
    """Times of frames, in nanoseconds."""

    frames: list[dict[Key, int]] = field(default_factory=list)
    """For each frame the own time of the stages that occurred in it."""

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    @property
    def frames_ns(self) -> list[int]:
        """Whole duration of each frame: the sum of its stages."""
        return [_whole_ns(frame) for frame in self.frames]

    @property
    def stages_ns(self) -> dict[Key, list[int]]:
        """Own time of a stage in each frame in which it occurred."""
        stages: dict[Key, list[int]] = {}
        for frame in self.frames:
            for key, ns in frame.items():
                stages.setdefault(key, []).append(ns)
        return stages

    @property
    def roots_ns(self) -> dict[Stage, list[int]]:
        """Time of an outermost stage, with all inside it, in each frame in which it occurred."""
        roots: dict[Stage, list[int]] = {}
        for frame in self.frames:
            of_frame: dict[Stage, int] = {}
            for (root, _), ns in frame.items():
                of_frame[root] = of_frame.get(root, 0) + ns
            for root, ns in of_frame.items():
                roots.setdefault(root, []).append(ns)
        return roots

    def within(self, root: Stage) -> dict[Stage, list[int]]:
        """The stages inside one outermost stage; its own remainder is `Stage.OTHER`."""
        return {
            Stage.OTHER if leaf == outer else leaf: samples
            for (outer, leaf), samples in self.stages_ns.items()
            if outer == root
        }

    def undisturbed(self, factor: float) -> tuple[Recording, int]:
        """The frames, but for those that took too long: each of these is replaced by the median
        one of those that consist of the same stages, so that every stage occurs as often.

        Args:
            factor: times the median that is too long.

        Returns:
            The recording, and how many frames were replaced.
        """
        alike: dict[frozenset[Key], list[dict[Key, int]]] = {}
        for frame in self.frames:
            alike.setdefault(frozenset(frame), []).append(frame)
        typical = {
            keys: sorted(frames, key=_whole_ns)[(len(frames) - 1) // 2]
            for keys, frames in alike.items()
        }
        frames, num_replaced = [], 0
        for frame in self.frames:
            usual = typical[frozenset(frame)]
            is_disturbed = _whole_ns(frame) > factor * _whole_ns(usual)
            frames.append(usual if is_disturbed else frame)
            num_replaced += is_disturbed
        return Recording(frames), num_replaced


def _whole_ns(frame: dict[Key, int]) -> int:
    return sum(frame.values())


class _Off:
    """The context of a stage that nobody times."""

    __slots__ = ()

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        return


class _Span:
    """Notes the clock at the beginning and end of one stage."""

    __slots__ = ("_marks", "_now", "_stage")

    def __init__(self, stage: Stage, marks: list[tuple[Stage | None, Any]], now: Callable):
        self._stage, self._marks, self._now = stage, marks, now

    def __enter__(self) -> None:
        self._marks.append((self._stage, self._now()))

    def __exit__(self, *_: object) -> None:
        self._marks.append((None, self._now()))


class _AnnotatedSpan(_Span):
    """Opens a range of another tool too."""

    __slots__ = ("_annotate", "_ranges")

    def __init__(
        self,
        stage: Stage,
        marks: list[tuple[Stage | None, Any]],
        now: Callable,
        annotate: Callable[[str], AbstractContextManager],
    ):
        super().__init__(stage, marks, now)
        self._annotate = annotate
        self._ranges: list[AbstractContextManager] = []

    def __enter__(self) -> None:
        opened = self._annotate(self._stage.value)
        opened.__enter__()
        self._ranges.append(opened)
        super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._ranges.pop().__exit__(*error)


_OFF = _Off()
_active: Recorder | None = None


def stage(name: Stage) -> AbstractContextManager[None]:
    """The context of a stage: timed while a recorder records, else empty."""
    return _OFF if _active is None else _active.spans[name]


def is_recording() -> bool:
    """Whether a recorder records, so that stages have to be told apart."""
    return _active is not None


def end_frame() -> None:
    """End a frame of the recorder that records, if any does."""
    if _active is not None:
        _active.frame()


def skip_frame() -> None:
    """What happened since the last frame belongs to none, if any recorder records."""
    if _active is not None:
        _active.skip()


class Recorder:
    """Times the stages of frames, one process-wide at a time.

    Args:
        clock: `clock_of` the device that works.
        annotate: makes a named range for another tool around each stage, for example
            `torch.profiler.record_function` or `torch.cuda.nvtx.range`.
    """

    def __init__(
        self, clock: Clock, annotate: Callable[[str], AbstractContextManager] | None = None
    ):
        self.clock = clock
        self._marks: list[tuple[Stage | None, Any]] = []
        self._waiting: list[list[tuple[Stage | None, Any]]] = []
        self._frames: list[dict[Key, int]] = []
        self.spans: dict[Stage, _Span] = {
            name: _Span(name, self._marks, clock.now)
            if annotate is None
            else _AnnotatedSpan(name, self._marks, clock.now, annotate)
            for name in Stage
        }

    @contextmanager
    def recording(self) -> Iterator[Recorder]:
        """Stages are timed within; the first frame begins here.

        Raises:
            RuntimeError: another recorder records.
        """
        global _active
        if _active is not None:
            raise RuntimeError("another recorder is recording: end it first")
        self._begin_frame_(self.clock.now())
        _active = self
        try:
            yield self
        finally:
            _active = None
            self._marks.clear()

    def _begin_frame_(self, moment: Any) -> None:
        self._marks.clear()
        self._marks.append((Stage.OTHER, moment))

    def frame(self) -> None:
        """End a frame (a training step) and begin the next; call it outside all stages."""
        moment = self.clock.now()
        self._waiting.append([*self._marks, (None, moment)])
        self._begin_frame_(moment)
        if self.clock.is_immediate:
            self._resolve_()

    def skip(self) -> None:
        """Begin the frame anew: what happened since the last one belongs to no frame."""
        self._begin_frame_(self.clock.now())

    def _resolve_(self) -> None:
        self._frames += [charge(marks, self.clock.elapsed_ns) for marks in self._waiting]
        self._waiting.clear()

    def take(self) -> Recording:
        """The frames since the last call; on a GPU it waits until they are done."""
        if self._waiting:
            self.clock.synchronize()
            self._resolve_()
        taken, self._frames = self._frames, []
        return Recording(taken)


def charge(
    marks: list[tuple[Stage | None, Any]], elapsed_ns: Callable[[Any, Any], int]
) -> dict[Key, int]:
    """Nanoseconds of each stage's own work in one frame.

    Args:
        marks: (stage, moment) at a beginning, (None, moment) at an end; the first and the last
            are the frame's.
        elapsed_ns: nanoseconds between two moments.

    Returns:
        Own time by (outermost, innermost stage); the frame's remainder is (OTHER, OTHER).
    """
    frame, last = marks[0]
    assert frame is not None
    open_keys: list[Key] = [(frame, frame)]
    own: dict[Key, int] = {}
    for name, moment in marks[1:]:
        key = open_keys[-1]
        own[key] = own.get(key, 0) + elapsed_ns(last, moment)
        last = moment
        if name is None:
            open_keys.pop()
        else:
            open_keys.append((open_keys[1][0] if len(open_keys) > 1 else name, name))
    assert not open_keys, "a stage was open at the end of the frame"
    return own


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory so far: allocated on a GPU, or resident in this process."""
    if device.type == "cuda":
        from torch import cuda

        return cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
