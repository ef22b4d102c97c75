"""Minibatches from the rings of a replay: rows that lie anywhere in memory, side by side.

`gather_transitions` takes the rows that it is told. `sample_transitions_` draws them too, from
numbers that lie on the device alone, so that a CUDA graph of it draws others at every replay.

Axes: L lanes, T ring slots in time, E environments per lane, S rows of the side table, D real
features, A actions, B minibatch, R draws of one pick. What the rings hold is said in replay.py.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from fastanf import kernels
from fastanf.kernels.linear import is_native
from fastanf.kernels.native import GatherArgs
from fastanf.kernels.philox import philox_ref
from fastanf.kernels.stack import native

NO_FINAL = -1
"""In `Rings.final_slot`: the episode went on."""
FAILED = -2
"""In `Rings.final_slot`: the simulation broke down, and this transition is never sampled."""
_LOW = 0xFFFFFFFF


class Batch(NamedTuple):
    """A minibatch per lane."""

    obs: Tensor  # [L, B, D] float32, real features only
    action: Tensor  # [L, B, A] float32
    reward: Tensor  # [L, B] float32
    not_terminated: Tensor  # [L, B] float32; 1 also where the time limit ended the episode
    next_obs: Tensor  # [L, B, D] float32, the last observation of the episode where it ended
    obs_id: Tensor  # [L, B] int64
    next_obs_id: Tensor  # [L, B] int64


class Rings(NamedTuple):
    """What a replay stores, contiguous."""

    obs: Tensor  # [L, T, E, D] float32
    action: Tensor  # [L, T, E, A] float32
    reward: Tensor  # [L, T, E] float32
    not_terminated: Tensor  # [L, T, E] uint8
    # [L, T, E] int32: row of the side table where an episode ended, else NO_FINAL or FAILED
    final_slot: Tensor
    final_obs: Tensor  # [L, S, D] float32


def gather_transitions_ref(rings: Rings, time: Tensor, env: Tensor) -> Batch:
    """Plain-torch definition of `gather_transitions`."""
    L, T, E, D = rings.obs.shape
    lane = torch.arange(L, device=time.device).unsqueeze(1)
    row = (lane * T + time % T) * E + env  # [L, B] in the flattened ring
    next_row = (lane * T + (time + 1) % T) * E + env
    obs = rings.obs.view(-1, D)
    final_slot = rings.final_slot.view(-1)[row]
    ended = final_slot >= 0
    final_row = lane * rings.final_obs.shape[1] + final_slot.clamp_min(0)
    next_obs = torch.where(
        ended.unsqueeze(-1), rings.final_obs.view(-1, D)[final_row], obs[next_row]
    )
    obs_id = 2 * (time * E + env)
    return Batch(
        obs=obs[row],
        action=rings.action.view(-1, rings.action.shape[-1])[row],
        reward=rings.reward.view(-1)[row],
        not_terminated=rings.not_terminated.view(-1)[row].float(),
        next_obs=next_obs,
        obs_id=obs_id,
        next_obs_id=torch.where(ended, obs_id + 1, obs_id + 2 * E),
    )


def gather_transitions(rings: Rings, time: Tensor, env: Tensor) -> Batch:
    """The transitions that started at (time, env).

    Args:
        rings: of a replay.
        time: [L, B] int64, at least 0; slot time % T.
        env: [L, B] int64 in [0, E).
    """
    if not is_native(rings.obs, rings.action):
        return gather_transitions_ref(rings, time, env)
    L, T, E, D = rings.obs.shape
    A, B = rings.action.shape[-1], time.shape[1]
    time, env = time.contiguous(), env.contiguous()
    batch = _empty_batch(rings, B)
    native().fastanf_gather(
        ctypes.byref(
            GatherArgs(
                *(tensor.data_ptr() for tensor in (*rings, time, env, *batch)),
                L, T, E, rings.final_obs.shape[1], D, A, B, torch.get_num_threads(),
            )
        )
    )  # fmt: skip
    return batch


def _empty_batch(rings: Rings, batch_size: int) -> Batch:
    """A minibatch of these rings' sizes, on their device."""
    L, D, A, B = len(rings.obs), rings.obs.shape[-1], rings.action.shape[-1], batch_size
    empty = rings.obs.new_empty
    return Batch(
        empty(L, B, D), empty(L, B, A), empty(L, B), empty(L, B), empty(L, B, D),
        empty(L, B, dtype=torch.int64), empty(L, B, dtype=torch.int64),
    )  # fmt: skip


def sample_transitions_ref_(
    is_barren: Tensor,
    rings: Rings,
    clock: Tensor,
    key: Tensor,
    update: Tensor,
    streams: range,
    batch_size: int,
) -> Batch:
    """Plain-torch definition of `sample_transitions_`: all draws of every pick, then the first that
    is sound.
    """
    L, T, E, _ = rings.obs.shape
    num_steps = clock.clamp(0, T - 1)
    words = _words(key, update, streams, batch_size)  # [L, R, B]
    pick = (words * (num_steps * E)) >> 32
    time, env = clock - num_steps + pick // E, pick % E
    lane = torch.arange(L, device=key.device).view(L, 1, 1)
    is_failed = rings.final_slot.view(-1)[(lane * T + time % T) * E + env] == FAILED
    is_barren.logical_or_(is_failed.all(1).any(1))
    draw = is_failed.to(torch.uint8).argmin(1, keepdim=True)  # the first of the smallest
    return gather_transitions_ref(
        rings, time.gather(1, draw).squeeze(1), env.gather(1, draw).squeeze(1)
    )


def _words(key: Tensor, update: Tensor, streams: range, num_words: int) -> Tensor:
    """[L, R, num_words] int64: the first words of row `update` in each of R streams."""
    block = torch.arange(-(-num_words // 4), device=key.device)
    stream = torch.arange(streams.start, streams.stop, streams.step, device=key.device)
    key = key[:, None, None]
    words = philox_ref(
        (block, update & _LOW, (update >> 32) & _LOW, stream[:, None]),
        (key & _LOW, (key >> 32) & _LOW),
    )
    return torch.stack(words, -1).flatten(2)[:, :, :num_words]


def sample_transitions_(
    is_barren: Tensor,
    rings: Rings,
    clock: Tensor,
    key: Tensor,
    update: Tensor,
    streams: range,
    batch_size: int,
) -> Batch:
    """B transitions per lane, uniform with replacement among those that did not fail.

    With n = E * min(clock, T - 1) transitions stored, pick b of a lane is floor(w n / 2^32) counted
    from the oldest, w being word b of row `update` in the first of the streams; one that failed is
    drawn again of the next stream. The host waits for nothing and gives no number that changes.

    Args:
        is_barren: [L] uint8, set to 1 where a lane found no sound transition in any stream; what
            the minibatch holds in its place means nothing.
        rings: of a replay that holds a transition.
        clock: [] int64, index in time of the newest observation.
        key: [L] int64 lane keys.
        update: [] int64, at least 0.
        streams: R stream words, each in [0, 2^31).
        batch_size: B.
    """
    if not kernels.is_triton(rings.obs, key):
        return sample_transitions_ref_(is_barren, rings, clock, key, update, streams, batch_size)
    from fastanf.kernels.gpu import replay

    batch = _empty_batch(rings, batch_size)
    replay.sample_(batch, is_barren, rings, clock, key.contiguous(), update, streams)
    return batch
