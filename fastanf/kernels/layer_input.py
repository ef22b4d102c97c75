"""What enters a layer: stored features, noise that is drawn inside the kernels, and actions.

Axes: L lanes, I = D + N + A inputs (D stored, N noise, A extra), B columns (rows of the minibatch).
Feature-major, [L, I, B]. The fast kernels take the parts where they lie and draw noise where it is
multiplied, the compiled ones block by block in the cache of a thread, Triton's in registers; plain
torch writes them out first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fastanf import kernels
from fastanf.kernels.native import InputArgs, PartArgs
from fastanf.kernels.noise import noise_

_NOTHING = PartArgs(None, 0, 0, 0, 0)


@dataclass(frozen=True, eq=False)
class Noise:
    """N noise features of each row, as `noise_` draws them."""

    key: Tensor
    """[L] int64 lane keys."""
    row: Tensor
    """[L, B] int64, contiguous; any strides for Triton's kernels."""
    stream: int
    num: int
    """N."""
    std: Tensor
    """[L] float32."""
    quantiles: Tensor | None = None
    """[D, 257] float32, or None for Gaussian noise."""


@dataclass(frozen=True, eq=False)
class LayerInput:
    """The input of a stacked layer in up to three parts, in this order."""

    stored: Tensor
    """[L, D, B], any strides."""
    noise: Noise | None = None
    extra: Tensor | None = None
    """[L, A, B], any strides."""

    @property
    def num_lanes(self) -> int:
        """L."""
        return self.stored.shape[0]

    @property
    def num_columns(self) -> int:
        """B."""
        return self.stored.shape[2]

    @property
    def num_inputs(self) -> int:
        """I."""
        num_noise = 0 if self.noise is None else self.noise.num
        num_extra = 0 if self.extra is None else self.extra.shape[1]
        return self.stored.shape[1] + num_noise + num_extra

    def with_extra(self, extra: Tensor) -> LayerInput:
        """The same input followed by `extra` [L, A, B]."""
        return LayerInput(self.stored, self.noise, extra)

    @property
    def is_native(self) -> bool:
        """Whether the compiled kernels can read it."""
        stored, extra = self.stored, self.extra
        if not stored.is_cpu or stored.dtype != torch.float32:
            return False
        return extra is None or (extra.is_cpu and extra.dtype == torch.float32)

    @property
    def is_triton(self) -> bool:
        """Whether the Triton kernels can read it."""
        return kernels.is_triton(self.stored, *([] if self.extra is None else [self.extra]))

    @cached_property
    def written_out(self) -> Tensor:
        """[L, I, B] all parts as one tensor."""
        if self.noise is None and self.extra is None:
            return self.stored
        L, D, B = self.stored.shape
        x = self.stored.new_empty(L, self.num_inputs, B)
        x[:, :D] = self.stored
        end = D
        if self.noise is not None:
            end = D + self.noise.num
            n = self.noise
            noise_(x[:, D:end], n.key, n.row, n.stream, n.std, n.quantiles)
        if self.extra is not None:
            x[:, end:] = self.extra
        return x

    @cached_property
    def args(self) -> InputArgs:
        """The parts as the compiled kernels take them; valid as long as this object lives."""
        noise, extra = self.noise, self.extra
        args = InputArgs(
            _part(self.stored), _NOTHING if extra is None else _part(extra), self.num_columns, 0
        )
        if noise is not None:
            quantiles = noise.quantiles
            held = (noise.key, noise.row, noise.std, *([] if quantiles is None else [quantiles]))
            if not all(tensor.is_contiguous() for tensor in held):
                raise ValueError("keys, rows, std and quantiles of noise must be contiguous")
            args.num_noise, args.stream = noise.num, noise.stream
            args.key, args.noise_row = noise.key.data_ptr(), noise.row.data_ptr()
            args.std = noise.std.data_ptr()
            if quantiles is not None:
                args.quantiles, args.num_tables = quantiles.data_ptr(), quantiles.shape[0]
        return args


def _part(tensor: Tensor) -> PartArgs:
    lane, feature, row = tensor.stride()
    return PartArgs(tensor.data_ptr(), tensor.shape[1], lane, feature, row)
