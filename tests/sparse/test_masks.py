"""Exact counts, the order of the keys, ties and row independence."""

import numpy as np
import pytest
import torch

from fastanf.sparse import masks as masks_module
from fastanf.sparse.masks import exact_masks, select_in_rows, select_smallest

ODD_SIZES = (1, 3, 5, 171, 257)


@pytest.fixture(autouse=True, params=["looped", "at once"])
def way(request, monkeypatch):
    """Rows one by one, as on the CPU, and all at once, as on a GPU."""
    monkeypatch.setattr(masks_module, "is_looped", lambda tensor: request.param == "looped")
    return request.param


def test_masks_take_the_smallest_keys_of_each_row():
    keys = torch.tensor([[5, 1, 4, 2], [0, 9, 8, 7]])
    expected = [[False, True, False, True], [True, False, False, False]]
    assert exact_masks(keys, torch.tensor([2, 1])).tolist() == expected


def test_equal_keys_are_taken_by_position():
    keys = torch.tensor([[3, 1, 3, 3, 1]])
    assert exact_masks(keys, [3]).tolist() == [[True, True, False, False, True]]
    assert exact_masks(torch.zeros(1, 5), [4]).tolist() == [[True] * 4 + [False]]


@pytest.mark.parametrize("n", ODD_SIZES)
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_masks_have_exact_counts_and_match_a_stable_sort(n, dtype):
    generator = torch.Generator().manual_seed(n)
    counts = sorted({0, 1, n // 3, n // 2, n - 1, n})
    # Few distinct values: most of them are ties.
    keys = torch.randint(0, 7, (len(counts), n), generator=generator).to(dtype)
    masks = exact_masks(keys, counts)
    assert masks.sum(1).tolist() == counts
    for row, count in enumerate(counts):
        order = np.argsort(keys[row].numpy(), kind="stable")[:count]
        assert masks[row].nonzero().squeeze(1).tolist() == sorted(order.tolist())


def test_extreme_integer_keys_are_ordered():
    low, high = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max
    assert exact_masks(torch.tensor([[high, low, 0, high]]), [3]).tolist() == [
        [True, True, True, False]
    ]


def test_a_row_alone_equals_the_row_among_others():
    generator = torch.Generator().manual_seed(0)
    keys = torch.randint(0, 50, (8, 171), generator=generator)
    counts = [0, 1, 17, 34, 85, 86, 170, 171]
    together = exact_masks(keys, counts)
    for row in range(8):
        assert torch.equal(exact_masks(keys[row : row + 1], [counts[row]])[0], together[row])


def test_every_connection_is_equally_likely():
    generator = torch.Generator().manual_seed(1)
    num_rows, n, count = 4000, 10, 3
    masks = exact_masks(torch.rand(num_rows, n, generator=generator), [count] * num_rows)
    share = masks.double().mean(0)
    # Five standard deviations of a share of 0.3 over 4000 draws.
    assert (share - count / n).abs().max() < 5 * (0.3 * 0.7 / num_rows) ** 0.5


def test_ties_go_to_the_next_keys_and_then_to_the_first_position():
    first = torch.tensor([1, 1, 1, 0, 1])
    second = torch.tensor([9, 2, 2, 9, 2])
    assert select_smallest(3, first, second).tolist() == [False, True, True, True, False]


@pytest.mark.parametrize("count", [-1, 4])
def test_counts_out_of_range_are_refused(count):
    with pytest.raises(ValueError, match=f"count={count}"):
        exact_masks(torch.rand(1, 3), [count])


def test_counts_need_one_entry_per_row():
    with pytest.raises(ValueError, match="counts has 2 entries"):
        exact_masks(torch.rand(3, 4), [1, 1])


def test_only_eligible_connections_are_chosen():
    keys = torch.tensor([[0, 3, 3, 1], [0, 3, 3, 1]])
    eligible = torch.tensor([[False, True, True, True], [True, False, False, False]])
    chosen = select_in_rows("counts", [2, 1], eligible, keys)
    assert chosen.int().tolist() == [[0, 1, 0, 1], [1, 0, 0, 0]]
    ties = torch.tensor([[0, 9, 8, 7], [0, 9, 8, 7]])
    chosen = select_in_rows("counts", torch.tensor([2, 0]), eligible, keys, ties)
    assert chosen.int().tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize("way", ["looped"], indirect=True)
def test_more_than_are_eligible_are_refused_where_the_host_sees_it(way):
    eligible = torch.tensor([[True, False, True]])
    with pytest.raises(ValueError, match="count=3 is not allowed; these 2 connections"):
        select_in_rows("counts", [3], eligible, torch.zeros(1, 3))
