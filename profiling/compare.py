"""Ratios to an earlier revision, measured pair by pair in one run, and to recorded rows.

    --compare HEAD~1             this tree against a revision
    --compare earlier.csv        against the revision that the rows of the same sizes were measured
                                 at, in this run; the recorded medians stand beside it

Two processes, one a tree, take turns: this, other, other, this, ... A recorded median is of another
run, perhaps of another machine, so its ratio is shown but proves little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ratios
import result_rows
import revisions
from references import Reference
from workers import Side, Worker

if TYPE_CHECKING:
    from benchmark import Figures, Point

WARM_ROUND_S = 0.2


@dataclass(frozen=True)
class Command:
    """The measuring script as it was called."""

    script: Path
    arguments: tuple[str, ...]


def compare(
    command: Command,
    points: Sequence[Point],
    against: Sequence[Reference],
    num_rounds: int,
    round_s: float,
) -> Report:
    """Measure this tree and the others in turn.

    Args:
        command: the measuring script.
        points: what it measures.
        against: from `references`.
        num_rounds: pairs of rounds.
        round_s: seconds of a round.

    Raises:
        ValueError: a tree cannot be built or measured.
    """
    arguments = _without_compare(command.arguments)
    trees = [revisions.tree(one.commit) if one.commit else None for one in against]
    this = Worker("this tree", revisions.ROOT, command.script, arguments)
    comparisons = []
    try:
        for reference, tree in zip(against, trees, strict=True):
            other = None if tree is None else Worker(
                reference.label, tree, command.script, arguments
            )  # fmt: skip
            try:
                if other is not None:
                    _check_same_points(this.points, other.points, reference.label)
                sides = [this] if other is None else [this, other]
                measured = measure_turns(sides, reference.indices, num_rounds, round_s)
                impls = [str(p["impl"]) for p in other.points] if other is not None else []
            finally:
                if other is not None:
                    other.close()
            for index in reference.indices:
                impl = impls[index] if impls else ""
                comparisons.append(
                    Comparison(points[index], reference, index, measured[index], impl)
                )
    finally:
        this.close()
    compared = {comparison.index for comparison in comparisons}
    left_out = [point for index, point in enumerate(points) if index not in compared]
    return Report(comparisons, left_out)


def measure_turns(
    sides: Sequence[Side], indices: Sequence[int], num_rounds: int, round_s: float
) -> dict[int, list[tuple[Figures, ...]]]:
    """Rounds of every point by every side, who goes first alternating.

    Returns:
        By point: for each round the figures of the sides, in the order of `sides`.
    """
    for side in sides:
        for index in indices:
            side.prepare(index)
    measured: dict[int, list[tuple[Figures, ...]]] = {index: [] for index in indices}
    for number in range(num_rounds + 1):
        result_rows.show_progress(f"pair {number} of {num_rounds}")
        for index in indices:
            figures: dict[int, Figures] = {}
            turns = list(enumerate(sides))
            for position, side in turns if number % 2 else reversed(turns):
                figures[position] = side.measure(
                    index, round_s if number else min(round_s, WARM_ROUND_S)
                )
            if number:
                measured[index].append(tuple(figures[i] for i in range(len(sides))))
    result_rows.show_progress("")
    return measured


@dataclass(frozen=True)
class Comparison:
    """One point, measured in this tree and, where there is one, in the other."""

    point: Point
    reference: Reference
    index: int
    rounds: list[tuple[Figures, ...]]
    other_impl: str = ""

    @property
    def pairs(self) -> list[ratios.Pair]:
        """Empty where the other tree was not measured."""
        return [(pair[0], pair[1]) for pair in self.rounds if len(pair) == 2]

    @property
    def metrics(self) -> list[ratios.Ratio]:
        return ratios.ratios(self.pairs) if self.pairs else []

    @property
    def stages(self) -> ratios.StageChanges | None:
        return ratios.stage_changes(self.pairs) if self.pairs else None

    @property
    def recorded(self) -> dict[str, tuple[float, float]]:
        """Recorded median, and this run's median by it, by metric."""
        found = {}
        for metric, median in self.reference.recorded.get(self.index, {}).items():
            values = [figures[0][metric] for figures in self.rounds if metric in figures[0]]
            if values and median:
                found[metric] = (median, result_rows.summary(values).p50 / median)
        return found

    def as_json(self) -> dict[str, Any]:
        """Ratios, stages and recorded medians."""
        entry: dict[str, Any] = {**self.point, "reference": self.reference.label}
        for one in self.metrics:
            low, middle, high = one.ratio
            entry[one.metric] = {"this": one.this.p50, "reference": one.other.p50,
                                 "ratio": middle, "ratio_p20": low, "ratio_p80": high}  # fmt: skip
        for metric, (median, ratio) in self.recorded.items():
            entry.setdefault(metric, {}).update(recorded=median, ratio_to_recorded=ratio)
        if (changes := self.stages) is not None:
            entry["stages"] = {
                change.stage: {"this_ms": change.this_ms.p50, "reference_ms": change.other_ms.p50,
                               "change_ms": change.change_ms.p50, "share": change.share}
                for change in changes.stages
            }  # fmt: skip
            entry["verdict"] = changes.sentence()
        return entry

    def as_text(self, label: str) -> str:
        """The table of ratios, that of the stages and the verdict."""
        num_pairs = len(self.pairs)
        name = self.reference.label
        lines = [label] if label else []
        if self.pairs:
            rows = [[m.metric, str(m.this), str(m.other), str(m.ratio)] for m in self.metrics]
            head = ["", "this tree", name, f"ratio, of {num_pairs} pairs (p20..p80)"]
            lines.append(result_rows.text_table(head, rows))
            if self.other_impl != self.point["impl"]:
                lines.append(f"{name} computes with {self.other_impl}")
        if self.recorded:
            rows = [[m, f"{median:g}", f"{r:.3g}"] for m, (median, r) in self.recorded.items()]
            head = ["of another run", f"recorded at {name}", "this run by it"]
            lines.append(result_rows.text_table(head, rows))
            lines.append(f"recorded with: {self.reference.recorded_at}")
            if not self.pairs:
                lines.append(
                    f"the repository has no commit {name}, so that pairs were not measured"
                )
        changes = self.stages
        if changes is not None:
            lines += [_stage_table(changes), changes.sentence()]
        elif self.pairs and any(ratios.is_stage(metric) for metric in self.pairs[0][0]):
            lines.append(f"{name} names no stages: nothing says where the difference arises")
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    """All comparisons of one command."""

    comparisons: list[Comparison]
    left_out: list[Point]
    """Points that the CSV has no rows of."""

    def as_json(self) -> dict[str, Any]:
        """One object."""
        return {
            "points": [comparison.as_json() for comparison in self.comparisons],
            "left_out": self.left_out,
        }

    def as_text(self) -> str:
        """To be read; the first line is what all points share."""
        common, labels = result_rows.common_and_labels([c.point for c in self.comparisons])
        parts = [common]
        for comparison, label in zip(self.comparisons, labels, strict=True):
            parts.append(comparison.as_text(", ".join(f"{k} {v}" for k, v in label.items() if v)))
        if self.left_out:
            parts.append(f"left out, because no row has their sizes: {len(self.left_out)} points")
        return "\n\n".join(parts)


def _stage_table(changes: ratios.StageChanges) -> str:
    rows = []
    for change in changes.stages:
        low, middle, high = change.change_ms
        rows.append(
            [
                change.stage,
                f"{change.this_ms.p50:.3g}",
                f"{change.other_ms.p50:.3g}",
                "" if change.ratio is None else f"{change.ratio:.3g}",
                f"{middle:+.3g} ({low:+.3g}..{high:+.3g})",
                f"{change.share:.0%}",
            ]
        )
    head = ["ms a step", "this tree", "reference", "ratio", "change (p20..p80)", "of the change"]
    return result_rows.text_table(head, rows)


def _check_same_points(this: Sequence[Point], other: Sequence[Point], label: str) -> None:
    """The same sizes, whatever computes them."""
    for one, two in zip(this, other, strict=False):
        for name in one.keys() & two.keys() - {"impl"}:
            if one[name] != two[name]:
                raise ValueError(
                    f"--compare: {name} is {one[name]!r} in this tree and {two[name]!r} in {label} "
                    "by the same flags: give it explicitly"
                )
    if len(this) != len(other):
        raise ValueError(f"--compare: {label} makes other points of the same flags")


def _without_compare(arguments: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for argument in arguments:
        is_compare = argument.lower() == "--compare"
        if not (skip or is_compare or argument.lower().startswith("--compare=")):
            kept.append(argument)
        skip = is_compare
    return kept
