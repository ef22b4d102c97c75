"""Operations that bench_kernels.py measures on a GPU alone: output layers, the squashed Gaussian,
changes of masked layers' topology, each beside plain torch.

Axes: L lanes, C = 2 critics, G = L * C, B minibatch, A actions, H = 256 hidden units. An output
layer is the policy's, [L, 2 A, H]: exact in every precision.

The kernels are imported where a case is made, because bench_kernels.py --compare runs on earlier
revisions too, which may lack them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from kernel_cases import (
    DROP_FRACTION,
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
from layer_cases import PRODUCT_TOLERANCE
from torch import Tensor

from fastanf.sparse.schedule import num_to_drop

if TYPE_CHECKING:
    from fastanf.kernels.squashed_gaussian import Squashing

# Logarithms and tanh near one, of a few units in the last place, in sums of up to 17 actions;
# by the largest value.
SQUASHED_TOLERANCE = 2e-5
_NO_ACTIVATION = 1.0
NEW_WEIGHT_BOUND = 0.5


def _of(sizes: Sizes, module: str, name: str) -> Callable:
    """A function of a file of fastanf/kernels, or its definition."""
    of_file = importlib.import_module(f"fastanf.kernels.{module}")
    if sizes.is_fast:
        return getattr(of_file, name)
    return getattr(of_file, f"{name}ref_" if name.endswith("_") else f"{name}_ref")


def _check(words: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    error = float((found - expected).abs().max() / expected.abs().max())
    require(error <= tolerance, f"{words} differs from its reference by {error:.1e}")


def _head(kind: str) -> Callable[[Sizes], Case]:
    def make(sizes: Sizes) -> Case:
        from fastanf.kernels.layer_input import LayerInput

        L, B, O, on = sizes.lanes, sizes.batch_size, 2 * sizes.num_actions, sizes.device
        weight, bias = seeded(L, O, H).to(on), seeded(L, O).to(on)
        stored, grad = seeded(L, H, B).to(on).relu(), seeded(L, O, B).to(on)
        x = LayerInput(stored)

        def call() -> Tensor:
            if kind == "forward":
                return _of(sizes, "linear", "linear")(x, weight, bias, _NO_ACTIVATION)
            if kind == "weight_grad":
                return _of(sizes, "linear", "linear_weight_grad")(x, grad)[0]
            inputs = slice(0, H)
            return _of(sizes, "linear", "linear_input_grad")(weight, grad, inputs, stored, 0.0)

        def check() -> None:
            w, x64, dz = weight.double(), stored.double(), grad.double()
            if kind == "forward":
                expected = bias.double().unsqueeze(-1) + w @ x64
            elif kind == "weight_grad":
                expected = dz @ x64.transpose(1, 2)
            else:
                expected = (w.transpose(1, 2) @ dz) * (x64 > 0)
            _check(f"the head's {kind}", call(), expected, PRODUCT_TOLERANCE)

        flops = 2.0 * L * B * O * H
        num_values = weight.numel() + stored.numel() + grad.numel()
        return Case(call, check, flops, flops, 4.0 * num_values)

    return make


def _squashing(sizes: Sizes) -> tuple[Tensor, Tensor, Squashing]:
    from fastanf.kernels.squashed_gaussian import Squashing
    from fastanf.nets import LOG_STD_RANGE

    L, B, A, on = sizes.lanes, sizes.batch_size, sizes.num_actions, sizes.device
    head, normal = seeded(L, 2 * A, B).to(on), seeded(L, A, B).to(on)
    scale, offset = torch.ones(A, 1, device=on), torch.zeros(A, 1, device=on)
    return head, normal, Squashing.of(scale, offset, *LOG_STD_RANGE)


def squash(sizes: Sizes) -> Case:
    """Actions and their log-density."""
    from fastanf.kernels.squashed_gaussian import sample_squashed_ref

    head, normal, to = _squashing(sizes)

    def call() -> tuple[Tensor, Tensor]:
        return _of(sizes, "squashed_gaussian", "sample_squashed")(head, normal, to)

    def check() -> None:
        expected = sample_squashed_ref(head.double(), normal.double(), to)
        for found, wanted in zip(call(), expected, strict=True):
            _check("the squashed Gaussian", found, wanted, SQUASHED_TOLERANCE)

    return Case(call, check, moved_bytes=4.0 * (head.numel() + 2 * normal.numel()))


def squash_grad(sizes: Sizes) -> Case:
    """The same with the gradients of its inputs, as autograd calls it."""
    from fastanf.kernels.squashed_gaussian import sample_squashed_ref

    head, normal, to = _squashing(sizes)
    head.requires_grad_()
    L, A, B = normal.shape
    slopes = seeded(L, A, B).to(head), torch.full((L, B), 1 / B, device=head.device)

    def grads(function: Callable, head: Tensor, normal: Tensor, of: list[Tensor]) -> Tensor:
        return torch.autograd.grad(function(head, normal, to), head, of)[0]

    def call() -> Tensor:
        function = _of(sizes, "squashed_gaussian", "sample_squashed")
        return grads(function, head, normal, list(slopes))

    def check() -> None:
        head64 = head.detach().double().requires_grad_()
        expected = grads(sample_squashed_ref, head64, normal.double(), [s.double() for s in slopes])
        _check("the squashed Gaussian's gradient", call(), expected, SQUASHED_TOLERANCE)

    return Case(call, check, moved_bytes=4.0 * (3 * head.numel() + 4 * normal.numel()))


def masked_evolve(sizes: Sizes) -> Case:
    """One change of the topology of the critics' first layer in all lanes, target included."""
    from fastanf.kernels.csr_evolve import EvolutionKeys
    from fastanf.kernels.select import masked_evolve_ref_

    L, G, on = sizes.lanes, sizes.lanes * C, sizes.device
    n = H * sizes.num_inputs
    mask = exact_mask(G, (H, sizes.num_inputs), sizes.sparsity).view(G, n).to(on)
    weight = seeded(G, n).to(on) * mask
    target, exp_avg, exp_avg_sq = weight / 2, weight / 3, weight.square()
    num_drop = torch.full((G,), num_to_drop(sizes.active, DROP_FRACTION), device=on)
    key, step = keys(L).to(on), 0
    # Weights that grow are among the others, so that the next change is one like the first.
    bound = torch.full((G,), NEW_WEIGHT_BOUND, device=on)

    def evolve_(function: Callable, state: list[Tensor]) -> None:
        weight, mask, exp_avg, exp_avg_sq, target = state
        words = EvolutionKeys(key, step, drop=1, grow=2, value=3)
        function(weight, mask, num_drop, words, bound, [exp_avg, exp_avg_sq], None, target)

    state = [weight, mask, exp_avg, exp_avg_sq, target]
    function = _of(sizes, "select", "masked_evolve_")

    def call() -> None:
        nonlocal step
        step += 1
        evolve_(function, state)

    def check() -> None:
        ours, reference = ([tensor.clone() for tensor in state] for _ in range(2))
        evolve_(function, ours)
        evolve_(masked_evolve_ref_, reference)
        same = all(torch.equal(a, b) for a, b in zip(ours, reference, strict=True))
        require(same, "the changed topology differs from its reference")
        require(not torch.equal(ours[1], mask), "no connection has moved")

    return Case(call, check, moved_bytes=2.0 * G * n * (4 * 4 + 1))


_ON_GPU = ("triton", "reference")


def _without_features(make: Callable[[Sizes], Case]) -> Operation:
    return Operation(make, (), (0.0,), (0.0,), has_features=False, gpu_impls=_ON_GPU)


GPU_OPERATIONS = {
    "head_linear": _without_features(_head("forward")),
    "head_weight_grad": _without_features(_head("weight_grad")),
    "head_input_grad": _without_features(_head("input_grad")),
    "squash": _without_features(squash),
    "squash_grad": _without_features(squash_grad),
    "masked_evolve": Operation(masked_evolve, (), gpu_impls=_ON_GPU),
}
"""By name."""
