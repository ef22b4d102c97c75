"""When connections are replaced and how many: hand-drawn numbers, and lanes of one layer with
schedules of their own.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastanf.sparse import masks
from fastanf.sparse.evolution import TopologySettings
from fastanf.sparse.layers import CSR, MASKED
from fastanf.sparse.schedule import (
    Clock,
    RowSize,
    Schedule,
    num_replaced,
    num_to_drop,
    replacement_is_due,
)
from tests.evolving_network import COPIES, LANES, EvolvingNetwork
from tests.helpers import unequal_names

ROW = RowSize(possible=500, active=100)
ACTIVE = [[60, 61, 77, 50], [45] * LANES, [15] * LANES]  # of a first layer of 17 x 9
SETTINGS = TopologySettings(
    topology=["set", "set", "set", "rigl"],
    drop_fraction=[0.5, 0.5, 0.3, 0.4],
    drop_schedule=["constant", "cosine", "cosine", "cosine"],
    period=[3, 3, 2, 3],
    end_share=[0.5, 1.0, 0.5, 1.0],
    new_weights=["unif", "xavier", "unif", "unif"],
    num_updates=24,
)


def of(decay: str, end_share: float = 1.0, num_updates: int = 8, fraction: float = 0.4) -> Schedule:
    return Schedule(Clock(2, end_share, num_updates), fraction, decay)


def test_a_cosine_falls_from_the_drop_fraction_to_zero() -> None:
    counts = [num_replaced(of("cosine"), ROW, update) for update in (0, 2, 4, 6, 7, 8, 9, 100)]
    # 20 * (1 + cos(pi t / 8)): 40, 34.1, 20, 5.86, 1.52, 0
    assert counts == [40, 34, 20, 5, 1, 0, 0, 0]


def test_a_constant_share_stays() -> None:
    assert {num_replaced(of("constant"), ROW, update) for update in range(100)} == {40}


def test_a_cosine_ends_at_the_end_that_was_asked_for() -> None:
    half = of("cosine", end_share=0.5, num_updates=16)
    assert half.clock.end == 8
    assert [num_replaced(half, ROW, update) for update in (0, 4, 8)] == [40, 20, 0]


def test_replacement_never_ends_by_default_and_else_after_its_end() -> None:
    default, half = of("constant").clock, of("constant", end_share=0.5).clock
    assert [u for u in range(30) if replacement_is_due(default, u)] == list(range(2, 30, 2))
    assert [u for u in range(30) if replacement_is_due(half, u)] == [2, 4]


def test_the_end_is_counted_without_float_error_and_rounded_up() -> None:
    assert Clock(1, 0.29, 100).end == 29  # floats: 28.999...
    assert Clock(1, 0.1, 1_000_000).end == 100_000
    assert Clock(1, 0.5, 25).end == 13
    assert Clock(1, 1e-9, 25).end == 1
    assert Clock(1, 1.0, 25).end == 25


def test_a_row_that_is_dense_replaces_nothing() -> None:
    assert num_replaced(of("constant"), RowSize(100, 100), 2) == 0


@given(
    active=st.integers(0, 10**6),
    thousandths=st.integers(0, 1000),
    end=st.integers(1, 10**6),
    update=st.integers(0, 10**6),
)
@settings(max_examples=100, deadline=None)
def test_a_cosine_stays_below_the_constant_share_and_never_rises(
    active: int, thousandths: int, end: int, update: int
) -> None:
    schedule = of("cosine", num_updates=end, fraction=thousandths / 1000)
    row = RowSize(active + 1, active)
    now, later = (num_replaced(schedule, row, u) for u in (update, update + 1))
    assert 0 <= later <= now <= active * thousandths // 1000
    share = max(0.0, (1 + math.cos(math.pi * min(update, end) / end)) / 2)
    # A float's floor may miss a whole number by its last place.
    assert abs(now - active * thousandths / 1000 * share) < 1 + 1e-9 * active


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"period": 0}, "topology_period=0"),
        ({"end_share": 0.0}, "topology_end=0.0"),
        ({"end_share": 1.5}, "topology_end=1.5"),
        ({"end_share": math.nan}, "topology_end=nan"),
        ({"num_updates": 0}, "num_updates=0"),
    ],
)
def test_clocks_out_of_range_are_refused(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(Clock(1, 1.0, 1), **wrong)  # pyright: ignore[reportArgumentType]


def test_an_unknown_decay_is_refused() -> None:
    with pytest.raises(ValueError, match=r"drop_schedule='linear' is not one of constant, cosine"):
        of("linear")


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_what_is_left_of_the_fraction_multiplies_it_exactly(share: float) -> None:
    assert num_to_drop(1000, 0.29, share) == int(290 * share)


def network_of(*lanes: int, layout: str = MASKED) -> EvolvingNetwork:
    return EvolvingNetwork(SETTINGS, ACTIVE, lanes, layout=layout)


def test_lanes_of_one_layer_have_schedules_of_their_own() -> None:
    evolution = network_of(*range(LANES)).evolution
    (evolving,) = evolution._evolving
    leaving = {}
    for update in range(1, 40):
        counts = [
            topology.how_many(schedule, evolving.rows[COPIES * lane], update)
            * topology.when(schedule.clock, update)
            for lane, (topology, schedule) in enumerate(
                zip(SETTINGS.topologies, SETTINGS.schedules, strict=True)
            )
        ]
        if any(counts):
            leaving[update] = counts
        before = evolving.layer.trained.detach().clone()
        assert evolution.evolve_if_due_(update) >= any(counts)
        changed = (before != evolving.layer.trained).view(LANES, -1).sum(1).tolist()
        assert [num > 0 for num in changed] == [num > 0 for num in counts]
    assert leaving == {
        2: [30, 29, 21, 19],
        4: [0, 0, 17, 0],
        5: [30, 27, 0, 17],
        6: [0, 0, 11, 0],
        8: [30, 22, 5, 15],
        10: [0, 0, 1, 0],
        11: [30, 17, 0, 11],
        14: [0, 11, 0, 7],
        17: [0, 5, 0, 3],
        20: [0, 2, 0, 1],
    }


@pytest.mark.parametrize("layout", [MASKED, "masked at once", CSR])
@pytest.mark.parametrize("lane", range(LANES - 1))
def test_a_lane_alone_follows_its_schedule_as_among_others(
    layout: str, lane: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if layout == "masked at once":
        monkeypatch.setattr(masks, "is_looped", lambda tensor: False)
        layout = MASKED
    lanes = range(LANES - (layout == CSR))  # csr does not know RigL
    together, alone = network_of(*lanes, layout=layout), network_of(lane, layout=layout)
    changed = []
    for update in range(1, 30):
        before = alone.held(0)["online.0"]
        for network in (together, alone):
            network.evolution.evolve_if_due_(update)
        own = alone.held(0)
        if not torch.equal(before, own["online.0"]):
            changed.append(update)
        assert unequal_names(own, together.held(lane)) == []
    assert changed == [[2, 5, 8, 11], [2, 5, 8, 11, 14, 17, 20], [2, 4, 6, 8, 10]][lane]


def test_what_varies_is_not_kept() -> None:
    network = network_of(0, 1)
    (evolving,) = network.evolution._evolving
    first, second = (evolving.set_rows((True, True), update) for update in (2, 5))
    assert first.counts != second.counts
    assert first.on_device.tolist() == first.counts == [30, 30, 29, 29]
    assert evolving.set_rows((True, False), 2) is evolving.set_rows((True, False), 5)
    assert len(evolving._due) == 1
