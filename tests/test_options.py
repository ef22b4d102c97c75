"""One option by itself: its spelling, its limits, its help text."""

from typing import Any

import pytest

from fastanf.config import OPTIONS, TrainConfig, train_option
from fastanf.options import interval


@pytest.mark.parametrize("entry", OPTIONS.values(), ids=lambda entry: entry.name)
def test_spelling_and_parsing_are_inverse(entry: Any) -> None:
    values = [entry.default, *entry.choices]
    values += [(3, 2)] if entry.is_tuple else []
    for value in values:
        assert entry.parse(entry.spell(value)) == value


def test_integers_may_be_written_as_floats() -> None:
    assert train_option("max_timesteps").parse("1e6") == 1_000_000
    assert isinstance(TrainConfig.of(eval_freq=5e3).get("eval_freq"), int)
    assert isinstance(TrainConfig.of(temperature=1).get("temperature"), float)


def test_words_are_read_in_any_case() -> None:
    config = TrainConfig.of(optimizer="maskadam", sparsity_distribution="er")
    assert (config.get("optimizer"), config.get("sparsity_distribution")) == ("MaskAdam", "ER")


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("[0, 1)", (0, 0.5), (-1e-9, 1)),
        ("(0, 1]", (1e-9, 1), (0, 1.1)),
        ("(0, inf)", (1e-9, 1e9), (0, float("inf"), float("nan"))),
    ],
)
def test_intervals_hold_what_their_text_says(text: str, inside: Any, outside: Any) -> None:
    allowed = interval(text)
    assert all(allowed.test(value) for value in inside)
    assert not any(allowed.test(value) for value in outside)
