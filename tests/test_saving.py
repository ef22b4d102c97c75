"""When checkpoints are written, and what happens while the disk takes none."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from fastanf.checkpoint import BlockCheckpoints
from fastanf.saving import MOST_SHARE, RETRY_S, Saving


class Disk(BlockCheckpoints):
    """Takes a second for a checkpoint, or fails."""

    def __init__(self) -> None:
        super().__init__(Path("nowhere"))
        self.now, self.cost_s, self.num_written = 0.0, 1.0, 0
        self.error: OSError | None = None

    def save(self, tensors: object, state: object, replay: object = None) -> None:
        self.now += self.cost_s
        if self.error:
            raise self.error
        self.num_written += 1

    def keep_for_lane(self, lane: int, is_sound: object) -> None:
        if self.error:
            raise self.error


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def said() -> list[str]:
    return []


def make(disk: Disk, said: list[str], period_s: float = 300.0, flushes: bool = True) -> Saving:
    return Saving(disk, period_s, lambda: flushes, said.append, lambda: disk.now)


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def test_a_checkpoint_is_due_after_its_period(disk: Disk, said: list[str]) -> None:
    saving = make(disk, said)
    disk.now = 299.0
    assert not saving.is_due
    disk.now = 300.0
    assert saving.is_due and saving.save(dict, {}, None)
    assert not saving.is_due
    disk.now += 299.0
    assert not saving.is_due
    disk.now += 1.0
    assert saving.is_due and said == []


@pytest.mark.parametrize(("period_s", "cost_s"), [(300.0, 20.0), (6.0, 1.0), (0.0, 0.01)])
def test_checkpoints_never_take_more_than_their_share(
    disk: Disk, said: list[str], period_s: float, cost_s: float
) -> None:
    saving, disk.cost_s = make(disk, said, period_s), cost_s
    saving.save(dict, {}, None)
    start = disk.now
    for _ in range(10):
        while not saving.is_due:
            disk.now += 0.001
        saving.save(dict, {}, None)
    assert 10 * cost_s / (disk.now - start) <= MOST_SHARE * 1.0001
    assert len(said) == 1 and "3% of the time at most" in said[0]


def test_what_the_tensors_take_is_part_of_the_cost(disk: Disk, said: list[str]) -> None:
    saving, disk.cost_s = make(disk, said, 6.0), 0.0

    def slow() -> dict:
        disk.now += 1.0
        return {}

    saving.save(slow, {}, None)
    disk.now += 6.0
    assert not saving.is_due


def test_the_first_checkpoint_is_due_a_period_after_the_training_began(
    disk: Disk, said: list[str]
) -> None:
    saving = make(disk, said)
    disk.now = 200.0  # of building
    saving.begin_()
    disk.now = 400.0
    assert not saving.is_due
    disk.now = 500.0
    assert saving.is_due


def test_a_quick_checkpoint_after_a_slow_one_comes_at_its_period_again(
    disk: Disk, said: list[str]
) -> None:
    saving, disk.cost_s = make(disk, said), 60.0
    saving.save(dict, {}, None)
    disk.now += 300.0
    assert not saving.is_due
    disk.now, disk.cost_s = disk.now + 60 * 33, 1.0
    saving.save(dict, {}, None)
    disk.now += 300.0
    assert saving.is_due


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_takes_nothing_pauses_checkpoints_until_it_does(
    disk: Disk, said: list[str], number: int
) -> None:
    saving = make(disk, said)
    disk.error = OSError(number, "it is so")
    for _ in range(3):
        disk.now += 300.0
        assert saving.is_due and not saving.save(dict, {}, None)
        disk.now += RETRY_S - 1
        assert not saving.is_due
        disk.now += 1
        assert saving.is_due
    assert len(said) == 1 and "checkpoints pause (it is so" in said[0]
    disk.error = None
    assert saving.save(dict, {}, None) and disk.num_written == 1
    assert said[1:] == ["checkpoints are written again"]
    disk.now += 299.0
    assert not saving.is_due


def test_no_checkpoint_knows_more_than_the_records(disk: Disk, said: list[str]) -> None:
    saving = make(disk, said, flushes=False)
    assert not saving.save(dict, {}, None) and disk.num_written == 0
    assert "records have to be written first" in said[0]


def test_another_failure_is_raised(disk: Disk, said: list[str]) -> None:
    saving = make(disk, said)
    disk.error = OSError(errno.EACCES, "Permission denied")
    with pytest.raises(OSError, match="Permission"):
        saving.save(dict, {}, None)
    with pytest.raises(OSError, match="Permission"):
        saving.keep_lane(3, lambda _: True)


def test_a_stopped_lane_that_the_disk_does_not_take_is_said(disk: Disk, said: list[str]) -> None:
    saving, disk.error = make(disk, said), full()
    saving.keep_lane(3, lambda _: True)
    assert said == ["the last sound checkpoint of lane 3 is not kept: No space left on device"]
