"""The head of the page: which study, how far it is, and what it was run with."""

import shlex
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from fastanf.report.collected import RunRecord
from fastanf.report.lane_states import LaneState
from fastanf.report.markup import Markup, details, element, join, paragraph
from fastanf.report.phrases import count, listing, when


def title_of(runs: Sequence[RunRecord]) -> str:
    """The study's name where the runs have one in common, else the run's."""
    names = list(dict.fromkeys(str(_study(run).get("name") or run.name) for run in runs))
    return names[0] if len(names) == 1 else listing(names)


def head(runs: Sequence[RunRecord], states: Sequence[LaneState], made_at: str) -> Markup:
    """Title, what the study is about, and each run with its state.

    Args:
        runs: of the report.
        states: of all their lanes.
        made_at: when the report was made.
    """
    abouts = dict.fromkeys(_about(run) for run in runs)
    return element(
        "header",
        paragraph("fastanf report, made ", made_at, class_="eyebrow"),
        element("h1", title_of(runs)),
        *(paragraph(about, class_="lead") for about in abouts if about),
        *(_run(run, [s for s in states if s.run == run.name]) for run in runs),
    )


def _study(run: RunRecord) -> Mapping[str, Any]:
    study = run.manifest.get("study")
    return study if isinstance(study, Mapping) else {}


def _about(run: RunRecord) -> str:
    """What the study's file says of itself; nothing if it does not, or cannot be read."""
    try:
        about = tomllib.loads(str(_study(run).get("file") or "")).get("about", "")
    except tomllib.TOMLDecodeError:
        return ""
    return " ".join(str(about).split())


def _run(run: RunRecord, states: Sequence[LaneState]) -> Markup:
    percent = 100 * run.progress
    counts = Counter(state.status for state in states)
    lanes = listing(f"{number} {status}" for status, number in counts.items())
    state = [
        element("span", run.status, class_=f"state {run.status}" if run.status.isalpha() else None),
        f": {percent:.0f}% of the steps are evaluated; {count(len(states), 'lane')}"
        + (f" ({lanes})" if len(counts) > 1 else "")
        + ". Records were last written ",
        element("span", when(run.written_at), class_="nowrap"),
        ".",
    ]
    if run.status != "finished":
        state += [" If nothing trains it now, go on with ", element("code", _resume(run)), "."]
    bar = element(
        "div",
        element("span", style=f"width:{percent:.1f}%"),
        class_="bar",
        role="img",
        aria_label=f"{percent:.0f}% of the steps",
    )
    file = str(_study(run).get("file") or "")
    shown = [details("File of the study", element("pre", file))] if file else []
    return element("div", paragraph(*state), bar, _facts(run), *shown, class_="run")


def _resume(run: RunRecord) -> str:
    return f"python -m fastanf resume {shlex.quote(str(run.path))}"


def _time(text: str) -> str:
    try:
        return when(datetime.fromisoformat(text))
    except ValueError:
        return text


def _commands(run: RunRecord) -> list[str]:
    """The commands that the run was made with, the first one first."""
    lines = run.manifest.get("command_lines") or [run.manifest.get("command_line", "")]
    words = [shlex.join(map(str, line)) if isinstance(line, list) else str(line) for line in lines]
    return [f"python train.py {line}".strip() for line in words]


def _commits(manifest: Mapping[str, Any]) -> list[str]:
    """Of the code that trained the run, each once, in the order of its starts."""
    starts = manifest.get("starts")
    starts = starts if isinstance(starts, list) and starts else [manifest]
    found = [start.get("commit") for start in starts if isinstance(start, Mapping)]
    return [str(commit or "not known") for commit in dict.fromkeys(found)]


def _facts(run: RunRecord) -> Markup:
    manifest = run.manifest
    versions = manifest.get("versions")
    versions = versions if isinstance(versions, Mapping) else {}
    device = f"{manifest.get('device', 'unknown')}, {manifest.get('kernels', 'unknown')} kernels"
    if "num_threads" in manifest:
        device += f", {count(int(manifest['num_threads']), 'thread')}"
    facts = {
        "Run": str(run.path),
        "Command": join((element("code", line) for line in _commands(run)), element("br")),
        "Started": _time(str(manifest.get("started_at", "unknown"))),
        "Device": device,
        "Machine": str(manifest.get("platform", "unknown")),
        "Versions": ", ".join(f"{k} {v}" for k, v in versions.items() if v is not None),
        "Commit": ", ".join(_commits(manifest)),
    }
    if manifest.get("num_starts"):
        facts["Resumed"] = count(int(manifest["num_starts"]), "time")
    pairs = ([element("dt", name), element("dd", fact)] for name, fact in facts.items() if fact)
    return element("dl", *map(join, pairs))
