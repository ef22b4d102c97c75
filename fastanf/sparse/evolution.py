"""When and where the connections of one network change, for all lanes of a block.

Axes: L lanes, C critics (1 for an actor), G = L * C rows of a layer's stacked weights. Each lane
has its own topology, period and drop fraction; sparse/topology.py holds the rules. Source: SET,
Mocanu et al. 2018, arXiv 1707.04780; Grooten et al. 2023, Alg. 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastanf.instrument import Stage, stage
from fastanf.kernels.csr_evolve import EvolutionKeys, can_evolve_in_place, csr_evolve_
from fastanf.rng import LaneRng, Stream, stream_word
from fastanf.sparse.layers import LAYERS_PER_NETWORK, CsrLinear, StackedLinear
from fastanf.sparse.mask_adam import StackedOptimizer
from fastanf.sparse.topology import (
    TOPOLOGIES,
    due_lanes,
    evolve_,
    new_weight_bound,
    new_weight_values,
)


@dataclass(frozen=True)
class TopologySettings:
    """How the connections of each lane change; every field has one entry a lane."""

    topology: Sequence[str]
    """A name in TOPOLOGIES."""
    drop_fraction: Sequence[float]
    """Share of the active connections that leaves, in [0, 1]."""
    period: Sequence[int]
    """Updates from one change to the next."""
    new_weights: Sequence[str]
    """How a grown connection starts: zero, unif or xavier."""


class TopologyEvolution:
    """Changes the connections of one network's sparse layers, and of its target, which shares
    their masks.
    """

    def __init__(
        self,
        settings: TopologySettings,
        network: int,
        layers: Sequence[StackedLinear],
        targets: Sequence[StackedLinear],
        optimizer: StackedOptimizer,
        rng: LaneRng,
    ):
        self.settings, self.network, self.rng, self.optimizer = settings, network, rng, optimizer
        self.layers = [
            (index, layer, targets[index] if targets else None)
            for index, layer in enumerate(layers)
            if layer.is_sparse
        ]
        num_lanes = len(settings.topology)
        self.num_copies = layers[0].shape[0] // num_lanes
        self._num_drop = [self._drop_counts(layer) for _, layer, _ in self.layers]
        self._evolves = any(sum(counts) > 0 for counts in self._num_drop)

    def _drop_counts(self, layer: StackedLinear) -> list[int]:
        C, num_connections = self.num_copies, layer.shape[1] * layer.shape[2]
        counts = []
        for row, active in enumerate(layer.active().tolist()):
            topology = TOPOLOGIES[self.settings.topology[row // C]]
            drop_fraction = self.settings.drop_fraction[row // C]
            is_dense = active == num_connections
            counts.append(0 if is_dense else topology.num_to_drop(active, drop_fraction))
        return counts

    @torch.no_grad()
    def evolve_if_due_(self, update: int) -> bool:
        """Drop and grow in the lanes whose turn it is after update number `update` (the first is
        1).

        Returns:
            Whether any lane was due.
        """
        if not self._evolves:
            return False
        due = due_lanes(update, self.settings.period)
        if not any(due):
            return False
        C = self.num_copies
        with stage(Stage.TOPOLOGY):
            for (index, layer, target), num_drop in zip(self.layers, self._num_drop, strict=True):
                due_drop = [n if due[row // C] else 0 for row, n in enumerate(num_drop)]
                self._evolve_layer_(index, layer, target, due_drop, update)
        return True

    def _evolve_layer_(
        self,
        index: int,
        layer: StackedLinear,
        target: StackedLinear | None,
        num_drop: list[int],
        update: int,
    ) -> None:
        G, num_outputs, num_inputs = layer.shape
        shape = (self.num_copies, num_outputs * num_inputs)
        sub = LAYERS_PER_NETWORK * self.network + index
        if isinstance(layer, CsrLinear) and can_evolve_in_place(layer.value):
            csr_evolve_(
                layer.value,
                layer.at,
                num_drop,
                EvolutionKeys(
                    self.rng.key,
                    update,
                    stream_word(Stream.TOPOLOGY_DROP, sub),
                    stream_word(Stream.TOPOLOGY_GROW, sub),
                    stream_word(Stream.TOPOLOGY_VALUE, sub),
                ),
                [
                    new_weight_bound(method, num_inputs, num_outputs)
                    for method in self.settings.new_weights
                    for _ in range(self.num_copies)
                ],
                self.optimizer.moments_of(layer.value),
                None if target is None else target.trained,
            )
            return

        def keys(stream: Stream) -> Tensor:
            return self.rng.bits(stream, update, shape, sub=sub).reshape(G, -1)

        mask, weight = layer.connection_mask(), layer.trained.detach()
        assert mask is not None
        moments = self.optimizer.moments_of(layer.trained)
        tensors = [weight, *moments, *([] if target is None else [target.trained])]
        dense = [layer.spread(tensor) for tensor in tensors]
        evolve_(
            dense[0].view(G, -1),
            mask.view(G, -1),
            num_drop,
            keys(Stream.TOPOLOGY_DROP),
            keys(Stream.TOPOLOGY_GROW),
            self._new_values(layer, shape, update, sub),
            [moment.view(G, -1) for moment in dense[1 : 1 + len(moments)]],
            self.optimizer.mask_moments.repeat_interleave(self.num_copies),
        )
        if target is not None:
            dense[-1].mul_(mask)
        layer.set_connections_(mask)
        for tensor, moved in zip(tensors, dense, strict=True):
            tensor.copy_(layer.collect(moved))

    def _new_values(
        self, layer: StackedLinear, shape: tuple[int, int], update: int, sub: int
    ) -> Tensor | None:
        methods = self.settings.new_weights
        if all(method == "zero" for method in methods):
            return None
        L, (_, num_outputs, num_inputs) = len(methods), layer.shape
        uniforms = self.rng.uniform(Stream.TOPOLOGY_VALUE, update, shape, sub=sub)
        values = torch.zeros_like(uniforms)  # [L, C, n]
        for lane in range(L):
            drawn = new_weight_values(methods[lane], uniforms[lane], num_inputs, num_outputs)
            if drawn is not None:
                values[lane] = drawn
        return values.reshape(layer.shape[0], -1)
