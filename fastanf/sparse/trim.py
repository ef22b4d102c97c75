"""Targets trimmed by magnitude to the number of non-zero weights of their network (the published
rule).

Axes: G stacked rows. Kept for comparison only: it sorts every sparse layer at every step of the
targets. By default targets live on their network's connections, which costs nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastanf.kernels.select import magnitude_bits, select_smallest_rows
from fastanf.sparse.masks import is_looped, select_smallest


@torch.no_grad()
def trim_to_(target: Tensor, online: Tensor, rows: Tensor) -> None:
    """Set the smallest weights of each row of `target` to zero, until as many are left as `online`
    has.

    Args:
        target: [G, ...] weights of the target network.
        online: [G, ...] weights of the network it follows.
        rows: [G] bool, the rows that are trimmed; the others keep every bit.
    """
    flat, counts = target.view(target.shape[0], -1), online.flatten(1).count_nonzero(1)
    if not is_looped(target):
        excess = (flat.count_nonzero(1) - counts).clamp_min(0) * rows
        leaves = select_smallest_rows(excess, flat != 0, magnitude_bits(flat))
        flat.masked_fill_(leaves, 0.0)
        return
    for row, count, is_due in zip(flat, counts.tolist(), rows.tolist(), strict=True):
        excess = int(row.count_nonzero()) - count if is_due else 0
        if excess > 0:
            magnitude = torch.where(row == 0, torch.inf, row.abs())
            row[select_smallest(excess, magnitude)] = 0.0
