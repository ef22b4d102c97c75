"""When and where stacked networks change their connections, lane by lane."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from fastanf.activations import make_activation
from fastanf.nets import StackedMLP, build_mlp
from fastanf.rng import LaneRng
from fastanf.sparse.evolution import TopologyEvolution, TopologySettings
from fastanf.sparse.mask_adam import StackedOptimizer

SEEDS = [3, 4, 9, 12]
L, C, SIZES = 4, 2, (17, 9, 5, 3)
SETTINGS = TopologySettings(
    topology=["set", "static", "set", "set"],
    drop_fraction=[0.5, 0.5, 0.3, 0.25],
    period=[3, 3, 4, 6],
    new_weights=["zero", "zero", "unif", "xavier"],
)
ACTIVE = [[60, 61, 77, 1], [45, 20, 20, 45], [15] * L]  # layer 2 is dense; so are lanes of layer 1
MASK_MOMENTS = [True, True, False, True]


@dataclass
class Network:
    """One evolving network with its target."""

    mlp: StackedMLP
    target: StackedMLP
    optimizer: StackedOptimizer
    evolution: TopologyEvolution

    def weights(self) -> list[Tensor]:
        """[L, n] of each layer."""
        num_lanes = len(self.evolution.settings.topology)
        return [layer.weight.detach().view(num_lanes, -1) for layer in self.mlp.layers]

    def masks(self) -> list[Tensor]:
        """[L, n] of the sparse layers."""
        num_lanes = len(self.evolution.settings.topology)
        return [
            layer.mask.view(num_lanes, -1) for layer in self.mlp.layers if layer.mask is not None
        ]


def build(lanes: list[int] | None = None, has_target: bool = True) -> Network:
    chosen = list(range(L)) if lanes is None else lanes
    settings = TopologySettings(
        **{name: [column[lane] for lane in chosen] for name, column in vars(SETTINGS).items()}
    )
    rng = LaneRng([SEEDS[lane] for lane in chosen])
    active = [[layer[lane] for lane in chosen] for layer in ACTIVE]
    mlp = build_mlp(rng, 1, SIZES, active, C, make_activation("relu"), "fan_in")
    target = mlp.target_copy()
    with torch.no_grad():
        for layer in target.layers:
            layer.weight.add_(torch.where(layer.weight != 0, 0.25, 0.0))
    optimizer = StackedOptimizer(
        mlp.parameters(), target.parameters() if has_target else (),
        torch.full((len(chosen),), 1e-2), torch.zeros(len(chosen)),
        torch.tensor([MASK_MOMENTS[lane] for lane in chosen]),
    )  # fmt: skip
    for moment in (*optimizer.exp_avg, *optimizer.exp_avg_sq):
        moment.fill_(1.0)
    evolution = TopologyEvolution(
        settings, 1, mlp.layers, target.layers if has_target else (), optimizer, rng
    )
    return Network(mlp, target, optimizer, evolution)


def test_lanes_change_at_their_own_updates() -> None:
    network = build()
    changed_at: list[list[int]] = [[] for _ in range(L)]
    for update in range(1, 13):
        before = [mask.clone() for mask in network.masks()]
        was_due = network.evolution.evolve_if_due_(update)
        is_changed = torch.stack(
            [(a != b).any(1) for a, b in zip(before, network.masks(), strict=True)]
        ).any(0)
        assert was_due == (update in (2, 5, 6, 8, 10, 11))
        for lane in is_changed.nonzero().flatten().tolist():
            changed_at[lane].append(update)
    # updates 2, 2 + period, ...; lane 1 is static, a quarter of lane 3's 1 and 45 dense is none
    assert changed_at == [[2, 5, 8, 11], [], [2, 6, 10], []]


def test_active_counts_never_change() -> None:
    network = build()
    counts = [layer.active().tolist() for layer in network.mlp.layers]
    assert counts[0] == [n for n in ACTIVE[0] for _ in range(C)]
    for update in range(1, 40):
        network.optimizer.step_([torch.ones_like(t) for t in network.optimizer.tensors()])
        network.evolution.evolve_if_due_(update)
        assert [layer.active().tolist() for layer in network.mlp.layers] == counts
        for layer in network.mlp.layers[:2]:
            assert layer.mask is not None
            assert float(layer.weight.detach()[~layer.mask].abs().sum()) == 0


def test_lanes_that_do_not_evolve_keep_every_bit() -> None:
    network = build()
    before = [tensor.detach().clone() for tensor in network.optimizer.tensors()]
    for update in range(1, 20):
        network.evolution.evolve_if_due_(update)
    for (name, tensor, _), old in zip(network.optimizer.parameters, before, strict=True):
        new, old = tensor.detach().view(L, -1), old.view(L, -1)
        assert torch.equal(new[[1, 3]], old[[1, 3]])
        if name.endswith("bias") or name.startswith("2."):
            assert torch.equal(new, old)
        elif name == "0.weight":
            assert not bool((new[[0, 2]] == old[[0, 2]]).all(1).any())
    assert torch.equal(network.masks()[1][0], torch.ones(C * 45, dtype=torch.bool))


def test_targets_live_on_the_new_connections() -> None:
    network = build()
    targets = [layer.weight.view(L, -1) for layer in network.target.layers]
    before = [target.clone() for target in targets]
    old_masks = [mask.clone() for mask in network.masks()]
    network.evolution.evolve_if_due_(2)
    for target, old, mask, old_mask in zip(
        targets, before, network.masks(), old_masks, strict=False
    ):
        assert float(target[~mask].abs().sum()) == 0
        assert torch.equal(target[mask & old_mask], old[mask & old_mask])
        assert bool((target[mask & ~old_mask] == 0).all())
    assert torch.equal(targets[2], before[2])


def test_a_network_without_target_evolves_alike() -> None:
    with_target, without = build(), build(has_target=False)
    for network in (with_target, without):
        network.evolution.evolve_if_due_(2)
    assert all(torch.equal(a, b) for a, b in zip(with_target.masks(), without.masks(), strict=True))
    assert not torch.equal(with_target.target.layers[0].weight, without.target.layers[0].weight)


def test_moments_start_fresh_where_the_lane_masks_them() -> None:
    network = build()
    old = network.masks()[0].clone()
    network.evolution.evolve_if_due_(2)
    changed = old ^ network.masks()[0]
    assert bool(changed[[0, 2]].any(1).all())
    for moment in network.optimizer.moments_of(network.mlp.layers[0].weight):
        moment = moment.view(L, -1)
        assert bool((moment[0, changed[0]] == 0).all())
        assert bool((moment[1:] == 1).all())
        # half of lane 0's active connections left, and as many grew, some of them the same ones
        fresh = int((moment[0] == 0).sum())
        assert int(changed[0].sum()) <= fresh <= 2 * C * (ACTIVE[0][0] // 2)


@pytest.mark.parametrize(
    ("method", "bound"), [("zero", 0.0), ("unif", 1 / math.sqrt(17)), ("xavier", math.sqrt(6 / 26))]
)
def test_grown_weights_start_as_asked(method: str, bound: float) -> None:
    network = build()
    settings = replace(SETTINGS, new_weights=[method] * L)
    evolution = TopologyEvolution(
        settings, 1, network.mlp.layers, network.target.layers, network.optimizer, LaneRng(SEEDS)
    )
    old = network.masks()[0].clone()
    evolution.evolve_if_due_(2)
    grown = network.weights()[0][~old & network.masks()[0]]
    assert grown.numel() > 20
    if method == "zero":
        assert float(grown.abs().max()) == 0
        return
    assert grown.unique().numel() == grown.numel()
    assert 0.8 * bound < float(grown.abs().max()) <= bound
    assert float(grown.min()) < 0 < float(grown.max())


def test_the_weakest_connections_leave() -> None:
    network = build()
    before, old = network.weights()[0].clone(), network.masks()[0].clone()
    network.evolution.evolve_if_due_(2)
    new = network.masks()[0]
    row = slice(0, 17 * 9)  # the first critic of lane 0
    left, stayed = (old & ~new)[0, row], (old & new & (network.weights()[0] != 0))[0, row]
    assert 0 < int(left.sum()) <= 30 and int(stayed.sum()) == 30
    assert float(before[0, row][left].abs().max()) <= float(before[0, row][stayed].abs().min())


@pytest.mark.parametrize("lane", range(L))
def test_a_lane_alone_evolves_as_among_others(lane: int) -> None:
    together, alone = build(), build([lane])
    for update in range(1, 15):
        for network in (together, alone):
            network.evolution.evolve_if_due_(update)
    for own, rows in zip(alone.weights(), together.weights(), strict=True):
        assert torch.equal(own[0], rows[lane])
    own = alone.mlp.layers[0].mask
    assert own is not None and torch.equal(own.flatten(), together.masks()[0][lane])


def test_dense_networks_are_never_due() -> None:
    rng = LaneRng(SEEDS)
    active = [[a * b] * L for a, b in itertools.pairwise(SIZES)]
    mlp = build_mlp(rng, 1, SIZES, active, C, make_activation("relu"), "fan_in")
    optimizer = StackedOptimizer(
        mlp.parameters(), (), torch.ones(L), torch.ones(L), torch.tensor(MASK_MOMENTS)
    )
    evolution = TopologyEvolution(SETTINGS, 1, mlp.layers, (), optimizer, rng)
    assert not any(evolution.evolve_if_due_(update) for update in range(1, 10))
    assert evolution.layers == []
