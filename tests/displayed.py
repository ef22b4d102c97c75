"""A display of a run for tests: a clock that they set, and what it has shown."""

import io

from rich.console import Console

from fastanf.progress import BlockProgress, Progress

LABELS = [f"{policy} seed {seed}" for policy in ("ANF-SAC", "SAC") for seed in range(2)]


class Clock:
    """Shows the time that a test gives it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """Text that a display takes for a terminal."""

    def isatty(self) -> bool:
        return True


def plain_progress(labels: list[str] = LABELS, max_steps: int = 1000) -> tuple[Progress, Clock]:
    """A display in lines, and its clock, which stands still."""
    clock = Clock()
    return Progress(labels, max_steps, plain=True, stream=io.StringIO(), clock=clock), clock


def live_progress(labels: list[str], max_steps: int = 1000) -> tuple[Progress, Clock]:
    """A live display, and its clock, which stands still."""
    clock = Clock()
    return Progress(labels, max_steps, plain=False, stream=Terminal(), clock=clock), clock


def blocks_of(progress: Progress, size: int) -> list[BlockProgress]:
    """The run's lanes in blocks of equal size."""
    L = len(progress.labels)
    return [progress.block(range(first, first + size)) for first in range(0, L, size)]


def lines(progress: Progress) -> list[str]:
    """The plain lines so far."""
    assert isinstance(progress.stream, io.StringIO)
    return progress.stream.getvalue().splitlines()


class InTurn:
    """Tells a display about one block after the other, as a run on one machine does."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._block: BlockProgress | None = None

    def update(self, lanes: range, step: int, steps_per_s: float) -> BlockProgress:
        block = self._progress.block(lanes)
        if self._block is not None and block is not self._block:
            self._block.leave()
        self._block = block
        block.update(step, steps_per_s)
        return block


def shown(progress: Progress) -> list[str]:
    """The lines of the live display, as wide as they come."""
    console = Console(file=io.StringIO(), width=100)
    console.print(progress.render())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()
