"""The section that answers: final returns by arm, beside what was published, and who beats whom."""

import math
from collections.abc import Mapping, Sequence

from fastanf.bootstrap import Estimate
from fastanf.curves import panel_title
from fastanf.picture import Style
from fastanf.report.answers import Final, best_pairs, published_step, scores_at
from fastanf.report.arms import Key, Panel
from fastanf.report.figures_finals import FinalReturn, final_returns
from fastanf.report.figures_in_page import Shelf
from fastanf.report.markup import Column, Markup, element, join, note, paragraph, table, with_range
from fastanf.report.merging import ArmRecord
from fastanf.report.phrases import (
    left_out,
    listing,
    part_of,
    returns,
    returns_range,
    share,
    share_range,
)
from fastanf.report.published_cells import COLUMNS, published_cells, published_notes
from fastanf.series import MIN_LANES

MEANING = (
    "Final return: mean of the last tenth of a lane's evaluations, at least of one. Mean and IQM "
    "(mean of the middle half) are over lanes; brackets hold their 95% bootstrap intervals. Step: "
    "environment steps after the random start. Probability of improvement: the share of all pairs "
    "of lanes in which the lane of the best arm has the higher final return (ties count half), at "
    "the last step that both arms have reached; 0.5 is no difference, and the arm was chosen "
    "because it is best here."
)


def answer_section(
    panels: Mapping[Panel, Sequence[Final]],
    records: Sequence[ArmRecord],
    notes: Sequence[str],
    looks: Mapping[Key, Style],
    shelf: Shelf,
) -> Markup:
    """A table of each task, and what must be known to read it.

    Args:
        panels: the arms of each task, the best first.
        records: all arms, those without a return too.
        notes: on what was merged or left out.
        looks: of the arms in figures.
        shelf: where figures go.
    """
    parts = []
    for panel, finals in panels.items():
        parts += [element("h3", panel_title(panel)), paragraph(_in_words(finals))]
        parts.append(_final_table(panel, finals))
        parts += [*_final_notes(finals), *published_notes(finals), _pairs(finals)]
    parts.append(note(MEANING))
    parts.append(_figure([final for finals in panels.values() for final in finals], looks, shelf))
    silent = [
        f"{record.arm.label} ({panel_title(record.arm.panel)})"
        for record in records
        if not record.has_returns
    ]
    left_out = [*notes]
    if silent:
        left_out.append(f"Without a finite return so far, and in no table: {listing(silent)}")
    if left_out:
        items = (element("li", item) for item in left_out)
        parts += [element("h3", "Merged or left out"), element("ul", *items, class_="plain")]
    return join(parts)


def _in_words(finals: Sequence[Final]) -> str:
    """The first two arms of a task in a sentence."""
    best = finals[0]
    if not math.isfinite(best.mean.value):
        return "No arm has a final return."
    every = best.mean.num_runs + best.mean.num_left_out
    lanes = part_of(best.mean.num_runs, every, "lane")
    text = f"{_ends_at(best)} after {best.step:,} steps ({lanes})"
    if len(finals) == 1:
        return f"{text}."
    second, pair = finals[1], best_pairs(finals)[0]
    text += f", {_ends_at(second)}"
    if second.step != best.step:
        text += f" after {second.step:,}"
    if math.isfinite(pair.probability.value):
        text += (
            f"; a lane of the first is above one of the second with probability "
            f"{share(pair.probability.value)}"
        )
    return f"{text}."


def _ends_at(final: Final) -> str:
    interval = _range(final.mean)
    verb = "ends" if all(lane.is_over for lane in final.record.lanes) else "stands"
    return f"{final.record.arm.label} {verb} at {returns(final.mean.value)}" + (
        f" {interval}" if interval else ""
    )


def _figure(finals: Sequence[Final], looks: Mapping[Key, Style], shelf: Shelf) -> Markup:
    """All final returns as one picture."""
    drawn, sources = [], {}
    for final in finals:
        published = math.nan
        for one in final.comparisons:
            if one.step == final.step and one.step == published_step(one.published):
                published = one.published.return_mean
                sources[one.published.source] = True
        arm = final.record.arm
        drawn.append(FinalReturn(arm, final.mean, scores_at(arm, final.step), published))
    return shelf.put(
        "final_returns",
        final_returns(drawn, looks, "mean", listing(sources)),
        "Final return of each arm",
        "Final return of each arm: mean over lanes with its 95% bootstrap interval, and single "
        "lanes. The arms stand where they are now."
        + (" Hollow: published at the same step." if sources else ""),
    )


def _final_table(panel: Panel, finals: Sequence[Final]) -> Markup:
    has_variants = any(final.record.arm.variant for final in finals)
    has_published = any(final.comparisons or final.beyond for final in finals)
    columns = [
        Column("policy"),
        *([Column("variant")] if has_variants else []),
        Column("lanes", True),
        Column("step", True),
        Column("final return, mean", True),
        Column("final return, IQM", True),
    ]
    if has_published:
        columns += COLUMNS
    rows = []
    for final in finals:
        row = [final.record.arm.policy]
        row += [final.record.arm.variant] if has_variants else []
        row += [
            _lanes(final.mean),
            f"{final.step:,}",
            with_range(returns(final.mean.value), _range(final.mean)),
            with_range(returns(final.iqm.value), _range(final.iqm)),
        ]
        rows.append([*row, *(published_cells(final) if has_published else [])])
    return table(f"Final returns, {panel_title(panel)}", columns, rows)


def _range(found: Estimate) -> str:
    return returns_range(found.low, found.high)


def _lanes(found: Estimate) -> str:
    every = found.num_runs + found.num_left_out
    return str(every) if not found.num_left_out else f"{found.num_runs} of {every}"


def _final_notes(finals: Sequence[Final]) -> list[Markup]:
    """What is special about the arms of one task; nothing where nothing is."""
    sentences = []
    if any(final.mean.num_runs < MIN_LANES for final in finals):
        sentences.append(f"With fewer than {MIN_LANES} lanes there is no interval.")
    if len({final.step for final in finals}) > 1:
        is_over = all(lane.is_over for final in finals for lane in final.record.lanes)
        sentences.append(
            "The arms end at different steps, because lanes were stopped or trained less."
            if is_over
            else "The arms stand at different steps: their order may change."
        )
    if any(final.mean.num_left_out for final in finals):
        sentences.append(
            "k of n: the other lanes lack one of the last evaluations or have no finite return "
            "there; they are left out, which can flatter the arm."
        )
    stopped = left_out(
        (final.record.arm.label, len(final.record.stopped), len(final.record.lanes))
        for final in finals
    )
    if stopped:
        sentences.append(f"Stopped, because broken: {stopped}.")
    return [note(" ".join(sentences))] if sentences else []


def _pairs(finals: Sequence[Final]) -> Markup:
    """The best arm against each other one."""
    pairs = best_pairs(finals)
    if not pairs:
        return Markup("")
    columns = [
        Column(f"{pairs[0].better.label} against"),
        Column("at step", True),
        Column("lanes of both", True),
        Column("probability of improvement", True),
    ]
    rows = [
        [
            pair.worse.label,
            f"{pair.step:,}",
            _lanes(pair.probability),
            with_range(
                share(pair.probability.value),
                share_range(pair.probability.low, pair.probability.high),
            ),
        ]
        for pair in pairs
    ]
    return table("Probability of improvement of the best arm", columns, rows)
