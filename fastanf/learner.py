"""The learner of one block: samples a minibatch per lane and updates all lanes at once.

Axes: L lanes, B minibatch. Everything it touches stays on one device; no figure crosses to the
host until a record asks. On CUDA an update is one graph (graphs.py) for each kind of update: the
host chooses the graph by the update's number, and the numbers that the update computes with are in
device memory. Topology changes follow a graph as plain calls; they work in place, so that no graph
is captured anew.
"""

from __future__ import annotations

import ctypes
import logging

import torch
from torch import Tensor

from fastanf.algorithms.actor_critic import ActorCritic, Seen, UpdateKind
from fastanf.graphs import Graphs
from fastanf.instrument import Stage, is_recording, stage
from fastanf.quarantine import LaneWatch
from fastanf.replay import LaneReplay
from fastanf.rng import LaneRng

_LOG = logging.getLogger(__name__)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 1 << 30
_WATCH = "watch."


class Learner:
    """Updates of all lanes from their replay.

    Args:
        algorithm: stacked networks and optimizers.
        replay: of the same lanes.
        rng: random numbers of the lanes, for sampling.
        batch_size: B.
        graphs: record and replay the updates; None calls every operation each time.
    """

    def __init__(
        self,
        algorithm: ActorCritic,
        replay: LaneReplay,
        rng: LaneRng,
        batch_size: int,
        graphs: Graphs | None = None,
    ) -> None:
        self.algorithm, self.replay, self.rng = algorithm, replay, rng
        self.batch_size = batch_size
        self.num_updates = 0
        self.watch = LaneWatch(algorithm, replay, batch_size)
        self._graphs = graphs if algorithm.is_capturable else None
        # The number of updates as the device knows it, where the host does not say it each time.
        self._counter = torch.zeros((), dtype=torch.int64, device=rng.key.device)

    @property
    def is_warming_up(self) -> bool:
        """Whether the next update compiles kernels, which takes long."""
        return self._graphs is not None and not self._graphs.is_warm

    def update_(self) -> None:
        """One update of every lane."""
        self.num_updates += 1
        kind = self.algorithm.kind_of(self.num_updates)
        with stage(Stage.UPDATE):
            if self._graphs is None:
                self._update_(kind, self.num_updates)
            else:
                self._replay_update_(self._graphs, kind)
            self.algorithm.evolve_if_due_(self.num_updates)

    def _update_(self, kind: UpdateKind, update: int | Tensor) -> None:
        with stage(Stage.SAMPLE):
            batch = self.replay.sample(self.rng, update, self.batch_size)
        self.algorithm.update_(batch, update, kind, self.replay.envs_per_lane)
        self.watch.see_(kind.actor)

    def _replay_update_(self, graphs: Graphs, kind: UpdateKind) -> None:
        algorithm = self.algorithm

        def program() -> Seen:
            self._counter.add_(1)
            self._update_(kind, self._counter)
            return algorithm.seen

        if is_recording():  # stages are told apart by calls
            program()
            return
        layout = self.replay.layout_version, algorithm.features.layout_version
        seen = graphs.run(kind, layout, program)
        # An update without a step of the actor leaves what was seen of the last one.
        algorithm.seen = seen if kind.actor else algorithm.seen._replace(critic=seen.critic)

    def state_dict(self) -> dict[str, Tensor]:
        """Networks, moments, masks, the number of updates and what was seen of broken lanes."""
        watched = {f"{_WATCH}{name}": tensor for name, tensor in self.watch.state_dict().items()}
        num_updates = torch.tensor(self.num_updates)
        return self.algorithm.state_dict() | watched | {"num_updates": num_updates}

    def load_state_dict_(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: a tensor is missing or has another shape.
        """
        self.algorithm.load_state_dict_(state)
        watched = {k.removeprefix(_WATCH): v for k, v in state.items() if k.startswith(_WATCH)}
        self.watch.load_state_dict_(watched)
        self.num_updates = int(state["num_updates"])
        self._counter.fill_(self.num_updates)


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
