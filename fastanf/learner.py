"""The learner of one block: samples a minibatch per lane and updates all lanes at once.

Axes: L lanes, B minibatch. Everything it touches stays on one device; no figure crosses to the
host until a record asks.
"""

from __future__ import annotations

import ctypes
import logging

import torch
from torch import Tensor

from fastanf.algorithms.actor_critic import ActorCritic
from fastanf.instrument import Stage, stage
from fastanf.replay import LaneReplay
from fastanf.rng import LaneRng

_LOG = logging.getLogger(__name__)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 1 << 30


class Learner:
    """Updates of all lanes from their replay.

    Args:
        algorithm: stacked networks and optimizers.
        replay: of the same lanes.
        rng: random numbers of the lanes, for sampling.
        batch_size: B.
    """

    def __init__(
        self, algorithm: ActorCritic, replay: LaneReplay, rng: LaneRng, batch_size: int
    ) -> None:
        self.algorithm, self.replay, self.rng = algorithm, replay, rng
        self.batch_size = batch_size
        self.num_updates = 0

    def update_(self) -> None:
        """One update of every lane."""
        self.num_updates += 1
        with stage(Stage.UPDATE):
            with stage(Stage.SAMPLE):
                batch = self.replay.sample(self.rng, self.num_updates, self.batch_size)
            self.algorithm.update_(batch, self.num_updates, self.replay.envs_per_lane)

    def state_dict(self) -> dict[str, Tensor]:
        """Networks, moments, masks and the number of updates."""
        return self.algorithm.state_dict() | {"num_updates": torch.tensor(self.num_updates)}

    def load_state_dict_(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: a tensor is missing or has another shape.
        """
        self.algorithm.load_state_dict_(state)
        self.num_updates = int(state["num_updates"])


def keep_freed_memory() -> None:
    """Let the C library keep the megabytes that an update frees, for the next update.

    glibc returns large blocks to the system and gets them back page by page, zeroed: every
    intermediate result would be paid for twice. Elsewhere than on glibc this does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        _LOG.debug("no mallopt in the C library; freed memory is left to it")
        return
    mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
