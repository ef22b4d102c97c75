"""docs/tutorial.md: every command in it runs, one after the other, on short settings."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from envs import registry
from fastanf.__main__ import main

ROOT = Path(__file__).parents[1]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.+?)```", TUTORIAL, re.DOTALL)
    for line in block.splitlines()
]
# What makes a training short; later flags win.
SHORT = shlex.split(
    "--max_timesteps 40 --start_timesteps 40 --eval_freq 20 --eval_episodes 1 --hidden 128x128 "
    "--batch_size 8 --replay_capacity 10000 --tensorboard false --plain"
)
PERIODS = {"--permute_period": "15"}
"""Settings in steps, which a short training would not reach."""
EPISODE_STEPS = 50
"""In place of 1000: evaluating agents that learned nothing took most of the time."""


def arguments_of(command: str) -> list[str]:
    """The command for `fastanf.__main__.main`, shortened."""
    program, *words = shlex.split(command)
    assert program == "python"
    if words[:2] == ["-m", "fastanf"]:
        name, *rest = words[2:]
        return [name, *rest, *(["--seconds", "0.2"] if name == "view" else [])]
    assert words[0] == "train.py"
    short = words[1:] if "--plan" in words else [*words[1:], *SHORT]
    for flag, value in PERIODS.items():
        if flag in short:
            short[short.index(flag) + 1] = value
    return ["train", *short]


@pytest.fixture
def short_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = registry._BACKENDS["envpool"]
    tasks = {
        name: dataclasses.replace(
            task, spec=dataclasses.replace(task.spec, max_episode_steps=EPISODE_STEPS)
        )
        for name, task in backend.tasks.items()
    }
    monkeypatch.setitem(registry._BACKENDS, "envpool", dataclasses.replace(backend, tasks=tasks))


@pytest.mark.usefixtures("short_episodes")
def test_the_commands_run_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(COMMANDS) > 10
    for command in COMMANDS:
        assert main(arguments_of(command)) == 0, command
    assert (tmp_path / "cheetah.gif").stat().st_size > 0
    assert (tmp_path / "runs/noise/report/index.html").stat().st_size > 0
    assert list((tmp_path / "exported").iterdir())
    topologies = (tmp_path / "runs/topologies/lanes.csv").read_text()
    assert all(name in topologies for name in ("set", "static", "rigl", "pruning"))
    assert "rivals" in capsys.readouterr().out


def test_every_command_of_the_tutorial_stands_in_a_tested_block() -> None:
    """Commands in other blocks would go untested; what is in the running text is a mention."""
    untested = re.sub(r"```bash\n.+?```", "", TUTORIAL, flags=re.DOTALL)
    blocks = re.findall(r"```\w*\n(.+?)```", untested, re.DOTALL)
    assert not [line for block in blocks for line in block.splitlines() if line[:7] == "python "]


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((\.\.?/[^)#]+)\)", TUTORIAL))))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / "docs" / link).exists()
