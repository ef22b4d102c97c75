"""A benchmark, figures and rows that are given, for tests of what is made of them."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Mapping
from pathlib import Path

import benchmark
from benchmark import Figures, Point, Round


class FakeBenchmark(benchmark.Benchmark):
    """Points of 1 and 8 lanes; each round returns the next of the given rates times the lanes."""

    name = "fake"
    about = "Nothing."

    def __init__(self, rates: tuple[float, ...] = (5.0, 1.0, 2.0, 3.0), lanes: tuple = (1, 8)):
        self.rates, self.lanes = rates, lanes
        self.seconds: list[float] = []
        self.rest: list[str] = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--how_often", type=benchmark.positive_int, default=1)

    def points(self, arguments: argparse.Namespace, rest: list[str]) -> list[Point]:
        self.rest, self.how_often = rest, arguments.how_often
        return [{"impl": "plain", "env": "Small-v0", "lanes": count} for count in self.lanes]

    def prepare(self, point: Point) -> Round:
        rates = iter(self.rates)

        def one_round(seconds: float) -> Figures:
            self.seconds.append(seconds)
            return {"lane_updates_per_s": next(rates) * int(point["lanes"])}

        return one_round

    def machine(self) -> Figures:
        return {"peak_gflop_s": 100.0}

    def derived(self, point: Point, figures: Mapping[str, float]) -> Figures:
        return {"work_share": figures["lane_updates_per_s"] / figures["peak_gflop_s"]}


class FakeSide:
    """One side of a comparison; `figures(index)` are those of its next round."""

    def __init__(self, name: str, figures: Callable[[int], Figures], log: list[str]):
        self.name, self.figures, self.log = name, figures, log

    def prepare(self, index: int) -> None:
        self.log.append(f"build {self.name}{index}")

    def measure(self, index: int, seconds: float) -> Figures:
        self.log.append(f"{self.name}{index}")
        return self.figures(index)


POINTS: list[Point] = [
    {"impl": "plain", "env": "Small-v0", "lanes": 1},
    {"impl": "plain", "env": "Small-v0", "lanes": 8},
]
STAGES_MS = {"target": 2.0, "critic optimizer": 3.0, "sample": 1.0, "other": 0.5}


def stage_figures(**slower_ms: float) -> dict[str, float]:
    """Figures of one round in which some stages take longer (names with _ for spaces)."""
    times = {k: v + slower_ms.get(k.replace(" ", "_"), 0.0) for k, v in STAGES_MS.items()}
    stages = {f"stage:{name}_ms": ms for name, ms in times.items()}
    return {"lane_updates_per_s": 1000 / sum(times.values()), **stages}


def csv_file(path: Path, *changes: dict[str, object]) -> Path:
    """Rows of the first point with some fields changed."""
    row = {
        "bench": "fake", **POINTS[0], "metric": "lane_updates_per_s", "p20": 1.0, "p50": 2.0,
        "p80": 3.0, "unit": "1/s", "device": "cpu", "cpu": "C", "threads": 2, "versions": "v",
        "commit": "unknown", "date": "2020-01-01",
    }  # fmt: skip
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerows([{**row, **change} for change in changes])
    return path
