"""Checkpoints come back as they were written, or the one before does, or one line says why not."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastanf import checkpoint, tensor_file
from fastanf.checkpoint import BlockCheckpoints, block_path, newest_checkpoint
from fastanf.replay import LaneReplay
from fastanf.replay_state import begin_restore_, newest_state, span_tensors

L, E, D, A, CAPACITY = 2, 2, 3, 1, 16
MOST = 1 << 20


def add_steps_(replay: LaneReplay, num_steps: int, draw: torch.Generator) -> None:
    """Steps of which some end an episode and some break down."""
    if replay.time < 0:
        replay.start_(torch.randn(L, E, D, generator=draw))
    for _ in range(num_steps):
        kind = torch.rand(L, E, generator=draw)
        replay.add_(
            torch.randn(L, E, A, generator=draw),
            torch.randn(L, E, generator=draw),
            kind < 0.1,
            kind < 0.2,
            torch.randn(L, E, D, generator=draw),
            torch.randn(L, E, D, generator=draw),
            kind > 0.9,
        )


def transitions(replay: LaneReplay) -> dict[str, torch.Tensor]:
    """All that a replay holds, as it can be seen."""
    return {**newest_state(replay), **span_tensors(replay, replay.oldest, replay.time)}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def save_marked(
    checkpoints: BlockCheckpoints, marker: int, replay: LaneReplay | None = None, **state: Any
) -> None:
    tensors = {"marker": torch.full((2,), marker), **(newest_state(replay) if replay else {})}
    checkpoints.save(tensors, {"step": marker, **state}, replay)


def loaded_marker(path: Path) -> int:
    found, _ = BlockCheckpoints(path).load()
    assert found is not None
    marker = found.tensors(MOST)["marker"]
    assert torch.equal(marker, torch.full((2,), found.state["step"]))
    return found.state["step"]


def restored(path: Path) -> LaneReplay:
    found, _ = BlockCheckpoints(path).load()
    assert found is not None
    replay = LaneReplay(L, CAPACITY, D, A, E)
    tensors = found.tensors(MOST)
    begin_restore_(replay, {name: tensors[name] for name in ("time", "newest")})
    found.restore_transitions_(replay)
    return replay


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return block_path(tmp_path, 0)


def test_a_folder_without_a_checkpoint_has_none(path: Path) -> None:
    assert BlockCheckpoints(path).load() == (None, [])
    assert newest_checkpoint(path) is None
    path.mkdir(parents=True)
    (path / "notes.txt").write_text("mine")
    assert BlockCheckpoints(path).load() == (None, [])


def test_the_newest_and_the_one_before_stay_and_nothing_else(path: Path) -> None:
    checkpoints, replay = BlockCheckpoints(path), LaneReplay(L, CAPACITY, D, A, E)
    draw = torch.Generator().manual_seed(0)
    for marker in range(1, 9):
        add_steps_(replay, 3, draw)
        save_marked(checkpoints, marker, replay)
        assert loaded_marker(path) == marker
        newest = newest_checkpoint(path)
        assert newest is not None and newest.state["step"] == marker
    names = {file.name for file in path.iterdir()}
    assert {name for name in names if name.endswith("json")} == {
        "checkpoint-7.json",
        "checkpoint-8.json",
    }
    assert {"tensors-7.safetensors", "tensors-8.safetensors"} < names
    wanted = {name for each in checkpoints.standing for name in each.seals}
    assert names == wanted | {"checkpoint-7.json", "checkpoint-8.json"}


@pytest.mark.parametrize("span_bytes", [1, 400, 1 << 26])
def test_a_replay_comes_back_from_any_history_of_checkpoints(
    path: Path, monkeypatch: pytest.MonkeyPatch, span_bytes: int
) -> None:
    """Before and after it wraps around, after episodes that began anew, and after resumptions."""
    monkeypatch.setattr(checkpoint, "SPAN_BYTES", span_bytes)
    draw, choose = torch.Generator().manual_seed(1), random.Random(1)
    checkpoints, replay = BlockCheckpoints(path), LaneReplay(L, CAPACITY, D, A, E)
    for marker in range(30):
        add_steps_(replay, choose.randint(0, 12) + (marker == 0), draw)
        if choose.random() < 0.2:
            replay.start_(torch.randn(L, E, D, generator=draw))
        save_marked(checkpoints, marker, replay)
        after = restored(path)
        assert same(transitions(replay), transitions(after))
        assert after.size == replay.size and after.first_unsaved == after.time
        if choose.random() < 0.3:  # another process goes on
            checkpoints = BlockCheckpoints(path)
            checkpoints.load()
            replay = after


def test_a_restored_replay_samples_and_goes_on_as_the_first_would(path: Path) -> None:
    from fastanf.rng import LaneRng

    draw, rng = torch.Generator().manual_seed(2), LaneRng([1, 2], torch.device("cpu"))
    replay = LaneReplay(L, CAPACITY, D, A, E)
    add_steps_(replay, 21, draw)
    save_marked(BlockCheckpoints(path), 1, replay)
    after = restored(path)
    for step in range(40):
        one, other = (each.sample(rng, step, 5) for each in (replay, after))
        for found, expected in zip(one, other, strict=True):
            assert torch.equal(found, expected)
        state = draw.get_state()
        add_steps_(replay, 1, draw)
        draw.set_state(state)
        add_steps_(after, 1, draw)


def test_a_checkpoint_writes_what_is_new(path: Path) -> None:
    checkpoints, replay = BlockCheckpoints(path), LaneReplay(L, 4000, D, A, E)
    draw = torch.Generator().manual_seed(0)
    add_steps_(replay, 1000, draw)
    save_marked(checkpoints, 1, replay)
    large = next(path.glob("replay-1-*"))
    before = large.stat()
    add_steps_(replay, 5, draw)
    save_marked(checkpoints, 2, replay)
    small = next(path.glob("replay-2-*"))
    assert small.name == "replay-2-1000-1005.safetensors" and small.stat().st_size < 2000
    assert large.stat().st_mtime_ns == before.st_mtime_ns and large.stat().st_ino == before.st_ino


def test_a_finished_block_keeps_one_checkpoint_without_its_replay(path: Path) -> None:
    checkpoints, replay = BlockCheckpoints(path), LaneReplay(L, CAPACITY, D, A, E)
    add_steps_(replay, 5, torch.Generator().manual_seed(0))
    save_marked(checkpoints, 1, replay)
    save_marked(checkpoints, 2)
    assert {file.name for file in path.iterdir()} == {"checkpoint-2.json", "tensors-2.safetensors"}
    assert loaded_marker(path) == 2


MOMENTS = ["write_tensors", "sync_folder", "write_atomic"]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_what_was_there(
    path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, error: BaseException
) -> None:
    checkpoints, replay = BlockCheckpoints(path), LaneReplay(L, CAPACITY, D, A, E)
    draw = torch.Generator().manual_seed(0)
    add_steps_(replay, 5, draw)
    save_marked(checkpoints, 1, replay)
    before, content = transitions(replay), sorted(file.name for file in path.iterdir())
    add_steps_(replay, 4, draw)

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, moment, fail)
        with pytest.raises(type(error)):
            save_marked(checkpoints, 2, replay)
    assert sorted(file.name for file in path.iterdir()) == content
    assert same(transitions(restored(path)), before)
    save_marked(checkpoints, 3, replay)
    assert same(transitions(restored(path)), transitions(replay))


@pytest.mark.parametrize("num_files", [1, 2, 3])
def test_a_process_that_dies_while_it_writes_leaves_the_one_before(
    path: Path, monkeypatch: pytest.MonkeyPatch, num_files: int
) -> None:
    """Killed before the JSON file is there, with torn files beside it."""
    checkpoints, replay = BlockCheckpoints(path), LaneReplay(L, CAPACITY, D, A, E)
    draw = torch.Generator().manual_seed(0)
    add_steps_(replay, 5, draw)
    save_marked(checkpoints, 1, replay)
    before = transitions(replay)
    for name in ("replay-2-5-7", "tensors-2", "replay-9-0-1")[:num_files]:
        (path / f"{name}.safetensors").write_bytes(b"torn")
    (path / ".checkpoint-2.json.77.tmp").write_bytes(b"{")
    resumed = BlockCheckpoints(path)
    found, damage = resumed.load()
    assert found is not None and found.number == 1 and damage == []
    assert same(transitions(restored(path)), before)
    add_steps_(replay, 2, draw)
    save_marked(resumed, 2, replay)
    assert same(transitions(restored(path)), transitions(replay))
    assert not list(path.glob("replay-9*"))


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place % len(data)] ^= 1 << (place % 8)
    file.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda file: flip(file, 77),
    "a torn end": lambda file: file.write_bytes(file.read_bytes()[:-3]),
    "nothing left": lambda file: file.write_bytes(b""),
    "gone": lambda file: file.unlink(),
    "zeros": lambda file: file.write_bytes(b"\0" * file.stat().st_size),
}
JSON_DAMAGES: dict[str, Callable[[Path], object]] = {
    "not UTF-8": lambda file: file.write_bytes(b"\xff\xfe\0"),
    "a list": lambda file: file.write_text("[1]"),
    "another format": lambda file: file.write_text(json.dumps({"format": 999})),
    "deep": lambda file: file.write_text("[" * 10**5),
    "a changed number": lambda file: file.write_text(
        file.read_text().replace('"step": 2', '"step": 3')
    ),
}


@pytest.mark.parametrize("pattern", ["checkpoint-2.json", "tensors-2.*", "replay-2-*"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(
    path: Path, pattern: str, damage: str
) -> None:
    checkpoints, replay = BlockCheckpoints(path), LaneReplay(L, 60, D, A, E)
    draw = torch.Generator().manual_seed(0)
    add_steps_(replay, 9, draw)
    save_marked(checkpoints, 1, replay)
    before = transitions(replay)
    add_steps_(replay, 3, draw)
    save_marked(checkpoints, 2, replay)
    DAMAGES[damage](next(path.glob(pattern)))
    resumed = BlockCheckpoints(path)
    if damage == "gone" and pattern == "checkpoint-2.json":
        found, told = resumed.load()
        assert told == []
    else:
        found, told = resumed.load()
        assert len(told) == 1 and told[0].startswith("checkpoint 2 of ") and "\n" not in told[0]
    assert found is not None and found.number == 1
    after = LaneReplay(L, 60, D, A, E)
    begin_restore_(after, {name: found.tensors(MOST)[name] for name in ("time", "newest")})
    found.restore_transitions_(after)
    assert same(transitions(after), before)
    save_marked(resumed, 3, after)  # and what was damaged goes
    assert loaded_marker(path) == 3
    assert [each.state["step"] for each in resumed.standing] == [3, 1]


@pytest.mark.parametrize("damage", JSON_DAMAGES)
def test_a_damaged_json_file_is_told(path: Path, damage: str) -> None:
    checkpoints = BlockCheckpoints(path)
    replay = LaneReplay(L, CAPACITY, D, A, E)
    replay.start_(torch.zeros(L, E, D))
    for marker in (1, 2):
        save_marked(checkpoints, marker, replay)
    JSON_DAMAGES[damage](path / "checkpoint-2.json")
    found, told = BlockCheckpoints(path).load()
    assert found is not None and found.state["step"] == 1 and len(told) == 1
    newest = newest_checkpoint(path)
    assert newest is not None and newest.state["step"] == 1


def test_where_none_is_whole_one_line_says_so(path: Path) -> None:
    checkpoints = BlockCheckpoints(path)
    replay = LaneReplay(L, CAPACITY, D, A, E)
    replay.start_(torch.zeros(L, E, D))
    for marker in (1, 2):
        save_marked(checkpoints, marker, replay)
        flip(path / f"tensors-{marker}.safetensors", 50)
    with pytest.raises(
        ValueError, match=r"checkpoint 2 of .* checkpoint 1 of .* put the"
    ) as caught:
        BlockCheckpoints(path).load()
    assert "\n" not in str(caught.value)


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a checkpoint's JSON file as a stranger would, who can compute its checksum too."""
    index = path / "checkpoint-1.json"
    content = json.loads(index.read_text())
    del content["sha256"]
    change(content)
    content["sha256"] = checkpoint._digest(content)
    index.write_text(json.dumps(content))


def only_span(content: dict[str, Any]) -> dict[str, Any]:
    return content["spans"][0]


def rename_span(content: dict[str, Any], name: str) -> None:
    content["seals"][name] = content["seals"].pop(only_span(content)["file"])
    only_span(content)["file"] = name


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "a path that leads out": lambda c: rename_span(c, "../../../../etc/passwd"),
    "an absolute path": lambda c: rename_span(c, "/etc/passwd"),
    "another name": lambda c: rename_span(c, "notes.txt"),
    "an unsealed file": lambda c: c["seals"].pop("tensors-1.safetensors"),
    "a file too much": lambda c: c["seals"].update(
        {"tensors-9.safetensors": c["seals"].popitem()[1]}
    ),
    "another number": lambda c: c.update(number=2),
    "a negative size": lambda c: c["seals"]["tensors-1.safetensors"].update(size=-1),
    "a size that is no number": lambda c: c["seals"]["tensors-1.safetensors"].update(size="9"),
    "a size that is true": lambda c: c["seals"]["tensors-1.safetensors"].update(size=True),
    "a key too much": lambda c: c["seals"]["tensors-1.safetensors"].update(exec="rm"),
    "a span of nothing": lambda c: only_span(c).update(end=0),
    "times that are no numbers": lambda c: only_span(c).update(first=0.5),
    "a span that is none": lambda c: c["spans"].append(7),
    "the same span twice": lambda c: c["spans"].append(dict(only_span(c))),
    "no state": lambda c: c.pop("state"),
    "a state that is none": lambda c: c.update(state=5),
    "no seals": lambda c: c.update(seals=[]),
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_json_file_is_refused_in_one_line(path: Path, hostile: str) -> None:
    replay = LaneReplay(L, CAPACITY, D, A, E)
    add_steps_(replay, 5, torch.Generator().manual_seed(0))
    save_marked(BlockCheckpoints(path), 1, replay)
    rewrite(path, HOSTILE[hostile])
    for read in (BlockCheckpoints(path).load, lambda: newest_checkpoint(path)):
        with pytest.raises(ValueError, match=r"checkpoint 1 of .*checkpoint-1.json cannot be") as e:
            read()
        assert "\n" not in str(e.value)


def other_span(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Replace the span's tensors, with their right seal."""
    file = next(path.glob("replay-1-*"))
    found, _ = BlockCheckpoints(path).load()
    assert found is not None
    tensors = tensor_file.read_tensors(file, found.seals[file.name], MOST)
    change(tensors)
    seal = tensor_file.write_tensors(file, tensors)
    rewrite(path, lambda c: c["seals"].update({file.name: vars(seal)}))


SPAN_CHANGES: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "fewer lanes": lambda t: t.update(obs=t["obs"][:1]),
    "fewer times": lambda t: t.update({name: t[name][:, :3] for name in t if name != "final_obs"}),
    "more features": lambda t: t.update(obs=torch.zeros(L, 5, E, D + 1)),
    "another type": lambda t: t.update(reward=t["reward"].double()),
    "one missing": lambda t: t.pop("action"),
    "one too many": lambda t: t.update(more=torch.zeros(1)),
    "an end that is none": lambda t: t["end"].fill_(3),
    "last observations missing": lambda t: t["end"].fill_(1),
    "flat": lambda t: t.update(reward=t["reward"].flatten()),
    "huge": lambda t: t.update(obs=torch.zeros(L, 10**5, E, D)),
}


@pytest.mark.parametrize("change", SPAN_CHANGES)
def test_transitions_of_another_replay_are_refused(path: Path, change: str) -> None:
    replay = LaneReplay(L, CAPACITY, D, A, E)
    add_steps_(replay, 5, torch.Generator().manual_seed(0))
    save_marked(BlockCheckpoints(path), 1, replay)
    other_span(path, SPAN_CHANGES[change])
    with pytest.raises(ValueError) as caught:
        restored(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("time", [-1, 2**62, 6, 2**40])
def test_a_time_that_the_transitions_do_not_reach_is_refused(path: Path, time: int) -> None:
    replay = LaneReplay(L, CAPACITY, D, A, E)
    add_steps_(replay, 5, torch.Generator().manual_seed(0))
    checkpoints = BlockCheckpoints(path)
    state = newest_state(replay) | {"time": torch.tensor(time)}
    checkpoints.save(state, {"step": 1}, replay)
    with pytest.raises(ValueError, match="time"):
        restored(path)


@pytest.mark.parametrize("can_link", [True, False])
def test_a_stopped_lane_keeps_the_checkpoint_in_which_it_was_sound(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch, can_link: bool
) -> None:
    if not can_link:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links")))
    checkpoints, replay = BlockCheckpoints(path), LaneReplay(L, CAPACITY, D, A, E)
    draw, kept = torch.Generator().manual_seed(0), path.with_name("lane4")
    for marker in (1, 2):
        add_steps_(replay, 3, draw)
        save_marked(checkpoints, marker, replay)
    assert checkpoints.keep_for_lane(4, lambda state: state["step"] == 5) is None
    assert not kept.exists()
    found = checkpoints.keep_for_lane(4, lambda state: state["step"] == 1)
    assert found is not None and found.number == 1
    for marker in range(3, 7):
        save_marked(checkpoints, marker, replay)
    assert loaded_marker(kept) == 1
    assert {file.name for file in kept.iterdir()} == {"checkpoint-1.json", "tensors-1.safetensors"}
