"""TensorBoard and Weights & Biases: what they get, and that their failure stops nothing."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from fastanf import mirrors
from fastanf.records import RunFolder
from fastanf.rows import (
    ProfileRow,
    QuarantineRow,
    TopologyRow,
    TrainingRow,
    read_evaluations,
    read_profile,
)
from tests.record_samples import make_run, names_in, sample_evaluation


def test_tensorboard_has_one_folder_a_lane_with_its_scalars(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with make_run(tmp_path, tensorboard=True) as run:
        run.append([sample_evaluation(0, 5000, 7.0), sample_evaluation(1, 5000, 8.0)])
        run.append([TrainingRow(0, 100, 100, critic_loss=0.5)])
        run.append([TopologyRow(0, 100, 100, "actor", 0, 5, 0.2, 1, 4, 0.2)])
        run.append([QuarantineRow(0, 640, 640, "return is inf in an evaluation")])
    folders = names_in(run.path / "tb")
    assert folders == ["lane00_ANF-SAC_seed3", "lane01_SAC_a=1-b=2_seed4"]
    events = EventAccumulator(str(run.path / "tb" / folders[0]))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("eval/return_mean")] == [(5000, 7.0)]
    assert [e.value for e in events.Scalars("train/critic_loss")] == [0.5]
    assert [e.value for e in events.Scalars("topology/actor_0/active")] == [5.0]
    assert [(e.step, e.value) for e in events.Scalars("eval/stopped")] == [(640, 640.0)]
    assert "train/temperature" not in events.Tags()["scalars"]


def test_tensorboard_has_the_stages_of_a_profiled_run(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with make_run(tmp_path, tensorboard=True, profile=True) as run:
        row = ProfileRow(0, 100, 100, "update", "critic forward", mean_ms=2.5, share=0.25)
        run.append([row])
    assert read_profile(run.path)[0].mean_ms == 2.5
    events = EventAccumulator(str(run.path / "tb" / "lane00_ANF-SAC_seed3"))
    events.Reload()
    assert events.Tags()["scalars"] == [
        "profile/update_critic_forward_ms",
        "profile/update_critic_forward_share",
    ]
    assert [e.value for e in events.Scalars("profile/update_critic_forward_ms")] == [2.5]


def test_resumed_tensorboard_does_not_double_steps(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with make_run(tmp_path, tensorboard=True) as run:
        run.append([sample_evaluation(0, step, 1.0) for step in (5, 10, 15)])
    with RunFolder.open(run.path, tensorboard=True) as again:
        again.truncate({0: 5})
        again.append([sample_evaluation(0, 10, 2.0)])
    events = EventAccumulator(str(run.path / "tb" / "lane00_ANF-SAC_seed3"))
    events.Reload()
    found = [(e.step, e.value) for e in events.Scalars("eval/return_mean")]
    assert found == [(5, 1.0), (10, 2.0)]


def test_rows_that_come_together_are_one_event_a_lane_and_step(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    with make_run(tmp_path, tensorboard=True) as run:
        with run.together():
            run.append([sample_evaluation(0, 5, 7.0), sample_evaluation(1, 5, 8.0)])
            run.append([TrainingRow(0, 5, 5, critic_loss=0.5)])
            assert not (run.path / "tb").exists()
        with run.together():
            run.append([sample_evaluation(0, 10, 9.0)])
            run.truncate({0: 5})  # its next worker comes again, with something else
            run.append([sample_evaluation(0, 10, 6.0)])
    files = sorted((run.path / "tb" / "lane00_ANF-SAC_seed3").iterdir())
    found = [
        [(event.step, [value.tag for value in event.summary.value]) for event in events]
        for events in (EventFileLoader(str(file)).Load() for file in files)
    ]
    both = ["eval/return_mean", "eval/return_std"]
    first, second = found
    training = ["train/critic_loss", "train/sim_failures"]
    assert first == [(0, []), (5, [*both, *training]), (10, both)]
    assert second == [(0, []), (6, []), (10, both)]


def test_failing_mirror_is_switched_off_and_the_row_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(tmp_path, tensorboard=True)
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    run.append([sample_evaluation(0)])
    run.append([sample_evaluation(1)])
    assert len(read_evaluations(run.path)) == 2
    assert len([r for r in caplog.records if "TensorBoard is off" in r.message]) == 1


def test_missing_wandb_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^wandb_mode 'offline' needs wandb: pip install .*"):
        make_run(tmp_path, wandb_mode="offline")
    with pytest.raises(ValueError, match=r"^wandb_mode 'on' is unknown"):
        make_run(tmp_path, wandb_mode="on")
    assert names_in(tmp_path) == []


def test_wandb_gets_one_run_with_metrics_named_by_lane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[dict[str, float]] = []
    options: dict[str, Any] = {}
    wandb_run = types.SimpleNamespace(
        log=logged.append, define_metric=lambda *_, **__: None, finish=lambda: logged.append({})
    )
    wandb = types.ModuleType("wandb")
    wandb.__spec__ = types.SimpleNamespace()  # pyright: ignore[reportAttributeAccessIssue]
    vars(wandb)["init"] = lambda **given: options.update(given) or wandb_run
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    with make_run(tmp_path, wandb_mode="offline") as run:
        run.append([sample_evaluation(0, 5000, 7.0)])
    assert (options["project"], options["mode"], options["group"]) == ("fastanf", "offline", "run")
    label = "lane00_ANF-SAC_seed3"
    assert logged == [
        {f"{label}/step": 5000, f"{label}/eval/return_mean": 7.0, f"{label}/eval/return_std": 0.5},
        {},
    ]
