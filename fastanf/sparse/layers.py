"""One sparse linear layer of all lanes, in the masked layout.

Axes: G = L lanes, or L * C lanes x critics, lane-major; O outputs, I inputs, B batch. Activations
are FEATURE-MAJOR, [G, I, B]: a weight matrix multiplies from the left, so that twin critics share
one product with their common input, noise is drawn in rows of features, and a layout that stores
only active connections can vectorise over the batch.

The interface that every layout offers: `forward`, `forward_split`, `frozen`, `active` and
`to_dense`. The masked layout keeps weights [G, O, I] that are exactly zero where the mask is, so
the forward product needs no mask at all; the optimizer keeps them there (kernels/mask_adam.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# Up to this many rows MKL may take another route for a single product than for a batch of them,
# with other rounding.
_SMALL_SIDE = 16
# Random streams number the layers of all networks with this stride.
LAYERS_PER_NETWORK = 1000


class Parameter(NamedTuple):
    """One trained tensor of a network."""

    name: str
    tensor: Tensor  # [G, ...]
    mask: Tensor | None  # like tensor, bool; None where every entry is trained


def stacked_affine(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """bias + weight @ x for each stacked row.

    A row's result has the same bits whether it is alone or among others, on one or two threads and
    for B a multiple of 4. A lone small product is computed as a batch of two, because MKL 2024.2
    rounds products of 5 to 7 and 9 to 11 rows differently in the two cases (tried: 1..512 rows, 17
    to 256 inputs, B = 16..256). Other B put lanes at addresses of other alignment, and four threads
    divide the 100 columns of one lone product: both round differently.

    Args:
        weight: [G, O, I].
        bias: [G, O].
        x: [G, I, B].

    Returns:
        [G, O, B].
    """
    if weight.shape[0] == 1 and weight.shape[1] <= _SMALL_SIDE:
        twice = stacked_affine(weight.expand(2, -1, -1), bias.expand(2, -1), x.expand(2, -1, -1))
        return twice[:1]
    return torch.baddbmm(bias.unsqueeze(-1), weight, x)


@dataclass(eq=False)
class MaskedLinear:
    """A stacked linear layer whose inactive weights are zero.

    Args:
        weight: [G, O, I], zero where the mask is; a leaf that requires a gradient when it is
            trained.
        bias: [G, O].
        mask: [G, O, I] bool, or None when every row is dense.
    """

    weight: Tensor
    bias: Tensor
    mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[G, I, B] -> [G, O, B]. With fewer input rows than G, each serves G / rows
        consecutive copies (twin critics).
        """
        return _shared_affine(self.weight, self.bias, x)

    def forward_split(self, x: Tensor, action: Tensor) -> Tensor:
        """The same on an input in two parts, features and action.

        [., I - A, B], [., A, B] -> [G, O, B]. With frozen weights only the action's few columns
        enter the backward pass.
        """
        num_actions = action.shape[1]
        hidden = _shared_affine(self.weight[..., :-num_actions], self.bias, x)
        return hidden + _shared_matmul(self.weight[..., -num_actions:], action)

    def frozen(self, copy: slice = slice(None), num_copies: int = 1) -> MaskedLinear:
        """The layer without gradients of its own, on the same memory; `copy` picks among the C
        copies of a lane.
        """

        def pick(tensor: Tensor) -> Tensor:
            return tensor.detach().unflatten(0, (-1, num_copies))[:, copy].flatten(0, 1)

        mask = None if self.mask is None else pick(self.mask)
        return MaskedLinear(pick(self.weight), pick(self.bias), mask)

    def active(self) -> Tensor:
        """[G] number of active connections."""
        if self.mask is None:
            per_row = self.weight.shape[1] * self.weight.shape[2]
            return torch.full((self.weight.shape[0],), per_row)
        return self.mask.flatten(1).sum(1)

    def to_dense(self) -> Tensor:
        """[G, O, I] weights with zeros where inactive."""
        return self.weight.detach().clone()


def _shared_affine(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    G, num_outputs, num_inputs = weight.shape
    L, _, B = x.shape
    joint = stacked_affine(weight.reshape(L, -1, num_inputs), bias.reshape(L, -1), x)
    return joint.view(G, num_outputs, B)  # [L, C*O, B] -> [L*C, O, B]


def _shared_matmul(weight: Tensor, x: Tensor) -> Tensor:
    G, num_outputs, num_inputs = weight.shape
    L, _, B = x.shape
    joint = weight.reshape(L, -1, num_inputs)
    if L == 1 and num_inputs <= _SMALL_SIDE:  # the gradient of x is the small product here
        product = torch.bmm(joint.expand(2, -1, -1), x.expand(2, -1, -1))[:1]
    else:
        product = torch.bmm(joint, x)
    return product.view(G, num_outputs, B)
