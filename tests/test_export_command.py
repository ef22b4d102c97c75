"""`python -m fastanf export`: what it writes, says and refuses."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from fastanf.__main__ import main
from fastanf.export.formats import FORMATS
from tests import fake_env
from tests.agent_samples import make_run


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)


def test_the_command_writes_and_reports_every_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    assert main(["export", str(run), "--lane", "1", "--format", "onnx", "agent"]) == 0
    lines = capsys.readouterr().out.splitlines()
    stem = f"ANF-SAC-{fake_env.ROWS_ENV_ID}-lane1"
    names = {f"{stem}.onnx", f"{stem}.safetensors"}
    assert {file.name for file in (run / "export").iterdir()} == names
    assert lines[0].startswith("lane 1: ANF-SAC") and len(lines) == 3
    for line, name in zip(lines[1:], ("onnx", "agent"), strict=True):
        assert line.startswith(f"{name}: ") and "% of" in line and "max |Δaction|" in line
    # From the agent's file the same again, beside it or elsewhere.
    file = run / "export" / f"{stem}.safetensors"
    out = tmp_path / "new" / "folder"
    assert main(["export", str(file), "--format", "agent,onnx,agent", "--out", str(out)]) == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in (run / "export").iterdir()
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "RUN_OR_AGENT"),
        (["{run}", "--lane", "7"], "lane must be one of those in"),
        (["{run}", "--lane", "one"], "--lane"),
        (["{run}", "--format", "tflite"], "--format must be one or more of onnx, torch, agent"),
        (["{run}", "--frmat", "onnx"], "--frmat"),
        (["nowhere"], "folder of a run or the file of an agent"),
        (["{run}", "--format", "agent", "--out", "{run}/lanes.csv"], "--out must be a folder"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    run = make_run(tmp_path / "run", num_steps=0)
    with pytest.raises(SystemExit) as caught:
        main(["export", *(word.format(run=run) for word in arguments)])
    output = capsys.readouterr()
    assert caught.value.code == 2 and message in output.err
    assert output.err.count("\n") == 1 and not output.out


def test_a_missing_package_is_said_with_how_to_install_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", num_steps=0)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name)
    )
    with pytest.raises(SystemExit):
        main(["export", str(run)])
    error = capsys.readouterr().err
    assert "onnxruntime: pip install 'fastanf[export]'" in error and error.count("\n") == 1
    assert not (run / "export").exists()
    assert main(["export", str(run), "--format", "agent"]) == 0


def test_help_tells_the_formats(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["export", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0
    assert all(f"{name}: " in text for name in FORMATS)
