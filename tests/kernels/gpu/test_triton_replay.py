"""Minibatches drawn and gathered by Triton's kernel: those of the definition, to the bit."""

from __future__ import annotations

import pytest
import torch

from fastanf.kernels.replay_gather import (
    FAILED,
    NO_FINAL,
    Rings,
    sample_transitions_,
    sample_transitions_ref_,
)

STREAMS = range(5, 5 + 64 * 256, 256)
S = 4


def make_rings(L: int, T: int, E: int, D: int, A: int, failed: float) -> Rings:
    generator = torch.Generator().manual_seed(T)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    share = torch.rand(L, T, E, generator=generator)
    final_slot = torch.randint(S, (L, T, E), generator=generator)
    final_slot[share > 0.2] = NO_FINAL
    final_slot[share > 1 - failed] = FAILED
    return Rings(
        randn(L, T, E, D), randn(L, T, E, A), randn(L, T, E),
        (torch.rand(L, T, E, generator=generator) < 0.7).to(torch.uint8),
        final_slot.to(torch.int32), randn(L, S, D),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("L", "T", "E", "D", "A", "B"),
    [(1, 2, 1, 1, 1, 1), (3, 41, 3, 17, 6, 37), (2, 9, 2, 130, 17, 16)],
)
@pytest.mark.parametrize("failed", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("time", [1, 8, 3 * 10**9])
def test_batches_are_the_definitions(
    L: int, T: int, E: int, D: int, A: int, B: int, failed: float, time: int, device: torch.device
) -> None:
    """At the start, in a ring that is partly or just full, and after it went around."""
    rings = make_rings(L, T, E, D, A, failed)
    key = torch.tensor([2**63 - 1, 5, 123456789012345])[:L]
    clock = torch.tensor(time)
    for update in (0, 2**33 + 7):
        number = torch.tensor(update)
        flags = [torch.zeros(L, dtype=torch.uint8) for _ in range(2)]
        expected = sample_transitions_ref_(flags[0], rings, clock, key, number, STREAMS, B)
        there, flag = Rings(*(ring.to(device) for ring in rings)), flags[1].to(device)
        now, keys, number = (tensor.to(device) for tensor in (clock, key, number))
        found = sample_transitions_(flag, there, now, keys, number, STREAMS, B)
        assert torch.equal(flag.cpu(), flags[0])
        is_sound = flags[0] == 0  # elsewhere the minibatch means nothing
        for name, one, other in zip(expected._fields, found, expected, strict=True):
            assert one.dtype == other.dtype, name
            assert torch.equal(one.cpu()[is_sound], other[is_sound]), name


def test_a_lane_of_which_nothing_is_sound_is_marked(device: torch.device) -> None:
    rings = make_rings(3, 20, 2, 5, 2, 0.0)
    rings.final_slot[1] = FAILED
    rings.final_slot[2, :10] = FAILED
    is_barren = torch.zeros(3, dtype=torch.uint8, device=device)
    clock, key, update = (torch.tensor(x, device=device) for x in (19, [7, 8, 9], 3))
    rings = Rings(*(ring.to(device) for ring in rings))
    batch = sample_transitions_(is_barren, rings, clock, key, update, STREAMS, 50)
    assert is_barren.tolist() == [0, 1, 0]
    assert int(batch.obs_id[2].min()) // 4 == 10  # the failed ones are not among them
    # What was seen once stays said.
    sample_transitions_(is_barren, rings, clock, key, update, STREAMS, 1)
    assert is_barren.tolist() == [0, 1, 0]
