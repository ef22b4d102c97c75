"""Layer sparsities against solved published cases, and exact counts."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastanf.sparse.distribution import METHODS, active_count, layer_sparsity

GOLDEN = Path(__file__).parents[1] / "golden" / "layer_sparsity.json"
# The solved cases are stored with nine decimals, some with fewer significant digits.
TOL_GOLDEN = 1e-6
# Rounding to whole connections in the shares and in the counts: a handful of connections.
SLACK_CONNECTIONS = 8
ACTOR = (17, 256, 256, 12)


def golden_cases() -> list[dict]:
    return json.loads(GOLDEN.read_text())


def test_layer_sparsity_reproduces_all_published_cases():
    cases = golden_cases()
    assert len(cases) == 765
    for case in cases:
        fixed = None if case["input_layer_sparsity"] == -1 else case["input_layer_sparsity"]
        solved = layer_sparsity(case["layers"], case["global_sparsity"], fixed, case["method"])
        assert solved.sparsities == pytest.approx(case["sparsity"], abs=TOL_GOLDEN), case


def test_level_is_reached_or_raised_in_all_published_cases():
    num_raised = 0
    for case in golden_cases():
        fixed = None if case["input_layer_sparsity"] == -1 else case["input_layer_sparsity"]
        layers = case["layers"]
        solved = layer_sparsity(layers, case["global_sparsity"], fixed, case["method"])
        num_connections = sum(a * b for a, b in itertools.pairwise(layers))
        excess = (solved.reached - case["global_sparsity"]) * num_connections
        if solved.is_raised:
            num_raised += 1
            assert excess > 0 and solved.sparsities[1:] == (0.0, 0.0)
        else:
            assert abs(excess) < SLACK_CONNECTIONS
    assert 0 < num_raised < 765


@given(
    layers=st.lists(st.sampled_from([1, 3, 5, 171, 257]), min_size=3, max_size=5),
    level=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    fixed=st.sampled_from([None, 0.0, 0.8]),
    method=st.sampled_from(METHODS),
    sparse_output=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_solutions_are_sparsities_with_fixed_layers_respected(
    layers, level, fixed, method, sparse_output
):
    try:
        solved = layer_sparsity(layers, level, fixed, method, sparse_output)
    except ValueError as error:
        assert "global_sparsity" in str(error)
        return
    assert all(0 <= s < 1 for s in solved.sparsities)
    if fixed is not None:
        assert solved.sparsities[0] == fixed
    if not sparse_output:
        assert solved.sparsities[-1] == 0.0


def test_uniform_gives_the_same_sparsity_to_a_sparse_output_layer():
    solved = layer_sparsity(ACTOR, 0.5, None, "uniform", sparse_output_layer=True)
    assert solved.sparsities == pytest.approx([0.5] * 3, abs=TOL_GOLDEN)
    assert not solved.is_raised


def test_er_densities_are_proportional_to_the_sum_over_the_product():
    first, second, third = layer_sparsity((100, 200, 400, 10), 0.9, None, "ER").sparsities
    ratio = ((100 + 200) / (100 * 200)) / ((200 + 400) / (200 * 400))
    # Exact but for the rounding of two unscaled counts (300 and 600, whole already).
    assert (1 - first) / (1 - second) == pytest.approx(ratio, abs=1e-9)
    assert third == 0.0


def test_dense_input_layer_is_kept_dense():
    assert layer_sparsity(ACTOR, 0.5, 0.0).sparsities[0] == 0.0


def test_fixed_input_layer_raises_the_level_and_says_so():
    solved = layer_sparsity((1881, 256, 256, 34), 0.5, 0.95)
    assert solved.sparsities == (0.95, 0.0, 0.0)
    assert solved.is_raised
    num_inactive = 1881 * 256 - active_count(1881 * 256, 0.95)
    assert solved.reached == pytest.approx(
        num_inactive / (1881 * 256 + 256 * 256 + 256 * 34), rel=1e-12
    )


def test_impossible_level_is_refused_naming_the_dense_output_and_the_limit():
    with pytest.raises(
        ValueError, match=r"global_sparsity=0.99 .*output layer is dense.*0\.957"
    ) as e:
        layer_sparsity(ACTOR, 0.99)
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match=r"input_layer_sparsity is 0\.8"):
        layer_sparsity(ACTOR, 0.95, 0.8)


@pytest.mark.parametrize(("layers", "fixed"), [((17, 6), None), ((17, 256, 12), 0.1)])
def test_a_level_is_refused_where_every_layer_is_dense_or_fixed(layers, fixed):
    with pytest.raises(ValueError, match=r"global_sparsity=0\.9 cannot be met"):
        layer_sparsity(layers, 0.9, fixed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ACTOR, 1.0), "global_sparsity=1.0"),
        ((ACTOR, -0.1), "global_sparsity=-0.1"),
        ((ACTOR, float("nan")), "global_sparsity=nan"),
        ((ACTOR, 0.5, 1.0), "input_layer_sparsity=1.0"),
        ((ACTOR, 0.5, None, "er"), r"method='er' is not one of uniform, ER, new"),
        (((17,), 0.5), "layers"),
        (((17, 0, 6), 0.5), "layers"),
    ],
)
def test_wrong_values_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        layer_sparsity(*arguments)


def test_active_count_has_no_float_error():
    assert active_count(43520, 0.8) == 8704  # 170 features; floats give 8703.99...
    assert active_count(10, 0.9) == 1
    assert active_count(10, 0.0) == 10
    assert active_count(0, 0.5) == 0
    assert active_count(3, 0.5) == 1


def test_active_count_of_a_solved_sparsity_is_the_whole_count_it_stands_for():
    for num_connections in (5, 65536, 9_625_600):
        for count in (1, num_connections // 3, num_connections - 1):
            assert active_count(num_connections, 1 - count / num_connections) == count


@given(st.integers(0, 10**7), st.integers(0, 9999))
@settings(max_examples=200, deadline=None)
def test_active_count_equals_integer_arithmetic_for_decimals(num_connections, ten_thousandths):
    expected = num_connections * (10000 - ten_thousandths) // 10000
    assert active_count(num_connections, ten_thousandths / 10000) == expected


def test_active_count_refuses_a_sparsity_of_one():
    with pytest.raises(ValueError, match=r"sparsity=1\.0"):
        active_count(10, 1.0)
