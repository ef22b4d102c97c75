"""Nothing that is loaded runs, nothing that is read names a place outside its folder, nothing that
is printed commands the terminal.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from envs.empirical import load_quantiles
from fastanf.__main__ import main
from fastanf.agent import load_agent
from fastanf.cli import complain
from fastanf.mirrors import Mirrors
from fastanf.plain_text import MOST_BYTES, file_stem, visible
from fastanf.progress import Progress
from fastanf.report.figures_in_page import file_name
from fastanf.strict_json import strict_loads
from fastanf.view import SHIPPED_AGENT
from tests.execution_rules import ROOT, findings, sources
from tests.hostile_agents import Parts, Runs
from tests.report_runs import write_run

EXCEPTIONS = {
    ("envs/registry.py", "importlib.import_module"): "a module of the table of backends",
    ("fastanf/export/formats.py", "torch.export.load"): "of the bytes that were just made",
    ("fastanf/kernels/native/__init__.py", "ctypes.CDLL"): "the kernels, built by the installation",
    ("fastanf/learner.py", "ctypes.CDLL"): "the C library of the process",
    ("profiling/process_status.py", "ctypes.CDLL"): "the C library of the process",
    ("profiling/flame.py", "ctypes.CDLL"): "the C library of the process",
    ("profiling/gpu_cases.py", "importlib.import_module"): "a module of fastanf/kernels",
    ("profiling/peers/train_peer.py", "importlib.import_module"): "one of two names",
    ("profiling/ray_rounds.py", "pickle"): "writes only: the size of a message",
    ("profiling/workers.py", "runpy.run_path"): "the script that measures, an argument",
}
"""(file, what it uses): why that is no way in."""
PLACES = (
    "../../x", "/etc/x", "..", ".", "", "a\0b", "a\nb", "-rf", "~root", ".hidden", "a/b", "a\\b",
    "x" * 5000, "\N{LATIN SMALL LETTER E WITH ACUTE}" * 300, "\ud800", "con:", "\x1b[2J",
)  # fmt: skip
"""What a name in a file may try to be."""
ESCAPE = "\x1b]8;;http://elsewhere\x1b\\here"


# Execution.


def test_no_source_can_run_what_it_loads() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in sources()
        for name in findings(path.read_text(encoding="utf-8"))
    }
    assert len(sources()) > 150
    assert found - set(EXCEPTIONS) == set()
    assert set(EXCEPTIONS) - found == set()  # none is out of date


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import pickle", "pickle"),
        ("from pickle import loads as read", "pickle"),
        ("import numpy as np\nnp.load(path)", "numpy.load"),
        ("import numpy as np\nnp.load(path, allow_pickle=True)", "numpy.load"),
        ("import numpy as np\nnp.load(path, allow_pickle=is_ours)", "numpy.load"),
        ("import numpy\nread = numpy.load", "numpy.load"),
        ("from numpy import load\nload(path)", "numpy.load"),
        ("import torch as t\nt.load(path, weights_only=True)", "torch.load"),
        ("from torch import load as l\nmap(l, paths)", "torch.load"),
        ("import torch.jit\ntorch.jit.load(path)", "torch.jit.load"),
        ("import pandas as pd\npd.read_pickle(path)", "pandas.read_pickle"),
        ("eval(text)", "eval"),
        ("import builtins\nbuiltins.exec(text)", "exec"),
        ("compile(text, '', 'exec')", "compile"),
        ("__import__(name)", "__import__"),
        ("import os\nos.system(text)", "os.system"),
        ("from os import execv\nexecv(path, words)", "os.execv"),
        ("import subprocess\nsubprocess.run(words, shell=True)", "subprocess.run"),
        ("import subprocess\nsubprocess.run(f'ls {path}')", "subprocess.run"),
        ("import subprocess\nsubprocess.Popen(words, **more)", "subprocess.Popen"),
        ("import importlib\nimportlib.import_module(name)", "importlib.import_module"),
        ("from importlib import import_module\nimport_module(name)", "importlib.import_module"),
        ("from yaml import load", "yaml"),
        ("from multiprocessing import Pool", "multiprocessing"),
        ("def f():\n    import shelve", "shelve"),
    ],
)
def test_what_could_run_is_found(source: str, name: str) -> None:
    assert findings(source) == {name}


@pytest.mark.parametrize(
    "source",
    [
        "module.eval(); env.compile(); re.compile(text)",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "import importlib\nimportlib.import_module('glfw')",
        "import subprocess\nsubprocess.run(['git', name])\nsubprocess.run([*words])",
        "import json\njson.load(file)",
    ],
)
def test_what_cannot_run_is_not_found(source: str) -> None:
    assert findings(source) == set()


# Arrays.


def test_a_table_of_objects_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_quantiles.cache_clear()
    path, mark = tmp_path / "tables.npz", tmp_path / "mark"
    monkeypatch.setattr("envs.empirical.QUANTILES_FILE", path)
    hostile = np.array([Runs(f"touch {mark}")], dtype=object)
    np.savez(path, **{"Hopper-v3": hostile, "Ant-v3": np.zeros((2, 3))})
    for name, reason in (("Hopper-v3", "pickle"), ("Ant-v3", r"float64 \[2, 3\]")):
        with pytest.raises(ValueError, match=rf"is damaged .*{reason}.* install") as caught:
            load_quantiles(name)
        assert "\n" not in str(caught.value)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged"):
        load_quantiles("Hopper-v3")
    assert not mark.exists()


# JSON.


def test_strict_json_takes_what_json_is() -> None:
    text = '{"a": [1, -2.5, null, true], "b": {"a": "\\u00e9"}}'
    assert strict_loads(text) == {"a": [1, -2.5, None, True], "b": {"a": "\u00e9"}}
    assert strict_loads(text.encode()) == strict_loads(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting"),
        ("[" * 100_000, "too deeply"),
        ('{"a":' * 100_000, "too deeply"),
        ("[NaN]", "NaN"),
        ("[-Infinity]", "-Infinity"),
        ("[1e999]", "too large"),
        ('{"a": 1, "a": 1}', "'a' twice"),
        ("9" * 5000, "digits"),
        (b"\xff", "utf-8"),
    ],
)
def test_strict_json_refuses_what_has_no_one_meaning(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        strict_loads(text)


# Places.


@pytest.mark.parametrize("name", PLACES)
def test_a_name_of_a_file_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    for stem in (file_stem(name), file_name(name)):
        path = tmp_path / f"{stem}.txt"
        path.write_text("here")
        assert path.resolve().parent == tmp_path.resolve() and len(stem) <= MOST_BYTES
        assert stem[0] not in ".-" and stem.isascii() and stem.isprintable()
        assert list(tmp_path.iterdir()) == [path]
        path.unlink()


def test_names_that_are_good_stay_and_long_ones_stay_apart() -> None:
    assert file_stem("ANF-SAC-HalfCheetah-v3-lane0") == "ANF-SAC-HalfCheetah-v3-lane0"
    assert file_stem("drop_fraction=0.05") == "drop_fraction=0.05"
    assert file_stem("x" * 500 + "a") != file_stem("x" * 500 + "b")


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", "-rf", "x" * 100])
def test_exports_and_mirrors_stay_in_their_folder(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = Parts()
    parts.about["config"] |= {"policy": name, "variant": name}
    source = tmp_path / "in" / "agent.safetensors"
    source.parent.mkdir()
    source.write_bytes(parts.content())
    assert main(["export", str(source), "--format", "agent", "--out", str(tmp_path / "out")]) == 0
    assert len(list(tmp_path.rglob("*"))) == 4
    (written,) = (tmp_path / "out").iterdir()
    assert load_agent(written).config.algorithm.policy == name
    assert "lane 0: " in capsys.readouterr().out

    row = {"lane": 0, "policy": name, "variant": name, "seed": 0}
    mirrors = Mirrors(tmp_path, [row], False, "disabled")
    folder = tmp_path / "tb" / mirrors.labels[0]
    assert folder.resolve().parent == tmp_path.resolve() / "tb" and len(folder.name) <= MOST_BYTES


@pytest.mark.parametrize(("command", "folder"), [("report", "report"), ("export", "export")])
def test_nothing_is_written_through_a_link_in_a_run_folder(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    folder: str,
) -> None:
    run, elsewhere = write_run(tmp_path / "run"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run / folder).symlink_to(elsewhere)
    monkeypatch.setattr("fastanf.agent.read_lane", lambda *_: load_agent(SHIPPED_AGENT).state)
    with pytest.raises(SystemExit):
        main([command, str(run), *(["--format", "agent"] if command == "export" else [])])
    error = capsys.readouterr().err
    assert "a symbolic link" in error and error.count("\n") == 1
    assert not list(elsewhere.iterdir())


# The terminal.


def test_what_does_not_print_is_shown_as_its_escape() -> None:
    assert visible("caf\u00e9 100%") == "caf\u00e9 100%"
    assert visible("\x1b[2J\x07\u202e\ud800\n") == "\\x1b[2J\\x07\\u202e\\ud800\\n"
    assert visible("a\nb\r", keep="\n") == "a\nb\\r"


def test_errors_hold_no_escape_sequences(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        complain(f"study {ESCAPE} is not there")
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("label", ["[red]lane[/red]", "[link=http://elsewhere]lane", "[/]", "[b"])
def test_labels_are_shown_as_they_are_and_never_as_markup(label: str) -> None:
    stream = io.StringIO()
    progress = Progress([label, label], 10, plain=False, stream=stream)
    progress.console = Console(file=stream, width=120, height=30, force_terminal=True)
    block = progress.block(range(2))
    with progress:
        block.update(5, 1.0)
        block.note(f"{label} was noted")
        block.stopped(1, f"{label} as a cause")
    progress.console.print(progress.render())
    shown = stream.getvalue()
    assert label in shown and f"{label} was noted" in shown and f"{label} as a cause" in shown
    assert "\x1b]8" not in shown  # a link
