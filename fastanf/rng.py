"""Random numbers of lanes: a pure function of (lane seed, stream, sub-stream, step, element).

A lane has no generator state to save or to advance, so its numbers depend neither on the other
lanes nor on the order of calls, and a resumed run draws what the unbroken one would have drawn.

Axes: [L, ...] lane first. Generator: Philox4x32-7, see `kernels/philox.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

from fastanf.kernels.philox import random_bits, random_bits_ref, random_normal, random_uniform

_NUM_SUBSTREAMS = 2**24
_MAX_HIGH = 2**31


class Stream(IntEnum):
    """What random numbers are for; numbers of different streams are independent.

    The values are part of the meaning of a checkpoint: append, never renumber.
    """

    INIT = 0
    MASK = 1
    TOPOLOGY_DROP = 2
    TOPOLOGY_GROW = 3
    TOPOLOGY_VALUE = 4
    REPLAY = 5
    ACTION_NOISE = 6
    TARGET_NOISE = 7
    EXPLORE = 8
    RANDOM_ACTION = 9
    LEARN_FEATURES = 10
    COLLECT_FEATURES = 11
    EVAL_FEATURES = 12
    STEP_FEATURES = 13
    PERMUTATION = 14
    EVAL = 15
    ROW_SEEDS = 16


def stream_word(stream: int, sub: int = 0) -> int:
    """The counter word of a stream and a small index within it, such as a layer's.

    Raises:
        ValueError: unless stream is in [0, 256) and sub in [0, 2^24).
    """
    if not 0 <= stream < 256:
        raise ValueError(f"stream={stream}: must be in [0, 256)")
    if not 0 <= sub < _NUM_SUBSTREAMS:
        raise ValueError(f"sub={sub}: must be in [0, {_NUM_SUBSTREAMS})")
    return int(stream) | (int(sub) << 8)


class LaneRng:
    """Draws for L lanes at once; everything of lane l depends on seeds[l] alone.

    Each draw names a stream and a step (usually the number of the update or of the environment
    step): equal names give equal numbers. `sub` tells apart draws of one stream at one step.
    """

    def __init__(
        self, seeds: Sequence[int] | Tensor, device: torch.device | str | None = None
    ) -> None:
        """Holds the lanes' seeds as their keys.

        Args:
            seeds: [L] integers in [0, 2^63).
            device: where the numbers are drawn; default the seeds' own, or CPU.

        Raises:
            ValueError: on a seed outside [0, 2^63).
        """
        self.key = _lane_keys(seeds).to(device)

    @property
    def num_lanes(self) -> int:
        """L."""
        return self.key.shape[0]

    def select(self, index: Tensor | Sequence[int] | slice) -> LaneRng:
        """The random numbers of some of the lanes."""
        if not isinstance(index, slice):
            index = torch.as_tensor(index, device=self.key.device)
        return LaneRng(self.key[index])

    def bits(self, stream: int, step: int | Tensor, shape: Sequence[int], sub: int = 0) -> Tensor:
        """[L, *shape] int64, uniform in [0, 2^32).

        Args:
            stream: a `Stream`.
            step: in [0, 2^63), the same for all lanes, or [L] int64.
            shape: of one lane's numbers.
            sub: index within the stream.
        """
        n = math.prod(shape)
        words = random_bits(self.key, self._row(step), stream_word(stream, sub), n)
        return words.view(self.num_lanes, *shape)

    def uniform(
        self, stream: int, step: int | Tensor, shape: Sequence[int], sub: int = 0
    ) -> Tensor:
        """[L, *shape] float32, uniform in (0, 1), never 0 nor 1. Args as `bits`."""
        n = math.prod(shape)
        draw = random_uniform(self.key, self._row(step), stream_word(stream, sub), n)
        return draw.view(self.num_lanes, *shape)

    def normal(self, stream: int, step: int | Tensor, shape: Sequence[int], sub: int = 0) -> Tensor:
        """[L, *shape] float32, standard normal. Args as `bits`."""
        n = math.prod(shape)
        draw = random_normal(self.key, self._row(step), stream_word(stream, sub), n)
        return draw.view(self.num_lanes, *shape)

    def integers(
        self, stream: int, step: int | Tensor, high: int, shape: Sequence[int], sub: int = 0
    ) -> Tensor:
        """[L, *shape] int64, uniform in [0, high): floor(word * high / 2^32).

        No value's probability is off by more than a fraction high / 2^32 of itself (2^-12 for a
        million).

        Args:
            stream, step, shape, sub: as `bits`.
            high: in [1, 2^31].
        """
        if not 1 <= high <= _MAX_HIGH:
            raise ValueError(f"high={high}: must be in [1, 2^31]")
        return (self.bits(stream, step, shape, sub) * high) >> 32

    def permutation(self, stream: int, step: int | Tensor, n: int, sub: int = 0) -> Tensor:
        """[L, n] int64, a uniformly random order of 0 to n - 1 for each lane. Args as `bits`."""
        words = self.bits(stream, step, (2, n), sub)
        # 63 bits, so that ties, which would favour the lower index, do not occur in practice.
        return ((words[:, 0] << 31) | (words[:, 1] >> 1)).argsort(dim=1, stable=True)

    def _row(self, step: int | Tensor) -> Tensor:
        if isinstance(step, Tensor):
            return step.to(self.key).view(-1, 1).expand(self.num_lanes, 1)
        if not 0 <= step < 2**63:
            raise ValueError(f"step={step}: must be in [0, 2^63)")
        return torch.full_like(self.key, step)[:, None]


def row_seeds(lane_seeds: Sequence[int] | Tensor, num_rows: int, purpose: int = 0) -> list[int]:
    """Seeds of environment rows, hashed from (lane seed, row, purpose), lane-major.

    Simulators give row i the seed + i; hashing keeps lanes of neighbouring seeds from sharing
    their worlds.

    Args:
        lane_seeds: [L] integers in [0, 2^63).
        num_rows: rows of each lane.
        purpose: in [0, 2^24), such as training or evaluation.

    Returns:
        L * num_rows integers in [0, 2^31).

    Raises:
        ValueError: on a seed or purpose out of range, or a negative number of rows.
    """
    if num_rows < 0:
        raise ValueError(f"num_rows={num_rows}: must be at least 0")
    key = _lane_keys(lane_seeds).cpu()
    row = torch.arange(num_rows).expand(key.shape[0], num_rows)
    words = random_bits_ref(key, row, stream_word(Stream.ROW_SEEDS, purpose), 1)
    return (words[:, 0] >> 1).flatten().tolist()


def _lane_keys(seeds: Sequence[int] | Tensor) -> Tensor:
    if isinstance(seeds, Tensor):
        if seeds.dtype != torch.int64 or seeds.ndim != 1:
            raise ValueError(f"seeds of {[*seeds.shape]} {seeds.dtype}: must be [L] torch.int64")
        if bool((seeds < 0).any()):
            raise ValueError(f"seed={int(seeds.min())}: must be in [0, 2^63)")
        return seeds
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed={seed}: must be in [0, 2^63)")
    return torch.tensor(list(seeds), dtype=torch.int64)
