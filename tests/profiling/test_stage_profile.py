"""A block's profile: tables that sum to the whole, rates of rare stages, and a hollow twin."""

from __future__ import annotations

import numpy as np
import pytest
import stage_profile
import stage_rows
import torch

from fastanf.instrument import STEP_STAGES, UPDATE_STAGES, Stage
from fastanf.peaks import Peaks
from fastanf.sparse.layers import CsrLinear
from fastanf.workload import total, update_work
from tests.helpers import CPU, make_block, make_lane


@pytest.fixture(autouse=True)
def known_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_profile, "measure_peaks", lambda *_: Peaks(100.0, 10.0, 50.0, 1000))
    monkeypatch.setattr(stage_profile, "NUM_CHUNKS", 3)


def profile_of(policy: str, **settings) -> tuple[stage_profile.Profile, list]:
    lanes = [make_lane(policy, seed, **settings) for seed in (0, 1)]
    block = make_block(lanes, 40)
    return stage_profile.profile_block(block, CPU, 0.05), lanes


@pytest.mark.parametrize(
    ("policy", "missing"),
    [
        ("ANF-SAC", {Stage.POLYAK}),
        ("SAC", {Stage.POLYAK, Stage.TOPOLOGY}),
        ("ANF-TD3", {Stage.POLYAK}),
    ],
)
def test_every_stage_has_a_row_and_rows_sum_to_the_whole(policy: str, missing: set[Stage]) -> None:
    profile, _ = profile_of(policy, topology_period=100_000, eval_freq=10)
    rows = {row.time.stage: row for row in profile.update.rows}
    assert set(rows) == {*UPDATE_STAGES, Stage.OTHER} - missing
    assert {row.time.stage for row in profile.step.rows} == {*STEP_STAGES, Stage.OTHER}
    for table in (profile.update, profile.step):
        assert sum(row.share for row in table.rows) == pytest.approx(1)
        assert sum(row.mean_ms for row in table.rows) == pytest.approx(table.whole_ms)
    # The updates of the two tables are the same, but for the topology, which is measured apart: its
    # own turn does not come while the steps are recorded.
    (update,) = [row for row in profile.step.rows if row.time.stage == Stage.UPDATE]
    assert update.time.per_step == 1
    apart_ms = 0.0
    if Stage.TOPOLOGY in rows:
        assert rows[Stage.TOPOLOGY].time.per_step == pytest.approx(1e-5)
        assert len(rows[Stage.TOPOLOGY].time.samples_ns) == stage_profile.NUM_TOPOLOGY_CHANGES
        apart_ms = rows[Stage.TOPOLOGY].mean_ms
    assert update.mean_ms == pytest.approx(profile.update.whole_ms - apart_ms)
    (evaluation,) = [row for row in profile.step.rows if row.time.stage == Stage.EVALUATION]
    assert evaluation.time.per_step == pytest.approx(1 / 10)


def test_several_updates_a_step_count_as_often() -> None:
    profile, lanes = profile_of("SAC", updates_per_step=3)
    rows = {row.time.stage: row for row in profile.step.rows}
    assert rows[Stage.UPDATE].time.per_step == 3
    assert rows[Stage.UPDATE].mean_ms == pytest.approx(3 * profile.update.whole_ms)
    work = total(update_work(lanes, make_block(lanes).env.spec)).times(3)
    assert rows[Stage.UPDATE].work == pytest.approx(work)


def test_overheads_are_those_of_a_hollow_block() -> None:
    profile, _ = profile_of("ANF-SAC")
    rows = {row.time.stage: row for row in profile.update.rows}
    assert all(row.overhead_ms > 0 for row in rows.values())
    assert rows[Stage.TARGET].limits_ms()["overhead"] == rows[Stage.TARGET].overhead_ms


@pytest.mark.parametrize("layout", ["masked", "csr"])
@pytest.mark.parametrize("sparsity", [{"global_sparsity": 0.9}, {"input_layer_sparsity": 0.95}, {}])
def test_a_hollow_block_makes_the_same_calls_on_tiny_tensors(sparsity: dict, layout: str) -> None:
    policy, settings = "TowS-SAC" if sparsity else "SAC", {"layout": layout, **sparsity}
    lanes = [make_lane(policy, s, hidden=(64, 32, 16), **settings) for s in (0, 1)]
    hollow = stage_profile.hollow_block(lanes, CPU)
    assert len(hollow.lanes) == 2 and hollow.config.algorithm.batch_size == 4
    first, *rest = hollow.algorithm.actor_mlp.layers
    assert [layer.shape[1] for layer in (first, *rest[:-1])] == [4, 4, 4]
    assert first.is_sparse == bool(sparsity)
    assert isinstance(first, CsrLinear) == (bool(sparsity) and layout == "csr")
    assert hollow.features.num_features == 5 + 4
    hollow.learner.update_()
    assert torch.isfinite(hollow.algorithm.losses.critic).all()


def test_rows_and_json_hold_what_the_tables_do() -> None:
    profile, _ = profile_of("ANF-SAC")
    sizes = {"impl": "masked", "lanes": 2, "envs_per_lane": 1}
    facts = {"device": "cpu", "date": "today"}
    rows = stage_rows.rows(profile, sizes, facts)
    assert len(rows) == len(profile.update.rows) + len(profile.step.rows)
    assert all(list(row) == stage_rows.columns(sizes, facts) for row in rows)
    by_stage = {(row["part"], row["metric"]): row for row in rows}
    first = profile.update.rows[0]
    assert by_stage["update", first.name]["mean_ms"] == pytest.approx(first.mean_ms, rel=1e-4)
    whole = stage_rows.as_json(profile, sizes, facts)
    assert whole["lane_updates_per_s"] == pytest.approx(2e3 / profile.update.whole_ms)
    assert whole["env_steps_per_s"] == pytest.approx(2e3 / profile.step.whole_ms)
    assert whole["peak_gflop_s"] == 100.0 and np.isfinite(whole["useful_gflop_s"])
    assert len(whole["stages"]) == len(rows)
