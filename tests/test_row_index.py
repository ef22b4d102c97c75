"""Where rows stand, against a list that is asked the plain way."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from fastanf.row_index import Kept, Place, RowIndex, read_pieces

HEADER_BYTES = 7
LANES = range(5)


class Plain:
    """The same as a list of (lane, step, start, end)."""

    def __init__(self, rows: list[tuple[int, int, int, int]]) -> None:
        self.rows = rows

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, RowIndex)
        numbers = other.rows_of(range(-1, 9))
        spans = [other.span(row) for row in numbers]
        ends = [HEADER_BYTES, *(end for *_, end in self.rows)]
        return (
            numbers == list(range(len(self.rows))) == list(range(len(other)))
            and [other.lane(row) for row in numbers] == [row[0] for row in self.rows]
            and spans == [row[2:] for row in self.rows]
            and other.num_bytes == ends[-1]
            and all(
                other.rows_of([lane]) == [n for n, row in enumerate(self.rows) if row[0] == lane]
                for lane in LANES
            )
        )


def laid_out(places: list[Place]) -> list[tuple[int, int, int, int]]:
    rows, start = [], HEADER_BYTES
    for lane, step, num_bytes in places:
        rows.append((lane, step, start, start + num_bytes))
        start += num_bytes
    return rows


def merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    found = [(0, HEADER_BYTES)]
    for start, end in spans:
        if found[-1][1] == start:
            found[-1] = found[-1][0], end
        else:
            found.append((start, end))
    return found


def expect_kept(kept: Kept, rows: list[tuple[int, int, int, int]]) -> None:
    assert Plain(laid_out([Place(row[0], row[1], row[3] - row[2]) for row in rows])) == kept.index
    assert kept.spans == merged([row[2:] for row in rows])
    assert kept.is_beginning == (len(kept.spans) == 1)
    kept.index.extend([Place(2, 99, 3)])  # what comes later finds all in order
    assert kept.index.rows_of([2])[-1] == len(rows)


@pytest.mark.parametrize("seed", range(20))
def test_an_index_equals_a_list(seed: int) -> None:
    draw = random.Random(seed)
    index, places = RowIndex(HEADER_BYTES), []
    for _ in range(draw.randrange(12)):
        new = [
            Place(draw.choice(LANES), draw.randrange(6), draw.randrange(1, 9))
            for _ in range(draw.randrange(4))
        ]
        index.extend(new)
        places += new
        if draw.random() < 0.3:
            places = places[: draw.randrange(len(places) + 1)]
            index.cut(len(places))
    rows = laid_out(places)
    assert Plain(rows) == index

    last_steps = {lane: draw.randrange(-1, 6) for lane in draw.sample(LANES, 3)}
    is_beyond = [row[1] > last_steps.get(row[0], 99) for row in rows]
    assert sorted(index.beyond(last_steps)) == [n for n, is_one in enumerate(is_beyond) if is_one]
    kept = [row for row, is_one in zip(rows, is_beyond, strict=True) if not is_one]
    expect_kept(index.without(index.beyond(last_steps)), kept)

    position = {lane: draw.randrange(3) for lane in draw.sample(LANES, 4)}
    expect_kept(
        index.sorted_by(position), sorted(rows, key=lambda row: position.get(row[0], len(position)))
    )

    lanes, last_step = draw.sample(LANES, 2), draw.randrange(6)
    found = [
        (lane, byte)
        for lane, start, end in index.spans_of(lanes, last_step)
        for byte in range(start, end)
    ]
    assert found == [
        (lane, byte)
        for lane, step, start, end in rows
        if lane in lanes and step <= last_step
        for byte in range(start, end)
    ]
    assert Plain(rows) == index


def test_pieces_of_a_file_that_became_shorter_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "table").write_bytes(b"0123456789")
    file = os.open(tmp_path / "table", os.O_RDONLY)
    assert b"".join(read_pieces(file, [(0, 3), (5, 9)])) == b"0125678"
    with pytest.raises(OSError, match="shorter than it was"):
        list(read_pieces(file, [(8, 12)]))
    os.close(file)
