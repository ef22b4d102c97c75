"""What the first layers make of each feature, as rows of features.csv.

Axes: L lanes, C critics, G = L * C, H hidden units, F features, A actions. A feature keeps its
identity when features change places: canonical feature c stands at place p where source[p] = c, and
its connections are those of column p. The first D canonical features are real.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fastanf.block import TrainingBlock
from fastanf.nets import StackedMLP
from fastanf.rows import MAX_NOISE_FEATURES, FeatureRow
from fastanf.sparse.connectivity import connections_per_feature


def feature_rows(
    block: TrainingBlock, lanes: Sequence[int], step: int, updates: int
) -> list[FeatureRow]:
    """One row a lane and network, of the state as it is; none of a lane that was stopped.

    Args:
        block: that trains.
        lanes: their numbers, [L].
        step: environment steps of a lane.
        updates: of a lane.
    """
    algorithm, num_lanes = block.algorithm, len(lanes)
    num_real, num_features = block.features.num_real, block.features.num_features
    order = block.features.places()  # [L, F]
    are_recorded = block.learner.watch.are_recorded
    tables = {
        "actor": _NetworkTable(algorithm.actor_mlp, order, num_lanes),
        "critic": _NetworkTable(algorithm.critic.mlp, order, num_lanes),
    }

    def rows_of(name: str, table: _NetworkTable) -> Iterator[FeatureRow]:
        for position, lane in itertools.compress(enumerate(lanes), are_recorded):
            for copy in range(table.num_copies):
                yield FeatureRow(
                    lane=lane,
                    step=step,
                    updates=updates,
                    network=name if name == "actor" else f"{name}{copy + 1}",
                    num_real=num_real,
                    num_features=num_features,
                    real_weight=_mean(table.weight[position][copy][:num_real]),
                    noise_weight=_mean(table.weight[position][copy][num_real:]),
                    connections=_words(
                        table.connections[position][copy], table.num_hidden, num_real
                    ),
                )

    return [row for name, table in tables.items() for row in rows_of(name, table)]


class _NetworkTable:
    """A first layer by canonical feature, on the host: mean |weight| and connections [L, C, F]."""

    def __init__(self, network: StackedMLP, order: Tensor, num_lanes: int):
        weight = network.input_weight().unflatten(0, (num_lanes, -1))  # [L, C, H, F (+ A)]
        self.num_copies, self.num_hidden = weight.shape[1], weight.shape[2]
        num_features = order.shape[1]
        index = order.unsqueeze(1).expand(-1, self.num_copies, -1)
        magnitude = weight[..., :num_features].abs().double().mean(2)
        self.weight: list = torch.gather(magnitude, 2, index).tolist()
        mask = network.layers[0].connection_mask()
        if mask is None:
            self.connections: list = [[[]] * self.num_copies] * num_lanes
            return
        num_actions = weight.shape[3] - num_features
        mask = mask.unflatten(0, (num_lanes, -1))
        counts = connections_per_feature(mask, num_actions)  # [L, C, F]
        self.connections = torch.gather(counts, 2, index).tolist()


def _mean(values: Sequence[float]) -> float:
    """Seven digits, like the weights themselves."""
    return float(f"{math.fsum(values) / len(values):.7g}") if values else math.nan


def _words(counts: Sequence[int], num_hidden: int, num_real: int) -> str:
    """Nothing for a lane whose layer is dense, among sparse ones too."""
    if all(count == num_hidden for count in counts):
        return ""
    return " ".join(map(str, counts[: num_real + MAX_NOISE_FEATURES]))
