"""Records of several runs as lanes and arms: what is merged, told apart, or left out."""

from pathlib import Path

import numpy as np
import pytest

from fastanf.report.collected import read_runs, short_names
from fastanf.report.merging import collect_arms
from tests.report_runs import made_up_return, run_lanes, write_run


def test_lanes_of_two_runs_with_equal_settings_are_one_arm(tmp_path: Path) -> None:
    lanes = run_lanes(["SAC"], num_seeds=2), run_lanes(["SAC"], num_seeds=3, first_seed=2)
    paths = [write_run(tmp_path / f"run{k}", each) for k, each in enumerate(lanes)]
    (record,), notes = collect_arms(read_runs(paths))
    assert [lane.seed for lane in record.lanes] == [0, 1, 2, 3, 4]
    assert record.arm.lanes == (("run0", 0), ("run0", 1), ("run1", 0), ("run1", 1), ("run1", 2))
    assert record.arm.returns.shape == (5, 4) and np.isfinite(record.arm.returns).all()
    assert record.arm.returns[1, 2] == made_up_return(1, lanes[0][1], 2)
    assert notes == ["SAC: lanes of run0, run1 are one arm"]


def test_a_merged_arm_names_what_its_runs_differ_in(tmp_path: Path) -> None:
    write_run(tmp_path / "a", run_lanes(["SAC"], num_seeds=1), manifest={"device": "cpu"})
    write_run(
        tmp_path / "b", run_lanes(["SAC"], num_seeds=1, first_seed=1), manifest={"device": "cuda"}
    )
    _, notes = collect_arms(read_runs([tmp_path / "a", tmp_path / "b"]))
    assert notes == ["SAC: lanes of a, b are one arm, which differ in device"]


def test_runs_with_other_settings_keep_arms_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path / "a", run_lanes(num_seeds=1))
    write_run(tmp_path / "b", run_lanes(num_seeds=1, first_seed=1, drop_fraction=0.2))
    records, notes = collect_arms(read_runs([tmp_path / "a", tmp_path / "b"]))
    # The drop fraction makes no difference to the dense lanes, which are one arm.
    names = [(record.arm.policy, record.arm.variant, len(record.lanes)) for record in records]
    assert names == [("ANF-SAC", "a", 1), ("ANF-SAC", "b", 1), ("SAC", "", 2)]
    assert notes == ["SAC: lanes of a, b are one arm"]


def test_arms_of_one_name_in_one_run_are_told_apart_by_their_settings(tmp_path: Path) -> None:
    lanes = [
        *run_lanes(["SAC"], num_seeds=1, batch_size=50),
        *run_lanes(["SAC"], num_seeds=1, batch_size=60),
    ]
    records, _ = collect_arms(read_runs([write_run(tmp_path / "run", lanes, 1)]))
    assert [record.arm.variant for record in records] == ["batch_size=50", "batch_size=60"]


def test_of_two_lanes_with_one_seed_the_one_that_came_further_counts(tmp_path: Path) -> None:
    lanes = run_lanes(["SAC"], num_seeds=2)
    write_run(tmp_path / "a", lanes, {0: 4, 1: 1}, status="interrupted")
    write_run(tmp_path / "b", lanes, {0: 2, 1: 3})
    (record,), notes = collect_arms(read_runs([tmp_path / "a", tmp_path / "b"]))
    assert sorted(record.arm.lanes) == [("a", 0), ("b", 1)]  # pyright: ignore[reportArgumentType]
    assert [note for note in notes if "left out" in note] == [
        f"SAC: lane {lane} of {run} is left out, because another lane has its settings and its "
        f"seed {lane} too"
        for run, lane in (("a", 1), ("b", 0))
    ]


def test_unequal_lengths_and_lost_returns_are_nan(tmp_path: Path) -> None:
    lanes = run_lanes(["SAC"], num_seeds=3)
    path = write_run(tmp_path / "run", lanes, {0: 4, 1: 2}, nan_from={0: 3})
    (record,), notes = collect_arms(read_runs([path]))
    assert record.arm.lanes == (0, 1, 2) and notes == []
    finite = np.isfinite(record.arm.returns)
    assert finite.tolist() == [[True] * 3 + [False], [True, True, False, False], [False] * 4]
    assert record.arm.steps.tolist() == [5000, 10_000, 15_000, 20_000]


def test_two_rows_of_one_step_are_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", run_lanes(["SAC"], num_seeds=1), 2)
    lines = (path / "eval.csv").read_text().splitlines(keepends=True)
    (path / "eval.csv").write_text("".join([*lines, lines[1].replace(",80.0,", ",81.0,")]))
    with pytest.raises(ValueError, match=r"eval\.csv' line 4, column step must be above 10000"):
        read_runs([path])


def test_names_of_runs_are_the_shortest_that_differ() -> None:
    assert short_names([Path("/x/a"), Path("/x/b")]) == ["a", "b"]
    assert short_names([Path("/x/a/run"), Path("/x/b/run"), Path("/y/c")]) == [
        "a/run", "b/run", "c",
    ]  # fmt: skip


def test_a_run_given_twice_is_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", run_lanes(["SAC"], num_seeds=1), 1)
    with pytest.raises(ValueError, match="given twice"):
        read_runs([path, tmp_path / "." / "run"])


def test_a_run_without_features_csv_is_read(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", run_lanes(num_seeds=1), 1)
    (path / "features.csv").unlink()
    assert [lane.features for lane in read_runs([path])[0].lanes] == [(), ()]


def test_a_setting_that_is_not_known_here_leaves_the_lane_without_configuration(
    tmp_path: Path,
) -> None:
    lanes = run_lanes(["SAC"], num_seeds=1)
    path = write_run(tmp_path / "run", lanes, lane_values={"policy_delay": -1})
    (lane,) = read_runs([path])[0].lanes
    assert lane.config is None and lane.last_step == 20_000
    (record,), _ = collect_arms(read_runs([path]))
    assert record.has_returns
