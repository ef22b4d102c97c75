"""The disk space that a run needs, against what runs really write, and runs that do not fit."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastanf import checkpoint, disk, limits, runner, stage_records
from fastanf.checkpoint import SPAN_BYTES, BlockCheckpoints, block_path
from fastanf.cli import Study, parse_command_line
from fastanf.disk import block_disk, make_disk_plan, run_disk_bytes
from fastanf.grouping import make_blocks
from fastanf.memory import MIB
from fastanf.peaks import Peaks
from fastanf.presets import expand
from fastanf.saving import Saving
from fastanf.settings import RunConfig
from tests import fake_env

OPTIONS = (
    f"--policy ANF-SAC TowS-SAC --env {fake_env.ROWS_ENV_ID} --backend fake --num_seeds 2 "
    "--hidden 32x32 --batch_size 4 --noise_fraction 0.7 --topology_period 3 --start_timesteps 300 "
    "--max_timesteps 24 --eval_freq 6 --eval_episodes 1 --device cpu --plain "
    "--checkpoint_minutes 1e-6"
)
RUN = RunConfig()


def size_of(folder: Path) -> int:
    """Bytes of all files, each once."""
    files = [Path(path) / name for path, _, names in os.walk(folder) for name in names]
    return sum({file.stat().st_ino: file.stat().st_size for file in files}.values())


@pytest.fixture
def sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the run folder holds before each removal of what has become superfluous."""
    found: list[int] = []
    remove = BlockCheckpoints._remove

    def measured(self: BlockCheckpoints, names: Iterable[str]) -> None:
        found.append(size_of(tmp_path / "run"))
        remove(self, names)

    calls = itertools.count()
    monkeypatch.setattr(BlockCheckpoints, "_remove", measured)
    # Whatever the clock says: a checkpoint every now and then.
    monkeypatch.setattr(Saving, "is_due", property(lambda self: next(calls) % 40 == 39))
    fake_env.register(monkeypatch)
    monkeypatch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())
    return found


def study_of(folder: Path, more: str = "") -> Study:
    return parse_command_line([*f"{OPTIONS} {more}".split(), "--run_dir", str(folder / "run")])


@pytest.mark.parametrize("more", ["--layout csr", "--layout masked --replay_capacity 120"])
def test_a_run_writes_no_more_than_was_said_and_not_much_less(
    more: str, tmp_path: Path, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files of a size as if the replay were much larger than they are.
    for module in (checkpoint, disk):
        monkeypatch.setattr(module, "SPAN_BYTES", 4096)
    study = study_of(tmp_path, more)
    assert study.plan.disk is not None
    said = study.plan.disk.needed - disk._RUN_BYTES - 4 * disk._LANE_BYTES
    assert runner.train(study) == 0
    assert len(sizes) > 6
    heads = size_of(tmp_path / "run") - size_of(tmp_path / "run" / "checkpoints")
    assert max(sizes) <= said
    assert said < 1.5 * max(sizes) + 3 * len(study.blocks) * 64 * 1024 + heads


def test_records_take_no_more_than_was_said(
    tmp_path: Path, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_records, "measure_peaks", lambda *_: Peaks(100.0, 10.0, 50.0, 1000))
    study = study_of(tmp_path, "--profile true")
    assert runner.train(study) == 0
    written = size_of(tmp_path / "run") - size_of(tmp_path / "run" / "checkpoints")
    said = sum(block_disk(block, study.run).records for block in study.blocks)
    said -= 4 * disk._LANE_BYTES
    assert written - 4096 <= said < 1.5 * written
    final = sum(block_disk(block, study.run).final for block in study.blocks)
    assert size_of(tmp_path / "run" / "checkpoints") <= final


def test_a_replay_counts_as_often_as_its_transitions_are_written() -> None:
    """1,000 transitions of 17 + 6 + 1 numbers, two marks and 17 / 16 numbers of final ones."""

    def replay(capacity: int, **settings: Any) -> int:
        overrides = {"start_timesteps": 100, "max_timesteps": 900, **settings}
        (block,) = make_blocks(expand(["SAC"], overrides=overrides).lanes)
        return block_disk(block, RunConfig(checkpoint_minutes=1e-6), capacity).replay

    each, spare = 4 * 24 + 2 + 5, 101 * (4 * 24 + 2 + 5)
    # All that there ever are, at most twice more in files that are merged.
    assert replay(1000) == (1001 + 1) * each + 2 * 1001 * each
    # Where a ring forgets: what came since two checkpoints, and the rest of the oldest file.
    assert replay(100) == (101 + 2) * each + 3 * spare
    large = replay(10**6, max_timesteps=10**9)
    assert large == (10**6 + 1 + 2) * each + 3 * SPAN_BYTES


def test_finished_blocks_keep_their_networks_and_lose_their_replay() -> None:
    blocks = make_blocks(expand(["ANF-SAC"], envs=["Hopper-v3", "Humanoid-v3", "Ant-v3"]).lanes)
    disks = [block_disk(block, RUN) for block in blocks]
    assert disks[1].training > max(disks[0].training, disks[2].training)
    expected = disks[0].final + disks[1].training + sum(d.records for d in disks)
    assert run_disk_bytes(blocks, RUN) == expected + disk._RUN_BYTES
    assert disks[1].final < disks[1].tensors < disks[1].training / 20


@pytest.mark.parametrize("num_seeds", [1, 8])
def test_the_replay_that_is_advised_fits(num_seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = make_blocks(expand(["ANF-SAC", "SAC"], num_seeds=num_seeds).lanes)
    free = num_seeds * 60 * MIB
    monkeypatch.setattr(disk, "free_disk_bytes", lambda path: free)
    with pytest.raises(ValueError, match="needs more disk for checkpoints and records") as caught:
        make_disk_plan(blocks, RUN, "runs/x").check()
    message = str(caught.value)
    assert "\n" not in message and "--run_dir on another disk" in message
    fits = int(message.split("--replay_capacity ")[1].split()[0])
    assert run_disk_bytes(blocks, RUN, fits) <= free < run_disk_bytes(blocks, RUN, 2 * fits)


def test_a_disk_without_room_for_networks_is_refused_for_another() -> None:
    blocks = make_blocks(expand(["ANF-SAC"]).lanes)
    plan = disk.DiskPlan(blocks, RUN, Path("runs"), free=MIB)
    with pytest.raises(ValueError, match=r"even the smallest replay .*--run_dir on another disk"):
        plan.check()
    disk.DiskPlan(blocks, RUN, Path("runs"), free=plan.needed).check()


def test_free_space_is_that_of_the_nearest_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=7)

    monkeypatch.setattr(disk.shutil, "disk_usage", usage)
    assert disk.free_disk_bytes(tmp_path / "runs" / "deep" / "new") == 7
    (tmp_path / "runs").mkdir()
    assert disk.free_disk_bytes(tmp_path / "runs" / "new") == 7
    assert asked == [tmp_path, tmp_path / "runs"]
    monkeypatch.chdir(tmp_path)
    assert disk.nearest_folder("runs/x") == Path("runs")
    assert disk.nearest_folder("x") == Path()


def test_what_stands_in_the_folder_counts_as_there(tmp_path: Path) -> None:
    blocks = make_blocks(expand(["ANF-SAC"]).lanes)
    for number, size in ((0, 1000), (1, 30), (2, 500)):
        block_path(tmp_path, number).mkdir(parents=True)
        (block_path(tmp_path, number) / "tensors-1.safetensors").write_bytes(bytes(size))
    os.link(block_path(tmp_path, 2) / "tensors-1.safetensors", block_path(tmp_path, 2) / "again")
    new, going_on = (make_disk_plan(blocks, RUN, tmp_path, n) for n in (None, [1, 2, 7]))
    assert going_on.needed == new.needed - 530
    assert " more at most for checkpoints" in going_on.text()
    assert make_disk_plan([], RUN, tmp_path, [1]).needed == 0
    full = disk.DiskPlan(blocks, RUN, tmp_path, free=1, standing=530)
    with pytest.raises(ValueError, match=r"run .* free some, or move it to another disk"):
        full.check()


# --- runs that go on ------------------------------------------------------------------------------


def test_a_run_that_goes_on_is_held_against_memory_and_disk(
    tmp_path: Path, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(tmp_path)
    blocks = [block.lanes for block in study.blocks]
    path = tmp_path / "run"
    limits.check_limits(blocks, study.run, path)  # nothing is there yet
    monkeypatch.setattr(limits.memory, "available_bytes", lambda device: MIB)
    with pytest.raises(ValueError, match=r"with 2 lanes in block 1 .*free some, or use another"):
        limits.check_limits(blocks, study.run, path)
    monkeypatch.undo()
    fake_env.register(monkeypatch)
    monkeypatch.setattr(disk, "free_disk_bytes", lambda folder: 1000)
    with pytest.raises(ValueError, match=r"needs more disk .*free some, or move it") as caught:
        limits.check_limits(blocks, study.run, path)
    assert "\n" not in str(caught.value)


def test_a_finished_block_needs_nothing_any_more(
    tmp_path: Path, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(tmp_path)
    blocks = [block.lanes for block in study.blocks]
    assert runner.train(study) == 0
    monkeypatch.setattr(disk, "free_disk_bytes", lambda folder: 0)
    plan = limits.remaining_plan(blocks, study.run, tmp_path / "run")
    assert (plan.blocks, plan.num_trained) == ((), 4)
    plan.check()
    for index in block_path(tmp_path / "run", 0).glob("checkpoint-*.json"):
        index.write_text("{")
    (again,) = limits.remaining_plan(blocks, study.run, tmp_path / "run").blocks
    assert again.lanes == blocks[0]
