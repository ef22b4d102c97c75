"""When and where stacked networks change their connections, lane by lane."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from fastanf import kernels
from fastanf.activations import make_activation
from fastanf.nets import StackedMLP, build_mlp
from fastanf.rng import LaneRng
from fastanf.sparse import masks
from fastanf.sparse.evolution import TopologyEvolution, TopologySettings
from fastanf.sparse.layers import CSR, MASKED, CsrLinear, StackedLinear
from fastanf.sparse.mask_adam import StackedOptimizer
from tests.host_reads import NoHostReads

SEEDS = [3, 4, 9, 12]
L, C, SIZES = 4, 2, (17, 9, 5, 3)
SETTINGS = TopologySettings(
    topology=["set", "static", "set", "set"],
    drop_fraction=[0.5, 0.5, 0.3, 0.25],
    drop_schedule=["constant"] * L,
    period=[3, 3, 4, 6],
    end_share=[1.0] * L,
    new_weights=["zero", "zero", "unif", "xavier"],
    num_updates=40,
)
ACTIVE = [[60, 61, 77, 1], [45, 20, 20, 45], [15] * L]  # layer 2 is dense; so are lanes of layer 1
# A csr layer has no room for moments where no connection is.
MASK_MOMENTS = {MASKED: [True, True, False, True], CSR: [True] * L}


@pytest.fixture(params=[MASKED, "masked at once", CSR, "csr in plain torch"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each layout: the first one with its rows one by one and, as on a GPU, all at once; the second
    one with and without compiled kernels.
    """
    if request.param == "masked at once":
        monkeypatch.setattr(masks, "is_looped", lambda tensor: False)
        return MASKED
    if request.param == "csr in plain torch":
        monkeypatch.setattr(kernels, "NATIVE", None)
        return CSR
    return request.param


@dataclass
class Network:
    """One evolving network with its target."""

    mlp: StackedMLP
    target: StackedMLP
    optimizer: StackedOptimizer
    evolution: TopologyEvolution

    @property
    def num_lanes(self) -> int:
        return len(self.evolution.settings.topology)

    def weights(self) -> list[Tensor]:
        """[L, n] of each layer."""
        return [layer.to_dense().view(self.num_lanes, -1) for layer in self.mlp.layers]

    def targets(self) -> list[Tensor]:
        """[L, n] of each layer of the target."""
        return [layer.to_dense().view(self.num_lanes, -1) for layer in self.target.layers]

    def masks(self) -> list[Tensor]:
        """[L, n] of the sparse layers."""
        return [
            mask_of(layer).reshape(self.num_lanes, -1).clone()
            for layer in self.mlp.layers
            if layer.is_sparse
        ]

    def moments(self, index: int) -> list[Tensor]:
        """Both [L, n] of a layer's weights."""
        layer = self.mlp.layers[index]
        held = self.optimizer.moments_of(layer.trained)
        return [layer.spread(moment).reshape(self.num_lanes, -1) for moment in held]

    def step_(self, seed: int | None = None) -> None:
        """One step of the optimizer, along ones or along random gradients."""
        grads = []
        for parameter in self.optimizer.parameters:
            dense = torch.ones_like(parameter.to_dense(parameter.tensor.detach()))
            if seed is not None:
                generator = torch.Generator().manual_seed(seed)
                dense = torch.randn(dense.shape, generator=generator)
            grads.append(parameter.from_dense(dense))
        self.optimizer.step_(grads, torch.full((self.num_lanes,), 0.1))


def mask_of(layer: StackedLinear) -> Tensor:
    mask = layer.connection_mask()
    assert mask is not None
    return mask


def build(
    layout: str,
    lanes: list[int] | None = None,
    has_target: bool = True,
    mask_moments: list[bool] | None = None,
) -> Network:
    chosen = list(range(L)) if lanes is None else lanes
    masks_moments = MASK_MOMENTS[layout] if mask_moments is None else mask_moments
    columns = {
        name: [column[lane] for lane in chosen]
        for name, column in vars(SETTINGS).items()
        if name != "num_updates"
    }
    settings = replace(SETTINGS, **columns)
    rng = LaneRng([SEEDS[lane] for lane in chosen])
    active = [[layer[lane] for lane in chosen] for layer in ACTIVE]
    relu = make_activation("relu")
    mlp = build_mlp(rng, 1, SIZES, active, C, relu, "fan_in", [layout] * len(active))
    target = mlp.target_copy()
    with torch.no_grad():
        for layer in target.layers:
            layer.trained.add_(torch.where(layer.trained != 0, 0.25, 0.0))
    optimizer = StackedOptimizer(
        mlp.parameters(), target.parameters() if has_target else (),
        torch.full((len(chosen),), 1e-2), torch.zeros(len(chosen)),
        torch.tensor([masks_moments[lane] for lane in chosen]),
    )  # fmt: skip
    for moments in (optimizer.exp_avg, optimizer.exp_avg_sq):
        for parameter, moment in zip(optimizer.parameters, moments, strict=True):
            moment.copy_(parameter.from_dense(torch.ones_like(parameter.to_dense(moment))))
    evolution = TopologyEvolution(
        settings, 1, mlp.layers, target.layers if has_target else (), optimizer, rng
    )
    return Network(mlp, target, optimizer, evolution)


def test_lanes_change_at_their_own_updates(layout: str) -> None:
    network = build(layout)
    changed_at: list[list[int]] = [[] for _ in range(L)]
    for update in range(1, 13):
        before = network.masks()
        was_due = network.evolution.evolve_if_due_(update)
        is_changed = torch.stack(
            [(a != b).any(1) for a, b in zip(before, network.masks(), strict=True)]
        ).any(0)
        assert was_due == (update in (2, 5, 6, 8, 10, 11))
        for lane in is_changed.nonzero().flatten().tolist():
            changed_at[lane].append(update)
    # updates 2, 2 + period, ...; lane 1 is static, a quarter of lane 3's 1 and 45 dense is none
    assert changed_at == [[2, 5, 8, 11], [], [2, 6, 10], []]


def test_active_counts_never_change(layout: str) -> None:
    network = build(layout)
    counts = [layer.active().tolist() for layer in network.mlp.layers]
    assert counts[0] == [n for n in ACTIVE[0] for _ in range(C)]
    for update in range(1, 40):
        network.step_()
        network.evolution.evolve_if_due_(update)
        assert [layer.active().tolist() for layer in network.mlp.layers] == counts
        for index, layer in enumerate(network.mlp.layers[:2]):
            mask = mask_of(layer)
            assert mask.flatten(1).sum(1).tolist() == counts[index]
            assert float(layer.to_dense()[~mask].abs().sum()) == 0
            if isinstance(layer, CsrLinear):
                # What is stored behind a row's connections belongs to none of them.
                place = torch.arange(layer.at.num_stored)
                behind = place >= layer.at.counts.unsqueeze(1)
                assert behind.any()
                target = network.target.layers[index].trained
                moments = network.optimizer.moments_of(layer.trained)
                for held in (layer.trained.detach(), target, *moments):
                    assert float(held[behind].abs().sum()) == 0


def test_lanes_that_do_not_evolve_keep_every_bit(layout: str) -> None:
    network = build(layout)

    def tensors() -> list[Tensor]:
        return [p.to_dense(p.tensor.detach()).clone() for p in network.optimizer.parameters]

    before = tensors()
    for update in range(1, 20):
        network.evolution.evolve_if_due_(update)
    for parameter, old, new in zip(network.optimizer.parameters, before, tensors(), strict=True):
        name, new, old = parameter.name, new.view(L, -1), old.view(L, -1)
        assert torch.equal(new[[1, 3]], old[[1, 3]])
        if name.endswith("bias") or name.startswith("2."):
            assert torch.equal(new, old)
        elif name == "0.weight":
            assert not bool((new[[0, 2]] == old[[0, 2]]).all(1).any())
    assert torch.equal(network.masks()[1][0], torch.ones(C * 45, dtype=torch.bool))


def test_targets_live_on_the_new_connections(layout: str) -> None:
    network = build(layout)
    before, old_masks = network.targets(), network.masks()
    network.evolution.evolve_if_due_(2)
    targets = network.targets()
    for target, old, mask, old_mask in zip(
        targets, before, network.masks(), old_masks, strict=False
    ):
        assert float(target[~mask].abs().sum()) == 0
        assert torch.equal(target[mask & old_mask], old[mask & old_mask])
        assert bool((target[mask & ~old_mask] == 0).all())
    assert torch.equal(targets[2], before[2])
    for own, follower in zip(network.mlp.layers[:2], network.target.layers[:2], strict=True):
        assert torch.equal(mask_of(own), mask_of(follower))


def test_a_network_without_target_evolves_alike(layout: str) -> None:
    with_target, without = build(layout), build(layout, has_target=False)
    for network in (with_target, without):
        network.evolution.evolve_if_due_(2)
    assert all(torch.equal(a, b) for a, b in zip(with_target.masks(), without.masks(), strict=True))
    weights = zip(with_target.weights(), without.weights(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)
    moved, unmoved = (network.target.layers[0].trained for network in (with_target, without))
    assert not torch.equal(moved, unmoved)


def test_moments_start_fresh_where_the_lane_masks_them(layout: str) -> None:
    network = build(layout)
    old = network.masks()[0]
    network.evolution.evolve_if_due_(2)
    new = network.masks()[0]
    changed = old ^ new
    assert bool(changed[[0, 2]].any(1).all())
    for moment in network.moments(0):
        assert bool((moment[0, changed[0]] == 0).all())
        # Half of lane 0's active connections left, and as many grew, some of them the same ones.
        assert int((moment[0, new[0]] == 0).sum()) == C * (ACTIVE[0][0] // 2)
        if layout == MASKED:
            assert bool((moment[1:] == 1).all())
            fresh = int((moment[0] == 0).sum())
            assert int(changed[0].sum()) <= fresh <= 2 * C * (ACTIVE[0][0] // 2)
        else:
            assert torch.equal(moment[[1, 3]], new[[1, 3]].float())
            assert int((moment[2, new[2]] == 0).sum()) == C * 23  # 0.3 of 77


def test_both_layouts_evolve_alike() -> None:
    networks = [build(layout, mask_moments=[True] * L) for layout in (MASKED, CSR)]
    for update in range(1, 30):
        for network in networks:
            network.step_(seed=update)
            network.evolution.evolve_if_due_(update)
    masked, csr = networks
    for one, other in zip(masked.masks(), csr.masks(), strict=True):
        assert torch.equal(one, other)
    held = [(*n.weights(), *n.targets(), *n.moments(0), *n.moments(1)) for n in networks]
    for index, (one, other) in enumerate(zip(*held, strict=True)):
        # Masked moments were 1 where no connection was, and never had a reason to change.
        is_moment = index >= 6
        mask = masked.masks()[(index - 6) // 2] if is_moment else torch.ones_like(one).bool()
        torch.testing.assert_close(one[mask], other[mask], rtol=1e-6, atol=1e-7)


def test_rows_at_once_evolve_as_rows_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one_by_one, at_once = build(MASKED), build(MASKED)
    for update in range(1, 30):
        for network, is_looped in ((one_by_one, True), (at_once, False)):
            monkeypatch.setattr(masks, "is_looped", lambda tensor, way=is_looped: way)
            network.step_(seed=update)
            network.evolution.evolve_if_due_(update)
    held = [
        (*n.masks(), *n.weights(), *n.targets(), *n.moments(0), *n.moments(1))
        for n in (one_by_one, at_once)
    ]
    assert all(torch.equal(one, other) for one, other in zip(*held, strict=True))


def test_rows_at_once_make_no_host_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(MASKED)
    before = network.masks()
    monkeypatch.setattr(masks, "is_looped", lambda tensor: False)
    with NoHostReads():
        was_due = [network.evolution.evolve_if_due_(update) for update in range(1, 12)]
    assert sum(was_due) == 6
    assert not torch.equal(before[0], network.masks()[0])


def test_what_leaves_is_copied_to_the_device_once_for_each_set_of_due_lanes() -> None:
    network = build(MASKED)
    for evolving in network.evolution._evolving:
        rows = evolving.set_rows((True, True, False, False), 2)
        assert evolving.set_rows((True, True, False, False), 5) is rows
        assert rows.on_device.tolist() == rows.counts
        assert not any(rows.counts[C:])
        everything = evolving.set_rows((True,) * L, 2)
        assert everything.counts[:C] == rows.counts[:C]
        assert any(everything.counts)


def test_masked_layers_change_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorded update reads the same memory before and after."""
    network = build(MASKED)
    monkeypatch.setattr(masks, "is_looped", lambda tensor: False)

    def places() -> list[int]:
        layers = [*network.mlp.layers[:2], *network.target.layers[:2]]
        tensors = [t for layer in layers for t in (layer.trained, mask_of(layer))]
        return [t.data_ptr() for t in (*tensors, *network.optimizer.exp_avg)]

    before = places()
    for update in range(1, 12):
        network.evolution.evolve_if_due_(update)
    assert places() == before


@pytest.mark.parametrize(
    ("method", "bound"), [("zero", 0.0), ("unif", 1 / math.sqrt(17)), ("xavier", math.sqrt(6 / 26))]
)
def test_grown_weights_start_as_asked(layout: str, method: str, bound: float) -> None:
    network = build(layout)
    settings = replace(SETTINGS, new_weights=[method] * L)
    evolution = TopologyEvolution(
        settings, 1, network.mlp.layers, network.target.layers, network.optimizer, LaneRng(SEEDS)
    )
    old = network.masks()[0]
    evolution.evolve_if_due_(2)
    grown = network.weights()[0][~old & network.masks()[0]]
    assert grown.numel() > 20
    if method == "zero":
        assert float(grown.abs().max()) == 0
        return
    assert grown.unique().numel() == grown.numel()
    assert 0.8 * bound < float(grown.abs().max()) <= bound
    assert float(grown.min()) < 0 < float(grown.max())


def test_the_weakest_connections_leave(layout: str) -> None:
    network = build(layout)
    before, old = network.weights()[0], network.masks()[0]
    network.evolution.evolve_if_due_(2)
    new = network.masks()[0]
    row = slice(0, 17 * 9)  # the first critic of lane 0
    left, stayed = (old & ~new)[0, row], (old & new & (network.weights()[0] != 0))[0, row]
    assert 0 < int(left.sum()) <= 30 and int(stayed.sum()) == 30
    assert float(before[0, row][left].abs().max()) <= float(before[0, row][stayed].abs().min())


@pytest.mark.parametrize("lane", range(L))
def test_a_lane_alone_evolves_as_among_others(layout: str, lane: int) -> None:
    together, alone = build(layout), build(layout, [lane])
    for update in range(1, 15):
        for network in (together, alone):
            network.evolution.evolve_if_due_(update)
    for own, rows in zip(alone.weights(), together.weights(), strict=True):
        assert torch.equal(own[0], rows[lane])
    assert torch.equal(alone.masks()[0][0], together.masks()[0][lane])


def test_dense_networks_are_never_due() -> None:
    rng = LaneRng(SEEDS)
    active = [[a * b] * L for a, b in itertools.pairwise(SIZES)]
    mlp = build_mlp(rng, 1, SIZES, active, C, make_activation("relu"), "fan_in")
    optimizer = StackedOptimizer(
        mlp.parameters(), (), torch.ones(L), torch.ones(L), torch.ones(L, dtype=torch.bool)
    )
    evolution = TopologyEvolution(SETTINGS, 1, mlp.layers, (), optimizer, rng)
    assert not any(evolution.evolve_if_due_(update) for update in range(1, 10))
    assert evolution.layers == []
