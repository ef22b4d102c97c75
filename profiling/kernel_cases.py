"""The operations that bench_kernels.py measures, each with its work and its check.

Axes: L lanes, C = 2 critics, G = L * C, B minibatch, D real features, F features with noise, A
actions, H = 256 hidden units. Parameters are those of the critics' first layer, [G, H, F + A];
sparse ones have an exact share of their connections.

Everything leans on old parts of fastanf, because --compare runs it on earlier revisions too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

import envs
from envs.empirical import load_quantiles
from envs.noise import num_features
from fastanf import kernels
from fastanf.kernels.mask_adam import mask_adam_, mask_adam_ref_, polyak_, polyak_ref_
from fastanf.kernels.noise import noise_, noise_ref
from fastanf.replay import LaneReplay
from fastanf.rng import LaneRng
from fastanf.sparse.distribution import active_count
from fastanf.sparse.masks import exact_masks
from fastanf.sparse.schedule import num_to_drop
from fastanf.sparse.topology import evolve_

C, H = 2, 256
REPLAY_TRANSITIONS = 100_000
DROP_FRACTION = 0.05
TRITON = ("triton", "triton-float32")
"""Implementations of Triton's kernels: products in TF32 and in float32."""
# Normals agree within a few units in the last place of values up to 6; an optimizer's step is of
# the size of the learning rate.
NOISE_TOLERANCE, STEP_TOLERANCE = 5e-6, 1e-7


@dataclass(frozen=True)
class Sizes:
    """Of one case."""

    env: str
    noise_fraction: float
    sparsity: float
    lanes: int
    batch_size: int
    impl: str
    device: str = "cpu"

    @property
    def is_fast(self) -> bool:
        """Whether compiled kernels compute, native or Triton's, and not their reference."""
        return self.impl == "native" or self.is_triton

    @property
    def is_triton(self) -> bool:
        """Whether Triton's kernels compute, in one of the precisions."""
        return self.impl in TRITON

    @property
    def is_tf32(self) -> bool:
        """Whether products may round their factors to 10 bits behind the point."""
        return self.impl in ("triton", "reference-tf32")

    @property
    def num_real(self) -> int:
        """D."""
        return envs.spec(self.env).num_features

    @property
    def num_features(self) -> int:
        """F."""
        return num_features(self.num_real, self.noise_fraction)

    @property
    def num_actions(self) -> int:
        """A."""
        return envs.spec(self.env).num_actions

    @property
    def num_inputs(self) -> int:
        """F + A."""
        return self.num_features + self.num_actions

    @property
    def active(self) -> int:
        """Active connections of one critic's first layer."""
        return active_count(H * self.num_inputs, self.sparsity)


@dataclass(frozen=True)
class Case:
    """An operation ready to be called."""

    call: Callable[[], object]
    check: Callable[[], None]
    """Raises ValueError where the result differs from the reference."""
    done_flops: float = 0.0
    useful_flops: float = 0.0
    moved_bytes: float = 0.0


def require(is_right: bool, words: str) -> None:
    """See that a check holds.

    Raises:
        ValueError: it does not.
    """
    if not is_right:
        raise ValueError(f"{words}: the figures would mean nothing")


def seeded(*shape: int) -> Tensor:
    """Standard normal numbers, the same each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def keys(*shape: int) -> Tensor:
    """Integers in [0, 2^31), the same each time."""
    return torch.randint(0, 2**31, shape, generator=torch.Generator().manual_seed(1))


def exact_mask(num_matrices: int, shape: tuple[int, int], sparsity: float) -> Tensor:
    """[num_matrices, *shape] bool with the same number of active connections in each."""
    n = shape[0] * shape[1]
    counts = [active_count(n, sparsity)] * num_matrices
    return exact_masks(keys(num_matrices, n), counts).view(num_matrices, *shape)


def noise(sizes: Sizes) -> Case:
    """Gaussian noise features of one network call."""
    return _noise(sizes, None)


def empirical_noise(sizes: Sizes) -> Case:
    """Noise features that follow the real ones' quantiles."""
    return _noise(sizes, torch.from_numpy(load_quantiles(sizes.env).copy()))


def _noise(sizes: Sizes, quantiles: Tensor | None) -> Case:
    L, B, n = sizes.lanes, sizes.batch_size, sizes.num_features - sizes.num_real
    on = sizes.device
    key, std = keys(L).to(on), torch.ones(L, device=on)
    row, out = keys(L, B).to(on), torch.empty(L, n, B, device=on)
    quantiles = None if quantiles is None else quantiles.to(on)

    def call() -> Tensor:
        if sizes.is_fast:
            return noise_(out, key, row, 3, std, quantiles)
        return out.copy_(noise_ref(key, row, 3, n, std, quantiles))

    def check() -> None:
        expected = noise_ref(key, row, 3, n, std, quantiles)
        error = float((call() - expected).abs().max())
        require(error <= NOISE_TOLERANCE, f"noise differs from its reference by {error:.1e}")

    # As fastanf/workload.py counts them.
    flops = out.numel() * (45 if quantiles is None else 22)
    return Case(call, check, flops, flops, 4 * out.numel())


class _Parameters:
    """The critics' first layer with its mask, gradient, moments and target."""

    def __init__(self, sizes: Sizes):
        L, n = sizes.lanes, H * sizes.num_inputs
        mask = exact_mask(L * C, (H, sizes.num_inputs), sizes.sparsity).view(L, C * n)
        self.mask = mask.to(sizes.device)
        self.is_dense = bool(self.mask.all())
        drawn = seeded(L, C * n).to(sizes.device)
        self.weight, self.grad = drawn * self.mask, drawn / 7
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(drawn), torch.zeros_like(drawn)
        self.target = self.weight.clone()
        self.num_active = int(self.mask.sum())

    def copy(self) -> list[Tensor]:
        """Weight, moments and target, to start from again."""
        return [t.clone() for t in (self.weight, self.exp_avg, self.exp_avg_sq, self.target)]


def adam(sizes: Sizes) -> Case:
    """MaskAdam of the critics' first layer, its target following."""
    p, L = _Parameters(sizes), sizes.lanes
    rate, decay, tau = (torch.full((L,), x, device=sizes.device) for x in (1e-3, 2e-4, 5e-3))
    mask = None if p.is_dense else p.mask
    # A graph reads the number of the step from the device.
    number = 10 if sizes.device == "cpu" else torch.full((), 10, device=sizes.device)

    def step(function: Callable, weight: Tensor, m: Tensor, v: Tensor, target: Tensor) -> None:
        function(weight, p.grad, m, v, number, rate, decay, mask, target=target, tau=tau)

    def check() -> None:
        ours, reference = p.copy(), p.copy()
        step(mask_adam_, *ours)
        step(mask_adam_ref_, *reference)
        error = max(float((a - b).abs().max()) for a, b in zip(ours, reference, strict=True))
        require(error <= STEP_TOLERANCE, f"MaskAdam differs from its reference by {error:.1e}")

    function = mask_adam_ if sizes.is_fast else mask_adam_ref_
    flops, size = 15 + 3, p.weight.numel()
    return Case(
        lambda: step(function, p.weight, p.exp_avg, p.exp_avg_sq, p.target),
        check,
        flops * size,
        flops * p.num_active,
        size * (4 * 9 + (mask is not None)),
    )


def polyak(sizes: Sizes) -> Case:
    """The target's step alone."""
    p, tau = _Parameters(sizes), torch.full((sizes.lanes,), 5e-3, device=sizes.device)
    mask = None if p.is_dense else p.mask
    moved = p.grad * p.mask

    def check() -> None:
        ours, reference = p.target.clone(), p.target.clone()
        polyak_(ours, moved, tau, mask=mask)
        polyak_ref_(reference, moved, tau, mask=mask)
        error = float((ours - reference).abs().max())
        require(error <= STEP_TOLERANCE, f"polyak differs from its reference by {error:.1e}")

    function = polyak_ if sizes.is_fast else polyak_ref_
    size = p.target.numel()
    return Case(
        lambda: function(p.target, moved, tau, mask=mask),
        check,
        3 * size,
        3 * p.num_active,
        size * (4 * 3 + (mask is not None)),
    )


def sample(sizes: Sizes) -> Case:
    """A minibatch of every lane from a replay of 100,000 transitions."""
    # Here, because an earlier revision has no such file.
    from fastanf.kernels.replay_gather import (
        Rings,
        gather_transitions,
        gather_transitions_ref,
    )

    L, D, A, B = sizes.lanes, sizes.num_real, sizes.num_actions, sizes.batch_size
    on = torch.device(sizes.device)
    replay = LaneReplay(L, REPLAY_TRANSITIONS, D, A, device=on)
    for tensor in (replay.obs, replay.action, replay.reward):
        tensor.normal_(generator=torch.Generator(on).manual_seed(0))
    replay.time = REPLAY_TRANSITIONS
    rings = Rings(
        replay.obs, replay.action, replay.reward, replay.not_terminated, replay.final_slot,
        replay.final_obs,
    )  # fmt: skip
    gather = gather_transitions if sizes.is_fast else gather_transitions_ref
    replay.transitions = lambda time, env: gather(rings, time, env)
    rng = LaneRng(list(range(L)), on)
    # Triton's kernel draws too, by a number on the device.
    update = torch.zeros((), dtype=torch.int64, device=on) if sizes.is_triton else 0

    def call() -> object:
        nonlocal update
        update += 1
        return replay.sample(rng, update, B)

    def check() -> None:
        batch = replay.sample(rng, update, B)
        time = batch.obs_id // 2
        lane = torch.arange(L, device=on).unsqueeze(1)
        same = torch.equal(batch.obs, replay.obs[lane, time, 0])
        same = same and torch.equal(batch.next_obs, replay.obs[lane, time + 1, 0])
        same = same and torch.equal(batch.action, replay.action[lane, time, 0])
        require(same, "a sampled transition is not the stored one")

    return Case(call, check, moved_bytes=2 * 4 * L * B * (2 * D + A + 2))


def evolve(sizes: Sizes) -> Case:
    """One change of the topology of the critics' first layer in all lanes."""
    p, G = _Parameters(sizes), sizes.lanes * C
    weight, mask = p.weight.view(G, -1), p.mask.view(G, -1)
    moments = [p.exp_avg.view(G, -1), p.exp_avg_sq.view(G, -1)]
    num_drop = [num_to_drop(sizes.active, DROP_FRACTION)] * G
    order = keys(G, weight.shape[1])

    def call() -> None:
        evolve_(weight, mask, num_drop, order, order.flip(1), None, moments)

    def check() -> None:
        call()
        require(bool((mask.sum(1) == sizes.active).all()), "the topology lost connections")
        require(not weight[~mask].any(), "an inactive weight is not zero")

    return Case(call, check)


def csr_evolve(sizes: Sizes) -> Case:
    """The same change where connections are stored, in place."""
    from fastanf.kernels.csr import Connections
    from fastanf.kernels.csr_evolve import EvolutionKeys, csr_evolve_

    p, G = _Parameters(sizes), sizes.lanes * C
    mask = p.mask.view(G, H, -1)
    at = Connections.of_mask(mask)
    value, target, *moments = (
        at.from_dense(tensor.view_as(mask))
        for tensor in (p.weight, p.weight, p.exp_avg, p.exp_avg_sq)
    )
    num_drop = [num_to_drop(sizes.active, DROP_FRACTION)] * G
    step = 0

    def call() -> None:
        nonlocal step
        step += 1
        words = EvolutionKeys(keys(sizes.lanes), step, drop=1, grow=2, value=3)
        csr_evolve_(value, at, num_drop, words, [0.0] * G, moments, target)

    def check() -> None:
        before = at.mask()
        call()
        require(bool((at.mask().sum((1, 2)) == sizes.active).all()), "connections were lost")
        require(not torch.equal(at.mask(), before), "no connection has moved")

    return Case(call, check)


class Operation(NamedTuple):
    """How an operation is made ready, and the sizes where no others are asked for."""

    make: Callable[[Sizes], Case]
    impls: tuple[str, ...]
    """The implementations that there are."""
    noise_fractions: tuple[float, ...] = (0.9,)
    sparsities: tuple[float, ...] = (0.8,)
    has_features: bool = True
    """Whether its sizes depend on the task's features; else noise_fraction is 0."""
    gpu_impls: tuple[str, ...] = ()
    """The implementations on CUDA."""


_BOTH, _ON_GPU = ("native", "reference"), ("triton", "reference")
OPERATIONS = {
    "noise": Operation(noise, _BOTH, gpu_impls=_ON_GPU),
    "empirical_noise": Operation(empirical_noise, _BOTH, gpu_impls=_ON_GPU),
    "adam": Operation(adam, _BOTH, gpu_impls=_ON_GPU),
    "polyak": Operation(polyak, _BOTH, gpu_impls=_ON_GPU),
    "sample": Operation(sample, _BOTH, gpu_impls=("triton",)),
    "evolve": Operation(evolve, ("torch",)),
    "csr_evolve": Operation(csr_evolve, ("native",)),
}
"""By name; layer_cases.py has those of the layers, gpu_cases.py those of a GPU alone."""


def has_native() -> bool:
    """Whether the compiled kernels are in use."""
    return kernels.NATIVE is not None
