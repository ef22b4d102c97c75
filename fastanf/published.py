"""The returns that the papers report, as data, to be set beside our own.

Sources: ANF, Grooten et al., AAMAS 2023, arXiv 2302.06548, figure 5, and the tutorial of its
published code; TowS, Grooten et al., poster "Towards Implementing Truly Sparse Connections in Deep
RL Agents"; DST, Sokar et al., IJCAI 2022, arXiv 2106.04217. Policies have the names of our presets
(SS-SAC is Static-SAC here, Dense-SAC is SAC), tasks our ids of the papers' versions. What a source
does not say is None, or said to be unknown. They come from other simulators than ours and mostly
without intervals: a difference from one of them is no finding by itself.
"""

import math
from dataclasses import dataclass

from fastanf.presets import find_preset

READING_ERROR = 60.0
"""What may be wrong in a return that was read off a figure, either way."""
_OLD_MUJOCO = "gym's -v3 tasks, contact forces zero; MuJoCo's version is not stated"
_ONE_MILLION = 1_000_000


@dataclass(frozen=True)
class PublishedReturn:
    """One number of a paper."""

    source: str
    """ANF, tutorial, TowS or DST."""
    env: str
    noise_fraction: float
    policy: str
    """Name of a preset."""
    sparsity: float | None
    """Global sparsity; None where it follows from the input layer's, or the policy is dense."""
    input_sparsity: float | None
    """Sparsity of the input layer where that is what was set."""
    step: int | None
    """Training step of the return; None for a mean over the last evaluations of a run."""
    return_mean: float
    simulator_note: str
    num_seeds: int | None
    """None where we do not know it."""
    protocol: str
    """What was averaged, and how the number came to us."""


@dataclass(frozen=True)
class PublishedSize:
    """Parameters of the actor and one critic of Humanoid, biases included, to the thousand."""

    source: str
    env: str
    policy: str
    sparsity: float | None
    """Global sparsity; None for a dense policy."""
    num_parameters: int


_ANF_POLICIES = {"ANF-SAC": 0.8, "ANF-TD3": 0.8, "SAC": None, "TD3": None}
"""Input sparsity by policy, in the order of the columns below."""
_ANF_RETURNS = {
    50_000: (4650, 4220, 1430, 2270),
    100_000: (5560, 5990, 3420, 3450),
    200_000: (6500, 7250, 4390, 4520),
    300_000: (7250, 7770, 4850, 4730),
    500_000: (8230, 8490, 5520, 4930),
    800_000: (9030, 8940, 6020, 5100),
    None: (9255, 9337, 6127, 5158),
}
_TUTORIAL_RETURNS = {10_000: 1636, 15_000: 3113}
_TOWS_ENVS = ("Humanoid", "HalfCheetah", "Walker2d", "Ant", "Hopper")
_TOWS_RETURNS = {
    ("TowS-SAC", 0.9): (5582.7, 8553.8, 3017.3, 3913.2, 3216.4),
    ("TowS-TD3", 0.9): (5083.2, 7813.7, 3091.3, 4421.2, 2648.0),
    ("Static-SAC", 0.9): (4854.2, 7706.4, 2450.3, 3353.6, 3075.0),
    ("Static-TD3", 0.9): (2221.2, 6378.3, 1648.4, 2526.0, 1857.6),
    ("TowS-SAC", 0.7): (5449.0, 10321.7, 3731.9, 5156.6, 3428.9),
    ("TowS-TD3", 0.7): (5011.0, 10037.0, 3562.8, 4313.3, 3129.3),
    ("Static-SAC", 0.7): (5231.5, 8971.4, 3753.7, 4770.5, 3272.7),
    ("Static-TD3", 0.7): (4650.8, 8098.2, 3389.0, 4704.7, 3200.4),
    ("SAC", None): (4587.8, 11719.6, 4596.2, 4535.3, 3338.5),
    ("TD3", None): (4381.6, 10404.2, 4826.6, 4064.9, 2984.2),
}
_TOWS_THOUSANDS = {
    ("SAC", 0.9): 35,
    ("TD3", 0.9): 34,
    ("SAC", 0.7): 102,
    ("TD3", 0.7): 101,
    ("SAC", None): 338,
    ("TD3", None): 334,
}
"""Static and TowS networks of one algorithm and sparsity have the same size."""
_DST_POLICIES = {"TD3": None, "Static-TD3": 0.5, "DS-TD3": 0.5, "SAC": None, "DS-SAC": 0.5}
"""Global sparsity by policy, in the order of the columns below."""
_DST_RETURNS = {
    "HalfCheetah": (11153, 10584, 11460, 11415, 11084),
    "Walker2d": (4042, 3951, 4871, 4566, 4217),
    "Hopper": (2185, 3571, 3587, 3387, 3229),
    "Ant": (4288, 4149, 5012, 5849, 5944),
    "Humanoid": (3809, 4989, 5238, 5519, 5585),
}


def _anf_return(policy: str, step: int | None, return_mean: float) -> PublishedReturn:
    averaged = "evaluations at this step" if step else "mean of the last 10% of 1M steps"
    return PublishedReturn(
        source="ANF",
        env="HalfCheetah-v3",
        noise_fraction=0.98,
        policy=policy,
        sparsity=None,
        input_sparsity=_ANF_POLICIES[policy],
        step=step,
        return_mean=float(return_mean),
        simulator_note=_OLD_MUJOCO,
        num_seeds=None,
        protocol=f"{averaged}, read off the figure (+-{READING_ERROR:g})",
    )


def _tutorial_return(step: int, return_mean: float) -> PublishedReturn:
    return PublishedReturn(
        source="tutorial",
        env="HalfCheetah-v3",
        noise_fraction=0.0,
        policy="ANF-SAC",
        sparsity=0.5,
        input_sparsity=None,
        step=step,
        return_mean=float(return_mean),
        simulator_note=_OLD_MUJOCO,
        num_seeds=1,
        protocol="one evaluation",
    )


def _tows_return(
    task: str, policy: str, sparsity: float | None, return_mean: float
) -> PublishedReturn:
    return PublishedReturn(
        source="TowS",
        env=f"{task}-v3",
        noise_fraction=0.0,
        policy=policy,
        sparsity=sparsity,
        input_sparsity=None,
        step=_ONE_MILLION,
        return_mean=return_mean,
        simulator_note=_OLD_MUJOCO,
        num_seeds=None,
        protocol="after 1M steps; what was averaged is not stated, nor how layers share sparsity",
    )


def _dst_return(task: str, policy: str, return_mean: float) -> PublishedReturn:
    return PublishedReturn(
        source="DST",
        env=f"{task}-v3",
        noise_fraction=0.0,
        policy=policy,
        sparsity=_DST_POLICIES[policy],
        input_sparsity=None,
        step=None,
        return_mean=float(return_mean),
        simulator_note=_OLD_MUJOCO,
        num_seeds=5,
        protocol="mean of the last 10 evaluations of 1M steps; sparsity is about 50%, ER",
    )


PUBLISHED_RETURNS: tuple[PublishedReturn, ...] = (
    *(
        _anf_return(policy, step, value)
        for step, values in _ANF_RETURNS.items()
        for policy, value in zip(_ANF_POLICIES, values, strict=True)
    ),
    *(_tutorial_return(step, value) for step, value in _TUTORIAL_RETURNS.items()),
    *(
        _tows_return(task, policy, sparsity, value)
        for (policy, sparsity), values in _TOWS_RETURNS.items()
        for task, value in zip(_TOWS_ENVS, values, strict=True)
    ),
    *(
        _dst_return(task, policy, value)
        for task, values in _DST_RETURNS.items()
        for policy, value in zip(_DST_POLICIES, values, strict=True)
    ),
)
PUBLISHED_SIZES: tuple[PublishedSize, ...] = tuple(
    PublishedSize(
        source="TowS",
        env="Humanoid-v3",
        policy=policy,
        sparsity=sparsity,
        num_parameters=1000 * _TOWS_THOUSANDS[policy.split("-")[-1], sparsity],
    )
    for policy, sparsity in _TOWS_RETURNS
)


def find_published(
    env: str,
    noise_fraction: float,
    policy: str,
    *,
    source: str | None = None,
    sparsities: tuple[float | None, float | None] | None = None,
) -> tuple[PublishedReturn, ...]:
    """The published returns of a policy on a task, in the order of the sources and their steps.

    Args:
        env: a task's id; the papers' are the -v3 ones, and no other version has a return.
        noise_fraction: share of the features that are noise, in [0, 1).
        policy: a preset or one of its other names; case does not matter.
        source: of this source only.
        sparsities: (global, input layer's) that the source must have set; None for any.

    Returns:
        All that match; empty where nobody published one.

    Raises:
        ValueError: no such policy.
    """
    name = find_preset(policy).name
    return tuple(
        found
        for found in PUBLISHED_RETURNS
        if found.env == env
        and math.isclose(found.noise_fraction, noise_fraction, abs_tol=1e-9)
        and found.policy == name
        and source in (None, found.source)
        and sparsities in (None, (found.sparsity, found.input_sparsity))
    )
