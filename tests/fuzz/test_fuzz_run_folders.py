"""Commands on the folder of a real run whose records are damaged: a right result, or one line.

The checkpoints are whole here. A run that is refused goes on once the file is put back. How to try
more of them: tests/fuzz/fuzzing.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastanf import runner
from fastanf.__main__ import main
from fastanf.agent import load_agent
from tests import fake_env
from tests.fuzz.damage import damaged
from tests.fuzz.fuzzing import command_outcome, outcome, tries
from tests.interruptions import records, signal_at_update
from tests.report_runs import without_drawing
from tests.tiny_runs import OPTIONS

TABLES = ("eval.csv", "train.csv", "topology.csv", "features.csv", "quarantine.csv")
FILES = ("manifest.json", "lanes.csv", *TABLES)
STUDY = """
name = "tiny"
policy = ["SAC", "ANF-SAC"]
env = "Fake-v0"
[settings]
"""


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)
    without_drawing(monkeypatch)
    monkeypatch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a study, its run that was stopped after two evaluations, and the whole run."""
    folder = tmp_path_factory.mktemp("runs")
    fixed = ("policy", "env", "num_seeds", "device", "tensorboard", "hidden")
    settings = [f"{k} = {_toml(v)}\n" for k, v in OPTIONS.items() if k not in fixed]
    (folder / "study.toml").write_text(f"{STUDY}hidden = [8, 5]\n{''.join(settings)}")
    with pytest.MonkeyPatch.context() as patch:
        fake_env.register(patch)
        patch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())
        assert train(folder, folder / "whole") == 0
        with signal_at_update(17):
            assert train(folder, folder / "stopped") == 130
    yield folder


def _toml(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)


def train(folder: Path, run: Path) -> int:
    """Begins the study in a folder, or goes on with it there."""
    flags = ["--plain", "--device", "cpu", "--tensorboard", "false"]
    return main(["train", "--study", str(folder / "study.toml"), "--run_dir", str(run), *flags])


def damaged_file(data: Any, run: Path) -> tuple[str, bytes, bytes]:
    """Name, content and damaged content of one file of a run."""
    name = data.draw(st.sampled_from(FILES))
    whole = (run / name).read_bytes()
    return name, whole, data.draw(damaged(whole))


@pytest.mark.parametrize("command", ["resume", "study"])
@tries(3, is_slow=True)
@given(data=st.data())
def test_a_run_of_damaged_records_goes_on_right_or_is_refused(
    runs: Path, tmp_path: Path, command: str, data: Any
) -> None:
    name, whole, broken = damaged_file(data, runs / "stopped")
    run = Path(shutil.copytree(runs / "stopped", tmp_path / "run"))
    (run / name).write_bytes(broken)

    def go_on() -> int:
        return main(["resume", str(run)]) if command == "resume" else train(runs, run)

    try:
        code, refusal = command_outcome(go_on)
        if refusal:
            (run / name).write_bytes(whole)
            code, refusal = command_outcome(go_on)
        assert (code, refusal) == (0, "")
        assert records(run) == records(runs / "whole")
    finally:
        shutil.rmtree(run)


def test_damage_behind_what_the_checkpoint_sealed_is_refused_too(
    runs: Path, tmp_path: Path
) -> None:
    for number, (name, line) in enumerate(
        [("quarantine.csv", "lane,step,x,y,z"), ("eval.csv", "x" + 13 * ",1"), ("train.csv", '"')]
    ):
        run = Path(shutil.copytree(runs / "stopped", tmp_path / str(number)))
        with open(run / name, "a") as file:
            file.write(f"{line}\n")
        _, refusal = command_outcome(partial(main, ["resume", str(run)]))
        assert name in refusal


@tries(5, is_slow=True)
@given(data=st.data())
def test_a_finished_study_of_damaged_records_is_shown_or_refused(
    runs: Path, tmp_path: Path, data: Any
) -> None:
    name, _, broken = damaged_file(data, runs / "whole")
    run = Path(shutil.copytree(runs / "whole", tmp_path / "run"))
    (run / name).write_bytes(broken)
    try:
        code, refusal = command_outcome(lambda: train(runs, run))
        assert refusal or code == 0
    finally:
        shutil.rmtree(run)


@pytest.mark.parametrize("command", ["resume", "study", "finished"])
def test_a_table_that_cannot_be_read_hides_no_refusal(
    runs: Path, tmp_path: Path, command: str
) -> None:
    whole = runs / ("whole" if command == "finished" else "stopped")
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    text = (run / "eval.csv").read_text()
    (run / "eval.csv").write_text(text.replace(",0.7,", ",-1,"))
    resume = ["resume", str(run)]
    _, refusal = command_outcome(lambda: main(resume) if command == "resume" else train(runs, run))
    words = "noise_fraction must be" if command == "finished" else "was changed or damaged"
    assert "eval.csv' " in refusal and words in refusal


@tries(10, is_slow=True)
@given(data=st.data())
def test_an_agent_of_a_run_with_damaged_records_is_loaded_or_refused(
    runs: Path, tmp_path: Path, data: Any
) -> None:
    name, _, broken = damaged_file(data, runs / "whole")
    run = Path(shutil.copytree(runs / "whole", tmp_path / "run"))
    (run / name).write_bytes(broken)
    try:
        agent, refusal = outcome(lambda: load_agent(run, 1))
        assert refusal or agent.config.algorithm.policy == "ANF-SAC"
        out = tmp_path / "out"
        export = ["export", str(run), "--lane", "1", "--format", "agent", "--out", str(out)]
        code, line = command_outcome(lambda: main(export))
        assert bool(line) == bool(refusal) and (line or code == 0)
        shutil.rmtree(out, ignore_errors=True)
    finally:
        shutil.rmtree(run)


@tries(10, is_slow=True)
@given(data=st.data())
def test_a_report_of_a_real_run_with_damaged_records_is_written_or_refused(
    runs: Path, tmp_path: Path, data: Any
) -> None:
    name, _, broken = damaged_file(data, runs / "stopped")
    run = Path(shutil.copytree(runs / "stopped", tmp_path / "run"))
    (run / name).write_bytes(broken)
    out = tmp_path / "report"
    try:
        code, refusal = command_outcome(lambda: main(["report", str(run), "--out", str(out)]))
        assert refusal or (code == 0 and (out / "index.html").is_file())
    finally:
        shutil.rmtree(run)
        shutil.rmtree(out, ignore_errors=True)
