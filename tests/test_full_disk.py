"""A disk that takes nothing for a while: rows wait, in order, none lost, none doubled, none torn.

Simulated everywhere; with real file systems where the tests may mount some.
"""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastanf.pending import RecordsPending
from fastanf.records import RunFolder, read_manifest
from fastanf.rows import (
    QuarantineRow,
    TrainingRow,
    read_evaluations,
    read_quarantine,
    read_training,
)
from tests.record_samples import fail_after, make_run, sample_evaluation

BOTH = (0, 1)
"""Lanes of the run."""

TROUBLES = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO]


def append(run: RunFolder, step: int) -> None:
    run.append([TrainingRow(lane, step, step) for lane in (0, 1)])
    run.append([sample_evaluation(lane, step) for lane in (0, 1)])


def expect(path: Path, *steps: int) -> None:
    """Whole tables with these steps, each once, in order."""
    wanted = [(lane, step) for step in steps for lane in (0, 1)]
    assert [(row.lane, row.step) for row in read_evaluations(path)] == wanted
    assert [(row.lane, row.step) for row in read_training(path)] == wanted
    for name in ("eval.csv", "train.csv"):
        assert (path / name).read_text().endswith("\n")


@pytest.mark.parametrize("number", TROUBLES)
@pytest.mark.parametrize("num_bytes", [0, 1, 70, 200])
@pytest.mark.parametrize("also", [(), ("ftruncate",)])
def test_rows_wait_for_the_disk_and_come_once_and_in_order(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    num_bytes: int,
    also: tuple[str, ...],
) -> None:
    run = make_run(tmp_path)
    lines: list[str] = []
    run.on_trouble = lines.append
    append(run, 5)
    with monkeypatch.context() as patch:
        fail_after(patch, num_bytes, number, also)
        for step in (10, 15, 20):
            append(run, step)
            assert run.has_pending and not run.flush()
    assert len(lines) == 1 and "wait in memory, the training goes on" in lines[0]
    assert run.flush() and not run.has_pending
    assert len(lines) == 2 and lines[1].endswith("are written again")
    expect(run.path, 5, 10, 15, 20)
    append(run, 25)
    expect(run.path, 5, 10, 15, 20, 25)
    seals = run.seals(BOTH)
    run.check_seals(seals, BOTH, 25)
    run.close()
    with RunFolder.open(run.path) as again:
        assert again.seals(BOTH) == seals
    assert len(lines) == 2


def test_the_next_append_writes_what_waits_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    with monkeypatch.context() as patch:
        fail_after(patch, 30, errno.ENOSPC)
        append(run, 5)
    append(run, 10)
    assert not run.has_pending
    expect(run.path, 5, 10)


def test_a_second_trouble_is_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    lines: list[str] = []
    run.on_trouble = lines.append
    for number in (errno.ENOSPC, errno.EROFS):
        with monkeypatch.context() as patch:
            fail_after(patch, 0, number)
            append(run, 5)
        assert run.flush()
    assert [line.split(":")[0] for line in lines[::2]] == [
        "the disk is full",
        "the file system is read-only",
    ]
    assert len(lines) == 4


def test_without_a_listener_the_trouble_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(tmp_path)
    with monkeypatch.context() as patch:
        fail_after(patch, 0, errno.ENOSPC)
        append(run, 5)
    run.close()
    assert [record.message.split(":")[0][:16] for record in caplog.records] == [
        "the disk is full",
        f"records of {run.path}"[:16],
    ]


def test_mirrors_get_rows_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    mirrored: list[Any] = []
    monkeypatch.setattr(run._mirrors, "add", mirrored.extend)
    with monkeypatch.context() as patch:
        fail_after(patch, 0, errno.ENOSPC)
        run.append([QuarantineRow(0, 5, 5, "nan")])
    assert mirrored == [QuarantineRow(0, 5, 5, "nan")] and read_quarantine(run.path) == []
    run.close()
    assert read_quarantine(run.path) == mirrored


def test_an_interrupt_doubles_and_loses_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C right after the bytes are synced, when the program does not know that yet."""
    run = make_run(tmp_path)
    sync = os.fsync

    def interrupt(file: int) -> None:
        sync(file)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.append([TrainingRow(lane, 5, 5) for lane in (0, 1)])
    run.append([sample_evaluation(lane, 5) for lane in (0, 1)])
    expect(run.path, 5)


def test_the_status_waits_and_comes_after_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    with monkeypatch.context() as patch:
        fail_after(patch, 0, errno.ENOSPC)
        append(run, 5)
        run.set_status("interrupted", cause="x")
        run.set_status("finished")
        assert run.has_pending and read_manifest(run.path)["status"] == "running"
        patch.undo()
        fail_after(patch, 30, errno.ENOSPC)
        assert not run.flush() and read_manifest(run.path)["status"] == "running"
    assert run.flush() and not run.has_pending
    manifest = read_manifest(run.path)
    assert (manifest["status"], manifest["cause"]) == ("finished", "x")
    expect(run.path, 5)


def test_seals_are_of_what_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    append(run, 5)
    before = run.seals(BOTH)
    with monkeypatch.context() as patch:
        fail_after(patch, 20, errno.ENOSPC)
        append(run, 10)
        assert run.seals(BOTH) == before
        run.check_seals(before, BOTH, 5)
    after = run.seals(BOTH)  # writes what waits, now that it can
    assert after["eval.csv"]["bytes"] > before["eval.csv"]["bytes"] and not run.has_pending
    run.check_seals(before, BOTH, 5)
    run.check_seals(after, BOTH, 10)


def test_rows_that_wait_survive_the_truncation_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next block begins while the rows of the one before still wait."""
    run = make_run(tmp_path)
    run.append([sample_evaluation(1, 3)])
    run.append([sample_evaluation(0, 5)])
    with monkeypatch.context() as patch:
        fail_after(patch, 9, errno.ENOSPC, also=["ftruncate"])
        run.append([sample_evaluation(0, 10)])
    run.truncate({1: -1})
    run.append([sample_evaluation(1, 5)])
    assert [(row.lane, row.step) for row in read_evaluations(run.path)] == [(0, 5), (0, 10), (1, 5)]


def test_a_run_that_ends_with_rows_in_memory_says_so_after_releasing_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "a b")
    with monkeypatch.context() as patch:
        fail_after(patch, 0, errno.ENOSPC)
        append(run, 5)
        append(run, 10)
        run.append([QuarantineRow(0, 5, 5, "nan")])
        run.set_status("interrupted")
        line = (
            r"^not on the disk: 4 rows of eval\.csv, 4 rows of train\.csv, 1 row of "
            r"quarantine\.csv, status interrupted; free some space, then `python -m fastanf resume "
            r"'.*/a b/run'` trains again from the last checkpoint and writes them$"
        )
        with pytest.raises(RecordsPending, match=line) as caught:
            run.close()
        run.close()  # said once
        assert (run.path / "lock").read_bytes() == b"" or not run.path.exists()
    assert caught.value.waiting == {"eval.csv": 4, "train.csv": 4, "quarantine.csv": 1}
    with RunFolder.open(run.path) as again:
        assert again.took_over is None
    expect(run.path)


def test_rows_left_in_memory_are_an_error_of_a_run_that_ended_well_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch, pytest.raises(RecordsPending), make_run(tmp_path) as run:
        fail_after(patch, 0, errno.ENOSPC)
        append(run, 5)
    failure = KeyError("what really happened")
    with monkeypatch.context() as patch, pytest.raises(KeyError) as caught:  # noqa: SIM117
        with RunFolder.open(run.path) as run:
            fail_after(patch, 0, errno.ENOSPC)
            append(run, 5)
            raise failure
    assert caught.value is failure
    assert "not on the disk: 2 rows of eval.csv" in caplog.text


def test_other_failures_are_raised_and_keep_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    with monkeypatch.context() as patch:
        fail_after(patch, 0, errno.ENOSPC)
        append(run, 5)
    with monkeypatch.context() as patch:
        fail_after(patch, 0, errno.EPERM)
        with pytest.raises(PermissionError):
            append(run, 10)
        with pytest.raises(PermissionError):
            run.flush()
    append(run, 15)
    expect(run.path, 5, 15)


def mounted(*command: str) -> None:
    done = subprocess.run(["mount", *command], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting a file system is not allowed here: {done.stderr.splitlines()[0]}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mounted("-t", "tmpfs", "-o", "size=256k", "none", str(disk))
    except FileNotFoundError:
        pytest.skip("this system has no command to mount a file system")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill_disk(disk: Path) -> Path:
    filler = disk / "filler"
    with pytest.raises(OSError, match="No space left"), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return filler


def test_a_real_full_disk_loses_no_row(small_disk: Path) -> None:
    run = make_run(small_disk)
    append(run, 1)
    filler = fill_disk(small_disk)
    steps = range(2, 200)  # more than fits into the last pages of the tables
    for step in steps:
        append(run, step)
    run.set_status("interrupted")
    assert run.has_pending and read_manifest(run.path)["status"] == "running"
    filler.unlink()
    assert run.flush() and not run.has_pending
    expect(run.path, 1, *steps)
    assert read_manifest(run.path)["status"] == "interrupted"
    run.check_seals(run.seals(BOTH), BOTH, 200)
    run.close()


def test_a_real_full_disk_at_the_end_is_said_and_the_run_goes_on_later(small_disk: Path) -> None:
    run = make_run(small_disk)
    append(run, 1)
    filler = fill_disk(small_disk)
    for step in range(2, 200):
        append(run, step)
    with pytest.raises(RecordsPending, match=r"rows of eval\.csv"):
        run.close()
    filler.unlink()
    with RunFolder.open(run.path) as again:
        again.truncate({0: 1, 1: 1})
        append(again, 2)
    expect(run.path, 1, 2)


def test_a_run_is_not_created_on_a_real_full_disk(small_disk: Path) -> None:
    filler = fill_disk(small_disk)
    with pytest.raises(ValueError, match=r"^run_dir .* cannot be made \(No space left on device"):
        make_run(small_disk)
    assert os.listdir(small_disk) == ["filler"]
    filler.unlink()
    make_run(small_disk).close()


def test_a_real_read_only_disk_loses_no_row(small_disk: Path) -> None:
    run = make_run(small_disk)
    append(run, 1)
    mounted("--bind", str(small_disk), str(small_disk))  # over it, as its lock is open for writing
    mounted("-o", "remount,bind,ro", str(small_disk))
    append(run, 2)
    run.set_status("interrupted")
    assert run.has_pending
    expect(run.path, 1)
    with pytest.raises(ValueError, match=r"cannot be locked \(Read-only file system\)"):
        RunFolder.open(run.path)
    subprocess.run(["umount", str(small_disk)], check=True)
    append(run, 3)
    expect(run.path, 1, 2, 3)
    assert read_manifest(run.path)["status"] == "interrupted"
    run.close()
