"""Checkpoints in a store come back to the bit on another machine, whatever fails on the way."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from fastanf import checkpoint
from fastanf.checkpoint import BlockCheckpoints, Checkpoint, newest_checkpoint
from fastanf.cluster import url_folder
from fastanf.cluster.remote_run import RemoteRun
from fastanf.cluster.url_checkpoints import UrlCheckpoints
from fastanf.replay import LaneReplay
from fastanf.replay_state import begin_restore_, newest_state, span_tensors
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

__all__ = ["faulty", "url"]

L, E, D, A, CAPACITY = 2, 2, 3, 1, 16
MOST = 1 << 20
FAULTY = "faulty://bucket/runs/x"


class Block:
    """A block that trains: a marker and a replay that grows, on a machine of its own."""

    def __init__(self, url: str, scratch: Path, writer: str = "") -> None:
        self.run = RemoteRun(url)
        self.checkpoints = UrlCheckpoints(
            scratch / "block0",
            lambda path, data: self.run.commit(0, path.name, data, []),
            writer,
            url=f"{url}/checkpoints/block0",
        )
        self.replay = LaneReplay(L, CAPACITY, D, A, E)
        self.draw = torch.Generator().manual_seed(0)
        self.step = 0
        self.damage: list[str] = []

    def train(self, num_steps: int = 3) -> None:
        if self.replay.time < 0:
            self.replay.start_(torch.randn(L, E, D, generator=self.draw))
        for _ in range(num_steps):
            kind = torch.rand(L, E, generator=self.draw)
            self.replay.add_(
                torch.randn(L, E, A, generator=self.draw),
                torch.randn(L, E, generator=self.draw),
                kind < 0.1,
                kind < 0.2,
                torch.randn(L, E, D, generator=self.draw),
                torch.randn(L, E, D, generator=self.draw),
                kind > 0.9,
            )
        self.step += num_steps

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {"marker": torch.full((2,), self.step), **newest_state(self.replay)}

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """All that a checkpoint keeps."""
        return {**self.tensors, **span_tensors(self.replay, self.replay.oldest, self.replay.time)}

    def save(self) -> None:
        self.checkpoints.save(self.tensors, {"step": self.step}, self.replay)

    def train_and_save(self, number: int = 1) -> None:
        for _ in range(number):
            self.train()
            self.save()

    def restore(self) -> bool:
        """Whether there was a checkpoint."""
        found, self.damage = self.checkpoints.load()
        if found is None:
            return False
        tensors = found.tensors(MOST)
        begin_restore_(self.replay, {name: tensors[name] for name in ("time", "newest")})
        found.restore_transitions_(self.replay)
        self.step = int(tensors["marker"][0])
        assert self.step == found.state["step"]
        return True

    @property
    def folder(self) -> str:
        return self.checkpoints.url

    @property
    def newest(self) -> Checkpoint:
        return self.checkpoints.standing[0]


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def another(url: str, scratch: Path, writer: str = "") -> Block:
    """The same block on another machine, as its newest checkpoint has it."""
    block = Block(url, scratch, writer)
    assert block.restore()
    return block


@pytest.mark.parametrize("span_bytes", [1, 400, 1 << 26])
def test_a_block_goes_on_to_the_bit_on_other_machines(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, span_bytes: int
) -> None:
    """Before and after its replay goes around; each machine begins with nothing."""
    monkeypatch.setattr(checkpoint, "SPAN_BYTES", span_bytes)
    block = Block(url, tmp_path / "0")
    assert not block.restore()
    for number in range(1, 9):
        block.train_and_save(number=1 + number % 2)
        after = another(url, tmp_path / str(number))
        assert same(after.state, block.state) and after.damage == []
        after.draw.set_state(block.draw.get_state())
        block = after


def test_the_store_holds_the_newest_two_and_nothing_else(url: str, tmp_path: Path) -> None:
    block = Block(url, tmp_path / "0", "0123abcd")
    block.train_and_save(7)
    there = names_at(block.folder)
    numbers = sorted(json.loads(read_at(f"{block.folder}/{n}"))["number"]
                     for n in there if n.endswith("json"))  # fmt: skip
    assert numbers == [6, 7]
    wanted = {name for each in block.checkpoints.standing for name in each.seals}
    assert there == wanted | {"checkpoint-6.json", "checkpoint-7.json"}
    assert all("-w0123abcd" in name for name in wanted)
    block.checkpoints.save(block.tensors, {"step": 21})  # finished: without its replay
    assert names_at(block.folder) == {"checkpoint-8.json", "tensors-8-w0123abcd.safetensors"}


def test_the_driver_is_asked_when_all_files_are_there(url: str, tmp_path: Path) -> None:
    block = Block(url, tmp_path / "0")
    block.train_and_save()

    def commit(path: Path, data: bytes) -> None:
        wanted = set(json.loads(data)["seals"])
        assert wanted <= names_at(block.folder) and path.name not in names_at(block.folder)
        for name, seal in json.loads(data)["seals"].items():
            assert len(read_at(f"{block.folder}/{name}")) == seal["size"]
        raise OSError(28, "the driver's disk is full")

    block.train()
    before = names_at(block.folder)
    block.checkpoints.commit, kept = commit, block.checkpoints.commit
    with pytest.raises(OSError, match="disk is full"):
        block.save()
    assert names_at(block.folder) == before
    block.checkpoints.commit = kept
    block.save()
    assert block.newest.number == 3  # the number that was tried is never taken again
    assert same(another(url, tmp_path / "1").state, block.state)


def test_without_a_driver_nothing_becomes_a_checkpoint(url: str, tmp_path: Path) -> None:
    checkpoints = UrlCheckpoints(tmp_path / "block0", url=f"{url}/checkpoints/block0")
    with pytest.raises(ValueError, match="is put by the driver alone"):
        checkpoints.save({"marker": torch.zeros(1)}, {"step": 0})
    assert Block(url, tmp_path / "1").restore() is False


def test_only_what_is_new_is_put(faulty: Any, tmp_path: Path) -> None:
    block = Block(FAULTY, tmp_path / "0")
    block.train_and_save(2)
    faulty.faults = Faults()
    block.train_and_save()
    puts = [path for name, path in faulty.faults.done if name == "put_file"]
    assert len(puts) == 2 and any("tensors-3" in path for path in puts)
    assert any(re.search(r"replay-3-w[0-9a-f]{8}-6-9", path) for path in puts)
    assert not [name for name, _ in faulty.faults.done if name in ("ls", "info", "cat_file")]


def test_only_what_is_needed_is_fetched(faulty: Any, tmp_path: Path) -> None:
    block = Block(FAULTY, tmp_path / "0")
    block.train_and_save(3)
    faulty.faults = Faults()
    assert another(FAULTY, tmp_path / "1").step == 9
    gets = [path.rpartition("/")[2] for name, path in faulty.faults.done if name == "cat_file"]
    assert sorted(gets) == sorted([*block.newest.seals, "checkpoint-3.json"])
    faulty.faults = Faults()
    assert another(FAULTY, tmp_path / "1").step == 9  # its scratch folder is still there
    gets = [path.rpartition("/")[2] for name, path in faulty.faults.done if name == "cat_file"]
    assert gets == ["checkpoint-3.json"]


def test_what_a_scratch_folder_holds_besides_is_not_taken(url: str, tmp_path: Path) -> None:
    block = Block(url, tmp_path / "0", "aaaaaaaa")
    block.train_and_save(2)
    scratch = tmp_path / "1" / "block0"
    other = BlockCheckpoints(scratch)
    for _ in range(5):
        other.save({"marker": torch.full((2,), 77)}, {"step": 77})
    (scratch / block.newest.tensors_file).write_bytes(b"torn")
    after = another(url, tmp_path / "1")
    assert same(after.state, block.state) and after.damage == []
    assert {file.name for file in scratch.iterdir()} == {*block.newest.seals, "checkpoint-2.json"}


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a flipped bit": lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:],
    "a torn end": lambda data: data[:-3],
    "something behind": lambda data: data + b"more",
    "nothing left": lambda data: b"",
}


@pytest.mark.parametrize("pattern", ["checkpoint-3.json", "tensors-3-", "replay-3-"])
@pytest.mark.parametrize("damage", [*DAMAGES, "gone"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(
    url: str, tmp_path: Path, pattern: str, damage: str
) -> None:
    block = Block(url, tmp_path / "0")
    block.train_and_save(2)
    before = block.state
    block.train_and_save()
    name = next(n for n in names_at(block.folder) if n.startswith(pattern))
    if damage == "gone":
        remove_at(f"{block.folder}/{name}")
    else:
        write_at(f"{block.folder}/{name}", DAMAGES[damage](read_at(f"{block.folder}/{name}")))
    after = another(url, tmp_path / "1")
    assert same(after.state, before)
    if damage != "gone" or pattern != "checkpoint-3.json":
        (line,) = after.damage
        assert line.startswith(f"checkpoint 3 of {block.folder}: ") and "\n" not in line
        assert str(tmp_path / "1") not in line
    after.train_and_save()
    assert after.newest.number == (3 if after.damage == [] else 4)
    assert same(another(url, tmp_path / "2").state, after.state)
    wanted = {name for each in after.checkpoints.standing for name in each.seals}
    assert {n for n in names_at(block.folder) if "json" not in n} == wanted


def test_where_none_is_whole_one_line_says_so(url: str, tmp_path: Path) -> None:
    block = Block(url, tmp_path / "0")
    block.train_and_save(2)
    for name in names_at(block.folder):
        if name.startswith("tensors"):
            write_at(f"{block.folder}/{name}", b"")
    with pytest.raises(ValueError, match=r"checkpoint 2 of .*checkpoint 1 of .*put the") as caught:
        Block(url, tmp_path / "1").restore()
    assert "\n" not in str(caught.value) and str(tmp_path / "1") not in str(caught.value)


def test_a_writer_that_was_given_up_harms_nobody(url: str, tmp_path: Path) -> None:
    """It goes on, saves and fails to, whenever it likes; its files have names of their own."""
    zombie = Block(url, tmp_path / "0", "deadbeef")
    zombie.train_and_save(2)
    block = another(url, tmp_path / "1", "11111111")

    def refuse(path: Path, data: bytes) -> None:
        block.train_and_save()  # the other one commits the same number meanwhile
        raise ValueError("another worker trains this block now")

    zombie.checkpoints.commit = refuse
    for _ in range(3):
        zombie.train()
        with pytest.raises(ValueError, match="another worker"):
            zombie.save()
        assert not [name for name in names_at(block.folder) if name.startswith("tensors-3-wdead")]
        assert same(another(url, tmp_path / f"check{block.step}").state, block.state)


def test_files_that_a_writer_left_go_with_the_next_checkpoint(url: str, tmp_path: Path) -> None:
    block = Block(url, tmp_path / "0")
    block.train_and_save(2)
    left = ["tensors-3-wdeadbeef.safetensors", "replay-3-wdeadbeef-6-9.safetensors"]
    for name in [*left, f"{url_folder.UNFINISHED}0-tensors-3-wdeadbeef.safetensors", "notes.txt"]:
        write_at(f"{block.folder}/{name}", b"torn")
    after = another(url, tmp_path / "1")
    assert same(after.state, block.state)
    after.train_and_save()
    wanted = {name for each in after.checkpoints.standing for name in each.seals}
    wanted |= {"checkpoint-2.json", "checkpoint-3.json", "notes.txt"}
    assert names_at(block.folder) == wanted


def test_a_stopped_lane_keeps_its_checkpoint_in_the_store(url: str, tmp_path: Path) -> None:
    block = Block(url, tmp_path / "0")
    block.train_and_save(2)
    assert block.checkpoints.keep_for_lane(4, lambda state: state["step"] == 99) is None
    found = block.checkpoints.keep_for_lane(4, lambda state: state["step"] == 3)
    assert found is not None and found.number == 1
    block.train_and_save(4)
    there = f"{url}/checkpoints/lane4"
    assert names_at(there) == {found.tensors_file, "checkpoint-1.json"}
    kept, damage = UrlCheckpoints(tmp_path / "lane4", url=there).load()
    assert kept is not None and damage == [] and kept.spans == ()
    assert torch.equal(kept.tensors(MOST)["marker"], torch.full((2,), 3))
    newest = newest_checkpoint(tmp_path / "lane4")
    assert newest is not None and newest.state["step"] == 3


HOSTILE = {
    "a path that leads out": "../../../escaped.safetensors",
    "an absolute path": "/tmp/escaped.safetensors",
    "a folder": "folder/tensors-2.safetensors",
    "another name": "notes.txt",
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_is_written_outside_the_scratch_folder(
    url: str, tmp_path: Path, hostile: str
) -> None:
    block = Block(url, tmp_path / "0")
    block.train_and_save(1)
    content = json.loads(read_at(f"{block.folder}/checkpoint-1.json"))
    del content["sha256"]
    content["number"] = 2
    content["seals"][HOSTILE[hostile]] = {"size": 4, "sha256": "0" * 64}
    content["sha256"] = checkpoint._digest(content)
    write_at(f"{block.folder}/checkpoint-2.json", json.dumps(content).encode())
    write_at(f"{url}/escaped.safetensors", b"evil")
    write_at(f"{block.folder}/notes.txt", b"evil")
    after = another(url, tmp_path / "deep" / "1")
    assert same(after.state, block.state) and "it names" in after.damage[0]
    found = {path for path in (tmp_path / "deep").rglob("*") if path.is_file()}
    assert {path.parent for path in found} == {tmp_path / "deep" / "1" / "block0"}
    assert {path.name for path in found} == {*block.newest.seals, "checkpoint-1.json"}
    assert not Path("/tmp/escaped.safetensors").exists()


def test_sizes_have_limits(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A JSON file of any size is not read, and of other files only as much as was written."""
    block = Block(url, tmp_path / "0")
    block.train_and_save(2)
    name = block.newest.tensors_file
    write_at(f"{block.folder}/{name}", read_at(f"{block.folder}/{name}") + bytes(10**6))
    after = another(url, tmp_path / "1")
    assert after.step == 3 and "its size differs" in after.damage[0]
    assert not (tmp_path / "1" / "block0" / name).exists()
    from fastanf.cluster import url_checkpoints

    monkeypatch.setattr(url_checkpoints, "MOST_INDEX_BYTES", 100)
    with pytest.raises(ValueError, match="more than the 100 bytes"):
        Block(url, tmp_path / "2").restore()


def test_large_files_come_in_pieces(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = Block(url, tmp_path / "0")
    block.train_and_save(3)
    monkeypatch.setattr(url_folder, "PIECE_BYTES", 100)
    assert same(another(url, tmp_path / "1").state, block.state)


# Each operation of a save fails in every way, and either the worker goes on or another one does.


def saved_with_fault(faulty: Any, scratch: Path, faults: Faults) -> tuple[Block, list[Any], bool]:
    """A block whose third save has a fault; its states at the second and third, and whether it was
    told that the third is saved.
    """
    block = Block(FAULTY, scratch / "first")
    faulty.files.clear()
    faulty.faults = Faults()
    block.train_and_save(2)
    states = [block.state]
    block.train()
    states.append(block.state)
    faulty.faults = faults
    try:
        block.save()
    except OSError as error:
        assert isinstance(error, url_folder.StoreError) and "\n" not in str(error)
        return block, states, False
    return block, states, True


def num_operations(faulty: Any, scratch: Path) -> int:
    faults = Faults()
    saved_with_fault(faulty, scratch / "counted", faults)
    return len(faults.done)


def dangling(folder: str) -> set[str]:
    """Files that a JSON file there names and that are not there."""
    there = names_at(folder)
    names = [name for name in there if name.startswith("checkpoint-")]
    indexes = [json.loads(read_at(f"{folder}/{name}")) for name in names]
    return {name for index in indexes for name in index["seals"]} - there


@pytest.mark.parametrize("is_lasting", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_save_that_fails_anywhere_leaves_one_of_two_states(
    faulty: Any, tmp_path: Path, kind: str, is_lasting: bool
) -> None:
    total = num_operations(faulty, tmp_path)
    assert total >= 6
    num_told = 0
    for at in range(1, total + 1):
        faults = Faults(at, kind, is_lasting)
        scratch = tmp_path / f"{at}"
        _, states, is_saved = saved_with_fault(faulty, scratch, faults)
        assert faults.has_failed
        num_told += is_saved
        faulty.faults = Faults()
        after = another(FAULTY, scratch / "other machine")
        allowed = states[1:] if is_saved else states
        assert any(same(after.state, state) for state in allowed), f"operation {at}"
        assert after.damage == [] and not dangling(after.folder)
        after.train_and_save(2)
        assert same(another(FAULTY, scratch / "third machine").state, after.state)
    assert num_told >= 2  # what cannot be removed harms nobody


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_whose_save_failed_anywhere_saves_again(
    faulty: Any, tmp_path: Path, kind: str
) -> None:
    for at in range(1, num_operations(faulty, tmp_path) + 1):
        scratch = tmp_path / f"{at}"
        block, _, _ = saved_with_fault(faulty, scratch, Faults(at, kind))
        faulty.faults = Faults()
        block.train_and_save()
        after = another(FAULTY, scratch / "other machine")
        assert same(after.state, block.state) and after.damage == []
        wanted = {name for each in block.checkpoints.standing for name in each.seals}
        wanted |= {f"checkpoint-{each.number}.json" for each in block.checkpoints.standing}
        found = {name for name in names_at(block.folder) if not name.startswith(".")}
        assert found == wanted, f"operation {at}"


def test_trouble_on_the_way_is_never_taken_for_damage(faulty: Any, tmp_path: Path) -> None:
    """A store that cannot be reached must not lead to an older checkpoint, or to none."""
    block = Block(FAULTY, tmp_path / "0")
    block.train_and_save(3)
    at = 0
    while True:
        at += 1
        faulty.faults = Faults(at)
        other = Block(FAULTY, tmp_path / f"{at}")
        try:
            assert other.restore()
        except url_folder.StoreError as error:
            assert error.errno == 5 and "cannot be" in str(error)
            continue
        break
    assert not faulty.faults.has_failed and at >= 5
    assert same(other.state, block.state)
