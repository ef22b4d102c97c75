"""Files that are whole or not there, and that are files at all."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastanf import files
from fastanf.files import append_text, check_own_entries, cut_file, read_regular, write_atomic
from tests.record_samples import fail_after, names_in


def make_link(path: Path) -> None:
    target = path.with_name("target")
    target.write_text("mine")
    path.symlink_to(target)


STRANGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "link": (make_link, "symbolic link"),
    "link to nothing": (lambda path: path.symlink_to("nothing"), "symbolic link"),
    "FIFO": (os.mkfifo, "FIFO"),
    "socket": (lambda path: os.mknod(path, stat.S_IFSOCK | 0o600), "socket"),
    "folder": (os.mkdir, "folder"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_only_regular_files_are_read_appended_to_or_cut(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    STRANGE[kind][0](path)
    for use in (
        lambda: read_regular(path, 100),
        lambda: append_text(path, "text"),
        lambda: cut_file(path, 0),
        lambda: files.sha256_of(path, 10),
    ):
        with pytest.raises(ValueError, match=r"^'.*file' is no regular file: .*$"):
            use()
    if kind == "link":
        assert (tmp_path / "target").read_text() == "mine"


def test_a_device_is_not_read() -> None:
    with pytest.raises(ValueError, match="no regular file"):
        read_regular(Path("/dev/zero"), 100)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    for use in (lambda: read_regular(tmp_path / "no", 1), lambda: append_text(tmp_path / "no", "")):
        with pytest.raises(FileNotFoundError):
            use()
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("size", [0, 1, 100, files._CHUNK + 1])
def test_a_file_is_read_up_to_its_limit(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    assert read_regular(tmp_path / "file", size) == data
    if size:
        with pytest.raises(ValueError, match=f"has {size} bytes: at most {size - 1} are allowed$"):
            read_regular(tmp_path / "file", size - 1)


def test_a_file_that_is_too_large_is_not_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(tmp_path / "file", "wb") as file:
        file.truncate(2**40)
    monkeypatch.setattr(os, "read", lambda *_: pytest.fail("it was read"))
    with pytest.raises(ValueError, match="has 1099511627776 bytes"):
        read_regular(tmp_path / "file", 2**20)


def test_a_file_that_grows_while_it_is_read_stays_within_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"1")
    monkeypatch.setattr(os, "read", lambda file, size: bytes(size))
    with pytest.raises(ValueError, match="at most 10 are allowed"):
        read_regular(tmp_path / "file", 10)


@pytest.mark.parametrize("num_bytes", [0, 1, 999, 1000, 1001])
def test_a_sum_is_of_the_first_bytes(tmp_path: Path, num_bytes: int) -> None:
    data = os.urandom(1000)
    (tmp_path / "file").write_bytes(data)
    size, digest = files.sha256_of(tmp_path / "file", num_bytes)
    assert size == min(num_bytes, 1000)
    assert digest.digest() == hashlib.sha256(data[:num_bytes]).digest()


def test_a_file_is_replaced_as_a_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"first")
    with monkeypatch.context() as patch:
        fail_after(patch, 3, errno.ENOSPC)
        with pytest.raises(OSError, match="No space left"):
            write_atomic(path, b"second")
    assert path.read_bytes() == b"first" and names_in(tmp_path) == ["file"]
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second" and names_in(tmp_path) == ["file"]


def test_replacing_writes_through_no_link(tmp_path: Path) -> None:
    path, beside = tmp_path / "file", tmp_path / f".file.{os.getpid()}.tmp"
    for trap in (path, beside):
        make_link(trap)
        write_atomic(path, b"new")
        assert (tmp_path / "target").read_text() == "mine"
        assert path.read_bytes() == b"new" and not path.is_symlink()
        assert names_in(tmp_path) == ["file", "target"]


def test_what_killed_processes_left_beside_files_is_removed(tmp_path: Path) -> None:
    others = [".b.12.tmp", ".a.x.tmp", ".a.12.tmp~", "a", "a.12.tmp"]
    for name in (".a.12.tmp", ".a.7.tmp", *others):
        (tmp_path / name).write_text("")
    files.remove_unfinished(tmp_path, ["a", "c"])
    assert names_in(tmp_path) == sorted(others)


def test_an_append_that_fails_adds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("one\n")
    for num_bytes in (0, 2, 4):
        with monkeypatch.context() as patch:
            fail_after(patch, num_bytes, errno.EIO)
            with pytest.raises(OSError, match="Input/output"):
                append_text(path, "zwei\n")
        assert path.read_text() == "one\n"
    append_text(path, "zwei\n")
    assert path.read_text() == "one\nzwei\n"


def test_what_a_failed_append_could_not_take_back_is_cut_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("one\n")
    with monkeypatch.context() as patch:
        fail_after(patch, 2, errno.EIO, also=["ftruncate"])
        with pytest.raises(OSError, match="Input/output"):
            append_text(path, "zwei\n")
    assert path.read_text() == "one\nzw"
    append_text(path, "zwei\n", keep=4)
    assert path.read_text() == "one\nzwei\n"
    append_text(path, "3\n", keep=100)
    assert path.read_text() == "one\nzwei\n3\n"


def test_a_file_is_cut_and_never_made_longer(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("123456")
    cut_file(path, 4)
    cut_file(path, 100)
    assert path.read_text() == "1234"


def make_own_folder(path: Path) -> Path:
    (path / "deep/er").mkdir(parents=True)
    for name in ("a", "deep/b", "deep/er/c"):
        (path / name).write_text("")
    (path / "elsewhere").symlink_to("/")  # not one of its names
    return path


def test_own_entries_may_be_files_and_folders_or_missing(tmp_path: Path) -> None:
    folder = make_own_folder(tmp_path / "folder")
    check_own_entries(folder, ["a", "missing"], ["deep", "absent"])
    (tmp_path / "link").symlink_to(folder)
    check_own_entries(tmp_path / "link", ["a"], ["deep"])


@pytest.mark.parametrize("kind", STRANGE)
@pytest.mark.parametrize("place", ["a", "deep/b", "deep/er/c", "deep"])
def test_own_entries_of_other_kinds_are_refused(tmp_path: Path, kind: str, place: str) -> None:
    folder = make_own_folder(tmp_path / "folder")
    if place == "deep":
        (folder / "deep").rename(tmp_path / "away")
    else:
        (folder / place).unlink()
    make, words = STRANGE[kind]
    make(folder / place)
    if kind == "folder" and place.startswith("deep"):
        check_own_entries(folder, ["a"], ["deep"])
        return
    with pytest.raises(ValueError, match=rf"has '{place}', which is a {words}: only .* in its pla"):
        check_own_entries(folder, ["a"], ["deep"])


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep").write_text("")
    with pytest.raises(ValueError, match="has 'deep', which is a file"):
        check_own_entries(tmp_path, [], ["deep"])
