"""Writes the README's tables from measured rows, so that no number there was typed by hand.

    python profiling/readme_tables.py            rewrite the tables
    python profiling/readme_tables.py --check    exit 1 where README.md and the rows differ

A table stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import result_rows

from fastanf.final_table import final_table
from fastanf.rows import read_evaluations

README = Path(__file__).parent.parent / "README.md"
# The papers' setting; other sizes are measured too.
_UPDATE_SIZES = {
    "device": "cpu",
    "sparsity": "input 0.8",
    "batch_size": "100",
    "envs_per_lane": "1",
    "settings": "",
}


def update_table() -> str:
    """Lane updates per second: work by number of lanes, newest row of each."""
    rows = [
        row
        for row in result_rows.read("update")
        if row["metric"] == "lane_updates_per_s"
        and all(row[name] == value for name, value in _UPDATE_SIZES.items())
    ]
    newest = {(_work(row), int(row["lanes"])): row for row in rows}
    lanes = sorted({count for _, count in newest})
    lines = [_cells(["lane updates per second", *(_plural(count) for count in lanes)])]
    lines.append(_cells(["---", *("---:" for _ in lanes)]))
    for work in dict.fromkeys(work for work, _ in newest):
        cells = [_rate(newest[work, count]) if (work, count) in newest else "" for count in lanes]
        lines.append(_cells([work, *cells]))
    return "\n".join([*lines, "", _conditions(rows)])


def replay_table() -> str:
    """Bytes of a million transitions, newest row of each task."""
    rows = result_rows.read("replay")
    newest = {row["env"]: row for row in rows}
    lines = [
        _cells(["replay of 1,000,000 transitions", *newest]),
        _cells(["---", *("---:" for _ in newest)]),
    ]
    lines.append(
        _cells(["MB a lane", *(f"{int(row['value']) / 1e6:,.1f}" for row in newest.values())])
    )
    return "\n".join([*lines, "", _conditions(rows)])


def run_table(name: str) -> Callable[[], str]:
    """The final table of a recorded run, from results/NAME/."""

    def table() -> str:
        folder = result_rows.RESULTS / name
        command = (folder / "command.txt").read_text().strip()
        text = final_table(read_evaluations(folder))
        return f"```\n{command}\n\n{text}\n```"

    return table


TABLES: dict[str, Callable[[], str]] = {
    "update": update_table,
    "replay": replay_table,
    "demonstration": run_table("demonstration"),
    "tutorial": run_table("tutorial"),
}


def render(text: str) -> str:
    """README.md with every table made anew."""

    def replace(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", replace, text, flags=re.DOTALL)


def main() -> int:
    """Rewrite or check.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="change nothing")
    own = parser.parse_args()
    text = README.read_text()
    fresh = render(text)
    if own.check:
        return int(fresh != text)
    README.write_text(fresh)
    return 0


def _work(row: dict[str, str]) -> str:
    # Sparse and dense lanes of one algorithm cost the same on the masked layout.
    algorithm = "SAC" if "SAC" in row["policies"] else "TD3"
    return f"{row['env'].removesuffix('-v3')} at {float(row['noise_fraction']):g}, {algorithm}"


def _rate(row: dict[str, str]) -> str:
    return f"{float(row['p50']):.0f} ({float(row['p20']):.0f}-{float(row['p80']):.0f})"


def _plural(count: int) -> str:
    return f"{count} lane" + "s" * (count > 1)


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _conditions(rows: Sequence[dict[str, str]]) -> str:
    facts = [
        f"{row['cpu']}, {row['threads']} threads, {row['versions']}, {row['date']}" for row in rows
    ]
    return "; ".join(dict.fromkeys(facts)) + "."


if __name__ == "__main__":
    sys.exit(main())
