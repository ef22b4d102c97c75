"""A run that a store keeps comes back as an ordinary run folder, with which all commands work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fastanf import runner, saving
from fastanf.__main__ import main
from fastanf.block_run import BlockRun
from fastanf.checkpoint import block_path, lane_path, newest_checkpoint
from fastanf.cluster.fetch import fetch_command, fetch_run
from fastanf.cluster.remote_run import RemoteRun
from fastanf.cluster.url_checkpoints import UrlCheckpoints
from fastanf.cluster.url_folder import UrlFolder
from fastanf.learner import Learner
from fastanf.records import RunFolder
from tests import fake_env
from tests.cluster.faulty_store import Faults, faulty, names_at, read_at, remove_at, url, write_at
from tests.cluster.url_runs import resume_at, train_at
from tests.interruptions import at_call, records, signal_at_update
from tests.tiny_runs import ALWAYS_SAVING, BOTH, resume, status_of, steps_of, unbroken

__all__ = ["faulty", "url"]

FAULTY = "faulty://bucket/runs/x"
TWO_BLOCKS: dict[str, Any] = {**ALWAYS_SAVING, "env": BOTH}


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)
    monkeypatch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())
    monkeypatch.setattr(saving, "MOST_SHARE", 1.0)  # however long checkpoints take


def test_a_run_under_a_url_writes_what_a_local_one_does(url: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert train_at(url, path, **TWO_BLOCKS) == 0
    assert records(path) == unbroken(env=BOTH)
    line = fetch_run(url, tmp_path / "fetched")
    assert line.startswith(f"{tmp_path / 'fetched'}: a run that is ") and "2 blocks (2" in line
    assert records(tmp_path / "fetched") == unbroken(env=BOTH)
    for block in (0, 1):
        newest = newest_checkpoint(block_path(tmp_path / "fetched", block))
        assert newest is not None and newest.state["is_finished"]
        newest.check()
    assert {p.name for p in tmp_path.iterdir() if p.name != "store"} == {"run", "fetched"}


@pytest.mark.parametrize("update", [3, 25, 44])
def test_a_fetched_run_is_resumed_as_if_it_had_never_stopped(
    url: str, tmp_path: Path, update: int
) -> None:
    """On a machine that knows nothing of the store, from either of its blocks."""
    with signal_at_update(update):
        assert train_at(url, tmp_path / "run", **TWO_BLOCKS) == 130
    fetch_run(url, tmp_path / "fetched")
    shutil.rmtree(tmp_path / "run")
    assert status_of(tmp_path / "fetched") in ("running", "interrupted")
    assert resume(tmp_path / "fetched") == 0
    assert records(tmp_path / "fetched") == unbroken(env=BOTH)


@pytest.mark.parametrize("update", [2, 13, 31])
def test_a_run_goes_on_with_another_driver(url: str, tmp_path: Path, update: int) -> None:
    """The first one's machine is lost between two checkpoints, with records that none has seen."""

    def die() -> None:
        raise KeyboardInterrupt

    options = {**TWO_BLOCKS, "checkpoint_minutes": 1e6}
    with signal_at_update(update):
        assert train_at(url, tmp_path / "first", **options) == 130
    with at_call(Learner, "update_", 5, die):
        assert resume_at(url, tmp_path / "second") == 130
    shutil.rmtree(tmp_path / "second")
    assert resume_at(url, tmp_path / "third") == 0
    assert records(tmp_path / "third") == unbroken(env=BOTH)
    line = RemoteRun(url).fetch(tmp_path / "first")  # what the first one has is old by now
    assert line is not None and "first.before-1" in line
    assert records(tmp_path / "first") == unbroken(env=BOTH)


def test_all_commands_work_on_a_fetched_folder(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with signal_at_update(25):
        assert train_at(url, tmp_path / "run", **TWO_BLOCKS) == 130
    fetched = tmp_path / "fetched"
    assert fetch_command([url, str(fetched)]) == 0
    assert str(fetched) in capsys.readouterr().out
    assert main(["report", str(fetched), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").stat().st_size > 1000
    assert main(["export", str(fetched), "--format", "torch", "--out", str(tmp_path / "a.pt")]) == 0
    with RunFolder.open(fetched):
        pass


def test_the_checkpoint_of_a_lane_that_broke_down_comes_too(url: str, tmp_path: Path) -> None:
    with signal_at_update(12):
        assert train_at(url, tmp_path / "run", **ALWAYS_SAVING) == 130
    scratch = tmp_path / "scratch" / "block0"
    checkpoints = UrlCheckpoints(scratch, url=f"{url}/checkpoints/block0")
    found, _ = checkpoints.load()
    assert found is not None
    checkpoints.keep_for_lane(1, lambda state: True)
    fetch_run(url, tmp_path / "fetched")
    kept = newest_checkpoint(lane_path(tmp_path / "fetched", 1))
    assert kept is not None and kept.number == found.number and kept.spans == ()
    kept.check()


def test_where_the_newest_is_damaged_the_one_before_comes(url: str, tmp_path: Path) -> None:
    with signal_at_update(20):
        assert train_at(url, tmp_path / "run", **ALWAYS_SAVING) == 130
    folder = f"{url}/checkpoints/block0"
    numbers = [json.loads(read_at(f"{folder}/{n}"))["number"]
               for n in names_at(folder) if n.endswith("json")]  # fmt: skip
    (name,) = (n for n in names_at(folder) if n.startswith(f"tensors-{max(numbers)}-"))
    write_at(f"{folder}/{name}", read_at(f"{folder}/{name}")[:-1] + b"?")
    said: list[str] = []
    fetch_run(url, tmp_path / "fetched", said.append)
    (line,) = said
    assert f"checkpoint {max(numbers)} of {folder}" in line and "the one before is taken" in line
    names = {p.name for p in block_path(tmp_path / "fetched", 0).iterdir()}
    assert f"checkpoint-{min(numbers)}.json" in names and name not in names
    assert resume(tmp_path / "fetched") == 0
    assert records(tmp_path / "fetched") == unbroken()


def test_a_run_that_trains_is_fetched_whole(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its workers remove old checkpoints while they are read."""
    with signal_at_update(20):
        assert train_at(url, tmp_path / "run", **ALWAYS_SAVING) == 130
    get_file, is_done = UrlFolder.get_file, []

    def after_more_training(store: UrlFolder, name: str, path: Path, size: int) -> None:
        if not is_done:
            is_done.append(True)
            with signal_at_update(3):
                assert resume_at(url, tmp_path / "run") == 130
        get_file(store, name, path, size)

    monkeypatch.setattr(UrlFolder, "get_file", after_more_training)
    said: list[str] = []
    fetch_run(url, tmp_path / "fetched", said.append)
    assert said == [] and is_done
    newest = newest_checkpoint(block_path(tmp_path / "fetched", 0))
    ours = newest_checkpoint(block_path(tmp_path / "run", 0))
    assert newest is not None and ours is not None and newest.number == ours.number
    assert resume(tmp_path / "fetched") == 0
    assert records(tmp_path / "fetched") == unbroken()


def test_a_fetch_that_fails_anywhere_leaves_nothing(faulty: Any, tmp_path: Path) -> None:
    with signal_at_update(12):
        assert train_at(FAULTY, tmp_path / "run", **ALWAYS_SAVING) == 130
    at = 0
    while True:
        at += 1
        faulty.faults = Faults(at)
        try:
            fetch_run(FAULTY, tmp_path / "deep" / "fetched")
            break
        except ValueError as error:
            assert "\n" not in str(error) and "reached" in str(error)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]
    assert at > 10
    assert steps_of(tmp_path / "deep" / "fetched", 0) == [7]


@pytest.mark.parametrize("at", [4, 31, 102, 171])
def test_training_goes_on_while_the_store_takes_nothing(
    faulty: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], at: int
) -> None:
    """One of some hundred operations of the training fails when it is done."""
    train, faults = BlockRun.train, Faults(at, "after")

    def with_faults(block: BlockRun) -> None:
        faulty.faults = faults
        train(block)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BlockRun, "train", with_faults)
        patch.setattr(saving, "RETRY_S", 0.0)
        assert train_at(FAULTY, tmp_path / "run", **ALWAYS_SAVING) == 0
    assert faults.has_failed and records(tmp_path / "run") == unbroken()
    told = capsys.readouterr().out
    is_of_a_save = faults.done[at - 1][0] not in ("rm_file", "ls")
    assert ("checkpoints pause" in told) == ("are written again" in told) == is_of_a_save
    faulty.faults = Faults()
    fetch_run(FAULTY, tmp_path / "fetched")
    assert records(tmp_path / "fetched") == unbroken()


REFUSED: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "fetch takes URL and FOLDER, got none"),
    "no folder": (["s3://bucket/x"], "fetch takes URL and FOLDER"),
    "a flag": (["--film", "x"], "fetch takes URL and FOLDER"),
    "too much": (["s3://bucket/x", "a", "b"], "fetch takes URL and FOLDER"),
    "no URL": (["a", "b"], "URL must be like s3://BUCKET/RUN"),
}


@pytest.mark.parametrize("refused", REFUSED)
def test_wrong_arguments_are_told_in_one_line(
    refused: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, words = REFUSED[refused]
    with pytest.raises(SystemExit) as caught:
        fetch_command(argv)
    told = capsys.readouterr().err
    assert caught.value.code == 2 and words in told and told.count("\n") == 1


def test_help_says_what_it_does() -> None:
    said: list[str] = []
    assert fetch_command(["--help"], said.append) == 0
    assert "fetch URL FOLDER" in said[0]


def test_what_cannot_be_fetched_is_told_in_one_line(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no manifest.json: give the URL of a run"):
        fetch_run(url, tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match=r"FOLDER .* exists already"):
        fetch_run(url, tmp_path / "there")
    with signal_at_update(20):
        assert train_at(url, tmp_path / "run", **ALWAYS_SAVING) == 130
    for name in names_at(f"{url}/checkpoints/block0"):
        if name.startswith("tensors"):
            remove_at(f"{url}/checkpoints/block0/{name}")
    with pytest.raises(ValueError, match="put the files back as they were") as caught:
        fetch_run(url, tmp_path / "fetched")
    assert "\n" not in str(caught.value) and not (tmp_path / "fetched").exists()
