"""The dense gradient of a layer, kept from the optimizer's step until connections grow by it.

Axes: L lanes, C copies, G = L * C matrices of a layer, O outputs, I inputs; R = C * the number of
lanes whose gradient is kept.

It is that of the loss, at all possible connections, before the optimizer masks it. It stays at one
place in memory, so that a recorded update fills it anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastanf.sparse.masks import on_device


class KeptGradient:
    """The gradient of some lanes of one masked layer in the last update that kept it; zero before.

    Args:
        weight: [G, O, I] of the layer.
        num_copies: C.
        lanes: whose gradient is kept, in increasing order.
        parameter: place of the weight among what the optimizer trains.
    """

    def __init__(self, weight: Tensor, num_copies: int, lanes: Sequence[int], parameter: int):
        self.parameter, self.num_copies = parameter, num_copies
        self._place = {lane: place for place, lane in enumerate(lanes)}
        self._rows = self._rows_of(lanes, weight.device)
        self._keeps_all = len(self._rows) == weight.shape[0]
        self.kept = torch.zeros(
            len(self._rows), *weight.shape[1:], dtype=weight.dtype, device=weight.device
        )

    def _rows_of(self, lanes: Sequence[int], device: torch.device) -> Tensor:
        C = self.num_copies
        return on_device([C * lane + copy for lane in lanes for copy in range(C)], device)

    @torch.no_grad()
    def keep_(self, grads: Sequence[Tensor]) -> None:
        """Take over what belongs to the layer of all gradients of an optimizer's step."""
        grad = grads[self.parameter]
        self.kept.copy_(grad if self._keeps_all else grad.index_select(0, self._rows))

    def of(self, lanes: Sequence[int]) -> Tensor:
        """[len(lanes) * C, O * I] of some of the lanes."""
        rows = self._rows_of([self._place[lane] for lane in lanes], self.kept.device)
        return self.kept[rows].flatten(1)
