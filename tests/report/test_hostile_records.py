"""A report of records from anybody: their names are text in the page, in its figures and tables."""

from __future__ import annotations

import base64
import csv
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fastanf.report.markup import element, text
from fastanf.report.page import write_report
from tests.report_runs import Page, run_lanes, without_drawing, write_run

NAMES = (
    "<script>alert(1)</script>",
    "\"onmouseover='alert(1)' x=\"",
    "</style></title></svg><img src=x onerror=alert(1)>",
    "]]>&lt;script&gt;<!--",
    "javascript:alert(1)",
    "$\\frac{1}{0}$ $x_{$ \\def %d {0}",
    "=cmd|' /C calc'!A1",
    "@SUM(1)",
    "+1",
    "-1+1",
)
ELSEWHERE = re.compile(r"^(?!data:image/(svg\+xml|png);base64,|#|[\w.-]+$)")
ATTRIBUTES = ("src", "href", "action", "data", "poster", "srcset", "xlink:href")


DRAWN = (NAMES[0], NAMES[2], NAMES[5])
"""Those that figures are drawn with, which takes time."""


@pytest.fixture
def reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Page]:
    """The folder of a report with empty figures, and its page."""
    without_drawing(monkeypatch)
    return report_of(tmp_path, NAMES)


def report_of(path: Path, names: Sequence[str]) -> tuple[Path, Page]:
    lanes = [
        lane.replace(policy=name, variant=f"{name}={name}")
        for name in names
        for lane in run_lanes(["ANF-SAC"], num_seeds=1)
    ]
    everything = " ".join(NAMES)
    manifest = {
        "device": everything, "kernels": everything, "command_line": everything,
        "command_lines": [everything], "started_at": everything, "commit": everything,
        "platform": everything, "versions": {everything: everything},
        "study": {"name": everything, "file": f"about = {everything!r} \n'''{everything}'''"},
    }  # fmt: skip
    values = {"env": everything, "activation": everything}
    run = write_run(path / "run", lanes, 2, manifest=manifest, lane_values=values)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of matplotlib: a text that it could not read
        page = Page(write_report([run], path / "report"))
    assert sorted(file.name for file in path.iterdir()) == ["report", "run"]
    return path / "report", page


def test_the_page_holds_names_as_text(reported: tuple[Path, Page]) -> None:
    _, page = reported
    assert page.errors == []
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "svg"}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "srcdoc"]
        for name in ATTRIBUTES:
            assert not ELSEWHERE.search(str(attributes.get(name) or "#"))
    for name in NAMES:
        assert page.text.count(name) > 5
    assert sum(tag == "style" for tag, _ in page.elements) == 1


def test_figures_hold_names_as_text(tmp_path: Path) -> None:
    folder, page = report_of(tmp_path, DRAWN)
    pictures = [path.read_bytes() for path in folder.glob("*.svg")]
    sources = [str(found["src"]) for tag, found in page.elements if tag == "img"]
    pictures += [base64.b64decode(s.partition(",")[2]) for s in sources if "svg+xml" in s[:20]]
    assert len(pictures) > 8
    words = ""
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        for node in root.iter():
            assert node.tag.rpartition("}")[2] not in ("script", "foreignObject", "a")
            for name, value in node.attrib.items():
                local = name.rpartition("}")[2]
                assert not local.startswith("on")
                assert local != "href" or value.startswith(("#", "data:image/png;base64,"))
        words += "".join(root.itertext())
    for name in DRAWN:
        assert name in words


def test_tables_hold_no_formulas(reported: tuple[Path, Page]) -> None:
    folder, _ = reported
    seen = set()
    for path in folder.glob("*.csv"):
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                seen |= {row[name] for name in ("policy", "variant") if name in row}
                for cell in row.values():
                    is_number = re.fullmatch(r"-?[\d.]+(e[+-]\d+)?", cell) is not None
                    assert is_number or not cell.startswith(("=", "+", "-", "@"))
    for name in NAMES:
        assert name in seen or f"'{name}" in seen


def test_names_of_figures_stay_in_the_report(reported: tuple[Path, Page]) -> None:
    folder, page = reported
    for path in folder.iterdir():
        assert path.is_file() and re.fullmatch(r"[\w+=-]+\.(html|csv|svg|png)", path.name)
    for link in page.values("href"):
        assert link.startswith("#") or (folder / link).is_file()


def test_a_name_without_end_makes_a_report_all_the_same(tmp_path: Path) -> None:
    long = "w" * 20_000 + " x" * 10_000
    values = {"policy": "w" * 100, "variant": long, "env": "x " * 50}
    run = write_run(tmp_path / "run", run_lanes(["ANF-SAC"], num_seeds=1), 2, lane_values=values)
    page = Page(write_report([run], tmp_path / "report"))
    assert page.errors == [] and long in page.text
    for path in (tmp_path / "report").glob("*.svg"):
        root = ElementTree.parse(path).getroot()
        assert all(float(root.get(side, "inf")[:-2]) < 72 * 100 for side in ("width", "height"))


def test_what_does_not_print_is_written_as_its_escape() -> None:
    assert text("a\u202eb\x00\x1b\ud800\nc\td") == "a\\u202eb\\x00\\x1b\\ud800\nc\td"
    assert element("p", "", title='\ud800"<') == '<p title="\\ud800&quot;&lt;"></p>'
    assert text("\ud800").encode()


def test_halves_of_characters_in_a_manifest_make_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_drawing(monkeypatch)
    manifest = {"device": "\ud800\x00", "platform": "\x1b[2J", "commit": "\u202e"}
    run = write_run(tmp_path / "run", manifest=manifest)
    page = Page(write_report([run], tmp_path / "report"))
    assert page.errors == [] and "\\ud800\\x00" in page.text and "\\x1b[2J" in page.text
