"""Which layout stores each layer of a lane: masked or csr (sparse/layers.py).

`auto` takes csr where it was measured to be faster: on a CPU with compiled kernels, for layers that
are sparse enough. On other devices, and in plain torch, masked layers win.

A csr layer has no room for what happens at inactive connections, so it cannot serve
`target_sparsity=trim` (targets with connections of their own), nor an optimizer whose moments go on
where a connection is missing while the topology changes (DS).
"""

from __future__ import annotations

from collections.abc import Sequence

from fastanf import kernels
from fastanf.config import TrainConfig, csr_obstacle
from fastanf.networks import NetworkPlan
from fastanf.sparse.layers import CSR, MASKED

CSR_BELOW_DENSITY = 0.6
"""Layers at least this dense stay masked under `auto`. Measured for hidden layers of 256 x 256, the
batch 100, AVX-512: `bench_kernels.py --op hidden_...`, rows in profiling/results/kernels.csv."""


def layer_layouts(
    config: TrainConfig, networks: tuple[NetworkPlan, NetworkPlan], device: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The layout of each layer of the actor and of the critics.

    Args:
        config: of a lane.
        networks: its actor and critic.
        device: "cpu", or "cuda" with or without a number.
    """
    actor, critic = (
        tuple(
            _layer_layout(config, active / possible, device)
            for active, possible in zip(network.active_counts, network.connections, strict=True)
        )
        for network in networks
    )
    return actor, critic


def block_layouts(
    lanes: Sequence[TrainConfig],
    networks: Sequence[tuple[NetworkPlan, NetworkPlan]],
    device: str,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The layouts of lanes that train together: csr where every lane takes csr or is dense.

    Lanes that were grouped by layout agree. Others are met in a run that goes on where other
    kernels are at hand than when its lanes were grouped.
    """
    of_lanes = [layer_layouts(*pair, device) for pair in zip(lanes, networks, strict=True)]

    def shared(network: int, layer: int) -> str:
        takes_csr = [layouts[network][layer] == CSR for layouts in of_lanes]
        plans = [plans[network] for plans in networks]
        is_dense = [plan.active_counts[layer] == plan.connections[layer] for plan in plans]
        fits = all(csr or dense for csr, dense in zip(takes_csr, is_dense, strict=True))
        return CSR if fits and any(takes_csr) else MASKED

    num_layers = len(networks[0][0].active_counts)
    actor, critic = (
        tuple(shared(network, layer) for layer in range(num_layers)) for network in (0, 1)
    )
    return actor, critic


def _layer_layout(config: TrainConfig, density: float, device: str) -> str:
    asked = config.sparsity.layout
    if density == 1 or asked == MASKED or csr_obstacle(config):
        return MASKED
    if asked == CSR:
        return CSR
    is_compiled = device == "cpu" and kernels.NATIVE is not None
    return CSR if is_compiled and density < CSR_BELOW_DENSITY else MASKED


def layout_reason(config: TrainConfig, device: str) -> str:
    """Why the layers are stored as they are, for the plan."""
    asked = config.sparsity.layout
    if asked != "auto":
        return f"as asked (--layout {asked})"
    if device != "cpu":
        return f"masked on {device}"
    if kernels.NATIVE is None:
        return "masked, because plain torch computes (--impl)"
    obstacle = csr_obstacle(config)
    if obstacle:
        return f"masked, because of {obstacle}"
    return (
        f"csr below a density of {CSR_BELOW_DENSITY:g}, where it was measured to be faster "
        "(profiling/README.md)"
    )
