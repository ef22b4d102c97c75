"""Penalties on the weights of the features, added to a network's gradient before its optimizer.

For the first layer's weights W [O, I], of which w_i is the column of feature i, the loss gets

    l1           lambda * sum |w_oi|           gradient lambda * sign(w_oi)
    group lasso  lambda * sum ||w_i||_2        gradient lambda * w_i / ||w_i||_2

both 0 where the weight, or the whole column, is 0. The inputs behind the features (a critic's
actions) have no penalty.

Axes: L lanes, G = L * C matrices, O outputs, I inputs, F features, K stored values a matrix.
Sources: Tibshirani 1996, "Regression shrinkage and selection via the lasso"; Yuan and Lin 2006,
"Model selection and estimation in regression with grouped variables".
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastanf.kernels.tree_sum import tree_sum
from fastanf.sparse.layers import CsrLinear, StackedLinear


class InputPenalty:
    """The penalties of all lanes on one network.

    Args:
        layer: the network's first.
        num_features: F, the first of its inputs.
        l1: [L] lambda of each lane, at least 0.
        group_lasso: [L], likewise.

    Raises:
        ValueError: group lasso on a csr layer, which does not store columns.
    """

    def __init__(self, layer: StackedLinear, num_features: int, l1: Tensor, group_lasso: Tensor):
        self.layer, self.num_features = layer, num_features
        self._l1, self._group_lasso = (self._per_matrix(x) for x in (l1, group_lasso))
        if isinstance(layer, CsrLinear) and self._group_lasso is not None:
            raise ValueError(
                f"input_group_lasso {float(group_lasso.max()):g} does not go with csr layers; "
                "allowed is layout masked"
            )

    def _per_matrix(self, strength: Tensor) -> Tensor | None:
        """[L] -> [G, 1, 1], or [G, 1] as csr values have it; None where nothing is to be done."""
        if not bool((strength > 0).any()):
            return None
        each = strength.repeat_interleave(self.layer.shape[0] // strength.shape[0])
        return each.view(-1, *[1] * (self.layer.trained.ndim - 1))

    @property
    def is_nothing(self) -> bool:
        """Whether no lane has a penalty."""
        return self._l1 is None and self._group_lasso is None

    @torch.no_grad()
    def added(self, grad: Tensor) -> Tensor:
        """The gradient of loss and penalties from that of the loss, both like `layer.trained`;
        lanes without a penalty keep theirs to the bit.
        """
        if isinstance(self.layer, CsrLinear):
            is_feature = self.layer.at.column < self.num_features
            return torch.where(is_feature, self._with_l1(grad, self.layer.value), grad)
        F = self.num_features
        weight, penalised = self.layer.trained[:, :, :F], grad[:, :, :F]
        penalised = self._with_group_lasso(self._with_l1(penalised, weight), weight)
        return torch.cat([penalised, grad[:, :, F:]], 2)

    def _with_l1(self, grad: Tensor, weight: Tensor) -> Tensor:
        strength = self._l1
        if strength is None:
            return grad
        return torch.where(strength > 0, grad + strength * weight.sign(), grad)

    def _with_group_lasso(self, grad: Tensor, weight: Tensor) -> Tensor:
        strength = self._group_lasso
        if strength is None:
            return grad
        norm = tree_sum(weight * weight, 1).sqrt()  # [G, 1, F]
        direction = torch.where(norm > 0, weight / norm, 0.0)
        return torch.where(strength > 0, grad + strength * direction, grad)
