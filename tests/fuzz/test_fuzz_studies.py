"""Study files, damaged, generated and hostile: a study, or refused in one line that names the file.

How to try more of them: tests/fuzz/fuzzing.py.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastanf.config import OPTIONS
from fastanf.presets import PRESETS, Expansion
from fastanf.study import SHIPPED, find_study, load_study, parse_study, shipped_names
from tests.fuzz.fuzzing import VALUES, good_values, outcome, tries

TEXTS = {name: (SHIPPED / f"{name}.toml").read_bytes() for name in shipped_names()}
NAMES = [name for name, entry in OPTIONS.items() if entry.is_flag]
PIECES = (
    b"\x00", b"\xff", b"\xef\xbb\xbf", b"\r\n", b"\r", b"\n", b'"', b"'", b"[", b"]", b"[[arm]]\n",
    b"= ", b"nan", b"inf", b"-1", b"1e400", b"0x" + b"f" * 5000, b"9" * 5000, b"true", b"''", b"[]",
    b"{}", b"2024-01-01", b"\\u0000", b"\\u001b", b".", b"a.a.a", b"#", b"'''", b'"""',
)  # fmt: skip


def expanded(path: Path) -> Expansion:
    return load_study(str(path)).expand()


def check_file(path: Path, data: bytes) -> None:
    """A study of some lanes, or one line that names the file or the study."""
    path.write_bytes(data)
    expansion, refusal = outcome(lambda: expanded(path))
    assert expansion.lanes if not refusal else path.name in refusal or refusal.startswith("study ")


@st.composite
def damaged(draw: Any) -> bytes:
    """A shipped study after some damage."""
    data = TEXTS[draw(st.sampled_from(sorted(TEXTS)))]
    for _ in range(draw(st.integers(1, 3))):
        lines = data.splitlines(keepends=True) or [b""]
        at, line = draw(st.integers(0, len(data))), draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["flip", "cut", "insert", "drop", "double", "value", "mix"]))
        if kind == "flip" and at < len(data):
            flipped = data[at] ^ (1 << draw(st.integers(0, 7)))
            data = data[:at] + bytes([flipped]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + draw(st.sampled_from(PIECES)) + data[at:]
        elif kind == "drop":
            data = b"".join(lines[:line] + lines[line + 1 :])
        elif kind == "double":
            data = b"".join([*lines, lines[line]])
        elif kind == "value" and b"=" in lines[line]:
            key = lines[line].partition(b"=")[0]
            value = toml_of(draw(VALUES)).encode("utf-8", "surrogatepass")
            data = b"".join([*lines[:line], key, b"= ", value, b"\n", *lines[line + 1 :]])
        else:
            data = b"".join(draw(st.permutations(lines)))
    return data


def toml_of(value: Any) -> str:
    """A value as TOML; what TOML has not is written as a text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return hex(value) if abs(value) > 10**4000 and value >= 0 else f"{value % 10**300}"
    if isinstance(value, (float, datetime.date)):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(toml_of, value))}]"
    if isinstance(value, Mapping):
        pairs = [f"{json.dumps(key)} = {toml_of(item)}" for key, item in value.items()]
        return f"{{{', '.join(pairs)}}}"
    return json.dumps(str(value))


@tries(250)
@given(data=damaged())
def test_a_damaged_study_is_a_study_or_refused(tmp_path: Path, data: bytes) -> None:
    check_file(tmp_path / "study.toml", data)


def one_in_six(strange: st.SearchStrategy[Any], good: st.SearchStrategy[Any]) -> Any:
    return st.integers(0, 5).flatmap(lambda n: strange if n == 0 else good)


def tables(make: Any) -> st.SearchStrategy[dict[str, Any]]:
    names = st.lists(st.sampled_from(NAMES), max_size=3, unique=True)
    return names.flatmap(
        lambda some: st.fixed_dictionaries({name: make(OPTIONS[name]) for name in some})
    )


SETTINGS = tables(lambda entry: one_in_six(VALUES, good_values(entry).map(_plain)))
VARY = tables(
    lambda entry: one_in_six(VALUES, st.lists(good_values(entry).map(_plain), max_size=3))
)
POLICIES = st.sampled_from(sorted(PRESETS)) | st.lists(st.sampled_from(sorted(PRESETS)), max_size=2)
CONTENTS = st.fixed_dictionaries(
    {"name": one_in_six(VALUES, st.just("x"))},
    optional={
        "about": one_in_six(VALUES, st.text(max_size=20)),
        "policy": one_in_six(VALUES, POLICIES),
        "env": one_in_six(VALUES, st.sampled_from(["Hopper-v3", ["Ant-v4", "Hopper-v3"]])),
        "num_seeds": one_in_six(VALUES, st.integers(1, 3)),
        "first_seed": one_in_six(VALUES, st.integers(0, 3)),
        "settings": one_in_six(VALUES, SETTINGS),
        "vary": one_in_six(VALUES, VARY),
        "arm": st.lists(
            st.fixed_dictionaries(
                {}, optional={"policy": POLICIES, "settings": SETTINGS, "vary": VARY}
            ),
            max_size=3,
        ),
    },
)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@tries(200)
@given(content=CONTENTS)
def test_a_generated_study_is_expanded_or_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    text = "\n".join(f"{key} = {toml_of(value)}" for key, value in content.items())
    check_file(tmp_path / "study.toml", text.encode("utf-8", "surrogatepass"))


@tries(100)
@given(data=st.binary(max_size=60))
def test_any_bytes_are_no_study(tmp_path: Path, data: bytes) -> None:
    check_file(tmp_path / "study.toml", data)


GOOD = b'name = "x"\npolicy = "SAC"\nabout = """two\nlines"""\n[settings]\nhidden = [8, 8]\n'


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "mark"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["unix", "windows"])
def test_marks_and_line_ends_of_other_editors_make_no_difference(
    tmp_path: Path, start: bytes, end: bytes
) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(start + GOOD.replace(b"\n", end))
    assert expanded(path).lanes == parse_study(GOOD.decode()).expand().lanes


HOSTILE = {
    "deep arrays": (b"a = " + b"[" * 3000, "nested too deeply|not TOML"),
    "deep tables": (b"[" + b"a." * 1500 + b"a]\n", "'a' must be one of name"),
    "long line": (b"a" + b".a" * 60_000 + b" = 1", "line 1 has 120005 characters"),
    "many keys": (b"".join(b"k%d = 1\n" % k for k in range(20_000)), "'k0' must be one of name"),
    "large": (b"#" * 10**6, "has 1000000 bytes: at most 262144"),
    "utf-16": (GOOD.decode().encode("utf-16"), "cannot be read: not UTF-8 at byte 0"),
    "null": (GOOD + b"\x00", "not TOML"),
    "huge integer": (GOOD + b"eval_freq = 0x" + b"f" * 3900, "eval_freq must be an integer"),
    "huge decimal": (GOOD + b"eval_freq = " + b"9" * 3900, "eval_freq must be an integer"),
    "escapes": (GOOD + b'"\\u001b[2J" = 1', r"settings: .* is not a setting"),
    "long name": (b'name = "' + b"x" * 101 + b'"', "name must be letters"),
    "many seeds": (b'name = "x"\nnum_seeds = 9_999_999_999', "num_seeds must be an integer in"),
    "many lanes": (
        b'name = "x"\nnum_seeds = 10000\npolicy = ["SAC", "TD3", "ANF-SAC"]',
        "at most 20000 lanes, got 30000",
    ),
    "many values": (
        b'name = "x"\n[vary]\ntopology_period = [' + b"1,\n" * 80_000 + b"]", "at most 20000 lanes"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_at_once(tmp_path: Path, kind: str) -> None:
    data, words = HOSTILE[kind]
    path = tmp_path / "study.toml"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=words) as caught:
        expanded(path)
    assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    with open(path, "wb") as file:
        file.truncate(10**11)  # a hole: no disk is taken
    with pytest.raises(ValueError, match="has 100000000000 bytes: at most 262144 are allowed"):
        expanded(path)


def test_what_is_no_file_is_no_study_and_a_link_to_one_is(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_bytes(GOOD)
    (tmp_path / "link.toml").symlink_to("own.toml")
    assert expanded(tmp_path / "link.toml").lanes
    os.mkfifo(tmp_path / "pipe.toml")
    for name in ("pipe.toml", "no.toml", "a" * 5000, "~nobody-there/x", "a\0b"):
        with pytest.raises(ValueError, match=r"^--study must be"):
            find_study(name if name[0] == "~" else str(tmp_path / name))
    with pytest.raises(ValueError, match=r"^--study must be"):
        find_study("/dev/zero")
