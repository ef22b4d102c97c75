"""Seals of a run's tables: rows may come, and nothing that was there may change."""

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fastanf.records import RunFolder
from fastanf.rows import FILES, TopologyRow, TrainingRow, read_evaluations
from tests.record_samples import LANES, make_run, sample_evaluation

BOTH = (0, 1)
"""Lanes of the run."""


def fill(run: RunFolder, step: int) -> None:
    run.append([TrainingRow(lane, step, step) for lane in (0, 1)])
    run.append([TopologyRow(lane, step, step, "actor", 0, 5) for lane in (0, 1)])
    run.append([sample_evaluation(lane, step) for lane in (0, 1)])


def seals_of_disk(path: Path, lanes: Sequence[int] = BOTH) -> dict[str, dict[str, Any]]:
    """By another way: each lane's lines hashed, and their hashes in the order of the lanes."""
    seals = {}
    for name in FILES.values():
        size, digest = 0, hashlib.sha256()
        lines = (path / name).read_bytes().splitlines(keepends=True)[1:]
        for lane in lanes:
            own = b"".join(line for line in lines if line.startswith(b"%d," % lane))
            size += len(own)
            digest.update(hashlib.sha256(own).digest())
        seals[name] = {"bytes": size, "sha256": digest.hexdigest()}
    return seals


def test_seals_are_those_of_the_files_whatever_was_done_to_them(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert run.seals(BOTH) == seals_of_disk(run.path)
    for step in (5, 10, 15):
        fill(run, step)
        for lanes in (BOTH, (0,), (1,)):
            assert run.seals(lanes) == seals_of_disk(run.path, lanes)
    run.truncate(dict.fromkeys(BOTH, 10))  # cut off
    assert run.seals(BOTH) == seals_of_disk(run.path)
    run.truncate({0: 5})  # replaced
    assert run.seals(BOTH) == seals_of_disk(run.path)
    fill(run, 20)
    run.close()
    with open(run.path / "eval.csv", "a") as file:
        file.write("0,torn")
    with RunFolder.open(run.path) as again:
        assert again.seals(BOTH) == seals_of_disk(run.path) == run.seals(BOTH)
        fill(again, 25)
        assert again.seals(BOTH) == seals_of_disk(run.path)


def test_a_profiled_run_seals_its_stages_too(tmp_path: Path) -> None:
    with make_run(tmp_path, profile=True) as run:
        assert set(run.seals(BOTH)) == {*FILES.values(), "stages.csv"}
        run.check_seals(run.seals(BOTH), BOTH, 0)


def test_rows_that_come_later_break_no_seal(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    fill(run, 5)
    seals = run.seals(BOTH)
    for step in (10, 15):
        fill(run, step)
    run.check_seals(seals, BOTH, 5)
    run.truncate(dict.fromkeys(BOTH, 5))
    run.check_seals(seals, BOTH, 5)
    assert run.seals(BOTH) == seals
    run.close()
    with RunFolder.open(run.path) as again:
        again.check_seals(seals, BOTH, 5)


def test_a_block_s_seal_knows_nothing_of_other_blocks(tmp_path: Path) -> None:
    """Two lanes, each a block of its own, write in turns; one begins again, then goes further."""
    run = make_run(tmp_path)
    seals = {}
    for step in (5, 10, 15):
        for lane in BOTH:
            run.append([sample_evaluation(lane, step)])
            run.append([TrainingRow(lane, step, step)])
        seals[step] = run.seals([1])
    run.truncate({0: 5})
    for step in (10, 15, 20):
        run.append([sample_evaluation(0, step)])
    for step, seal in seals.items():
        run.check_seals(seal, [1], step)
    assert run.seals([1]) == seals[15]
    before = (run.path / "eval.csv").read_text().splitlines()
    run.sort_rows()  # both are of block 0
    assert (run.path / "eval.csv").read_text().splitlines() == before
    run.write_lanes([LANES[0], {**LANES[1], "block": 1}])
    run.append([sample_evaluation(1, 20)])
    run.append([sample_evaluation(0, 25)])
    run.sort_rows()
    places = [(row.lane, row.step) for row in read_evaluations(run.path)]
    assert places == [(0, s) for s in (5, 10, 15, 20, 25)] + [(1, s) for s in (5, 10, 15, 20)]
    assert run.seals([1]) == seals_of_disk(run.path, [1])
    run.check_seals(seals[15], [1], 15)
    run.append([sample_evaluation(0, 30)])
    run.close()
    with RunFolder.open(run.path) as again:
        again.check_seals(seals[10], [1], 10)
        assert again.seals(BOTH) == seals_of_disk(run.path)


def test_rows_dropped_at_random_leave_what_a_list_would_leave(tmp_path: Path) -> None:
    random.seed(1)
    run = make_run(tmp_path)
    expected: list[tuple[int, int]] = []
    step = [0, 0]
    for _ in range(60):
        lane = random.randrange(2)
        if random.random() < 0.25:
            step[lane] = random.randrange(step[lane] + 1)
            run.truncate({lane: step[lane]})
            expected = [(k, s) for k, s in expected if k != lane or s <= step[lane]]
        else:
            step[lane] += 1
            run.append([sample_evaluation(lane, step[lane])])
            expected.append((lane, step[lane]))
        assert [(row.lane, row.step) for row in read_evaluations(run.path)] == expected
        assert run.seals([lane]) == seals_of_disk(run.path, [lane])


def test_every_flipped_bit_of_what_was_sealed_is_seen(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    fill(run, 5)
    seals = run.seals(BOTH)
    fill(run, 10)
    random.seed(0)
    for name in ("eval.csv", "train.csv", "topology.csv"):
        file = run.path / name
        data = file.read_bytes()
        header = data.index(b"\n") + 1
        end = header + seals[name]["bytes"]
        for index in [header, end - 1, *random.sample(range(header, end), 20)]:
            changed = bytearray(data)
            changed[index] ^= 1 << random.randrange(8)
            file.write_bytes(changed)
            with pytest.raises(ValueError, match=rf"{name}' was changed or damaged since .* pu"):
                run.check_seals(seals, BOTH, 5)
        changed = bytearray(data)
        changed[end] ^= 1  # behind the seal
        file.write_bytes(changed)
        run.check_seals(seals, BOTH, 5)
        file.write_bytes(data)


def test_a_table_that_is_too_short_or_gone_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    fill(run, 5)
    seals = run.seals(BOTH)
    data = (run.path / "train.csv").read_bytes()
    (run.path / "train.csv").write_bytes(data[:-1])
    size = seals["train.csv"]["bytes"]
    words = rf"train\.csv' was .* has {size - 1} bytes of lanes 0 to 1, not the {size} that"
    with pytest.raises(ValueError, match=words):
        run.check_seals(seals, BOTH, 5)
    (run.path / "train.csv").unlink()
    with pytest.raises(ValueError, match=r"train\.csv' cannot be read \(No such file"):
        run.check_seals(seals, BOTH, 5)


def test_a_changed_row_stops_the_run_that_goes_on(tmp_path: Path) -> None:
    """As a resumed run does it: the folder opens, and its checkpoint's seals do not fit."""
    run = make_run(tmp_path)
    fill(run, 5)
    seals = run.seals(BOTH)
    run.close()
    text = (run.path / "eval.csv").read_text()
    (run.path / "eval.csv").write_text(text.replace("1.5", "9.5"))
    with RunFolder.open(run.path) as again, pytest.raises(ValueError, match=r"start a new run$"):
        again.check_seals(seals, BOTH, 5)


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
    with pytest.raises(ValueError, match=r"^seal of eval\.csv must be a length and a SHA-256"):
        run.check_seals(run.seals(BOTH) | {"eval.csv": seal}, BOTH, 0)


def test_seals_of_other_tables_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    seals: dict[str, Any] = run.seals(BOTH)
    nothing: Any
    fewer = {name: seal for name, seal in seals.items() if name != "train.csv"}
    with pytest.raises(ValueError, match=r"'train\.csv' has no seal: the checkpoint is of"):
        run.check_seals(fewer, BOTH, 0)
    for name in ("../eval.csv", "/etc/passwd", "manifest.json", "", "stages.csv"):
        with pytest.raises(ValueError, match="is sealed, but is no table of this run"):
            run.check_seals({**seals, name: seals["eval.csv"]}, BOTH, 0)
    for nothing in (None, [], "eval.csv", 3):
        with pytest.raises(ValueError, match=r"^seals of tables must be an object"):
            run.check_seals(nothing, BOTH, 0)


@pytest.mark.parametrize("cells", ["x,5", "0,", "0,5.5", f"{'9' * 5000},5", f"{2**63},5"])
def test_a_row_without_lane_or_step_is_named(tmp_path: Path, cells: str) -> None:
    run = make_run(tmp_path)
    run.close()
    with open(run.path / "quarantine.csv", "a") as file:
        file.write(f"{cells},5,cause,-1\n")
    with pytest.raises(ValueError, match=r"quarantine\.csv' line 2 has lane .* whole numbers"):
        RunFolder.open(run.path)


def test_dropping_last_rows_needs_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    for step in (5, 10, 15):
        fill(run, step)
    monkeypatch.setattr("os.write", lambda *_: pytest.fail("it writes"))
    run.truncate(dict.fromkeys(BOTH, 10))
    monkeypatch.undo()
    assert (run.path / "eval.csv").read_text().count("\n") == 5
    assert run.seals(BOTH) == seals_of_disk(run.path)
