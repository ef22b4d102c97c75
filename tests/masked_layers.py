"""Masked layers whose connections change, for tests of each form of `masked_evolve_`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastanf.kernels.csr_evolve import EvolutionKeys

LANE_KEYS = torch.tensor([0, 2**63 - 1, 123456789012345])
COPIES = 2
ROWS = len(LANE_KEYS) * COPIES
KEYS = EvolutionKeys(LANE_KEYS, 1002, 2 | 1001 << 8, 3 | 1001 << 8, 4 | 1001 << 8)
BOUND = torch.tensor([0.0, 0.5, 0.25, 0.0, 0.125, 1.0])
FRESH = torch.tensor([True, False, True])
NAN = float("nan")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def counts_of(eligible: Tensor) -> list[int]:
    """None, all and shares between, row by row."""
    shares = [0.0, 1.0, 0.3, 0.5, 0.05, 0.97]
    return [
        math.ceil(shares[row % len(shares)] * int(own)) for row, own in enumerate(eligible.sum(1))
    ]


def layer(n: int, kind: str, seed: int = 0) -> dict[str, Tensor]:
    """A masked layer whose weights are all different, nearly all alike or NaN in part."""
    seeded = generator(1000 * seed + n)
    mask = torch.rand(ROWS, n, generator=seeded) < 0.4
    weight = torch.randn(ROWS, n, generator=seeded)
    if kind == "ties":
        weight = torch.randint(-2, 3, (ROWS, n), generator=seeded) / 4
    if kind == "nan":
        weight[torch.rand(ROWS, n, generator=seeded) < 0.7] = NAN
    draws = torch.randn(3, ROWS, n, generator=seeded)
    return {
        "weight": torch.where(mask, weight, 0.0),
        "mask": mask,
        "exp_avg": draws[0],
        "exp_avg_sq": draws[1],
        "target": torch.where(mask, draws[2], 0.0),
    }


def changed_by(
    function: Callable[..., None], held: dict[str, Tensor], num_drop: Tensor, **options: Any
) -> dict[str, Tensor]:
    """What a change of connections makes of copies of these tensors."""
    t = {name: tensor.clone() for name, tensor in held.items()}
    keys = options.pop("keys", KEYS)
    bound, fresh = options.pop("bound", BOUND), options.pop("fresh", FRESH)
    moments = [t["exp_avg"], t["exp_avg_sq"]]
    function(t["weight"], t["mask"], num_drop, keys, bound, moments, fresh, t["target"], **options)
    return t


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Also of NaN and of the sign of zero."""
    for name, tensor in expected.items():
        one, other = found[name], tensor
        if one.dtype == torch.float32:
            one, other = one.view(torch.int32), other.view(torch.int32)
        assert torch.equal(one, other), name


def with_lanes(lane_keys: Tensor, keys: EvolutionKeys = KEYS) -> EvolutionKeys:
    """The same random words' names for other lanes."""
    return EvolutionKeys(lane_keys, keys.step, keys.drop, keys.grow, keys.value)
