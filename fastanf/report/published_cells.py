"""What was published beside what we measured: cells of a table, and what must be known of both."""

from collections.abc import Sequence

from fastanf.published import PublishedReturn
from fastanf.report.answers import Comparison, Final, published_step
from fastanf.report.markup import Column, Markup, element, join, note
from fastanf.report.phrases import ABSENT, count, listing, part_of, returns, returns_range

COLUMNS = (Column("published", True), Column("ours at that step", True), Column("difference", True))


def published_cells(final: Final) -> list[Markup]:
    """Published return with its source and step, ours there, and the difference; a line each."""
    lines = [_compared(one) for one in final.comparisons]
    lines += [(_published(one), Markup("not comparable"), Markup(ABSENT)) for one in final.beyond]
    lines = lines or [(Markup(ABSENT), Markup(ABSENT), Markup(ABSENT))]
    return [join(cells, element("br")) for cells in zip(*lines, strict=True)]


def _compared(one: Comparison) -> tuple[Markup, Markup, Markup]:
    difference = one.ours.value - one.published.return_mean
    sign = "+" if difference > 0 else ""
    ours = join(
        [returns(one.ours.value), element("br"), element("span", _ours_text(one), class_="range")]
    )
    return (
        _published(one.published),
        ours,
        join([sign + returns(difference), element("br"), element("span", " ", class_="range")]),
    )


def _ours_text(one: Comparison) -> str:
    at = "" if one.step == published_step(one.published) else f"at {one.step:,}"
    every = one.ours.num_runs + one.ours.num_left_out
    lanes = part_of(one.ours.num_runs, every, "lane") if one.ours.num_left_out else ""
    return " ".join(
        part for part in (at, returns_range(one.ours.low, one.ours.high), lanes) if part
    )


def _published(one: PublishedReturn) -> Markup:
    where = f"{one.source}, at {published_step(one):,}"
    return join([returns(one.return_mean), element("br"), element("span", where, class_="range")])


def published_notes(finals: Sequence[Final]) -> list[Markup]:
    """What the published numbers are, and in what ours differ besides."""
    compared = [one.published for final in finals for one in final.comparisons]
    every = [*compared, *(one for final in finals for one in final.beyond)]
    if not every:
        return []
    sentences = []
    for source in dict.fromkeys(one.source for one in every):
        of_source = [one for one in every if one.source == source]
        seeds = listing(dict.fromkeys(_seeds(one) for one in of_source))
        protocols = "; ".join(dict.fromkeys(one.protocol for one in of_source))
        simulators = "; ".join(dict.fromkeys(one.simulator_note for one in of_source))
        sentences.append(f"{source}: {seeds}; {protocols}; {simulators}.")
    text = f"Published: {' '.join(sentences)}"
    if any(final.beyond for final in finals):
        text += " Not comparable: its first step is beyond our last."
    text += " The simulator differs from ours: a difference is no finding by itself."
    notes = [note(text)]
    unlike: dict[tuple[str, ...], list[str]] = {}
    for final in finals:
        if final.deviations and (final.comparisons or final.beyond):
            unlike.setdefault(final.deviations, []).append(final.record.arm.label)
    for settings, labels in unlike.items():
        notes.append(
            note(f"Not the published settings: {listing(labels)} with {', '.join(settings)}.")
        )
    return notes


def _seeds(one: PublishedReturn) -> str:
    return "number of seeds not known" if one.num_seeds is None else count(one.num_seeds, "seed")
