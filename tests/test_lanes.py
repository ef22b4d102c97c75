"""Rows of settings as columns, and lanes in groups."""

import pytest
import torch

from fastanf.lanes import LaneTable, group_lanes

ROWS = [
    {"seed": 3, "tau": 0.5, "policy": "SAC", "tuned": True, "sparsity": None},
    {"seed": 1, "tau": 0.25, "policy": "ANF-SAC", "tuned": False, "sparsity": 0.8},
]


def test_columns_keep_lane_order() -> None:
    table = LaneTable(ROWS)
    assert table.num_lanes == 2
    assert table.names == ("seed", "tau", "policy", "tuned", "sparsity")
    assert table.column("policy") == ["SAC", "ANF-SAC"]
    assert table.column("sparsity") == [None, 0.8]


def test_tensors_have_one_value_a_lane() -> None:
    table = LaneTable(ROWS)
    tau = table.tensor("tau")
    assert tau.dtype == torch.float32
    assert tau.tolist() == [0.5, 0.25]
    assert table.tensor("seed", torch.int64, "cpu").tolist() == [3, 1]
    assert table.tensor("tuned", torch.bool).tolist() == [True, False]


def test_large_integers_are_exact() -> None:
    table = LaneTable([{"seed": 2**62 + 1}])
    assert table.tensor("seed", torch.int64).item() == 2**62 + 1


@pytest.mark.parametrize(("name", "word"), [("policy", "SAC"), ("sparsity", "None")])
def test_values_that_are_not_numbers_are_refused_with_their_lane(name: str, word: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be a number .* lane 0 has .*{word}"):
        LaneTable(ROWS).tensor(name)


def test_unknown_columns_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"seed, tau.*got 'zeta'"):
        LaneTable(ROWS).column("zeta")


def test_rows_of_different_names_are_refused() -> None:
    with pytest.raises(ValueError, match="lane 1 differs in a, b"):
        LaneTable([{"a": 1}, {"b": 1}])
    with pytest.raises(ValueError, match="at least one lane"):
        LaneTable([])


def test_the_table_does_not_change_with_its_rows() -> None:
    rows = [{"seed": 1}]
    table = LaneTable(rows)
    rows[0]["seed"] = 2
    table.row(0)["seed"] = 3
    assert table.column("seed") == [1]


def test_select_takes_lanes_in_the_order_asked_for() -> None:
    assert LaneTable(ROWS).select([1, 0, 1]).column("seed") == [1, 3, 1]


def test_groups_are_in_first_seen_order_and_partition_the_lanes() -> None:
    rows = [{"batch": b, "net": n, "seed": s} for s, (b, n) in enumerate(["bx", "ax", "bx", "by"])]
    groups = group_lanes(rows, ["batch", "net"])
    assert groups == [(0, 2), (1,), (3,)]
    assert group_lanes(rows, []) == [(0, 1, 2, 3)]
    assert group_lanes([], ["batch"]) == []
