"""A run folder is there as a whole or not at all, at whatever moment its making ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastanf.records import RunFolder, read_manifest
from fastanf.rows import read_evaluations
from tests.killing import KILLED_AT_EVERY_CALL, run_script
from tests.record_samples import LANES, make_run, names_in, sample_evaluation

CREATE = (
    KILLED_AT_EVERY_CALL
    + """
from fastanf import records
records.facts = dict  # asks git and the packages, which takes long
lanes = [{"lane": 0, "block": 0, "policy": "SAC", "seed": 0}]
runs = Path(sys.argv[1])

def create():
    return records.RunFolder.create(runs / "deep" / "run", {}, lanes)

for _ in killed_at_every_call(lambda: create().close()):
    path = runs / "deep" / "run"
    left = sorted(os.listdir(runs / "deep")) if (runs / "deep").exists() else []
    if path.exists():
        assert left == ["run"], left
        records.RunFolder.open(path).close()
    else:
        assert all(name.startswith(".run.") for name in left), left
        create().close()
        records.RunFolder.open(path).close()
        left = [name for name in os.listdir(runs / "deep") if name != "run"]
        # Killed before its lock had a name: too little to be sure of whom it is.
        assert all(not (runs / "deep" / name / "lanes.csv").exists() for name in left), left
    shutil.rmtree(runs / "deep")
"""
)


def test_a_killed_creation_leaves_what_can_be_created_or_resumed(tmp_path: Path) -> None:
    """Killed before each call of the system, one after the other."""
    assert int(run_script(CREATE, tmp_path)) > 40


def test_a_new_run_is_locked_from_the_beginning(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert json.loads((run.path / "lock").read_text())["pid"] == os.getpid()
    with pytest.raises(ValueError, match="is being trained by process"):
        RunFolder.open(run.path)
    run.close()


def test_nothing_stays_beside_a_new_run(tmp_path: Path) -> None:
    with make_run(tmp_path, tensorboard=True) as run:
        run.append([sample_evaluation(0)])
    assert names_in(tmp_path) == ["run"]
    assert names_in(run.path / "tb") == ["lane00_ANF-SAC_seed3"]
    assert len(read_evaluations(run.path)) == 1


@pytest.mark.parametrize("kind", ["folder", "file", "link to nothing"])
def test_what_is_there_is_not_replaced(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "run"
    if kind == "folder":
        place.mkdir()
    elif kind == "file":
        place.write_text("mine")
    else:
        place.symlink_to("nothing")
    with pytest.raises(ValueError, match=r"^run_dir .* exists already"):
        make_run(tmp_path)
    assert names_in(tmp_path) == ["run"] and not (tmp_path / "nothing").exists()


def test_of_two_runs_made_at_the_same_time_one_is_there_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def be_late(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "rename", rename)
        RunFolder.create(tmp_path / "run", {"device": "first"}, LANES).close()
        rename(source, target)

    monkeypatch.setattr(os, "rename", be_late)
    with pytest.raises(ValueError, match=r"^run_dir .* cannot be made \("):
        RunFolder.create(tmp_path / "run", {"device": "second"}, LANES)
    assert names_in(tmp_path) == ["run"]
    assert read_manifest(tmp_path / "run")["device"] == "first"
    RunFolder.open(tmp_path / "run").close()


def test_leftovers_of_processes_that_live_or_that_nobody_names_stay(tmp_path: Path) -> None:
    run = make_run(tmp_path / "other")  # held by this process
    run.path.rename(tmp_path / ".run.123.0123abcd.tmp")
    for name in (".run.123.0123abce.tmp", ".run.123.tmp", ".runs.123.0123abcd.tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / ".run.9.0123abcd.tmp").symlink_to(tmp_path / ".runs.123.0123abcd.tmp")
    before = names_in(tmp_path)
    make_run(tmp_path).close()
    assert names_in(tmp_path) == sorted([*before, "run"])


def test_a_leftover_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom fastanf.run_birth import new_run_dir\n"
        "with new_run_dir(Path(sys.argv[1]) / 'run') as (beside, lock):\n"
        "    (beside / 'eval.csv').write_text('')\n    os.kill(os.getpid(), 9)\n"
    )
    process = subprocess.run([sys.executable, "-c", script, str(tmp_path)])
    assert process.returncode == -signal.SIGKILL
    (left,) = names_in(tmp_path)
    assert left.startswith(".run.") and left.endswith(".tmp")
    make_run(tmp_path).close()
    assert names_in(tmp_path) == ["run"]


def test_a_long_name_can_be_made(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / ("ü" * 120), {}, LANES).close()
    assert names_in(tmp_path) == ["ü" * 120]
