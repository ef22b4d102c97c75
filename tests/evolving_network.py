"""A small stacked twin network, for tests: its lanes have topologies of their own.

Axes: L lanes, C copies, G = L * C matrices of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fastanf.activations import make_activation
from fastanf.kernels.layer_input import LayerInput
from fastanf.nets import build_mlp
from fastanf.rng import LaneRng, Stream
from fastanf.sparse.evolution import TopologyEvolution, TopologySettings
from fastanf.sparse.layers import MASKED
from fastanf.sparse.mask_adam import StackedOptimizer

NETWORK, COPIES, SIZES = 1, 2, (17, 9, 5, 3)
SEEDS = [3, 4, 9, 12]
LANES = len(SEEDS)
BATCH = 8


def settings_of(settings: TopologySettings, lanes: Sequence[int]) -> TopologySettings:
    """The columns of some of the lanes."""
    columns = {
        name: [column[lane] for lane in lanes]
        for name, column in vars(settings).items()
        if name != "num_updates"
    }
    return replace(settings, **columns)


class EvolvingNetwork:
    """Some of the lanes together.

    Args:
        settings: [LANES] topologies.
        active: per layer, [LANES] active connections at the end.
        lanes: which are there.
        mask_moments: of the optimizer.
        layout: of sparse layers.
    """

    def __init__(
        self,
        settings: TopologySettings,
        active: Sequence[Sequence[int]],
        lanes: Sequence[int],
        mask_moments: bool = True,
        layout: str = MASKED,
    ):
        self.lanes, L = list(lanes), len(lanes)
        self.rng = LaneRng([SEEDS[lane] for lane in lanes])
        own, relu = settings_of(settings, lanes), make_activation("relu")
        self.mlp = build_mlp(
            self.rng, NETWORK, SIZES, [[layer[lane] for lane in lanes] for layer in active],
            COPIES, relu, "fan_in", [layout] * len(active), starts_dense=own.starts_dense,
        )  # fmt: skip
        self.target = self.mlp.target_copy()
        self.optimizer = StackedOptimizer(
            self.mlp.parameters(), self.target.parameters(), torch.full((L,), 1e-2),
            torch.zeros(L), torch.full((L,), mask_moments),
        )  # fmt: skip
        self.evolution = TopologyEvolution(
            own, NETWORK, self.mlp.layers, self.target.layers, self.optimizer, self.rng
        )

    def gradients(self, update: int) -> list[Tensor]:
        """Of sum(y^2 / 2) on inputs that depend on lane and update."""
        y = self.mlp.forward(LayerInput(self.inputs(update)))
        return list(torch.autograd.grad(y, self.optimizer.tensors(), y.detach()))

    def inputs(self, update: int) -> Tensor:
        """[L, I, BATCH]."""
        return self.rng.normal(Stream.LEARN_FEATURES, update, (SIZES[0], BATCH))

    def step_(self, update: int) -> list[Tensor]:
        """One update but for its topology; gives its gradients."""
        grads = self.gradients(update)
        self.evolution.keep_gradients_(self.evolution.needs_gradient(update))
        self.optimizer.step_(grads, torch.full((len(self.lanes),), 0.1))
        return grads

    def update_(self, update: int) -> None:
        """One update, with its topology."""
        self.step_(update)
        self.evolution.evolve_if_due_(update)

    def mask(self, layer: int, place: int) -> Tensor:
        """[C, O, I] of one lane."""
        mask = self.mlp.layers[layer].connection_mask()
        assert mask is not None
        return mask.unflatten(0, (-1, COPIES))[place].clone()

    def held(self, place: int) -> dict[str, Tensor]:
        """All that an update changes in one lane; a layer that is dense in all lanes has a full
        mask.
        """
        found: dict[str, Tensor] = {}
        for name, mlp in (("online", self.mlp), ("target", self.target)):
            for index, layer in enumerate(mlp.layers):
                mask = layer.connection_mask()
                found[f"{name}.{index}"] = layer.to_dense()
                found[f"{name}.{index}.mask"] = (
                    torch.ones(layer.shape, dtype=torch.bool) if mask is None else mask
                )
        for name, tensor in self.optimizer.state_dict().items():
            if tensor.ndim:
                found[f"optimizer.{name}"] = tensor
        L = len(self.lanes)
        return {name: tensor.reshape(L, -1)[place].clone() for name, tensor in found.items()}
