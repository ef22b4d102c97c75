"""Targets trimmed by magnitude to the number of weights of their network."""

import pytest
import torch

from fastanf.sparse import trim
from fastanf.sparse.trim import trim_to_
from tests.host_reads import NoHostReads


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (9, 19)])
def test_trimmed_rows_keep_the_largest_as_many_as_the_network_has(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(shape[0])
    target = torch.randn(4, *shape, generator=generator)
    online = torch.randn(4, *shape, generator=generator)
    keeps = torch.tensor([0.0, 0.3, 0.9, 1.0])[:, None, None]
    online = torch.where(torch.rand(4, *shape, generator=generator) < keeps, online, 0.0)
    before = target.clone()
    trim_to_(target, online, torch.ones(4, dtype=torch.bool))
    assert torch.equal(target.flatten(1).count_nonzero(1), online.flatten(1).count_nonzero(1))
    for row, old in zip(target.flatten(1), before.flatten(1), strict=True):
        kept = row != 0
        assert torch.equal(row[kept], old[kept])
        if kept.any() and not kept.all():
            assert float(old[kept].abs().min()) >= float(old[~kept].abs().max())


def test_rows_that_are_sparse_enough_or_left_out_keep_every_bit() -> None:
    target = torch.tensor([[3.0, 0.0, -1.0, 2.0], [3.0, 0.0, -1.0, 2.0], [0.0, 0.0, 5.0, 0.0]])
    online = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    trim_to_(target, online, torch.tensor([True, False, True]))
    expected = [[3.0, 0.0, 0.0, 0.0], [3.0, 0.0, -1.0, 2.0], [0.0, 0.0, 5.0, 0.0]]
    assert target.tolist() == expected


def test_device_that_is_not_waited_for_trims_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    # Few distinct magnitudes: ties go by position.
    target = torch.randint(-3, 4, (5, 9, 7), generator=generator).float()
    online = torch.where(torch.rand(5, 9, 7, generator=generator) < 0.3, 1.0, 0.0)
    rows = torch.tensor([True, True, False, True, True])
    looped, at_once = target.clone(), target.clone()
    trim_to_(looped, online, rows)
    monkeypatch.setattr(trim, "is_looped", lambda tensor: False)
    with NoHostReads():
        trim_to_(at_once, online, rows)
    assert torch.equal(looped, at_once)
    assert not torch.equal(looped, target)
