"""One sparse linear layer of all lanes, in one of two layouts.

    masked   weights [G, O, I] that are exactly zero where no connection is. The optimizer keeps
             them there, so that products need no mask. Dense layers are masked ones without a mask.
    csr      values [G, K] of the active connections and where they are (kernels/csr.py). Less
             arithmetic and less memory, where few connections are active.

Axes: G = L lanes, or L * C lanes x critics, lane-major; O outputs, I inputs, B batch. Activations
are FEATURE-MAJOR, [G, I, B]: a weight matrix multiplies from the left, so that twin critics share
one input, noise is drawn in rows of features, and a layout that stores only active connections has
the batch along its vectors.

Both layouts add up an output in the order of its inputs, and both kernels in the same chain of
operations: forward, they give the same bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from fastanf.kernels.csr import (
    Connections,
    csr_input_grad,
    csr_linear,
    csr_weight_grad,
    like_columns,
)
from fastanf.kernels.layer_input import LayerInput
from fastanf.kernels.linear import linear, linear_input_grad, linear_weight_grad
from fastanf.kernels.stack import Weights, dense_rows

MASKED, CSR = "masked", "csr"
# Random streams number the layers of all networks with this stride.
LAYERS_PER_NETWORK = 1000
_ALL = slice(None)


class Parameter(NamedTuple):
    """One trained tensor of a network."""

    name: str
    tensor: Tensor
    """[G, ...]."""
    layer: StackedLinear | None = None
    """The layer whose connections it holds; None for biases and activations."""

    @property
    def mask(self) -> Tensor | None:
        """Like the tensor, bool; None where every entry is trained."""
        return self.layer.mask if isinstance(self.layer, MaskedLinear) else None

    def to_dense(self, tensor: Tensor) -> Tensor:
        """What belongs to this parameter (a moment, a target), without regard of the layout."""
        return tensor if self.layer is None else self.layer.spread(tensor)

    def from_dense(self, dense: Tensor) -> Tensor:
        """The opposite of `to_dense`."""
        return dense if self.layer is None else self.layer.collect(dense)


class StackedLinear(ABC):
    """A stacked linear layer; its `trained` tensor and `bias` require gradients when it learns."""

    trained: Tensor
    """The connections' weights, in the order of the layout."""
    bias: Tensor
    """[G, O]."""
    shape: tuple[int, int, int]
    """(G, O, I)."""

    @property
    @abstractmethod
    def weights(self) -> Weights:
        """As the compiled kernels take the layer."""

    @abstractmethod
    def forward(self, x: LayerInput, slope: float = 1.0) -> Tensor:
        """[L, I, B] -> act(b + W x) [G, O, B]; with G = L * C, C copies share an input.

        Args:
            x: the input.
            slope: of the activation below zero, in [0, 1]; 1 for none.
        """

    @abstractmethod
    def weight_grad(self, x: LayerInput, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of `trained` and `bias` from that of the output before its activation,
        [G, O, B].
        """

    @abstractmethod
    def input_grad(
        self,
        grad: Tensor,
        inputs: slice = _ALL,
        activated: Tensor | None = None,
        slope: float = 1.0,
    ) -> Tensor:
        """[G, O, B] -> [G, n, B] gradient of a range of inputs, taken on through the activation
        that made them.
        """

    @abstractmethod
    def frozen(self, copy: slice = _ALL, num_copies: int = 1) -> StackedLinear:
        """The layer without gradients of its own, on the same memory; `copy` picks among the C
        copies of a lane.
        """

    @abstractmethod
    def target_copy(self) -> StackedLinear:
        """A copy of the weights, without gradients, on the same connections."""

    @property
    @abstractmethod
    def is_sparse(self) -> bool:
        """Whether connections may be missing."""

    @abstractmethod
    def active(self) -> Tensor:
        """[G] number of active connections."""

    def fewest_active(self) -> Tensor:
        """[G] number of active connections at the end of the run: fewer than now where they are
        being pruned.
        """
        return self.active()

    @abstractmethod
    def connection_mask(self) -> Tensor | None:
        """[G, O, I] bool; None for a dense layer."""

    @abstractmethod
    def set_connections_(self, mask: Tensor) -> None:
        """Take over connections [G, O, I], as many as there are now, or as may be where they are
        pruned; values are left to the caller.

        Raises:
            ValueError: a matrix would have a number of connections that it never has.
        """

    @abstractmethod
    def spread(self, tensor: Tensor) -> Tensor:
        """A tensor like `trained` -> [G, O, I], zero where no connection is (a masked layer's
        may hold other moments there).
        """

    @abstractmethod
    def collect(self, dense: Tensor) -> Tensor:
        """The opposite of `spread`."""

    def to_dense(self) -> Tensor:
        """[G, O, I] weights with zeros where inactive."""
        return self.spread(self.trained.detach()).clone()


class MaskedLinear(StackedLinear):
    """A layer whose inactive weights are zero.

    Args:
        weight: [G, O, I], zero where the mask is.
        bias: [G, O].
        mask: [G, O, I] bool, or None when every row is dense.
        num_prunable: [G] int64, of the possible connections, how many a dense start loses to
            pruning by the end, 0 where their number never changes; None for 0 everywhere.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        mask: Tensor | None = None,
        num_prunable: Tensor | None = None,
    ):
        self.trained = self.weight = weight
        self.bias, self.mask, self.num_prunable = bias, mask, num_prunable
        self.shape = (weight.shape[0], weight.shape[1], weight.shape[2])

    @property
    def weights(self) -> Weights:
        return Weights(dense_rows(self.weight), dense_rows(self.bias), None, self.shape)

    def forward(self, x: LayerInput, slope: float = 1.0) -> Tensor:
        return linear(x, self.weight, self.bias, slope)

    def weight_grad(self, x: LayerInput, grad: Tensor) -> tuple[Tensor, Tensor]:
        return linear_weight_grad(x, grad)

    def input_grad(
        self,
        grad: Tensor,
        inputs: slice = _ALL,
        activated: Tensor | None = None,
        slope: float = 1.0,
    ) -> Tensor:
        return linear_input_grad(self.weight, grad, inputs, activated, slope)

    def frozen(self, copy: slice = _ALL, num_copies: int = 1) -> MaskedLinear:
        mask = None if self.mask is None else pick_copies(self.mask, copy, num_copies)
        weight, bias = (pick_copies(t.detach(), copy, num_copies) for t in (self.weight, self.bias))
        return MaskedLinear(weight, bias, mask)

    def target_copy(self) -> MaskedLinear:
        return MaskedLinear(self.weight.detach().clone(), self.bias.detach().clone(), self.mask)

    @property
    def is_sparse(self) -> bool:
        return self.mask is not None

    def active(self) -> Tensor:
        G, O, I = self.shape
        return torch.full((G,), O * I) if self.mask is None else self.mask.flatten(1).sum(1)

    def fewest_active(self) -> Tensor:
        if self.num_prunable is None:
            return self.active()
        _, O, I = self.shape
        return torch.where(self.num_prunable > 0, O * I - self.num_prunable, self.active())

    def connection_mask(self) -> Tensor | None:
        return self.mask

    def set_connections_(self, mask: Tensor) -> None:
        assert self.mask is not None
        found = mask.flatten(1).sum(1)
        is_fine = found == self.active()
        if self.num_prunable is not None:
            is_fine |= (self.num_prunable > 0) & (found >= self.fewest_active())
        if not bool(is_fine.all()):
            raise ValueError(_other_counts(self, mask, is_fine))
        self.mask.copy_(mask)

    def spread(self, tensor: Tensor) -> Tensor:
        return tensor

    def collect(self, dense: Tensor) -> Tensor:
        return dense


class CsrLinear(StackedLinear):
    """A layer that stores its active connections only.

    Args:
        value: [G, K].
        bias: [G, O].
        at: where the connections are; a network and its target share it.
    """

    def __init__(self, value: Tensor, bias: Tensor, at: Connections):
        self.trained = self.value = value
        self.bias, self.at = bias, at
        self.shape = (at.num_matrices, at.num_outputs, at.num_inputs)

    @staticmethod
    def of_dense(weight: Tensor, bias: Tensor, mask: Tensor) -> CsrLinear:
        """The connections of a mask [G, O, I] with the weights that are there."""
        at = Connections.of_mask(mask)
        value = at.from_dense(weight)
        at.changed()  # what was derived for this is not wanted again
        return CsrLinear(value, bias, at)

    @property
    def weights(self) -> Weights:
        value = like_columns(self.value, self.at)
        return Weights(value, dense_rows(self.bias), self.at, self.shape)

    def forward(self, x: LayerInput, slope: float = 1.0) -> Tensor:
        return csr_linear(x, self.value, self.at, self.bias, slope)

    def weight_grad(self, x: LayerInput, grad: Tensor) -> tuple[Tensor, Tensor]:
        return csr_weight_grad(x, grad, self.at)

    def input_grad(
        self,
        grad: Tensor,
        inputs: slice = _ALL,
        activated: Tensor | None = None,
        slope: float = 1.0,
    ) -> Tensor:
        return csr_input_grad(self.value, self.at, grad, inputs, activated, slope)

    def frozen(self, copy: slice = _ALL, num_copies: int = 1) -> CsrLinear:
        value, bias = (pick_copies(t.detach(), copy, num_copies) for t in (self.value, self.bias))
        return CsrLinear(value, bias, self.at.pick(copy, num_copies))

    def target_copy(self) -> CsrLinear:
        return CsrLinear(self.value.detach().clone(), self.bias.detach().clone(), self.at)

    @property
    def is_sparse(self) -> bool:
        return True

    def active(self) -> Tensor:
        return self.at.counts

    def connection_mask(self) -> Tensor:
        return self.at.mask()

    def set_connections_(self, mask: Tensor) -> None:
        counts = mask.flatten(1).sum(1)
        is_fine = counts == self.active()
        if not bool(is_fine.all()):
            raise ValueError(_other_counts(self, mask, is_fine))
        self.at.move_to_(Connections.of_mask(mask, self.at.num_stored))

    def spread(self, tensor: Tensor) -> Tensor:
        return self.at.to_dense(tensor)

    def collect(self, dense: Tensor) -> Tensor:
        return self.at.from_dense(dense)


def pick_copies(tensor: Tensor, copy: slice, num_copies: int) -> Tensor:
    """[L * C, ...] -> [L * n, ...]: some of the C copies of every lane, on the same memory."""
    if copy.indices(num_copies) == (0, num_copies, 1):
        return tensor
    return tensor.unflatten(0, (-1, num_copies))[:, copy].flatten(0, 1)


def _other_counts(layer: StackedLinear, mask: Tensor, is_fine: Tensor) -> str:
    found, fewest = mask.flatten(1).sum(1), layer.fewest_active()
    g = int((~is_fine).nonzero()[0])
    active = int(layer.active()[g])
    is_pruned = f", and at least {int(fewest[g])}," * (int(fewest[g]) < active)
    return (
        f"matrix {g} of a layer {layer.shape[1]} x {layer.shape[2]} has "
        f"{active} connections{is_pruned} and cannot take over {int(found[g])}"
    )
