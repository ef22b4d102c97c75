"""Uniform experience replay of all lanes on the learner's device, each observation stored once.

Axes: L lanes, T ring slots in time, E environments per lane, D real features, A actions, B
minibatch.

Time t of a lane holds the observations o[t, e]; the successor of a transition is the observation
in the next slot, so that only one copy is kept. Where an episode ends, the next slot already shows
the new episode; the true last observation is then kept in a small side table and found through
`final_slot`. No sampled transition crosses a reset, and none that a simulator could not compute is
sampled: `final_slot` says that it FAILED.

Every observation has an id (`obs_id`, `next_obs_id`): 2 * (t * E + e) for o[t, e], and that plus 1
for the last observation of an episode whose final transition started at (t, e). Noise is a
function of this id (features.py), so a noisy observation can be drawn again from the replay
without having been stored. Ids are not stored either: they follow from the slot's age.

What a minibatch is drawn from lies on the device: the rings, the side table and `clock`. A CUDA
graph of `sample` stays right while transitions are added, until `layout_version` changes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastanf.final_slots import FinalSlots
from fastanf.kernels.replay_gather import (
    FAILED,
    NO_FINAL,
    Batch,
    Rings,
    gather_transitions,
    sample_transitions_,
)
from fastanf.rng import LaneRng, Stream, stream_word

__all__ = ["FAILED", "NO_FINAL", "Batch", "LaneReplay", "replay_bytes"]

_FIRST_FINAL_SLOTS = 64
_MAX_DRAWS = 64
"""Draws of one minibatch until a lane is given up, of whose transitions nearly all have failed."""
_DRAWS = range(
    stream_word(Stream.REPLAY), stream_word(Stream.REPLAY, _MAX_DRAWS), stream_word(0, 1)
)
"""Their stream words."""


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
        self.final_slot = torch.full((L, T, E), NO_FINAL, dtype=torch.int32, device=device)
        self.final_obs = torch.zeros(L, _FIRST_FINAL_SLOTS, num_features, device=device)
        self._final_slots = FinalSlots(L, _FIRST_FINAL_SLOTS)
        self._failed_at: set[int] = set()  # times in the ring at which some lane's step failed
        self._is_under_way = False  # between `advance_` and `store_`
        self.is_barren = torch.zeros(L, dtype=torch.uint8, device=device)
        """[L] 1 in lanes for whose minibatch nothing sound was found: their simulation breaks down
        in nearly every step."""
        self.clock = torch.empty((), dtype=torch.int64, device=device)
        """The device's copy of `time`."""
        self.time = -1
        self.layout_version = 0
        """Rises whenever a tensor that `sample` reads is replaced by another, as the side table is
        when it grows: who holds their addresses (a CUDA graph) must take them anew."""
        self.first_unsaved = 0
        """Transitions before this time are as the last checkpoint has them; who writes one says
        how far it reaches."""

    @property
    def time(self) -> int:
        """Index in time of the newest observation, or of the one under way; -1 before `start_`."""
        return self._time

    @time.setter
    def time(self, time: int) -> None:
        self._time = time
        self.clock.fill_(time)

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

    @property
    def oldest(self) -> int:
        """Time of the oldest transition that can be sampled."""
        return self.time - self.size // self.envs_per_lane

    def start_(self, obs: Tensor) -> None:
        """Put the observation after a full reset [L, E, D] in the newest slot, which then begins
        an episode.

        In a replay that already holds transitions (a resumed run, whose environments begin anew),
        the observation that was newest becomes the last one of its episode; no transition leads
        from it to the new one.
        """
        if self.time > 0:
            slot, newest = (self.time - 1) % self.num_slots, self.obs[:, self.time % self.num_slots]
            goes_on = (self.final_slot[:, slot] == NO_FINAL).cpu()
            self._add_finals_(goes_on, self.time - 1, newest)
            self.first_unsaved = min(self.first_unsaved, self.time - 1)
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
        self.advance_()
        self.store_(action, reward, terminated, done, final_obs, next_obs, failed)

    def advance_(self) -> None:
        """Count the transition from the newest observation, which is under way.

        `time`, `clock` and `size` are those after it from here on; `store_` brings it. Meanwhile
        updates may sample, if they do not draw it (`draws_newest`): they get what they would get
        afterwards, because with t its time they read

        * actions, rewards, ends of [t - T + 2, t - 1], and `store_` writes slot t;
        * observations of [t - T + 2, t], and `store_` writes slot t + 1, which was t + 1 - T;
        * rows of the side table that these times hold, and `store_` takes free ones. Those that
          come free here are of t - T. Where the table grows, the old rows are copied.
        """
        assert not self._is_under_way
        self._is_under_way = True
        gone = self.time - self.num_slots
        self._final_slots.release_(gone)
        self._failed_at.discard(gone)
        self.time += 1

    def store_(
        self,
        action: Tensor,
        reward: Tensor,
        terminated: Tensor,
        done: Tensor,
        final_obs: Tensor,
        next_obs: Tensor,
        failed: Tensor | None = None,
    ) -> None:
        """Store the transition that `advance_` counted. Args as `add_`."""
        assert self._is_under_way
        time = self.time - 1
        slot = time % self.num_slots
        self.action[:, slot] = action
        self.reward[:, slot] = reward
        self.not_terminated[:, slot] = ~terminated
        self.final_slot[:, slot] = NO_FINAL
        if failed is not None and failed.any():
            self._failed_at.add(time)
            self.final_slot[:, slot].masked_fill_(self._to_device(failed), FAILED)
            done = done & ~failed
        self._add_finals_(done, time, final_obs)
        self.obs[:, self.time % self.num_slots] = next_obs
        self._is_under_way = False

    def _add_finals_(self, done: Tensor, time: int, obs: Tensor) -> None:
        """Keep obs[l, e] as the last observation of the transition of `time`, where done [L, E]."""
        lanes, envs = done.nonzero(as_tuple=True)
        if len(lanes):
            rows = obs[self._to_device(lanes), self._to_device(envs)]
            self.keep_finals_(lanes, torch.full_like(lanes, time), envs, rows)

    def _take_final_slot_(self, lane: int, time: int) -> int:
        if not self._final_slots.has_free(lane):
            self._grow_finals_()
        return self._final_slots.take_(lane, time)

    def _to_device(self, host: Tensor) -> Tensor:
        return host.to(self.obs.device, non_blocking=True)

    def _grow_finals_(self) -> None:
        L, S, D = self.final_obs.shape
        grown = torch.zeros(L, 2 * S, D, device=self.final_obs.device)
        grown[:, :S] = self.final_obs
        self.final_obs = grown
        self.layout_version += 1
        self._final_slots.grow_(S, 2 * S)

    def sample(self, rng: LaneRng, update: int | Tensor, batch_size: int) -> Batch:
        """Draw a minibatch per lane, uniformly with replacement, each lane by its own random
        stream.

        Args:
            rng: random numbers of the lanes.
            update: index of the update, the step of the random stream. A tensor [] int64 on the
                replay's device gives the same minibatch and leaves the host out: it neither waits
                nor gives a number that changes from call to call.
            batch_size: B, transitions per lane.

        Returns:
            Batch with axes [L, B, .].

        Raises:
            ValueError: the replay is empty. A lane of which hardly a transition is sound gets such
                as failed, and `is_barren` says so.
        """
        if self.size == 0:
            raise ValueError("replay is empty: add transitions before sampling")
        if isinstance(update, Tensor):
            return sample_transitions_(
                self.is_barren, self._rings(), self.clock, rng.key, update, _DRAWS, batch_size
            )
        pick = rng.integers(Stream.REPLAY, update, self.size, (batch_size,))  # [L, B]
        if self._failed_at:
            pick = self._redrawn(pick, rng, update)
        return self.transitions(*self._place(pick))

    def _place(self, pick: Tensor) -> tuple[Tensor, Tensor]:
        """Time and environment of the pick-th oldest transition."""
        E = self.envs_per_lane
        if E == 1:
            return self.oldest + pick, torch.zeros_like(pick)
        return self.oldest + pick // E, pick % E

    def _redrawn(self, pick: Tensor, rng: LaneRng, update: int) -> Tensor:
        """Picks with those of failed transitions drawn again, so that the others stay uniform."""
        lane = torch.arange(pick.shape[0], device=pick.device).unsqueeze(1)
        is_hopeful = (self.is_barren == 0).unsqueeze(1)
        is_bad = torch.ones_like(pick, dtype=torch.bool)
        for draw in range(_MAX_DRAWS):
            if draw:
                again = rng.integers(Stream.REPLAY, update, self.size, pick.shape[1:], sub=draw)
                pick = torch.where(is_bad, again, pick)
            time, env = self._place(pick)
            is_bad = self.final_slot[lane, time % self.num_slots, env] == FAILED
            is_bad &= is_hopeful
            if not is_bad.any():
                return pick
        self.is_barren.logical_or_(is_bad.any(1))
        return pick

    def check(self) -> None:
        """Look at what `sample` could not say; the host waits for it.

        Raises:
            ValueError: hardly a transition of a lane is sound.
        """
        if self.is_barren.any():
            raise _nothing_sound(self.is_barren)

    def draws_newest(self, rng: LaneRng, update: int, batch_size: int) -> bool:
        """Whether the minibatch of an update may hold a newest transition in any lane; True also
        while the ring holds a failed one, because then picks are drawn again.

        Args:
            rng: the lanes' random numbers on the host, which so need not ask the device.
            update, batch_size: as `sample`.
        """
        if self._failed_at:
            return True
        pick = rng.integers(Stream.REPLAY, update, self.size, (batch_size,))
        return int(pick.amax()) >= self.size - self.envs_per_lane

    def transitions(self, time: Tensor, env: Tensor) -> Batch:
        """The transitions that started at (time, env), both [L, B] int64."""
        return gather_transitions(self._rings(), time, env)

    def _rings(self) -> Rings:
        return Rings(
            self.obs, self.action, self.reward, self.not_terminated, self.final_slot, self.final_obs
        )

    def observations(self, time: int | Tensor) -> Tensor:
        """The observations [L, E, D] of a time that the ring holds.

        Args:
            time: a tensor [] int64 on the device, such as `clock`, is not read by the host.
        """
        if isinstance(time, Tensor):
            return self.obs.index_select(1, (time % self.num_slots).view(1)).squeeze(1)
        return self.obs[:, time % self.num_slots]

    def newest_id(self, time: int | Tensor | None = None) -> Tensor:
        """Ids [L, E] of the newest observations, those that the agents act on.

        Args:
            time: theirs; None is `self.time`, and `clock` keeps the host out of it.
        """
        L, _, E, _ = self.obs.shape
        time = self.time if time is None else time
        ids = 2 * (time * E + torch.arange(E, device=self.obs.device))
        return ids.expand(L, E)

    def begin_at_(self, time: int, newest: Tensor) -> None:
        """Become a replay whose newest observations [L, E, D] are of `time`, and whose transitions
        before it are still to be put back (replay_state.py).
        """
        self.time = time
        self.obs[:, time % self.num_slots] = newest
        self.final_slot.fill_(NO_FINAL)
        self._final_slots = FinalSlots(*self.final_obs.shape[:2])
        self._failed_at.clear()
        self.layout_version += 1

    def mark_failed_(self, lanes: Tensor, times: Tensor, envs: Tensor) -> None:
        """Say of transitions (lane, time, environment), [K] each on the host, that their simulation
        broke down.
        """
        self._failed_at.update(times.tolist())
        slots = times % self.num_slots
        lanes, slots, envs = (self._to_device(numbers) for numbers in (lanes, slots, envs))
        self.final_slot[lanes, slots, envs] = FAILED

    def keep_finals_(self, lanes: Tensor, times: Tensor, envs: Tensor, obs: Tensor) -> None:
        """Keep obs [K, D] as the last observations of the episodes that end with the transitions
        (lane, time, environment), [K] each on the host.
        """
        pairs = zip(lanes.tolist(), times.tolist(), strict=True)
        taken = [self._take_final_slot_(lane, time) for lane, time in pairs]
        if not taken:
            return
        index, slots = torch.tensor(taken), times % self.num_slots
        lanes, slots, envs, index = map(self._to_device, (lanes, slots, envs, index))
        self.final_obs[lanes, index] = obs
        self.final_slot[lanes, slots, envs] = index.to(torch.int32)


def _nothing_sound(is_barren: Tensor) -> ValueError:
    """The error of the first lane that is_barren [L] names."""
    return ValueError(
        f"the simulation fails in nearly every step of lane {int(is_barren.nonzero()[0])} "
        "of this block, so that there is nothing to learn from"
    )
