"""How far each lane came, what went wrong in it, and how settings differ between arms."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastanf.report.collected import LaneRecord, RunRecord
from fastanf.report.merging import ArmRecord, differing_names, settings_that_matter


@dataclass(frozen=True)
class LaneState:
    """One lane as it is now."""

    run: str
    lane: int
    env: str
    noise_fraction: float
    policy: str
    variant: str
    seed: int
    status: str
    """finished, stopped (broken), training, waiting (its block has not been evaluated yet),
    interrupted, failed.
    """
    last_step: int
    """Of its last evaluation; 0 before the first."""
    max_steps: int
    last_return: float
    """Of its last evaluation, which may be nan."""
    num_evaluations: int
    num_lost_evaluations: int
    """Evaluations without a finite return."""
    lost_from_step: int | None
    """The first step from which on no evaluation has a finite return; None if the last one has."""
    num_failures: int
    """Training steps whose simulation broke down."""
    stopped_at: int | None = None
    """Step at which it was stopped; None of a sound lane, as the following."""
    cause: str | None = None
    """What was broken then."""
    checkpoint_step: int | None = None
    """Of the last checkpoint that held it sound; None without one, too."""


def lane_states(runs: Sequence[RunRecord]) -> list[LaneState]:
    """Every lane of every run."""
    return [_state(run, lane) for run in runs for lane in run.lanes]


def _state(run: RunRecord, lane: LaneRecord) -> LaneState:
    is_lost = [not math.isfinite(row.return_mean) for row in lane.evaluations]
    stop = lane.quarantine
    num_trailing = next((k for k, lost in enumerate(reversed(is_lost)) if not lost), len(is_lost))
    return LaneState(
        lane.run,
        lane.number,
        lane.env,
        lane.noise_fraction,
        lane.policy,
        lane.variant,
        lane.seed,
        _status(run, lane),
        lane.last_step,
        lane.max_steps,
        lane.evaluations[-1].return_mean if lane.evaluations else math.nan,
        len(lane.evaluations),
        sum(is_lost),
        lane.evaluations[-num_trailing].step if num_trailing else None,
        lane.num_failures,
        None if stop is None else stop.step,
        None if stop is None else stop.cause,
        None if stop is None or stop.checkpoint_step < 0 else stop.checkpoint_step,
    )


def _status(run: RunRecord, lane: LaneRecord) -> str:
    if lane.quarantine is not None:
        return "stopped"
    if lane.is_finished:
        return "finished"
    if run.status == "running":
        return "training" if lane.evaluations else "waiting"
    return run.status


def shared_settings(lanes: Sequence[LaneRecord]) -> dict[str, Any]:
    """The settings in which every lane agrees."""
    settings = [_all_settings(lane) for lane in lanes]
    differ = set(differing_names(settings)) if settings else set()
    return {name: value for name, value in settings[0].items() if name not in differ}


def differing_settings(records: Sequence[ArmRecord]) -> tuple[list[str], list[Mapping[str, Any]]]:
    """Names of the settings that differ between arms, and each arm's settings that matter to it."""
    settings = [settings_that_matter(record.lanes[0]) for record in records]
    return differing_names(settings), list(settings)


def _all_settings(lane: LaneRecord) -> dict[str, Any]:
    skipped = ("lane", "block", "seed", "policy", "variant")
    return {name: value for name, value in lane.settings.items() if name not in skipped}
