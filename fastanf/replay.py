"""Uniform experience replay of all lanes on the learner's device, each observation stored once.

Axes: L lanes, T ring slots in time, E environments per lane, D real features, A actions, B
minibatch.

Time t of a lane holds the observations o[t, e]; the successor of a transition is the observation
in the next slot, so that only one copy is kept. Where an episode ends, the next slot already shows
the new episode; the true last observation is then kept in a small side table and found through
`final_slot`. No sampled transition crosses a reset, and none that a simulator could not compute is
sampled.

Every observation has an id (`obs_id`, `next_obs_id`): 2 * (t * E + e) for o[t, e], and that plus 1
for the last observation of an episode whose final transition started at (t, e). Noise is a
function of this id (features.py), so a noisy observation can be drawn again from the replay
without having been stored. Ids are not stored either: they follow from the slot's age.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastanf.kernels.replay_gather import Batch, Rings, gather_transitions
from fastanf.rng import LaneRng, Stream

__all__ = ["Batch", "LaneReplay", "replay_bytes"]

_FIRST_FINAL_SLOTS = 64
_MAX_DRAWS = 64
"""Draws of one minibatch until a lane is given up, of whose transitions nearly all have failed."""


def replay_bytes(capacity: int, num_features: int, num_actions: int, envs_per_lane: int = 1) -> int:
    """Bytes that one lane's replay takes, side table at its first size included.

    Args:
        capacity: transitions per lane.
        num_features: real features D.
        num_actions: A.
        envs_per_lane: E; the ring has ceil(capacity / E) + 1 slots of E transitions.

    Returns:
        Bytes: observations, actions and rewards in float32, one byte of not_terminated, four of
            final_slot.
    """
    rows = (_num_slots(capacity, envs_per_lane)) * envs_per_lane
    return (
        rows * (4 * num_features + 4 * num_actions + 4 + 1 + 4)
        + _FIRST_FINAL_SLOTS * 4 * num_features
    )


def _num_slots(capacity: int, envs_per_lane: int) -> int:
    return -(-capacity // envs_per_lane) + 1


class LaneReplay:
    """Ring of transitions [L, T, E, .] with T = ceil(capacity / E) + 1 slots; the newest slot
    holds an observation only.
    """

    def __init__(
        self,
        num_lanes: int,
        capacity: int,
        num_features: int,
        num_actions: int,
        envs_per_lane: int = 1,
        device: torch.device | str = "cpu",
    ):
        if capacity < envs_per_lane:
            raise ValueError(
                f"replay_capacity is {capacity}; "
                f"it must be at least envs_per_lane ({envs_per_lane})"
            )
        L, T, E = num_lanes, _num_slots(capacity, envs_per_lane), envs_per_lane
        self.obs = torch.zeros(L, T, E, num_features, device=device)
        self.action = torch.zeros(L, T, E, num_actions, device=device)
        self.reward = torch.zeros(L, T, E, device=device)
        self.not_terminated = torch.zeros(L, T, E, dtype=torch.uint8, device=device)
        self.final_slot = torch.full((L, T, E), -1, dtype=torch.int32, device=device)
        self.final_obs = torch.zeros(L, _FIRST_FINAL_SLOTS, num_features, device=device)
        # Host-side bookkeeping of the side table: which slots are free, which the ring's time t
        # still needs.
        self._free_final: list[list[int]] = [
            list(range(_FIRST_FINAL_SLOTS))[::-1] for _ in range(L)
        ]
        self._finals_at: dict[int, list[tuple[int, int]]] = {}
        # [L, T, E] bool: transitions that failed and are never sampled; None while there is none.
        self.is_failed: Tensor | None = None
        self.time = -1  # index in time of the newest observation; -1 before `start_`

    @property
    def num_slots(self) -> int:
        """T, one more than the transitions per environment that are kept."""
        return self.obs.shape[1]

    @property
    def envs_per_lane(self) -> int:
        """E."""
        return self.obs.shape[2]

    @property
    def size(self) -> int:
        """Transitions that can be sampled, per lane."""
        return min(max(self.time, 0), self.num_slots - 1) * self.obs.shape[2]

    def start_(self, obs: Tensor) -> None:
        """Put the observation after a full reset [L, E, D] in the newest slot, which then begins
        an episode.

        In a replay that already holds transitions (a resumed run, whose environments begin anew),
        the observation that was newest becomes the last one of its episode; no transition leads
        from it to the new one.
        """
        if self.time > 0:
            slot, newest = (self.time - 1) % self.num_slots, self.obs[:, self.time % self.num_slots]
            self._add_finals_((self.final_slot[:, slot] < 0).cpu(), self.time - 1, newest)
        self.time = max(self.time, 0)
        self.obs[:, self.time % self.num_slots] = obs

    def add_(
        self,
        action: Tensor,
        reward: Tensor,
        terminated: Tensor,
        done: Tensor,
        final_obs: Tensor,
        next_obs: Tensor,
        failed: Tensor | None = None,
    ) -> None:
        """Store the transition from the newest observation, and the observation that follows it.

        Args:
            action: [L, E, A] float32.
            reward: [L, E] float32.
            terminated: [L, E] bool; the task ended, which a time limit does not do.
            done: [L, E] bool on the host; the environment was reset after this step, for whatever
                reason.
            final_obs: [L, E, D] observation before that reset.
            next_obs: [L, E, D] observation after it, where the next transition starts.
            failed: [L, E] bool on the host; the simulation broke down and this is no transition.
        """
        slot = self.time % self.num_slots
        self._release_finals_(self.time - self.num_slots)
        self.action[:, slot] = action
        self.reward[:, slot] = reward
        self.not_terminated[:, slot] = ~terminated
        self.final_slot[:, slot] = -1
        self._mark_failed_(slot, failed)
        self._add_finals_(done, self.time, final_obs)
        self.time += 1
        self.obs[:, self.time % self.num_slots] = next_obs

    def _mark_failed_(self, slot: int, failed: Tensor | None) -> None:
        if self.is_failed is None:
            if failed is None or not failed.any():
                return
            self.is_failed = torch.zeros_like(self.not_terminated, dtype=torch.bool)
        self.is_failed[:, slot] = False if failed is None else failed.to(self.is_failed.device)

    def _add_finals_(self, done: Tensor, time: int, obs: Tensor) -> None:
        """Keep obs[l, e] as the last observation of the transition of `time`, where done [L, E]."""
        lanes, envs = done.nonzero(as_tuple=True)
        if len(lanes) == 0:
            return
        pairs = [(lane, self._take_final_slot_(lane)) for lane in lanes.tolist()]
        self._finals_at.setdefault(time, []).extend(pairs)
        device = self.obs.device
        index = torch.tensor([index for _, index in pairs]).to(device)
        lanes, envs = lanes.to(device), envs.to(device)
        self.final_obs[lanes, index] = obs[lanes, envs]
        self.final_slot[lanes, time % self.num_slots, envs] = index.to(torch.int32)

    def _take_final_slot_(self, lane: int) -> int:
        if not self._free_final[lane]:
            self._grow_finals_()
        return self._free_final[lane].pop()

    def _release_finals_(self, time: int) -> None:
        for lane, index in self._finals_at.pop(time, ()):
            self._free_final[lane].append(index)

    def _grow_finals_(self) -> None:
        L, S, D = self.final_obs.shape
        grown = torch.zeros(L, 2 * S, D, device=self.final_obs.device)
        grown[:, :S] = self.final_obs
        self.final_obs = grown
        for free in self._free_final:
            free[:0] = range(2 * S - 1, S - 1, -1)

    def sample(self, rng: LaneRng, update: int, batch_size: int) -> Batch:
        """Draw a minibatch per lane, uniformly with replacement, each lane by its own random
        stream.

        Args:
            rng: random numbers of the lanes.
            update: index of the update, the step of the random stream.
            batch_size: B, transitions per lane.

        Returns:
            Batch with axes [L, B, .].

        Raises:
            ValueError: the replay is empty, or hardly a transition of a lane is sound.
        """
        if self.size == 0:
            raise ValueError("replay is empty: add transitions before sampling")
        pick = rng.integers(Stream.REPLAY, update, self.size, (batch_size,))  # [L, B]
        if self.is_failed is not None:
            pick = self._redrawn(pick, self.is_failed, rng, update)
        return self.transitions(*self._place(pick))

    def _place(self, pick: Tensor) -> tuple[Tensor, Tensor]:
        """Time and environment of the pick-th oldest transition."""
        E = self.envs_per_lane
        oldest = self.time - self.size // E
        if E == 1:
            return oldest + pick, torch.zeros_like(pick)
        return oldest + pick // E, pick % E

    def _redrawn(self, pick: Tensor, is_failed: Tensor, rng: LaneRng, update: int) -> Tensor:
        """Picks with those of failed transitions drawn again, so that the others stay uniform."""
        lane = torch.arange(pick.shape[0], device=pick.device).unsqueeze(1)
        for draw in range(1, _MAX_DRAWS):
            time, env = self._place(pick)
            is_bad = is_failed[lane, time % self.num_slots, env]
            if not is_bad.any():
                return pick
            again = rng.integers(Stream.REPLAY, update, self.size, pick.shape[1:], sub=draw)
            pick = torch.where(is_bad, again, pick)
        raise ValueError(
            f"the simulation fails in nearly every step of lane {int(is_bad.any(1).nonzero()[0])} "
            "of this block, so that there is nothing to learn from"
        )

    def transitions(self, time: Tensor, env: Tensor) -> Batch:
        """The transitions that started at (time, env), both [L, B] int64."""
        rings = Rings(
            self.obs, self.action, self.reward, self.not_terminated, self.final_slot, self.final_obs
        )
        return gather_transitions(rings, time, env)

    def newest_id(self) -> Tensor:
        """Ids [L, E] of the newest observations, those that the agents act on."""
        L, _, E, _ = self.obs.shape
        ids = 2 * (self.time * E + torch.arange(E, device=self.obs.device))
        return ids.expand(L, E)

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that restore the replay: the filled slots, the side table and the time."""
        filled = min(self.time + 1, self.num_slots)
        ring = ["obs", "action", "reward", "not_terminated", "final_slot"]
        if self.is_failed is not None:
            ring.append("is_failed")
        state = {name: getattr(self, name)[:, :filled].contiguous() for name in ring}
        return state | {"final_obs": self.final_obs, "time": torch.tensor(self.time)}

    def load_state_dict_(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned, into a replay of the same sizes.

        Raises:
            ValueError: the sizes differ.
        """
        self.time = int(state["time"])
        filled = min(self.time + 1, self.num_slots)
        names = ["obs", "action", "reward", "not_terminated", "final_slot"]
        self.is_failed = None
        if "is_failed" in state:
            self.is_failed = torch.zeros_like(self.not_terminated, dtype=torch.bool)
            names.append("is_failed")
        for name in names:
            ring = getattr(self, name)
            if state[name].shape != ring[:, :filled].shape:
                raise ValueError(
                    f"replay.{name} has shape {tuple(state[name].shape)}; "
                    f"this run expects {tuple(ring[:, :filled].shape)}"
                )
            ring[:, :filled] = state[name]
        self.final_obs = state["final_obs"].to(self.obs.device, copy=True)
        self._restore_finals_()

    def _restore_finals_(self) -> None:
        L, S, _ = self.final_obs.shape
        used: list[set[int]] = [set() for _ in range(L)]
        self._finals_at = {}
        lanes, slots, envs = (self.final_slot >= 0).nonzero(as_tuple=True)
        indices = self.final_slot[lanes, slots, envs].tolist()
        newest = (self.time - 1) % self.num_slots
        for lane, slot, index in zip(lanes.tolist(), slots.tolist(), indices, strict=True):
            time = self.time - 1 - (newest - slot) % self.num_slots
            self._finals_at.setdefault(time, []).append((lane, index))
            used[lane].add(index)
        self._free_final = [[i for i in range(S - 1, -1, -1) if i not in taken] for taken in used]
