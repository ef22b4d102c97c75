"""NoiseSpec, feature counts, and the ENE as a gymnasium VectorEnv."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from numpy.typing import NDArray
from scipy import stats

import envs
from envs.empirical import load_quantiles, sample
from envs.noise import NoiseSpec, NoisyVectorEnv, make_ene, num_features, row_seeds

# Kolmogorov-Smirnov tests at fixed seeds: chance of a false alarm, were the seed not fixed.
KS_LEVEL = 1e-3
D = 17  # HalfCheetah


def observe(env: NoisyVectorEnv, num_steps: int) -> NDArray[np.float32]:
    """Observations [T + 1, N, F] of a robot that does nothing."""
    seen = [env.reset()[0]]
    action = np.zeros(env.action_space.shape or (), np.float32)
    seen += [env.step(action)[0] for _ in range(num_steps)]
    return np.stack(seen)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fraction": 1.0}, "fraction is 1.0"),
        ({"fraction": -0.1}, "fraction is -0.1"),
        ({"fraction": float("nan")}, "fraction is nan"),
        ({"std": 0.0}, "std is 0.0"),
        ({"std": float("inf")}, "std is inf"),
        ({"distribution": "uniform"}, "'uniform'; allowed are gaussian, empirical"),
        ({"distribution": "empirical", "std": 2.0}, "only 1 is allowed"),
        ({"redraw": "never"}, "'never'; allowed are per_call, per_step"),
        ({"permute_period": -1}, "permute_period is -1"),
    ],
)
def test_noise_outside_its_range_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        NoiseSpec(**fields)
    assert "\n" not in str(caught.value)


# Worked out by hand: D * 5, * 10, * 20, * 50, * 100.
FEATURES = {
    17: [17, 85, 170, 340, 850, 1700],
    11: [11, 55, 110, 220, 550, 1100],
    111: [111, 555, 1110, 2220, 5550, 11100],
    376: [376, 1880, 3760, 7520, 18800, 37600],
}


@pytest.mark.parametrize("num_real", FEATURES)
def test_num_features_is_exact(num_real: int) -> None:
    fractions = [0.0, 0.8, 0.9, 0.95, 0.98, 0.99]
    assert [num_features(num_real, f) for f in fractions] == FEATURES[num_real]


@pytest.mark.parametrize(
    ("num_real", "fraction", "expected"),
    [(17, 0.5, 34), (17, 0.7, 57), (1, 0.3, 2), (10, 1e-9, 11), (3, 0.999, 3000)],
)
def test_num_features_rounds_up(num_real: int, fraction: float, expected: int) -> None:
    assert num_features(num_real, fraction) == expected
    assert num_features(num_real, np.float64(fraction)) == expected


def test_num_features_refuses_only_noise() -> None:
    with pytest.raises(ValueError, match="fraction is 1"):
        num_features(17, 1.0)


def test_spaces_and_metadata_are_gymnasiums() -> None:
    env = make_ene("HalfCheetah-v3", 3, 0.9)
    assert isinstance(env, gymnasium.vector.VectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert env.single_observation_space.shape == (170,)
    assert env.observation_space.shape == (3, 170)
    assert env.action_space.shape == (3, 6)
    obs, infos = env.reset(seed=4)
    assert obs in env.observation_space and infos == {}
    obs, reward, terminated, truncated, infos = env.step(env.action_space.sample())
    assert obs in env.observation_space
    assert reward.shape == terminated.shape == truncated.shape == (3,)
    assert infos == {}
    env.close()


def test_real_features_come_first_and_are_the_simulators() -> None:
    env = make_ene("HalfCheetah-v3", 2, 0.8, seed=3)
    plain = envs.make("HalfCheetah-v3", seeds=row_seeds(3, 2))
    seen = observe(env, 5)
    expected = [plain.reset()] + [plain.step(np.zeros((2, 6), np.float32)).obs for _ in range(5)]
    np.testing.assert_array_equal(seen[:, :, :D], np.stack(expected))
    np.testing.assert_array_equal(env.real_positions, np.tile(np.arange(D), (2, 1)))


def test_fraction_zero_adds_nothing() -> None:
    env = make_ene("HalfCheetah-v3", 2, 0.0)
    assert observe(env, 1).shape == (2, 2, D)


@pytest.mark.parametrize("std", [1.0, 16.0])
def test_gaussian_noise_has_its_mean_and_deviation(std: float) -> None:
    env = make_ene("HalfCheetah-v3", 4, NoiseSpec(fraction=0.9, std=std))
    noise = observe(env, 40)[:, :, D:]
    # 25,092 numbers: 4 standard errors of the mean are 0.025 std, of the deviation 0.018 std.
    assert abs(noise.mean()) < 0.026 * std
    assert noise.std() == pytest.approx(std, rel=0.018)
    assert stats.kstest(noise.ravel() / std, stats.norm.cdf).pvalue > KS_LEVEL
    # Fresh at each step, row and feature: 4 standard errors of a correlation of 24,480 pairs.
    for one, other in [(noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1])]:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.03


def test_empirical_noise_follows_real_features_in_turn() -> None:
    env = make_ene("HalfCheetah-v3", 4, NoiseSpec(fraction=0.8, distribution="empirical"))
    noise = observe(env, 200)[:, :, D:]
    assert noise.shape[2] == 4 * D
    quantiles = load_quantiles("HalfCheetah-v3")
    uniforms = np.random.default_rng(1).random(20_000, dtype=np.float32)
    for i in range(4 * D):
        expected = sample(quantiles, uniforms, i % D)
        result: Any = stats.ks_2samp(noise[:, :, i].ravel(), expected)
        assert result.pvalue > KS_LEVEL / (4 * D)


@pytest.mark.parametrize("distribution", ["gaussian", "empirical"])
def test_row_does_not_depend_on_the_number_of_rows(distribution: Any) -> None:
    noise = NoiseSpec(0.8, distribution=distribution, permute_period=4)
    few, many = (make_ene("Hopper-v3", n, noise, seed=8, max_episode_steps=7) for n in (2, 5))
    np.testing.assert_array_equal(observe(few, 20), observe(many, 20)[:, :2])


def test_seed_decides_everything() -> None:
    first, same, other = (make_ene("Hopper-v3", 2, 0.8, seed=seed) for seed in (5, 5, 6))
    seen = observe(first, 4)
    np.testing.assert_array_equal(seen, observe(same, 4))
    assert (seen[:, 0] != seen[:, 1]).all()
    assert (seen != observe(other, 4)).all()
    # A seeded reset starts anew, also after steps; without a seed the streams go on.
    np.testing.assert_array_equal(first.reset(seed=5)[0], seen[0])
    np.testing.assert_array_equal(other.reset(seed=5)[0], seen[0])
    np.testing.assert_array_equal(other.reset(seed=5)[0], seen[0])
    assert (other.reset()[0] != seen[0]).all()


def test_final_observation_has_noise_of_its_own() -> None:
    env = make_ene("HalfCheetah-v3", 2, 0.8, seed=3, max_episode_steps=3)
    plain = envs.make("HalfCheetah-v3", seeds=row_seeds(3, 2), max_episode_steps=3)
    env.reset()
    plain.reset()
    action = np.zeros((2, 6), np.float32)
    for _ in range(3):
        obs, _, terminated, truncated, infos = env.step(action)
        step = plain.step(action)
    assert truncated.all() and not terminated.any()
    assert infos["_final_obs"].all() and infos["_final_info"].all()
    for row in range(2):
        final_obs = infos["final_obs"][row]
        np.testing.assert_array_equal(final_obs[:D], step.final_obs[row])
        np.testing.assert_array_equal(obs[row, :D], step.obs[row])
        assert (final_obs[D:] != obs[row, D:]).all()


def test_infos_name_only_the_rows_that_ended() -> None:
    env = make_ene("Hopper-v3", 4, 0.8, seed=1)
    env.reset()
    rng = np.random.default_rng(0)
    for _ in range(200):
        action = rng.uniform(-1, 1, (4, 3)).astype(np.float32)
        _, _, terminated, truncated, infos = env.step(action)
        done = terminated | truncated
        if done.any() and not done.all():
            break
    assert infos["_final_obs"].tolist() == done.tolist()
    assert [value is not None for value in infos["final_obs"]] == done.tolist()


def test_permutation_moves_all_features_at_an_episode_end() -> None:
    """Episodes of 6 steps, period 4: the order changes at steps 6 and 12."""
    noise = NoiseSpec(0.8, permute_period=4)
    env = make_ene("HalfCheetah-v3", 2, noise, seed=3, max_episode_steps=6)
    plain = envs.make("HalfCheetah-v3", seeds=row_seeds(3, 2), max_episode_steps=6)
    env.reset()
    plain.reset()
    action = np.zeros((2, 6), np.float32)
    positions = []
    for number in range(1, 15):
        before = env.real_positions
        obs, _, _, _, infos = env.step(action)
        step = plain.step(action)
        positions.append(env.real_positions[0])
        # Where real_positions says so stand the real features, and every row agrees on it.
        np.testing.assert_array_equal(np.take_along_axis(obs, env.real_positions, axis=1), step.obs)
        np.testing.assert_array_equal(env.real_positions[0], env.real_positions[1])
        if number % 6 == 0:
            for row in range(2):
                np.testing.assert_array_equal(
                    infos["final_obs"][row][before[row]], step.final_obs[row]
                )
    moved_at = [n for n in range(2, 15) if (positions[n - 1] != positions[n - 2]).any()]
    assert moved_at == [6, 12]
    assert positions[0].tolist() == list(range(D))
    for order in (positions[6], positions[12]):
        assert len(set(order)) == D and order.min() >= 0 and order.max() < 85
        # 17 features over 85 places at random: nearly all of them leave the first 17.
        assert (order >= D).sum() > D // 2


def test_rows_switch_each_at_its_own_episode_end() -> None:
    env = make_ene("Hopper-v3", 4, NoiseSpec(0.8, permute_period=5), seed=2)
    env.reset()
    rng = np.random.default_rng(0)
    has_differed = False
    previous = env.real_positions
    for _ in range(60):
        action = rng.uniform(-1, 1, (4, 3)).astype(np.float32)
        _, _, terminated, truncated, _ = env.step(action)
        positions = env.real_positions
        moved = (positions != previous).any(axis=1)
        assert moved.tolist() == (terminated | truncated).tolist()
        has_differed |= bool(moved.any() and not moved.all())
        previous = positions
    assert has_differed


def test_noise_and_permutation_leave_the_world_alone() -> None:
    """Rewards and episode ends are those of the plain task."""
    noisy = make_ene("Hopper-v3", 3, NoiseSpec(0.95, std=4.0, permute_period=5), seed=2)
    plain = envs.make("Hopper-v3", seeds=row_seeds(2, 3))
    noisy.reset()
    plain.reset()
    rng = np.random.default_rng(0)
    for _ in range(60):
        action = rng.uniform(-1, 1, (3, 3)).astype(np.float32)
        _, reward, terminated, truncated, _ = noisy.step(action)
        step = plain.step(action)
        np.testing.assert_array_equal(reward, step.reward)
        np.testing.assert_array_equal(terminated, step.terminated)
        np.testing.assert_array_equal(truncated, step.truncated)


@pytest.mark.parametrize(("redraw", "permute_replay"), [("per_call", True), ("per_step", False)])
def test_fields_about_replay_change_nothing_here(redraw: Any, permute_replay: bool) -> None:
    noise = NoiseSpec(0.8, redraw=redraw, permute_period=3, permute_replay=permute_replay)
    plain = NoiseSpec(0.8, permute_period=3)
    one, other = (make_ene("Hopper-v3", 2, spec, max_episode_steps=4) for spec in (noise, plain))
    np.testing.assert_array_equal(observe(one, 9), observe(other, 9))


def test_episode_statistics_wrapper_reads_it() -> None:
    env = RecordEpisodeStatistics(make_ene("HalfCheetah-v3", 2, 0.9, max_episode_steps=5))
    env.reset(seed=3)
    action = np.zeros((2, 6), np.float32)
    total = np.zeros(2)
    for number in range(1, 11):
        _, reward, _, _, infos = env.step(action)
        total += reward
        assert ("episode" in infos) == (number % 5 == 0)
        if number % 5 == 0:
            assert infos["episode"]["l"].tolist() == [5, 5]
            np.testing.assert_allclose(infos["episode"]["r"], total, rtol=1e-12)
            total[:] = 0


def test_runs_on_the_gymnasium_backend() -> None:
    env = make_ene("Hopper-v5", 2, 0.8, backend="gymnasium", seed=1)
    assert observe(env, 3).shape == (4, 2, 55)
    np.testing.assert_array_equal(env.reset(seed=1)[0], env.reset(seed=1)[0])
    env.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env_id": "Hoper-v3"}, "nearest names: Hopper-v"),
        ({"num_envs": 0}, "num_envs is 0"),
        ({"noise": 1.0}, "fraction is 1.0"),
        ({"seed": -1}, "seed is -1"),
        ({"backend": "mjz"}, "allowed are envpool, gymnasium"),
    ],
)
def test_wrong_argument_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_ene(**arguments)


def test_reset_options_are_refused() -> None:
    with pytest.raises(ValueError, match="reset_mask"):
        make_ene("Hopper-v3", 2).reset(options={"reset_mask": np.array([True, False])})


def test_empirical_noise_without_a_table_is_refused() -> None:
    def make_rows(seeds: Any) -> envs.VecEnv:
        return envs.make("Hopper-v3", seeds=seeds)

    noise = NoiseSpec(0.8, distribution="empirical")
    with pytest.raises(ValueError, match="needs quantiles for the 11 features"):
        NoisyVectorEnv(make_rows, 1, noise)


def test_row_seeds_of_neighbouring_seeds_are_unrelated() -> None:
    seeds = {seed: row_seeds(seed, 64) for seed in range(64)}
    assert len({s for values in seeds.values() for s in values}) == 64 * 64
    assert row_seeds(7, 3) == seeds[7][:3]
    assert all(0 <= s < 2**31 for values in seeds.values() for s in values)
