"""A run in a store goes on from what was committed, whatever failed and wherever its driver was."""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastanf import provenance
from fastanf.checkpoint import Checkpoint, block_path, newest_checkpoint
from fastanf.cluster import run_copy, url_folder
from fastanf.cluster.remote_run import RemoteRun
from fastanf.records import RunFolder
from fastanf.rows import FILES, AnyRow, QuarantineRow, TrainingRow, columns, csv_line, row_lines
from fastanf.run_manifest import check_lanes, read_manifest
from fastanf.settings import RunConfig
from fastanf.tensor_file import Seal
from tests.cluster.faulty_store import (
    KINDS,
    Faults,
    faulty,
    names_at,
    read_at,
    remove_at,
    url,
    write_at,
)
from tests.record_samples import sample_evaluation

__all__ = ["faulty", "url"]

FAULTY = "faulty://bucket/runs/x"
BLOCKS = (range(2), range(2, 3))
LANES = [
    {"lane": lane, "block": index, "policy": "SAC", "seed": lane}
    for index, lanes in enumerate(BLOCKS)
    for lane in lanes
]
Tables = dict[str, list[str]]
"""Lines by table."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of run folders: without git, and without waiting for the disk."""
    monkeypatch.setattr(provenance, "_commit", lambda: None)
    monkeypatch.setattr(os, "fsync", lambda file: None)


class Driver:
    """Keeps the records of two blocks, as their workers would tell them."""

    def __init__(self, url: str, path: Path, *, is_new: bool = True) -> None:
        self.path, self.run = path, RemoteRun(url)
        self.moved = None if is_new else self.run.fetch(path)
        manifest = {"run": dataclasses.asdict(RunConfig()), "device": "cpu"}
        self.folder = RunFolder.create(path, manifest, LANES) if is_new else RunFolder.open(path)
        self.rows: list[list[tuple[str, str]]] = [[] for _ in BLOCKS]
        self.after: list[int | None] = [None for _ in BLOCKS]
        self.steps, self.numbers, self.history = [0, 0], [0, 0], 0

    def append(self, block: int, rows: list[AnyRow]) -> None:
        self.folder.append(rows)
        name = FILES[type(rows[0])]
        self.rows[block] += [(name, line) for line in row_lines(rows)]

    def evaluate(self, block: int) -> None:
        """Ten steps on; what is written differs from any other time the block was there."""
        self.steps[block] += 10
        self.history += 1
        step, lanes = self.steps[block], BLOCKS[block]
        loss = float(self.history)
        self.append(block, [TrainingRow(lane, step, step, critic_loss=loss) for lane in lanes])
        self.append(block, [sample_evaluation(lane, step, loss) for lane in lanes])

    def stop_lane(self, block: int) -> None:
        self.steps[block] += 1
        lane, step = BLOCKS[block][0], self.steps[block]
        self.append(block, [QuarantineRow(lane, step, step, "nan, in words")])

    def go_back(self, block: int, number: int, step: int) -> None:
        self.folder.truncate(dict.fromkeys(BLOCKS[block], step))
        self.rows[block], self.after[block], self.steps[block] = [], step, step
        self.numbers[block] = max(self.numbers[block], number)

    def index(self, block: int) -> tuple[str, bytes]:
        """The JSON file of the block's next checkpoint."""
        number = self.numbers[block] + 1
        state = {
            "step": self.steps[block],
            "seals": self.folder.seals(BLOCKS[block]),
            "is_finished": False,
        }
        seals = {f"tensors-{number}-w0000000{block}.safetensors": Seal(1, "0" * 64)}
        path, data = Checkpoint(Path(), number, state, seals).index()
        return path.name, data

    def commit(self, block: int, *, says_after: bool = True) -> None:
        name, data = self.index(block)
        after = self.after[block] if says_after else None
        self.run.commit(block, name, data, self.rows[block], after)
        self.numbers[block] += 1
        self.rows[block], self.after[block] = [], None

    def lines_of(self, block: int) -> Tables:
        """The block's rows now, up to its step."""
        lines: Tables = {}
        for name in FILES.values():
            header, *rest = (self.path / name).read_text().splitlines(keepends=True)
            at = header.split(",").index("step")
            lines[name] = [
                line
                for line in rest
                if int(line.split(",")[0]) in BLOCKS[block]
                and int(line.split(",")[at]) <= self.steps[block]
            ]
        return lines

    def begin_again(self) -> None:
        self.folder.begin_again(num_starts=self.folder.manifest.get("num_starts", 0) + 1)


def tables_of(path: Path) -> dict[str, str]:
    return {name: (path / name).read_text() for name in FILES.values()}


def whole(parts: list[Tables]) -> dict[str, str]:
    """Tables of the parts of the blocks."""
    return {
        name: csv_line(columns(kind)) + "".join(line for part in parts for line in part[name])
        for kind, name in FILES.items()
    }


def fetched(url: str, path: Path) -> Path:
    assert RemoteRun(url).fetch(path) is None
    return path


@pytest.mark.parametrize("says_after", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_rebuilt_tables_are_the_drivers_up_to_the_checkpoints(
    url: str, tmp_path: Path, seed: int, says_after: bool
) -> None:
    """Byte for byte, for any history of blocks at the same time that also go back."""
    choose = random.Random(seed)
    driver = Driver(url, tmp_path / "driver")
    driver.run.publish(driver.path)
    saved: list[list[tuple[int, Tables]]] = [[], []]  # step and rows at each checkpoint
    for _ in range(40):
        block = choose.randrange(2)
        action = choose.random()
        if action < 0.5:
            driver.evaluate(block)
        elif action < 0.6 and says_after:  # a row of its own kind that may not come again
            driver.stop_lane(block)
        elif action < 0.85:
            driver.commit(block, says_after=says_after)
            saved[block].append((driver.steps[block], driver.lines_of(block)))
        elif saved[block]:  # its worker was lost; the newest checkpoint may be damaged
            back = choose.randint(1, min(2, len(saved[block])))
            step = saved[block][-back][0]
            driver.go_back(block, driver.numbers[block], step)
    steps = [block[-1][0] if block else -1 for block in saved]
    empty = {name: [] for name in FILES.values()}
    expected = whole([block[-1][1] if block else empty for block in saved])
    path = fetched(url, tmp_path / "other")
    if says_after:
        assert tables_of(path) == expected
    with RunFolder.open(path) as folder:
        for index, lanes in enumerate(BLOCKS):
            newest = newest_checkpoint(block_path(path, index))
            assert (newest is None) == (not saved[index])
            if newest is not None:
                assert newest.state["step"] == steps[index]
                folder.check_seals(newest.state["seals"], lanes, steps[index])
            folder.truncate(dict.fromkeys(lanes, steps[index]))
    assert tables_of(path) == expected
    assert sum(map(len, expected.values())) > 500


def test_a_fetched_folder_is_as_the_drivers_but_for_tensors(url: str, tmp_path: Path) -> None:
    driver = Driver(url, tmp_path / "driver")
    driver.evaluate(0)
    driver.run.publish(driver.path)
    for _ in range(3):
        driver.evaluate(0)
        driver.commit(0)
    path = fetched(url, tmp_path / "deep" / "other")
    for name in ("manifest.json", "lanes.csv"):
        assert (path / name).read_bytes() == (driver.path / name).read_bytes()
    found = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
    checkpoints = {f"checkpoints/block0/checkpoint-{number}.json" for number in (2, 3)}
    assert found == {"manifest.json", "lanes.csv", "lock", *FILES.values(), *checkpoints}
    assert [p.name for p in path.parent.iterdir()] == ["other"]
    assert not tables_of(path)["topology.csv"].count("\n") > 1
    assert names_at(f"{url}/records") == {f"block0-{number}.jsonl" for number in (1, 2, 3)}


def test_a_folder_that_is_there_stays_while_the_run_has_not_gone_on(
    url: str, tmp_path: Path
) -> None:
    driver = Driver(url, tmp_path / "driver")
    driver.evaluate(0)
    driver.folder.close()
    (driver.path / "notes.txt").write_text("mine")
    assert RemoteRun(url).exists() is False
    assert RemoteRun(url).fetch(driver.path) is None  # it was never published
    driver.run.publish(driver.path)
    assert RemoteRun(url).exists() is True
    before = tables_of(driver.path)
    again = Driver(url, driver.path, is_new=False)
    again.begin_again()
    again.folder.close()
    assert RemoteRun(url).fetch(driver.path) is None  # begun again, and not yet published
    assert tables_of(driver.path) == before and (driver.path / "notes.txt").exists()


@pytest.mark.parametrize("is_further", [True, False])
def test_a_folder_that_the_run_has_left_behind_is_moved_aside(
    url: str, tmp_path: Path, is_further: bool
) -> None:
    """Whether the run began more often elsewhere, or as often, at another time."""
    driver = Driver(url, tmp_path / "driver")
    driver.run.publish(driver.path)
    driver.evaluate(0)
    driver.commit(0)
    driver.evaluate(0)  # it is lost: its machine goes before the next checkpoint
    driver.folder.close()
    other = Driver(url, tmp_path / "other", is_new=False)
    assert other.moved is None
    if not is_further:
        driver.folder = RunFolder.open(driver.path)
        driver.begin_again()
        starts = driver.folder.manifest["starts"]
        starts[-1]["started_at"] = "2001-01-01T00:00:00+00:00"
        driver.folder.set_status("running", starts=starts)
        driver.folder.close()
    other.begin_again()
    other.run.publish(other.path)
    other.steps, other.numbers = [10, 0], [1, 0]
    other.evaluate(1)
    other.commit(1)
    for number in (1, 2):
        if number == 2:
            other.begin_again()
            other.run.publish(other.path)
        (driver.path / "notes.txt").write_text("mine")
        line = RemoteRun(url).fetch(driver.path)
        aside = driver.path.with_name(f"driver.before-{number}")
        assert line is not None and str(aside) in line and "\n" not in line
        assert (aside / "notes.txt").exists() and not (driver.path / "notes.txt").exists()
        assert tables_of(driver.path) == whole([other.lines_of(0), other.lines_of(1)])
        assert RemoteRun(url).fetch(driver.path) is None
    assert tables_of(tmp_path / "driver.before-1")["eval.csv"].count("\n") == 5


def test_a_folder_that_is_being_trained_is_never_moved(url: str, tmp_path: Path) -> None:
    driver = Driver(url, tmp_path / "driver")
    driver.run.publish(driver.path)
    other = Driver(url, tmp_path / "other", is_new=False)
    other.begin_again()
    other.run.publish(other.path)
    with pytest.raises(ValueError, match="is being trained by process"):
        RemoteRun(url).fetch(driver.path)
    assert read_manifest(driver.path)["status"] == "running"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "store") == ["driver", "other"]


def test_only_what_has_changed_is_published(faulty: Any, tmp_path: Path) -> None:
    driver = Driver(FAULTY, tmp_path / "driver")
    driver.run.publish(driver.path)

    def puts() -> set[str]:
        faulty.faults = Faults()
        driver.run.publish(driver.path)
        done = [path for name, path in faulty.faults.done if name in ("put_file", "pipe_file")]
        return {path.rpartition("/")[2].rpartition("-")[2] for path in done}

    assert puts() == set()
    driver.evaluate(0)
    assert puts() == {"eval.csv", "train.csv"}
    driver.folder.set_status("finished")
    assert puts() == {"manifest.json"}
    driver.folder.write_lanes([*LANES, LANES[-1] | {"lane": 3, "block": 2}])
    assert puts() == {"lanes.csv", "manifest.json"}
    assert puts() == set()
    for name in ("manifest.json", "lanes.csv", *FILES.values()):
        assert read_at(f"{FAULTY}/{name}") == (driver.path / name).read_bytes()


def test_a_run_that_gets_lanes_is_whole_at_every_moment(faulty: Any, tmp_path: Path) -> None:
    """Its manifest knows its lanes, and the next call repairs what failed."""
    at = 0
    while True:
        at += 1
        faulty.files.clear()
        faulty.faults = Faults()
        driver = Driver(FAULTY, tmp_path / f"{at}")
        driver.run.publish(driver.path)
        driver.folder.write_lanes([*LANES, LANES[-1] | {"lane": 3, "block": 2}])
        driver.begin_again()
        faulty.faults = faults = Faults(at, KINDS[at % 2], is_lasting=at % 3 == 0)
        try:
            driver.run.publish(driver.path)
        except OSError:
            assert faults.has_failed
        faulty.faults = Faults()
        path = fetched(FAULTY, tmp_path / f"{at} fetched")
        check_lanes(path, read_manifest(path))
        driver.run.publish(driver.path)
        for name in ("manifest.json", "lanes.csv"):
            assert read_at(f"{FAULTY}/{name}") == (driver.path / name).read_bytes()
        if not faults.has_failed:
            break
    assert at > 4


def play(driver: Driver, tell: Callable[[list[Tables]], None]) -> None:
    """A short run; `tell` hears the committed rows of the blocks before and after each commit."""
    parts = [{name: [] for name in FILES.values()} for _ in BLOCKS]
    driver.run.publish(driver.path)
    for block in (0, 1, 0):
        driver.evaluate(block)
        tell(parts)
        parts = [driver.lines_of(b) if b == block else part for b, part in enumerate(parts)]
        tell(parts)
        driver.commit(block)
        driver.run.publish(driver.path)


@pytest.mark.parametrize("is_lasting", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_driver_that_dies_anywhere_leaves_what_was_committed(
    faulty: Any, tmp_path: Path, kind: str, is_lasting: bool
) -> None:
    at = 0
    while True:
        at += 1
        faulty.files.clear()
        faulty.faults = faults = Faults(at, kind, is_lasting)
        driver = Driver(FAULTY, tmp_path / f"{at}")
        told: list[dict[str, str]] = []
        try:
            play(driver, lambda parts, told=told: told.append(whole(parts)))
        except OSError as error:
            assert isinstance(error, url_folder.StoreError)
        faulty.faults = Faults()
        if RemoteRun(FAULTY).exists():
            path = fetched(FAULTY, tmp_path / f"{at} fetched")
            empty = whole([{name: [] for name in FILES.values()} for _ in BLOCKS])
            # The commit in which it died may be there or not.
            assert tables_of(path) in (told[-2:] or [empty]), f"operation {at}"
        else:
            assert not told
        if not faults.has_failed:
            break
    assert at > 20 and len(told) == 6


def test_a_commit_that_failed_anywhere_is_made_good_by_the_next(
    faulty: Any, tmp_path: Path
) -> None:
    """The rows come again, with the same number or a later one."""
    for kind in KINDS:
        at = 0
        while True:
            at += 1
            faulty.files.clear()
            faulty.faults = Faults()
            driver = Driver(FAULTY, tmp_path / f"{kind} {at}")
            driver.run.publish(driver.path)
            driver.evaluate(0)
            driver.commit(0)
            driver.evaluate(0)
            faulty.faults = faults = Faults(at, kind)
            try:
                driver.commit(0)
            except OSError:
                driver.numbers[0] += at % 2
            driver.evaluate(0)
            faulty.faults = Faults()
            driver.commit(0)
            path = fetched(FAULTY, tmp_path / f"{kind} {at} fetched")
            empty = {name: [] for name in FILES.values()}
            assert tables_of(path) == whole([driver.lines_of(0), empty])
            if not faults.has_failed:
                break
        assert at > 2


def test_rows_of_a_commit_that_never_was_are_left_out(url: str, tmp_path: Path) -> None:
    driver = Driver(url, tmp_path / "driver")
    driver.run.publish(driver.path)
    driver.evaluate(0)
    driver.commit(0)
    committed = whole([driver.lines_of(0), driver.lines_of(1)])
    driver.evaluate(0)
    driver.commit(0)
    remove_at(f"{url}/checkpoints/block0/checkpoint-2.json")  # it died between the two puts
    assert "block0-2.jsonl" in names_at(f"{url}/records")
    assert tables_of(fetched(url, tmp_path / "other")) == committed


@pytest.mark.parametrize("name", ["driver", "new"])
def test_a_fetch_that_fails_anywhere_changes_nothing(
    faulty: Any, tmp_path: Path, name: str
) -> None:
    """Where a folder was left behind, and where there is none."""
    driver = Driver(FAULTY, tmp_path / "driver")
    driver.run.publish(driver.path)
    driver.folder.close()
    other = Driver(FAULTY, tmp_path / "other", is_new=False)
    other.begin_again()
    other.run.publish(other.path)
    other.evaluate(0)
    other.commit(0)
    before = {p: p.read_bytes() for p in driver.path.iterdir() if p.name != "lock"}
    at = 0
    while True:
        at += 1
        faulty.faults = Faults(at)
        try:
            line = RemoteRun(FAULTY).fetch(tmp_path / name)
            break
        except ValueError as error:
            assert "\n" not in str(error) and "reached" in str(error)
        assert {p: p.read_bytes() for p in driver.path.iterdir() if p.name != "lock"} == before
        assert sorted(p.name for p in tmp_path.iterdir()) == ["driver", "other"]
    assert at > 6 and (line is None) == (name == "new")
    assert tables_of(tmp_path / name) == whole([other.lines_of(0), other.lines_of(1)])


HOSTILE_ROWS: dict[str, bytes] = {
    "a table elsewhere": b'{"after": null}\n["../../evil.csv", "0,1\\n"]\n',
    "an unknown table": b'{"after": null}\n["evil.csv", "0,1\\n"]\n',
    "a table that is not of this run": b'{"after": null}\n["stages.csv", "0,1,1\\n"]\n',
    "two lines in one": b'{"after": null}\n["train.csv", "0,1,1\\n0,2,2\\n"]\n',
    "no step": b'{"after": null}\n["train.csv", "0\\n"]\n',
    "a lane that is none": b'{"after": null}\n["train.csv", "x,1,1\\n"]\n',
    "a negative lane": b'{"after": null}\n["train.csv", "-1,1,1\\n"]\n',
    "a torn end": b'{"after": null}\n["train.csv", "0,1,1\\n"',
    "no JSON": b"\xff\xfe",
    "nothing": b"\n",
    "another first line": b'["train.csv", "0,1,1\\n"]\n',
    "a step to go back to that is none": b'{"after": "x"}\n',
    "deep": b"[" * 10**5,
    "three cells": b'{"after": null}\n["train.csv", "0,1,1\\n", 3]\n',
}


@pytest.mark.parametrize("hostile", HOSTILE_ROWS)
def test_rows_that_no_run_writes_are_refused_in_one_line(
    url: str, tmp_path: Path, hostile: str
) -> None:
    driver = Driver(url, tmp_path / "driver")
    driver.run.publish(driver.path)
    driver.evaluate(0)
    driver.commit(0)
    write_at(f"{url}/records/block0-1.jsonl", HOSTILE_ROWS[hostile])
    with pytest.raises(ValueError, match="start a new run") as caught:
        RemoteRun(url).fetch(tmp_path / "folder" / "other")
    assert "\n" not in str(caught.value) and not (tmp_path / "folder").exists()
    assert not list(tmp_path.rglob("evil.csv"))


def test_strange_names_in_the_store_are_left_alone(url: str, tmp_path: Path) -> None:
    driver = Driver(url, tmp_path / "driver")
    driver.run.publish(driver.path)
    driver.evaluate(0)
    driver.commit(0)
    for name in (
        "checkpoints/block0/checkpoint-x.json",
        "checkpoints/block0/notes.txt",
        "checkpoints/blockx/checkpoint-1.json",
        "checkpoints/block00/checkpoint-1.json",
        "records/block0-1.jsonl.tmp",
        "records/block0--1.jsonl",
        "records/.put-12-block0-1.jsonl",
        "evil.csv",
    ):
        write_at(f"{url}/{name}", b"evil")
    path = fetched(url, tmp_path / "other")
    assert tables_of(path) == whole([driver.lines_of(0), driver.lines_of(1)])
    assert b"evil" not in [p.read_bytes() for p in path.rglob("*") if p.is_file()]


@pytest.mark.parametrize("name", ["manifest.json", "lanes.csv"])
def test_damaged_facts_are_told_by_their_url(url: str, tmp_path: Path, name: str) -> None:
    driver = Driver(url, tmp_path / "driver")
    driver.run.publish(driver.path)
    data = read_at(f"{url}/{name}")
    write_at(f"{url}/{name}", data.replace(b"cpu", b"gpu").replace(b"SAC", b"TD3"))
    with pytest.raises(ValueError, match="was changed or is damaged") as caught:
        RemoteRun(url).fetch(tmp_path / "other")
    assert url in str(caught.value) and str(tmp_path / "other") not in str(caught.value)
    remove_at(f"{url}/{name}")
    with pytest.raises(ValueError, match=f"has no {name}: give the URL of a run"):
        RemoteRun(url).fetch(tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("limit", ["MAX_BYTES", "MOST_INDEX_BYTES"])
def test_what_is_read_has_limits(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    driver = Driver(url, tmp_path / "driver")
    driver.run.publish(driver.path)
    driver.evaluate(0)
    driver.commit(0)
    monkeypatch.setattr(run_copy, limit, 100)
    with pytest.raises(ValueError, match="more than the 100 bytes"):
        RemoteRun(url).fetch(tmp_path / "other")


def test_a_commit_is_of_a_checkpoint_and_of_rows(url: str, tmp_path: Path) -> None:
    run = RemoteRun(url)
    for name in ("checkpoint-x.json", "../checkpoint-1.json", "tensors-1.safetensors", ""):
        with pytest.raises(ValueError, match="must be named like checkpoint-7"):
            run.commit(0, name, b"{}", [])
    with pytest.raises(ValueError, match="must be a table and a line of it"):
        run.commit(0, "checkpoint-1.json", b"{}", [("evil.csv", "0,1\n")])
    with pytest.raises(ValueError, match="is not one line"):
        run.commit(0, "checkpoint-1.json", b"{}", [("train.csv", "0,1,1\n0,2,2")])
    run.commit(0, "checkpoint-1.json", b"{}", [("train.csv", "0,1,1\n")], after=-1)
    lines = read_at(f"{url}/records/block0-1.jsonl").decode().splitlines()
    assert list(map(json.loads, lines)) == [{"after": -1}, ["train.csv", "0,1,1\n"]]


def test_a_checkpoint_costs_its_driver_two_puts(faulty: Any, tmp_path: Path) -> None:
    driver = Driver(FAULTY, tmp_path / "driver")
    driver.evaluate(0)
    faulty.faults = Faults()
    driver.commit(0)
    names = [name for name, _ in faulty.faults.done]
    if "faulty" in url_folder.PUT_AT_ONCE:
        assert names == ["pipe_file", "pipe_file"]
    else:
        assert names == ["makedirs", "pipe_file", "mv"] * 2
