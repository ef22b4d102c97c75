"""The common part of all bench_*.py: options, rounds, the table, JSON and recorded rows.

A benchmark names its points (the sizes of one measured thing) and says how one round of a point is
measured. All points are measured in turn, several rounds, so that a drift of the machine's speed
meets them all; figures are the median over rounds with the 20th and 80th percentile. `--compare`
measures two revisions in the same way, in turn (compare.py).
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

import compare
import references
import result_rows
import workers

from fastanf.cli import complain

Point = dict[str, str | int | float]
"""Sizes of what is measured, by column and in the columns' order; `impl` is the first."""
Figures = dict[str, float]
"""Measured values of one round by metric; the metric's name ends in its unit (result_rows.unit)."""
Round = Callable[[float], Figures]
"""Measures one round of about that many seconds."""

WARM_ROUND_S = 0.2
MACHINE_METRICS = ("peak_gflop_s", "peak_gb_s")
"""Metrics of `Benchmark.machine` that JSON also shows beside the points."""


class Benchmark(Protocol):
    """What a bench_*.py provides, as an explicit subclass: it inherits the defaults below."""

    name: str
    """Of the rows' bench column and of the file in profiling/results."""
    about: str
    """First words of --help."""
    round_s: float = 2.0
    """Default seconds of a round."""
    takes_train_flags: bool = False
    """Whether train.py's flags may be given; else an unknown flag is refused."""
    packages: tuple[str, ...] = ()
    """Distributions whose versions are recorded beside Python's and torch's."""
    device: str = "cpu"
    """Where it was measured; `points` may set it."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add its own options."""

    def points(self, arguments: argparse.Namespace, rest: list[str]) -> list[Point]:
        """Everything to measure, checked, nothing built.

        Args:
            arguments: its own options and the common ones; `serve` is true in a worker of
                --compare, whose fastanf may be an older one.
            rest: train.py's flags.

        Raises:
            ValueError: bad input, in one line.
        """
        ...

    def prepare(self, point: Point) -> Round:
        """Build a point, check it against its reference, warm it up.

        Raises:
            ValueError: it differs from the reference, or cannot be built.
        """
        ...

    def machine(self) -> Figures:
        """Figures of the machine, measured once a round between the points (peak_gflop_s)."""
        return {}

    def derived(self, point: Point, figures: Mapping[str, float]) -> Figures:
        """Figures that follow from a round's measured ones and the machine's."""
        return {}


def main(benchmark: Benchmark, argv: Sequence[str] | None = None) -> int:
    """Measure and show what the arguments ask for.

    Args:
        benchmark: what to measure.
        argv: arguments without the program's name; None for the process's own.

    Returns:
        The exit code.

    Raises:
        SystemExit: code 2 after one line on stderr for anything that is wrong.
    """
    parser = _parser(benchmark)
    typed = list(sys.argv[1:] if argv is None else argv)
    try:
        own, rest = parser.parse_known_args(_normalized(parser, typed))
        if rest and not benchmark.takes_train_flags:
            raise ValueError(f"{rest[0]} is not an option of this script; see --help")
        is_recorded = own.record or own.out is not None
        if is_recorded and own.compare is not None:
            option = "--record" if own.record else "--out"
            raise ValueError(f"{option} must be given without --compare: ratios are not recorded")
        if own.serve:
            return workers.serve(benchmark, own, rest)
        points = _checked_points(benchmark, own, rest)
        if own.compare is not None:
            return _compare(benchmark, own, points, typed)
        if is_recorded:
            result_rows.check(benchmark.name, _columns(points[0]), own.out)
        samples = measure(benchmark, points, own.rounds, own.round_s)
        facts = result_rows.conditions(benchmark.device, benchmark.packages)
        if own.json:
            print(json.dumps(as_json(benchmark, points, samples, facts)))
        else:
            print(as_text(benchmark, points, samples, facts))
        if is_recorded:
            rows = as_rows(benchmark, points, samples, facts)
            result_rows.append(benchmark.name, rows, own.out)
    except ValueError as error:
        complain(str(error))
    except KeyboardInterrupt:
        return 130
    return 0


Samples = dict[str, list[float]]
"""Values over rounds by metric."""


def _compare(
    benchmark: Benchmark, own: argparse.Namespace, points: Sequence[Point], typed: Sequence[str]
) -> int:
    against = references.references(own.compare, benchmark.name, points)
    command = compare.Command(Path(inspect.getfile(type(benchmark))), tuple(typed))
    report = compare.compare(command, points, against, own.rounds, own.round_s)
    facts = result_rows.conditions(benchmark.device, benchmark.packages)
    if own.json:
        print(json.dumps({"bench": benchmark.name, **facts, **report.as_json()}))
    else:
        print(f"{benchmark.name}: {report.as_text()}\n{_facts_text(facts)}")
    return 0


def measure(
    benchmark: Benchmark, points: Sequence[Point], num_rounds: int, round_s: float
) -> list[Samples]:
    """Build all points, then measure them in turn.

    Args:
        benchmark: what to measure.
        points: what it named.
        num_rounds: after a short one that is thrown away.
        round_s: seconds of a point in a round.

    Returns:
        The samples of each point, the machine's and the derived figures included.

    Raises:
        ValueError: as `Benchmark.prepare`.
    """
    rounds = [benchmark.prepare(point) for point in points]
    samples: list[Samples] = [{} for _ in points]
    for index in range(num_rounds + 1):
        result_rows.show_progress(f"round {index} of {num_rounds}")
        machine = benchmark.machine()
        for point, one_round, kept in zip(points, rounds, samples, strict=True):
            figures = one_round(round_s if index else min(round_s, WARM_ROUND_S)) | machine
            figures |= benchmark.derived(point, figures)
            if index:
                for metric, value in figures.items():
                    kept.setdefault(metric, []).append(value)
    result_rows.show_progress("")
    return samples


def as_rows(
    benchmark: Benchmark,
    points: Sequence[Point],
    samples: Sequence[Samples],
    facts: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """One row a point and metric, in the form of profiling/results."""
    return [
        {
            "bench": benchmark.name,
            **point,
            "metric": metric,
            **result_rows.summary(values)._asdict(),
            "unit": result_rows.unit(metric),
            **facts,
        }
        for point, of_point in zip(points, samples, strict=True)
        for metric, values in of_point.items()
    ]


def _columns(point: Point) -> list[str]:
    facts = ("device", "cpu", "threads", "versions", "commit", "date")
    return ["bench", *point, "metric", *result_rows.Summary._fields, "unit", *facts]


def as_json(
    benchmark: Benchmark,
    points: Sequence[Point],
    samples: Sequence[Samples],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """One object: conditions, the machine's medians, and the points with medians and percentiles;
    the medians of an only point stand at the top level too.
    """
    entries = [
        dict(point) | _figures(of_point) for point, of_point in zip(points, samples, strict=True)
    ]
    metrics = samples[0] if len(points) == 1 else set(MACHINE_METRICS) & samples[0].keys()
    top = {metric: result_rows.summary(samples[0][metric]).p50 for metric in sorted(metrics)}
    return {"bench": benchmark.name, **facts, **top, "points": entries}


def _figures(samples: Samples) -> dict[str, float]:
    figures: dict[str, float] = {}
    for metric, values in samples.items():
        low, middle, high = result_rows.summary(values)
        figures |= {metric: middle, f"{metric}_p20": low, f"{metric}_p80": high}
    return figures


def as_text(
    benchmark: Benchmark,
    points: Sequence[Point],
    samples: Sequence[Samples],
    facts: Mapping[str, Any],
) -> str:
    """A table of the points: what is common above it, the conditions below it."""
    common, labels = result_rows.common_and_labels(points)
    metrics = list(dict.fromkeys(metric for of_point in samples for metric in of_point))
    heads = [f"{metric} [{unit}]" if (unit := result_rows.unit(metric)) else metric
             for metric in metrics]  # fmt: skip
    rows = [
        [
            *label.values(),
            *(str(result_rows.summary(of_point[m])) if m in of_point else "" for m in metrics),
        ]
        for label, of_point in zip(labels, samples, strict=True)
    ]
    num_rounds = len(next(iter(samples[0].values())))
    return "\n".join(
        [
            f"{benchmark.name}: {common}".rstrip(": "),
            result_rows.text_table([*labels[0], *heads], rows),
            f"medians of {num_rounds} rounds (p20..p80); {_facts_text(facts)}",
        ]
    )


def _facts_text(facts: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value}" if name in ("threads", "commit") else str(value)
        for name, value in facts.items()
    )


class ArgumentParser(argparse.ArgumentParser):
    """Whose errors are values that are wrong, for the caller to say in one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parser(benchmark: Benchmark) -> argparse.ArgumentParser:
    flags = " Takes train.py's flags too." if benchmark.takes_train_flags else ""
    parser = ArgumentParser(description=benchmark.about + flags, allow_abbrev=False)
    benchmark.add_arguments(parser)
    common = parser.add_argument_group("all benchmarks")
    common.add_argument(
        "--rounds", type=positive_int, default=9, metavar="N", help="rounds [default 9]"
    )
    common.add_argument(
        "--round_s",
        type=positive_float,
        default=benchmark.round_s,
        metavar="X",
        help=f"seconds of a point in a round [default {benchmark.round_s:g}]",
    )
    common.add_argument("--json", action="store_true", help="print one JSON object")
    common.add_argument(
        "--record",
        action="store_true",
        help=f"append rows to profiling/results/{benchmark.name}.csv",
    )
    common.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help=f"append rows to {benchmark.name}.csv in another folder",
    )
    common.add_argument(
        "--compare",
        metavar="REF",
        help="ratios to a git revision, or to an earlier .csv of rows, pair by pair in one run",
    )
    common.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser


def _normalized(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> list[str]:
    """Own options in their own spelling: dashes, underscores and case make no difference."""
    own = {
        option.lstrip("-").replace("-", "_"): option
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--")
    }
    tokens = []
    for token in arguments:
        name, is_joined, value = token.partition("=")
        plain = name[2:].replace("-", "_").lower() if name.startswith("--") else ""
        tokens.append(f"{own[plain]}{is_joined}{value}" if plain in own else token)
    return tokens


def _checked_points(benchmark: Benchmark, own: argparse.Namespace, rest: list[str]) -> list[Point]:
    points = benchmark.points(own, rest)
    assert points and all(list(point) == list(points[0]) for point in points), "unequal columns"
    return points


def positive_int(text: str) -> int:
    """An option's value that is an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return int(text)


def positive_float(text: str) -> float:
    """An option's value that is a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return value
