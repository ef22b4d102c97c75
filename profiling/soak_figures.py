"""What a soak saw (soak.py), and the figures that follow: how memory, threads and files grow.

A *stretch* is what one process trained of one block. Growth within it is a line's slope by least
squares, once for each stretch and once for all together (one slope, every stretch at its own
height). *Late* growth is that of its second half: what a first evaluation takes is there for good
then. Growth across processes is the slope of what they had when they were warm, against time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

SHORTEST_S = 60.0
"""A slope of its own has a stretch that was watched so long."""
_H_PER_S = 1 / 3600


class Sample(NamedTuple):
    """One look at a process and its run folder."""

    run: str
    """soak, or reference: that which is never killed."""
    soak_s: float
    process: int
    """Counted from 1 in each run."""
    age_s: float
    trained_s: float
    """Since its first look at a checkpoint of its own of this block; -1 before."""
    block: int
    step: int
    """Lock steps after the random ones that the newest checkpoint knows."""
    rss_mib: float
    peak_mib: float
    threads: int
    files: int
    checkpoints: int
    folder_mib: float


class Kill(NamedTuple):
    """One end that a process was given."""

    soak_s: float
    process: int
    age_s: float
    signal: str
    phase: str
    """starting (it did not have the folder yet), no checkpoint, saving, or training."""
    block: int
    step: int
    lost_s: float
    """Time of the process that no checkpoint keeps."""


Line = tuple[Sequence[float], Sequence[float]]
"""Times in seconds, and values."""
Stretches = Mapping[tuple[str, int, int], Sequence[Sample]]
"""Warm samples by run, process and block."""


def warm_stretches(samples: Iterable[Sample], warm_s: float) -> Stretches:
    """Samples from `warm_s` after a process's first checkpoint of a block on."""
    stretches: dict[tuple[str, int, int], list[Sample]] = {}
    for sample in samples:
        if sample.trained_s >= warm_s:
            stretches.setdefault((sample.run, sample.process, sample.block), []).append(sample)
    return stretches


def slope(times_s: Sequence[float], values: Sequence[float]) -> float:
    """Growth an hour, by least squares; nan where the times do not differ."""
    return common_slope([(times_s, values)])


def common_slope(lines: Iterable[Line]) -> float:
    """The slope an hour that all lines share, each at a height of its own: sum of products over
    sum of squares of the times, both about each line's own means; nan where no times differ.
    """
    products = squares = 0.0
    for times_s, values in lines:
        times = np.asarray(times_s, dtype=float) * _H_PER_S
        centred = times - times.mean()
        products += float(centred @ np.asarray(values, dtype=float))
        squares += float(centred @ centred)
    return products / squares if squares > 0 else float("nan")


def memory_figures(stretches: Stretches) -> dict[str, list[float]]:
    """Values by metric, one a stretch or one in all.

    Args:
        stretches: of one run.
    """
    every = [list(stretch) for stretch in stretches.values()]
    if not every:
        return {}
    lines = [([s.soak_s for s in stretch], [s.rss_mib for s in stretch]) for stretch in every]
    long = [line for line in lines if line[0][-1] - line[0][0] >= SHORTEST_S]
    figures = {
        "rss_start_mib": [stretch[0].rss_mib for stretch in every],
        "rss_end_mib": [stretch[-1].rss_mib for stretch in every],
        "rss_peak_mib": [stretch[-1].peak_mib for stretch in every],
        "rss_growth_within_mib_per_h": [common_slope(lines)],
        "rss_growth_late_mib_per_h": [common_slope(map(_second_half, long))],
        "rss_growth_of_each_mib_per_h": [slope(*line) for line in long],
        "rss_growth_across_mib_per_h": [_across(every)],
        "threads_count": [float(s.threads) for stretch in every for s in stretch],
        "files_count": [float(s.files) for stretch in every for s in stretch],
        "files_growth_count": [float(stretch[-1].files - stretch[0].files) for stretch in every],
    }
    finite = {name: [v for v in values if np.isfinite(v)] for name, values in figures.items()}
    return {name: values for name, values in finite.items() if values}


def _second_half(line: Line) -> Line:
    times, values = line
    return times[len(times) // 2 :], values[len(values) // 2 :]


def _across(stretches: Sequence[Sequence[Sample]]) -> float:
    """Growth of the first warm sample, each block at a height of its own."""
    blocks: dict[int, list[Sample]] = {}
    for stretch in stretches:
        blocks.setdefault(stretch[0].block, []).append(stretch[0])
    return common_slope(
        ([s.soak_s for s in firsts], [s.rss_mib for s in firsts]) for firsts in blocks.values()
    )


def kill_figures(kills: Sequence[Kill]) -> dict[str, list[float]]:
    """How many processes were killed, where, and what that lost; SIGTERM is no kill."""
    killed = [kill for kill in kills if kill.signal == "SIGKILL"]
    phases = [kill.phase for kill in killed]
    figures = {"kills_count": [float(len(killed))]}
    for phase in sorted(set(phases)):
        figures[f"kills_while_{phase.replace(' ', '_')}_count"] = [float(phases.count(phase))]
    return figures | ({"lost_s": [kill.lost_s for kill in killed]} if killed else {})


def folder_figures(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """The disk's share: most bytes of the folder and most checkpoints in it at any sample."""
    return {
        "folder_mib": [sample.folder_mib for sample in samples],
        "folder_most_mib": [max(sample.folder_mib for sample in samples)],
        "checkpoints_most_count": [float(max(sample.checkpoints for sample in samples))],
    }
