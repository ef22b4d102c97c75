"""Blocks on slots: hand-checked schedules, and how far from the best one they can be."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastanf.cluster.schedule import Schedule, Turn, makespan_s, schedule

COSTS = st.lists(st.integers(0, 20), min_size=1, max_size=7)
ROUNDING = 1e-9
"""Relative; sums in another order."""


def best_makespan(costs: list[int], slots: int) -> int:
    """Of every way to give blocks to slots."""
    return min(
        max(sum(c for c, s in zip(costs, given, strict=True) if s == slot) for slot in range(slots))
        for given in itertools.product(range(slots), repeat=len(costs))
    )


def test_the_longest_goes_first_to_the_slot_that_is_free_first() -> None:
    # 4 | 3, then 3 beside the 3, both 2 beside the 4; the best would be 4 + 3 | 3 + 2 + 2.
    found = schedule([2.0, 4.0, 3.0, 2.0, 3.0], 2)
    assert found.slots == (
        (Turn(1, 0.0, 4.0), Turn(0, 4.0, 6.0), Turn(3, 6.0, 8.0)),
        (Turn(2, 0.0, 3.0), Turn(4, 3.0, 6.0)),
    )
    assert (found.makespan_s, found.busy_share, found.num_used) == (8.0, 14 / 16, 2)


def test_slots_that_have_nothing_to_do_count_as_idle() -> None:
    found = schedule([3.0, 1.0], 4)
    assert (found.makespan_s, found.busy_share, found.num_used) == (3.0, 4 / 12, 2)
    assert [len(turns) for turns in found.slots] == [1, 1, 0, 0]


def test_nothing_to_do_ends_at_once() -> None:
    for nothing in (schedule([], 3), schedule([], 0), schedule([0.0], 2), Schedule(())):
        assert (nothing.makespan_s, nothing.busy_share) == (0.0, 0.0)


@pytest.mark.parametrize("cost", [-1.0, math.nan, math.inf])
def test_costs_that_are_no_durations_are_refused(cost: float) -> None:
    with pytest.raises(ValueError, match="costs_s must be finite and not negative"):
        schedule([1.0, cost], 2)


def test_without_a_slot_nothing_can_be_done() -> None:
    with pytest.raises(ValueError, match="slots must be at least 1 for 2 blocks, got 0"):
        schedule([1.0, 2.0], 0)


@settings(max_examples=60, deadline=None)
@given(costs=COSTS, slots=st.integers(1, 3))
def test_the_end_is_within_grahams_bound_of_the_best(costs: list[int], slots: int) -> None:
    best = best_makespan(costs, slots)
    assert best <= schedule(costs, slots).makespan_s <= (4 / 3 - 1 / (3 * slots)) * best + ROUNDING


@settings(deadline=None)
@given(costs=st.lists(st.floats(0, 1e6), max_size=40), slots=st.integers(1, 9))
def test_every_block_has_one_turn_and_no_slot_waits_while_it_has_work(
    costs: list[float], slots: int
) -> None:
    found = schedule(costs, slots)
    turns = sorted(itertools.chain.from_iterable(found.slots), key=lambda turn: turn.index)
    assert [turn.index for turn in turns] == list(range(len(costs)))
    assert [turn.end_s for turn in turns] == [
        t.begin_s + c for t, c in zip(turns, costs, strict=True)
    ]
    for one in found.slots:
        assert [turn.begin_s for turn in one] == [0.0, *(turn.end_s for turn in one[:-1])][
            : len(one)
        ]
    assert 0 <= found.busy_share <= 1 + ROUNDING


@settings(deadline=None)
@given(
    classes=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), min_size=1, max_size=6),
    slots=st.integers(1, 9),
    enough=st.integers(0, 400),
)
def test_the_short_way_to_the_end_agrees(
    classes: list[tuple[int, int]], slots: int, enough: int
) -> None:
    costs = [cost for cost, number in classes for _ in range(number)]
    expected = schedule(costs, slots).makespan_s
    assert makespan_s(classes, slots, math.inf) == expected
    assert makespan_s(classes, slots, enough) == min(expected, enough)
