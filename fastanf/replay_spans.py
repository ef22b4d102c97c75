"""Which times of a replay stand in which file of a checkpoint.

A replay is written in spans of time, each once: a checkpoint adds what came since the one before.
So that many checkpoints do not leave many small files, a new span takes in the one before it as
long as that is no longer than itself, as in a binary counter: of n equal additions there are at
most log2(n) files, and each transition is written at most log2(n) times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """Times [first, end) of a replay in one file.

    Where two spans overlap, the later one holds the truth: times that changed are written again.
    """

    first: int
    end: int
    file: str


def kept_and_new(
    standing: Sequence[Span], first_unsaved: int, end: int, oldest: int, most: int
) -> tuple[list[Span], list[tuple[int, int]]]:
    """What of the standing spans a new checkpoint keeps, and which times it writes.

    Args:
        standing: spans of the checkpoint before, in the order of time.
        first_unsaved: from this time on nothing is written yet, or was written otherwise.
        end: of the times to save.
        oldest: the first time that the replay still holds.
        most: times of a new span.

    Returns:
        Spans that stay, and (first, end) of those to write.
    """
    first = max(first_unsaved, oldest)
    kept = [span for span in standing if span.end > oldest and span.first < first]
    if first >= end:
        return kept, []
    while kept:
        last = kept[-1]
        is_longer = last.end - last.first > end - first
        if is_longer or last.first < oldest or end - last.first > most:
            break
        first = kept.pop().first
    return kept, [(start, min(start + most, end)) for start in range(first, end, most)]


def pieces(spans: Sequence[Span], oldest: int, end: int) -> list[tuple[Span, int, int]]:
    """Which times to take from which span, so that every time comes from the latest that has it.

    Args:
        spans: in the order of their first times.
        oldest: the first time that is wanted.
        end: after the last one.

    Returns:
        Spans with the first and the end of what is taken from them.

    Raises:
        ValueError: a time is in no span.
    """
    taken: list[tuple[Span, int, int]] = []
    reached = oldest
    for position, span in enumerate(spans):
        following = spans[position + 1].first if position + 1 < len(spans) else end
        first, stop = max(span.first, oldest), min(span.end, following, end)
        if first >= stop:
            continue
        if first != reached:
            break
        taken.append((span, first, stop))
        reached = stop
    if reached < end:
        raise ValueError(f"the replay of time {reached} is in none of its files")
    return taken
