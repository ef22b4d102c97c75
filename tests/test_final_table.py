"""The table's numbers by hand, and that it fits."""

import math

from fastanf.final_table import final_table
from tests.record_samples import evaluation_at, evaluations_of


def test_table_has_the_hand_computed_numbers_best_first() -> None:
    rows = evaluations_of([[100, 200], [500, 400]])
    rows += [evaluation_at(lane + 2, 2000, 1000.0, policy="ANF-SAC") for lane in range(3)]
    table = final_table(rows, 100, {0: 10, 1: 10, 2: 7, 3: 7, 4: 8}).splitlines()
    assert table[0].split("  ")[0] == "noise"
    assert " ".join(table[2].split()) == "0.9 ANF-SAC 3 2,000 1,000 [1,000, 1,000] 1,000 7-8"
    # last: (200 + 400) / 2; best: (200 + 500) / 2; two lanes have no interval
    assert " ".join(table[3].split()) == "0.9 SAC 2 2,000 300 - 350 10"
    assert table[4] == ""
    assert "bootstrap interval of that mean over lanes" in " ".join(table[5:])


def test_table_leaves_out_lanes_without_finite_return_and_says_so() -> None:
    rows = evaluations_of([[100, math.nan], [100, 200], [300, math.inf], [50]])
    table = final_table(rows)
    assert table.splitlines()[2].split() == ["0.9", "SAC", "1/4", "2,000", "200", "-", "162"]
    assert "lanes k/n" in table


def test_table_fits_the_width_and_keeps_the_ends_of_variants() -> None:
    rows = evaluations_of([[100.0] * 2] * 3, variant="a_very_long_field_name_drop_fraction=0.05")
    rows += [
        evaluation_at(
            9, 1000, 1.0, variant="a_very_long_field_name_drop_fraction=0.1", env="Ant-v3"
        )
    ]
    assert max(map(len, final_table(rows, 200).splitlines()[:4])) > 70
    narrow = final_table(rows, 70)
    assert max(map(len, narrow.splitlines())) <= 70
    assert "=0.05 " in narrow and "=0.1 " in narrow
    assert "best" not in narrow


def test_table_without_evaluations_says_so() -> None:
    assert final_table([]) == "no evaluations"
