"""How many steps each arm took to a return that a plain agent ends with."""

from collections.abc import Mapping, Sequence

import numpy as np

from fastanf.bootstrap import estimate
from fastanf.config import has_sparsity
from fastanf.curves import panel_title
from fastanf.picture import Style
from fastanf.report.answers import Final
from fastanf.report.arms import Key, Panel, label_among
from fastanf.report.figures_efficiency import Reaching, sample_efficiency
from fastanf.report.figures_in_page import Shelf
from fastanf.report.markup import Markup, element, join
from fastanf.report.phrases import left_out, listing, returns
from fastanf.statistics import Tasks, first_step_reaching


def efficiency_part(
    panels: Mapping[Panel, Sequence[Final]], looks: Mapping[Key, Style], shelf: Shelf
) -> Markup:
    """Steps to the yardstick's final return in each task; nothing where no task has two arms."""
    rows, words = [], []
    for panel, finals in panels.items():
        rule = yardstick(finals)
        if rule is None:
            continue
        threshold = rounded_return(rule.mean.value)
        rows += [reaching(final, threshold) for final in finals]
        words.append(f"{panel_title(panel)}: {returns(threshold)}, of {rule.record.arm.label}")
    if not rows:
        return Markup("")
    missing = left_out(
        (
            label_among(row.arm, [each.arm for each in rows]),
            row.estimate.num_left_out,
            len(row.arm.lanes),
        )
        for row in rows
    )
    figure = shelf.put(
        "steps_to_return",
        sample_efficiency(rows, looks),
        "Steps until each arm reached the final return of a yardstick",
        "Steps until the running mean of a lane's evaluations (as many as its final return is "
        f"made of) reached the final mean return of a yardstick ({listing(words)}). The yardstick "
        "is the best dense arm; where none is dense, the arm that ends lowest."
        + (f" Not in the median, because of stops or gaps before: {missing}." if missing else ""),
    )
    return join([element("h3", "Steps to a return"), figure])


def yardstick(finals: Sequence[Final]) -> Final | None:
    """The best dense arm of a task, else the one that ends lowest; None with one arm alone."""
    known = [final for final in finals if np.isfinite(final.mean.value)]
    if len(known) < 2:
        return None
    configs = [final.record.lanes[0].config for final in known]
    dense = [
        final
        for final, config in zip(known, configs, strict=True)
        if config is not None and not has_sparsity(config)
    ]
    return dense[0] if dense else known[-1]


def rounded_return(value: float) -> float:
    """A return as it is written on the page."""
    return float(round(value)) if abs(value) >= 100 else round(value, 1)


def reaching(final: Final, threshold: float) -> Reaching:
    """When the lanes of an arm reached a return, and the median over them."""
    arm = final.record.arm
    steps = first_step_reaching(arm.steps, arm.returns, threshold, final.num_averaged)
    return Reaching(arm, threshold, steps, estimate(steps, _median))


def _median(tasks: Tasks) -> np.ndarray:
    """Median over the lanes of one task; the higher of the two in the middle, which may be inf."""
    (lanes,) = tasks
    return np.sort(lanes, axis=-1)[..., lanes.shape[-1] // 2]
