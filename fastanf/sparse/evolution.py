"""When and where the connections of one network change, for all lanes of a block.

Axes: L lanes, C critics (1 for an actor), G = L * C rows of a layer's stacked weights. Each lane
has its own topology, period and drop fraction; sparse/topology.py holds the rules. Source: SET,
Mocanu et al. 2018, arXiv 1707.04780; Grooten et al. 2023, Alg. 1.

Which lanes are due is the host's knowledge, and what they change the device's: of a masked layer on
a GPU nothing is read by the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastanf.instrument import Stage, stage
from fastanf.kernels.csr_evolve import EvolutionKeys, can_evolve_in_place, csr_evolve_
from fastanf.kernels.select import masked_evolve_
from fastanf.rng import LaneRng, Stream, stream_word
from fastanf.sparse import masks
from fastanf.sparse.layers import LAYERS_PER_NETWORK, CsrLinear, MaskedLinear, StackedLinear
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


class DueRows(NamedTuple):
    """How many connections leave each row of a layer, when certain lanes are due."""

    counts: list[int]
    """[G]."""
    on_device: Tensor
    """The same, int64 where the layer lies."""


class EvolvingLayer:
    """A sparse layer, its target and how many connections each row lets go.

    Args:
        index: of the layer in its network.
        layer: the layer.
        target: the same layer of the target network, or None.
        settings: of the lanes.
    """

    def __init__(
        self,
        index: int,
        layer: StackedLinear,
        target: StackedLinear | None,
        settings: TopologySettings,
    ):
        self.index, self.layer, self.target = index, layer, target
        self.num_copies = layer.shape[0] // len(settings.topology)
        _, num_outputs, num_inputs = layer.shape
        self.num_drop = [
            self._num_to_drop(settings, row // self.num_copies, active)
            for row, active in enumerate(layer.active().tolist())
        ]
        self.new_bound = [
            new_weight_bound(method, num_inputs, num_outputs)
            for method in settings.new_weights
            for _ in range(self.num_copies)
        ]
        self.new_bound_on_device = torch.tensor(
            self.new_bound, dtype=torch.float32, device=layer.trained.device
        )
        self._due: dict[tuple[bool, ...], DueRows] = {}

    def _num_to_drop(self, settings: TopologySettings, lane: int, active: int) -> int:
        _, num_outputs, num_inputs = self.layer.shape
        if active == num_outputs * num_inputs:
            return 0
        topology = TOPOLOGIES[settings.topology[lane]]
        return topology.num_to_drop(active, settings.drop_fraction[lane])

    def due_rows(self, due: tuple[bool, ...]) -> DueRows:
        """What leaves when these lanes are due, [L]; copied to the device once and kept: there are
        as many such sets as ways in which the lanes' periods meet.
        """
        if due not in self._due:
            counts = [
                n if due[row // self.num_copies] else 0 for row, n in enumerate(self.num_drop)
            ]
            on_device = torch.tensor(counts, device=self.layer.trained.device)
            self._due[due] = DueRows(counts, on_device)
        return self._due[due]


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
        self._evolving = [EvolvingLayer(*layer, settings) for layer in self.layers]
        self._evolves = any(any(evolving.num_drop) for evolving in self._evolving)
        self._distinct_periods = sorted(set(settings.period))

    @torch.no_grad()
    def evolve_if_due_(self, update: int) -> bool:
        """Drop and grow in the lanes whose turn it is after update number `update` (the first is
        1).

        Returns:
            Whether any lane was due.
        """
        if not self._evolves or not any(due_lanes(update, self._distinct_periods)):
            return False
        due = tuple(due_lanes(update, self.settings.period))
        with stage(Stage.TOPOLOGY):
            for evolving in self._evolving:
                rows = evolving.due_rows(due)
                if any(rows.counts):
                    self._evolve_layer_(evolving, rows, update)
        return True

    def _evolve_layer_(self, evolving: EvolvingLayer, rows: DueRows, update: int) -> None:
        sub = LAYERS_PER_NETWORK * self.network + evolving.index
        keys = EvolutionKeys(
            self.rng.key,
            update,
            stream_word(Stream.TOPOLOGY_DROP, sub),
            stream_word(Stream.TOPOLOGY_GROW, sub),
            stream_word(Stream.TOPOLOGY_VALUE, sub),
        )
        layer = evolving.layer
        moments = self.optimizer.moments_of(layer.trained)
        target = None if evolving.target is None else evolving.target.trained
        if isinstance(layer, CsrLinear) and can_evolve_in_place(layer.value):
            csr_evolve_(
                layer.value, layer.at, rows.counts, keys, evolving.new_bound, moments, target
            )
        elif isinstance(layer, MaskedLinear) and not masks.is_looped(layer.weight):
            assert layer.mask is not None
            G = layer.shape[0]
            masked_evolve_(
                layer.weight.detach().view(G, -1), layer.mask.view(G, -1), rows.on_device, keys,
                evolving.new_bound_on_device, [moment.view(G, -1) for moment in moments],
                self.optimizer.mask_moments, None if target is None else target.view(G, -1),
            )  # fmt: skip
        else:
            self._evolve_spread_(evolving, rows, update, sub)

    def _evolve_spread_(
        self, evolving: EvolvingLayer, rows: DueRows, update: int, sub: int
    ) -> None:
        """Any layout in plain torch: its tensors as if dense, changed by sparse/topology.py."""
        layer, target, C = evolving.layer, evolving.target, evolving.num_copies
        G, num_outputs, num_inputs = layer.shape
        shape = (C, num_outputs * num_inputs)

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
            rows.counts if masks.is_looped(weight) else rows.on_device,
            keys(Stream.TOPOLOGY_DROP),
            keys(Stream.TOPOLOGY_GROW),
            self._new_values(layer, shape, update, sub),
            [moment.view(G, -1) for moment in dense[1 : 1 + len(moments)]],
            self.optimizer.mask_moments.repeat_interleave(C),
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
