"""The checkpoint benchmark: its points, what it counts, and that it compares what it restores."""

from __future__ import annotations

import contextlib
import csv
import functools
from collections.abc import Iterator
from pathlib import Path

import bench_checkpoint
import benchmark
import blocks
import checkpoint_rounds
import pytest
import torch
from bench_checkpoint import CheckpointBenchmark
from checkpoint_rounds import BlockRound, RunRound

from fastanf.block import TrainingBlock
from fastanf.checkpoint import Checkpoint
from fastanf.saving import Saving
from tests.helpers import make_block, make_lane

SMALL = ["--env", "Small-v0", "--backend", "random", "--hidden", "8", "--replay_capacity", "400",
         "--batch_size", "8", "--num_threads", "1", "--device", "cpu"]  # fmt: skip
NUM_STEPS = 30


@pytest.fixture
def bench() -> Iterator[CheckpointBenchmark]:
    with contextlib.closing(CheckpointBenchmark()) as bench:
        yield bench


def points_of(bench: CheckpointBenchmark, *argv: str) -> list[benchmark.Point]:
    """What the arguments stand for."""
    own, rest = benchmark._parser(bench).parse_known_args(argv)
    return bench.points(own, rest)


def make_blocks(num_blocks: int, num_steps: int) -> list[TrainingBlock]:
    lanes = [make_lane("ANF-SAC", seed, replay_capacity=400) for seed in (3, 4)]
    return [make_block(lanes, num_steps) for _ in range(num_blocks)]


# Points


def test_without_flags_a_large_block_of_both_tasks_is_saved_and_trained(bench) -> None:
    found = points_of(bench, "--device", "cpu", "--num_threads", "1")
    shown = ("impl", "env", "lanes", "replay_capacity", "noise_fraction", "policies")
    assert [tuple(point[name] for name in shown) for point in found] == [
        (impl, env, lanes, 1_000_000, 0.9, "ANF-SAC")
        for env, lanes in (("HalfCheetah-v3", 8), ("Humanoid-v3", 1))
        for impl in ("block", "run")
    ]


def test_flags_and_lanes_choose_the_block(bench) -> None:
    found = points_of(bench, *SMALL, "--lanes", "1", "3", "--policy", "SAC", "--fake_features=0.5")
    assert [(point["impl"], point["lanes"]) for point in found] == [
        ("block", 1), ("run", 1), ("block", 3), ("run", 3)
    ]  # fmt: skip
    assert {point["replay_capacity"] for point in found} == {400}
    assert {(point["noise_fraction"], point["env"]) for point in found} == {(0.5, "Small-v0")}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--checkpoint_minutes", "1"], "--checkpoint_minutes must not be given"),
     (["--Max-Timesteps=9"], "--Max-Timesteps must not be given"),
     (["--policy", "SAC", "TD3"], "lanes of one kind"),
     (["--policy", "SAC", "ANF-SAC"], "--policy must be one, got SAC ANF-SAC"),
     (["--folder", "/nowhere"], "--folder must be a folder, got '/nowhere'"),
     (["--steps", "0"], "must be an integer of at least 1, got '0'"),
     (["--record", "--compare", "HEAD"], "--record must be given without --compare"),
     (["--out", "x", "--compare", "HEAD"], "--out must be given without --compare")],
)  # fmt: skip
def test_arguments_that_are_wrong_are_refused_in_one_line(
    bench, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ending:
        benchmark.main(bench, [*SMALL, *arguments])
    error = capsys.readouterr().err
    assert ending.value.code == 2 and error.count("\n") == 1 and words in error


# Saving and restoring a block


def test_a_round_counts_what_each_checkpoint_wrote_and_leaves_one_folder(tmp_path: Path) -> None:
    lanes = [make_lane("ANF-SAC", seed, replay_capacity=400) for seed in (3, 4)]
    block = blocks.make_block(lanes, torch.device("cpu"), 1)
    make = functools.partial(TrainingBlock, lanes, torch.device("cpu"), 1)
    one_round = BlockRound(make, block, tmp_path, NUM_STEPS, 300.0, 7.0).measure
    before = {path.name for path in (tmp_path / "block0").iterdir()}
    figures = one_round(0.0)
    files = {path.name: path.stat().st_size for path in (tmp_path / "block0").iterdir()}
    new = sum(size for name, size in files.items() if name not in before and "json" not in name)
    assert figures["later_mib"] == new / 2**20 < figures["whole_mib"]
    assert figures["folder_mib"] == sum(files.values()) / 2**20
    assert figures["replay_files_count"] == sum("replay-2" in n or "replay-1" in n for n in files)
    assert figures["later_share"] == figures["later_s"] / 300
    assert figures["later_state_s"] < figures["later_s"]
    assert figures["restore_simulators_s"] < figures["restore_s"]
    assert figures["train_steps_per_s"] == 7
    assert [path.name for path in tmp_path.iterdir()] == ["block0"]


def test_a_block_that_is_restored_otherwise_is_no_figure(tmp_path: Path, monkeypatch) -> None:
    restore = Checkpoint.restore_transitions_

    def restore_otherwise_(self: Checkpoint, replay) -> None:
        restore(self, replay)
        replay.reward[0, :NUM_STEPS] += 1

    block, other = make_blocks(2, NUM_STEPS)
    one_round = BlockRound(lambda: other, block, tmp_path, NUM_STEPS, 300.0, 7.0)
    monkeypatch.setattr(Checkpoint, "restore_transitions_", restore_otherwise_)
    with pytest.raises(ValueError, match="restored differs from the one that was saved"):
        one_round.measure(0.0)


def test_blocks_are_the_same_only_with_the_same_state_and_simulators() -> None:
    block, other, later = *make_blocks(2, NUM_STEPS), *make_blocks(1, NUM_STEPS + 1)
    checkpoint_rounds.check_same(block, other, is_exact=True)
    for restored, is_exact in ((other, False), (later, True)):
        with pytest.raises(ValueError, match="Small-v0"):
            checkpoint_rounds.check_same(block, restored, is_exact)


# The share of a run


def test_saving_share_is_that_of_the_time_until_the_last_checkpoint_but_one() -> None:
    saves = [(10.0, 11.0), (30.0, 32.0), (60.0, 61.0), (61.5, 70.0)]
    states = [(9.5, 10.0), (29.75, 30.0), (59.75, 60.0), (61.25, 61.5)]
    figures = checkpoint_rounds.saving_figures(saves, states)
    assert figures["saving_share"] == pytest.approx(3 / 50)
    assert figures["saving_and_state_share"] == pytest.approx(3.5 / 50)
    assert figures["saves_count"] == 4


def test_a_run_is_trained_and_every_checkpoint_of_it_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoint_rounds, "SAVE_EVERY_S", 1e-9)
    monkeypatch.setattr(checkpoint_rounds, "START_STEPS", 20)
    monkeypatch.setattr("fastanf.saving.MOST_SHARE", 1.0)
    save = Saving.save
    one_round = RunRound(SMALL, tmp_path, 20.0, 1).measure
    assert one_round(benchmark.WARM_ROUND_S) == {}
    figures = one_round(0.5)
    # One after each of the random steps and of the ten others, and the last one.
    assert figures["saves_count"] == 20 + 10 + 1
    assert 0 < figures["saving_share"] < figures["saving_and_state_share"] < 1
    assert Saving.save is save and list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_a_run_that_hardly_saves_is_no_figure(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint_rounds, "SAVE_EVERY_S", 1e6)
    with pytest.raises(
        ValueError,
        match=r"--round_s must be more than 0\.5, so that a run has 4 checkpoints: it had 1",
    ):
        RunRound(SMALL, tmp_path, 20.0, 1).measure(0.5)


def test_rows_of_both_points_go_to_the_folder_that_is_named(
    bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_checkpoint, "RATE_S", 0.01)
    monkeypatch.setattr(bench_checkpoint, "DISK_BYTES", 2**10)
    monkeypatch.setattr(RunRound, "measure", lambda self, seconds: {"saves_count": 5.0})
    own = ["--lanes", "1", "--steps", "20", "--rounds", "1", "--out", str(tmp_path / "rows")]
    assert benchmark.main(bench, [*SMALL, *own, "--folder", str(tmp_path)]) == 0
    with (tmp_path / "rows" / "checkpoint.csv").open(newline="") as file:
        rows = {(row["impl"], row["metric"]): row for row in csv.DictReader(file)}
    assert rows["block", "first_s"]["unit"] == "s" and rows["block", "later_mib"]["steps"] == "20"
    assert float(rows["run", "saves_count"]["p50"]) == 5
    assert float(rows["run", "disk_gb_s"]["p50"]) > 0
    bench.close()
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]
