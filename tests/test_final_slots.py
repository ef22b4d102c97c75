"""Rows of the side tables: taken, given back with their time, read off a checkpoint."""

from __future__ import annotations

import torch

from fastanf.final_slots import FinalSlots, time_of_slot


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


def test_what_a_ring_needs_is_read_off_it() -> None:
    # L, T, E = 2, 4, 1; the newest transition is of time 9, in slot 1.
    final_slot = torch.tensor([[-1, 0, -2, -1], [2, -1, -1, 0]])[..., None]
    slots = FinalSlots.of_ring(final_slot, newest=9, num_slots=3)
    assert [time_of_slot(slot, 9, 4) for slot in range(4)] == [8, 9, 6, 7]
    assert [slots.take_(0, 10) for _ in range(2)] == [1, 2]
    assert slots.take_(1, 10) == 1
    slots.release_(7)
    slots.release_(8)
    assert sorted(slots.take_(1, 11) for _ in range(2)) == [0, 2]
    slots.release_(9)
    assert slots.take_(0, 11) == 0
