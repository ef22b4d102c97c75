"""What the fuzz tests share: how many inputs they try, odd values, and what a good refusal is.

In CI the inputs are the same each time. A longer campaign draws new ones, N times as many, and
tells how they ended:

    FASTANF_FUZZ=100 python -m pytest tests/fuzz --hypothesis-show-statistics
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, currently_in_test_context, event, settings
from hypothesis import strategies as st

from fastanf.config import ALIASES, OPTIONS, RUN_OPTIONS
from fastanf.options import Option

CAMPAIGN = int(os.environ.get("FASTANF_FUZZ", "0"))
"""How many times as many inputs as in CI; 0 in CI."""
ALL_OPTIONS: dict[str, Option] = OPTIONS | RUN_OPTIONS
MOST_OF_A_LINE = 2000
"""Characters of an error; a value of a million is not repeated."""


_HEALTH_CHECKS = (
    HealthCheck.too_slow,
    HealthCheck.filter_too_much,
    HealthCheck.data_too_large,
    HealthCheck.function_scoped_fixture,  # of folders, which every input leaves empty
)


def tries(number: int, *, is_slow: bool = False) -> settings:
    """Settings of a test that tries that many inputs in CI.

    Args:
        number: of inputs.
        is_slow: whether one takes so long that a failing one is not made smaller.
    """
    return settings(
        phases=[Phase.generate] if is_slow else list(Phase),
        max_examples=number * max(1, CAMPAIGN),
        derandomize=not CAMPAIGN,
        deadline=None,
        database=None,
        suppress_health_check=_HEALTH_CHECKS,
    )


def sizes(*numbers: int) -> Sequence[int]:
    """Those numbers for loops without hypothesis, as many times as the campaign is long."""
    return [number * max(1, CAMPAIGN) for number in numbers]


def outcome(action: Callable[[], Any]) -> tuple[Any, str]:
    """What an action returns and an empty text, or None and the one line that refuses it.

    Anything else than a ValueError of one short line fails the test.
    """
    try:
        result = action()
    except ValueError as error:
        message = str(error)
        check_line(message)
        _count("refused")
        return None, message
    _count("accepted")
    return result, ""


def command_outcome(action: Callable[[], Any]) -> tuple[Any, str]:
    """As `outcome`, of a command: it ends with code 2 after one line on stderr."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            result = action()
    except SystemExit as ended:
        if ended.code == 0:  # --help
            _count("help")
            return None, "help"
        message = err.getvalue()
        assert ended.code == 2, message
        assert message.startswith("fastanf: error: ") and message.endswith("\n"), message
        check_line(message[:-1])
        _count("refused")
        return None, message[:-1]
    _count("accepted")
    return result, ""


def _count(ending: str) -> None:
    if currently_in_test_context():
        event(ending)


def check_line(message: str) -> None:
    """One line, not long, and of characters that print."""
    assert message and message.isprintable(), message
    assert len(message) <= MOST_OF_A_LINE, f"{len(message)} characters: {message[:300]}"


def names_of(entry: Option) -> list[str]:
    """Every name that a message may call an option by, in small letters."""
    return [name.lower() for name in (entry.name, *entry.aliases)]


def says_which(message: str, entry: Option) -> bool:
    """Whether a message names the option, by any of its names and with any dashes."""
    text = message.lower().replace("-", "_")
    return any(name in text for name in names_of(entry))


# --- values ---------------------------------------------------------------------------------------

ODD_TEXTS = (
    "", " ", "\t", "nan", "NaN", "inf", "-inf", "Infinity", "-0.0", "0", "-1", "1", "2", "64",
    "0.5", "1e308", "-1e308", "1e309", "1e-320", "-1e-9", "1e30", "1.0000001e30", "1e12",
    "1000000000001", "1_000", "1__0", "0x10", "1e", "e5", "-", "--", "+5", " 5 ", "5 5", "1,5",
    "\u0663", "\u00b2", "\u00bd", "none", "null", "None", "true", "TRUE", "yes", "no", "false",
    "on", "64x64", "x", "64x", "x64", "1x1x1", "0x0", "1e3x2", "-3x4", "nanx1", "9" * 5000,
    "1" * 400, "256x" * 200 + "256", "[", "{}", "[1, 2]", "../..", "~", "~nobody/x", "/dev/zero",
    "%s%n", "{0}", "\x00", "a\x00b", "a\nb", "a\rb", "\x1b[31m", "\u202eabc", "\ud800",
    "\uff28opper", "\u00e9" * 300, "SAC", "sac", "ANF-SAC", "td3", "cpu", "cuda:99", "Hopper-v3",
    "hopper-v3", "csr", "=", "a=b", ",", ",,", "'", '"', "\\",
)  # fmt: skip

ODD_NUMBERS = (
    0, -0.0, 1, -1, 2, 3, 100, 1e-320, 1e-300, -1e-9, 0.5, 1.0, 0.999999999999, 1e308, -1e308,
    1e30, float("nan"), float("inf"), float("-inf"), 10**6, 10**7, 10**12, 10**12 + 1, 2**31,
    2**53 + 1, 2**63, 10**18, 10**30, -(10**30), 10**400,
)  # fmt: skip


def texts(entry: Option) -> st.SearchStrategy[str]:
    """What may be typed for an option: good values, odd ones and anything."""
    good = [entry.spell(entry.default), *entry.choices]
    return st.one_of(
        st.sampled_from(good),
        st.sampled_from(ODD_TEXTS),
        st.integers(-3, 300).map(str),
        st.floats(0, 1).map(repr),
        st.floats().map(repr),
        st.integers().map(str),
        st.text(max_size=8),
        st.lists(st.integers(0, 40), min_size=1, max_size=4).map(lambda v: "x".join(map(str, v))),
    )


# Python refuses to write numbers of more than 4300 digits, so that no list here may hold one.
TOO_LONG = st.integers(4300, 9000).map(lambda digits: -(10**digits))
SCALARS = st.one_of(
    TOO_LONG,
    st.sampled_from(ODD_NUMBERS),
    st.sampled_from(ODD_TEXTS),
    st.booleans(),
    st.none(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=3),
    st.dates(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=5,
)


def good_values(entry: Option) -> st.SearchStrategy[Any]:
    """Values of an option's type, most of them allowed."""
    if entry.choices:
        return st.sampled_from(entry.choices)
    if entry.is_tuple and entry.item is int:
        return st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple)
    if entry.is_tuple:
        return st.just(entry.default) | st.lists(st.floats(-2, 2), max_size=4).map(tuple)
    if entry.item is bool:
        return st.booleans()
    if entry.item is str:
        return st.just(entry.default)
    if entry.item is int:
        return (
            st.just(entry.default) | st.integers(1, 200) | st.sampled_from([10**6, 10**9, 10**12])
        )
    return st.just(entry.default) | st.floats(0.01, 0.95) | st.sampled_from([0.0, 1e-9, 1.0, 1e30])


def spellings(entry: Option) -> st.SearchStrategy[str]:
    """How an option's flag may be typed."""
    return st.sampled_from([entry.name, *entry.aliases]).flatmap(
        lambda name: st.sampled_from(
            [f"--{name}", f"--{name.replace('_', '-')}", f"--{name.upper()}", f"--{name.title()}"]
        )
    )


def settings_of(names: Sequence[str], most: int = 6) -> st.SearchStrategy[dict[str, Any]]:
    """A few options with values that are mostly good."""
    chosen = st.lists(st.sampled_from(list(names)), max_size=most, unique=True)
    return chosen.flatmap(
        lambda some: st.fixed_dictionaries({name: good_values(ALL_OPTIONS[name]) for name in some})
    )


assert set(ALIASES.values()) <= set(ALL_OPTIONS)
