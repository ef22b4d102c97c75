"""A replay as tensors, for checkpoints: its newest observations, and its transitions in spans of
time that are read and put back one by one.

Axes: L lanes, n times of a span, E environments per lane, D real features, A actions, K transitions
that end an episode. Where a replay keeps the last observation of an episode is its own matter: a
span holds these observations in the order of their transitions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastanf.replay import FAILED, LaneReplay

_RINGS = ("obs", "action", "reward", "not_terminated")
GOES_ON, ENDS, BREAKS_DOWN = 0, 1, 2
"""How a transition goes on: within its episode, as its last one, as none."""
_NO_TIME = 1 << 62
"""Beyond every time."""


def bytes_per_time(replay: LaneReplay) -> int:
    """Of one time of a span, last observations left out."""
    return sum(ring[:, :1].nbytes for ring in (*_rings(replay).values(), replay.not_terminated))


def _rings(replay: LaneReplay) -> dict[str, Tensor]:
    return {name: getattr(replay, name) for name in _RINGS}


def newest_state(replay: LaneReplay) -> dict[str, Tensor]:
    """The time and the newest observations [L, E, D]; what came before is in spans."""
    return {"time": torch.tensor(replay.time), "newest": replay.observations(replay.time)}


def span_tensors(replay: LaneReplay, first: int, end: int) -> dict[str, Tensor]:
    """The transitions that started at the times [first, end), which the ring holds.

    Returns:
        obs [L, n, E, D], action [L, n, E, A], reward and not_terminated [L, n, E]; how each goes
        on, `end` [L, n, E] uint8 (GOES_ON, ENDS, BREAKS_DOWN); and of those that end an episode its
        last observation, final_obs [K, D].
    """
    slots = (torch.arange(first, end) % replay.num_slots).to(replay.obs.device)
    tensors = {name: ring.index_select(1, slots) for name, ring in _rings(replay).items()}
    final_slot = replay.final_slot.index_select(1, slots)
    ends = torch.full_like(final_slot, GOES_ON, dtype=torch.uint8)
    ends.masked_fill_(final_slot == FAILED, BREAKS_DOWN).masked_fill_(final_slot >= 0, ENDS)
    lanes, times, envs = (final_slot >= 0).nonzero(as_tuple=True)
    final_obs = replay.final_obs[lanes, final_slot[lanes, times, envs].long()]
    return tensors | {"end": ends, "final_obs": final_obs}


def begin_restore_(replay: LaneReplay, state: dict[str, Tensor]) -> None:
    """Bring a replay to where `newest_state` was taken. Its transitions must follow in
    `restore_span_`, all that can be sampled and in the order of time.

    Raises:
        ValueError: the state of another replay.
    """
    time, newest = state["time"], state["newest"]
    _check("newest", newest, replay.observations(0))
    if time.shape != () or time.dtype != torch.int64 or not 0 <= int(time) < _NO_TIME:
        raise ValueError(f"replay/time must be one number from 0 to 2^62, got {time}")
    replay.begin_at_(int(time), newest.to(replay.obs.device))


def restore_span_(
    replay: LaneReplay, tensors: dict[str, Tensor], first: int, start: int, stop: int
) -> None:
    """Put back the transitions of the times [start, stop).

    Args:
        replay: of the same sizes.
        tensors: of `span_tensors`, on the host.
        first: the time that they begin with.
        start: at least `first`.
        stop: at most the end of what they hold.

    Raises:
        ValueError: the tensors are not of such a replay.
    """
    _check_span(replay, tensors, stop - first)
    slots = (torch.arange(start, stop) % replay.num_slots).to(replay.obs.device)
    for name, ring in _rings(replay).items():
        ring.index_copy_(1, slots, tensors[name][:, start - first : stop - first].to(ring.device))
    lanes, times, envs = (tensors["end"] == BREAKS_DOWN).nonzero(as_tuple=True)
    is_wanted = (times >= start - first) & (times < stop - first)
    replay.mark_failed_(lanes[is_wanted], first + times[is_wanted], envs[is_wanted])
    lanes, times, envs = (tensors["end"] == ENDS).nonzero(as_tuple=True)
    is_wanted = (times >= start - first) & (times < stop - first)
    final_obs = tensors["final_obs"][is_wanted].to(replay.obs.device)
    replay.keep_finals_(lanes[is_wanted], first + times[is_wanted], envs[is_wanted], final_obs)


def _check_span(replay: LaneReplay, tensors: dict[str, Tensor], num_times: int) -> None:
    """Raise where tensors are not a span of at least that many times of such a replay."""
    if set(tensors) != {*_RINGS, "end", "final_obs"}:
        raise ValueError(f"a span of the replay holds {', '.join(sorted(tensors)) or 'nothing'}")
    found = tensors["reward"].shape[1] if tensors["reward"].dim() == 3 else 0
    if found < num_times:
        raise ValueError(f"a span of the replay holds {found} times of {num_times}")
    for name, ring in {**_rings(replay), "end": replay.not_terminated}.items():
        _check(name, tensors[name], ring[:, :1].expand(-1, found, *ring.shape[2:]))
    num_ends = int((tensors["end"] == ENDS).sum())
    _check("final_obs", tensors["final_obs"], replay.obs[0, 0, :1].expand(num_ends, -1))
    if found and int(tensors["end"].max()) > BREAKS_DOWN:
        raise ValueError("a span of the replay does not say how a transition goes on")


def _check(name: str, found: Tensor, like: Tensor) -> None:
    if found.shape != like.shape or found.dtype != like.dtype:
        raise ValueError(
            f"{name} of the replay has shape {tuple(found.shape)} of {found.dtype}; this run "
            f"expects {tuple(like.shape)} of {like.dtype}"
        )
