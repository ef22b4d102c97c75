"""Episodes of a trained agent as they are shown, and films of them.

What is shown is the true episode with its true return (`envs.playback`). Episode m is played in the
world of row m of the lane's evaluations, with the noise of its first one: an agent that acts as it
did then gets the returns that were recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from envs.playback import Moment, Robot, play, robot
from envs.rendering import Renderer
from fastanf.agent import Agent
from fastanf.block import EVAL_ENVS
from fastanf.film import caption, check_film, open_film
from fastanf.rng import row_seeds


class Shown(NamedTuple):
    """One episode that was shown."""

    total_return: float
    """Undiscounted, of the whole episode; in a window that was closed, up to there."""
    num_steps: int
    num_pictures: int


class Filming(NamedTuple):
    """How a film is made."""

    width: int
    height: int
    fps: float
    """Pictures a second, at the robot's own pace."""
    seconds: float
    """Longest part of an episode that is filmed; it is played to its end all the same."""
    camera: str = "track"


def default_fps(robot: Robot, limit: float = 30.0) -> float:
    """Pictures a second, at most the limit, that show every n-th step."""
    return 1 / (robot.step_s * math.ceil(1 / (robot.step_s * limit) - 1e-9))


def describe(agent: Agent) -> tuple[str, str]:
    """Two lines: who acts, and in what."""
    config, spec = agent.config, agent.spec
    variant = f" ({config.algorithm.variant})" if config.algorithm.variant else ""
    num_noise = agent.num_features - spec.num_features
    noise = f"{num_noise:,} of {agent.num_features:,} features are noise" if num_noise else ""
    return (
        f"{config.algorithm.policy}{variant} after {agent.step:,} steps",
        f"{spec.env_id}, {noise or 'no noise'}",
    )


def play_episode(agent: Agent, number: int, seed: int) -> Iterator[Moment]:
    """The moments of one episode.

    Args:
        agent: acts, deterministically.
        number: m, from 0.
        seed: of the worlds; that of the agent's lane for those of its evaluations.
    """
    stride = agent.config.schedule.eval_episodes  # as evaluations number the rows of their noise
    row_seed = row_seeds([seed], number + 1, EVAL_ENVS)[number]
    return play(
        agent.spec.env_id, row_seed, lambda obs, time: agent.act(obs, time * stride + number)
    )


def film_episodes(
    agent: Agent,
    path: Path,
    filming: Filming,
    num_episodes: int = 1,
    seed: int = 0,
    report: Callable[[str], None] = lambda text: None,
) -> list[Shown]:
    """Write a film of the first episodes, one after the other.

    Args:
        agent: acts, deterministically.
        path: an .mp4 or a .gif; a file there is replaced when the film is complete.
        filming: how.
        num_episodes: how many.
        seed: as in `play_episode`.
        report: told how far it is.

    Raises:
        ValueError: the path, the size, the task or the camera, or nothing can be drawn here.
    """
    check_film(path, filming.width, filming.height)
    width, height, fps = filming.width, filming.height, filming.fps
    what = robot(agent.spec.env_id)
    shown = []
    with (
        Renderer(what.model_file, width, height, filming.camera) as renderer,
        open_film(path, width, height, fps) as add,
    ):
        for number in range(num_episodes):
            episode = Shown(0.0, 0, 0)
            for step, moment in enumerate(play_episode(agent, number, seed)):
                total = episode.total_return + moment.reward
                num_pictures = pictures_until((step + 1) * what.step_s, filming)
                if num_pictures > episode.num_pictures:
                    picture = Image.fromarray(renderer.draw(moment.qpos))
                    clock = f"{step * what.step_s:.1f} s, step {step:,}"
                    caption(picture, describe(agent), clock, f"return {total:,.0f}")
                    for _ in range(num_pictures - episode.num_pictures):
                        add(picture)
                    report(f"episode {number + 1}: step {step:,}")
                episode = Shown(total, step, num_pictures)
            shown.append(episode)
    return shown


def pictures_until(elapsed_s: float, filming: Filming) -> int:
    """Number of pictures that begin before that time of an episode, of those that are filmed."""
    return math.ceil(min(elapsed_s, filming.seconds) * filming.fps - 1e-6)
