"""Runs with --profile: the table of stages with every evaluation, and the same training."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from fastanf import runner, stage_records
from fastanf.peaks import Peaks
from fastanf.rows import read_profile, read_training, stage_column
from tests import fake_env
from tests.interruptions import TABLES, records, rows_of, signal_at_update
from tests.tiny_runs import EVAL_FREQ, EVAL_STEPS, train


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny simulator, no picture, a machine whose peaks are known."""
    fake_env.register(monkeypatch)
    monkeypatch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())
    monkeypatch.setattr(stage_records, "measure_peaks", lambda *_: Peaks(100.0, 10.0, 50.0, 1000))


@pytest.mark.parametrize(
    ("policy", "layout"), [("SAC ANF-SAC", "masked"), ("ANF-SAC", "csr"), ("ANF-TD3", "auto")]
)
def test_a_profiled_run_records_the_stages_with_every_evaluation(
    tmp_path: Path, policy: str, layout: str
) -> None:
    path = tmp_path / "run"
    flags = {"policy": policy, "layout": layout}
    assert train(path, profile="true", tensorboard="true", **flags) == 0
    rows = read_profile(path)
    assert sorted({row.step for row in rows}) == EVAL_STEPS
    for step, part in itertools.product(EVAL_STEPS, ("update", "step")):
        table = [row for row in rows if (row.step, row.part) == (step, part)]
        assert {row.lane for row in table} == {0}
        assert sum(row.share for row in table) == pytest.approx(1)
        assert len({row.stage for row in table}) == len(table)
    first = {row.stage: row for row in rows if row.step == EVAL_STEPS[0] and row.part == "step"}
    assert first["update"].per_step == 1
    assert first["evaluation"].per_step == pytest.approx(1 / EVAL_FREQ)
    # An update of the step table is what the update's stages sum to.
    for step in EVAL_STEPS:
        stages = [row for row in rows if (row.step, row.part) == (step, "update")]
        (whole,) = [row for row in rows if (row.step, row.stage) == (step, "update")]
        assert sum(row.mean_ms for row in stages) == pytest.approx(whole.mean_ms)
    for row in rows_of(path, "train.csv"):
        in_table = {
            stage_column(other.part, other.stage): other.mean_ms
            for other in rows
            if other.step == int(row["step"])
        }
        for name, ms in in_table.items():
            assert float(row[name]) == ms
    assert EVAL_STEPS[-1] == read_training(path)[-1].step
    if policy == "ANF-TD3":
        assert first["act"].mean_ms > 0
        delayed = [row.per_step for row in rows if row.stage == "actor forward"]
        assert all(0.3 < share < 0.7 for share in delayed)  # every second update


def test_blocks_of_different_layouts_have_tables_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert train(path, profile="true", policy="SAC ANF-SAC", layout="csr") == 0
    lanes_of = {"SAC": set(), "ANF-SAC": set()}
    for row in rows_of(path, "lanes.csv"):
        lanes_of[row["policy"]].add(int(row["lane"]))
    rows = read_profile(path)
    assert {row.lane for row in rows} == {min(lanes) for lanes in lanes_of.values()}
    for lane, step in itertools.product({row.lane for row in rows}, EVAL_STEPS):
        table = [r for r in rows if (r.lane, r.step, r.part) == (lane, step, "update")]
        assert sum(row.share for row in table) == pytest.approx(1)
        # A dense update does useful work only, as does a csr one.
        assert all(row.done_gflop_s == row.useful_gflop_s for row in table)


def test_an_unprofiled_run_has_no_stages(tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert train(path) == 0
    assert not (path / "stages.csv").exists()
    assert not any(name.endswith("_ms") for name in rows_of(path, "train.csv")[0])


def test_a_profiled_run_trains_the_same_and_is_resumed_as_one(tmp_path: Path) -> None:
    whole, broken = tmp_path / "profiled", tmp_path / "broken"
    assert train(tmp_path / "plain") == 0
    assert train(whole, profile="true") == 0
    with signal_at_update(17):
        assert train(broken, profile="true") == 130
    assert runner.resume(broken) == 0
    expected = records(tmp_path / "plain")
    for path in (whole, broken):
        found = records(path)
        for row in found["train.csv"]:
            for name in row.keys() - expected["train.csv"][0].keys():
                assert name.endswith("_ms")
                del row[name]
        assert [found[name] for name in TABLES] == [expected[name] for name in TABLES]
        assert sorted({row.step for row in read_profile(path)}) == EVAL_STEPS
