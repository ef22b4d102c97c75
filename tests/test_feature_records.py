"""Rows of features.csv against the networks that they describe, one lane and feature at a time."""

from __future__ import annotations

import math

import pytest
import torch

from fastanf.block import TrainingBlock
from fastanf.feature_records import feature_rows
from fastanf.presets import lane_config
from fastanf.rows import MAX_NOISE_FEATURES, FeatureRow
from tests import fake_env
from tests.fake_env import SPEC

LANES = [7, 8, 9]  # numbers in the study
OVERRIDES = {
    "env": fake_env.ROWS_ENV_ID, "backend": "fake", "hidden": (33, 5), "batch_size": 4,
    "noise_fraction": 0.7, "eval_episodes": 3, "topology_period": 2, "max_timesteps": 100,
    "start_timesteps": 10,
}  # fmt: skip


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)


def trained_block(
    policies: tuple[str, ...] = ("SAC", "ANF-SAC", "Static-SAC"), **overrides: object
) -> TrainingBlock:
    lanes = [
        lane_config(policy, OVERRIDES | overrides).replace(seed=k)
        for k, policy in enumerate(policies)
    ]
    block = TrainingBlock(lanes, torch.device("cpu"))
    for _ in range(10):
        block.collector.random_step_()
    for step in range(1, 13):
        block.collector.step_(step)
        block.learner.update_()
    return block


def row_of(block: TrainingBlock, position: int, network: str) -> FeatureRow:
    rows = feature_rows(block, LANES[: len(block.lanes)], step=12, updates=12)
    (row,) = (row for row in rows if (row.lane, row.network) == (LANES[position], network))
    return row


def counts(row: FeatureRow) -> list[int]:
    return [int(word) for word in row.connections.split()]


@pytest.mark.parametrize("layout", ["masked", "csr"])
@pytest.mark.parametrize("network", ["actor", "critic1", "critic2"])
def test_counts_are_those_of_the_mask(layout: str, network: str) -> None:
    block = trained_block(layout=layout)
    mask = block.algorithm.state_dict()
    for position in (1, 2):
        row = row_of(block, position, network)
        copy = 0 if network == "actor" else int(network[-1]) - 1
        name, copies = ("actor", 1) if network == "actor" else ("critic", 2)
        active = mask[f"{name}.0.weight.mask"][copies * position + copy][:, : row.num_features]
        assert counts(row) == active.sum(0).tolist()
        assert (row.num_real, len(counts(row))) == (SPEC.num_features, row.num_features)


def test_a_dense_lane_has_weights_and_no_counts() -> None:
    block = trained_block()
    row = row_of(block, 0, "actor")
    assert row.connections == ""
    assert row.real_weight > 0 and row.noise_weight > 0


def test_weights_are_means_over_all_hidden_units() -> None:
    block = trained_block()
    for position in range(3):
        row = row_of(block, position, "critic2")
        weight = block.algorithm.state_dict()["critic.0.weight"][2 * position + 1].double().abs()
        D, F = row.num_real, row.num_features
        assert row.real_weight == pytest.approx(weight[:, :D].mean().item(), rel=1e-6)
        assert row.noise_weight == pytest.approx(weight[:, D:F].mean().item(), rel=1e-6)


def test_features_keep_their_identity_when_they_change_places() -> None:
    block = trained_block()
    before = [row_of(block, position, "actor") for position in range(3)]
    block.features.permute_(torch.tensor([False, True, False]), block.replay.time)
    after = [row_of(block, position, "actor") for position in range(3)]
    assert after[0] == before[0] and after[2] == before[2]
    assert sorted(counts(after[1])) == sorted(counts(before[1]))
    assert counts(after[1]) != counts(before[1])
    source = block.features.source
    assert source is not None
    by_place = counts(before[1])  # the mask has not moved
    expected = [0] * len(by_place)
    for place, feature in enumerate(source[1, -1].tolist()):
        expected[feature] = by_place[place]
    assert counts(after[1]) == expected
    real_places = block.features.real_columns()[1]
    total = sum(count for count, is_real in zip(by_place, real_places, strict=True) if is_real)
    assert sum(counts(after[1])[: before[1].num_real]) == total


def test_a_task_without_noise_has_no_noise_weight() -> None:
    row = row_of(trained_block(noise_fraction=0.0), 1, "actor")
    assert row.num_real == row.num_features == len(counts(row))
    assert math.isnan(row.noise_weight)


def test_only_the_first_noise_features_are_listed() -> None:
    block = trained_block(("ANF-SAC",), noise_fraction=0.99)
    row = row_of(block, 0, "actor")
    assert row.num_features > row.num_real + MAX_NOISE_FEATURES
    assert len(counts(row)) == row.num_real + MAX_NOISE_FEATURES
