"""Minibatches drawn and gathered in one launch: `sample_transitions_` of kernels/replay_gather.py.

One program makes a few transitions of one lane. It draws them, draws those anew that failed, and
copies their rows. All of it is integer arithmetic and copying: the bits of the definition.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import triton
import triton.language as tl
from torch import Tensor

from fastanf.kernels.gpu.philox import key_halves, philox4

if TYPE_CHECKING:
    from fastanf.kernels.replay_gather import Batch, Rings

_PICKS = 16
_MAX_COLUMNS = 128
_FAILED = tl.constexpr(-2)  # the value of FAILED in kernels/replay_gather.py
_ONE, _TWO = tl.constexpr(False), tl.constexpr(True)  # sources that rows are copied from


@triton.jit
def _word(index, row_low, row_high, stream, key_low, key_high):
    """Words [n] int64 by their index in one row of one stream."""
    w0, w1, w2, w3 = philox4(index // 4, row_low, row_high, stream, key_low, key_high)
    which = index % 4
    word = tl.where(which < 2, tl.where(which == 0, w0, w1), tl.where(which == 2, w2, w3))
    return word.to(tl.int64)


@triton.jit
def _copy_rows(
    to, to_row, source, row, other, other_row, is_other, is_stored, num_columns,
    HAS_TWO: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Rows of `source`, or of `other` where is_other, as rows of `to`."""
    for first in range(0, num_columns, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        is_here = is_stored[:, None] & (column < num_columns)[None, :]
        if HAS_TWO:
            x = tl.load(
                source + row[:, None] * num_columns + column[None, :],
                mask=is_here & (is_other == 0)[:, None],
                other=0.0,
            )
            y = tl.load(
                other + other_row[:, None] * num_columns + column[None, :],
                mask=is_here & is_other[:, None],
                other=0.0,
            )
            x = tl.where(is_other[:, None], y, x)
        else:
            x = tl.load(source + row[:, None] * num_columns + column[None, :], mask=is_here)
        tl.store(to + to_row[:, None] * num_columns + column[None, :], x, mask=is_here)


@triton.jit
def _sample(
    out_obs, out_action, out_reward, out_not_terminated, out_next_obs, out_id, out_next_id,
    is_barren, obs, action, reward, not_terminated, final_slot, final_obs, clock, key, update,
    T, E, S, D, A, B, first_stream, stream_step, num_draws,
    PICKS: tl.constexpr, OBS_COLUMNS: tl.constexpr, ACTION_COLUMNS: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(1).to(tl.int64)
    b = tl.program_id(0) * PICKS + tl.arange(0, PICKS)
    is_stored = b < B
    now = tl.load(clock)
    num_steps = tl.minimum(tl.maximum(now, 0), T - 1)
    row_low, row_high = key_halves(tl.load(update))
    key_low, key_high = key_halves(tl.load(key + lane))

    time = tl.zeros([PICKS], tl.int64)
    env = tl.zeros([PICKS], tl.int64)
    final = tl.zeros([PICKS], tl.int32)
    is_bad = is_stored
    draw = 0
    while (draw < num_draws) & (tl.sum(is_bad.to(tl.int32), 0) != 0):
        stream = first_stream + draw * stream_step
        word = _word(b, row_low, row_high, stream, key_low, key_high)
        pick = (word * (num_steps * E)) >> 32
        time = tl.where(is_bad, now - num_steps + pick // E, time)
        env = tl.where(is_bad, pick % E, env)
        final = tl.load(final_slot + (lane * T + time % T) * E + env, mask=is_stored, other=0)
        is_bad = is_stored & (final == _FAILED)
        draw += 1
    tl.store(is_barren + lane, 1, mask=tl.sum(is_bad.to(tl.int32), 0) != 0)

    row = (lane * T + time % T) * E + env
    next_row = (lane * T + (time + 1) % T) * E + env
    has_ended = final >= 0
    to = lane * B + b
    _copy_rows(out_obs, to, obs, row, obs, row, has_ended, is_stored, D, _ONE, OBS_COLUMNS)
    _copy_rows(
        out_next_obs, to, obs, next_row, final_obs, lane * S + final, has_ended, is_stored, D,
        _TWO, OBS_COLUMNS,
    )  # fmt: skip
    _copy_rows(
        out_action, to, action, row, action, row, has_ended, is_stored, A, _ONE, ACTION_COLUMNS
    )
    tl.store(out_reward + to, tl.load(reward + row, mask=is_stored), mask=is_stored)
    goes_on = tl.load(not_terminated + row, mask=is_stored)
    tl.store(out_not_terminated + to, goes_on.to(tl.float32), mask=is_stored)
    obs_id = 2 * (time * E + env)
    tl.store(out_id + to, obs_id, mask=is_stored)
    tl.store(out_next_id + to, tl.where(has_ended, obs_id + 1, obs_id + 2 * E), mask=is_stored)


def sample_(
    batch: Batch,
    is_barren: Tensor,
    rings: Rings,
    clock: Tensor,
    key: Tensor,
    update: Tensor,
    streams: range,
) -> None:
    """Writes `batch`; everything else as `sample_transitions_`. All tensors are contiguous."""
    L, T, E, D = rings.obs.shape
    A, B, S = rings.action.shape[-1], batch.reward.shape[1], rings.final_obs.shape[1]
    _sample[(triton.cdiv(B, _PICKS), L)](
        *batch, is_barren, *rings, clock, key, update, T, E, S, D, A, B,
        streams.start, streams.step, len(streams), **_tile(D, A),
    )  # fmt: skip


def _tile(num_features: int, num_actions: int) -> dict[str, Any]:
    return {
        "PICKS": _PICKS,
        "OBS_COLUMNS": min(_MAX_COLUMNS, triton.next_power_of_2(num_features)),
        "ACTION_COLUMNS": min(_MAX_COLUMNS, triton.next_power_of_2(num_actions)),
    }
