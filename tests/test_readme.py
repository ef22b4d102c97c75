"""README.md: its tables are those of the measured rows, and its commands parse."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fastanf.cli import parse_command_line
from fastanf.study import parse_study

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^python train\.py (.+)$", README, re.MULTILINE)


def test_tables_are_made_from_the_measured_rows() -> None:
    command = [sys.executable, "profiling/readme_tables.py", "--check"]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def test_the_first_commands_are_make_train_and_make_test() -> None:
    first_block = README.split("```")[1]
    assert [line.split()[:2] for line in first_block.strip().splitlines()] == [
        ["make", "train"],
        ["make", "test"],
    ]


@pytest.mark.parametrize("arguments", COMMANDS)
def test_training_commands_are_accepted(
    arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = parse_command_line([*shlex.split(arguments), "--replay_capacity", "10000"])
    assert study.lanes and not list(tmp_path.iterdir())


def test_the_study_that_is_shown_expands() -> None:
    (text,) = re.findall(r"```toml\n(.+?)```", README, re.DOTALL)
    lanes = parse_study(text).expand().lanes
    assert len(lanes) == 8 * 2 * (3 + 1 + 1)
    assert {lane.network.layer_norm for lane in lanes} == {False, True}


def test_pictures_exist() -> None:
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).stat().st_size > 0
