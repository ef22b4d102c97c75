"""Sums whose bits depend on nothing but the numbers added: not on the place in memory, on what lies
beside them, or on the number of threads.

torch's reductions add in an order that they choose by shape and place. Here an axis is halved until
one entry is left, n -> n // 2, each time by one addition of two tensors; where n is odd, its last
entry is added to the first sum. A single addition is exact to the bit in every form that a
processor has for it.
"""

from __future__ import annotations

from torch import Tensor


def tree_sum(x: Tensor, dim: int) -> Tensor:
    """The sum over one axis, which stays with length 1.

    Args:
        x: any shape, at least one entry along `dim`; floating point.
        dim: the axis.

    Raises:
        ValueError: there is nothing to add.
    """
    n = x.shape[dim]
    if n == 0:
        raise ValueError(f"x has shape {[*x.shape]}: axis {dim} must have an entry at least")
    while n > 1:
        half = n // 2
        total = x.narrow(dim, 0, half) + x.narrow(dim, half, half)
        if n % 2:
            total.narrow(dim, 0, 1).add_(x.narrow(dim, n - 1, 1))
        x, n = total, half
    return x
