"""The page: valid, self-contained, safe from its records, with the sections that have data."""

import csv
import itertools
import re
from pathlib import Path

import pytest

from fastanf.report.page import write_report
from tests.report_runs import Page, run_lanes, without_drawing, write_run

EVIL = "<script>alert(1)</script>\"'&amp; $x_y$"
TABLES = {"final.csv", "curves.csv", "connections.csv", "lanes.csv", "pairs.csv"}


def page_of(tmp_path: Path, *runs: Path) -> Page:
    return Page(write_report(runs, tmp_path / "report"))


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_page_with_its_figures_is_valid_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", run_lanes(num_seeds=3), num_evaluations=3)
    page = page_of(tmp_path, run)
    assert page.errors == []
    images = [found for tag, found in page.elements if tag == "img"]
    assert len(images) >= 8
    for image in images:
        assert str(image["src"]).startswith("data:image/svg+xml;base64,")
        assert image["alt"]
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object"}
    out = tmp_path / "report"
    for link in page.values("href"):
        assert link.startswith("#") or (out / link).is_file()
    assert not re.search(r"url\(|@import|src=[\"']?http", page.source)
    pictures = {path.stem for path in out.glob("*.svg")}
    assert len(pictures) == len(images) == len(list(out.glob("*.png")))
    assert {path.name for path in out.glob("*.csv")} == TABLES
    assert not list(out.glob(".*"))


def test_a_large_figure_stands_in_the_page_as_its_png(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_drawing(monkeypatch)
    monkeypatch.setattr("fastanf.report.figures_in_page.MAX_SVG_BYTES", 2)
    page = page_of(tmp_path, write_run(tmp_path / "run"))
    assert {source[:14] for source in page.values("src")} == {"data:image/png"}


def test_strings_of_the_records_never_become_markup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_drawing(monkeypatch)
    evil = {"variant": EVIL, "env": f"../{EVIL}", "policy": EVIL}
    manifest = {
        "device": EVIL, "kernels": EVIL, "command_line": EVIL, "started_at": EVIL, "commit": EVIL,
        "versions": {EVIL: EVIL}, "study": {"name": EVIL, "file": f"about = '''{EVIL}'''"},
    }  # fmt: skip
    lanes = run_lanes(["ANF-SAC"], num_seeds=2)
    run = write_run(tmp_path / "run", lanes, manifest=manifest, lane_values=evil)
    page = page_of(tmp_path, run)
    assert page.errors == []
    assert "script" not in {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, found in page.elements for name in found)
    assert page.text.count(EVIL) > 10
    assert (1, EVIL) in page.headings
    names = {path.name for path in tmp_path.iterdir()} | {
        path.name for path in (tmp_path / "report").iterdir()
    }
    assert not any("<" in name for name in names) and len(list(tmp_path.iterdir())) == 2
    assert {row["variant"] for row in rows_of(tmp_path / "report" / "final.csv")} == {EVIL}


def test_headings_descend_by_one_level_and_begin_with_one_title(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_drawing(monkeypatch)
    page = page_of(tmp_path, write_run(tmp_path / "run"))
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    assert {link[1:] for link in page.values("href") if link.startswith("#")} <= set(ids)


@pytest.mark.parametrize(
    ("envs", "noise_fraction", "num_evaluations", "sections"),
    [
        (["Hopper-v3"], 0.9, 2, ["Final returns", "Learning curves", "What the input layer found",
                                 "Costs", "Lanes", "Files"]),
        (["Hopper-v3"], 0.0, 2, ["Final returns", "Learning curves", "Costs", "Lanes", "Files"]),
        (["Hopper-v3", "Ant-v4"], 0.0, 2, ["Final returns", "Learning curves", "Over tasks",
                                           "Costs", "Lanes", "Files"]),
        (["Hopper-v3"], 0.9, 0, ["Costs", "Lanes", "Files"]),
    ],
)  # fmt: skip
def test_sections_are_there_if_they_have_data(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    envs: list[str],
    noise_fraction: float,
    num_evaluations: int,
    sections: list[str],
) -> None:
    without_drawing(monkeypatch)
    lanes = run_lanes(envs=envs, noise_fractions=[noise_fraction], num_seeds=2)
    page = page_of(tmp_path, write_run(tmp_path / "run", lanes, num_evaluations))
    assert page.sections() == sections


def test_a_run_that_still_trains_is_reported_as_far_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_drawing(monkeypatch)
    lanes = run_lanes(noise_fractions=[0.8, 0.9], num_seeds=1)
    run = write_run(tmp_path / "run", lanes, {0: 4, 1: 4, 2: 2}, status="running")
    for name in ("eval.csv", "train.csv", "topology.csv", "features.csv"):
        with open(run / name, "a") as file:
            file.write("2,ANF-SAC,Half")  # a line that is being written
    page = page_of(tmp_path, run)
    assert "running: 62% of the steps are evaluated; 4 lanes (2 finished, 1 training" in page.text
    assert "SAC (HalfCheetah-v3, 90% noise features)" in page.text  # waits
    states = {row["lane"]: row for row in rows_of(tmp_path / "report" / "lanes.csv")}
    assert [states[lane]["status"] for lane in "0123"] == [
        "finished", "finished", "training", "waiting",
    ]  # fmt: skip
    assert [states[lane]["last_step"] for lane in "0123"] == ["20000", "20000", "10000", "0"]


@pytest.mark.parametrize("status", ["interrupted", "failed"])
def test_a_run_that_stopped_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    without_drawing(monkeypatch)
    page = page_of(tmp_path, write_run(tmp_path / "run", None, {0: 4, 1: 2}, status=status))
    assert f"{status}: " in page.text and "python -m fastanf resume" in page.text
    states = rows_of(tmp_path / "report" / "lanes.csv")
    assert [row["status"] for row in states] == ["finished"] + [status] * 7


def test_lanes_without_finite_return_are_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_drawing(monkeypatch)
    page = page_of(tmp_path, write_run(tmp_path / "run", nan_from={1: 2}))
    assert "lane 1 of run (ANF-SAC, seed 1) has no finite return from step 15,000 on" in page.text
    assert "3 of 4" in page.text and "k of n" in page.text
    (row, _) = rows_of(tmp_path / "report" / "final.csv")
    assert (row["lanes"], row["lanes_left_out"]) == ("3", "1")


def test_tables_agree_with_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_drawing(monkeypatch)
    page = page_of(tmp_path, write_run(tmp_path / "run"))
    out = tmp_path / "report"
    text = page.text.replace("\N{MINUS SIGN}", "-")
    for row in rows_of(out / "final.csv"):
        for name in ("mean", "iqm"):
            assert f"{float(row[name]):,.0f}" in text
            assert f"[{float(row[f'{name}_low']):,.0f}, {float(row[f'{name}_high']):,.0f}]" in text
    (pair,) = rows_of(out / "pairs.csv")
    assert f"{float(pair['probability']):.2f}" in text
    last = [row for row in rows_of(out / "curves.csv") if row["step"] == "20000"]
    finals = rows_of(out / "final.csv")  # of one evaluation here
    assert [row["mean"] for row in last] == [row["mean"] for row in finals]
    documented = re.findall(r"Columns of (\w+\.csv)", page.text)
    assert set(documented) == TABLES


def test_connections_of_dense_lanes_have_weights_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_drawing(monkeypatch)
    page_of(tmp_path, write_run(tmp_path / "run"))
    rows = rows_of(tmp_path / "report" / "connections.csv")
    assert {row["network"] for row in rows} == {"actor", "critic1", "critic2"}
    assert len(rows) == 8 * 4 * 3
    for row in rows:
        assert (row["precision"] == "") == (row["policy"] == "SAC")
        assert float(row["real_weight"]) > 0 and row["num_features"] == "170"


def test_several_tasks_are_compared_on_one_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_drawing(monkeypatch)
    lanes = run_lanes(envs=["Hopper-v3", "Walker2d-v3"], num_seeds=3)
    page = page_of(tmp_path, write_run(tmp_path / "run", lanes))
    assert "0 is the mean return at the first evaluation over dense lanes" in page.text
    assert "Scale of each task" in page.text and "Returns of 2 tasks" in page.text


def test_settings_that_differ_stand_apart_from_those_that_all_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_drawing(monkeypatch)
    page = page_of(tmp_path, write_run(tmp_path / "run", run_lanes(batch_size=77)))
    differ, shared = page.text.split("Settings that differ between arms", 1)[1].split(
        "Settings that all lanes share", 1
    )
    assert "input_layer_sparsity" in differ and "batch_size" not in differ
    assert "batch_size77" in shared and "input_layer_sparsity" not in shared


def test_every_commit_that_trained_the_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_drawing(monkeypatch)
    starts = [{"commit": "aaa111"}, {"commit": "bbb222"}, {"commit": "aaa111"}]
    run = write_run(tmp_path / "run", manifest={"commit": "aaa111", "starts": starts})
    assert "aaa111, bbb222" in page_of(tmp_path, run).text
