"""What the training of one block tells the display of its run (progress.py).

`update` is called at every training step, so it stores two values and looks at the clock; what they
mean for the block's lanes is worked out when somebody looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastanf.progress_text import duration, lane_count, mean, number, spans

if TYPE_CHECKING:
    from fastanf.progress import Progress


@dataclass
class _Evaluation:
    """Of the lanes of a group, as far as it is told."""

    awaited: set[int]
    returns: dict[int, tuple[float, float]] = field(default_factory=dict)
    """lane -> mean and standard deviation over its episodes."""


class BlockProgress:
    """Tells the display of a run about one block; `Progress.block` makes it.

    The block is at work from the first phase or update that it tells until it leaves. A lane is
    always named by its number in the run. All blocks are told about from one thread.

    Args:
        run: the display.
        lanes: of the block.
        name: of the machine that trains it; empty where that goes without saying.
    """

    def __init__(self, run: Progress, lanes: range, name: str) -> None:
        self.lanes, self.name = lanes, name
        self.doing = ""
        """The phase it is in, "" for training."""
        self.is_training = False
        """Whether it has told a step since it came to work."""
        self.step = 0
        self.steps_per_s = math.nan
        self._run = run
        self._origin = (0, 0.0)  # step and time from which its pace is measured
        self._phases_said: set[str] = set()
        self._pending: dict[str, _Evaluation] = {}
        self._pending_step = 0

    @property
    def is_at_work(self) -> bool:
        """Whether it has come to work and not left."""
        return self in self._run.at_work

    @property
    def lanes_in_training(self) -> list[int]:
        """Its lanes but for those that have stopped."""
        return [lane for lane in self.lanes if lane not in self._run.stopped_because]

    def update(self, step: int, steps_per_s: float) -> None:
        """Tells where the block is; a block that was not at work comes to it.

        Args:
            step: training steps done, the same for all its lanes. It may be lower than what was
                told before: the training goes on from an older checkpoint.
            steps_per_s: how fast `step` grows (not multiplied by the number of lanes).
        """
        if step < self.step or not self.is_training:
            self._begin(step)
        self.step = step
        self.steps_per_s = steps_per_s
        if self._pending:
            self.say_pending()
        self._run.refresh_if_due()

    def phase(self, text: str) -> None:
        """Names what goes on ("random start", "evaluating"), "" for training."""
        if text == self.doing:
            return
        self.doing = text
        if text:
            self._run.enter(self)
            if text not in self._phases_said:
                self._phases_said.add(text)
                self._run.say(self._named(text))
        self._run.show()

    def note(self, text: str) -> None:
        """A line that stays, above the live display or among the plain lines."""
        self._run.note(self._named(text))

    def evaluated(self, lane: int, step: int, return_mean: float, return_std: float) -> None:
        """Gives a lane's return; in plain mode its group has a line when all its lanes in the
        block have one, or at the block's next update.
        """
        if self._pending and step != self._pending_step:
            self.say_pending()
        self.restore(lane, step, return_mean)
        if not self._run.plain:
            self._run.show_at_next_update()
            return
        groups = self._run.groups
        group = groups[lane]
        self._pending_step = step
        if group not in self._pending:
            awaited = {other for other in self.lanes_in_training if groups[other] == group}
            self._pending[group] = _Evaluation(awaited)
        evaluation = self._pending[group]
        evaluation.returns[lane] = (return_mean, return_std)
        evaluation.awaited.discard(lane)
        if not evaluation.awaited:
            self._say_group(group)

    def restore(self, lane: int, step: int, return_mean: float) -> None:
        """Gives the state of a lane without a line, as a resumed run knows it from its records."""
        self._run.returns[lane] = return_mean
        self._run.steps[lane] = max(self._run.steps[lane], step)

    def stopped(self, lane: int, cause: str) -> None:
        """Marks a lane that was taken out of training, and says why in a line that stays."""
        self.keep_step()
        self._run.stopped_because[lane] = cause
        for evaluation in self._pending.values():
            evaluation.awaited.discard(lane)
        step = f"{self._run.steps[lane]:,}"
        label = self._run.labels[lane]
        self._run.note(f"lane {lane} ({label}) stopped at step {step}: {cause}")
        self._run.show()

    def restore_stopped(self, lane: int, step: int, cause: str) -> None:
        """Marks a lane that was stopped before, without a line, as `restore` gives its state."""
        self._run.stopped_because[lane] = cause
        self._run.steps[lane] = step

    def leave(self) -> None:
        """The block is not at work any more: it is finished, or its machine is lost and it waits
        for another one.
        """
        self.say_pending()
        if self.is_at_work:
            self.keep_step()
            self._run.leave(self)
        self.is_training, self.doing = False, ""
        self._phases_said.clear()

    def keep_step(self) -> None:
        """Writes down for each lane in training how far it is."""
        if self.is_training:
            for lane in self.lanes_in_training:
                self._run.steps[lane] = self.step

    def seconds_left(self, now: float) -> float:
        """Estimated seconds until the block ends: as long as one of its lanes goes on, at the same
        pace. nan where that is unknown.
        """
        ends = (self._run.max_steps[lane] for lane in self.lanes_in_training)
        return max(0, max(ends, default=self.step) - self.step) * self._seconds_per_step(now)

    def lane_steps_per_s(self, now: float) -> float:
        """What the block can do, its stopped lanes included: they take their share of the time."""
        return len(self.lanes) / self._seconds_per_step(now)

    def line(self, step: int, *parts: str) -> str:
        """A plain line about the block at a step, with its pace where it has one."""
        head = f"step {step:,}/{max(self._run.max_steps[lane] for lane in self.lanes):,}"
        pace: tuple[str, ...] = ()
        if self.is_training:
            run_s = self._run.run_seconds_left()
            pace = (f"{number(self.steps_per_s)} steps/s", f"{duration(run_s)} left")
        return "  ".join(part for part in (head, *parts, *pace) if part)

    def say_pending(self) -> None:
        """Says the returns of groups that are not complete."""
        for group in list(self._pending):
            self._say_group(group)

    def _begin(self, step: int) -> None:
        run = self._run
        if not self.is_training:
            self.is_training = True
            run.enter(self)
            if len(self.lanes) < len(run.labels):
                share = f"({len(self.lanes)} of {len(run.labels)})"
                run.say(f"training lanes {spans(self.lanes)} {share}{self._where}")
        self._origin = (step, run.clock())
        for lane in self.lanes:  # a lane that stopped later than that has not stopped yet
            if run.steps[lane] > step:
                run.stopped_because.pop(lane, None)

    def _seconds_per_step(self, now: float) -> float:
        first_step, first_s = self._origin
        if self.step > first_step and now > first_s:
            # Counts evaluations too, which the given speed may not.
            return (now - first_s) / (self.step - first_step)
        is_known = self.steps_per_s > 0 and math.isfinite(self.steps_per_s)
        return 1 / self.steps_per_s if is_known else math.nan

    @property
    def _where(self) -> str:
        return f" on {self.name}" if self.name else ""

    def _named(self, text: str) -> str:
        """The text, with the block's lanes where it could be about another block."""
        if not self.name and self._run.at_work.keys() <= {self}:
            return text
        noun = "lane" if len(self.lanes) == 1 else "lanes"
        return f"{noun} {spans(self.lanes)}{self._where}: {text}"

    def _say_group(self, group: str) -> None:
        returns = self._pending.pop(group).returns
        if len(returns) > 1:
            values = [value for value, _ in returns.values() if math.isfinite(value)]
            spread = f"(lanes {number(min(values))} to {number(max(values))})" if values else ""
        else:
            spread = f"+- {number(next(std for _, std in returns.values()))} (episodes)"
        text = f"return {number(mean([value for value, _ in returns.values()]))} {spread}".rstrip()
        self._run.say(self.line(self._pending_step, group, lane_count(len(returns)), text))
