"""The report of some runs: records in, a folder with one page, its figures and CSV tables out.

index.html                 the page, with everything it needs inside
NAME.svg, NAME.png         its figures
final.csv, curves.csv, connections.csv, lanes.csv, pairs.csv
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fastanf.files import write_atomic
from fastanf.report.answers import Final, finals_by_panel
from fastanf.report.arms import Panel, styles
from fastanf.report.collected import RunRecord, read_runs
from fastanf.report.connection_data import arm_layers
from fastanf.report.costs import arm_pace, arm_work
from fastanf.report.exports import Export, exports
from fastanf.report.figures_in_page import Shelf
from fastanf.report.lane_states import LaneState, lane_states
from fastanf.report.markup import Column, Markup, details, element, join, note, table
from fastanf.report.merging import ArmRecord, collect_arms
from fastanf.report.phrases import when
from fastanf.report.section_answer import answer_section
from fastanf.report.section_connections import connections_section
from fastanf.report.section_costs import costs_section
from fastanf.report.section_curves import curves_section
from fastanf.report.section_head import head, title_of
from fastanf.report.section_lanes import lanes_section
from fastanf.report.section_stopped import stopped_section
from fastanf.report.section_tasks import tasks_section
from fastanf.report.stylesheet import STYLESHEET
from fastanf.report.task_scores import task_scores

PAGE = "index.html"


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading of its own."""

    id: str
    title: str
    body: Markup


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Writes the report of some runs; files of that name are replaced one by one.

    Args:
        runs: their folders.
        out: folder for the report; made if it is not there.

    Returns:
        The page.

    Raises:
        ValueError: a folder that is no run, or `out` cannot be made or is a run itself.
    """
    records = read_runs(runs)
    if (out / "manifest.json").exists():  # the report's lanes.csv would take the place of the run's
        raise ValueError(f"--out {str(out)!r} is a run folder; give another, e.g. {out / 'report'}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"--out {str(out)!r} cannot be made ({error.strerror}); give a writable folder"
        ) from error
    arms, notes = collect_arms(records)
    panels, states = finals_by_panel(arms), lane_states(records)
    tables = exports(panels, arms, states)
    for export in tables:
        write_atomic(out / export.name, export.text().encode())
    sections = _sections(records, arms, panels, states, notes, Shelf(out))
    sections.append(Section("files", "Files", _files_body(tables)))
    page = _page(records, states, sections)
    write_atomic(out / PAGE, page.encode())
    return out / PAGE


def _sections(
    runs: Sequence[RunRecord],
    arms: Sequence[ArmRecord],
    panels: dict[Panel, list[Final]],
    states: Sequence[LaneState],
    notes: Sequence[str],
    shelf: Shelf,
) -> list[Section]:
    """The sections that have data."""
    sections = []
    looks = styles(record.arm for record in arms)
    if panels:
        sections += [
            Section("answer", "Final returns", answer_section(panels, arms, notes, looks, shelf)),
        ]
    if any(state.stopped_at is not None for state in states):
        sections.append(Section("stopped", "Stopped lanes", stopped_section(panels, arms, states)))
    if panels:
        sections += [
            Section("curves", "Learning curves", curves_section(panels, looks, shelf)),
        ]
    over_tasks = task_scores(panels)
    if over_tasks is not None:
        sections.append(Section("tasks", "Over tasks", tasks_section(over_tasks, looks, shelf)))
    layers = arm_layers(arms)
    if layers:
        body = connections_section(layers, looks, shelf)
        sections.append(Section("connections", "What the input layer found", body))
    lanes = [lane for run in runs for lane in run.lanes]
    costs = [(record, arm_work(record.lanes[0].config), arm_pace(record, lanes)) for record in arms]
    if costs:
        sections.append(Section("costs", "Costs", costs_section(runs, costs, looks, shelf)))
    if lanes:
        sections.append(Section("lanes", "Lanes", lanes_section(runs, arms, states)))
    return sections


def _files_body(tables: Sequence[Export]) -> Markup:
    parts = [note("Beside this page: every figure as SVG and PNG, and these tables.")]
    for export in tables:
        columns = [Column("column"), Column("meaning")]
        body = table(f"Columns of {export.name}", columns, [*export.columns.items()])
        link = element("a", export.name, href=export.name)
        parts.append(element("p", link, f": {export.about}"))
        parts.append(details(f"Columns of {export.name}", body))
    return join(parts)


def _page(
    runs: Sequence[RunRecord], states: Sequence[LaneState], sections: Sequence[Section]
) -> str:
    links = (
        element("li", element("a", section.title, href=f"#{section.id}")) for section in sections
    )
    title_ids = {section.id: f"{section.id}-title" for section in sections}
    body = element(
        "div",
        head(runs, states, when(datetime.now(UTC))),
        element("nav", element("ul", *links), aria_label="Contents"),
        element(
            "main",
            *(
                element(
                    "section",
                    element("h2", section.title, id=title_ids[section.id]),
                    section.body,
                    id=section.id,
                    aria_labelledby=title_ids[section.id],
                )
                for section in sections
            ),
        ),
        class_="page",
    )
    head_of_page = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title_of(runs)}; fastanf report"),
        element("style", Markup(STYLESHEET)),
    )
    return "<!doctype html>\n" + element("html", head_of_page, element("body", body), lang="en")
