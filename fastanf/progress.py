"""The display of a run while it trains: one line a lane on a terminal, plain lines elsewhere.

Axes: lanes only. `update` is called at every training step, so it stores three values and looks at
the clock; everything else happens at most four times a second (a terminal) or when there is
something to say (plain lines: an evaluation, a new phase, else a sign of life every 30 s).
"""

import math
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

REDRAW_S = 0.25
HEARTBEAT_S = 30.0
ROWS_AROUND = 4  # heading, totals, phase, and the line where the shell's cursor waits


def lane_label(row: Mapping[str, Any]) -> str:
    """The label of a lane from its row: policy, seed, variant."""
    return f"{row['policy']} seed {row['seed']} {row.get('variant') or ''}".rstrip()


def duration(seconds: float) -> str:
    """Seconds as "45 s", "3 min 20 s" or "2 h 05 min"; "?" when unknown."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Progress:
    """Shows lanes at work; a context manager.

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
        self._clock = clock
        self._block: Sequence[int] = ()
        self._step = 0
        self._steps_per_s = math.nan
        self._origin = (0, 0.0)  # step and time from which the block's pace is measured
        self._phase = ""
        self._phases_said: set[str] = set()
        self._pending: dict[str, dict[int, tuple[float, float]]] = {}
        self._pending_step = 0
        self._next_draw = 0.0  # also the plain display's next sign of life
        self._live: Live | None = None
        self._is_quiet = False

    def __enter__(self) -> "Progress":
        self._next_draw = self._clock() + (HEARTBEAT_S if self.plain else 0.0)
        if not self.plain:
            self._live = Live(console=self.console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._keep_step()
        self._say_pending()
        self._draw()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, block_lanes: Sequence[int], step: int, steps_per_s: float) -> None:
        """Tells where the block in training is.

        Args:
            block_lanes: the lanes in training; best the same object at each call.
            step: training steps done, the same for these lanes.
            steps_per_s: how fast `step` grows (not multiplied by the number of lanes).
        """
        if block_lanes is not self._block:
            self._enter_block(block_lanes, step)
        self._step = step
        self._steps_per_s = steps_per_s
        if self._clock() >= self._next_draw:
            self._refresh()

    def phase(self, text: str) -> None:
        """Names what goes on ("random start", "evaluating"), "" for training."""
        if text == self._phase:
            return
        self._phase = text
        if not self.plain:
            self._draw()
        elif text and text not in self._phases_said:
            self._phases_said.add(text)
            self._say(text)

    def note(self, text: str) -> None:
        """A line that stays, above the live display or among the plain lines."""
        if self._live is None:
            self._say(text)
        elif not self._is_quiet:
            try:
                self._live.console.print(text, highlight=False, markup=False)
            except OSError:  # the terminal is gone; the training goes on
                self._is_quiet = True

    def evaluated(self, lane: int, step: int, return_mean: float, return_std: float) -> None:
        """Gives a lane's return; in plain mode its group has a line when all its lanes have one."""
        if self._pending and step != self._pending_step:
            self._say_pending()
        self.restore(lane, step, return_mean)
        if not self.plain:
            self._next_draw = 0.0
            return
        group = self.groups[lane]
        self._pending_step = step
        self._pending.setdefault(group, {})[lane] = (return_mean, return_std)
        expected = {k for k in self._at_work() if self.groups[k] == group}
        if expected and expected <= set(self._pending[group]):
            self._say_group(group)
        else:
            self._next_draw = 0.0  # the next update says what is there

    def restore(self, lane: int, step: int, return_mean: float) -> None:
        """Gives the state of a lane without a line, as a resumed run knows it from its records."""
        self.returns[lane] = return_mean
        self.steps[lane] = max(self.steps[lane], step)

    def stopped(self, lane: int, cause: str) -> None:
        """Marks a lane that was taken out of training, and says why in a line that stays."""
        self._keep_step()
        self.stopped_because[lane] = cause
        step = f"{self.steps[lane]:,}"
        self.note(f"lane {lane} ({self.labels[lane]}) stopped at step {step}: {cause}")
        if not self.plain:
            self._draw()

    def restore_stopped(self, lane: int, step: int, cause: str) -> None:
        """Marks a lane that was stopped before, without a line, as `restore` gives its state."""
        self.stopped_because[lane] = cause
        self.steps[lane] = step

    def seconds_left(self) -> tuple[float, float]:
        """Estimated seconds until the block in training ends, and until the run does.

        A lane that waits is taken to cost as much per step as one of those in training.
        """
        self._keep_step()
        if not self._block:
            return math.nan, math.nan
        first_step, first_s = self._origin
        if self._step > first_step:  # counts evaluations too, which the given speed may not
            s_per_step = (self._clock() - first_s) / (self._step - first_step)
        else:
            s_per_step = 1 / self._steps_per_s if self._steps_per_s > 0 else math.nan
        # A block goes on as long as one of its lanes does, at the same pace.
        end = max((self.max_steps[lane] for lane in self._at_work()), default=self._step)
        block_s = max(0, end - self._step) * s_per_step
        others = set(range(len(self.labels))) - set(self._block) - set(self.stopped_because)
        waiting = sum(max(0, self.max_steps[lane] - self.steps[lane]) for lane in others)
        return block_s, block_s + waiting * s_per_step / len(self._block)

    def render(self) -> Group:
        """The live display: a table of lanes that fits the terminal, totals, and the phase."""
        block_s, run_s = self.seconds_left()
        groups = list(dict.fromkeys(self.groups))
        capacity = max(1, self.console.height - ROWS_AROUND)
        shown = list(range(len(self.labels)))
        if len(shown) > capacity:  # lanes at work first, then those that wait, then the finished
            at_work = set(self._at_work())
            shown.sort(key=lambda lane: (lane not in at_work, self._state(lane) != "", lane))
            shown = sorted(shown[: max(0, capacity - len(groups))])
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading in ("lane", "", "step", "of", "return", "steps/s", "left"):
            is_left = heading in ("", "left")
            table.add_column(heading, justify="left" if is_left else "right", no_wrap=True)
        for lane in shown:
            is_at_work = lane in self._block and self._state(lane) == ""
            table.add_row(
                str(lane),
                Text(self.labels[lane]),  # a string would be read as markup
                f"{self.steps[lane]:,}",
                f"{self.max_steps[lane]:,}",
                _number(self.returns[lane]),
                _number(self._steps_per_s) if is_at_work else "",
                duration(block_s) if is_at_work else self._state(lane) or "waiting",
                style="" if is_at_work else "dim",
            )
        if len(shown) < len(self.labels):
            for group in groups[: capacity - len(shown)]:
                every = [k for k, other in enumerate(self.groups) if other == group]
                lanes = [k for k in every if k not in self.stopped_because]
                num_stopped = len(every) - len(lanes)
                count = max(1, len(lanes))
                steps = sum(self.steps[k] for k in lanes) // count
                end = sum(self.max_steps[k] for k in lanes) // count
                mean = _number(_mean([self.returns[k] for k in lanes]))
                stopped = f", {num_stopped} stopped" if num_stopped else ""
                table.add_row(
                    "",
                    Text(f"{group}, mean of {len(lanes)}{stopped}"),
                    f"{steps:,}",
                    f"{end:,}",
                    mean,
                    style="bold",
                )
        # What a stopped lane has left is no step of the run any more.
        ends = [
            self.steps[lane] if lane in self.stopped_because else end
            for lane, end in enumerate(self.max_steps)
        ]
        share = sum(self.steps) / max(1, sum(ends))
        total = f"{share:4.0%} of all steps, {duration(run_s)} left"
        return Group(table, Text(total, style="bold"), Text(self._phase, style="dim"))

    def _at_work(self) -> list[int]:
        """The lanes in training."""
        return [lane for lane in self._block if lane not in self.stopped_because]

    def _state(self, lane: int) -> str:
        if lane in self.stopped_because:
            return "stopped"
        return "done" if self.steps[lane] >= self.max_steps[lane] else ""

    def _enter_block(self, block_lanes: Sequence[int], step: int) -> None:
        if list(block_lanes) != list(self._block):
            self._keep_step()
            self._say_pending()
            if len(block_lanes) < len(self.labels):
                numbers = _spans(block_lanes)
                self._say(f"training lanes {numbers} ({len(block_lanes)} of {len(self.labels)})")
            self._origin = (step, self._clock())
            self._phases_said.clear()
        self._block = block_lanes

    def _keep_step(self) -> None:
        if self._step < self._origin[0]:  # counted anew, as after a random start
            self._origin = (self._step, self._clock())
        for lane in self._at_work():
            self.steps[lane] = self._step

    def _refresh(self) -> None:
        if not self.plain:
            self._draw()
        elif self._pending:
            self._say_pending()
        else:
            self._say(self._plain_line(self._step, self._phase, _count(len(self._at_work()))))

    def _draw(self) -> None:
        if self._live is not None and not self._is_quiet:
            try:
                self._live.update(self.render(), refresh=True)
            except OSError:  # the terminal is gone; the training goes on
                self._is_quiet = True
        self._next_draw = self._clock() + REDRAW_S

    def _say_pending(self) -> None:
        for group in list(self._pending):
            self._say_group(group)

    def _say_group(self, group: str) -> None:
        results = self._pending.pop(group)
        mean = _mean([mean for mean, _ in results.values()])
        if len(results) > 1:
            values = [value for value, _ in results.values() if math.isfinite(value)]
            spread = f"(lanes {_number(min(values))} to {_number(max(values))})" if values else ""
        else:
            spread = f"+- {_number(next(std for _, std in results.values()))} (episodes)"
        text = f"return {_number(mean)} {spread}".rstrip()
        self._say(self._plain_line(self._pending_step, group, _count(len(results)), text))

    def _plain_line(self, step: int, *parts: str) -> str:
        end = max((self.max_steps[lane] for lane in self._block), default=max(self.max_steps))
        _, run_s = self.seconds_left()
        pace = [f"{_number(self._steps_per_s)} steps/s", f"{duration(run_s)} left"]
        head = f"step {step:,}/{end:,}"
        return "  ".join(part for part in (head, *parts, *(pace if self._block else ())) if part)

    def _say(self, line: str) -> None:
        self._next_draw = self._clock() + HEARTBEAT_S
        if self.plain and not self._is_quiet:
            try:
                self.stream.write(line + "\n")
                self.stream.flush()
            except (OSError, ValueError):  # nobody listens any more; the training goes on
                self._is_quiet = True


def _mean(values: Sequence[float | None]) -> float:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _number(value: float | None) -> str:
    """Three digits or more, no decimals where they would not be read."""
    if value is None or not math.isfinite(value):
        return "-" if value is None or math.isnan(value) else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def _count(num_lanes: int) -> str:
    return f"{num_lanes} lane" if num_lanes == 1 else f"{num_lanes} lanes"


def _spans(lanes: Sequence[int]) -> str:
    """Lane numbers with runs joined: 0-3, 6."""
    spans: list[list[int]] = []
    for lane in sorted(lanes):
        if spans and lane == spans[-1][1] + 1:
            spans[-1][1] = lane
        else:
            spans.append([lane, lane])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
