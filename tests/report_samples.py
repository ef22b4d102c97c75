"""Arms and rows of a study as they might be recorded, for the tests of figures and page."""

from collections.abc import Sequence

import numpy as np

from fastanf.report.arms import Arm
from fastanf.rows import FeatureRow, TopologyRow

POLICIES = ("ANF-SAC", "SAC", "Static-SAC", "TowS-SAC", "ANF-TD3", "TD3", "DS-SAC", "DS-TD3")
NUM_REAL, NUM_FEATURES, NUM_HIDDEN = 17, 170, 256
NUM_ACTIVE = 8704


def sample_arm(
    number: int = 0,
    *,
    env: str = "HalfCheetah-v3",
    noise_fraction: float = 0.9,
    policy: str = "",
    variant: str = "",
    num_seeds: int = 5,
    num_steps: int = 20,
    every: int = 5000,
) -> Arm:
    """An arm whose returns rise and level off, the lower the higher its number."""
    rng = np.random.default_rng([number, num_seeds, round(1000 * noise_fraction)])
    steps = every * np.arange(1, num_steps + 1)
    height = 9000 / (1 + 0.35 * number) * (1.3 - noise_fraction)
    pace = rng.uniform(0.7, 1.3, (num_seeds, 1)) * 0.12
    wiggle = np.cumsum(rng.normal(0, 0.015, (num_seeds, num_steps)), axis=1)
    returns = height * (1 - np.exp(-pace * steps / every) + wiggle) - 200
    policy = policy or POLICIES[number % len(POLICIES)]
    return Arm(env, noise_fraction, policy, variant, tuple(range(num_seeds)), steps, returns)


def unfinished(arm: Arm, num_steps: int) -> Arm:
    """The arm as it was after some evaluations, its last seed one evaluation behind."""
    returns = arm.returns[:, :num_steps].copy()
    returns[-1, -1] = np.nan
    return Arm(
        arm.env, arm.noise_fraction, arm.policy, arm.variant, arm.lanes,
        arm.steps[:num_steps], returns,
    )  # fmt: skip


def without_returns(arm: Arm) -> Arm:
    """The arm with all returns nan."""
    return Arm(
        arm.env, arm.noise_fraction, arm.policy, arm.variant, arm.lanes,
        arm.steps, np.full_like(arm.returns, np.nan),
    )  # fmt: skip


def topology_rows(lane: int, steps: np.ndarray, reach: float = 0.5) -> list[TopologyRow]:
    """Real features collect connections until a share of `reach`, critics sooner than the actor."""
    rows = []
    for number, network in enumerate(("actor", "critic1", "critic2")):
        share = 0.1 + (reach - 0.1) * (1 - np.exp(-(0.05 + 0.03 * number) * steps / 5000))
        share = np.clip(share + 0.01 * np.sin(lane + steps / 9000), 0, 1)
        for step, one in zip(steps, share, strict=True):
            real = round(float(one) * NUM_ACTIVE)
            rest = NUM_ACTIVE - real
            sizes = (NUM_ACTIVE, 0.2, real, rest, real / NUM_ACTIVE)
            rows.append(TopologyRow(lane, int(step), int(step), network, 0, *sizes))
            rows.append(TopologyRow(lane, int(step), int(step), network, 1, 65536, 1.0))
    return rows


def feature_rows(
    lane: int,
    steps: np.ndarray,
    *,
    is_dense: bool = False,
    permuted_at: Sequence[int] = (),
    num_real: int = NUM_REAL,
    num_features: int = NUM_FEATURES,
) -> list[FeatureRow]:
    """Connections move to the real features, each at its own pace; a permutation undoes that."""
    rng = np.random.default_rng([lane, num_real])
    num_noise = num_features - num_real
    level = NUM_HIDDEN * 0.2
    pace = rng.uniform(0.02, 0.25, num_real)
    rows = []
    for network in ("actor", "critic1", "critic2"):
        real = rng.binomial(NUM_HIDDEN, 0.2, num_real).astype(float)
        noise = rng.binomial(NUM_HIDDEN, 0.2, num_noise).astype(float)
        before = 0
        for step in steps:
            if any(before <= at < step for at in permuted_at):
                real = rng.choice(noise, num_real) if num_noise else real
            real = real + pace * (230 - real)
            surplus = (real.sum() + noise.sum()) / num_features - level
            noise = np.clip(noise - surplus * num_features / max(1, num_noise), 2, None)
            noise = np.clip(noise + rng.normal(0, 2, num_noise), 2, None)
            weights = (
                0.02 + (0.004 + 0.001 * lane) * float(real.mean()) / level,
                0.02 * level / 51.2,
            )
            recorded = np.round(np.concatenate([real, noise[:256]])).astype(int)
            words = "" if is_dense else " ".join(map(str, recorded))
            before = int(step)
            rows.append(
                FeatureRow(lane, before, before, network, num_real, num_features, *weights, words)
            )
    return rows
