"""What the driver writes and answers for one block, by the messages of its training."""

from __future__ import annotations

import errno
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fastanf.block_records import FolderRecords
from fastanf.checkpoint import block_path
from fastanf.cluster.desk import Desk
from fastanf.cluster.mailbox import Answer, Message
from fastanf.cluster.worker import ENDS
from fastanf.progress import Progress
from fastanf.rows import (
    AnyRow,
    FeatureRow,
    QuarantineRow,
    TopologyRow,
    TrainingRow,
    read_evaluations,
    row_lines,
)
from tests.record_samples import fail_after, make_run, names_in, sample_evaluation

BLOCK = 3
"""Not the run's only one: the other lane is another block's."""
NAME, INDEX = "checkpoint-1.json", b'{"format": 3}'
Commit = tuple[int, str, bytes, list[tuple[str, str]], int | None]


class KeptStore:
    """Keeps what it is given; fails where a test says so."""

    def __init__(self) -> None:
        self.commits: list[Commit] = []
        self.error: OSError | None = None

    def commit(
        self,
        block: int,
        name: str,
        data: bytes,
        rows: Sequence[tuple[str, str]],
        after: int | None = None,
    ) -> None:
        if self.error:
            raise self.error
        self.commits.append((block, name, data, list(rows), after))


class Office:
    """A desk in a run folder, and a worker's messages for it."""

    def __init__(self, path: Path, store: KeptStore | None = None, shows_host: bool = False):
        self.folder = make_run(path)
        self.said = io.StringIO()
        self.progress = Progress(["ANF-SAC seed 3", "SAC seed 4"], 100, True, stream=self.said)
        self.block = self.progress.block(range(1))
        records = FolderRecords(self.folder, range(1))
        self.desk = Desk(BLOCK, records, self.block, store, shows_host)
        self.checkpoints = block_path(self.folder.path, BLOCK)
        self.checkpoints.mkdir(parents=True)  # as the worker does
        self.number = 0

    def tell(self, name: str, *arguments: Any) -> None:
        assert self.desk.handle([Message(name, arguments)]) == []

    def call(self, name: str, *arguments: Any) -> Any:
        self.number += 1
        (answer,) = self.desk.handle([Message(name, arguments, self.number)])
        assert answer.number == self.number
        if answer.error:
            raise answer.error
        return answer.value

    def steps(self) -> list[int]:
        return [row.step for row in read_evaluations(self.folder.path)]


@pytest.fixture
def store() -> KeptStore:
    return KeptStore()


@pytest.fixture
def office(tmp_path: Path, store: KeptStore) -> Office:
    return Office(tmp_path, store)


def evaluation(step: int, lane: int = 0) -> Message:
    return Message("append", ([sample_evaluation(lane, step)],))


def lines_of(*rows: AnyRow) -> list[str]:
    return [line for row in rows for line in row_lines([row])]


def test_messages_are_done_in_their_order_and_calls_answered(office: Office) -> None:
    answers = office.desk.handle(
        [
            Message("evaluations", (), 4),
            evaluation(5),
            Message("evaluations", (), 7),
            evaluation(9),
            Message("flush", (), 8),
            Message("truncate_after", (5,), 9),
            Message("evaluations", (), 10),
        ]
    )
    assert [answer.number for answer in answers] == [4, 7, 8, 9, 10]
    assert all(answer.error is None for answer in answers)
    found = [answer.value for answer in answers]
    assert [[row.step for row in rows] for rows in (found[0], found[1], found[4])] == [[], [5], [5]]
    assert found[2] is True and found[3] is None
    assert office.steps() == [5]


def test_rows_of_other_blocks_are_neither_told_nor_dropped(office: Office) -> None:
    office.folder.append([sample_evaluation(1, 7), sample_evaluation(1, 8)])
    office.desk.handle([evaluation(7)])
    assert [(row.lane, row.step) for row in office.call("evaluations")] == [(0, 7)]
    office.call("truncate_after", -1)
    assert office.steps() == [7, 8]


def test_seals_are_those_of_the_block_s_rows(office: Office) -> None:
    office.desk.handle([evaluation(7)])
    seals = office.call("seals")
    office.folder.append([sample_evaluation(1, 8)])
    office.desk.handle([evaluation(9)])
    assert seals == office.call("seals") | {"eval.csv": seals["eval.csv"]} != office.call("seals")
    office.call("check_seals", seals, 7)
    with pytest.raises(ValueError, match="was changed or damaged"):
        office.call("check_seals", seals, 9)


def test_an_error_of_a_call_is_its_answer_and_the_rest_is_done(office: Office) -> None:
    answers = office.desk.handle(
        [Message("check_seals", ({}, 3), 1), evaluation(5), Message("evaluations", (), 2)]
    )
    first, second = answers
    assert isinstance(first.error, ValueError) and "has no seal" in str(first.error)
    assert second == Answer(2, [sample_evaluation(0, 5)])


def test_stopped_lanes_are_told_to_who_goes_on(office: Office) -> None:
    row = QuarantineRow(0, 6, 6, "nan")
    office.tell("append", [row])
    assert office.call("quarantine") == [row]


# --- commits --------------------------------------------------------------------------------------


def test_a_commit_writes_the_file_where_the_block_s_checkpoints_are(office: Office) -> None:
    assert office.call("commit", NAME, INDEX) is None
    assert (office.checkpoints / NAME).read_bytes() == INDEX
    assert names_in(office.checkpoints) == [NAME]
    assert names_in(office.checkpoints.parent) == [f"block{BLOCK}"]


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "",
        ".",
        "../block0/checkpoint-1.json",
        "sub/checkpoint-1.json",
        "/tmp/checkpoint-1.json",
        "checkpoint-1.json\n",
        "checkpoint-.json",
        "tensors-1.safetensors",
        "manifest.json",
        "x" * 10_000,
    ],
)
def test_a_strange_name_is_refused_before_anything_is_kept(
    office: Office, store: KeptStore, name: str
) -> None:
    with pytest.raises(ValueError, match="checkpoint must be named like") as caught:
        office.call("commit", name, INDEX)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert names_in(office.checkpoints) == [] == store.commits
    assert not office.desk.has_moved


def test_rows_since_the_last_commit_come_with_the_next_one(
    office: Office, store: KeptStore
) -> None:
    training, topology = TrainingRow(0, 5, 5, critic_loss=1.5), TopologyRow(0, 5, 5, "actor", 0, 9)
    office.tell("append", [training])
    office.tell("append", [topology])
    office.tell("append", [sample_evaluation(0, 5), sample_evaluation(0, 6)])
    office.call("commit", NAME, INDEX)
    office.call("commit", "checkpoint-2.json", INDEX)
    office.tell("append", [FeatureRow(0, 7, 7, "actor", 3, 10)])
    office.call("commit", "checkpoint-3.json", b"third")
    lines = lines_of(training, topology, sample_evaluation(0, 5), sample_evaluation(0, 6))
    names = ["train.csv", "topology.csv", "eval.csv", "eval.csv"]
    further = lines_of(FeatureRow(0, 7, 7, "actor", 3, 10))
    assert store.commits == [
        (BLOCK, NAME, INDEX, list(zip(names, lines, strict=True)), None),
        (BLOCK, "checkpoint-2.json", INDEX, [], None),
        (BLOCK, "checkpoint-3.json", b"third", [("features.csv", further[0])], None),
    ]


def test_rows_that_a_block_drops_are_no_part_of_the_next_commit(
    office: Office, store: KeptStore
) -> None:
    office.desk.handle([evaluation(5)])
    office.call("commit", NAME, INDEX)
    office.desk.handle([evaluation(9)])
    office.call("truncate_after", 5)
    office.desk.handle([evaluation(8)])
    office.call("commit", "checkpoint-2.json", INDEX)
    office.call("commit", "checkpoint-3.json", INDEX)
    kept = [("eval.csv", line) for line in lines_of(sample_evaluation(0, 8))]
    assert [commit[3:] for commit in store.commits[1:]] == [(kept, 5), ([], None)]


def test_rows_of_a_worker_that_was_lost_are_no_part_of_the_next_commit(
    office: Office, store: KeptStore
) -> None:
    office.desk.handle([evaluation(5)])
    office.desk.begin()
    office.call("truncate_after", -1)
    office.desk.handle([evaluation(4)])
    office.call("commit", NAME, INDEX)
    kept = [("eval.csv", line) for line in lines_of(sample_evaluation(0, 4))]
    assert [commit[3:] for commit in store.commits] == [(kept, -1)]
    assert office.steps() == [4]


def test_a_commit_that_the_store_refuses_is_none_and_keeps_its_rows(
    office: Office, store: KeptStore
) -> None:
    office.desk.handle([evaluation(5)])
    office.call("truncate_after", 5)
    office.desk.handle([evaluation(6)])
    store.error = OSError(errno.EIO, "the store fails")
    with pytest.raises(OSError, match="the store fails"):
        office.call("commit", NAME, INDEX)
    assert names_in(office.checkpoints) == [] and not office.desk.has_moved
    store.error = None
    office.call("commit", NAME, INDEX)
    kept = [("eval.csv", line) for line in lines_of(sample_evaluation(0, 6))]
    assert [commit[3:] for commit in store.commits] == [(kept, 5)]


def test_without_a_store_rows_are_not_gathered(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.desk.handle([evaluation(5)])
    assert office.desk._rows == []
    office.call("commit", NAME, INDEX)
    assert names_in(office.checkpoints) == [NAME]


def test_with_a_store_the_folder_of_the_block_is_made(office: Office) -> None:
    """The worker has made it on another disk."""
    office.checkpoints.rmdir()
    office.call("commit", NAME, INDEX)
    assert names_in(office.checkpoints) == [NAME]


# --- disks that take nothing ----------------------------------------------------------------------


def test_rows_wait_for_a_full_disk_and_a_commit_fails_there(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail_after(patch, 10, errno.ENOSPC)
        office.desk.handle([evaluation(5)])
        assert office.call("flush") is False
        with pytest.raises(OSError, match="No space left"):
            office.call("commit", NAME, INDEX)
    assert names_in(office.checkpoints) == [] and not office.desk.has_moved
    assert office.steps() == []
    assert office.call("flush") is True and office.steps() == [5]


def test_rows_that_cannot_be_recorded_end_the_driver(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_after(monkeypatch, 0, errno.EACCES)
    with pytest.raises(PermissionError):
        office.desk.handle([evaluation(5)])


# --- what moves, and how it ends ------------------------------------------------------------------


def test_a_checkpoint_is_something_new(office: Office) -> None:
    for name, *arguments in [
        ("begins", "host"), ("phase", "building"), ("append", [sample_evaluation(0, 5)]),
        ("update", 3, 10.0), ("restore", 0, 5, 1.0), ("note", "a line"),
    ]:  # fmt: skip
        office.tell(name, *arguments)
    office.call("seals")
    assert not office.desk.has_moved
    office.call("commit", NAME, INDEX)
    assert office.desk.has_moved
    office.desk.begin()
    assert not office.desk.has_moved


def test_an_evaluation_is_new_only_where_no_worker_came_before(office: Office) -> None:
    office.tell("evaluated", 0, 5, 1.0, 0.0)
    assert office.desk.has_moved
    office.desk.begin()
    office.tell("evaluated", 0, 5, 1.0, 0.0)
    assert not office.desk.has_moved
    office.tell("evaluated", 0, 10, 1.0, 0.0)
    assert office.desk.has_moved
    assert office.progress.returns[0] == 1.0 and office.progress.steps[0] == 10


@pytest.mark.parametrize("kind", ENDS)
def test_how_a_block_ends_is_known_until_another_worker_begins(office: Office, kind: str) -> None:
    assert office.desk.end is None
    for arguments, value in ((("value",), "value"), ((), None)):
        office.tell(kind, *arguments)
        assert office.desk.end == (kind, value)
        office.desk.begin()
        assert office.desk.end is None


@pytest.mark.parametrize("shows_host", [True, False])
def test_lines_say_where_a_block_trains_where_that_is_wanted(
    tmp_path: Path, shows_host: bool
) -> None:
    office = Office(tmp_path, None, shows_host)
    office.tell("begins", "node7")
    office.tell("phase", "building")
    office.tell("stopped", 0, "nan")
    lines = office.said.getvalue().splitlines()
    assert lines[0] == ("lane 0 on node7: building" if shows_host else "building")
    assert lines[1] == "lane 0 (ANF-SAC seed 3) stopped at step 0: nan"
    office.desk.begin()
    office.tell("begins", "node8")
    assert office.block.name == ("node8" if shows_host else "")
