"""When a block in training is saved, and what happens while the disk takes nothing.

Checkpoints are `--checkpoint_minutes` apart, or further where writing one takes long: never more
than `MOST_SHARE` of the run's time goes into them. A disk that is full or read-only pauses them;
the training goes on, and they do too once there is space.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from fastanf.checkpoint import BlockCheckpoints
from fastanf.files import is_disk_trouble
from fastanf.progress import duration
from fastanf.replay import LaneReplay

MOST_SHARE = 0.03
"""Of the time between the ends of two checkpoints."""
RETRY_S = 30.0
"""Until a paused checkpoint is tried again."""


class Saving:
    """Writes the checkpoints of a block that trains.

    Args:
        checkpoints: of the block.
        period_s: between two checkpoints.
        flush: writes the records that are not on the disk yet; False where it takes none. A
            checkpoint that knew more than the records would lose them.
        say: told what a user should know.
        clock: seconds, rising.
    """

    def __init__(
        self,
        checkpoints: BlockCheckpoints,
        period_s: float,
        flush: Callable[[], bool],
        say: Callable[[str], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.checkpoints = checkpoints
        self._period_s = self._wait_s = period_s
        self._flush, self._say, self._clock = flush, say, clock
        self._done_at = clock()
        self._is_paused = self._is_stretched = False

    @property
    def is_due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self._clock() - self._done_at >= self._wait_s

    def begin_(self) -> None:
        """Count the time until the first checkpoint from now on."""
        self._done_at = self._clock()

    def save(
        self,
        tensors: Callable[[], Mapping[str, Tensor]],
        state: Mapping[str, Any],
        replay: LaneReplay | None,
    ) -> bool:
        """Write a checkpoint.

        Args:
            tensors: gives them; what that takes is part of a checkpoint's cost.
            state: as `BlockCheckpoints.save`.
            replay: as `BlockCheckpoints.save`.

        Returns:
            Whether it is written; False where the disk takes nothing now.

        Raises:
            OSError: it failed for another reason.
        """
        started_at = self._clock()
        try:
            if not self._flush():
                return self._pause("the records have to be written first")
            self.checkpoints.save(tensors(), state, replay)
        except OSError as error:
            if not is_disk_trouble(error):
                raise
            return self._pause(error.strerror or str(error))
        self._done_at = self._clock()
        self._stretch(self._done_at - started_at)
        if self._is_paused:
            self._is_paused = False
            self._say("checkpoints are written again")
        return True

    def keep_lane(self, lane: int, is_sound: Callable[[Mapping[str, Any]], bool]) -> None:
        """Keep the newest checkpoint in which a lane was sound, args as
        `BlockCheckpoints.keep_for_lane`. Where the disk does not take it, that is said.
        """
        try:
            self.checkpoints.keep_for_lane(lane, is_sound)
        except OSError as error:
            if not is_disk_trouble(error):
                raise
            self._say(f"the last sound checkpoint of lane {lane} is not kept: {error.strerror}")

    def _pause(self, why: str) -> bool:
        self._done_at, self._wait_s = self._clock(), min(RETRY_S, self._period_s)
        if not self._is_paused:
            self._is_paused = True
            self._say(
                f"checkpoints pause ({why}: {self.checkpoints.place}); the training goes on, free "
                "some space and they go on too"
            )
        return False

    def _stretch(self, cost_s: float) -> None:
        """Let so much time pass until the next one that this one was a small part of it."""
        needed_s = cost_s * (1 / MOST_SHARE - 1)
        if needed_s > self._period_s and not self._is_stretched:
            self._is_stretched = True
            self._say(
                f"a checkpoint takes {cost_s:.1f} s: the next one in {duration(needed_s)}, so "
                f"that they take {MOST_SHARE:.0%} of the time at most"
            )
        self._wait_s = max(self._period_s, needed_s)
