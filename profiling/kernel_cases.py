"""The operations that bench_kernels.py measures, each with its work and its check.

Axes: L lanes, C = 2 critics, G = L * C, B minibatch, D real features, F features with noise, A
actions, H = 256 hidden units. Layers are the first one of the critics, [G, H, F + A] on an input
[L, F + A, B] that the critics share; sparse ones have an exact share of their connections.

Everything leans on old parts of fastanf, because --compare runs it on earlier revisions too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
from fastanf.sparse.layers import MaskedLinear
from fastanf.sparse.masks import exact_masks
from fastanf.sparse.topology import evolve_, num_to_drop

C, H = 2, 256
REPLAY_TRANSITIONS = 100_000
DROP_FRACTION = 0.05
# Normals agree within a few units in the last place of values up to 6; an optimizer's step is of
# the size of the learning rate; a product of 850 terms in float32 against float64.
NOISE_TOLERANCE, STEP_TOLERANCE, PRODUCT_TOLERANCE = 5e-6, 1e-7, 2e-5


@dataclass(frozen=True)
class Sizes:
    """Of one case."""

    env: str
    noise_fraction: float
    sparsity: float
    lanes: int
    batch_size: int
    impl: str

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


def _require(is_right: bool, words: str) -> None:
    if not is_right:
        raise ValueError(f"{words}: the figures would mean nothing")


def _seeded(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _keys(*shape: int) -> Tensor:
    return torch.randint(0, 2**31, shape, generator=torch.Generator().manual_seed(1))


def noise(sizes: Sizes) -> Case:
    """Gaussian noise features of one network call."""
    return _noise(sizes, None)


def empirical_noise(sizes: Sizes) -> Case:
    """Noise features that follow the real ones' quantiles."""
    return _noise(sizes, torch.from_numpy(load_quantiles(sizes.env).copy()))


def _noise(sizes: Sizes, quantiles: Tensor | None) -> Case:
    L, B, n = sizes.lanes, sizes.batch_size, sizes.num_features - sizes.num_real
    key, std = _keys(L), torch.ones(L)
    row, out = _keys(L, B), torch.empty(L, n, B)
    native = sizes.impl == "native"

    def call() -> Tensor:
        if native:
            return noise_(out, key, row, 3, std, quantiles)
        return out.copy_(noise_ref(key, row, 3, n, std, quantiles))

    def check() -> None:
        expected = noise_ref(key, row, 3, n, std, quantiles)
        error = float((call() - expected).abs().max())
        _require(error <= NOISE_TOLERANCE, f"noise differs from its reference by {error:.1e}")

    # As fastanf/workload.py counts them.
    flops = out.numel() * (45 if quantiles is None else 22)
    return Case(call, check, flops, flops, 4 * out.numel())


class _Parameters:
    """The critics' first layer with its mask, gradient, moments and target."""

    def __init__(self, sizes: Sizes):
        L, n = sizes.lanes, H * sizes.num_inputs
        self.mask = exact_masks(_keys(L * C, n), [sizes.active] * (L * C)).view(L, C * n)
        self.is_dense = bool(self.mask.all())
        self.weight, self.grad = _seeded(L, C * n) * self.mask, _seeded(L, C * n) / 7
        self.exp_avg, self.exp_avg_sq = torch.zeros(L, C * n), torch.zeros(L, C * n)
        self.target = self.weight.clone()
        self.num_active = int(self.mask.sum())

    def copy(self) -> list[Tensor]:
        """Weight, moments and target, to start from again."""
        return [t.clone() for t in (self.weight, self.exp_avg, self.exp_avg_sq, self.target)]


def adam(sizes: Sizes) -> Case:
    """MaskAdam of the critics' first layer, its target following."""
    p, L = _Parameters(sizes), sizes.lanes
    rate, decay, tau = torch.full((L,), 1e-3), torch.full((L,), 2e-4), torch.full((L,), 5e-3)
    mask = None if p.is_dense else p.mask

    def step(function: Callable, weight: Tensor, m: Tensor, v: Tensor, target: Tensor) -> None:
        function(weight, p.grad, m, v, 10, rate, decay, mask, target=target, tau=tau)

    def check() -> None:
        ours, reference = p.copy(), p.copy()
        step(mask_adam_, *ours)
        step(mask_adam_ref_, *reference)
        error = max(float((a - b).abs().max()) for a, b in zip(ours, reference, strict=True))
        _require(error <= STEP_TOLERANCE, f"MaskAdam differs from its reference by {error:.1e}")

    function = mask_adam_ if sizes.impl == "native" else mask_adam_ref_
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
    p, tau = _Parameters(sizes), torch.full((sizes.lanes,), 5e-3)
    mask = None if p.is_dense else p.mask
    moved = p.grad * p.mask

    def check() -> None:
        ours, reference = p.target.clone(), p.target.clone()
        polyak_(ours, moved, tau, mask=mask)
        polyak_ref_(reference, moved, tau, mask=mask)
        error = float((ours - reference).abs().max())
        _require(error <= STEP_TOLERANCE, f"polyak differs from its reference by {error:.1e}")

    function = polyak_ if sizes.impl == "native" else polyak_ref_
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
    L, D, A, B = sizes.lanes, sizes.num_real, sizes.num_actions, sizes.batch_size
    replay = LaneReplay(L, REPLAY_TRANSITIONS, D, A)
    for tensor in (replay.obs, replay.action, replay.reward):
        tensor.normal_(generator=torch.Generator().manual_seed(0))
    replay.time = REPLAY_TRANSITIONS
    rng = LaneRng(list(range(L)), torch.device("cpu"))
    update = 0

    def call() -> object:
        nonlocal update
        update += 1
        return replay.sample(rng, update, B)

    def check() -> None:
        batch = replay.sample(rng, 0, B)
        time = batch.obs_id // 2
        lane = torch.arange(L).unsqueeze(1)
        same = torch.equal(batch.obs, replay.obs[lane, time, 0])
        same = same and torch.equal(batch.next_obs, replay.obs[lane, time + 1, 0])
        same = same and torch.equal(batch.action, replay.action[lane, time, 0])
        _require(same, "a sampled transition is not the stored one")

    return Case(call, check, moved_bytes=2 * 4 * L * B * (2 * D + A + 2))


class _Layer:
    """The critics' first layer, its input, and a gradient of its output."""

    def __init__(self, sizes: Sizes):
        p, L, B, I = _Parameters(sizes), sizes.lanes, sizes.batch_size, sizes.num_inputs  # noqa: E741
        weight = p.weight.view(L * C, H, I).requires_grad_()
        self.layer = MaskedLinear(weight, torch.zeros(L * C, H, requires_grad=True))
        self.x = _seeded(L, I, B).requires_grad_()
        self.grad = _seeded(L * C, H, B)
        self.done = 2.0 * B * L * C * H * I
        self.useful = 2.0 * B * L * C * sizes.active
        self.moved = 4.0 * (weight.numel() + self.x.numel() + self.grad.numel())

    def double(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weight [L, C * H, I], input and gradient in float64, for the reference."""
        L, I, _ = self.x.shape  # noqa: E741
        weight = self.layer.weight.detach().double().view(L, C * H, I)
        return weight, self.x.detach().double(), self.grad.double().view(L, C * H, -1)

    def case(self, call: Callable[[], Tensor], expected: Callable[[], Tensor], name: str) -> Case:
        """A product with its reference in float64."""

        def check() -> None:
            ours, reference = call().detach(), expected()
            error = float((ours.view_as(reference) - reference).abs().max())
            error /= float(reference.abs().max())
            _require(error <= PRODUCT_TOLERANCE, f"{name} differs from float64 by {error:.1e}")

        return Case(call, check, self.done, self.useful, self.moved)


def forward(sizes: Sizes) -> Case:
    """The critics' first layer."""
    one = _Layer(sizes)

    @torch.no_grad()
    def call() -> Tensor:
        return one.layer.forward(one.x)

    return one.case(call, lambda: torch.bmm(*one.double()[:2]), "forward")


def weight_gradient(sizes: Sizes) -> Case:
    """The gradient of its weights."""
    one = _Layer(sizes)
    out = one.layer.forward(one.x)

    def call() -> Tensor:
        return torch.autograd.grad(out, one.layer.weight, one.grad, retain_graph=True)[0]

    def expected() -> Tensor:
        _, x, grad = one.double()
        return torch.bmm(grad, x.transpose(1, 2))

    return one.case(call, expected, "weight gradient")


def input_gradient(sizes: Sizes) -> Case:
    """The gradient of its input, all columns."""
    one = _Layer(sizes)
    out = one.layer.forward(one.x)

    def call() -> Tensor:
        return torch.autograd.grad(out, one.x, one.grad, retain_graph=True)[0]

    def expected() -> Tensor:
        weight, _, grad = one.double()
        return torch.bmm(weight.transpose(1, 2), grad)

    return one.case(call, expected, "input gradient")


def evolve(sizes: Sizes) -> Case:
    """One change of the topology of the critics' first layer in all lanes."""
    p, G = _Parameters(sizes), sizes.lanes * C
    weight, mask = p.weight.view(G, -1), p.mask.view(G, -1)
    moments = [p.exp_avg.view(G, -1), p.exp_avg_sq.view(G, -1)]
    num_drop = [num_to_drop(sizes.active, DROP_FRACTION)] * G
    keys = _keys(G, weight.shape[1])

    def call() -> None:
        evolve_(weight, mask, num_drop, keys, keys.flip(1), None, moments)

    def check() -> None:
        call()
        _require(bool((mask.sum(1) == sizes.active).all()), "the topology lost connections")
        _require(not weight[~mask].any(), "an inactive weight is not zero")

    return Case(call, check)


CASES: dict[str, tuple[Callable[[Sizes], Case], tuple[str, ...]]] = {
    "noise": (noise, ("native", "reference")),
    "empirical_noise": (empirical_noise, ("native", "reference")),
    "adam": (adam, ("native", "reference")),
    "polyak": (polyak, ("native", "reference")),
    "sample": (sample, ("torch",)),
    "forward": (forward, ("masked",)),
    "weight_gradient": (weight_gradient, ("masked",)),
    "input_gradient": (input_gradient, ("masked",)),
    "evolve": (evolve, ("torch",)),
}
"""Operation -> how it is made ready, and the implementations that there are."""


def has_native() -> bool:
    """Whether the compiled kernels are in use."""
    return kernels.NATIVE is not None
