"""What pairs of rounds of two trees say: ratios, and which stage is to thank or to blame.

A pair is one round of this tree and one of the other, measured one after the other, so that a drift
of the machine's speed meets both. Ratios and differences are taken within pairs; their median and
percentiles over the pairs are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from result_rows import Summary, summary

STAGE_PREFIX, STAGE_SUFFIX = "stage:", "_ms"
NOTABLE_SHARE = 0.2
"""A stage with that share of the change is named beside the first, of which there are at most"""
MOST_NAMED = 3

Pair = tuple[Mapping[str, float], Mapping[str, float]]
"""Figures of this tree and of the other."""


class Ratio(NamedTuple):
    """A metric of two trees."""

    metric: str
    this: Summary
    other: Summary
    ratio: Summary
    """this / other within pairs."""


class StageChange(NamedTuple):
    """A stage's time in two trees, milliseconds a training step."""

    stage: str
    this_ms: Summary
    other_ms: Summary
    change_ms: Summary
    """this - other within pairs."""
    share: float
    """Median change by the median change of the whole; 0 where the whole is unchanged."""

    @property
    def ratio(self) -> float | None:
        """Of the medians; None where the other tree has no such stage."""
        return self.this_ms.p50 / self.other_ms.p50 if self.other_ms.p50 else None


class StageChanges(NamedTuple):
    """All stages, the largest change first."""

    stages: list[StageChange]
    whole_ms: Summary
    """Change of their sum."""
    whole_share: float
    """That change by what the other tree takes, medians."""

    def sentence(self) -> str:
        """The stages that made the difference, in words."""
        low, middle, high = self.whole_ms
        if low <= 0 <= high:
            return (
                f"no change beyond the spread of the rounds: a step takes {middle:+.3g} ms "
                f"({low:.3g}..{high:.3g})"
            )
        direction, more = ("slower", "more") if middle > 0 else ("faster", "less")
        alike = [change for change in self.stages if change.share > 0]
        named = [change for change in alike[1:] if change.share >= NOTABLE_SHARE]
        words = [
            f"{change.stage} takes {abs(change.change_ms.p50):.3g} ms {more} "
            f"({_magnitudes(change.change_ms)}), {change.share:.0%} of the change"
            for change in [*alike[:1], *named][:MOST_NAMED]
        ]
        return f"{direction} by {abs(self.whole_share):.1%}: {'; '.join(words)}"


def _magnitudes(change_ms: Summary) -> str:
    ends = (change_ms.p20, change_ms.p80)
    if change_ms.p50 < 0:
        ends = (-change_ms.p80, -change_ms.p20)
    return f"{ends[0]:.3g}..{ends[1]:.3g}"


def ratios(pairs: Sequence[Pair]) -> list[Ratio]:
    """The ratio of each metric that both trees have, stages and zeros aside."""
    shared = [
        name
        for name in pairs[0][0]
        if not is_stage(name) and all(other.get(name) for _, other in pairs)
    ]
    return [
        Ratio(
            name,
            summary([this[name] for this, _ in pairs]),
            summary([other[name] for _, other in pairs]),
            summary([this[name] / other[name] for this, other in pairs]),
        )
        for name in shared
    ]


def is_stage(metric: str) -> bool:
    """Whether a metric is a stage's time."""
    return metric.startswith(STAGE_PREFIX)


def stage_changes(pairs: Sequence[Pair]) -> StageChanges | None:
    """Changes of the stages' times; None where one of the trees names no stages.

    A stage that only one tree has, or that does not occur in a round, counts as 0 ms there.
    """
    if not all(any(map(is_stage, figures)) for pair in pairs for figures in pair):
        return None
    names = dict.fromkeys(
        name for pair in pairs for figures in pair for name in figures if is_stage(name)
    )
    whole_ms = summary([sum(_change(pair, name) for name in names) for pair in pairs])
    other_ms = summary([sum(other.get(name, 0.0) for name in names) for _, other in pairs])
    changes = []
    for name in names:
        change_ms = summary([_change(pair, name) for pair in pairs])
        changes.append(
            StageChange(
                name.removeprefix(STAGE_PREFIX).removesuffix(STAGE_SUFFIX),
                summary([this.get(name, 0.0) for this, _ in pairs]),
                summary([other.get(name, 0.0) for _, other in pairs]),
                change_ms,
                change_ms.p50 / whole_ms.p50 if whole_ms.p50 else 0.0,
            )
        )
    changes.sort(key=lambda change: (-change.share, -abs(change.change_ms.p50)))
    return StageChanges(changes, whole_ms, whole_ms.p50 / other_ms.p50)


def _change(pair: Pair, name: str) -> float:
    this, other = pair
    return this.get(name, 0.0) - other.get(name, 0.0)
