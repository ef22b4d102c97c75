"""Empirical noise tables: what is stored, and what is drawn from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

import envs
from envs import empirical

# Kolmogorov-Smirnov tests at fixed seeds: chance of a false alarm, were the seed not fixed.
KS_LEVEL = 1e-3


def ks_distance(drawn: NDArray[np.float32], seen: NDArray[np.float32]) -> float:
    """Largest distance of two empirical distribution functions."""
    result: Any = stats.ks_2samp(drawn, seen)
    return float(result.statistic)


def test_linear_edges_give_back_the_uniforms() -> None:
    """By hand: edges 0, 1, 3 are two bins of mass 1/2, [0, 1] and [1, 3]."""
    quantiles = np.array([[0.0, 1.0, 3.0], [5.0, 5.0, 5.0]], dtype=np.float32)
    uniforms = np.array([0.0, 0.25, 0.5, 0.75, 1.0], dtype=np.float32)
    drawn = empirical.sample(quantiles, uniforms, 0)
    np.testing.assert_array_equal(drawn, np.array([0.0, 0.5, 1.0, 2.0, 3.0], np.float32))
    np.testing.assert_array_equal(empirical.sample(quantiles, uniforms, 1), np.full(5, 5.0))


def test_sample_broadcasts_uniforms_with_features() -> None:
    quantiles = empirical.load_quantiles("Hopper-v3")
    uniforms = np.random.default_rng(0).random((7, 22), dtype=np.float32)
    drawn = empirical.sample(quantiles, uniforms, np.arange(22) % 11)
    assert drawn.shape == (7, 22)
    assert drawn.dtype == np.float32
    one = empirical.sample(quantiles, uniforms[3, 15:16], 15 % 11)
    np.testing.assert_array_equal(drawn[3, 15:16], one)


@pytest.mark.parametrize("env_id", envs.known_env_ids("envpool"))
def test_every_task_has_a_table_of_finite_increasing_edges(env_id: str) -> None:
    quantiles = empirical.load_quantiles(env_id)
    assert quantiles.shape == (envs.spec(env_id).num_features, empirical.NUM_QUANTILES)
    assert quantiles.dtype == np.float32
    assert np.isfinite(quantiles).all()
    assert (np.diff(quantiles, axis=1) >= 0).all()
    assert not quantiles.flags.writeable


def test_zero_features_stay_zero() -> None:
    quantiles = empirical.load_quantiles("Humanoid-v3")
    assert (quantiles == 0).all(axis=1).sum() == 106


def test_file_is_small_and_tells_its_origin() -> None:
    assert empirical.QUANTILES_FILE.stat().st_size < 1_500_000
    provenance = empirical.load_provenance()
    assert provenance["env_ids"] == envs.known_env_ids("envpool")
    assert {"rows", "steps_per_row", "seed", "policy", "versions"} <= set(provenance)


def test_draws_follow_the_feature_they_were_gathered_from() -> None:
    """New rollouts under the same kind of policy have the stored marginals."""
    env = envs.make("HalfCheetah-v3", seeds=list(range(32)))
    actions = empirical.exploring_actions(env.spec, 32, 600, np.random.default_rng(5))
    env.reset()
    values = np.concatenate([env.step(action).obs for action in actions])
    quantiles = empirical.load_quantiles("HalfCheetah-v3")
    uniforms = np.random.default_rng(6).random(len(values), dtype=np.float32)
    distance = np.array(
        [
            [ks_distance(empirical.sample(quantiles, uniforms, i), column) for i in range(17)]
            for column in values.T[:2]
        ]
    )
    own = np.array(
        [
            ks_distance(empirical.sample(quantiles, uniforms, i), column)
            for i, column in enumerate(values.T)
        ]
    )
    # 19,200 steps of 32 robots are far fewer independent states: measured 0.05 at most, where the
    # height and the angle of the body are 0.28 or more away from every other feature.
    assert own.max() < 0.08
    assert (distance.argmin(axis=1) == [0, 1]).all()
    assert np.sort(distance, axis=1)[:, 1].min() > 0.2


def test_gathered_quantiles_are_those_of_the_observations(tmp_path: Path) -> None:
    out = tmp_path / "tables" / "small.npz"
    empirical.main(
        ["--out", str(out), "--envs", "Hopper-v3", "--rows", "4", "--steps", "80", "--seed", "3"]
    )
    with np.load(out, allow_pickle=False) as tables:
        assert set(tables.files) == {"Hopper-v3", "provenance"}
        edges = tables["Hopper-v3"]
    again = empirical.gather_quantiles("Hopper-v3", num_rows=4, num_steps=80, seed=3)
    np.testing.assert_array_equal(edges, again)
    # The first feature is the height, 1.25 at rest.
    assert edges[0, 0] < 1.2 < edges[0, -1] < 1.4


def test_exploring_actions_are_within_the_limits_and_of_two_kinds() -> None:
    spec = envs.spec("Humanoid-v3")
    actions = empirical.exploring_actions(spec, 4, 300, np.random.default_rng(0))
    assert actions.shape == (300, 4, 17)
    assert np.abs(actions).max() <= np.float32(0.4)
    white, smooth = actions[:, 0::2].ravel(), actions[:, 1::2]
    assert stats.kstest(white, stats.uniform(-0.4, 0.8).cdf).pvalue > KS_LEVEL
    # A wave of period 4 steps or more moves by at most 2 pi / 4 amplitudes a step.
    jumps = np.abs(np.diff(smooth, axis=0))
    is_inner = np.arange(1, 300) % 100 != 0
    assert jumps[is_inner].max() <= 0.4 * np.pi / 2


def test_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'provenance'; there are: HalfCheetah-v3"):
        empirical.load_quantiles("provenance")
    with pytest.raises(ValueError, match="nearest names: Hopper-v"):
        empirical.main(["--envs", "Hoper-v3"])
