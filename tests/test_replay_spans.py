"""Files of a replay: every time is in one of them, and they stay few."""

from __future__ import annotations

import random

import pytest

from fastanf.replay_spans import Span, kept_and_new, pieces


def written(spans: list[Span]) -> list[tuple[int, int]]:
    return [(span.first, span.end) for span in spans]


def save(
    spans: list[Span], first_unsaved: int, end: int, oldest: int, most: int, name: str = "new"
) -> tuple[list[Span], int]:
    """The spans after a checkpoint, and how many times it wrote."""
    kept, new = kept_and_new(spans, first_unsaved, end, oldest, most)
    made = [Span(first, stop, f"{name}-{first}") for first, stop in new]
    return kept + made, sum(stop - first for first, stop in new)


def test_the_first_checkpoint_writes_all_in_files_of_a_bounded_size() -> None:
    spans, _ = save([], 0, 25, 0, most=10)
    assert written(spans) == [(0, 10), (10, 20), (20, 25)]


def test_equal_additions_leave_few_files_as_a_binary_counter_does() -> None:
    spans: list[Span] = []
    total = 0
    for count in range(1, 33):
        spans, wrote = save(spans, 10 * (count - 1), 10 * count, 0, most=10**6)
        total += wrote
        assert len(spans) == bin(count).count("1")
    assert written(spans) == [(0, 320)]
    assert total == 10 * sum((n & -n) for n in range(1, 33)) <= 320 * 6


def test_nothing_new_writes_nothing() -> None:
    spans, _ = save([], 0, 5, 0, most=10)
    again, wrote = save(spans, 5, 5, 0, most=10)
    assert again == spans and wrote == 0


def test_times_that_left_the_ring_are_dropped_and_not_written_again() -> None:
    spans = [Span(0, 10, "a"), Span(10, 20, "b"), Span(20, 24, "c")]
    kept, new = kept_and_new(spans, 24, 40, oldest=15, most=100)
    assert written(kept) == [(10, 20)] and new == [(20, 40)]
    kept, new = kept_and_new(spans, 24, 90, oldest=60, most=100)
    assert kept == [] and new == [(60, 90)]


def test_a_time_that_changed_is_written_again_and_read_from_the_later_file() -> None:
    spans = [Span(0, 20, "a")]
    after, _ = save(spans, 19, 22, 0, most=100)
    assert written(after) == [(0, 20), (19, 22)]
    assert pieces(after, 0, 22) == [(after[0], 0, 19), (after[1], 19, 22)]


def test_a_time_in_no_file_is_named() -> None:
    with pytest.raises(ValueError, match="time 5 is in none"):
        pieces([Span(0, 5, "a"), Span(6, 9, "b")], 0, 9)
    with pytest.raises(ValueError, match="time 3 is in none"):
        pieces([Span(0, 3, "a")], 0, 4)
    assert pieces([], 7, 7) == []


def test_any_history_of_a_ring_can_be_read_back() -> None:
    """Each time's content is its version; a revision raises it."""
    draw = random.Random(0)
    for _ in range(200):
        num_slots, most = draw.randint(2, 40), draw.randint(1, 30)
        end, version = 0, dict[int, int]()
        saved: dict[str, dict[int, int]] = {}
        spans: list[Span] = []
        for number in range(draw.randint(1, 30)):
            first_unsaved = end
            if end and draw.random() < 0.3:  # where episodes begin anew the last time changes
                first_unsaved, version[end - 1] = end - 1, version[end - 1] + 1
            end += draw.randint(0, 25)
            version |= dict.fromkeys(range(max(version, default=-1) + 1, end), 0)
            oldest = max(0, end - num_slots)
            spans, _ = save(spans, first_unsaved, end, oldest, most, str(number))
            for span in spans:
                saved.setdefault(span.file, {t: version[t] for t in range(span.first, span.end)})
            read = {
                time: saved[span.file][time]
                for span, start, stop in pieces(spans, oldest, end)
                for time in range(start, stop)
            }
            assert read == {time: version[time] for time in range(oldest, end)}
