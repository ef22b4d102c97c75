"""How sparse each layer of a network is, given the level of the whole network.

A network of sizes (n_0, n_1, ..., n_K) has K layers; layer k has n_{k-1} * n_k possible
connections. The output layer stays dense unless asked otherwise, the input layer may be fixed, and
the others share what the global level leaves, in proportion to a density that the distribution
names:

    uniform   p_k = 1 - s
    ER        p_k = (n_{k-1} + n_k) / (n_{k-1} * n_k)   Mocanu et al. 2018, arXiv 1707.04780
    new       p_k = 2 / (n_{k-1} * n_k)^0.2              Grooten et al. 2023, arXiv 2302.06548, code

A layer whose density would exceed 1 becomes dense and the rest is solved again.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

METHODS = ("uniform", "ER", "new")
"""The distributions, by the name the option takes."""

CLOSENESS = 0.2
"""Exponent of the distribution `new`: 0 gives equal densities, 1 the most different ones."""

_FLOAT_GUARD = Fraction(1, 10**7)
"""A solved sparsity is within a few 1e-16 of the exact one: < 1e-8 of 1e7 connections."""


@dataclass(frozen=True)
class LayerSparsity:
    """The sparsity of every layer, and the level that they make up."""

    sparsities: tuple[float, ...]
    """One per layer, input layer first, each in [0, 1)."""
    is_raised: bool
    """True where the fixed input layer alone makes the network sparser than was asked."""
    reached: float
    """Inactive share of all possible connections, counted in whole connections."""


def active_count(num_connections: int, sparsity: float) -> int:
    """The number of active connections int((1 - s) * n), as if s were the decimal that was typed.

    Floats would give (1 - 0.8) * 43520 = 8703.99...; here it is 8704.

    Args:
        num_connections: n >= 0, possible connections.
        sparsity: s in [0, 1).

    Raises:
        ValueError: sparsity outside [0, 1).
    """
    _check_sparsity("sparsity", sparsity)
    return math.floor((1 - Fraction(repr(float(sparsity)))) * num_connections + _FLOAT_GUARD)


def layer_sparsity(
    layers: Sequence[int],
    global_sparsity: float,
    input_layer_sparsity: float | None = None,
    method: str = "uniform",
    sparse_output_layer: bool = False,
) -> LayerSparsity:
    """Divide a global sparsity over the layers of one network.

    The shares are scaled by (connections needed) / (connections that the unscaled densities give),
    both in whole connections as in the published solutions, so the sum may miss the level by a few
    connections.

    Args:
        layers: sizes (n_0, ..., n_K), all >= 1, e.g. (17, 256, 256, 12).
        global_sparsity: in [0, 1), of all connections together, dense layers included.
        input_layer_sparsity: in [0, 1), fixes the first layer; None leaves it to the distribution.
        method: one of METHODS.
        sparse_output_layer: whether the last layer takes part; otherwise it is dense.

    Returns:
        The K sparsities. Where the other layers cannot be dense enough to bring the level down to
        `global_sparsity`, they are dense and the level is raised; a fixed input layer wins.

    Raises:
        ValueError: a value out of range, or a level that the dense and fixed layers make
            impossible.
    """
    _check(layers, global_sparsity, input_layer_sparsity, method)
    sizes = [n_in * n_out for n_in, n_out in itertools.pairwise(layers)]
    num_needed = round((1 - global_sparsity) * sum(sizes))
    fixed: dict[int, float] = {}
    if not sparse_output_layer:
        fixed[len(sizes) - 1] = 1.0
    if input_layer_sparsity is not None:
        fixed[0] = 1.0 - input_layer_sparsity

    weights = [
        _relative_density(layers[k : k + 2], global_sparsity, method) for k in range(len(sizes))
    ]
    densities = _solve(sizes, weights, num_needed, fixed)
    num_solved = _whole_connections(densities, sizes)
    has_empty_layer = any(p * sizes[k] < 1 for k, p in enumerate(densities) if k not in fixed)
    if has_empty_layer or num_solved > num_needed + len(sizes):
        raise ValueError(_impossible(sizes, global_sparsity, fixed))

    sparsities = tuple(1.0 - density for density in densities)
    if input_layer_sparsity is not None:
        sparsities = (float(input_layer_sparsity), *sparsities[1:])
    num_active = sum(active_count(n, s) for n, s in zip(sizes, sparsities, strict=True))
    is_all_dense = all(k in fixed or density == 1.0 for k, density in enumerate(densities))
    is_raised = is_all_dense and num_solved < num_needed
    return LayerSparsity(sparsities, is_raised, 1.0 - num_active / sum(sizes))


def _relative_density(ends: Sequence[int], global_sparsity: float, method: str) -> float:
    n_in, n_out = ends
    if method == "uniform":
        return 1.0 - global_sparsity
    if method == "ER":
        return (n_in + n_out) / (n_in * n_out)
    return 2.0 / (n_in * n_out) ** CLOSENESS


def _solve(
    sizes: Sequence[int], weights: Sequence[float], num_needed: int, fixed: dict[int, float]
) -> list[float]:
    """Densities in proportion to `weights` that add up to `num_needed`, none above 1."""
    densities = dict(fixed)
    while len(densities) < len(sizes):
        free = [k for k in range(len(sizes)) if k not in densities]
        taken = _whole_connections(densities.values(), [sizes[k] for k in densities])
        unscaled = _whole_connections([weights[k] for k in free], [sizes[k] for k in free])
        scale = (num_needed - taken) / max(1, unscaled)
        too_dense = [k for k in free if weights[k] * scale > 1]
        densities |= dict.fromkeys(too_dense, 1.0) or {k: weights[k] * scale for k in free}
    return [densities[k] for k in range(len(sizes))]


def _whole_connections(densities: Iterable[float], sizes: Iterable[int]) -> int:
    return sum(round(p * n) for p, n in zip(densities, sizes, strict=True))


def _impossible(sizes: Sequence[int], global_sparsity: float, fixed: dict[int, float]) -> str:
    num_free = len(sizes) - len(fixed)
    num_fixed = _whole_connections(fixed.values(), [sizes[k] for k in fixed])
    highest = max(0.0, 1 - (num_fixed + num_free) / sum(sizes))
    why = []
    if fixed.get(len(sizes) - 1) == 1.0:
        why.append("the output layer is dense")
    if 0 in fixed and len(sizes) > 1:
        why.append(f"input_layer_sparsity is {1 - fixed[0]:g}")
    reason = " and ".join(why) or "every layer needs a connection"
    return (
        f"global_sparsity={global_sparsity:g} cannot be met because {reason}; "
        f"allowed for these layers: about {highest:.4f} at most"
    )


def _check_sparsity(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name}={value} is not allowed; it must be at least 0 and below 1")


def _check(
    layers: Sequence[int], global_sparsity: float, input_layer_sparsity: float | None, method: str
) -> None:
    if len(layers) < 2 or min(layers) < 1:
        raise ValueError(
            f"layers={list(layers)} is not allowed; give two or more sizes of 1 or more"
        )
    _check_sparsity("global_sparsity", global_sparsity)
    if input_layer_sparsity is not None:
        _check_sparsity("input_layer_sparsity", input_layer_sparsity)
    if method not in METHODS:
        allowed = ", ".join(METHODS)
        raise ValueError(f"sparsity_distribution_method={method!r} is not one of {allowed}")
