"""The run folder: whole rows, whole files, nothing doubled, nothing left behind."""

import csv
import dataclasses
import json
import math
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastanf import records
from fastanf.records import EvaluationRow, RunFolder, TopologyRow, TrainingRow

LANES = [
    {"lane": 0, "block": 0, "policy": "ANF-SAC", "seed": 3, "variant": "", "hidden": (256, 256)},
    {"lane": 1, "block": 0, "policy": "SAC", "seed": 4, "variant": "a=1, b=2", "hidden": (256,)},
]


def evaluation(lane: int = 0, step: int = 5000, mean: float = 1.5) -> EvaluationRow:
    return EvaluationRow(
        lane, "ANF-SAC", "Hopper-v3", 3, 0.9, "", step, step, 1.25, mean, 0.5, 1.0, 2.0, 10
    )


def make(path: Path, **options: Any) -> RunFolder:
    return RunFolder.create(path / "run", {"device": "cpu"}, LANES, **options)


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_eval_csv_has_exactly_the_documented_columns(tmp_path: Path) -> None:
    run = make(tmp_path)
    assert (run.path / "eval.csv").read_text() == (
        "lane,policy,env,seed,noise_fraction,variant,step,updates,wall_s,"
        "return_mean,return_std,return_min,return_max,episodes\n"
    )


def test_new_folder_holds_manifest_and_tables_only(tmp_path: Path) -> None:
    run = make(tmp_path)
    assert names_in(run.path) == [
        "eval.csv",
        "lanes.csv",
        "manifest.json",
        "topology.csv",
        "train.csv",
    ]


def test_manifest_tells_versions_device_threads_command_and_status(tmp_path: Path) -> None:
    manifest = records.read_manifest(make(tmp_path).path)
    assert manifest["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert set(manifest["versions"]) == {"python", *records.VERSIONED}
    assert manifest["device"] == "cpu"
    assert manifest["num_threads"] == torch.get_num_threads()
    assert manifest["command_line"] == sys.argv
    assert manifest["status"] == "running"
    assert "commit" in manifest and "started_at" in manifest


def test_rows_read_back_equal(tmp_path: Path) -> None:
    run = make(tmp_path)
    evaluations = [
        evaluation(0, mean=0.1 + 0.2),
        dataclasses.replace(evaluation(1), variant="a, b"),
    ]
    training = [TrainingRow(0, 10, 10, critic_loss=1e-9, q_mean=math.inf)]
    topology = [TopologyRow(1, 10, 2, "critic2", 0, 8704, 0.2, 17, 153, 0.1)]
    run.append_evaluation(evaluations)
    run.append_training(training)
    run.append_topology(topology)
    assert records.read_evaluations(run.path) == evaluations
    assert records.read_evaluations(run.path / "eval.csv") == evaluations
    assert records.read_topology(run.path) == topology
    (row,) = records.read_training(run.path)
    assert (row.critic_loss, row.q_mean) == (1e-9, math.inf)
    assert math.isnan(row.temperature)


def test_numpy_and_torch_scalars_are_written_as_plain_numbers(tmp_path: Path) -> None:
    run = make(tmp_path)
    row = dataclasses.replace(
        evaluation(),
        lane=np.int64(1),  # pyright: ignore[reportArgumentType]
        return_mean=np.float32(0.5),  # pyright: ignore[reportArgumentType]
        return_std=torch.tensor(0.25),  # pyright: ignore[reportArgumentType]
    )
    run.append_evaluation([row])
    assert records.read_evaluations(run.path)[0] == dataclasses.replace(
        evaluation(), lane=1, return_mean=0.5, return_std=0.25
    )


def test_lanes_read_back_with_their_types(tmp_path: Path) -> None:
    rows = [
        {"lane": 0, "policy": "SAC", "seed": 1, "text": "7", "flag": True, "sizes": (1, 2)},
        {"lane": 1, "policy": "SAC", "seed": 2, "text": "a,b", "rate": 0.1, "nothing": None},
    ]
    RunFolder.create(tmp_path / "run", {}, rows)
    first, second = records.read_lanes(tmp_path / "run")
    assert {key: first[key] for key in rows[0]} == {**rows[0], "sizes": [1, 2]}
    assert {key: second[key] for key in rows[1]} == rows[1]
    assert first["rate"] is None
    with open(tmp_path / "run" / "lanes.csv", newline="") as file:
        assert next(csv.reader(file))[:2] == ["lane", "block"]


def test_existing_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match=r"^run_dir .* exists already.*resume.*$"):
        make(tmp_path)
    assert names_in(tmp_path / "run") == []


def test_folder_below_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^run_dir .*writable folder$"):
        RunFolder.create(tmp_path / "file" / "a" / "run", {}, LANES)
    assert names_in(tmp_path) == ["file"]


def test_failed_creation_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "replace", failing_replace)
    with pytest.raises(OSError, match="full"):
        RunFolder.create(tmp_path / "runs" / "deep" / "run", {}, LANES)
    assert names_in(tmp_path) == []


def failing_replace(*_: Any) -> None:
    raise OSError(28, "disk full")


def test_torn_last_line_is_skipped_by_readers_and_removed_by_open(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.append_evaluation([evaluation(0), evaluation(1)])
    whole = (run.path / "eval.csv").read_bytes()
    with open(run.path / "eval.csv", "ab") as file:
        file.write(b"0,ANF-SAC,Hopper-v3,3,0.9,,10000,1")
    assert len(records.read_evaluations(run.path)) == 2
    again = RunFolder.open(run.path)
    assert (run.path / "eval.csv").read_bytes() == whole
    again.append_evaluation([evaluation(0, 10000)])
    assert [row.step for row in records.read_evaluations(run.path)] == [5000, 5000, 10000]


def test_open_remakes_a_table_without_header(tmp_path: Path) -> None:
    run = make(tmp_path)
    (run.path / "train.csv").write_text("lane,st")
    (run.path / "topology.csv").unlink()
    RunFolder.open(run.path)
    assert records.read_training(run.path) == []
    assert records.read_topology(run.path) == []


@pytest.mark.parametrize(
    ("manifest", "message"),
    [(None, "no readable manifest"), ("{", "not JSON"), ('{"format_version": 99}', "99.*allowed")],
)
def test_open_refuses_what_is_no_run(tmp_path: Path, manifest: str | None, message: str) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(ValueError, match=rf"^run_dir .*{message}.*$"):
        RunFolder.open(tmp_path)


def test_open_refuses_other_columns(tmp_path: Path) -> None:
    run = make(tmp_path)
    (run.path / "eval.csv").write_text("lane,step\n")
    with pytest.raises(ValueError, match=r"^eval\.csv has columns lane,step: expected"):
        RunFolder.open(run.path)
    with pytest.raises(ValueError, match="lacks the columns policy"):
        records.read_evaluations(run.path)


def test_line_of_wrong_length_is_named(tmp_path: Path) -> None:
    run = make(tmp_path)
    with open(run.path / "eval.csv", "a") as file:
        file.write("1,2,3\n")
    with pytest.raises(ValueError, match="line 2 has 3 cells, not 14"):
        records.read_evaluations(run.path)


def test_truncate_drops_rows_beyond_each_lane_s_checkpoint(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.append_evaluation([evaluation(lane, step) for step in (5, 10, 15) for lane in (0, 1, 2)])
    run.append_training([TrainingRow(0, step, step) for step in (8, 11)])
    run.append_topology([TopologyRow(0, 11, 11, "actor", 0, 5)])
    run.truncate_after({0: 10, 1: 5})
    kept = [(row.lane, row.step) for row in records.read_evaluations(run.path)]
    assert kept == [(0, 5), (1, 5), (2, 5), (0, 10), (2, 10), (2, 15)]
    assert [row.step for row in records.read_training(run.path)] == [8]
    assert records.read_topology(run.path) == []


def test_status_is_recorded_with_extras(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.set_status("failed", cause="simulator")
    manifest = records.read_manifest(run.path)
    assert (manifest["status"], manifest["cause"]) == ("failed", "simulator")
    assert RunFolder.open(run.path).manifest == manifest
    with pytest.raises(ValueError, match=r"^status 'sleeping' is unknown: one of running, "):
        run.set_status("sleeping")


def test_failed_rewrite_keeps_the_old_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path)
    before, entries = (run.path / "manifest.json").read_bytes(), names_in(run.path)
    monkeypatch.setattr(os, "replace", failing_replace)
    with pytest.raises(OSError, match="full"):
        run.set_status("finished")
    assert (run.path / "manifest.json").read_bytes() == before
    assert names_in(run.path) == entries
    assert run.manifest["status"] == "running"


def test_append_on_a_full_disk_adds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path)
    run.append_evaluation([evaluation(0)])
    before, write = (run.path / "eval.csv").read_bytes(), os.write
    calls: list[int] = []

    def write_a_part_then_fail(file: int, data: memoryview) -> int:
        if calls:
            raise OSError(28, "disk full")
        calls.append(1)
        return write(file, data[:9])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_a_part_then_fail)
        with pytest.raises(OSError, match="full"):
            run.append_evaluation([evaluation(1)])
    assert calls and (run.path / "eval.csv").read_bytes() == before
    run.append_evaluation([evaluation(1)])
    assert [row.lane for row in records.read_evaluations(run.path)] == [0, 1]


def test_line_break_in_a_field_is_refused(tmp_path: Path) -> None:
    run = make(tmp_path)
    with pytest.raises(ValueError, match="line break"):
        run.append_evaluation([dataclasses.replace(evaluation(), variant="a\nb")])
    assert records.read_evaluations(run.path) == []


def test_tensorboard_has_one_folder_a_lane_with_its_scalars(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with make(tmp_path, tensorboard=True) as run:
        run.append_evaluation([evaluation(0, 5000, 7.0), evaluation(1, 5000, 8.0)])
        run.append_training([TrainingRow(0, 100, 100, critic_loss=0.5)])
        run.append_topology([TopologyRow(0, 100, 100, "actor", 0, 5, 0.2, 1, 4, 0.2)])
    folders = names_in(run.path / "tb")
    assert folders == ["lane00_ANF-SAC_seed3", "lane01_SAC_a=1-b=2_seed4"]
    events = EventAccumulator(str(run.path / "tb" / folders[0]))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("eval/return_mean")] == [(5000, 7.0)]
    assert [e.value for e in events.Scalars("train/critic_loss")] == [0.5]
    assert [e.value for e in events.Scalars("topology/actor_0/active")] == [5.0]
    assert "train/temperature" not in events.Tags()["scalars"]


def test_resumed_tensorboard_does_not_double_steps(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with make(tmp_path, tensorboard=True) as run:
        run.append_evaluation([evaluation(0, step, 1.0) for step in (5, 10, 15)])
    with RunFolder.open(run.path, tensorboard=True) as again:
        again.truncate_after({0: 5})
        again.append_evaluation([evaluation(0, 10, 2.0)])
    events = EventAccumulator(str(run.path / "tb" / "lane00_ANF-SAC_seed3"))
    events.Reload()
    found = [(e.step, e.value) for e in events.Scalars("eval/return_mean")]
    assert found == [(5, 1.0), (10, 2.0)]


def test_failing_mirror_is_switched_off_and_the_row_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = make(tmp_path, tensorboard=True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run.append_evaluation([evaluation(0)])
    run.append_evaluation([evaluation(1)])
    assert len(records.read_evaluations(run.path)) == 2
    assert len([r for r in caplog.records if "TensorBoard is off" in r.message]) == 1


def test_missing_wandb_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^wandb_mode 'offline' needs wandb: pip install .*"):
        make(tmp_path, wandb_mode="offline")
    with pytest.raises(ValueError, match=r"^wandb_mode 'on' is unknown"):
        make(tmp_path, wandb_mode="on")
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
    with make(tmp_path, wandb_mode="offline") as run:
        run.append_evaluation([evaluation(0, 5000, 7.0)])
    assert (options["project"], options["mode"], options["group"]) == ("fastanf", "offline", "run")
    label = "lane00_ANF-SAC_seed3"
    assert logged == [
        {f"{label}/step": 5000, f"{label}/eval/return_mean": 7.0, f"{label}/eval/return_std": 0.5},
        {},
    ]


def test_manifest_is_json_whatever_the_caller_adds(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"device": torch.device("cpu")}, LANES)
    assert json.loads((run.path / "manifest.json").read_text())["device"] == "cpu"
