"""The soak: what it sees in folders and processes, its figures, and that it finds what is wrong."""

from __future__ import annotations

import csv
import math
import os
import random
import sys
import time
from pathlib import Path

import process_status
import pytest
import same_runs
import soak
import soak_figures
import soak_process
import torch
import watched_folder
from soak_figures import Kill, Sample
from soak_process import Failed, Soak

from fastanf.checkpoint import BlockCheckpoints, Checkpoint, block_path
from fastanf.tensor_file import Seal

FAKE = Path(__file__).with_name("fake_training.py")
NUM_CHECKPOINTS = 8


def sample(soak_s: float, rss_mib: float, **values: float) -> Sample:
    usual = {
        "run": "soak", "process": 1, "age_s": soak_s, "trained_s": soak_s, "block": 0, "step": 9,
        "peak_mib": rss_mib, "threads": 3, "files": 4, "checkpoints": 2, "folder_mib": 7.0,
    }  # fmt: skip
    return Sample(**(usual | {"soak_s": soak_s, "rss_mib": rss_mib} | values))  # type: ignore[arg-type]


def save(run_dir: Path, step: int, is_finished: bool = False, weight: float = 0.5) -> None:
    """One more checkpoint of block 0, its networks one number."""
    tensors = {
        "learner/weight": torch.tensor([weight]),
        "learner/watch.checkpoint_steps": torch.tensor([step]),
    }
    state = {"step": step, "is_finished": is_finished}
    BlockCheckpoints(block_path(run_dir, 0)).save(tensors, state)


def table(run_dir: Path, *rows: tuple[int, float, float]) -> None:
    run_dir.mkdir(exist_ok=True)
    with (run_dir / "eval.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("step", "return_mean", "wall_s"), *rows])


# Figures


def test_slope_is_that_of_the_line_an_hour() -> None:
    times = [0.0, 600.0, 1800.0, 3600.0]
    assert soak_figures.slope(times, [5 + 2 * t / 3600 for t in times]) == pytest.approx(2)
    assert math.isnan(soak_figures.slope([4.0, 4.0], [1.0, 2.0]))


def test_common_slope_does_not_see_that_lines_stand_at_other_heights() -> None:
    """As where each process begins with more memory: one line through all would rise by 100."""
    lines = [([0.0, 1800.0], [100.0, 99.0]), ([3600.0, 5400.0], [200.0, 199.0])]
    assert soak_figures.common_slope(lines) == pytest.approx(-2)


def test_growth_counts_from_the_warm_samples_of_each_process_and_block() -> None:
    samples = [
        sample(0, 500, trained_s=-1), sample(10, 100, trained_s=10),
        sample(40, 110, trained_s=40), sample(400, 111, trained_s=400),
        sample(500, 130, process=2, trained_s=30), sample(590, 131, process=2, trained_s=90),
        sample(600, 300, process=2, block=1, trained_s=0),
    ]  # fmt: skip
    stretches = soak_figures.warm_stretches(samples, 30)
    assert [len(stretch) for stretch in stretches.values()] == [2, 2]
    figures = soak_figures.memory_figures(stretches)
    assert figures["rss_start_mib"] == [110, 130] and figures["rss_end_mib"] == [111, 131]
    assert figures["rss_growth_of_each_mib_per_h"] == pytest.approx([10, 40])
    assert figures["rss_growth_across_mib_per_h"] == pytest.approx([20 / (460 / 3600)])
    assert 10 < figures["rss_growth_within_mib_per_h"][0] < 40
    assert soak_figures.memory_figures({}) == {}


def test_late_growth_is_that_of_the_second_half_of_each_stretch() -> None:
    """Memory that a first evaluation takes once is no leak."""
    heights = [100, 200, 200, 200, 201, 202]
    samples = [sample(600 * n, height) for n, height in enumerate(heights)]
    figures = soak_figures.memory_figures(soak_figures.warm_stretches(samples, 0))
    assert figures["rss_growth_late_mib_per_h"] == pytest.approx([6])
    assert figures["rss_growth_within_mib_per_h"][0] > 50


def test_kills_are_counted_by_phase_and_a_sigterm_is_none() -> None:
    phases = [("SIGKILL", "saving"), ("SIGKILL", "no checkpoint"), ("SIGKILL", "saving"),
              ("SIGTERM", "training")]  # fmt: skip
    kills = [Kill(1.0, n, 1.0, name, phase, 0, n, 2.0) for n, (name, phase) in enumerate(phases)]
    figures = soak_figures.kill_figures(kills)
    assert figures["kills_count"] == [3]
    assert figures["kills_while_saving_count"] == [2]
    assert figures["kills_while_no_checkpoint_count"] == [1]
    assert figures["lost_s"] == [2, 2, 2]


# What it sees


def test_status_sees_memory_threads_and_files_of_this_process() -> None:
    process_status.release_freed_memory()  # what other tests left free would be taken again
    before = process_status.status()
    memory = torch.ones(64 * 2**18)  # 64 MiB
    with open(os.devnull):
        now = process_status.status(os.getpid())
    assert now.rss_mib > before.rss_mib + 50 and memory[0] == 1
    assert now.peak_mib >= now.rss_mib and now.num_threads >= 1
    assert now.num_files == before.num_files + 1
    assert process_status.clear_peak()
    del memory
    process_status.release_freed_memory()
    assert process_status.status().rss_mib < now.rss_mib - 50
    with pytest.raises(OSError):
        process_status.status(2**22 + 1)  # more than Linux ever has


def test_a_folder_shows_its_block_step_and_whether_it_is_being_saved(tmp_path: Path) -> None:
    assert watched_folder.folder_state(tmp_path / "none") == (0, 0, 0.0, False, 0, 0)
    assert watched_folder.seconds_since_saved(tmp_path) == math.inf
    save(tmp_path, 120)
    state = watched_folder.folder_state(tmp_path)
    assert (state.block, state.step, state.num_checkpoints) == (0, 120, 1)
    assert state.num_bytes == sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
    assert not state.has_finished and not watched_folder.is_being_saved(tmp_path)
    assert 0 <= watched_folder.seconds_since_saved(tmp_path) < 60
    (block_path(tmp_path, 0) / "replay-2-0-50.safetensors").touch()
    assert watched_folder.is_being_saved(tmp_path)
    assert not watched_folder.is_being_saved(tmp_path, since=time.time() + 60)
    save(tmp_path, 200, is_finished=True)
    assert watched_folder.folder_state(tmp_path)[:3] == (1, 0, 0.0)
    (tmp_path / "manifest.json").write_text('{"status": "finished"}')
    (tmp_path / "lock").write_text('{"pid": 12}')
    assert watched_folder.folder_state(tmp_path).has_finished
    assert watched_folder.owner(tmp_path) == 12


def test_runs_are_the_same_but_for_clocks_and_when_they_were_saved(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for run_dir, wall_s, step in ((one, 1.0, 50), (other, 2.0, 60)):
        table(run_dir, (5, 3.5, wall_s), (10, 4.5, wall_s))
        save(run_dir, step, is_finished=True)
    assert same_runs.differences(one, other) == []
    table(other, (5, 3.5, 2.0), (10, 4.75, 2.0))
    assert same_runs.differences(one, other) == ["eval.csv differs from row 2 on (2 rows and 2)"]
    table(other, (5, 3.5, 2.0))
    assert same_runs.differences(one, other) == ["eval.csv differs from row 2 on (2 rows and 1)"]
    table(other, (5, 3.5, 2.0), (10, 4.5, 2.0))
    save(other, 60, is_finished=True, weight=-0.5)
    (found,) = same_runs.differences(one, other)
    assert found == "the last checkpoints of block0 differ in learner/weight"
    (one / "train.csv").touch()
    assert "has other tables" in same_runs.differences(one, other)[0]


# Processes


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """Whole checkpoints without the files that they name."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for number in range(1, 1 + NUM_CHECKPOINTS):
        state = {"step": 10 * number, "is_finished": False}
        seals = {f"tensors-{number}.safetensors": Seal(4, "")}
        Checkpoint(folder, number, state, seals).write_index()
    return folder


def use_fake(checkpoints: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """Processes run the fake from now on."""
    program = (sys.executable, "-IS", str(FAKE), mode, str(checkpoints))
    monkeypatch.setattr(soak_process, "PROGRAM", program)


def fake_soak(
    tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> Soak:
    use_fake(checkpoints, monkeypatch, mode)
    return Soak(tmp_path, "soak", ["--seed", "1"], sample_s=0.02)


def test_a_run_is_killed_and_gone_on_with_until_it_is_finished(
    tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soak_process, "MOST_IDLE", 1000)  # a busy machine starts them slowly
    of_run = fake_soak(tmp_path, checkpoints, monkeypatch, "comes_on")
    assert of_run.kill_until(60, 0.4, 0.0, random.Random(0))
    commands = [line for line in (tmp_path / "output.txt").read_text().splitlines() if "$" in line]
    run_dir = str(tmp_path / "soak")
    assert commands[0] == f"$ python -m fastanf train --seed 1 --plain --run_dir {run_dir}"
    assert commands[-1] == f"$ python -m fastanf resume {run_dir}"
    steps = [kill.step for kill in of_run.kills]
    assert len(steps) >= NUM_CHECKPOINTS // 2 - 1 and steps == sorted(steps)
    assert {kill.signal for kill in of_run.kills} == {"SIGKILL"}
    with (tmp_path / "kills.csv").open(newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == steps
    assert of_run.samples and of_run.process_s > 0
    assert watched_folder.folder_state(of_run.run_dir).has_finished


def test_the_last_process_is_asked_to_stop_after_it_has_saved(
    tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_run = fake_soak(tmp_path, checkpoints, monkeypatch, "comes_on")
    assert not of_run.kill_until(0.1, 60, 0.0, random.Random(0))
    assert [(kill.signal, kill.lost_s) for kill in of_run.kills] == [("SIGTERM", 0)]
    use_fake(checkpoints, monkeypatch, "finishes")
    of_run.finish()
    assert watched_folder.folder_state(of_run.run_dir).has_finished


def test_an_aimed_kill_comes_while_its_process_saves_and_a_run_must_come_on(
    tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed process left behind is not taken for files that are being written."""
    of_run = fake_soak(tmp_path, checkpoints, monkeypatch, "writes_long")
    with pytest.raises(Failed, match="5 processes in a row were killed at step 0"):
        of_run.kill_until(60, 0.001, 1.0, random.Random(0))
    assert [kill.phase for kill in of_run.kills] == ["saving"] * 5
    assert watched_folder.owner(of_run.run_dir) is not None


@pytest.mark.parametrize(
    ("mode", "words"),
    [("fails", "ended with code 7, not 0:\nout of luck"),
     ("hears_not", "ended with code -15, not 130")],
)  # fmt: skip
def test_a_process_that_ends_with_an_error_ends_the_soak_with_what_it_said(
    tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch, mode: str, words: str
) -> None:
    of_run = fake_soak(tmp_path, checkpoints, monkeypatch, mode)
    with pytest.raises(Failed) as failure:
        of_run.kill_until(60 if mode == "fails" else 0.1, 100, 0.0, random.Random(0))
    assert words in str(failure.value)


# The script

TINY = ["--env", "Hopper-v3", "--hidden", "8", "--num_threads", "1", "--device", "cpu",
        "--max_timesteps", "500", "--replay_capacity", "200"]  # fmt: skip


def test_the_script_writes_rows_and_a_summary_and_compares_with_the_reference(
    tmp_path: Path,
    checkpoints: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use_fake(checkpoints, monkeypatch, "finishes")
    times = ["--minutes", "0.005", "--kill_every", "0.003", "--sample_s", "0.02"]
    found: list[list[str]] = [["eval.csv differs"], []]
    monkeypatch.setattr(same_runs, "differences", lambda one, other: found.pop(0))
    times += ["--out", str(tmp_path / "results")]
    assert soak.main([str(tmp_path / "one"), *times, "--compare", *TINY]) == 1
    assert (tmp_path / "one" / "soak.csv").exists() and not (tmp_path / "results").exists()
    assert "FAILED: the run that was killed is another one: eval.csv" in capsys.readouterr().out
    assert soak.main([str(tmp_path / "two"), *times, "--compare", *TINY]) == 0
    assert "those of the reference" in (tmp_path / "two" / "summary.txt").read_text()
    found_rows = (tmp_path / "results" / "soak.csv").read_text()
    assert found_rows == (tmp_path / "two" / "soak.csv").read_text()
    with (tmp_path / "two" / "soak.csv").open(newline="") as file:
        rows = {(row["impl"], row["metric"]): row for row in csv.DictReader(file)}
    assert rows["soak", "folder_planned_mib"]["unit"] == "MiB"
    assert rows["soak", "trained_s"]["env"] == "Hopper-v3"
    assert float(rows["reference", "processes_count"]["p50"]) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--run_dir", "x"], "--run_dir must not be given: the run is in FOLDER"),
     (["--checkpoint_minutes", "3"], "--checkpoint_minutes must be half of --kill_every (4) or"),
     (["--aim", "2"], "must be a number in [0, 1], got '2'"),
     (["--aim", "often"], "--aim"),
     (["--minutes", "0"], "must be a number above 0, got '0'"),
     (["--env", "Nowhere-v3"], "Nowhere-v3")],
)  # fmt: skip
def test_arguments_that_are_wrong_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as ending:
        soak.main([str(tmp_path / "new"), *TINY, *arguments])
    error = capsys.readouterr().err
    assert ending.value.code == 2 and error.count("\n") == 1 and words in error
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_there_is_refused(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        soak.main([str(tmp_path), *TINY])
    assert "FOLDER must be a new one" in capsys.readouterr().err


def test_more_bytes_than_planned_fail(tmp_path: Path) -> None:
    study = soak.parse_command_line(TINY)
    of_run = Soak(tmp_path, "soak", TINY, 1.0)
    of_run.samples = [sample(1, 100, folder_mib=0.5)]
    soak.check_disk(of_run, study)
    of_run.samples.append(sample(2, 100, folder_mib=1e5))
    with pytest.raises(Failed, match=r"the folder took 100000\.0 MiB, more than"):
        soak.check_disk(of_run, study)
