"""Tables that many blocks write into: one sync for all that come together, reads of some lanes."""

import errno
import os
from pathlib import Path

import pytest

from fastanf.records import RunFolder
from fastanf.rows import (
    EvaluationRow,
    QuarantineRow,
    TrainingRow,
    read_evaluations,
    read_quarantine,
    read_training,
)
from tests.record_samples import fail_after, make_run, sample_evaluation


def test_rows_that_come_together_are_synced_once_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, synced = make_run(tmp_path), []
    monkeypatch.setattr(os, "fsync", synced.append)
    with run.together():
        for step in (1, 2, 3):
            run.append([sample_evaluation(0, step)])
            run.append([TrainingRow(1, step, step)])
        assert not read_evaluations(run.path) and not synced
    assert len(synced) == 2
    assert [row.step for row in read_evaluations(run.path)] == [1, 2, 3]
    assert [row.step for row in read_training(run.path)] == [1, 2, 3]
    with run.together():
        run.append([sample_evaluation(0, 4)])
        sealed = run.seals([0, 1])
        assert [row.step for row in read_evaluations(run.path)] == [1, 2, 3, 4]
    run.check_seals(sealed, [0, 1], 4)
    with pytest.raises(KeyError), run.together():
        run.append([sample_evaluation(0, 5)])
        raise KeyError
    run.append([sample_evaluation(0, 6)])
    assert [row.step for row in read_evaluations(run.path)] == [1, 2, 3, 4, 5, 6]


def test_rows_of_some_lanes_are_those_of_the_whole_table(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert run.rows(EvaluationRow, [0, 1]) == []
    for step in (1, 2, 3):
        run.append([sample_evaluation(lane, step, lane + step / 8) for lane in (0, 1)])
    run.append([QuarantineRow(1, 3, 3, 'it said "no, never"')])
    assert run.rows(EvaluationRow, [0, 1]) == read_evaluations(run.path)
    assert run.rows(EvaluationRow, [1]) == read_evaluations(run.path)[1::2]
    assert run.rows(QuarantineRow, [1, 7]) == read_quarantine(run.path)
    assert run.rows(QuarantineRow, [0]) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("2,2,1.25,", "2,2,x.25,", r"line 4, column wall_s must be .*, got 'x\.25'"),
        ("2,2,1.25,", "2,2,1,25,", "line 4 has 15 cells, not 14"),
        ("2,2,1.25,", '2,"2,1.25', "line 4 is damaged: "),
        ("2,2,1.25,", "1,2,1.25,", "line 4, column step must be above 1, which lane 0 had before"),
        ("2,2,1.25,", "2,2\r1.25,", "line 4 is damaged: a line break within a row"),
    ],
)
def test_rows_that_were_changed_meanwhile_are_refused_by_their_line(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    run = make_run(tmp_path)
    for step in (1, 2):
        run.append([sample_evaluation(lane, step) for lane in (1, 0)][:: 1 if step == 1 else -1])
    text = (run.path / "eval.csv").read_text()
    (run.path / "eval.csv").write_text(text.replace(old, new, 1), newline="")
    with pytest.raises(ValueError, match=rf"eval\.csv' {words}"):
        run.rows(EvaluationRow, [0])
    assert [row.step for row in run.rows(EvaluationRow, [1])] == [1, 2]
    (run.path / "eval.csv").unlink()
    with pytest.raises(ValueError, match=r"records of .* cannot be read"):
        run.rows(EvaluationRow, [1])


def test_rows_that_wait_are_dropped_with_their_lane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block is lost while the disk is full: its next worker brings the rows again."""
    run = make_run(tmp_path)
    run.append([sample_evaluation(lane, 1) for lane in (0, 1)])
    with monkeypatch.context() as patch:
        fail_after(patch, 9, errno.ENOSPC)
        run.append([sample_evaluation(lane, 2) for lane in (0, 1)])
        run.append([sample_evaluation(0, 3)])
        run.truncate({0: 1})
        run.append([sample_evaluation(0, 2, 7.0)])
    assert run.flush()
    found = [(row.lane, row.step, row.return_mean) for row in read_evaluations(run.path)]
    assert found == [(0, 1, 1.5), (1, 1, 1.5), (1, 2, 1.5), (0, 2, 7.0)]
    sealed = run.seals([0, 1])
    run.close()
    with RunFolder.open(run.path) as again:
        again.check_seals(sealed, [0, 1], 2)


def test_lanes_that_begin_again_together_replace_each_table_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, replaced = make_run(tmp_path), []
    for step in (1, 2, 3):
        run.append([sample_evaluation(lane, step) for lane in (0, 1)])
        run.append([TrainingRow(lane, step, step) for lane in (0, 1)])
    sealed, replace = run.seals([0]), os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (replaced.append(paths), replace(*paths)))
    run.truncate({0: 3, 1: 3})
    assert not replaced
    run.truncate({0: 1, 1: 2})
    assert len(replaced) == 2
    places = [(row.lane, row.step) for row in read_evaluations(run.path)]
    assert places == [(0, 1), (1, 1), (1, 2)]
    with pytest.raises(ValueError, match="was changed or damaged"):
        run.check_seals(sealed, [0], 3)
