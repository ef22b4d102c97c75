"""RigL: connections of largest dense gradient grow. Hand-drawn cases, invariants, the gradient that
is kept, and a stacked network against one lane written plainly.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastanf.rng import Stream
from fastanf.sparse import masks
from fastanf.sparse.evolution import TopologySettings
from fastanf.sparse.kept_gradient import KeptGradient
from fastanf.sparse.layers import LAYERS_PER_NETWORK
from fastanf.sparse.masks import exact_masks
from fastanf.sparse.topology import RIGL, evolve_, grow_by_gradient
from tests.evolving_network import COPIES, LANES, NETWORK, SEEDS, EvolvingNetwork
from tests.helpers import unequal_names
from tests.host_reads import NoHostReads
from tests.oracle.plain_sparse import PlainRandom

NAN, INF = float("nan"), float("inf")
# The second layer is dense in two lanes, the third one in all.
ACTIVE = [[60, 61, 77, 50], [45, 20, 20, 45], [15] * LANES]
SETTINGS = TopologySettings(
    topology=["rigl", "set", "rigl", "static"],
    drop_fraction=[0.5, 0.5, 0.3, 0.4],
    drop_schedule=["constant", "constant", "cosine", "constant"],
    period=[3, 3, 2, 3],
    end_share=[1.0, 1.0, 0.5, 1.0],
    new_weights=["zero", "zero", "xavier", "zero"],
    num_updates=24,
)


@pytest.fixture(autouse=True, params=["looped", "at once"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Rows one by one, as on the CPU, and all at once, as on a GPU."""
    monkeypatch.setattr(masks, "is_looped", lambda tensor: request.param == "looped")
    return request.param


def grown_places(
    mask: list[int], count: int, gradient: list[float], keys: list[int] | None = None
) -> list[int]:
    n = len(mask)
    grown = grow_by_gradient(
        torch.tensor([mask]).bool(), [count], torch.tensor([keys or range(n)]),
        torch.tensor([gradient]),
    )  # fmt: skip
    return grown.nonzero()[:, 1].tolist()


def test_inactive_connections_of_largest_gradient_grow() -> None:
    assert grown_places([1, 0, 0, 1, 0], 2, [9.0, 0.5, -2.0, -8.0, 1.0]) == [2, 4]


def test_equal_gradients_grow_by_the_random_keys() -> None:
    assert grown_places([0, 0, 0, 0, 1], 2, [0.0, -0.0, 0.0, 1.0, 5.0], [9, 1, 3, 8, 0]) == [1, 3]


def test_a_gradient_that_is_not_a_number_counts_as_largest() -> None:
    assert grown_places([0, 0, 0, 0], 2, [INF, 1.0, NAN, 2.0]) == [0, 2]
    assert grown_places([0, 0, 0, 0], 1, [INF, 1.0, -NAN, 2.0]) == [2]


def test_without_a_gradient_nothing_can_grow() -> None:
    with pytest.raises(ValueError, match=r"gradient must be \[M, n\].* got none"):
        grow_by_gradient(torch.zeros(1, 2).bool(), [1], torch.zeros(1, 2), None)


def test_evolve_follows_the_hand_drawn_example() -> None:
    weight = torch.tensor([[0.5, -0.1, 0.0, 0.2, 0.0, -3.0], [1.0, 0.0, 2.0, 0.0, 0.3, 0.0]])
    mask = weight != 0
    moment = torch.arange(1.0, 13.0).view(2, 6) * mask
    # Row 0 drops 1 and 3; 3 has the largest gradient of what is then inactive and comes back, with
    # 4. Row 1 drops 4 and grows 5.
    gradient = torch.tensor([[9.0, 0.1, 1.0, -4.0, 2.0, 0.0], [0.0, 1.0, 7.0, 1.0, 0.5, -2.0]])
    keys = torch.zeros(2, 6, dtype=torch.int64)
    evolution = evolve_(
        weight, mask, [2, 1], keys, keys, moments=[moment], topology=RIGL, gradient=gradient
    )
    assert evolution.dropped.nonzero().tolist() == [[0, 1], [0, 3], [1, 4]]
    assert evolution.grown.nonzero().tolist() == [[0, 3], [0, 4], [1, 5]]
    assert mask.int().tolist() == [[1, 0, 0, 1, 1, 1], [1, 0, 1, 0, 0, 1]]
    assert weight.tolist() == [[0.5, 0, 0, 0, 0, -3.0], [1.0, 0, 2.0, 0, 0, 0]]
    assert moment.tolist() == [[1, 0, 0, 0, 0, 6], [7, 0, 9, 0, 0, 0]]


@given(st.sampled_from([1, 3, 5, 171, 257]), st.integers(0, 20), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_rows_keep_their_counts_and_no_better_connection_is_left_out(
    n: int, most: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = exact_masks(torch.rand(3, n, generator=generator), [(n + 1) // 2] * 3)
    weight = torch.randn(3, n, generator=generator) * mask
    gradient = torch.randint(-3, 4, (3, n), generator=generator).float()
    drop, grow = torch.randint(0, 2**32, (2, 3, n), generator=generator)
    counts = [min(most, (n + 1) // 2, own) for own in (0, 1, 20)]
    before = mask.clone()
    evolution = evolve_(weight, mask, counts, drop, grow, topology=RIGL, gradient=gradient)
    assert evolution.dropped.sum(1).tolist() == evolution.grown.sum(1).tolist() == counts
    assert torch.equal(mask, (before & ~evolution.dropped) | evolution.grown)
    for row in range(3):
        grown, inactive = evolution.grown[row], ~mask[row]
        if grown.any() and inactive.any():
            assert gradient[row, grown].abs().min() >= gradient[row, inactive].abs().max()


def network_of(*lanes: int, mask_moments: bool = True) -> EvolvingNetwork:
    return EvolvingNetwork(SETTINGS, ACTIVE, lanes or range(LANES), mask_moments)


def plainly_evolved(
    weight: Tensor, mask: Tensor, gradient: Tensor, num: int, sub: int, lane: int, update: int
) -> Tensor:
    """The mask [C, O, I] of one lane after RigL, by sorted lists."""
    random, n = PlainRandom(SEEDS[lane], torch.float32), mask[0].numel()
    drop = random.bits(Stream.TOPOLOGY_DROP, update, sub, COPIES * n)
    grow = random.bits(Stream.TOPOLOGY_GROW, update, sub, COPIES * n)
    found = []
    for copy in range(COPIES):
        w, g = weight[copy].flatten().tolist(), gradient[copy].flatten().tolist()
        active = {i for i, is_active in enumerate(mask[copy].flatten().tolist()) if is_active}
        active -= set(sorted(active, key=lambda i: (abs(w[i]), drop[copy * n + i]))[:num])
        inactive = [i for i in range(n) if i not in active]
        active |= set(sorted(inactive, key=lambda i: (-abs(g[i]), grow[copy * n + i]))[:num])
        found.append([i in active for i in range(n)])
    return torch.tensor(found).view(mask.shape)


def test_lanes_grow_as_one_lane_written_plainly() -> None:
    network = network_of()
    schedules, num_changes = SETTINGS.schedules, 0
    for update in range(1, 16):
        grads = network.step_(update)
        expected = {}
        for lane, index in ((0, 0), (2, 0), (2, 1)):
            clock, active = schedules[lane].clock, ACTIVE[index][lane]
            if not RIGL.when(clock, update):
                continue
            fraction = schedules[lane].drop_fraction * schedules[lane].share_left(update)
            gradient = grads[network.optimizer.index_of(network.mlp.layers[index].trained)]
            weight = network.mlp.layers[index].to_dense()
            expected[lane, index] = plainly_evolved(
                weight.unflatten(0, (-1, COPIES))[lane],
                network.mask(index, lane),
                gradient.unflatten(0, (-1, COPIES))[lane],
                int(fraction * active + 1e-9),
                LAYERS_PER_NETWORK * NETWORK + index,
                lane,
                update,
            )
        network.evolution.evolve_if_due_(update)
        for (lane, index), mask in expected.items():
            assert torch.equal(network.mask(index, lane), mask), (lane, index, update)
        num_changes += len(expected)
    assert num_changes == 5 + 2 * 6


def test_dead_units_grow_at_random_and_not_by_position() -> None:
    """Zero gradients everywhere: as SET, whose random words are the same."""
    like_set = replace(SETTINGS, topology=["set"] * LANES)
    network, other = network_of(0, 1), EvolvingNetwork(like_set, ACTIVE, [0, 1])
    for each in (network, other):
        each.evolution.evolve_if_due_(2)
    assert torch.equal(network.mask(0, 0), other.mask(0, 0))


@pytest.mark.parametrize("mask_moments", [True, False])
@pytest.mark.parametrize("lane", range(LANES))
def test_a_lane_alone_equals_the_lane_among_others(lane: int, mask_moments: bool) -> None:
    together, alone = (
        network_of(mask_moments=mask_moments),
        network_of(lane, mask_moments=mask_moments),
    )
    start = alone.held(0)
    for update in range(1, 12):
        for network in (together, alone):
            network.update_(update)
    own, among = alone.held(0), together.held(lane)
    assert unequal_names(own, among) == []
    is_static = SETTINGS.topology[lane] == "static"
    assert torch.equal(start["online.0.mask"], own["online.0.mask"]) == is_static


def test_unmasked_moments_follow_the_dense_gradient_and_stay_when_connections_change() -> None:
    """As for DS: only the weights are masked."""
    network = network_of(0, mask_moments=False)
    network.step_(1)
    network.step_(2)
    layer = network.mlp.layers[0]
    moments = [moment.clone() for moment in network.optimizer.moments_of(layer.trained)]
    before = network.mask(0, 0)
    assert bool((moments[0].view(COPIES, 9, 17)[~before] != 0).any())
    network.evolution.evolve_if_due_(2)
    assert not torch.equal(before, network.mask(0, 0))
    after = network.optimizer.moments_of(layer.trained)
    assert all(torch.equal(one, other) for one, other in zip(moments, after, strict=True))


def test_targets_live_on_the_new_connections() -> None:
    network = network_of(0)
    network.step_(2)
    target = network.target.layers[0].trained
    before, old = network.mask(0, 0), target.clone()
    network.evolution.evolve_if_due_(2)
    after = network.mask(0, 0)
    assert not bool(target[~after].any())
    assert torch.equal(target[before & after], old[before & after])


def test_the_gradient_of_missing_connections_is_that_of_a_dense_layer() -> None:
    network = network_of(0, 1)
    grads = network.gradients(5)
    x = network.inputs(5)
    for lane, copy in ((0, 0), (0, 1), (1, 0)):
        g = COPIES * lane + copy
        dense = [layer.to_dense()[g].requires_grad_() for layer in network.mlp.layers]
        y = x[lane]
        for index, (weight, layer) in enumerate(zip(dense, network.mlp.layers, strict=True)):
            y = weight @ y + layer.bias.detach()[g][:, None]
            y = torch.relu(y) if index < 2 else y
        plain = torch.autograd.grad(y, dense, y.detach())
        for index in range(3):
            own = grads[network.optimizer.index_of(network.mlp.layers[index].trained)][g]
            # Sums of 8 float32 products of order one, in another order.
            torch.testing.assert_close(own, plain[index], rtol=1e-5, atol=1e-6)
        missing = ~network.mask(0, lane)[copy]
        assert bool((plain[0][missing] != 0).any())


def test_gradients_are_kept_at_one_place_where_they_are_wanted() -> None:
    network = network_of()
    first, second = network.evolution.kept_gradients
    assert (len(first.kept), len(second.kept)) == (2 * COPIES, COPIES)  # lanes 0 and 2; lane 2
    wanted = [update for update in range(1, 16) if network.evolution.needs_gradient(update)]
    for update in range(1, 9):
        for num_updates in (1, 2, 3, 7, 10**12):
            is_wanted = any(update <= each < update + num_updates for each in wanted)
            assert network.evolution.needs_gradient(update, num_updates) == is_wanted
    assert wanted == [2, 4, 5, 6, 8, 10, 11, 12, 14]
    places = [kept.kept.data_ptr() for kept in (first, second)]
    grads = network.step_(2)
    network.step_(3)
    weight = grads[network.optimizer.index_of(network.mlp.layers[0].trained)]
    assert torch.equal(first.kept, weight[[0, 1, 4, 5]])
    assert torch.equal(first.of([2]), weight[[4, 5]].flatten(1))
    assert [kept.kept.data_ptr() for kept in (first, second)] == places


def test_a_gradient_that_no_lane_wants_is_not_kept() -> None:
    network = network_of(1, 3)
    assert network.evolution.kept_gradients == []
    assert not any(network.evolution.needs_gradient(update) for update in range(1, 20))


def test_a_gradient_kept_of_all_lanes_is_the_same() -> None:
    weight = torch.zeros(4, 3, 5)
    grad = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    kept = KeptGradient(weight, 2, [0, 1], 1)
    kept.keep_([weight, grad])
    assert torch.equal(kept.kept, grad)
    assert torch.equal(kept.of([1]), grad[2:].flatten(1))


@pytest.mark.parametrize("way", ["at once"], indirect=True)
def test_rows_at_once_make_no_host_wait() -> None:
    network = network_of()
    network.step_(2)
    before = network.mask(0, 0)
    with NoHostReads():
        assert network.evolution.evolve_if_due_(2)
    assert not torch.equal(before, network.mask(0, 0))


def test_rows_one_by_one_and_at_once_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    one_by_one, at_once = network_of(), network_of()
    for update in range(1, 12):
        for network, is_looped in ((one_by_one, True), (at_once, False)):
            monkeypatch.setattr(masks, "is_looped", lambda tensor, way=is_looped: way)
            network.update_(update)
    for lane in range(LANES):
        assert unequal_names(one_by_one.held(lane), at_once.held(lane)) == []


def test_lanes_that_do_not_fit_at_once_are_changed_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, parts = network_of(0, 2, 0), network_of(0, 2, 0)
    for network, num_bytes in ((whole, 2**28), (parts, 1)):
        monkeypatch.setattr("fastanf.sparse.evolution.CHUNK_BYTES", num_bytes)
        for update in range(1, 6):
            network.update_(update)
    for lane in range(3):
        assert unequal_names(whole.held(lane), parts.held(lane)) == []
