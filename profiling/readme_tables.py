"""Writes the tables of the README files from measured rows, so that no number was typed by hand.

    python profiling/readme_tables.py            rewrite the tables
    python profiling/readme_tables.py --check    exit 1 where a file and the rows differ

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; result_tables.py,
endurance_tables.py and scaling_tables.py have the names.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import endurance_tables
import result_tables
import scaling_tables

ROOT = Path(__file__).parent.parent
TABLES = result_tables.TABLES | endurance_tables.TABLES | scaling_tables.TABLES
FILES = (ROOT / "README.md", ROOT / "profiling" / "README.md")


def render(text: str) -> str:
    """A file's text with every table made anew."""

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
    differs = False
    for path in FILES:
        text = path.read_text()
        fresh = render(text)
        differs = differs or fresh != text
        if not own.check:
            path.write_text(fresh)
    return int(own.check and differs)


if __name__ == "__main__":
    sys.exit(main())
