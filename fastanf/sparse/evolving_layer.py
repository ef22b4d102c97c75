"""One sparse layer of all lanes as its connections change: how many leave each row, and when.

Axes: L lanes, C critics (1 for an actor), G = L * C rows of the layer's stacked weights. Each lane
has its own topology and schedule; sparse/topology.py and sparse/schedule.py hold the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastanf.sparse.kept_gradient import KeptGradient
from fastanf.sparse.layers import StackedLinear
from fastanf.sparse.masks import on_device
from fastanf.sparse.schedule import Clock, RowSize, Schedule
from fastanf.sparse.topology import SET, TOPOLOGIES, Topology, new_weight_bound


@dataclass(frozen=True)
class TopologySettings:
    """How the connections of each lane change in one network; every sequence has one entry a
    lane.
    """

    topology: Sequence[str]
    """A name in TOPOLOGIES."""
    drop_fraction: Sequence[float]
    """Share of the active connections that leaves, in [0, 1]."""
    drop_schedule: Sequence[str]
    """How that share goes on, constant or cosine."""
    period: Sequence[int]
    """Updates from one change to the next."""
    end_share: Sequence[float]
    """In (0, 1], share of the run's updates after which connections stay."""
    new_weights: Sequence[str]
    """How a grown connection starts: zero, unif or xavier."""
    num_updates: int
    """Of the whole run."""

    @property
    def topologies(self) -> list[Topology]:
        """[L]."""
        return [TOPOLOGIES[name] for name in self.topology]

    @property
    def starts_dense(self) -> list[bool]:
        """[L] whether all connections of a lane are there at first."""
        return [topology.starts_dense for topology in self.topologies]

    @property
    def schedules(self) -> list[Schedule]:
        """[L]."""
        return [
            Schedule(Clock(period, end_share, self.num_updates), fraction, decay)
            for period, end_share, fraction, decay in zip(
                self.period, self.end_share, self.drop_fraction, self.drop_schedule, strict=True
            )
        ]


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
        parameter: place of the layer's weights among what the optimizer trains.
    """

    def __init__(
        self,
        index: int,
        layer: StackedLinear,
        target: StackedLinear | None,
        settings: TopologySettings,
        parameter: int,
    ):
        self.index, self.layer, self.target = index, layer, target
        self.topologies, self.schedules = settings.topologies, settings.schedules
        self.num_copies = layer.shape[0] // len(self.topologies)
        _, num_outputs, num_inputs = layer.shape
        possible, fewest = num_outputs * num_inputs, layer.fewest_active().tolist()
        self.rows = [RowSize(possible, active) for active in fewest]
        self.new_bound = [
            new_weight_bound(method, num_inputs, num_outputs)
            for method in settings.new_weights
            for _ in range(self.num_copies)
        ]
        self.new_bound_on_device = torch.tensor(
            self.new_bound, dtype=torch.float32, device=layer.trained.device
        )
        wanted = [
            lane
            for lane, topology in enumerate(self.topologies)
            if topology.needs_gradient and self.may_change(lane)
        ]
        self.gradient = None
        if wanted:
            self.gradient = KeptGradient(layer.trained, self.num_copies, wanted, parameter)
        self._due: dict[tuple[bool, ...], DueRows] = {}

    def may_change(self, lane: int) -> bool:
        """Whether connections of this layer ever change in a lane."""
        row = self.rows[lane * self.num_copies]
        return self.topologies[lane].evolves and row.active < row.possible

    def counts(self, topology: Topology, due: Sequence[bool], update: int) -> list[int]:
        """[G] connections that leave each row, when the lanes `due` [L] are due; 0 in lanes of
        other topologies.
        """
        return [
            topology.how_many(self.schedules[lane], row, update)
            if due[lane] and self.topologies[lane] is topology
            else 0
            for lane, row in ((g // self.num_copies, row) for g, row in enumerate(self.rows))
        ]

    def set_rows(self, due: tuple[bool, ...], update: int) -> DueRows:
        """What leaves in SET's lanes when the lanes `due` [L] are due.

        Where it is the same at all updates it is copied to the device once and kept: there are as
        many such sets as ways in which the lanes' periods meet.
        """
        if due in self._due:
            return self._due[due]
        counts = self.counts(SET, due, update)
        rows = DueRows(counts, on_device(counts, self.layer.trained.device))
        of_lanes = zip(due, self.topologies, self.schedules, strict=True)
        if not any(is_due and t is SET and schedule.varies for is_due, t, schedule in of_lanes):
            self._due[due] = rows
        return rows
