"""Rows of the side tables: taken, and given back with their time."""

from __future__ import annotations

from fastanf.final_slots import FinalSlots


def test_lowest_free_row_goes_first_and_comes_back_with_its_time() -> None:
    slots = FinalSlots(num_lanes=2, num_slots=3)
    assert [slots.take_(0, time) for time in (5, 5, 6)] == [0, 1, 2]
    assert not slots.has_free(0) and slots.has_free(1)
    slots.release_(6)
    slots.release_(7)  # nothing was taken then
    assert slots.take_(0, 8) == 2
    slots.release_(5)
    assert sorted(slots.take_(0, 9) for _ in range(2)) == [0, 1]


def test_rows_of_a_larger_table_follow_those_that_are_free() -> None:
    slots = FinalSlots(num_lanes=1, num_slots=2)
    slots.take_(0, 0)
    slots.grow_(2, 4)
    assert [slots.take_(0, time) for time in (1, 2, 3)] == [1, 2, 3]
    assert not slots.has_free(0)
