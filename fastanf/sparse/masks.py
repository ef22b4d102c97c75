"""Masks with an exact number of active connections per row, chosen by random keys.

A row is one layer of one lane (and critic): [M, n] with M = L or L*C and n = H*F connections.
Choosing the k smallest of n independent random keys is a uniform draw of k connections without
replacement, so the same selection serves the first masks, the ties of a drop and the growth of
connections (`topology.py`). No row is computed from another one's values.

On the CPU the rows are gone through one by one, elsewhere all at once; see `is_looped`.

Axes: M rows, n connections.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastanf.kernels import is_triton
from fastanf.kernels.select import select_smallest_rows

RowCounts = Tensor | Sequence[int]
"""One whole number per row, [M]."""


def is_looped(tensor: Tensor) -> bool:
    """Whether the host goes through the rows of this tensor, and may read what is in them.

    The other way sorts whole rows, where a partial selection among the eligible is enough: on one
    thread of an AMD EPYC, 47 ms where the loop takes 8 (smallest weights of 16 rows of 65,536, a
    fifth active). A GPU would have to be waited for in each row.
    """
    return tensor.device.type == "cpu" and not is_triton(tensor)


def exact_masks(random_keys: Tensor, counts: RowCounts) -> Tensor:
    """Row m is True at its counts[m] smallest keys, equal keys by position.

    Args:
        random_keys: [M, n], integer or float without NaN, independent draws.
        counts: [M] in 0..n, active connections per row; a tensor is brought to the host once.

    Returns:
        [M, n] bool.

    Raises:
        ValueError: a count outside 0..n, or not one count per row.
    """
    row_counts = host_counts("counts", counts, random_keys.shape[0])
    return select_in_rows("counts", row_counts, None, random_keys)


def select_in_rows(
    name: str, counts: RowCounts, eligible: Tensor | None, keys: Tensor, *tie_keys: Tensor
) -> Tensor:
    """Mark the counts[m] eligible connections of smallest keys in each row; see `select_smallest`.

    Args:
        name: of the counts, for messages.
        counts: [M]. Where rows are not looped over, a tensor is not brought to the host, and how
            many are eligible is not compared.
        eligible: [M, n] bool, or None where all are.
        keys: [M, n] without NaN.
        tie_keys: each [M, n], consulted in order where the keys before are equal.

    Returns:
        [M, n] bool.

    Raises:
        ValueError: another number of counts than rows, or one that its row does not allow.
    """
    M, n = keys.shape
    if not is_looped(keys):
        if not isinstance(counts, Tensor):
            counts = torch.tensor(_checked(host_counts(name, counts, M), n))
        if eligible is None:
            eligible = torch.ones_like(keys, dtype=torch.bool)
        return select_smallest_rows(counts.to(keys.device), eligible, keys, *tie_keys)
    chosen = torch.zeros(keys.shape, dtype=torch.bool)
    for row, count in enumerate(host_counts(name, counts, M)):
        if eligible is None:
            chosen[row] = select_smallest(count, *(key[row] for key in (keys, *tie_keys)))
        elif count:
            places = eligible[row].nonzero().squeeze(1)
            among = select_smallest(count, *(key[row][places] for key in (keys, *tie_keys)))
            chosen[row, places[among]] = True
    return chosen


def select_smallest(count: int, keys: Tensor, *tie_keys: Tensor) -> Tensor:
    """Mark the `count` smallest of one row's keys; ties go to the next keys, then by position.

    A partial selection finds the count-th smallest value, and only what equals it is looked at
    again: the result is that of a stable lexicographic sort, on every device.

    Args:
        count: in 0..n.
        keys: [n] without NaN.
        tie_keys: each [n], consulted in order where the keys before are equal.

    Returns:
        [n] bool with exactly `count` True.

    Raises:
        ValueError: count outside 0..n.
    """
    n = keys.numel()
    _checked([count], n)
    if count in (0, n):
        return torch.full((n,), count > 0, dtype=torch.bool, device=keys.device)
    threshold = _kth_smallest(keys, count)
    chosen = keys < threshold
    tied = (keys == threshold).nonzero().squeeze(1)
    num_missing = count - int(chosen.sum())
    if tie_keys and num_missing < tied.numel():
        chosen_ties = select_smallest(num_missing, *(key[tied] for key in tie_keys))
        chosen[tied[chosen_ties]] = True
    else:
        chosen[tied[:num_missing]] = True
    return chosen


def host_counts(name: str, counts: RowCounts, num_rows: int) -> list[int]:
    """The counts as Python integers, one per row.

    Raises:
        ValueError: another number of counts than rows.
    """
    values = counts.tolist() if isinstance(counts, Tensor) else [int(count) for count in counts]
    if len(values) != num_rows:
        raise ValueError(
            f"{name} has {len(values)} entries; it needs one for each of {num_rows} rows"
        )
    return values


def on_device(numbers: Sequence[int], device: torch.device) -> Tensor:
    """Whole numbers of the host where they are computed with; the device is not waited for."""
    return torch.tensor(numbers, dtype=torch.int64).to(device, non_blocking=True)


def _checked(counts: list[int], n: int) -> list[int]:
    for count in counts:
        if not 0 <= count <= n:
            raise ValueError(f"count={count} is not allowed; these {n} connections allow 0..{n}")
    return counts


def _kth_smallest(keys: Tensor, k: int) -> Tensor:
    # topk is quick where it looks for the smaller side of the row.
    n = keys.numel()
    if 2 * k <= n:
        return keys.topk(k, largest=False, sorted=False).values.max()
    return keys.topk(n - k + 1, largest=True, sorted=False).values.min()
