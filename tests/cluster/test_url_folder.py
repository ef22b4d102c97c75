"""Files in a store are there as a whole or not at all, and every trouble is a line with advice."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from fastanf.cluster import url_folder
from fastanf.cluster.url_folder import NotThere, StoreError, UrlFolder
from fastanf.files import is_disk_trouble
from tests.cluster.faulty_store import KINDS, Faults, FaultyFileSystem, faulty, names_at, url

__all__ = ["faulty", "url"]

FAULTY = "faulty://bucket/runs/x"


def test_files_come_back_as_they_were_put(url: str, tmp_path: Path) -> None:
    store = UrlFolder(f"{url}/")
    assert store.sizes() == {} and store.folders() == [] and not store.has("a")
    store.put("a", b"one")
    store.put("a", b"three")
    (tmp_path / "file").write_bytes(b"12345678")
    store.below("folder").put_file("b", tmp_path / "file")
    store.put("empty", b"")
    assert store.sizes() == {"a": 5, "empty": 0} and store.folders() == ["folder"]
    assert store.has("a") and not store.has("folder") and not store.has("b")
    assert store.get("a", 5) == b"three"
    assert UrlFolder(f"{url}/folder").sizes() == {"b": 8}
    with pytest.raises(ValueError, match="more than the 4 bytes"):
        store.get("a", 4)
    with pytest.raises(NotThere, match="FileNotFoundError"):
        store.get("b", 9)
    store.remove("a")
    store.remove("a")
    assert names_at(url) == {"empty", "folder"}


def test_a_file_is_fetched_in_the_place_of_whatever_is_there(url: str, tmp_path: Path) -> None:
    store, target, elsewhere = UrlFolder(url), tmp_path / "target", tmp_path / "elsewhere"
    store.put("a", bytes(range(200)))
    elsewhere.write_text("mine")
    target.symlink_to(elsewhere)
    store.get_file("a", target, 200)
    assert target.read_bytes() == bytes(range(200)) and not target.is_symlink()
    assert elsewhere.read_text() == "mine"
    with pytest.raises(ValueError, match="is cut off"):
        store.get_file("a", target, 201)


def test_a_new_file_is_put_once(url: str) -> None:
    store = UrlFolder(url)
    assert store.put_new("a", b"one") is True
    assert store.put_new("a", b"two") is False
    assert store.get("a", 9) == b"one"


def test_a_file_without_content_is_read(url: str, faulty: Any) -> None:
    for place in (url, FAULTY):  # one of them answers such a request with an error
        UrlFolder(place).put("empty", b"")
        assert UrlFolder(place).get("empty", 9) == b""


@pytest.mark.parametrize("error", [TypeError("mode"), OSError(errno.ENOSYS, "no such thing")])
def test_a_store_that_cannot_put_a_file_once_puts_it(
    faulty: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    pipe_file = FaultyFileSystem.pipe_file

    def plain(store: Any, path: str, value: bytes, **options: Any) -> None:
        if options:
            raise error
        pipe_file(store, path, value)

    monkeypatch.setattr(FaultyFileSystem, "pipe_file", plain)
    assert UrlFolder(FAULTY).put_new("a", b"one") is True
    assert UrlFolder(FAULTY).get("a", 9) == b"one"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["put", "put_file"])
def test_half_a_file_is_never_seen(faulty: Any, tmp_path: Path, kind: str, how: str) -> None:
    (tmp_path / "file").write_bytes(b"new content")
    at = 0
    while True:
        at += 1
        faulty.files.clear()
        faulty.faults = Faults()
        store = UrlFolder(FAULTY)
        store.put("a", b"old")
        faulty.faults = faults = Faults(at, kind)
        try:
            store.put("a", b"new content") if how == "put" else store.put_file(
                "a", tmp_path / "file"
            )
        except StoreError as error:
            assert error.errno == errno.EIO and is_disk_trouble(error)
        faulty.faults = Faults()
        assert store.get("a", 99) in (b"old", b"new content")
        left = set(store.sizes()) - {"a"}
        assert all(name.startswith(url_folder.UNFINISHED) for name in left)
        if not faults.has_failed:
            assert store.get("a", 99) == b"new content" and not left
            break
    assert at >= 2


def test_a_local_file_is_put_beside_its_place_and_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader, who holds the old one open, sees the old one to its end."""
    store = UrlFolder(f"file://{tmp_path}/store")
    store.put("a", b"old")
    with open(tmp_path / "store" / "a", "rb") as reader:
        store.put("a", b"new")
        assert reader.read() == b"old" and store.get("a", 9) == b"new"
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["a"]


def test_links_and_devices_are_no_files(tmp_path: Path) -> None:
    store = UrlFolder(f"file://{tmp_path}/store")
    store.put("a", b"one")
    (tmp_path / "store" / "link").symlink_to("/etc/hostname")
    (tmp_path / "store" / "out").symlink_to("/etc")
    assert store.sizes() == {"a": 3} and store.folders() == []


WRONG_URLS = {
    "/a/path": "must be like s3://",
    "s3://": "must be like s3://",
    "s3:///": "must be like s3://",
    "": "must be like s3://",
    "file://relative/path": "must be like s3://",
    "simplecache::s3://bucket/x": "must be like s3://",
    "nothing://bucket/x": "protocol that fsspec knows",
    "nopackage://bucket/x": "pip install no_such_package",
}


@pytest.mark.parametrize("wrong", WRONG_URLS)
def test_a_wrong_url_is_told_in_one_line(wrong: str) -> None:
    fsspec.register_implementation("nopackage", "no_such_package.FileSystem", clobber=True)
    with pytest.raises(ValueError, match=WRONG_URLS[wrong]) as caught:
        UrlFolder(wrong)
    assert "\n" not in str(caught.value)


def test_a_file_system_that_cannot_be_made_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken(FaultyFileSystem):
        protocol = "broken"

        def __init__(self, *arguments: Any, **options: Any) -> None:
            raise RuntimeError("first\nsecond")

    fsspec.register_implementation("broken", Broken, clobber=True)
    with pytest.raises(ValueError, match=r"broken://bucket/x cannot be used \(RuntimeError") as e:
        UrlFolder("broken://bucket/x")
    assert "\n" not in str(e.value)


class NoCredentialsError(Exception):
    """As of botocore, which is no OSError."""


TROUBLES: dict[str, tuple[Exception, int, str]] = {
    "no bucket": (FileNotFoundError("no such bucket"), errno.ENOENT, "make the bucket"),
    "no permission": (PermissionError("Access Denied"), errno.EACCES, "log in to the store"),
    "no credentials": (NoCredentialsError("Unable to locate"), errno.EACCES, "log in"),
    "no connection": (ConnectionError("refused"), errno.EIO, "can be reached"),
    "no answer": (TimeoutError(), errno.EIO, "can be reached"),
    "busy": (OSError(errno.EBUSY, "slow down"), errno.EIO, "can be reached"),
    "anything": (RuntimeError("a\nb\n\n" + "c" * 1000), errno.EIO, "can be reached"),
    "full": (OSError(errno.ENOSPC, "No space left"), errno.ENOSPC, "free some space"),
    "a long name": (OSError(errno.ENAMETOOLONG, "too long"), errno.ENAMETOOLONG, "another URL"),
}
ACTIONS: dict[str, tuple[str, Callable[[UrlFolder], Any]]] = {
    "ls": ("listed", lambda store: store.sizes()),
    "info": ("read", lambda store: store.has("a")),
    "cat_file": ("read", lambda store: store.get("a", 9)),
    "pipe_file": ("written", lambda store: store.put("a", b"1")),
    "put_file": ("written", lambda store: store.put_file("a", Path(__file__))),
    "rm_file": ("removed", lambda store: store.remove("a")),
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("action", ACTIONS)
def test_every_trouble_is_an_os_error_that_says_what_to_do(
    faulty: Any, monkeypatch: pytest.MonkeyPatch, action: str, trouble: str
) -> None:
    error, number, advice = TROUBLES[trouble]
    done, do = ACTIONS[action]

    def fail(*_: Any, **__: Any) -> None:
        raise error

    store = UrlFolder(FAULTY)
    monkeypatch.setattr(FaultyFileSystem, action, fail)
    if number == errno.ENOENT and action in ("ls", "info", "rm_file"):
        assert not do(store)  # nothing is there: that is an answer
        return
    with pytest.raises(StoreError) as caught:
        do(store)
    line = str(caught.value.strerror)
    assert caught.value.errno == number and isinstance(caught.value, NotThere) == (number == 2)
    assert f"cannot be {done} ({type(error).__name__}" in line and advice in line
    assert line.startswith(FAULTY) and "\n" not in line and len(line) < 600
    copy = pickle.loads(pickle.dumps(caught.value))  # it goes from the driver to a worker
    assert (type(copy), copy.errno, copy.strerror) == (type(caught.value), number, line)


def test_an_interruption_is_none_of_the_stores_troubles(
    faulty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FaultyFileSystem, "cat_file", fail)
    with pytest.raises(KeyboardInterrupt):
        UrlFolder(FAULTY).get("a", 9)
