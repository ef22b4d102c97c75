"""Rows of the records against the block that they describe."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fastanf import lane_records, recording
from fastanf.block import TrainingBlock
from fastanf.config import TrainConfig
from fastanf.feature_records import feature_rows
from fastanf.grouping import make_blocks
from fastanf.presets import expand, lane_config
from fastanf.records import RunFolder
from fastanf.rows import QuarantineRow, read_lanes
from fastanf.settings import RunConfig
from fastanf.sparse.layers import CsrLinear, MaskedLinear
from tests import fake_env
from tests.fake_env import SPEC

LANES = [7, 8, 9]  # numbers in the study
OVERRIDES = {
    "env": fake_env.ROWS_ENV_ID, "backend": "fake", "hidden": (33, 5), "batch_size": 4,
    "noise_fraction": 0.7, "eval_episodes": 3, "topology_period": 2, "max_timesteps": 100,
    "start_timesteps": 10, "permute_period": 6,
}  # fmt: skip


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)


def trained_block(base: str = "SAC", num_steps: int = 12, layout: str = "masked") -> TrainingBlock:
    """A dense lane, a sparse and a static one after some steps; the dense one last with csr, where
    the first lane says how layers are stored.
    """
    kinds = [("", 1), ("ANF-", 2), ("Static-", 2)]
    kinds = kinds if layout == "masked" else [*kinds[1:], kinds[0]]
    overrides = {**OVERRIDES, "layout": layout}
    lanes = [lane_config(f"{kind}{base}", overrides).replace(seed=seed) for kind, seed in kinds]
    block = TrainingBlock(lanes, torch.device("cpu"))
    for _ in range(10):
        block.collector.random_step_()
    for step in range(1, num_steps + 1):
        block.collector.step_(step)
        block.learner.update_()
    return block


def test_lane_rows_give_the_configurations_back(tmp_path: Path) -> None:
    policies = ["SAC", "ANF-SAC", "Static-TD3", "DS-SAC"]
    vary = {"hidden": [(64,), (32, 16)], "drop_fraction": [0.1, 0.2]}
    lanes = list(expand(policies, vary, num_seeds=2).lanes)
    lanes.append(TrainConfig.of(activation="srelu", activation_args=(0.4, 0.2, -0.4, 0.25)))
    blocks = [list(block.lanes) for block in make_blocks(lanes)]
    rows = recording.lane_rows(blocks)
    assert [row["lane"] for row in rows] == list(range(len(lanes)))
    assert [row["block"] for row in rows if row["lane"] < len(blocks[0]) + 1][-2:] == [0, 1]
    assert lane_records.blocks_from_rows(rows) == blocks
    with RunFolder.create(tmp_path / "run", {}, rows) as folder:
        assert lane_records.blocks_from_rows(read_lanes(folder.path)) == blocks


def test_the_manifest_gives_the_command_back() -> None:
    run = RunConfig(num_seeds=3, vary=("tau=0.1,0.2",), run_dir="a b", device="cpu", num_threads=1)
    manifest = json.loads(json.dumps(recording.manifest(run, "cpu", ["--run_dir", "a b"])))
    assert RunConfig(**manifest["run"]) == run
    assert manifest["command_line"] == "--run_dir 'a b'"
    assert manifest["device"] == "cpu" and manifest["num_threads"] == 1
    assert isinstance(manifest["kernels"], str)


def test_the_meter_leaves_pauses_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(recording.time, "perf_counter", lambda: now)
    meter = recording.Meter()
    for _ in range(6):
        meter.count(4)
        now += 0.5
    with meter.paused():
        now += 1000.0
    assert meter.steps_per_s == 8.0
    assert meter.take() == (8.0, 2.0)
    meter.count(1)
    now += 4.0
    assert meter.take() == (0.25, 0.25)


def test_evaluation_rows_summarise_each_lane() -> None:
    block = trained_block(num_steps=1)
    returns = np.array([[1.0, 2.0, 6.0], [0.0, 0.0, 0.0], [-1.0, 1.0, -3.0]])
    rows = recording.evaluation_rows(block, LANES, returns, step=20, updates=10, wall_s=1.23456)
    assert [row.lane for row in rows] == LANES
    assert [row.policy for row in rows] == ["SAC", "ANF-SAC", "Static-SAC"]
    assert [row.seed for row in rows] == [1, 2, 2]
    first = rows[0]
    assert (first.return_mean, first.return_min, first.return_max) == (3.0, 1.0, 6.0)
    assert first.return_std == pytest.approx(np.std([1, 2, 6]))
    assert (first.step, first.updates, first.wall_s, first.episodes) == (20, 10, 1.235, 3)
    assert first.env == fake_env.ROWS_ENV_ID and first.noise_fraction == 0.7


@pytest.mark.parametrize("base", ["SAC", "TD3"])
def test_training_rows_hold_losses_and_the_finished_episodes(base: str) -> None:
    block = trained_block(base)
    finished = [list(returns) for returns in block.collector.finished]
    assert all(finished)
    rows = recording.training_rows(block, LANES, step=12, updates=12, pace=(50.0, 25.0))
    for index, row in enumerate(rows):
        assert (row.lane, row.step, row.updates) == (LANES[index], 12, 12)
        assert row.episodes == len(finished[index])
        assert row.episode_return == pytest.approx(np.mean(finished[index]))
        assert row.critic_loss == pytest.approx(float(block.algorithm.losses.critic[index]))
        assert row.actor_loss == pytest.approx(float(block.algorithm.losses.actor[index]))
        assert math.isfinite(row.q_mean) and row.critic_loss > 0
        assert (row.env_steps_per_s, row.lane_updates_per_s) == (50.0, 25.0)
        if base == "SAC":
            assert row.temperature == pytest.approx(0.2)
            assert row.log_prob == pytest.approx(-float(block.algorithm.losses.entropy[index]))
        else:
            assert math.isnan(row.temperature) and math.isnan(row.log_prob)
    again = recording.training_rows(block, LANES, step=12, updates=12, pace=(50.0, 25.0))
    assert [row.episodes for row in again] == [0, 0, 0]
    assert all(math.isnan(row.episode_return) for row in again)


@pytest.mark.parametrize(("layout", "sparse_lanes"), [("masked", (8, 9)), ("csr", (7, 8))])
def test_topology_rows_count_connections_of_sparse_lanes(
    layout: str, sparse_lanes: tuple[int, int]
) -> None:
    block = trained_block(layout=layout)
    stored = block.algorithm.actor_mlp.layers[0]
    assert isinstance(stored, CsrLinear if layout == "csr" else MaskedLinear)
    F, A = block.features.num_features, SPEC.num_actions
    assert block.features.source is not None  # the real features have moved by now
    real = block.features.real_columns()
    rows = {
        (row.lane, row.network, row.layer): row
        for row in recording.topology_rows(block, LANES, step=12, updates=11)
    }
    networks = ("actor", "critic1", "critic2")
    assert rows.keys() == {(lane, network, 0) for lane in sparse_lanes for network in networks}
    for (lane, network, _), row in rows.items():
        index = LANES.index(lane)
        is_actor = network == "actor"
        mlp = block.algorithm.actor_mlp if is_actor else block.algorithm.critic.mlp
        mask = mlp.layers[0].connection_mask()
        assert mask is not None
        own = mask[index if is_actor else 2 * index + int(network[-1]) - 1]
        features = own[:, :F]
        assert row.active == int(own.sum())
        assert row.density == pytest.approx(row.active / (33 * (F + A * (not is_actor))))
        assert row.real_connections == int(features[:, real[index]].sum())
        assert row.noise_connections == int(features[:, ~real[index]].sum())
        total = row.real_connections + row.noise_connections
        assert total == int(features.sum())
        assert row.precision == pytest.approx(row.real_connections / total)
        assert (row.step, row.updates) == (12, 11)


@pytest.mark.parametrize("layout", ["masked", "csr"])
def test_a_stopped_lane_has_no_rows_and_the_others_have_theirs(layout: str) -> None:
    block = trained_block(layout=layout)
    finished = [list(returns) for returns in block.collector.finished]
    returns = np.array([[1.0, 2.0, 6.0], [np.nan] * 3, [-1.0, 1.0, -3.0]])
    topology = recording.topology_rows(block, LANES, 12, 12)
    features = feature_rows(block, LANES, 12, 12)
    found = block.learner.watch.check_returns(returns)
    kept = [7, 9]
    evaluations = recording.evaluation_rows(block, LANES, returns, 12, 12, 1.0)
    assert [(row.lane, row.return_mean) for row in evaluations] == [(7, 3.0), (9, -1.0)]
    training = recording.training_rows(block, LANES, 12, 12, pace=(50.0, 25.0))
    assert [(row.lane, row.episodes) for row in training] == [
        (7, len(finished[0])), (9, len(finished[2])),
    ]  # fmt: skip
    assert block.collector.finished == [[], [], []]
    assert recording.topology_rows(block, LANES, 12, 12) == [r for r in topology if r.lane in kept]
    assert feature_rows(block, LANES, 12, 12) == [r for r in features if r.lane in kept]
    assert {row.lane for row in features} == set(LANES)
    block.learner.watch.checkpoint_steps = [10, 5, 10]
    (row,) = recording.quarantine_rows(block, LANES, found, 12, 11)
    cause = "return is nan in all 3 episodes of an evaluation"
    assert row == QuarantineRow(8, 12, 11, cause, 5)
