"""The answer of a study in numbers: final returns, what was published, and who beats whom.

Final return of a lane: the mean of the last tenth of its arm's evaluations (`final_mean`). A lane
that lacks one of these, or whose return there is not finite, has none; it is left out and counted.
Intervals: 95% stratified bootstrap over lanes (bootstrap.py), from three lanes on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastanf.bootstrap import Estimate, estimate, estimate_improvement
from fastanf.config import TrainConfig, idle_names
from fastanf.presets import lane_config
from fastanf.published import PublishedReturn, find_published
from fastanf.report.arms import Arm, Panel
from fastanf.report.merging import ArmRecord, settings_that_matter
from fastanf.report.phrases import setting_text
from fastanf.statistics import final_mean, interquartile_mean, mean_of_tasks

HORIZON = 1_000_000
"""Steps of the published runs of which a mean over the last evaluations is reported."""
LAST_SHARE = 0.1
"""Of the horizon: where these last evaluations are."""
NEAR = 0.95
"""An evaluation stands for a published step from this share of the step on."""
NOT_TRAINING = frozenset({"max_timesteps", "eval_freq", "replay_capacity", "layout"})
"""Settings in which a lane may differ from the papers without training otherwise: how long, how
often it is evaluated, and how it is computed."""


@dataclass(frozen=True)
class Comparison:
    """A published return beside ours."""

    published: PublishedReturn
    step: int
    """Of our evaluation (the last one of a mean over several)."""
    ours: Estimate
    """Mean over lanes there."""


@dataclass(frozen=True, eq=False)
class Final:
    """The end of one arm, as far as it has come."""

    record: ArmRecord
    step: int
    """Of its last evaluation."""
    num_averaged: int
    """Evaluations in a lane's final return."""
    mean: Estimate
    iqm: Estimate
    comparisons: tuple[Comparison, ...]
    """One a source, at its last step that we have reached."""
    beyond: tuple[PublishedReturn, ...]
    """Of each source whose steps are all beyond ours, the first one."""
    deviations: tuple[str, ...]
    """Settings that are not those of the policy, as name=value."""


@dataclass(frozen=True, eq=False)
class Pair:
    """How often a lane of one arm beats one of another at the same step."""

    panel: Panel
    better: Arm
    worse: Arm
    step: int
    """The last one that both arms have reached."""
    probability: Estimate


def finals_by_panel(records: Sequence[ArmRecord]) -> dict[Panel, list[Final]]:
    """Arms with returns by task; tasks sorted, in each the best arm first."""
    panels: dict[Panel, list[Final]] = {}
    for record in records:
        if record.has_returns:
            panels.setdefault(record.arm.panel, []).append(final_of(record))
    for finals in panels.values():
        finals.sort(key=lambda f: -f.mean.value if math.isfinite(f.mean.value) else math.inf)
    return dict(sorted(panels.items()))


def final_of(record: ArmRecord) -> Final:
    """The end of one arm that has a return."""
    arm = record.arm
    scores = final_mean(arm.returns)
    found = published_of(record)
    sources = dict.fromkeys(one.source for one in found)
    comparisons = {
        source: _compare(arm, [one for one in found if one.source == source]) for source in sources
    }
    return Final(
        record,
        int(arm.steps[-1]),
        max(1, len(arm.steps) // 10),
        estimate(scores, mean_of_tasks),
        estimate(scores, interquartile_mean),
        tuple(one for one in comparisons.values() if one is not None),
        tuple(
            min((p for p in found if p.source == source), key=published_step)
            for source, one in comparisons.items()
            if one is None
        ),
        deviations(record.lanes[0].config),
    )


def published_step(published: PublishedReturn) -> int:
    """The training step of a published return, for a mean over last evaluations that of the end."""
    return HORIZON if published.step is None else published.step


def best_pairs(finals: Sequence[Final]) -> list[Pair]:
    """The first arm of a task against each other one."""
    arms = [final.record.arm for final in finals]
    return [_pair(arms[0], other) for other in arms[1:]]


def pairs_of(finals: Sequence[Final]) -> list[Pair]:
    """Every two arms of a task, the one earlier in the list against the later."""
    arms = [final.record.arm for final in finals]
    return [_pair(a, b) for k, a in enumerate(arms) for b in arms[k + 1 :]]


def scores_at(arm: Arm, step: int) -> np.ndarray:
    """[n] final returns as if training had ended at a step; nan where a lane has none."""
    reached = arm.returns[:, arm.steps <= step]
    return final_mean(reached) if reached.shape[1] else np.full(len(arm.lanes), np.nan)


def deviations(config: TrainConfig | None) -> tuple[str, ...]:
    """The settings of a lane that are not its policy's own, sparsity and noise left out.

    Args:
        config: None where it is not known.
    """
    if config is None:
        return ()
    names = ("env", "noise_fraction", "global_sparsity", "input_layer_sparsity", "seed", "variant")
    try:
        preset = lane_config(config.algorithm.policy, {n: config.get(n) for n in names})
    except ValueError:
        return ()
    own, usual, skipped = config.flat(), preset.flat(), NOT_TRAINING | idle_names(config)
    return tuple(
        f"{name}={setting_text(own[name])}"
        for name in own
        if own[name] != usual[name] and name not in skipped
    )


def published_of(record: ArmRecord) -> tuple[PublishedReturn, ...]:
    """Returns that were published for the task, policy and sparsities of an arm."""
    config, arm = record.lanes[0].config, record.arm
    if config is None or settings_that_matter(record.lanes[0]).get("permute_period"):
        return ()
    sparsity = config.sparsity
    try:
        return find_published(
            arm.env,
            arm.noise_fraction,
            arm.policy,
            sparsities=(sparsity.global_sparsity, sparsity.input_layer_sparsity),
        )
    except ValueError:  # a policy that is no preset here
        return ()


def _compare(arm: Arm, found: Sequence[PublishedReturn]) -> Comparison | None:
    """At the last published step that we have reached; None if there is none."""
    for published in sorted(found, key=published_step, reverse=True):
        step = published_step(published)
        first = (1 - LAST_SHARE) * step if published.step is None else NEAR * step - 1
        near = np.flatnonzero((arm.steps > first) & (arm.steps <= step))
        if not near.size or (published.step is None and arm.steps[near[-1]] < NEAR * step):
            continue
        used = near if published.step is None else near[-1:]
        ours = estimate(arm.returns[:, used].mean(axis=1), mean_of_tasks)
        if math.isfinite(ours.value):
            return Comparison(published, int(arm.steps[near[-1]]), ours)
    return None


def _pair(a: Arm, b: Arm) -> Pair:
    step = int(min(a.steps[-1], b.steps[-1]))
    chance = estimate_improvement([scores_at(a, step)], [scores_at(b, step)])
    return Pair(a.panel, a, b, step, chance)
