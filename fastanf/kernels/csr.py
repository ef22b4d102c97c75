"""Stacked linear layers that store active connections only (compressed sparse rows).

Axes: L lanes, G = L * C matrices (C copies share a lane's input), O outputs, I inputs, B columns
(rows of the minibatch), K stored values a matrix. Equations, activation and tensors are those of
kernels/linear.py; W has the value v_j at (o_j, i_j) and is zero elsewhere:

    y_o = act(b_o + sum over j with o_j = o of v_j x_{i_j})
    dv_j = sum over columns of dz_{o_j} x_{i_j}
    dx_i = sum over j with i_j = i of v_j dz_{o_j}

Values are in the order (block of inputs, output, input): a block's part of x stays in the nearest
cache while all outputs take what they need of it. Matrices may have different numbers of
connections; the shorter ones are followed by places that hold zero and belong to no connection.
"""

from __future__ import annotations

import ctypes
from functools import cached_property

import torch
from torch import Tensor

from fastanf import kernels
from fastanf.kernels import stack
from fastanf.kernels.layer_input import LayerInput
from fastanf.kernels.linear import (
    check_grad,
    check_input_grad,
    is_native,
    linear_input_grad_ref,
    linear_ref,
    linear_weight_grad_ref,
)
from fastanf.kernels.native import (
    ConnectionArgs,
    CsrWeightGradArgs,
    TransposeArgs,
)

# Inputs of a block: their 100 columns fill the first cache (32 kB) at the lower number. Sparser
# layers do better with longer runs of connections. Measured with 80% and 95% sparsity, 170 to 1700
# inputs, 256 outputs, Zen 4; profiling/bench_kernels.py times the products.
_BLOCK_SIZE, _SPARSE_BLOCK_SIZE, _SPARSE = 96, 192, 0.1


class Connections:
    """Where the active connections of G stacked matrices [O, I] are.

    Attributes:
        start: [G, blocks * O + 1] int32; block k of output o has the values from start[k O + o].
        column: [G, K] int32 input of each value.
        counts: [G] number of connections of each matrix, at most K.
    """

    def __init__(
        self,
        start: Tensor,
        column: Tensor,
        counts: Tensor,
        num_outputs: int,
        num_inputs: int,
        block_size: int,
    ):
        self.start, self.column, self.counts = start, column, counts
        self.num_outputs, self.num_inputs, self.block_size = num_outputs, num_inputs, block_size

    @staticmethod
    def of_mask(mask: Tensor, num_stored: int | None = None) -> Connections:
        """The active connections of a mask.

        Args:
            mask: [G, O, I] bool.
            num_stored: K, at least the largest count; by default that.
        """
        G, O, I = mask.shape
        counts = mask.flatten(1).sum(1)
        largest = int(counts.max()) if num_stored is None else num_stored
        size = block_size_for(largest / (O * I), I)
        num_blocks = -(-I // size)
        inside = torch.nn.functional.pad(mask, (0, num_blocks * size - I))
        inside = inside.view(G, O, num_blocks, size).transpose(1, 2)  # [G, blocks, O, size]
        ends = inside.sum(-1, dtype=torch.int64).flatten(1).cumsum(1)
        start = torch.nn.functional.pad(ends, (1, 0)).to(torch.int32)
        column = torch.zeros(G, largest, dtype=torch.int32, device=mask.device)
        for g in range(G):
            block, _, place = inside[g].nonzero(as_tuple=True)
            column[g, : block.shape[0]] = (block * size + place).to(torch.int32)
        return Connections(start, column, counts, O, I, size)

    @property
    def num_matrices(self) -> int:
        """G."""
        return self.start.shape[0]

    @property
    def num_blocks(self) -> int:
        """Blocks of inputs."""
        return -(-self.num_inputs // self.block_size)

    @property
    def num_stored(self) -> int:
        """K."""
        return self.column.shape[1]

    @cached_property
    def output(self) -> Tensor:
        """[G, K] int64 output of each value."""
        segment = torch.arange(self.num_blocks * self.num_outputs, device=self.start.device)
        lengths = self.start.diff(dim=1).long()
        output = torch.zeros_like(self.column, dtype=torch.int64)
        for g in range(self.num_matrices):
            rows = (segment % self.num_outputs).repeat_interleave(lengths[g])
            output[g, : rows.shape[0]] = rows
        return output

    @cached_property
    def place(self) -> Tensor:
        """[G, K] int64 index of each value in the dense matrix, o * I + i; O * I for places that
        belong to no connection.
        """
        place = self.output * self.num_inputs + self.column.long()
        index = torch.arange(self.num_stored, device=place.device)
        beyond = self.num_outputs * self.num_inputs
        return torch.where(index < self.counts.unsqueeze(1), place, beyond)

    @cached_property
    def is_ragged(self) -> bool:
        """Whether some matrix has fewer connections than are stored."""
        return bool((self.counts < self.num_stored).any())

    def to_dense(self, value: Tensor) -> Tensor:
        """[G, K] values -> [G, O, I] with zeros where no connection is."""
        G, O, I = self.num_matrices, self.num_outputs, self.num_inputs
        dense = value.new_zeros(G, O * I + 1).scatter(1, self.place, value)
        return dense[:, :-1].reshape(G, O, I)

    def from_dense(self, dense: Tensor) -> Tensor:
        """[G, O, I] -> [G, K] what it holds at the connections."""
        flat = torch.nn.functional.pad(dense.flatten(1), (0, 1))
        return flat.gather(1, self.place)

    def mask(self) -> Tensor:
        """[G, O, I] bool."""
        return self.to_dense(torch.ones_like(self.column, dtype=torch.bool))

    @cached_property
    def transposed(self) -> tuple[Connections, Tensor]:
        """The connections of the transposed matrices, and [G, K] int32 where each of their values
        is among those of this one.
        """
        O, I = self.num_outputs, self.num_inputs
        size = block_size_for(self.num_stored / (O * I), O)
        num_segments = -(-O // size) * I
        start = self.start.new_empty(self.num_matrices, num_segments + 1)
        column, source = torch.empty_like(self.column), torch.empty_like(self.column)
        if self.start.device.type == "cpu" and kernels.NATIVE is not None:
            stack.native().fastanf_transpose(
                ctypes.byref(
                    TransposeArgs(
                        self.start.data_ptr(), self.column.data_ptr(), start.data_ptr(),
                        column.data_ptr(), source.data_ptr(), self.num_matrices, O, I,
                        self.num_stored, self.num_blocks, size, torch.get_num_threads(),
                    )
                )
            )  # fmt: skip
            return Connections(start, column, self.counts, I, O, size), source
        block = self.output // size
        segment = block * I + self.column.long()
        is_used = self.place < O * I
        # One more segment takes the places that belong to no connection.
        segment = torch.where(is_used, segment, num_segments)
        order = segment * size + (self.output - block * size)
        source = order.argsort(dim=1, stable=True)
        lengths = segment.new_zeros(self.num_matrices, num_segments + 1)
        lengths.scatter_add_(1, segment, torch.ones_like(segment))
        start[:, 0] = 0
        start[:, 1:] = lengths[:, :-1].cumsum(1)
        column.copy_(torch.where(is_used, self.output, 0).gather(1, source))
        return Connections(start, column, self.counts, I, O, size), source.to(torch.int32)

    def pick(self, copy: slice, num_copies: int) -> Connections:
        """Those of some of the C copies of each lane, on the same memory; they follow changes."""
        if copy.indices(num_copies) == (0, num_copies, 1):
            return self
        return _PickedConnections(self, copy, num_copies)

    def move_to_(self, other: Connections) -> None:
        """Take over the connections of `other`, which stores as many.

        Raises:
            ValueError: other counts, or matrices of another size.
        """
        size, other_size = (
            (at.num_outputs, at.num_inputs, at.block_size, *at.column.shape) for at in (self, other)
        )
        if size != other_size or not torch.equal(other.counts, self.counts):
            raise ValueError(
                f"connections of {other.counts.tolist()} values cannot take the place of "
                f"{self.counts.tolist()}"
            )
        self.start.copy_(other.start)
        self.column.copy_(other.column)
        self.changed()

    def changed(self) -> None:
        """Forget what was derived from connections that have changed in place."""
        for derived in ("output", "place", "transposed"):
            self.__dict__.pop(derived, None)

    @cached_property
    def args(self) -> ConnectionArgs:
        """As the compiled kernels take them; valid as long as this object lives."""
        return ConnectionArgs(
            self.start.data_ptr(), self.column.data_ptr(), self.start.stride(0),
            self.column.stride(0), self.num_blocks, self.block_size,
        )  # fmt: skip


class _PickedConnections(Connections):
    """Some copies of other connections, on their memory."""

    def __init__(self, whole: Connections, copy: slice, num_copies: int):
        def of(tensor: Tensor) -> Tensor:
            return tensor.unflatten(0, (-1, num_copies))[:, copy].flatten(0, 1)

        super().__init__(
            of(whole.start), of(whole.column), of(whole.counts),
            whole.num_outputs, whole.num_inputs, whole.block_size,
        )  # fmt: skip
        self._whole, self._of = whole, of
        self._turned: tuple[Connections, tuple[Connections, Tensor]] | None = None

    @property
    def output(self) -> Tensor:
        return self._of(self._whole.output)

    @property
    def place(self) -> Tensor:
        return self._of(self._whole.place)

    @property
    def transposed(self) -> tuple[Connections, Tensor]:
        whole, source = self._whole.transposed
        if self._turned is None or self._turned[0] is not whole:
            turned = Connections(
                self._of(whole.start), self._of(whole.column), self._of(whole.counts),
                whole.num_outputs, whole.num_inputs, whole.block_size,
            )  # fmt: skip
            self._turned = whole, (turned, self._of(source))
        return self._turned[1]


def block_size_for(density: float, num_inputs: int) -> int:
    """Inputs of a block, for layers of this density."""
    size = _BLOCK_SIZE if density >= _SPARSE else _SPARSE_BLOCK_SIZE
    return min(size, num_inputs)


def csr_linear_ref(
    x: LayerInput, value: Tensor, at: Connections, bias: Tensor, slope: float = 1.0
) -> Tensor:
    """Plain-torch definition of `csr_linear`."""
    return linear_ref(x, at.to_dense(value), bias, slope)


def csr_weight_grad_ref(x: LayerInput, grad: Tensor, at: Connections) -> tuple[Tensor, Tensor]:
    """Plain-torch definition of `csr_weight_grad`."""
    weight_grad, bias_grad = linear_weight_grad_ref(x, grad)
    return at.from_dense(weight_grad), bias_grad


def csr_input_grad_ref(
    value: Tensor,
    at: Connections,
    grad: Tensor,
    inputs: slice = slice(None),
    activated: Tensor | None = None,
    slope: float = 1.0,
) -> Tensor:
    """Plain-torch definition of `csr_input_grad`."""
    return linear_input_grad_ref(at.to_dense(value), grad, inputs, activated, slope)


def csr_linear(
    x: LayerInput, value: Tensor, at: Connections, bias: Tensor, slope: float = 1.0
) -> Tensor:
    """y = act(b + W x) from active connections only.

    Args:
        x: input of L lanes, [L, I, B].
        value: [G, K], of the connections `at`; G a multiple of L.
        at: where they are.
        bias: [G, O].
        slope: of the activation below zero, in [0, 1]; 1 for none.

    Returns:
        [G, O, B].

    Raises:
        ValueError: on shapes that do not fit each other.
    """
    G, O, I = at.num_matrices, at.num_outputs, at.num_inputs
    L, B = x.num_lanes, x.num_columns
    if G % L or x.num_inputs != I or value.shape != at.column.shape or bias.shape != (G, O):
        raise ValueError(
            f"value, bias have shapes {[*value.shape]}, {[*bias.shape]} and the input "
            f"[{L}, {x.num_inputs}, {B}]: {G} matrices of {O} x {I} need [{G}, {at.num_stored}], "
            f"[{G}, {O}] and [L, {I}, B], L a divisor of {G}"
        )
    if B == 0 or not (x.is_native and is_native(value, bias)):
        return csr_linear_ref(x, value, at, bias, slope)
    weights = stack.Weights(like_columns(value, at), stack.dense_rows(bias), at, (G, O, I))
    return stack.run_forward(x, [weights], [slope])[0]


def csr_weight_grad(x: LayerInput, grad: Tensor, at: Connections) -> tuple[Tensor, Tensor]:
    """Gradients of the values and of the biases.

    Args:
        x: what entered the layer, [L, I, B].
        grad: [G, O, B], dz.
        at: the connections.

    Returns:
        [G, K], zero where no connection is, and [G, O].

    Raises:
        ValueError: on shapes that do not fit each other.
    """
    check_grad(x, grad, at.num_matrices, at.num_outputs, at.num_inputs)
    if grad.shape[2] == 0 or not (x.is_native and is_native(grad)):
        return csr_weight_grad_ref(x, grad, at)
    G, O, _ = grad.shape
    L, grad = x.num_lanes, grad.contiguous()
    # Picked copies lie with gaps, and the kernel writes with the strides of the columns.
    value_grad = torch.empty_strided(at.column.shape, at.column.stride())
    if at.is_ragged:
        value_grad.zero_()
    bias_grad = torch.empty(G, O)
    stack.native().fastanf_csr_weight_grad(
        ctypes.byref(
            CsrWeightGradArgs(
                x.args, at.args, grad.data_ptr(), L, G // L, O, at.num_inputs,
                value_grad.data_ptr(), bias_grad.data_ptr(), torch.get_num_threads(),
            )
        )
    )  # fmt: skip
    return value_grad.contiguous(), bias_grad


def csr_input_grad(
    value: Tensor,
    at: Connections,
    grad: Tensor,
    inputs: slice = slice(None),
    activated: Tensor | None = None,
    slope: float = 1.0,
) -> Tensor:
    """dx = W^T dz of some inputs, taken on through the activation that made them.

    Args:
        value: [G, K].
        at: the connections.
        grad: [G, O, B], dz.
        inputs: a contiguous range of the I inputs.
        activated: [G, n, B] the inputs of that range, where an activation made them.
        slope: of that activation below zero.

    Returns:
        [G, n, B].

    Raises:
        ValueError: on shapes that do not fit each other.
    """
    G, O, _ = grad.shape
    first, last = check_input_grad(
        (at.num_matrices, at.num_outputs, at.num_inputs), grad, inputs, activated
    )
    if grad.numel() == 0 or not is_native(value, grad):
        return csr_input_grad_ref(value, at, grad, inputs, activated, slope)
    activated = None if activated is None else activated.contiguous()
    # The bias has no part in this.
    weights = stack.Weights(like_columns(value, at), value, at, (G, O, at.num_inputs))
    step = stack.BackStep(weights, first, last - first, activated, slope)
    return stack.run_backward(grad, [step])[0]


def like_columns(value: Tensor, at: Connections) -> Tensor:
    """The values with the strides of the connections' columns."""
    if value.stride() == at.column.stride():
        return value
    return torch.empty_strided(at.column.shape, at.column.stride()).copy_(value)
