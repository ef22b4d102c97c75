"""Which lanes are broken: their loss, their tensors or their returns are not finite, or their
simulation breaks down so often that there is nothing to learn from.

A lane never sees another one, so a broken one stays in its place in the stack and computes what
nobody records. Every update marks what is not finite in its losses on the device, and the mark
stays. The host looks at it every `CHECK_PERIOD` steps and before evaluations: when a lane is found
broken depends on its numbers alone, not on when checkpoints are written.

Axes: L lanes, C critics, B minibatch, M evaluation episodes, P tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fastanf.algorithms.actor_critic import ActorCritic
from fastanf.nets import NUM_CRITICS
from fastanf.replay import LaneReplay

CHECK_PERIOD = 64
"""Lock steps from one look at the losses to the next: the device is waited for."""
NO_CHECKPOINT = -1
"""The step of a checkpoint that there is not."""

Causes = dict[int, str]
"""By the position of a lane in its block, one line that says what is broken."""


class LaneWatch:
    """Finds the broken lanes of a block, each of them once.

    Args:
        algorithm: computes losses.
        replay: of the same lanes.
        batch_size: B.
    """

    def __init__(self, algorithm: ActorCritic, replay: LaneReplay, batch_size: int):
        self._algorithm, self._replay = algorithm, replay
        L, device = replay.obs.shape[0], replay.obs.device
        self.num_lanes = L
        # 0 as long as all was finite, and nan from then on; no sum of finite numbers is in it that
        # could overflow. For the critics and the actor.
        self._marks = (
            torch.zeros(L, NUM_CRITICS, batch_size, device=device),
            torch.zeros(L, batch_size, device=device),
        )
        self.stopped: Causes = {}
        self.checkpoint_steps = [NO_CHECKPOINT] * L
        """[L] environment steps of the last checkpoint that holds the lane sound."""

    def see_(self, actor_moved: bool) -> None:
        """Take in the losses of the update that was just computed.

        In place, and without the host: it is part of a recorded update. It takes 0.08 to 0.15 of
        34 ms (ANF-SAC, HalfCheetah with 90% noise, 8 lanes on one core of a busy AMD EPYC).

        Args:
            actor_moved: the update had a step of the actor.
        """
        seen, (of_critic, of_actor) = self._algorithm.seen, self._marks
        assert seen.critic is not None
        of_critic.add_(seen.critic[1].square(), alpha=0)
        if actor_moved:
            assert seen.actor is not None
            for part in seen.actor:
                of_actor.add_(part, alpha=0)

    @property
    def are_recorded(self) -> list[bool]:
        """[L] whether a lane goes on."""
        return [position not in self.stopped for position in range(self.num_lanes)]

    def broken(self, update: int) -> Causes:
        """Stop the lanes of which a loss was not finite, or which have nothing to learn from.

        Args:
            update: number of the last update.

        Returns:
            Those that were not stopped before.
        """
        return self._stop_(self._by_losses(update))

    def unsound(self, update: int) -> Causes:
        """Stop the lanes with a weight, a target, a moment or a temperature that is not finite, as
        `broken`. It is slower, and finds what no loss shows: units that are off hide an inf.
        """
        return self._stop_(self._by_tensors(update))

    def check_returns(self, returns: np.ndarray) -> Causes:
        """Stop the lanes with an infinite return, or with none at all, as `broken`.

        Args:
            returns: [L, M] of evaluation episodes; nan of an episode whose simulation broke down.
        """
        found = {}
        for position, of_lane in enumerate(returns):
            if np.isinf(of_lane).any():
                found[position] = f"return is {of_lane[np.isinf(of_lane)][0]} in an evaluation"
            elif np.isnan(of_lane).all():
                found[position] = f"return is nan in all {len(of_lane)} episodes of an evaluation"
        return self._stop_(found)

    def restore_(self, stopped: Mapping[int, str]) -> None:
        """Know the lanes that were stopped before this process, and why."""
        self.stopped = dict(stopped)

    def note_checkpoint_(self, step: int, update: int) -> None:
        """Know that the state as it is now stands in a checkpoint; that of a lane which is stopped
        or about to be is no good one.

        Args:
            step: its environment steps of a lane.
            update: number of the last update.
        """
        lost = {**self.stopped, **self._by_losses(update), **self._by_tensors(update)}
        for position in range(self.num_lanes):
            if position not in lost:
                self.checkpoint_steps[position] = step

    def state_dict(self) -> dict[str, Tensor]:
        """What was seen of the lanes so far; which of them are stopped stands in the records."""
        steps = torch.tensor(self.checkpoint_steps)
        return {
            "marks": self._lane_marks(),
            "is_barren": self._replay.is_barren,
            "checkpoint_steps": steps,
        }

    def load_state_dict_(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: a tensor has another shape.
        """
        for name, own in self.state_dict().items():
            if state[name].shape != own.shape:
                found, wanted = tuple(state[name].shape), tuple(own.shape)
                raise ValueError(f"watch.{name} has shape {found}; this run expects {wanted}")
        for mark, of_lanes in zip(self._marks, state["marks"].unbind(1), strict=True):
            mark.copy_(of_lanes.view(-1, *[1] * (mark.dim() - 1)))
        self._replay.is_barren.copy_(state["is_barren"])
        self.checkpoint_steps = state["checkpoint_steps"].tolist()

    def _stop_(self, found: Causes) -> Causes:
        new = {position: cause for position, cause in found.items() if position not in self.stopped}
        self.stopped |= new
        return new

    def _by_losses(self, update: int) -> Causes:
        is_barren = self._replay.is_barren.unsqueeze(1).float()
        found: Causes = {}
        # One read: the host waits for the device.
        for position, row in enumerate(torch.cat([self._lane_marks(), is_barren], 1).tolist()):
            critic, actor, barren = row
            if barren:
                found[position] = "simulation breaks down in nearly every step"
            elif math.isnan(critic):
                found[position] = f"critic loss is inf or nan at update {update:,} or before"
            elif math.isnan(actor):
                found[position] = f"actor loss is inf or nan at update {update:,} or before"
        return found

    def _lane_marks(self) -> Tensor:
        """[L, 2] 0 or nan, of the critics and of the actor."""
        return torch.stack([mark.flatten(1).sum(1) for mark in self._marks], 1)

    def _by_tensors(self, update: int) -> Causes:
        names, tensors = zip(*trained_tensors(self._algorithm), strict=True)
        are_sound = are_finite(tensors, self.num_lanes)  # [P, L]
        found: Causes = {}
        for position, column in enumerate(are_sound.T.tolist()):
            lost = [name for name, is_sound in zip(names, column, strict=True) if not is_sound]
            if lost:
                others = f" and {len(lost) - 1} more hold" if lost[1:] else " holds"
                found[position] = f"{lost[0]}{others} inf or nan after update {update:,}"
        return found


def sound_lanes(algorithm: ActorCritic) -> Tensor:
    """[L] bool, the lanes of which everything that training changes is finite."""
    tensors = [tensor for _, tensor in trained_tensors(algorithm)]
    return are_finite(tensors, algorithm.settings.tau.shape[0]).all(0)


def trained_tensors(algorithm: ActorCritic) -> Iterator[tuple[str, Tensor]]:
    """All that training changes, by name and as it is stored, lanes first."""
    for name, network in algorithm.networks().items():
        for parameter in network.parameters():
            yield f"{name}.{parameter.name}", parameter.tensor
    for name, optimizer in (
        ("actor", algorithm.actor_optimizer),
        ("critic", algorithm.critic_optimizer),
    ):
        for kind in ("exp_avg", "exp_avg_sq"):
            moments: Sequence[Tensor] = getattr(optimizer, kind)
            for parameter, moment in zip(optimizer.parameters, moments, strict=False):
                yield f"{name}.{parameter.name}.{kind}", moment
    yield from algorithm.further_tensors().items()


@torch.no_grad()
def are_finite(tensors: Iterable[Tensor], num_lanes: int) -> Tensor:
    """[P, L] bool, whether all of a lane's numbers in each tensor are finite.

    Args:
        tensors: P, each [G, ...] with G a multiple of L.
        num_lanes: L.
    """

    def is_sound(tensor: Tensor) -> Tensor:
        if tensor.numel() == 0:
            return torch.ones(num_lanes, dtype=torch.bool, device=tensor.device)
        # The largest magnitude, which inf and nan exceed, takes no memory of the tensor's size.
        return torch.linalg.vector_norm(tensor.reshape(num_lanes, -1), torch.inf, 1).isfinite()

    return torch.stack([is_sound(tensor) for tensor in tensors])
