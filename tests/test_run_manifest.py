"""manifest.json and lanes.csv: damage is seen, nonsense is refused in one line, old ones open."""

import dataclasses
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from fastanf import run_manifest
from fastanf.records import RunFolder
from fastanf.run_manifest import check_lanes, manifest_bytes, read_manifest, run_settings
from fastanf.settings import RunConfig
from tests.record_samples import LANES, change_manifest, fail_after, make_run, names_in

OLD = {"format_version": 1, "status": "finished", "versions": {"torch": "2.9", "envpool": None}}


def write(folder: Path, content: Any) -> Path:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / "manifest.json").write_bytes(data)
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError) as caught:
        read_manifest(folder)
    line = str(caught.value)
    assert line.startswith(f"run_dir {str(folder)!r}") and line.isprintable() and len(line) < 700
    return line


def test_a_manifest_reads_back_as_it_was_written(tmp_path: Path) -> None:
    content = {
        **OLD,
        "text": "ü\ud800",
        "number": 0.1 + 0.2,
        "nested": {"b": [1, None], "a": 2**70},
    }
    lanes = {"lanes_sha256": ["0" * 64]}
    (tmp_path / "manifest.json").write_bytes(manifest_bytes({**content, **lanes}))
    assert read_manifest(tmp_path) == {**content, **lanes}


def test_a_manifest_of_an_older_version_has_no_checksum_and_is_read(tmp_path: Path) -> None:
    assert read_manifest(write(tmp_path, OLD)) == OLD


def test_every_flipped_bit_of_a_manifest_is_seen(tmp_path: Path) -> None:
    content = {**OLD, "lanes_sha256": ["0" * 64], "device": "cpu"}
    data = manifest_bytes(content)
    for index in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[index] ^= 1 << bit
            try:
                found = read_manifest(write(tmp_path, bytes(changed)))
            except ValueError:
                continue
            assert found == content, f"byte {index}, bit {bit}"  # white space


def test_a_changed_manifest_is_refused_in_one_line(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    text = (run.path / "manifest.json").read_text()
    (run.path / "manifest.json").write_text(text.replace('"running"', '"finished"'))
    assert "manifest.json was changed or is damaged: put it back" in refusal(run.path)
    (run.path / "manifest.json").write_text(text.replace('"sha256"', '"sha"'))
    assert "was changed or is damaged" in refusal(run.path)


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


HOSTILE = {
    "empty": b"",
    "half": b'{"format_version": 1, "stat',
    "not UTF-8": b'{"format_version": 1, "status": "\xff"}',
    "byte order mark": b"\xef\xbb\xbf{}",
    "deep": nested(200_000),
    "deep list": b"[" * 200_000,
    "nan": b'{"format_version": 1, "status": "running", "x": NaN}',
    "infinite": b'{"format_version": 1, "status": "running", "x": 1e999}',
    "digits": b'{"format_version": ' + b"9" * 10_000 + b"}",
    "twice": b'{"format_version": 1, "status": "running", "status": "finished"}',
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_plain_json_is_refused(tmp_path: Path, data: bytes) -> None:
    assert "manifest.json is not JSON as a run writes it" in refusal(write(tmp_path, data))


@pytest.mark.parametrize("content", [[], "text", 1, None, {}, {"format_version": True}, b"9" * 99])
def test_what_has_no_known_format_is_refused(tmp_path: Path, content: Any) -> None:
    line = refusal(write(tmp_path, content))
    assert "has format_version" in line and "allowed is 1" in line


@pytest.mark.parametrize("depth", range(100, 1100, 100))
def test_a_deep_manifest_is_refused_in_one_line(tmp_path: Path, depth: int) -> None:
    data = b'{"format_version":1,"status":"running","lanes_sha256":["' + b"0" * 64 + b'"],"x":'
    assert refusal(write(tmp_path, data + nested(depth) + b"}"))


def test_a_manifest_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "manifest.json", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="has 1099511627776 bytes: at most 16777216 are allowed"):
        read_manifest(tmp_path)


def test_a_manifest_that_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(ValueError, match="no regular file"):
        read_manifest(tmp_path)


SUM = "0" * 64
WRONG = [
    ("status", "sleeping"),
    ("status", ["running"]),
    ("status", None),
    ("run", []),
    ("run", "text"),
    ("study", "name"),
    ("study", {"name": 7, "file": ""}),
    ("study", {"name": "x"}),
    ("starts", {}),
    ("starts", [1]),
    ("starts", [{"started_at": 1, "commit": None, "versions": {}}]),
    ("starts", [{"started_at": "", "commit": [], "versions": {}}]),
    ("starts", [{"started_at": "", "commit": None, "versions": []}]),
    ("versions", ["torch"]),
    ("versions", {"torch": 2.9}),
    ("num_starts", -1),
    ("num_starts", True),
    ("num_starts", 10**30),
    ("num_starts", "1"),
    ("num_threads", 1.5),
    ("command_line", 1),
    ("command_line", [1]),
    ("command_lines", "text"),
    ("device", None),
    ("kernels", {}),
    ("platform", []),
    ("started_at", 0),
    ("updated_at", None),
    ("commit", 5),
    ("lanes_sha256", SUM),
    ("lanes_sha256", []),
    ("lanes_sha256", [SUM] * 3),
    ("lanes_sha256", ["x" * 64]),
    ("device", ["\x1b[2J" * 10_000]),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{n} {v!r:.30}" for n, v in WRONG])
def test_entries_of_other_types_are_refused_by_name(tmp_path: Path, name: str, value: Any) -> None:
    content = {**OLD, "lanes_sha256": [SUM], name: value}
    (tmp_path / "manifest.json").write_bytes(manifest_bytes(content))
    assert f"{name} in manifest.json must be " in refusal(tmp_path)


def test_a_manifest_without_status_is_refused(tmp_path: Path) -> None:
    assert "has no status" in refusal(write(tmp_path, {"format_version": 1}))


def test_a_run_does_not_write_what_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        RunFolder.create(tmp_path / "run", {"x": float("nan")}, LANES)
    assert names_in(tmp_path) == []


def test_changed_lanes_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.close()
    lanes = run.path / "lanes.csv"
    data = lanes.read_bytes()
    assert check_lanes(run.path, read_manifest(run.path)) == data
    lanes.write_bytes(data.replace(b"SAC", b"TD3", 1))
    for use in (lambda: check_lanes(run.path, run.manifest), lambda: RunFolder.open(run.path)):
        with pytest.raises(ValueError, match=r"^run_dir .*: lanes\.csv was changed or is damaged"):
            use()
    lanes.unlink()
    with pytest.raises(ValueError, match=r"no readable lanes\.csv \(No such file"):
        RunFolder.open(run.path)


def test_a_run_of_an_older_version_opens_and_gets_its_checksums(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.close()
    write(run.path, OLD)
    (run.path / "quarantine.csv").unlink()
    with RunFolder.open(run.path) as again:
        again.begin_again()
    text = (run.path / "manifest.json").read_text()
    assert '"sha256"' in text and '"lanes_sha256"' in text
    check_lanes(run.path, read_manifest(run.path))
    assert (run.path / "quarantine.csv").read_text().count("\n") == 1


@pytest.mark.parametrize("number", [1, 2, 3])
def test_lanes_and_manifest_agree_whenever_the_writing_of_lanes_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    run = make_run(tmp_path)
    further = [*LANES, {"lane": 2, "block": 1, "policy": "TD3", "seed": 0}]
    replace, calls = os.replace, []

    def stop_at(*paths: Any) -> None:
        calls.append(paths)
        if len(calls) == number:
            raise KeyboardInterrupt
        replace(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop_at)
        with pytest.raises(KeyboardInterrupt):
            run.write_lanes(further)
    run.close()
    with RunFolder.open(run.path) as again:
        assert (b"TD3" in check_lanes(run.path, again.manifest)) == (number == 3)
        again.write_lanes(further)
        again.set_status("interrupted")
    manifest = read_manifest(run.path)
    assert b"TD3" in check_lanes(run.path, manifest) and len(manifest["lanes_sha256"]) == 1


def test_lanes_that_were_changed_are_not_written_over(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run.path / "lanes.csv").write_text("lane,block\n")
    with pytest.raises(ValueError, match="was changed or is damaged"):
        run.write_lanes(LANES)
    assert (run.path / "lanes.csv").read_text() == "lane,block\n"


def test_lanes_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    before = (run.path / "lanes.csv").read_bytes()
    with monkeypatch.context() as patch:
        fail_after(patch, 10, errno.ENOSPC)
        with pytest.raises(ValueError, match=r"^lanes\.csv of .* cannot be written \(No space"):
            run.write_lanes([*LANES, {"lane": 2, "policy": "TD3", "seed": 0}])
    assert (run.path / "lanes.csv").read_bytes() == before
    run.close()
    RunFolder.open(run.path).close()


def test_settings_of_the_command_come_back_without_a_place(tmp_path: Path) -> None:
    run = RunConfig(num_seeds=3, vary=("tau=0.1,0.2",), run_dir="/somewhere/else", device="cpu")
    folder = RunFolder.create(tmp_path / "run", {"run": dataclasses.asdict(run)}, LANES)
    assert run_settings(read_manifest(folder.path)) == dataclasses.replace(run, run_dir=None)
    assert run_settings({"run": {"num_threads": 2}}) == RunConfig(num_threads=2)  # an older version


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "has no settings of a command"),
        ([], "has no settings of a command"),
        ({"fly": 1}, "the setting 'fly', which this version does not know"),
        ({"x\n" * 1000: 1}, "the setting 'x.*does not know"),
        ({"num_threads": "many"}, "num_threads must be an integer"),
        ({"num_threads": 10**400}, "num_threads must be an integer"),
        ({"num_seeds": None}, "num_seeds must be an integer"),
        ({"vary": 5}, "vary must be "),
        ({"device": {}}, "device must be "),
        ({"impl": "magic" * 1000}, "impl must be one of auto"),
        ({"tensorboard": 1}, "tensorboard must be true or false"),
    ],
)
def test_settings_that_are_not_a_command_s_are_refused_in_one_line(
    settings: Any, message: str
) -> None:
    manifest = {} if settings is None else {"run": settings}
    with pytest.raises(ValueError, match=rf"^manifest\.json.*{message}") as caught:
        run_settings(manifest)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_an_entry_is_changed_with_its_checksum(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    change_manifest(run.path, device="other")
    assert read_manifest(run.path)["device"] == "other"
    assert run_manifest.STATUSES[0] == read_manifest(run.path)["status"]
