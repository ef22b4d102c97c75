"""What the figures of a report share: files, words about seeds and intervals, labels of arms."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from fastanf.curves import panel_title
from fastanf.files import write_atomic
from fastanf.picture import DPI, Frame, finish_axes, say_nothing, short_number
from fastanf.report.arms import Arm, Key, Panel

FORMATS = ("png", "svg")
SVG_SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "fastanf"}
"""Text stays text; names of clip paths hang on the content alone."""
INTERVAL = "95% bootstrap interval"
STEPS = "environment steps after the random start"


def save(figure: Figure, path_stem: str | Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Writes a figure as PATH_STEM.png and PATH_STEM.svg; equal figures give equal bytes.

    Each file is replaced as a whole.

    Args:
        figure: to be written.
        path_stem: path without suffix; a dot in its name is no suffix.
        formats: of `FORMATS`.

    Returns:
        The paths that were written.

    Raises:
        ValueError: another format.
    """
    paths = []
    for kind in formats:
        path = Path(f"{path_stem}.{kind}")
        write_atomic(path, file_bytes(figure, kind))
        paths.append(path)
    return paths


def file_bytes(figure: Figure, kind: str) -> bytes:
    """A figure as the bytes of a file; the time of writing and versions are left out.

    Raises:
        ValueError: a format that is not in `FORMATS`.
    """
    if kind not in FORMATS:
        raise ValueError(f"formats: {kind!r} is not allowed; use {' or '.join(FORMATS)}")
    buffer = io.BytesIO()
    left_out = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context(SVG_SETTINGS):
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=left_out)
    return buffer.getvalue()


def labels_of(keys: Sequence[Key]) -> Mapping[Key, tuple[str, ...]]:
    """The lines that name each policy and variant, without what `shared_name` says of all."""
    keys = list(dict.fromkeys(keys))
    policy_in_all, parts_in_all = _shared(keys)
    labels = {}
    for policy, variant in keys:
        rest = ", ".join(part for part in variant.split(", ") if part not in parts_in_all)
        names = () if policy == policy_in_all and rest else (policy,)
        labels[policy, variant] = (*names, rest) if rest else names
    return labels


def shared_name(keys: Sequence[Key]) -> str:
    """The policy and the parts of variants that several keys have in common, else nothing."""
    policy, parts = _shared(list(dict.fromkeys(keys)))
    return ", ".join([policy, *parts] if policy else parts)


def _shared(keys: Sequence[Key]) -> tuple[str, list[str]]:
    if len(keys) < 2:
        return "", []
    policies = {policy for policy, _ in keys}
    several = [variant.split(", ") for _, variant in keys if variant]
    parts = several[0] if len(several) == len(keys) else []
    in_all = [part for part in parts if all(part in other for other in several)]
    return (policies.pop() if len(policies) == 1 else ""), in_all


def count_seeds(arms: Sequence[Arm]) -> str:
    """'5 seeds', '3 to 5 seeds'."""
    return count_range([len(arm.lanes) for arm in arms], "seed")


def count_range(counts: Sequence[int], noun: str) -> str:
    """'1 seed', '5 seeds', '3 to 5 seeds'."""
    if not counts:
        return f"0 {noun}s"
    low, high = min(counts), max(counts)
    number = f"{low}" if low == high else f"{low} to {high}"
    return f"{number} {noun}{'s' * (high != 1)}"


def steps_text(arms: Sequence[Arm]) -> str:
    """How far the arms have come."""
    last = sorted({int(arm.steps[-1]) for arm in arms if len(arm.steps)})
    if not last:
        return "no evaluation yet"
    if len(last) == 1:
        return f"{last[0]:,} steps"
    return f"{short_number(last[0])} to {short_number(last[-1])} steps"


def short_title(panel: Panel, panels: Iterable[Panel]) -> str:
    """The title of one of several panels: without the environment where all have the same."""
    panels = set(panels)
    if len(panels) == 1:
        return ""
    has_one_env = len({env for env, _ in panels}) == 1
    title = panel_title(panel)
    return title.removeprefix(f"{panel[0]}, ") if has_one_env else title


def full_title(panels: Iterable[Panel], policy: str, what: str) -> str:
    """What is seen, with the task and the policy where there is one only."""
    panels = set(panels)
    if len(panels) == 1:
        start = [panel_title(next(iter(panels)))]
    else:
        envs = {env for env, _ in panels}
        start = [envs.pop()] if len(envs) == 1 else []
    words = ", ".join([*start, *([policy] if policy else [])])
    return f"{words}: {what}" if words else what[:1].upper() + what[1:]


def sentence(*parts: str) -> str:
    """The parts that are not empty, as one line of a caption."""
    return "; ".join(part for part in parts if part)


def empty_figure(title: str, text: str) -> Figure:
    """A small figure that says why there is nothing to see."""
    figure, (axes,) = Frame(title, "", 1, 1, 5.3, 1.0).open()
    finish_axes(axes)
    axes.spines["bottom"].set_visible(False)
    say_nothing(axes, text)
    return figure
