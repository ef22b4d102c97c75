"""`python -m fastanf view`: watch a trained agent in a window, or film it."""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from fastanf.cli import complain
from fastanf.options import Allowed, Group, at_least, interval, option, read_options_once
from fastanf.paths import expanded

if TYPE_CHECKING:
    from fastanf.agent import Agent
    from fastanf.showing import Shown

SHIPPED_AGENT = Path(__file__).with_name("agents") / "halfcheetah.safetensors"
_GIF_SECONDS = 10.0
_PIXELS = Allowed("an integer in [64, 3840]", lambda value: 64 <= value <= 3840)
_SEED = Allowed("an integer in [0, 2147483647]", lambda value: 0 <= value < 2**31)


@dataclass(frozen=True)
class ViewConfig(Group):
    """What to show, and how."""

    lane: int | None = option(None, kind="run", allowed=at_least(0))
    """The lane of a run; by default its first."""
    film: str | None = option(None, kind="run")
    """Write a film there, an .mp4 or a .gif, instead of opening a window."""
    episodes: int | None = option(None, kind="run", allowed=at_least(1))
    """Episodes to show; by default 1 in a film, and in a window one after the other until it is
    closed."""
    seed: int | None = option(None, kind="run", allowed=_SEED)
    """The episodes' worlds follow from it; by default the lane's seed, with which they are those of
    its evaluations."""
    seconds: float | None = option(None, kind="run", allowed=interval("(0, inf)"))
    """Longest part of an episode that is filmed; by default all for an .mp4 and 10 for a .gif. The
    return that is printed is that of the whole episode."""
    width: int = option(480, kind="run", allowed=_PIXELS)
    """Pixels of a film."""
    height: int = option(360, kind="run", allowed=_PIXELS)
    """Pixels of a film."""
    fps: float | None = option(None, kind="run", allowed=interval("[1, 50]"))
    """Pictures a second of a film; by default every step, or every second, third, ... one, that
    makes at most 30."""
    camera: str = option("track", kind="run", choices=("track", "front", "behind", "above"))
    """Where it is looked at from; track is from the side."""


def view_command(argv: Sequence[str]) -> int:
    """Show the agent that the arguments name.

    Returns:
        The exit code.
    """
    try:
        path, config = _parse(argv)
        agent = _load(path, config.lane)
        (_watch if config.film is None else _film)(agent, config)
    except (ValueError, OSError) as error:  # OSError: the film cannot be written
        complain(str(error))
    return 0


def _film(agent: Agent, config: ViewConfig) -> None:
    from rich.console import Console

    from envs.playback import robot
    from envs.rendering import NoOpenGL
    from fastanf.showing import Filming, default_fps, film_episodes

    assert config.film is not None
    path = expanded(config.film, "--film")
    what = robot(agent.spec.env_id)
    whole = _GIF_SECONDS if path.suffix.lower() == ".gif" else math.inf
    filming = Filming(
        config.width,
        config.height,
        config.fps or default_fps(what),
        config.seconds or whole,
        config.camera,
    )
    seed = agent.config.algorithm.seed if config.seed is None else config.seed
    with Console(stderr=True).status("starting") as status:
        try:
            shown = film_episodes(agent, path, filming, config.episodes or 1, seed, status.update)
        except NoOpenGL as error:
            raise ValueError(f"{error}; without --film a window opens, on a display") from None
    print(_introduction(agent))
    for number, episode in enumerate(shown, start=1):
        line = _summary(number, episode, what.step_s)
        if episode.num_steps * what.step_s > filming.seconds:
            line += f"; filmed are the first {filming.seconds:g} s (--seconds)"
        print(line)
    num_pictures = sum(episode.num_pictures for episode in shown)
    print(
        f"{path}: {num_pictures:,} pictures, {filming.fps:.4g} a second, "
        f"{path.stat().st_size / 1e6:.1f} MB"
    )


def _watch(agent: Agent, config: ViewConfig) -> None:
    from envs.playback import robot
    from envs.window import NoDisplay, Window
    from fastanf.showing import Shown, describe, play_episode

    what = robot(agent.spec.env_id)
    seed = agent.config.algorithm.seed if config.seed is None else config.seed
    try:
        window = Window(what.model_file, config.camera)
    except NoDisplay as error:
        raise ValueError(f"{error}; --film run.mp4 needs none") from None
    print(_introduction(agent), flush=True)
    with window:
        for number in range(config.episodes) if config.episodes else itertools.count():
            shown, due = Shown(0.0, 0, 0), time.monotonic() + what.step_s
            for step, moment in enumerate(play_episode(agent, number, seed)):
                if not window.is_open:
                    break
                shown = Shown(shown.total_return + moment.reward, step, step + 1)
                below = f"step {step:,}  return {shown.total_return:,.0f}"
                if time.monotonic() <= due or moment.is_last:  # drawing that is slow skips steps
                    time.sleep(max(0.0, due - time.monotonic()))
                    window.show(moment.qpos, "\n".join(describe(agent)), below)
                due += what.step_s
            print(_summary(number + 1, shown, what.step_s), flush=True)
            if not window.is_open:
                return


def _introduction(agent: Agent) -> str:
    from fastanf.showing import describe

    lines = list(describe(agent))
    backend = agent.config.task.backend
    if backend != "envpool":
        lines.append(f"trained with {backend}, shown in envpool's {agent.spec.env_id}")
    return "\n".join(lines)


def _summary(number: int, shown: Shown, step_s: float) -> str:
    seconds = shown.num_steps * step_s
    return (
        f"episode {number}: return {shown.total_return:,.1f} in {shown.num_steps:,} steps "
        f"({seconds:.1f} s)"
    )


def _load(path: Path | None, lane: int | None) -> Agent:
    """The agent at a path; without one, that of the package."""
    if path is None and not SHIPPED_AGENT.is_file():
        raise ValueError(
            f"the agent that comes with fastanf is not there ({SHIPPED_AGENT}); name the folder of "
            "a run or the file of an agent"
        )
    from fastanf.agent import load_agent

    return load_agent(path or SHIPPED_AGENT, lane)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parse(argv: Sequence[str]) -> tuple[Path | None, ViewConfig]:
    """The agent's place, None if it is not said, and the settings.

    Raises:
        ValueError: an unknown flag or a value that is not allowed.
        SystemExit: code 0 after --help.
    """
    options = read_options_once(ViewConfig)
    parser = _Parser(
        prog="python -m fastanf view",
        usage="%(prog)s [RUN_OR_AGENT] [options]",
        description=(
            "Watch a trained agent in a window, or film it: the agent of a lane of a run, that of "
            "a file, or the one that comes with fastanf."
        ),
        allow_abbrev=False,
    )
    parser.add_argument("path", nargs="?", metavar="RUN_OR_AGENT", help="a folder or a file")
    for name, entry in options.items():
        metavar = {int: "N", float: "X", str: "FILE"}[entry.item]
        metavar = "|".join(entry.choices) or metavar
        parser.add_argument(f"--{name}", metavar=metavar, help=entry.help)
    given = vars(parser.parse_args(list(argv)))
    path = given.pop("path")
    values = {
        name: options[name].parse(text, f"--{name}")
        for name, text in given.items()
        if text is not None
    }
    return None if path is None else Path(path), ViewConfig(**values)
