"""Minibatches gathered by the compiled kernel: those of plain torch, to the bit."""

from __future__ import annotations

import pytest
import torch

from fastanf import kernels
from fastanf.kernels.replay_gather import Rings, gather_transitions, gather_transitions_ref


@pytest.mark.skipif(kernels.NATIVE is None, reason="kernels are not compiled")
@pytest.mark.parametrize(
    ("L", "T", "E", "D", "A", "B"), [(1, 5, 1, 1, 1, 1), (3, 41, 3, 17, 6, 100)]
)
@pytest.mark.parametrize("first_time", [0, 10**6])
def test_batches_are_those_of_plain_torch(
    L: int, T: int, E: int, D: int, A: int, B: int, first_time: int
) -> None:
    generator = torch.Generator().manual_seed(T)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    ended = torch.rand(L, T, E, generator=generator) < 0.2
    final_slot = torch.where(ended, torch.randint(4, (L, T, E), generator=generator), -1)
    rings = Rings(
        randn(L, T, E, D), randn(L, T, E, A), randn(L, T, E),
        (torch.rand(L, T, E, generator=generator) < 0.7).to(torch.uint8),
        final_slot.to(torch.int32), randn(L, 4, D),
    )  # fmt: skip
    time = first_time + torch.randint(T, (L, B), generator=generator)
    env = torch.randint(E, (L, B), generator=generator)
    got, expected = gather_transitions(rings, time, env), gather_transitions_ref(rings, time, env)
    for name, one, other in zip(got._fields, got, expected, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other), name
