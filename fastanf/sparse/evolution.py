"""When and where the connections of one network change, for all lanes of a block.

Axes: L lanes, C critics (1 for an actor), G = L * C rows of a layer's stacked weights, n
connections of a row. Each lane has its own topology and schedule; sparse/topology.py holds the
rules. SET has kernels of its own; other topologies are plain torch, on the lanes that are due.

Which lanes are due, and how many connections leave, is the host's knowledge, and what they change
the device's: of a masked layer on a GPU nothing is read by the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fastanf.instrument import Stage, stage
from fastanf.kernels.csr_evolve import EvolutionKeys, can_evolve_in_place, csr_evolve_
from fastanf.kernels.philox import random_bits, random_uniform
from fastanf.kernels.select import CHUNK_BYTES, masked_evolve_
from fastanf.rng import LaneRng, Stream, stream_word
from fastanf.sparse import masks
from fastanf.sparse.evolving_layer import EvolvingLayer, TopologySettings
from fastanf.sparse.layers import LAYERS_PER_NETWORK, CsrLinear, MaskedLinear, StackedLinear
from fastanf.sparse.mask_adam import StackedOptimizer
from fastanf.sparse.schedule import Clock
from fastanf.sparse.topology import SET, Topology, evolve_, new_weight_values

__all__ = ["TopologyEvolution", "TopologySettings"]

# Temporary memory for each connection of a lane that is changed in plain torch, roughly.
_BYTES_EACH = 256


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
        self._evolving = [
            EvolvingLayer(*layer, settings, optimizer.index_of(layer[1].trained))
            for layer in self.layers
        ]
        self._clocks: list[tuple[Topology, Clock] | None] = [
            (topology, schedule.clock)
            if any(evolving.may_change(lane) for evolving in self._evolving)
            else None
            for lane, (topology, schedule) in enumerate(
                zip(settings.topologies, settings.schedules, strict=True)
            )
        ]
        self._distinct_clocks = {clock for clock in self._clocks if clock is not None}
        evolving = {topology for topology, _ in self._distinct_clocks}
        self._topologies = sorted(evolving, key=lambda topology: topology.name)

        self.kept_gradients = [e.gradient for e in self._evolving if e.gradient is not None]
        """What connections grow by, where a lane's topology asks for it."""

    def keep_gradients_(self, is_wanted: bool) -> None:
        """Let the optimizer's next step keep what connections grow by, or nothing."""
        self.optimizer.kept_gradients = self.kept_gradients if is_wanted else ()

    def needs_gradient(self, update: int, num_updates: int = 1) -> bool:
        """Whether connections grow by the dense gradient after one of some updates.

        Args:
            update: number of the first of them.
            num_updates: how many, which may be more than anyone can count through.
        """
        return any(
            update <= coming < update + num_updates and topology.when(clock, coming)
            for topology, clock in self._distinct_clocks
            if topology.needs_gradient
            for coming in (clock.next_on_grid(update), clock.end)
        )

    @torch.no_grad()
    def evolve_if_due_(self, update: int) -> bool:
        """Change the connections of the lanes whose turn it is after update number `update` (the
        first is 1).

        Returns:
            Whether any lane was due.
        """
        is_due = {
            (topology, clock): topology.when(clock, update)
            for topology, clock in self._distinct_clocks
        }
        if not any(is_due.values()):
            return False
        due = tuple(clock is not None and is_due[clock] for clock in self._clocks)
        with stage(Stage.TOPOLOGY):
            for evolving in self._evolving:
                self._evolve_layer_(evolving, due, update)
        return True

    def _evolve_layer_(self, evolving: EvolvingLayer, due: tuple[bool, ...], update: int) -> None:
        sub = LAYERS_PER_NETWORK * self.network + evolving.index
        keys = EvolutionKeys(
            self.rng.key,
            update,
            stream_word(Stream.TOPOLOGY_DROP, sub),
            stream_word(Stream.TOPOLOGY_GROW, sub),
            stream_word(Stream.TOPOLOGY_VALUE, sub),
        )
        for topology in self._topologies:
            if topology is SET and self._evolve_set_(evolving, due, update, keys):
                continue
            counts = evolving.counts(topology, due, update)
            self._evolve_spread_(evolving, topology, counts, keys)

    def _evolve_set_(
        self, evolving: EvolvingLayer, due: tuple[bool, ...], update: int, keys: EvolutionKeys
    ) -> bool:
        """SET by the kernels that know it; False where there are none for this layer."""
        layer = evolving.layer
        in_csr = isinstance(layer, CsrLinear) and can_evolve_in_place(layer.value)
        if not in_csr and (isinstance(layer, CsrLinear) or masks.is_looped(layer.trained)):
            return False
        rows = evolving.set_rows(due, update)
        if not any(rows.counts):
            return True
        moments = self.optimizer.moments_of(layer.trained)
        target = None if evolving.target is None else evolving.target.trained
        if isinstance(layer, CsrLinear):
            csr_evolve_(
                layer.value, layer.at, rows.counts, keys, evolving.new_bound, moments, target
            )
            return True
        assert isinstance(layer, MaskedLinear) and layer.mask is not None
        G = layer.shape[0]
        masked_evolve_(
            layer.weight.detach().view(G, -1), layer.mask.view(G, -1), rows.on_device, keys,
            evolving.new_bound_on_device, [moment.view(G, -1) for moment in moments],
            self.optimizer.mask_moments, None if target is None else target.view(G, -1),
        )  # fmt: skip
        return True

    def _evolve_spread_(
        self, evolving: EvolvingLayer, topology: Topology, counts: list[int], keys: EvolutionKeys
    ) -> None:
        """Any topology and layout in plain torch: the layer's tensors as if dense, the lanes that
        are due taken out and put back.

        Args:
            evolving: the layer.
            topology: the rules.
            counts: [G] connections that leave; lanes without any keep every bit.
            keys: random words.
        """
        layer, target, C = evolving.layer, evolving.target, evolving.num_copies
        lanes = [lane for lane in range(len(counts) // C) if any(counts[C * lane : C * lane + C])]
        if not lanes:
            return
        mask = layer.connection_mask()
        assert mask is not None
        moments = self.optimizer.moments_of(layer.trained)
        tensors = [layer.trained.detach(), *moments, *([] if target is None else [target.trained])]
        dense = [layer.spread(tensor) for tensor in tensors]
        for some in _chunks(lanes, _BYTES_EACH * C * mask[0].numel()):
            rows = [C * lane + copy for lane in some for copy in range(C)]
            at = masks.on_device(rows, mask.device)
            own = [tensor.flatten(1)[at] for tensor in (mask, *dense)]
            self._evolve_rows_(evolving, topology, some, [counts[row] for row in rows], own, keys)
            for tensor, moved in zip((mask, *dense), own, strict=True):
                tensor.view(len(counts), -1)[at] = moved
        if isinstance(layer, CsrLinear):
            layer.set_connections_(mask)
            for tensor, moved in zip(tensors, dense, strict=True):
                tensor.copy_(layer.collect(moved))

    def _evolve_rows_(
        self,
        evolving: EvolvingLayer,
        topology: Topology,
        lanes: list[int],
        counts: list[int],
        own: list[Tensor],
        keys: EvolutionKeys,
    ) -> None:
        """Some lanes' rows by the rules: `own` is their mask, weights, moments and, where there is
        one, target, each [R, n]; `counts` [R] connections leave.
        """
        C, device = evolving.num_copies, own[0].device
        at = masks.on_device(lanes, device)
        lane_keys = keys.key[at]
        step = torch.full_like(lane_keys, keys.step)[:, None]
        shape = own[0].shape

        def words(stream: int) -> Tensor:
            return random_bits(lane_keys, step, stream, C * shape[1]).reshape(shape)

        num_moments = len(own) - 2 - (evolving.target is not None)
        evolve_(
            own[1],
            own[0],
            counts if masks.is_looped(own[0]) else masks.on_device(counts, device),
            words(keys.drop),
            words(keys.grow),
            self._new_values(evolving, lanes, lane_keys, step, keys.value),
            own[2 : 2 + num_moments],
            self.optimizer.mask_moments[at].repeat_interleave(C),
            topology,
            evolving.gradient.of(lanes) if topology.needs_gradient and evolving.gradient else None,
        )
        if evolving.target is not None:
            own[-1].masked_fill_(~own[0], 0)

    def _new_values(
        self,
        evolving: EvolvingLayer,
        lanes: list[int],
        lane_keys: Tensor,
        step: Tensor,
        stream: int,
    ) -> Tensor | None:
        """[R, n] first weights of some lanes' rows where they grow; None where all are 0."""
        methods = [self.settings.new_weights[lane] for lane in lanes]
        if all(method == "zero" for method in methods):
            return None
        _, num_outputs, num_inputs = evolving.layer.shape
        num_each = evolving.num_copies * num_outputs * num_inputs
        uniforms = random_uniform(lane_keys, step, stream, num_each).view(len(lanes), num_each)
        values = torch.zeros_like(uniforms)
        for place, method in enumerate(methods):
            drawn = new_weight_values(method, uniforms[place], num_inputs, num_outputs)
            if drawn is not None:
                values[place] = drawn
        return values.view(-1, num_outputs * num_inputs)


def _chunks(lanes: Sequence[int], bytes_each: int) -> Iterator[list[int]]:
    """Lanes in groups whose temporary tensors fit together."""
    step = max(1, CHUNK_BYTES // bytes_each)
    for begin in range(0, len(lanes), step):
        yield list(lanes[begin : begin + step])
