"""The arguments of `python -m fastanf report`: which runs, and where their report goes."""

import os
from collections.abc import Sequence
from pathlib import Path

from fastanf.files import check_own_entries

HELP = """usage: python -m fastanf report RUN [RUN ...] [--out FOLDER]

  RUN             folder of a run, which may still be training; several become one report
  --out FOLDER    where the page, its figures and tables go; by default RUN/report for one
                  run, report for several"""


def parse(argv: Sequence[str]) -> tuple[list[Path], Path]:
    """The runs and the folder for their report.

    Args:
        argv: the arguments after the command.

    Raises:
        ValueError: no run, an unknown option, a value that is missing, or a run whose folder for
            the report is none.
    """
    runs: list[Path] = []
    out: Path | None = None
    words = iter(argv)
    for word in words:
        name, is_joined, value = word.partition("=")
        if name == "--out":
            value = value if is_joined else next(words, "")
            if not value:
                raise ValueError("--out must be a folder, e.g. --out report, got none")
            out = Path(value)
        elif word.startswith("-"):
            raise ValueError(f"report has no option {word}; allowed is --out FOLDER")
        else:
            runs.append(Path(word))
    if not runs:
        raise ValueError("report takes one RUN or more, got none")
    if out is None and len(runs) == 1:
        # The folder of a run may come from elsewhere, with a link in it that leads anywhere.
        if os.path.isdir(runs[0]):
            check_own_entries(runs[0], (), ("report",))
        out = runs[0] / "report"
    return runs, out or Path("report")
