"""Gradual magnitude pruning: hand-drawn numbers and evolutions, a dense start, a layer whose number
of connections may change, and lanes of other topologies beside it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastanf.sparse import masks
from fastanf.sparse.evolution import TopologySettings
from fastanf.sparse.layers import MaskedLinear
from fastanf.sparse.schedule import (
    Clock,
    RowSize,
    Schedule,
    num_pruned,
    num_pruned_by,
    pruning_is_due,
)
from fastanf.sparse.topology import PRUNING, evolve_
from tests.evolving_network import COPIES, LANES, EvolvingNetwork
from tests.helpers import unequal_names
from tests.host_reads import NoHostReads

FIRST, SECOND = 17 * 9, 9 * 5
ACTIVE = [[60, 61, FIRST, 50], [SECOND, 20, 20, 5], [15] * LANES]
SETTINGS = TopologySettings(
    topology=["pruning", "set", "static", "pruning"],
    drop_fraction=[0.5] * LANES,
    drop_schedule=["constant"] * LANES,
    period=[3, 3, 3, 4],
    end_share=[1.0, 1.0, 1.0, 0.5],
    new_weights=["xavier"] * LANES,
    num_updates=20,
)


@pytest.fixture(autouse=True, params=["looped", "at once"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Rows one by one, as on the CPU, and all at once, as on a GPU."""
    monkeypatch.setattr(masks, "is_looped", lambda tensor: request.param == "looped")
    return request.param


def test_the_published_cubic_in_whole_connections() -> None:
    # 1 - (1 - t/4)^3: 37/64, 7/8, 63/64 of 64.
    assert [num_pruned_by(64, update, 4) for update in range(6)] == [0, 37, 56, 63, 64, 64]
    assert [num_pruned_by(10, update, 4) for update in range(6)] == [0, 5, 8, 9, 10, 10]
    # Floats would give 3e15 (1 - (1 - 1/3)^3) = 2111111111111111.2 and less.
    assert num_pruned_by(3 * 10**15, 1, 3) == 2111111111111111


def test_pruning_is_due_each_period_and_at_its_end() -> None:
    def due(*clock: float) -> list[int]:
        return [u for u in range(40) if pruning_is_due(Clock(*clock), u)]  # pyright: ignore[reportArgumentType]

    assert due(4, 1.0, 20) == [2, 6, 10, 14, 18, 20]
    assert due(4, 0.5, 20) == [2, 6, 10]  # the end is on the grid
    assert due(1000, 1.0, 20) == [2, 20]
    assert due(3, 1.0, 1) == [1]


def test_what_leaves_at_each_time_is_what_the_schedule_still_lacks() -> None:
    schedule = Schedule(Clock(1, 1.0, 4), 0.5, "constant")
    row = RowSize(possible=100, active=36)
    assert [num_pruned(schedule, row, update) for update in (2, 3, 4)] == [56, 7, 1]
    assert num_pruned(replace(schedule, clock=Clock(9, 1.0, 4)), row, 4) == 8
    assert num_pruned(replace(schedule, clock=Clock(9, 1.0, 1)), row, 1) == 64


@given(
    possible=st.integers(1, 10**6),
    share=st.integers(0, 100),
    period=st.integers(1, 30),
    percent=st.integers(1, 100),
    num_updates=st.integers(1, 200),
)
@settings(max_examples=60, deadline=None)
def test_in_the_end_exactly_the_active_ones_are_left(
    possible: int, share: int, period: int, percent: int, num_updates: int
) -> None:
    schedule = Schedule(Clock(period, percent / 100, num_updates), 0.5, "constant")
    row = RowSize(possible, possible * share // 100)
    left, lacking = possible, []
    for update in range(1, num_updates + 1):
        if pruning_is_due(schedule.clock, update):
            left -= num_pruned(schedule, row, update)
            lacking.append(left)
            exact = (1 - update / schedule.clock.end) ** 3 * (row.possible - row.active)
            assert abs(left - row.active - exact) < 1 + 1e-9 * possible
    assert left == row.active
    assert lacking == sorted(lacking, reverse=True)


def test_evolve_follows_the_hand_drawn_example() -> None:
    weight = torch.tensor([[0.5, -0.1, 0.3, 0.2, 4.0, -3.0], [1.0, 0.0, 2.0, 0.0, 0.3, 0.0]])
    mask = torch.tensor([[True] * 6, [True, False, True, False, True, False]])
    moment = torch.arange(1.0, 13.0).view(2, 6) * mask
    keys = torch.zeros(2, 6, dtype=torch.int64)
    new_values = torch.full_like(weight, 7.0)
    evolution = evolve_(weight, mask, [3, 1], keys, keys, new_values, [moment], topology=PRUNING)
    assert evolution.dropped.nonzero().tolist() == [[0, 1], [0, 2], [0, 3], [1, 4]]
    assert not evolution.grown.any()
    assert mask.int().tolist() == [[1, 0, 0, 0, 1, 1], [1, 0, 1, 0, 0, 0]]
    assert weight.tolist() == [[0.5, 0, 0, 0, 4.0, -3.0], [1.0, 0, 2.0, 0, 0, 0]]
    assert moment.tolist() == [[1, 0, 0, 0, 5, 6], [7, 0, 9, 0, 0, 0]]


def network_of(*lanes: int) -> EvolvingNetwork:
    return EvolvingNetwork(SETTINGS, ACTIVE, lanes or range(LANES))


def active(network: EvolvingNetwork) -> list[list[int]]:
    """Per sparse layer, of each lane's first copy."""
    counts = [layer.active().tolist() for layer in network.mlp.layers if layer.is_sparse]
    assert all(each[::COPIES] == each[1::COPIES] for each in counts)
    return [each[::COPIES] for each in counts]


def test_pruned_lanes_start_dense_and_end_at_their_density_beside_others() -> None:
    network = network_of()
    assert active(network) == [[FIRST, 61, FIRST, FIRST], [SECOND, 20, 20, SECOND]]
    assert [layer.fewest_active()[::COPIES].tolist() for layer in network.mlp.layers[:2]] == [
        *ACTIVE[:2]
    ]
    counts = {}
    for update in range(1, 31):
        before = active(network)
        network.update_(update)
        if active(network) != before:
            counts[update] = [layer[::3] for layer in active(network)]
        for layer, target in zip(network.mlp.layers[:2], network.target.layers, strict=False):
            mask = layer.connection_mask()
            assert mask is not None and not bool(layer.trained[~mask].any())
            assert not bool(target.trained[~mask].any())
            for moment in network.optimizer.moments_of(layer.trained):
                assert not bool(moment[~mask].any())
    # Of 93 and 103 (or 40) that go by update 20 and 10.
    for update, (first, second) in counts.items():
        past = [(1 - min(update, end) / end) ** 3 for end in (20, 10)]
        if update in (2, 5, 8, 11, 14, 17, 20):
            assert first[0] == 60 + -int(-93 * past[0] // 1)
        if update in (2, 6, 10):
            assert (first[1], second[1]) == (
                50 - int(-103 * past[1] // 1),
                5 - int(-40 * past[1] // 1),
            )
    assert list(counts) == [2, 5, 6, 8, 10, 11, 14, 17, 20]
    assert active(network) == ACTIVE[:2]
    assert not any(network.evolution.evolve_if_due_(update) for update in (31, 34))


def test_the_weakest_leave_and_what_left_never_comes_back() -> None:
    network = network_of(0)
    for update in range(1, 21):
        before = network.mask(0, 0)
        network.update_(update)
        after = network.mask(0, 0)
        assert not bool((after & ~before).any())


@pytest.mark.parametrize("lane", range(LANES))
def test_a_lane_alone_equals_the_lane_among_others(lane: int) -> None:
    together, alone = network_of(), network_of(lane)
    for update in range(1, 22):
        together.update_(update)
        alone.update_(update)
    assert unequal_names(alone.held(0), together.held(lane)) == []


@pytest.mark.parametrize("way", ["at once"], indirect=True)
def test_rows_at_once_make_no_host_wait() -> None:
    network = network_of()
    with NoHostReads():
        assert network.evolution.evolve_if_due_(2)
    assert active(network)[0][0] < FIRST


def test_a_layer_takes_over_the_counts_that_pruning_has_and_no_others() -> None:
    weight, mask = torch.randn(3, 2, 4), torch.ones(3, 2, 4, dtype=torch.bool)
    mask[2, 0, 0] = False
    weight[2, 0, 0] = 0.0
    layer = MaskedLinear(weight, torch.zeros(3, 2), mask.clone(), torch.tensor([5, 0, 0]))
    assert layer.fewest_active().tolist() == [3, 8, 7]

    def with_counts(*counts: int) -> Tensor:
        places = torch.arange(8).view(2, 4)
        return torch.stack([places < count for count in counts])

    for count in (3, 8, 5):  # also more than there are now
        layer.set_connections_(with_counts(count, 8, 7))
        assert layer.active().tolist() == [count, 8, 7]
    for counts, words in (
        ((2, 8, 7), "matrix 0 .* has 5 connections, and at least 3, and cannot take over 2"),
        ((3, 7, 7), "matrix 1 .* has 8 connections and cannot take over 7"),
        ((3, 8, 8), "matrix 2 .* has 7 connections and cannot take over 8"),
    ):
        with pytest.raises(ValueError, match=words):
            layer.set_connections_(with_counts(*counts))
        assert layer.active().tolist() == [5, 8, 7]
