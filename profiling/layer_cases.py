"""The layers' kernels that bench_kernels.py measures, dense and csr, each beside plain torch.

Axes: L lanes, C = 2 critics, G = L * C, B minibatch, D real features, F features with noise, A
actions, I inputs, H = 256 hidden units.

The *first* layer is that of the critics, [G, H, F + A] on an input that the critics share: D stored
features, noise drawn inside the kernel, and actions. The *hidden* layer is [G, H, H]. Forward they
end in relu; the input gradient is that of the actions in the first layer, and in the hidden one
that of all inputs, taken on through the relu that made them. `linear` has dense weights with zeros
among them, `csr_linear` stores active connections only: one hidden layer at several sparsities
shows at which density csr becomes faster.

fastanf's layers are imported where a case is made, because --compare runs on earlier revisions too,
which may lack them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from kernel_cases import (
    TRITON,
    C,
    Case,
    H,
    Operation,
    Sizes,
    exact_mask,
    keys,
    require,
    seeded,
)
from torch import Tensor

from fastanf.kernels.noise import noise_ref

if TYPE_CHECKING:
    from fastanf.kernels.layer_input import LayerInput

# Products of up to 1706 terms in float32 against float64, by the largest value.
PRODUCT_TOLERANCE = 2e-5
# TF32 keeps 10 bits behind the point, rounded or cut off: 2^-10 of each factor, twice that of a
# product, with room for sums in which the larger terms cancel.
TF32_TOLERANCE = 2**-8
NOISE_STREAM, RELU = 3, 0.0
# As fastanf/workload.py counts them: a normal number, and bytes of a value and of an index.
NORMAL_FLOPS, FLOAT_BYTES, INDEX_BYTES = 45, 4, 4


@dataclass(frozen=True)
class _Work:
    """What enters and leaves one layer."""

    num_real: int
    num_noise: int
    num_actions: int
    weight: Tensor
    """[G, H, I] float32, zero where no connection is."""
    mask: Tensor
    """[G, H, I] bool."""
    stored: Tensor
    """[L, D, B]."""
    extra: Tensor | None
    """[L, A, B]."""
    grad: Tensor
    """[G, H, B]."""

    @property
    def wanted(self) -> slice:
        """The inputs that want a gradient."""
        last = self.weight.shape[2]
        return slice(last - self.num_actions, last) if self.num_actions else slice(0, last)


def _work(sizes: Sizes, is_first: bool) -> _Work:
    L, B = sizes.lanes, sizes.batch_size
    D, A = (sizes.num_real, sizes.num_actions) if is_first else (H, 0)
    num_noise = sizes.num_features - sizes.num_real if is_first else 0
    on = sizes.device
    mask = exact_mask(L * C, (H, D + num_noise + A), sizes.sparsity).to(on)
    weight = seeded(*mask.shape).to(on) * mask
    # Hidden units are shared by no critics: each has its own, as lanes of their own would.
    rows = L if is_first else L * C
    stored = seeded(rows, B, D).transpose(1, 2) if is_first else seeded(rows, D, B).relu()
    extra = seeded(rows, A, B).to(on) if A else None
    grad = seeded(L * C, H, B).to(on)
    return _Work(D, num_noise, A, weight, mask, stored.to(on), extra, grad)


def _inputs(work: _Work, is_fast: bool) -> Callable[[], LayerInput]:
    """Makes the layer's input anew at each call: plain torch draws noise and writes it out, the
    compiled kernels take the parts.
    """
    from fastanf.kernels.layer_input import LayerInput, Noise

    rows, n, B = work.stored.shape[0], work.num_noise, work.stored.shape[2]
    on = work.stored.device
    key, row, std = keys(rows).to(on), keys(rows, B).to(on), torch.ones(rows, device=on)
    if is_fast or not n:
        noise = Noise(key, row, NOISE_STREAM, n, std) if n else None
        return lambda: LayerInput(work.stored, noise, work.extra)

    def written_out() -> LayerInput:
        drawn = noise_ref(key, row, NOISE_STREAM, n, std)
        return LayerInput(torch.cat([work.stored, drawn, *_present(work.extra)], 1))

    return written_out


def _present(tensor: Tensor | None) -> list[Tensor]:
    return [] if tensor is None else [tensor]


def _case(sizes: Sizes, kind: str, is_csr: bool, is_first: bool) -> Case:
    from fastanf.kernels import csr, linear

    work = _work(sizes, is_first)
    make_input = _inputs(work, sizes.is_fast)
    bias = seeded(*work.weight.shape[:2]).to(sizes.device)
    at = csr.Connections.of_mask(work.mask) if is_csr else None
    value = work.weight if at is None else at.from_dense(work.weight)
    activated = None if work.num_actions else work.stored
    suffix = "" if sizes.is_fast else "_ref"
    tolerance = TF32_TOLERANCE if sizes.is_tf32 else PRODUCT_TOLERANCE

    def function(name: str) -> Callable:
        module = linear if at is None else csr
        return getattr(module, f"{name}{suffix}")

    def forward() -> Tensor:
        if at is None:
            return function("linear")(make_input(), value, bias, RELU)
        return function("csr_linear")(make_input(), value, at, bias, RELU)

    def weight_grad() -> Tensor:
        if at is None:
            return function("linear_weight_grad")(make_input(), work.grad)[0]
        return function("csr_weight_grad")(make_input(), work.grad, at)[0]

    def input_grad() -> Tensor:
        where = (value,) if at is None else (value, at)
        name = "linear_input_grad" if at is None else "csr_input_grad"
        return function(name)(*where, work.grad, work.wanted, activated, RELU)

    call = {"forward": forward, "weight_grad": weight_grad, "input_grad": input_grad}[kind]

    def check() -> None:
        reference = _expected(kind, work, bias, make_input().written_out)
        if kind == "weight_grad" and at is not None:
            reference = at.from_dense(reference)
        ours = call()
        error = float((ours - reference).abs().max() / reference.abs().max())
        require(error <= tolerance, f"{kind} differs from float64 by {error:.1e}")

    return Case(call, check, *_counts(kind, work, is_csr))


def _expected(kind: str, work: _Work, bias: Tensor, x: Tensor) -> Tensor:
    """The result in float64, from inputs [rows, I, B] as one tensor."""
    G = work.weight.shape[0]
    weight, grad = work.weight.double(), work.grad.double()
    x = x.double().repeat_interleave(G // x.shape[0], 0)
    if kind == "forward":
        return (bias.double().unsqueeze(-1) + weight @ x).relu()
    if kind == "weight_grad":
        return grad @ x.transpose(1, 2)
    passed = weight[:, :, work.wanted].transpose(1, 2) @ grad
    return passed if work.num_actions else passed * (work.stored > 0)


def _counts(kind: str, work: _Work, is_csr: bool) -> tuple[float, float, float]:
    """Operations done and useful, and bytes, as fastanf/workload.py counts them."""
    B = work.stored.shape[2]
    is_input_grad = kind == "input_grad"
    mask = work.mask[:, :, work.wanted] if is_input_grad else work.mask
    active, possible = int(mask.sum()), mask.numel()
    multiplied = active if is_csr else possible
    drawn = 0 if is_input_grad else NORMAL_FLOPS * work.num_noise * work.stored.shape[0] * B
    if is_input_grad:
        num_inputs = mask.shape[0] * mask.shape[2] * B
    else:
        num_inputs = sum(part.numel() for part in (work.stored, *_present(work.extra)))
    weight_bytes = multiplied * (FLOAT_BYTES + INDEX_BYTES * is_csr)
    moved = weight_bytes + FLOAT_BYTES * (num_inputs + work.grad.numel())
    return 2.0 * B * multiplied + drawn, 2.0 * B * active + drawn, moved


def _maker(kind: str, is_csr: bool, is_first: bool) -> Callable[[Sizes], Case]:
    def make(sizes: Sizes) -> Case:
        try:
            return _case(sizes, kind, is_csr, is_first)
        except ImportError as error:
            raise ValueError(
                f"--op must be one that every revision has, one lacks the layers' kernels: {error}"
            ) from None

    return make


_KINDS = {"linear": "forward", "weight_grad": "weight_grad", "input_grad": "input_grad"}
_BOTH = ("native", "reference")
_ON_GPU = (*TRITON, "reference", "reference-tf32")


def _operations() -> dict[str, Operation]:
    operations = {}
    for is_first in (True, False):
        for is_csr in (False, True):
            for name, kind in _KINDS.items():
                layout = "csr_" if is_csr else "linear_" * (name != "linear")
                operations[f"{'' if is_first else 'hidden_'}{layout}{name}"] = Operation(
                    _maker(kind, is_csr, is_first),
                    _BOTH,
                    noise_fractions=(0.9, 0.99) if is_first else (0.0,),
                    sparsities=(0.8, 0.95) if is_first else (0.0, 0.3, 0.4, 0.5, 0.7, 0.8, 0.9),
                    has_features=is_first,
                    gpu_impls=() if is_csr else _ON_GPU,
                )
    return operations


LAYER_OPERATIONS = _operations()
"""linear, linear_weight_grad, linear_input_grad, csr_linear, csr_weight_grad, csr_input_grad, and
the same of the hidden layer with hidden_ before them.
"""
