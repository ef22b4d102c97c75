"""`python -m fastanf report`: its arguments, its places, what it refuses."""

from pathlib import Path

import pytest

from fastanf.__main__ import main
from fastanf.report.command import parse
from tests.report_runs import Page, run_lanes, without_drawing, write_run


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    without_drawing(monkeypatch)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as error:
        main(["report", *arguments])
    assert error.value.code == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def small_run(path: Path, first_seed: int = 0) -> Path:
    return write_run(path, run_lanes(["SAC"], num_seeds=1, first_seed=first_seed), 2)


def test_a_report_of_one_run_lies_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small_run(tmp_path / "run")
    before = {path: path.read_bytes() for path in run.glob("*.csv")}
    assert main(["report", str(run)]) == 0
    page = run / "report" / "index.html"
    assert capsys.readouterr().out == f"{page}\n"
    assert Page(page).headings[0] == (1, "run")
    assert {path: path.read_bytes() for path in run.glob("*.csv")} == before


def test_a_report_of_several_runs_lies_beside_and_replaces_an_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small_run(Path("a"))
    small_run(Path("b"), first_seed=1)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("old")
    (tmp_path / "report" / "notes.txt").write_text("mine")
    assert main(["report", "a", "b"]) == 0
    page = Page(tmp_path / "report" / "index.html")
    assert page.headings[0] == (1, "a and b")
    assert "SAC: lanes of a, b are one arm" in page.text
    assert (tmp_path / "report" / "notes.txt").read_text() == "mine"


def test_out_is_where_the_report_goes(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    out = tmp_path / "deep" / "place"
    assert main(["report", f"--out={out}", str(run)]) == 0
    assert (out / "index.html").is_file() and not (run / "report").exists()
    assert parse(["r", "--out", "o"]) == ([Path("r")], Path("o"))


def test_a_run_folder_is_never_the_place_of_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_run(tmp_path / "run")
    before = (run / "lanes.csv").read_bytes()
    assert "is a run folder" in refusal(capsys, str(run), "--out", str(run))
    assert (run / "lanes.csv").read_bytes() == before


def test_wrong_arguments_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(small_run(tmp_path / "run"))
    assert "one RUN or more" in refusal(capsys)
    assert "no option --output" in refusal(capsys, run, "--output", "x")
    assert "--out must be a folder" in refusal(capsys, run, "--out")
    assert "given twice" in refusal(capsys, run, run)
    assert "no readable manifest.json" in refusal(capsys, str(tmp_path / "none"))
    (tmp_path / "file").write_text("")
    assert "cannot be made" in refusal(capsys, run, "--out", str(tmp_path / "file" / "x"))


def test_help_says_what_the_command_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--help"]) == 0
    assert "--out FOLDER" in capsys.readouterr().out
