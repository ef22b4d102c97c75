"""The published returns: how many, some cells, and that they can be found."""

from collections import Counter

import pytest

from envs.registry import known_env_ids
from fastanf.presets import PRESETS
from fastanf.published import PUBLISHED_RETURNS, PUBLISHED_SIZES, find_published


def test_every_cell_of_the_tables_is_there_once() -> None:
    counts = Counter(found.source for found in PUBLISHED_RETURNS)
    assert counts == {"ANF": 7 * 4, "tutorial": 2, "TowS": 10 * 5, "DST": 5 * 5}
    cells = Counter(
        (found.source, found.env, found.policy, found.sparsity, found.step)
        for found in PUBLISHED_RETURNS
    )
    assert set(cells.values()) == {1}


def test_names_are_those_of_presets_and_tasks() -> None:
    assert {found.policy for found in (*PUBLISHED_RETURNS, *PUBLISHED_SIZES)} <= set(PRESETS)
    assert {found.env for found in PUBLISHED_RETURNS} <= set(known_env_ids())


def test_a_sparsity_is_given_where_the_policy_is_sparse_and_only_there() -> None:
    for found in PUBLISHED_RETURNS:
        given = (found.sparsity is not None) + (found.input_sparsity is not None)
        assert given == (not PRESETS[found.policy].is_dense)


@pytest.mark.parametrize(
    ("source", "env", "noise_fraction", "policy", "sparsities", "step", "expected"),
    [
        ("ANF", "HalfCheetah-v3", 0.98, "ANF-SAC", (None, 0.8), 300_000, 7250),
        ("ANF", "HalfCheetah-v3", 0.98, "TD3", (None, None), 50_000, 2270),
        ("ANF", "HalfCheetah-v3", 0.98, "ANF-TD3", (None, 0.8), None, 9337),
        ("tutorial", "HalfCheetah-v3", 0.0, "ANF-SAC", (0.5, None), 15_000, 3113),
        ("TowS", "Humanoid-v3", 0.0, "SS-TD3", (0.9, None), 1_000_000, 2221.2),
        ("TowS", "Hopper-v3", 0.0, "TowS-SAC", (0.7, None), 1_000_000, 3428.9),
        ("TowS", "Ant-v3", 0.0, "sac", (None, None), 1_000_000, 4535.3),
        ("TowS", "Walker2d-v3", 0.0, "TD3", (None, None), 1_000_000, 4826.6),
        ("DST", "Hopper-v3", 0.0, "Static-TD3", (0.5, None), None, 3571),
        ("DST", "Humanoid-v3", 0.0, "DS-SAC", (0.5, None), None, 5585),
        ("DST", "Walker2d-v3", 0.0, "SAC", (None, None), None, 4566),
    ],
)
def test_a_return_is_found_by_what_was_trained(
    source: str,
    env: str,
    noise_fraction: float,
    policy: str,
    sparsities: tuple[float | None, float | None],
    step: int | None,
    expected: float,
) -> None:
    found = find_published(env, noise_fraction, policy, source=source, sparsities=sparsities)
    assert {one.source for one in found} == {source}
    assert [one.return_mean for one in found if one.step == step] == [expected]


def test_finding_takes_all_sources_unless_one_is_asked_for() -> None:
    dense = find_published("HalfCheetah-v3", 0.0, "SAC")
    assert [(one.source, one.return_mean) for one in dense] == [("TowS", 11719.6), ("DST", 11415)]
    static = find_published("HalfCheetah-v3", 0.0, "Static-TD3")
    assert [one.sparsity for one in static] == [0.9, 0.7, 0.5]


def test_what_nobody_published_is_not_found() -> None:
    assert find_published("HalfCheetah-v5", 0.98, "SAC") == ()
    assert find_published("HalfCheetah-v3", 0.5, "SAC") == ()
    assert find_published("HalfCheetah-v3", 0.98, "ANF-SAC", source="DST") == ()
    with pytest.raises(ValueError, match="policy must be one of"):
        find_published("HalfCheetah-v3", 0.98, "PPO")


def test_published_sizes_are_those_of_two_hidden_layers_of_256() -> None:
    assert len(PUBLISHED_SIZES) == 10
    for size in PUBLISHED_SIZES:
        heads = 17 * (2 if size.policy.endswith("SAC") else 1)
        weights = 376 * 256 + 256 * 256 + 256 * heads + (376 + 17) * 256 + 256 * 256 + 256
        biases = 256 + 256 + heads + 256 + 256 + 1
        expected = (1 - (size.sparsity or 0)) * weights + biases
        # Thousands, rounded; the layers' own rounding is far below that.
        assert size.num_parameters == pytest.approx(expected, abs=500)
