"""SET in place on stored connections: the same as on masks, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastanf import kernels
from fastanf.kernels.csr import Connections
from fastanf.kernels.csr_evolve import EvolutionKeys, csr_evolve_
from fastanf.rng import LaneRng, Stream, stream_word
from fastanf.sparse.topology import evolve_

pytestmark = pytest.mark.skipif(kernels.NATIVE is None, reason="kernels are not compiled")

L, C, STEP = 3, 2, 77
G = L * C
STREAMS = (Stream.TOPOLOGY_DROP, Stream.TOPOLOGY_GROW, Stream.TOPOLOGY_VALUE)


def make_masked(O: int, I: int, density: float) -> tuple[Tensor, list[Tensor]]:
    """A mask [G, O, I] of other counts in each matrix; weights, moments and targets on it."""
    generator = torch.Generator().manual_seed(O * I)
    shares = torch.linspace(density / 2, density, G).view(G, 1, 1)
    mask = torch.rand(G, O, I, generator=generator) < shares
    mask[:, 0, 0] = True
    tensors = [torch.randn(G, O, I, generator=generator) * mask for _ in range(4)]
    # Many equal magnitudes, zeros among them, so that random words decide.
    tensors[0][:, :, ::2] = tensors[0][:, :, ::2].round()
    return mask, tensors


@pytest.mark.parametrize("bound", [0.0, 0.25])
@pytest.mark.parametrize(("O", "I", "density"), [(1, 5, 0.9), (17, 171, 0.3), (31, 257, 0.04)])
def test_connections_moments_and_targets_are_those_of_the_masks(
    O: int, I: int, density: float, bound: float
) -> None:
    rng = LaneRng([5, 0, 2**40])
    mask, (weight, exp_avg, exp_avg_sq, target) = make_masked(O, I, density)
    at = Connections.of_mask(mask)
    stored = [at.from_dense(tensor) for tensor in (weight, exp_avg, exp_avg_sq, target)]
    at.changed()
    free = O * I - at.counts
    num_drop = torch.minimum((at.counts * 0.4).long(), free).tolist()
    num_drop[2] = 0  # a lane that is not due
    sub = 3

    def words(stream: Stream) -> Tensor:
        return rng.bits(stream, STEP, (C, O * I), sub=sub).reshape(G, -1)

    uniforms = rng.uniform(STREAMS[2], STEP, (C, O * I), sub=sub).reshape(G, -1)
    evolve_(
        weight.view(G, -1), mask.view(G, -1), num_drop, words(STREAMS[0]), words(STREAMS[1]),
        (2 * uniforms - 1) * bound if bound else None,
        [exp_avg.view(G, -1), exp_avg_sq.view(G, -1)],
    )  # fmt: skip
    target.mul_(mask)
    keys = EvolutionKeys(rng.key, STEP, *(stream_word(stream, sub) for stream in STREAMS))
    counts = at.counts.clone()
    csr_evolve_(stored[0], at, num_drop, keys, [bound] * G, stored[1:3], stored[3])
    assert torch.equal(at.mask(), mask) and torch.equal(at.counts, counts)
    expected = (weight, exp_avg, exp_avg_sq, target)
    for values, dense in zip(stored, expected, strict=True):
        assert torch.equal(at.to_dense(values), dense)
    again = Connections.of_mask(mask, at.num_stored)
    assert torch.equal(at.start, again.start)
    for g, count in enumerate(counts.tolist()):
        assert torch.equal(at.column[g, :count], again.column[g, :count])


def test_threads_make_no_difference() -> None:
    results = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            mask, (weight, *_) = make_masked(23, 200, 0.2)
            at = Connections.of_mask(mask)
            value = at.from_dense(weight)
            keys = EvolutionKeys(LaneRng([1, 2, 3]).key, STEP, 1, 2, 3)
            csr_evolve_(value, at, [20] * G, keys, [0.0] * G)
            results.append((value, at.column))
        finally:
            torch.set_num_threads(before)
    assert all(
        torch.equal(*pair) for other in results for pair in zip(other, results[0], strict=True)
    )


@pytest.mark.parametrize(
    ("num_drop", "num_moments", "words"),
    [(-1, 0, "num_drop=-1 is not allowed"), (10**6, 0, "allow 0..3"), (1, 1, "none or two")],
)
def test_what_cannot_be_done_is_refused(num_drop: int, num_moments: int, words: str) -> None:
    at = Connections.of_mask(torch.tensor([[[True, True, True, False]]]))
    value = torch.ones(1, 3)
    keys = EvolutionKeys(torch.tensor([1]), STEP, 1, 2, 3)
    with pytest.raises(ValueError, match=words):
        csr_evolve_(value, at, [num_drop], keys, [0.0], [value] * num_moments)


def test_a_transposed_layer_is_made_anew_after_a_change() -> None:
    mask, (weight, *_) = make_masked(9, 40, 0.3)
    at = Connections.of_mask(mask)
    value = at.from_dense(weight)
    picked = at.pick(slice(1), C)
    before = at.transposed, picked.transposed
    keys = EvolutionKeys(LaneRng([1, 2, 3]).key, STEP, 1, 2, 3)
    csr_evolve_(value, at, [15] * G, keys, [0.0] * G)
    turned, source = at.transposed
    assert turned is not before[0][0]
    moved = value.gather(1, source.long())
    assert torch.equal(turned.to_dense(moved), at.to_dense(value).transpose(1, 2))
    own, own_source = picked.transposed
    values = value.view(L, C, -1)[:, 0].gather(1, own_source.long())
    assert torch.equal(own.to_dense(values), at.to_dense(value).view(L, C, 9, 40)[:, 0].mT)
