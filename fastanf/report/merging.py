"""Lanes of several runs sorted into arms: those that differ only in their seed are one.

Arms are of one task (environment, noise fraction), policy and variant. Lanes of different runs
share an arm if all their settings other than the seed agree; else the arms are told apart by the
names of their runs. Of two such lanes with the same seed one alone counts: the other says nothing
new, and an interval over both would be too narrow.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastanf.config import idle_names
from fastanf.report.arms import Arm, Lane
from fastanf.report.collected import LaneRecord, RunRecord
from fastanf.report.phrases import setting_text

NOT_SETTINGS = frozenset({"lane", "block", "seed", "policy", "variant", "env", "noise_fraction"})
"""Columns of lanes.csv that say which lane it is, not how it trains."""
MACHINE = ("device", "kernels", "commit", "versions")
"""Entries of a manifest that may change a merged arm's numbers."""

_Key = tuple[str, float, str, str]


@dataclass(frozen=True, eq=False)
class ArmRecord:
    """An arm with the records of its lanes, in the same order."""

    arm: Arm
    lanes: tuple[LaneRecord, ...]

    @property
    def stopped(self) -> list[LaneRecord]:
        """Its lanes that were stopped."""
        return [lane for lane in self.lanes if lane.quarantine is not None]

    @property
    def has_returns(self) -> bool:
        """Whether any lane has a finite return."""
        return bool(np.isfinite(self.arm.returns).any())


def collect_arms(runs: Sequence[RunRecord]) -> tuple[list[ArmRecord], list[str]]:
    """All arms in the order of their first lanes, and notes on what was merged or left out."""
    keys: dict[_Key, dict[str, list[LaneRecord]]] = {}
    for lane in (lane for run in runs for lane in run.lanes):
        key = (lane.env, lane.noise_fraction, lane.policy, lane.variant)
        identity = json.dumps(settings_that_matter(lane), sort_keys=True, default=str)
        keys.setdefault(key, {}).setdefault(identity, []).append(lane)
    arms, notes = [], []
    for key, groups in keys.items():
        suffixes = _suffixes(list(groups.values()))
        for suffix, group in zip(suffixes, groups.values(), strict=True):
            variant = ", ".join(part for part in (key[3], suffix) if part)
            kept, left_out = _one_of_each_seed(group)
            arms.append(_arm(key, variant, kept, is_named=len(runs) > 1))
            notes += [_twice_note(arms[-1], lane) for lane in left_out]
    return arms, [*_merge_notes(runs, arms), *notes]


def settings_that_matter(lane: LaneRecord) -> dict[str, Any]:
    """How the lane trains: its settings without those that make no difference to it."""
    idle = idle_names(lane.config) if lane.config is not None else frozenset()
    skipped = NOT_SETTINGS | idle
    return {name: value for name, value in lane.settings.items() if name not in skipped}


def differing_names(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings in which not all agree, in the order of the first that has them."""
    names = dict.fromkeys(name for each in settings for name in each)
    absent = object()
    return [
        name
        for name in names
        if any(each.get(name, absent) != settings[0].get(name, absent) for each in settings)
    ]


def _suffixes(groups: Sequence[Sequence[LaneRecord]]) -> list[str]:
    """What tells arms of one name apart: their runs, and where these do not, their settings."""
    if len(groups) == 1:
        return [""]
    suffixes = [" + ".join(dict.fromkeys(lane.run for lane in group)) for group in groups]
    if len(set(suffixes)) == len(suffixes):
        return suffixes
    settings = [settings_that_matter(group[0]) for group in groups]
    names = differing_names(settings)
    told = [
        ",".join(f"{name}={setting_text(each[name])}" for name in names if name in each)
        for each in settings
    ]
    if len(set(suffixes)) == 1:
        return told
    return [", ".join(pair) for pair in zip(suffixes, told, strict=True)]


def _one_of_each_seed(
    group: Sequence[LaneRecord],
) -> tuple[list[LaneRecord], list[LaneRecord]]:
    """The lanes that count, and those whose seed a lane that came further has too."""
    best: dict[int, LaneRecord] = {}
    for lane in group:
        if lane.seed not in best or lane.last_step > best[lane.seed].last_step:
            best[lane.seed] = lane
    kept = list(best.values())
    return kept, [lane for lane in group if lane not in kept]


def _arm(key: _Key, variant: str, lanes: Sequence[LaneRecord], is_named: bool) -> ArmRecord:
    steps = sorted({row.step for lane in lanes for row in lane.evaluations})
    returns = np.full((len(lanes), len(steps)), np.nan)
    for returns_of_lane, lane in zip(returns, lanes, strict=True):
        for row in lane.evaluations:
            returns_of_lane[steps.index(row.step)] = row.return_mean
    returns[~np.isfinite(returns)] = np.nan
    names: tuple[Lane, ...] = tuple(
        (lane.run, lane.number) if is_named else lane.number for lane in lanes
    )
    env, noise_fraction, policy, _ = key
    arm = Arm(env, noise_fraction, policy, variant, names, np.array(steps, dtype=np.int64), returns)
    return ArmRecord(arm, tuple(lanes))


def _twice_note(record: ArmRecord, lane: LaneRecord) -> str:
    return (
        f"{record.arm.label}: lane {lane.number} of {lane.run} is left out, because another lane "
        f"has its settings and its seed {lane.seed} too"
    )


def _merge_notes(runs: Sequence[RunRecord], arms: Sequence[ArmRecord]) -> list[str]:
    manifests = {run.name: run.manifest for run in runs}
    notes = []
    for record in arms:
        names = list(dict.fromkeys(lane.run for lane in record.lanes))
        if len(names) < 2:
            continue
        differ = differing_names(
            [{name: manifests[run].get(name) for name in MACHINE} for run in names]
        )
        said = f", which differ in {' and '.join(differ)}" if differ else ""
        notes.append(f"{record.arm.label}: lanes of {', '.join(names)} are one arm{said}")
    return list(dict.fromkeys(notes))
