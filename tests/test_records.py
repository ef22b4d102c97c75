"""The run folder: whole rows, whole files, nothing doubled, nothing left behind."""

import csv
import dataclasses
import errno
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastanf import provenance, records
from fastanf.records import RunFolder
from fastanf.rows import (
    FeatureRow,
    QuarantineRow,
    TopologyRow,
    TrainingRow,
    read_evaluations,
    read_features,
    read_lanes,
    read_quarantine,
    read_topology,
    read_training,
)
from tests.record_samples import LANES, fail_after, make_run, names_in, sample_evaluation


def test_eval_csv_has_exactly_the_documented_columns(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert (run.path / "eval.csv").read_text() == (
        "lane,policy,env,seed,noise_fraction,variant,step,updates,wall_s,"
        "return_mean,return_std,return_min,return_max,episodes\n"
    )


def test_new_folder_holds_manifest_and_tables_only(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert names_in(run.path) == [
        "eval.csv",
        "features.csv",
        "lanes.csv",
        "lock",
        "manifest.json",
        "quarantine.csv",
        "topology.csv",
        "train.csv",
    ]


def test_manifest_tells_versions_device_threads_command_and_status(tmp_path: Path) -> None:
    manifest = records.read_manifest(make_run(tmp_path).path)
    assert manifest["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert set(manifest["versions"]) == {"python", *provenance.VERSIONED}
    assert manifest["device"] == "cpu"
    assert manifest["num_threads"] == torch.get_num_threads()
    assert manifest["command_line"] == sys.argv
    assert manifest["status"] == "running"
    assert "commit" in manifest and "started_at" in manifest


def test_rows_read_back_equal(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    evaluations = [
        sample_evaluation(0, mean=0.1 + 0.2),
        dataclasses.replace(sample_evaluation(1), variant="a, b"),
    ]
    training = [TrainingRow(0, 10, 10, critic_loss=1e-9, q_mean=math.inf)]
    topology = [TopologyRow(1, 10, 2, "critic2", 0, 8704, 0.2, 17, 153, 0.1)]
    features = [FeatureRow(1, 10, 2, "critic2", 2, 4, 0.5, 0.25, "3 0 1 2")]
    stopped = [QuarantineRow(1, 10, 2, 'critic loss is nan, "really"', 5)]
    run.append(evaluations)
    run.append(training)
    run.append(topology)
    run.append(features)
    run.append(stopped)
    assert read_quarantine(run.path) == stopped
    assert read_evaluations(run.path) == evaluations
    assert read_evaluations(run.path / "eval.csv") == evaluations
    assert read_topology(run.path) == topology
    assert read_features(run.path) == features
    (row,) = read_training(run.path)
    assert (row.critic_loss, row.q_mean) == (1e-9, math.inf)
    assert math.isnan(row.temperature)


def test_numpy_and_torch_scalars_are_written_as_plain_numbers(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    row = dataclasses.replace(
        sample_evaluation(),
        lane=np.int64(1),  # pyright: ignore[reportArgumentType]
        return_mean=np.float32(0.5),  # pyright: ignore[reportArgumentType]
        return_std=torch.tensor(0.25),  # pyright: ignore[reportArgumentType]
    )
    run.append([row])
    assert read_evaluations(run.path)[0] == dataclasses.replace(
        sample_evaluation(), lane=1, return_mean=0.5, return_std=0.25
    )


def test_lanes_read_back_with_their_types(tmp_path: Path) -> None:
    rows = [
        {"lane": 0, "policy": "SAC", "seed": 1, "text": "7", "flag": True, "sizes": (1, 2)},
        {"lane": 1, "policy": "SAC", "seed": 2, "text": "a,b", "rate": 0.1, "nothing": None},
    ]
    RunFolder.create(tmp_path / "run", {}, rows)
    first, second = read_lanes(tmp_path / "run")
    assert {key: first[key] for key in rows[0]} == {**rows[0], "sizes": [1, 2]}
    assert {key: second[key] for key in rows[1]} == rows[1]
    assert first["rate"] is None
    with open(tmp_path / "run" / "lanes.csv", newline="") as file:
        assert next(csv.reader(file))[:2] == ["lane", "block"]


def test_existing_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match=r"^run_dir .* exists already.*resume.*$"):
        make_run(tmp_path)
    assert names_in(tmp_path / "run") == []


def test_folder_below_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"^run_dir .*writable folder with free space$"):
        RunFolder.create(tmp_path / "file" / "a" / "run", {}, LANES)
    assert names_in(tmp_path) == ["file"]


def test_failed_creation_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "replace", failing_replace)
    with pytest.raises(ValueError, match=r"^run_dir .* cannot be made \(disk full\)"):
        RunFolder.create(tmp_path / "runs" / "deep" / "run", {}, LANES)
    assert names_in(tmp_path) == []


def failing_replace(*_: Any) -> None:
    raise OSError(28, "disk full")


def test_torn_last_line_is_skipped_by_readers_and_removed_by_open(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.append([sample_evaluation(0), sample_evaluation(1)])
    whole = (run.path / "eval.csv").read_bytes()
    with open(run.path / "eval.csv", "ab") as file:
        file.write(b"0,ANF-SAC,Hopper-v3,3,0.9,,10000,1")
    assert len(read_evaluations(run.path)) == 2
    run.close()
    again = RunFolder.open(run.path)
    assert (run.path / "eval.csv").read_bytes() == whole
    again.append([sample_evaluation(0, 10000)])
    assert [row.step for row in read_evaluations(run.path)] == [5000, 5000, 10000]


def test_open_remakes_a_table_without_header(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run.path / "train.csv").write_text("lane,st")
    (run.path / "topology.csv").unlink()
    (run.path / "quarantine.csv").unlink()  # as in runs older than this table
    run.close()
    RunFolder.open(run.path)
    assert read_quarantine(run.path) == []
    assert read_training(run.path) == []
    assert read_topology(run.path) == []


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
    run = make_run(tmp_path)
    run.close()
    (run.path / "eval.csv").write_text("lane,step\n")
    with pytest.raises(ValueError, match=r"^eval\.csv has columns lane,step: expected"):
        RunFolder.open(run.path)
    with pytest.raises(ValueError, match="lacks the columns policy"):
        read_evaluations(run.path)


def test_line_of_wrong_length_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with open(run.path / "eval.csv", "a") as file:
        file.write("1,2,3\n")
    with pytest.raises(ValueError, match="line 2 has 3 cells, not 14"):
        read_evaluations(run.path)


def test_truncate_drops_rows_beyond_each_lane_s_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.append([sample_evaluation(lane, step) for step in (5, 10, 15) for lane in (0, 1, 2)])
    run.append([TrainingRow(0, step, step) for step in (8, 11)])
    run.append([TopologyRow(0, 11, 11, "actor", 0, 5)])
    run.append([QuarantineRow(lane, 8, 8, "x") for lane in (0, 1, 2)])
    run.truncate({0: 10})
    run.truncate({1: 5})
    assert [row.lane for row in read_quarantine(run.path)] == [0, 2]
    kept = [(row.lane, row.step) for row in read_evaluations(run.path)]
    assert kept == [(0, 5), (1, 5), (2, 5), (0, 10), (2, 10), (2, 15)]
    assert [row.step for row in read_training(run.path)] == [8]
    assert read_topology(run.path) == []


def test_status_is_recorded_with_extras(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.set_status("failed", cause="simulator")
    manifest = records.read_manifest(run.path)
    assert (manifest["status"], manifest["cause"]) == ("failed", "simulator")
    run.close()
    assert RunFolder.open(run.path).manifest == manifest
    with pytest.raises(ValueError, match=r"^status 'sleeping' is unknown: one of running, "):
        run.set_status("sleeping")


def test_a_run_is_written_by_one_at_a_time(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^run_dir .* is being trained by process \d+ on "):
            RunFolder.open(run.path)
        run.close()
        run = RunFolder.open(run.path)
    (run.path / "eval.csv").write_text("lane,step\n")
    run.close()
    for _ in range(2):  # who was refused holds nothing
        with pytest.raises(ValueError, match="columns"):
            RunFolder.open(run.path)


def test_further_lanes_are_written_with_those_that_are_there(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    before = read_lanes(run.path)
    run.write_lanes([*LANES, {"lane": 2, "block": 1, "policy": "TD3", "seed": 0, "tau": 0.5}])
    lanes = read_lanes(run.path)
    assert [{k: v for k, v in lane.items() if k != "tau"} for lane in lanes[:2]] == before
    assert (lanes[2]["policy"], lanes[2]["tau"], lanes[0]["tau"]) == ("TD3", 0.5, None)


def test_failed_rewrite_keeps_the_old_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    before, entries = (run.path / "manifest.json").read_bytes(), names_in(run.path)

    def forbid(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "not allowed")

    monkeypatch.setattr(os, "replace", forbid)
    with pytest.raises(OSError, match="not allowed"):
        run.set_status("finished")
    assert (run.path / "manifest.json").read_bytes() == before
    assert names_in(run.path) == entries
    assert run.manifest["status"] == "running" and not run.has_pending


def test_every_start_leaves_its_commit_and_versions(tmp_path: Path) -> None:
    make_run(tmp_path).close()
    with RunFolder.open(tmp_path / "run") as run:
        run.begin_again(num_starts=1)
    manifest = records.read_manifest(run.path)
    assert (manifest["status"], manifest["num_starts"]) == ("running", 1)
    assert [set(one) for one in manifest["starts"]] == [{"started_at", "commit", "versions"}] * 2
    assert manifest["starts"][0]["started_at"] == manifest["started_at"]


def test_an_append_that_is_not_allowed_adds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    run.append([sample_evaluation(0)])
    before = (run.path / "eval.csv").read_bytes()
    with monkeypatch.context() as patch:
        fail_after(patch, 9, errno.EPERM)
        with pytest.raises(OSError, match="not permitted"):
            run.append([sample_evaluation(1)])
    assert (run.path / "eval.csv").read_bytes() == before and not run.has_pending
    run.append([sample_evaluation(1)])
    assert [row.lane for row in read_evaluations(run.path)] == [0, 1]


def test_line_break_in_a_field_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with pytest.raises(ValueError, match="line break"):
        run.append([dataclasses.replace(sample_evaluation(), variant="a\nb")])
    assert read_evaluations(run.path) == []


def test_manifest_is_json_whatever_the_caller_adds(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"device": torch.device("cpu")}, LANES)
    assert json.loads((run.path / "manifest.json").read_text())["device"] == "cpu"
