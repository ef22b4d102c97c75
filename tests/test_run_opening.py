"""A run folder that goes on: what is not opened, and what a killed process left in it."""

import errno
import os
from pathlib import Path

import pytest

from fastanf.records import RunFolder
from fastanf.rows import read_evaluations
from tests.record_samples import fail_after, make_run, names_in, sample_evaluation

STRANGE = {
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "FIFO": os.mkfifo,
    "folder link": lambda path: path.symlink_to("/tmp"),
}
OWN = ("eval.csv", "stages.csv", "learning_curve.png", "tb", "tb/x", "checkpoints/block0/x")


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("name", OWN)
def test_a_folder_that_leads_elsewhere_is_not_opened(tmp_path: Path, name: str, kind: str) -> None:
    run = make_run(tmp_path)
    run.close()
    place = run.path / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    STRANGE[kind](place)
    with pytest.raises(ValueError, match=rf"^.* has '{name}', which is a "):
        RunFolder.open(run.path)
    place.unlink()
    RunFolder.open(run.path).close()


def test_a_run_behind_a_link_and_with_links_of_others_opens(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.close()
    (run.path / "wandb").symlink_to("/tmp")
    (tmp_path / "link").symlink_to(run.path)
    with RunFolder.open(tmp_path / "link") as again:
        again.append([sample_evaluation(0)])
    assert len(read_evaluations(run.path)) == 1


def test_open_puts_no_lock_into_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="format_version"):
        RunFolder.open(tmp_path)
    assert names_in(tmp_path) == ["manifest.json"]


def test_open_removes_what_a_killed_process_left_of_a_replacement(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.close()
    before = names_in(run.path)
    (run.path / ".manifest.json.17.tmp").write_text("{")
    (run.path / ".eval.csv.17.tmp").write_text("")
    RunFolder.open(run.path).close()
    assert names_in(run.path) == before


def test_a_run_that_was_killed_is_known_to_the_next(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert run.took_over is None
    owner = (run.path / "lock").read_text()
    run.close()
    (run.path / "lock").write_text(owner)
    with RunFolder.open(run.path) as again:
        assert again.took_over is not None and again.took_over.pid == os.getpid()


def test_a_table_without_any_line_is_not_written_over(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.close()
    (run.path / "train.csv").write_text("one line that was all of it")
    with pytest.raises(ValueError, match=r"^train\.csv has no whole line: put it back"):
        RunFolder.open(run.path)
    assert (run.path / "train.csv").read_text() == "one line that was all of it"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_open_without_a_writable_disk_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    run = make_run(tmp_path)
    run.close()
    (run.path / "quarantine.csv").unlink()
    with monkeypatch.context() as patch:
        fail_after(patch, 0, number)
        with pytest.raises(ValueError, match=r"^run_dir .* cannot be written \(.*free space$"):
            RunFolder.open(run.path)
    RunFolder.open(run.path).close()
