"""Seals of a run's tables: rows may come, and nothing that was there may change."""

import hashlib
import random
from pathlib import Path
from typing import Any

import pytest

from fastanf.records import RunFolder
from fastanf.rows import FILES, TopologyRow, TrainingRow
from fastanf.table_seals import verify_tables
from tests.record_samples import make_run, sample_evaluation


def fill(run: RunFolder, step: int) -> None:
    run.append_training([TrainingRow(lane, step, step) for lane in (0, 1)])
    run.append_topology([TopologyRow(lane, step, step, "actor", 0, 5) for lane in (0, 1)])
    run.append_evaluation([sample_evaluation(lane, step) for lane in (0, 1)])


def seals_of_disk(path: Path) -> dict[str, dict[str, Any]]:
    return {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name in FILES.values()
        for data in [(path / name).read_bytes()]
    }


def test_seals_are_those_of_the_files_whatever_was_done_to_them(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert run.seals() == seals_of_disk(run.path)
    for step in (5, 10, 15):
        fill(run, step)
        assert run.seals() == seals_of_disk(run.path)
    run.truncate_after({0: 10, 1: 10})  # cut off
    assert run.seals() == seals_of_disk(run.path)
    run.truncate_after({0: 5})  # replaced
    assert run.seals() == seals_of_disk(run.path)
    fill(run, 20)
    run.close()
    with open(run.path / "eval.csv", "a") as file:
        file.write("0,torn")
    with RunFolder.open(run.path) as again:
        assert again.seals() == seals_of_disk(run.path) == run.seals()
        fill(again, 25)
        assert again.seals() == seals_of_disk(run.path)


def test_a_profiled_run_seals_its_stages_too(tmp_path: Path) -> None:
    with make_run(tmp_path, profile=True) as run:
        assert set(run.seals()) == {*FILES.values(), "stages.csv"}
        run.check_seals(run.seals())
        verify_tables(run.path, run.seals())


def test_rows_that_come_later_break_no_seal(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    fill(run, 5)
    seals = run.seals()
    for step in (10, 15):
        fill(run, step)
    run.check_seals(seals)
    run.truncate_after({0: 5, 1: 5})
    run.check_seals(seals)
    assert run.seals() == seals
    run.close()
    with RunFolder.open(run.path) as again:
        again.check_seals(seals)
    verify_tables(run.path, seals)


def test_every_flipped_bit_of_what_was_sealed_is_seen(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    fill(run, 5)
    seals = run.seals()
    fill(run, 10)
    random.seed(0)
    for name in ("eval.csv", "train.csv", "topology.csv"):
        file = run.path / name
        data = file.read_bytes()
        size = seals[name]["bytes"]
        for index in [0, size - 1, *random.sample(range(size), 20)]:
            changed = bytearray(data)
            changed[index] ^= 1 << random.randrange(8)
            file.write_bytes(changed)
            for check in (run.check_seals, lambda seals: verify_tables(run.path, seals)):
                with pytest.raises(
                    ValueError, match=rf"{name}' was changed or damaged since .* pu"
                ):
                    check(seals)
        changed = bytearray(data)
        changed[size] ^= 1  # behind the seal
        file.write_bytes(changed)
        run.check_seals(seals)
        file.write_bytes(data)


def test_a_table_that_is_too_short_or_gone_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    fill(run, 5)
    seals = run.seals()
    data = (run.path / "train.csv").read_bytes()
    (run.path / "train.csv").write_bytes(data[:-1])
    with pytest.raises(ValueError, match=rf"train\.csv' was .* has {len(data) - 1} bytes of the"):
        run.check_seals(seals)
    (run.path / "train.csv").unlink()
    with pytest.raises(ValueError, match=r"train\.csv' cannot be read \(No such file"):
        run.check_seals(seals)


def test_a_changed_row_stops_the_run_that_goes_on(tmp_path: Path) -> None:
    """As a resumed run does it: the folder opens, and its checkpoint's seals do not fit."""
    run = make_run(tmp_path)
    fill(run, 5)
    seals = run.seals()
    run.close()
    text = (run.path / "eval.csv").read_text()
    (run.path / "eval.csv").write_text(text.replace("1.5", "9.5"))
    with RunFolder.open(run.path) as again, pytest.raises(ValueError, match=r"start a new run$"):
        again.check_seals(seals)


GOOD = {"bytes": 5, "sha256": "0" * 64}


@pytest.mark.parametrize(
    "seal",
    [
        None,
        7,
        [],
        {},
        {"bytes": 5},
        {**GOOD, "more": 1},
        {**GOOD, "bytes": 0},
        {**GOOD, "bytes": -1},
        {**GOOD, "bytes": True},
        {**GOOD, "bytes": 5.0},
        {**GOOD, "bytes": 2**70},
        {**GOOD, "bytes": "5"},
        {**GOOD, "sha256": "0" * 63},
        {**GOOD, "sha256": "G" * 64},
        {**GOOD, "sha256": None},
        {**GOOD, "sha256": ["0"] * 64},
    ],
)
def test_what_is_no_seal_is_refused(tmp_path: Path, seal: Any) -> None:
    run = make_run(tmp_path)
    for check in (run.check_seals, lambda seals: verify_tables(run.path, seals)):
        with pytest.raises(ValueError, match=r"^seal of eval\.csv must be a length and a SHA-256"):
            check(run.seals() | {"eval.csv": seal})


def test_seals_of_other_tables_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    seals: dict[str, Any] = run.seals()
    nothing: Any
    fewer = {name: seal for name, seal in seals.items() if name != "train.csv"}
    for check in (run.check_seals, lambda seals: verify_tables(run.path, seals)):
        with pytest.raises(ValueError, match=r"'train\.csv' has no seal: the checkpoint is of"):
            check(fewer)
        for name in ("../eval.csv", "/etc/passwd", "manifest.json", ""):
            with pytest.raises(ValueError, match="is sealed, but is no table of this run"):
                check({**seals, name: seals["eval.csv"]})
        for nothing in (None, [], "eval.csv", 3):
            with pytest.raises(ValueError, match=r"^seals of tables must be an object"):
                check(nothing)
    with pytest.raises(ValueError, match=r"'stages\.csv' is sealed, but is no table"):
        run.check_seals({**seals, "stages.csv": seals["eval.csv"]})


@pytest.mark.parametrize("cells", ["x,5", "0,", "0,5.5", f"{'9' * 5000},5"])
def test_a_row_without_lane_or_step_is_named(tmp_path: Path, cells: str) -> None:
    run = make_run(tmp_path)
    with open(run.path / "quarantine.csv", "a") as file:
        file.write(f"{cells},5,cause,-1\n")
    with pytest.raises(ValueError, match=r"quarantine\.csv' line 2 has lane .* whole numbers"):
        run.truncate_after({0: 0})


def test_dropping_last_rows_needs_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    for step in (5, 10, 15):
        fill(run, step)
    monkeypatch.setattr("os.write", lambda *_: pytest.fail("it writes"))
    run.truncate_after({0: 10, 1: 10})
    monkeypatch.undo()
    assert (run.path / "eval.csv").read_text().count("\n") == 5
    assert run.seals() == seals_of_disk(run.path)
