"""Minibatches from the rings of a replay: rows that lie anywhere in memory, side by side.

Axes: L lanes, T ring slots in time, E environments per lane, S rows of the side table, D real
features, A actions, B minibatch. What the rings hold is said in replay.py.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from fastanf.kernels.linear import is_native
from fastanf.kernels.native import GatherArgs
from fastanf.kernels.stack import native


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
    final_slot: Tensor  # [L, T, E] int32, row of the side table where an episode ended, else -1
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
    batch = Batch(
        torch.empty(L, B, D), torch.empty(L, B, A), torch.empty(L, B), torch.empty(L, B),
        torch.empty(L, B, D), torch.empty(L, B, dtype=torch.int64),
        torch.empty(L, B, dtype=torch.int64),
    )  # fmt: skip
    native().fastanf_gather(
        ctypes.byref(
            GatherArgs(
                *(tensor.data_ptr() for tensor in (*rings, time, env, *batch)),
                L, T, E, rings.final_obs.shape[1], D, A, B, torch.get_num_threads(),
            )
        )
    )  # fmt: skip
    return batch
