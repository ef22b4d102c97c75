"""The display of a run while it trains: one line a lane on a terminal, plain lines elsewhere.

Axes: lanes only. Blocks tell what they do (block_progress.py), one after the other or many at once;
the screen changes at most four times a second, and plain lines come when there is something to say:
an evaluation, a new phase, else a sign of life of the run every 30 s.
"""

import math
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from fastanf.block_progress import BlockProgress
from fastanf.progress_table import lane_table
from fastanf.progress_text import duration, lane_count, number, spans

__all__ = ["HEARTBEAT_S", "BlockProgress", "Progress", "duration", "lane_label"]

REDRAW_S = 0.25
HEARTBEAT_S = 30.0
ROWS_AROUND = 4  # heading, totals, phase, and the line where the shell's cursor waits


def lane_label(row: Mapping[str, Any]) -> str:
    """The label of a lane from its row: policy, seed, variant."""
    return f"{row['policy']} seed {row['seed']} {row.get('variant') or ''}".rstrip()


class Progress:
    """Shows the lanes of a run; a context manager.

    Args:
        lane_labels: one a lane, as `lane_label` makes them. Lanes whose labels differ only in the
            seed form a group, which shares a plain line and a summary.
        max_steps: the last step of every lane, or one number a lane.
        plain: lines instead of a live table; None asks whether `stream` is a terminal.
        stream: where to write; standard output by default.
        clock: seconds, rising; tests give their own.
    """

    def __init__(
        self,
        lane_labels: Sequence[str],
        max_steps: int | Sequence[int],
        plain: bool | None = None,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        L = len(lane_labels)
        self.labels = list(lane_labels)
        self.groups = [re.sub(r"\s+seed[ =]?\d+", "", label) for label in self.labels]
        self.lanes_of: dict[str, list[int]] = {}
        """The lanes of each group."""
        for lane, group in enumerate(self.groups):
            self.lanes_of.setdefault(group, []).append(lane)
        self.max_steps = [max_steps] * L if isinstance(max_steps, int) else list(max_steps)
        self.stream = sys.stdout if stream is None else stream
        self.console = Console(file=self.stream)
        self.plain = (
            not self.console.is_terminal or self.console.is_dumb_terminal
            if plain is None
            else plain
        )
        self.steps = [0] * L
        self.returns: list[float | None] = [None] * L
        self.stopped_because: dict[int, str] = {}
        self.clock = clock
        self.blocks: list[BlockProgress] = []
        self.at_work: dict[BlockProgress, None] = {}  # in the order in which they came
        self._block_of: list[BlockProgress | None] = [None] * L
        self._last_pace = math.nan  # lane steps per second of the block that left last
        self._run_s, self._estimate_until = math.nan, -math.inf
        self._next_draw = 0.0  # also the plain display's next sign of life
        self._live: Live | None = None
        self._is_quiet = False

    def __enter__(self) -> "Progress":
        self._next_draw = self.clock() + (HEARTBEAT_S if self.plain else 0.0)
        if not self.plain:
            self._live = Live(console=self.console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        for block in self.blocks:
            block.keep_step()
            block.say_pending()
        self._draw()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def block(self, lanes: range, name: str = "") -> BlockProgress:
        """What the training of a block is told about.

        Where blocks train at the same time, all are made before the first of them works: they are
        the blocks that are counted. Asked again for the same lanes it gives the same block, which
        from then on is on the machine that `name` says.

        Args:
            lanes: of the block, by their numbers in the run.
            name: of the machine that trains it, shown beside the lanes; empty where that goes
                without saying.

        Raises:
            ValueError: lanes that the run does not have, or that belong to another block.
        """
        last = len(self.labels) - 1
        if not lanes or min(lanes) < 0 or max(lanes) > last:
            raise ValueError(f"a block of lanes {spans(lanes) or '-'}: give some of lanes 0-{last}")
        block = self._block_of[lanes[0]]
        if block is not None and block.lanes == lanes:
            block.name = name
            return block
        for lane in lanes:
            if (other := self._block_of[lane]) is not None:
                numbers = spans(other.lanes)
                raise ValueError(
                    f"a block of lanes {spans(lanes)}: lane {lane} is in that of lanes {numbers}, "
                    "give lanes of no other block"
                )
        block = BlockProgress(self, lanes, name)
        self.blocks.append(block)
        for lane in lanes:
            self._block_of[lane] = block
        return block

    def note(self, text: str) -> None:
        """A line about the run that stays, above the live display or among the plain lines."""
        if self._live is None:
            self.say(text)
        elif not self._is_quiet:
            try:
                self._live.console.print(text, highlight=False, markup=False)
            except OSError:  # the terminal is gone; the training goes on
                self._is_quiet = True

    def refresh_if_due(self) -> None:
        """Draws, or gives a sign of life, if it is time. Every update of a block does; so does who
        waits long while no block tells anything.
        """
        if self.clock() >= self._next_draw:
            if self.plain:
                self.say(self._sign_of_life())
            else:
                self._draw()

    def seconds_left(self) -> tuple[float, float]:
        """Estimated seconds until the last of the blocks in training ends, and until the run does.

        What waits is spread over all that the blocks in training can do; the run ends no sooner
        than the longest of them.
        """
        now = self.clock()
        training = [block for block in self.at_work if block.is_training]
        left = {block: block.seconds_left(now) for block in training}
        left = {block: seconds for block, seconds in left.items() if math.isfinite(seconds)}
        for block in training:
            block.keep_step()
        # A block whose pace is unknown yet waits for the others, as it were.
        waiting = sum(
            max(0, self.max_steps[lane] - self.steps[lane])
            for lane, block in enumerate(self._block_of)
            if block not in left and lane not in self.stopped_because
        )
        if not left:
            return math.nan, math.nan if training else waiting / self._last_pace
        pace = {block: block.lane_steps_per_s(now) for block in left}
        longest = max(left.values())
        lane_steps = sum(left[block] * pace[block] for block in left) + waiting
        return longest, max(longest, lane_steps / sum(pace.values()))

    def run_seconds_left(self) -> float:
        """Estimated seconds until the run ends. Where many blocks work, and each has its lines, it
        is worked out no more often than a screen is drawn.
        """
        now = self.clock()
        if len(self.at_work) <= 1 or now >= self._estimate_until:
            _, self._run_s = self.seconds_left()
            self._estimate_until = now + REDRAW_S
        return self._run_s

    def render(self) -> Group:
        """The live display: a table of lanes that fits the terminal, totals, and the phase, or how
        many blocks are at work where there are several.
        """
        _, run_s = self.seconds_left()
        table = lane_table(self, max(1, self.console.height - ROWS_AROUND))
        total = f"{self._share():4.0%} of all steps, {duration(run_s)} left"
        if len(self.at_work) > 1:
            last = self._blocks_at_work()
        else:
            last = "".join(block.doing for block in self.at_work)
        return Group(table, Text(total, style="bold"), Text(last, style="dim"))

    def block_of(self, lane: int) -> BlockProgress | None:
        """The block of a lane, once it is made."""
        return self._block_of[lane]

    def state(self, lane: int) -> str:
        """ "stopped", "done", or "" while there are steps to do."""
        if lane in self.stopped_because:
            return "stopped"
        return "done" if self.steps[lane] >= self.max_steps[lane] else ""

    def enter(self, block: BlockProgress) -> None:
        """A block comes to work, if it is not there."""
        self.at_work[block] = None

    def leave(self, block: BlockProgress) -> None:
        """A block is not at work any more."""
        if block.is_training and math.isfinite(pace := block.lane_steps_per_s(self.clock())):
            self._last_pace = pace
        del self.at_work[block]
        self.show()

    def show(self) -> None:
        """Draws what changed: at once where one block works, else as often as the screen may."""
        if len(self.at_work) > 1:
            if not self.plain:
                self.refresh_if_due()
        else:
            self._draw()

    def show_at_next_update(self) -> None:
        """The next update draws, where one block works."""
        if len(self.at_work) <= 1:
            self._next_draw = 0.0

    def say(self, line: str) -> None:
        """Writes a plain line; a live display says nothing in lines."""
        if not self.plain:
            return
        self._next_draw = self.clock() + HEARTBEAT_S
        if not self._is_quiet:
            try:
                self.stream.write(line + "\n")
                self.stream.flush()
            except (OSError, ValueError):  # nobody listens any more; the training goes on
                self._is_quiet = True

    def _draw(self) -> None:
        if self._live is None:
            return
        if not self._is_quiet:
            try:
                self._live.update(self.render(), refresh=True)
            except OSError:  # the terminal is gone; the training goes on
                self._is_quiet = True
        self._next_draw = self.clock() + REDRAW_S

    def _share(self) -> float:
        # What a stopped lane has left is no step of the run any more.
        ends = [
            self.steps[lane] if lane in self.stopped_because else end
            for lane, end in enumerate(self.max_steps)
        ]
        return sum(self.steps) / max(1, sum(ends))

    def _blocks_at_work(self) -> str:
        others = [block for block in self.blocks if block not in self.at_work]
        num_finished = sum(all(self.state(lane) for lane in block.lanes) for block in others)
        text = f"{len(self.at_work)} of {len(self.blocks)} blocks at work"
        finished = f", {num_finished} finished" if num_finished else ""
        num_waiting = len(others) - num_finished
        return text + finished + (f", {num_waiting} waiting" if num_waiting else "")

    def _sign_of_life(self) -> str:
        training = [block for block in self.at_work if block.is_training]
        if len(training) == len(self.at_work) == 1:
            block = training[0]
            count = lane_count(len(block.lanes_in_training))
            return block.line(block.step, block.doing, count)
        _, run_s = self.seconds_left()
        speeds = [block.steps_per_s * len(block.lanes_in_training) for block in training]
        pace = sum(speed for speed in speeds if math.isfinite(speed))
        parts = [f"{self._share():.0%} of all steps", self._blocks_at_work()]
        if training:
            parts.append(f"{number(pace)} lane steps/s")
        return "  ".join([*parts, f"{duration(run_s)} left"])
