"""What --compare stands for: a revision, or earlier rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import references

from tests.profiling.fake_benchmark import POINTS, csv_file


def test_rows_of_the_same_sizes_are_found_newest_last_and_of_the_same_impl(tmp_path: Path) -> None:
    path = csv_file(
        tmp_path / "old.csv",
        {"p50": 1.0, "commit": "aaa-dirty"},
        {"p50": 2.0, "commit": "bbb-dirty"},
        {"p50": 3.0, "commit": "bbb-dirty", "metric": "env_steps_per_s"},
        {"p50": 4.0, "impl": "other"},
        {"p50": 5.0, "lanes": 4},
        {"p50": 6.0, "bench": "another"},
    )
    (found,) = references.references(str(path), "fake", POINTS)
    assert (found.label, found.commit, found.indices) == ("bbb-dirty", None, [0])
    assert found.recorded == {0: {"lane_updates_per_s": 2.0, "env_steps_per_s": 3.0}}
    assert found.recorded_at == "cpu, C, threads 2, v, 2020-01-01"


def test_rows_of_another_impl_serve_where_there_are_no_others(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "old.csv", {"p50": 4.0, "impl": "other"})
    (found,) = references.references(str(path), "fake", POINTS)
    assert found.recorded == {0: {"lane_updates_per_s": 4.0}}


def test_csv_without_matching_rows_is_refused(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "old.csv", {"lanes": 3})
    with pytest.raises(ValueError, match=r"has no row of bench fake with env Small-v0, lanes 1"):
        references.references(str(path), "fake", POINTS)
    (tmp_path / "old.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="has no row"):
        references.references(str(path), "fake", POINTS)


def test_unreadable_csv_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.csv cannot be read \(No such file"):
        references.references(str(tmp_path / "none.csv"), "fake", POINTS)
    (tmp_path / "data.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match="cannot be read"):
        references.references(str(tmp_path / "data.csv"), "fake", POINTS)
