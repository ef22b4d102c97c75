"""The section with learning curves: one figure an environment, with what was published."""

from collections.abc import Mapping, Sequence

import numpy as np

from fastanf.curves import panel_title
from fastanf.picture import Style
from fastanf.report.answers import Final, published_of
from fastanf.report.arms import Key, Panel, label_among
from fastanf.report.bands import mean_band
from fastanf.report.connection_data import permutation_steps
from fastanf.report.figures_curves import Published, learning_curves
from fastanf.report.figures_in_page import Shelf
from fastanf.report.markup import Markup, join
from fastanf.report.phrases import count, left_out, listing
from fastanf.report.section_efficiency import efficiency_part


def curves_section(
    panels: Mapping[Panel, Sequence[Final]], looks: Mapping[Key, Style], shelf: Shelf
) -> Markup:
    """Learning curves of every environment."""
    figures = []
    for env in dict.fromkeys(env for env, _ in panels):
        here = {panel: finals for panel, finals in panels.items() if panel[0] == env}
        arms = [final.record.arm for finals in here.values() for final in finals]
        published = {panel: _published(finals) for panel, finals in here.items()}
        figure = learning_curves(
            arms,
            looks,
            summarize=mean_band,
            published={panel: marks for panel, marks in published.items() if marks},
            events={panel: _events(finals) for panel, finals in here.items()},
            y_label=_return_label([f for finals in here.values() for f in finals]),
        )
        tasks = listing(panel_title(panel) for panel in here)
        labels = listing(dict.fromkeys(arm.label for arm in arms))
        caption = (
            f"Return while training, {tasks}. Thick: mean over lanes; thin: single lanes; band: "
            "95% bootstrap interval of the mean, at each step by itself; lanes without a finite "
            "return at a step are left out of it."
        )
        missing = left_out(
            (label_among(arm, arms), int(np.isnan(arm.returns[:, -1]).sum()), len(arm.lanes))
            for arm in arms
        )
        if missing:
            caption += f" Not in the last point of their curve: {missing}."
        if any(published.values()):
            caption += " Hollow marks: published means, where their steps are near ours."
        name = f"curves_{env}"
        figures.append(shelf.put(name, figure, f"Learning curves of {labels}, {tasks}", caption))
    return join([*figures, efficiency_part(panels, looks, shelf)])


def _published(finals: Sequence[Final]) -> list[Published]:
    marks: dict[tuple[str, str, float | None], dict[int, float]] = {}
    for final in finals:
        for one in published_of(final.record):
            if one.step is not None:
                key = (final.record.arm.policy, one.source, one.sparsity)
                marks.setdefault(key, {})[one.step] = one.return_mean
    return [
        Published(policy, tuple(points), tuple(points.values()), source)
        for (policy, source, _), points in marks.items()
    ]


def _events(finals: Sequence[Final]) -> list[int]:
    lanes = [lane for final in finals for lane in final.record.lanes]
    return sorted({step for lane in lanes for step in permutation_steps(lane)})


def _return_label(finals: Sequence[Final]) -> str:
    lanes = [lane for final in finals for lane in final.record.lanes]
    counts = {row.episodes for lane in lanes for row in lane.evaluations if row.episodes}
    if len(counts) != 1:
        return "return of deterministic episodes"
    return f"return of {count(counts.pop(), 'deterministic episode')}"
