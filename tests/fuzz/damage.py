"""Damage to files: what a full disk, a crash, an editor or somebody else may do to their bytes."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

PIECES = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\r", b"\n", b"\n\n", b'"', b'"",', b"'", b",",
    b",,", b"\xc3\xa9", b"\xc2\x85", b"\xe2\x80\xa8", b"\x1b[2J", b"{}", b"[", b"}", b":", b"-",
    b"0",
)  # fmt: skip
CELLS = (
    b"", b" ", b"-1", b"-0", b"00", b"1_000", b" 5", b"5 ", b"+5", b"1.0", b"1e3", b"1e400",
    b"-1e400", b"nan", b"NaN", b"inf", b"-inf", b"0x10", b"9" * 30, b"1" + b"0" * 400,
    b"9" * 200_000, b"null", b"true", b'"x', b'"x"y"', b"'x'", b"x\x00y", b"\xff", b"actor",
    b"critic3", b"1 2 3", b"2", b"7", b"[" * 100_000, b'"\\u0000"', b'"a\\nb"', b"[1, 2]", b"{}",
    b"Infinity", b"ANF-SAC", b"\xd9\xa3", b"\xc2\xb2", b"99", b"100000", b"0.5",
)  # fmt: skip
JSON_VALUES = (
    b"null", b"true", b"-1", b"1e999", b"NaN", b"Infinity", b'""', b'"x"', b"[]", b"{}", b"[[]]",
    b'{"a": 1, "a": 2}', b"[" * 2000 + b"]" * 2000, b"[" * 100_000, b"1" * 5000, b'"\\ud800"',
    b'"\\u0000"', b'"../../x"', b"2", b"0.5", b'"finished"', b'"running"',
)  # fmt: skip


@st.composite
def damaged(draw: Any, data: bytes) -> bytes:
    """Bytes after one to three changes, some of which undo or hide each other."""
    for _ in range(draw(st.integers(1, 3))):
        data = _CHANGES[draw(st.sampled_from(sorted(_CHANGES)))](draw, data)
    return data


def _place(draw: Any, data: bytes) -> int:
    return draw(st.integers(0, len(data)))


def _flip(draw: Any, data: bytes) -> bytes:
    at = _place(draw, data)
    flipped = bytes(byte ^ (1 << draw(st.integers(0, 7))) for byte in data[at : at + 1])
    return data[:at] + flipped + data[at + 1 :]


def _cut(draw: Any, data: bytes) -> bytes:
    return data[: _place(draw, data)]


def _cut_at_a_line(draw: Any, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join(lines[: draw(st.integers(0, len(lines)))])


def _insert(draw: Any, data: bytes) -> bytes:
    at = _place(draw, data)
    return data[:at] + draw(st.sampled_from(PIECES)) + data[at:]


def _hole(draw: Any, data: bytes) -> bytes:
    """Nulls in place of a part, as of a file whose blocks were not written."""
    start, end = sorted((_place(draw, data), _place(draw, data)))
    return data[:start] + bytes(end - start) + data[end:]


def _move_line(draw: Any, data: bytes) -> bytes:
    """One line is missing, doubled, or elsewhere."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    taken = lines[draw(st.integers(0, len(lines) - 1))]
    if draw(st.booleans()):
        lines.remove(taken)
    if draw(st.booleans()):
        lines.insert(draw(st.integers(0, len(lines))), taken)
    return b"".join(lines)


def _cell(draw: Any, data: bytes) -> bytes:
    """Another value in one cell of a table, or in one entry of a manifest."""
    lines = data.split(b"\n")
    at = draw(st.integers(0, len(lines) - 1))
    if lines[at].lstrip().startswith(b'"') and b": " in lines[at]:
        key = lines[at].partition(b": ")[0]
        comma = b"," if lines[at].endswith(b",") else b""
        lines[at] = key + b": " + draw(st.sampled_from(JSON_VALUES)) + comma
    else:
        cells = lines[at].split(b",")
        cells[draw(st.integers(0, len(cells) - 1))] = draw(st.sampled_from(CELLS))
        lines[at] = b",".join(cells)
    return b"\n".join(lines)


def _swap_columns(draw: Any, data: bytes) -> bytes:
    """Two columns change places in every line: harmless, unless it is a list elsewhere."""
    rows = [line.split(b",") for line in data.split(b"\n")]
    one, other = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    for row in rows:
        if max(one, other) < len(row):
            row[one], row[other] = row[other], row[one]
    return b"\n".join(b",".join(row) for row in rows)


_CHANGES = {
    "flip": _flip,
    "cut": _cut,
    "cut at a line": _cut_at_a_line,
    "insert": _insert,
    "hole": _hole,
    "move a line": _move_line,
    "cell": _cell,
    "swap columns": _swap_columns,
}
