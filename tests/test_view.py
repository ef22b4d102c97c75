"""Watching: the episodes of the lane's evaluations, in films and windows, and what is refused."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from envs import window
from envs.playback import robot
from envs.rendering import NoOpenGL, Renderer
from fastanf import runner, showing, view
from fastanf.__main__ import main
from fastanf.agent import Agent, load_agent, save_agent
from fastanf.cli import parse_command_line
from fastanf.showing import Filming, default_fps, film_episodes, pictures_until
from fastanf.view import view_command

NUM_EPISODES = 3
OPTIONS = {
    "policy": "ANF-SAC Static-SAC", "env": "Hopper-v3", "num_seeds": 1, "hidden": "8x8",
    "batch_size": 4, "noise_fraction": 0.5, "max_timesteps": 8, "start_timesteps": 8,
    "eval_freq": 8, "eval_episodes": NUM_EPISODES, "tensorboard": "false", "device": "cpu",
}  # fmt: skip
LANE = 1
FILMING = Filming(64, 48, fps=25.0, seconds=np.inf)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose only evaluation is that of the agents as they were saved."""
    path = tmp_path_factory.mktemp("view") / "run"
    arguments = ["--plain", "--run_dir", str(path)]
    for name, value in OPTIONS.items():
        arguments += [f"--{name}", *str(value).split()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())
        assert runner.train(parse_command_line(arguments)) == 0
    return path


@pytest.fixture
def agent(run: Path) -> Agent:
    return load_agent(run, LANE)


def evaluation(run: Path) -> dict[str, str]:
    with open(run / "eval.csv", newline="") as file:
        return next(row for row in csv.DictReader(file) if int(row["lane"]) == LANE)


class GreyRenderer:
    """In the place of a renderer: pictures that tell states apart, without OpenGL."""

    def __init__(self, model_file: str, width: int, height: int, camera: str) -> None:
        assert Path(model_file).is_file() and camera == "track"
        self.shape = height, width, 3

    def draw(self, qpos: np.ndarray) -> np.ndarray:
        return np.full(self.shape, 100 + int(1000 * abs(qpos[0])) % 100, np.uint8)

    def __enter__(self) -> GreyRenderer:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture
def grey(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(showing, "Renderer", GreyRenderer)


def test_filmed_episodes_are_those_of_the_evaluation(
    run: Path, agent: Agent, grey: None, tmp_path: Path
) -> None:
    shown = film_episodes(agent, tmp_path / "run.gif", FILMING, NUM_EPISODES)
    returns, row = [episode.total_return for episode in shown], evaluation(run)
    assert len(set(returns)) == NUM_EPISODES
    assert np.mean(returns) == pytest.approx(float(row["return_mean"]), rel=1e-6)
    assert min(returns) == pytest.approx(float(row["return_min"]), rel=1e-6)
    assert max(returns) == pytest.approx(float(row["return_max"]), rel=1e-6)
    film: Any = Image.open(tmp_path / "run.gif")
    # 125 steps a second, and the start: a picture for every fifth state
    expected = [-(-(episode.num_steps + 1) // 5) for episode in shown]
    assert [episode.num_pictures for episode in shown] == expected
    assert film.n_frames == sum(expected)


def test_another_seed_is_another_episode_and_the_same_seed_the_same(
    agent: Agent, grey: None, tmp_path: Path
) -> None:
    def total(seed: int) -> float:
        return film_episodes(agent, tmp_path / "run.gif", FILMING, 1, seed)[0].total_return

    assert total(0) == total(0) != total(1)


def test_a_short_film_has_the_return_of_the_whole_episode(
    agent: Agent, grey: None, tmp_path: Path
) -> None:
    whole = film_episodes(agent, tmp_path / "run.gif", FILMING)[0]
    short = film_episodes(agent, tmp_path / "run.gif", FILMING._replace(seconds=0.05))[0]
    assert short.total_return == whole.total_return and short.num_steps == whole.num_steps
    assert short.num_pictures == 2 < whole.num_pictures  # at 0 and 0.04 s


@pytest.mark.parametrize("env_id", ["HalfCheetah-v3", "Hopper-v3", "Humanoid-v3"])
def test_without_a_pace_every_nth_step_makes_a_picture(env_id: str) -> None:
    step_s = robot(env_id).step_s
    filming = FILMING._replace(fps=default_fps(robot(env_id)))
    stride = round(1 / (filming.fps * step_s))
    assert 15 < filming.fps <= 30
    for num_states in range(1, 40):
        assert pictures_until(num_states * step_s, filming) == -(-num_states // stride)


@pytest.mark.parametrize("fps", [7.0, 30.0, 50.0])
def test_a_film_takes_as_long_as_what_it_shows(fps: float) -> None:
    filming = FILMING._replace(fps=fps, seconds=3.0)
    counts = [pictures_until(0.05 * states, filming) for states in range(1, 101)]
    assert counts == sorted(counts) and counts[0] >= 1
    for states, number in enumerate(counts, start=1):
        seconds = min(0.05 * states, 3.0)
        assert seconds - 1e-6 <= number / fps < seconds + 1 / fps


def test_a_film_by_the_command(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        Renderer(robot("Hopper-v3").model_file, 64, 64).close()
    except NoOpenGL as error:
        pytest.skip(str(error))
    agent_file, path = tmp_path / "agent.safetensors", tmp_path / "run.gif"
    save_agent(load_agent(run, LANE), agent_file)
    options = ["--width", "96", "--height", "64", "--fps", "10", "--camera", "front"]
    assert main(["view", str(agent_file), "--film", str(path), *options]) == 0
    film: Any = Image.open(path)
    assert film.size == (96, 64) and film.n_frames > 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["Static-SAC after 8 steps", "Hopper-v3, 11 of 22 features are noise"]
    assert lines[2].startswith("episode 1: return ") and lines[3].startswith(f"{path}: ")


class FakeWindow:
    """In the place of a window: it is closed after so many states."""

    num_left = 0
    shown: list[tuple[np.ndarray, str, str]]

    def __init__(self, model_file: str, camera: str) -> None:
        assert Path(model_file).is_file() and camera == "above"
        FakeWindow.shown = []

    @property
    def is_open(self) -> bool:
        return len(self.shown) < self.num_left

    def show(self, qpos: np.ndarray, above: str, below: str) -> None:
        self.shown.append((qpos, above, below))

    def __enter__(self) -> FakeWindow:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on only while one sleeps."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(view.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(view.time, "sleep", sleep)
    monkeypatch.setattr(window, "Window", FakeWindow)


def test_a_window_shows_every_state_until_it_is_closed(
    run: Path, no_waiting: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(FakeWindow, "num_left", 500)
    options = ["--lane", str(LANE), "--camera", "above"]
    assert view_command([str(run), *options, "--episodes", str(NUM_EPISODES)]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = FakeWindow.shown
    assert [line.split(":")[0] for line in lines[2:]] == ["episode 1", "episode 2", "episode 3"]
    returns = [float(line.split()[3].replace(",", "")) for line in lines[2:]]
    assert np.mean(returns) == pytest.approx(float(evaluation(run)["return_mean"]), abs=0.05)
    assert len(shown) == sum(int(line.split()[5]) + 1 for line in lines[2:])
    assert shown[0][0].shape == (6,) and shown[0][1].startswith("Static-SAC after 8 steps")
    assert shown[2][2].startswith("step 2  return ")

    monkeypatch.setattr(FakeWindow, "num_left", len(shown) + 10)  # in the fourth episode
    assert view_command([str(run), *options]) == 0
    assert len(FakeWindow.shown) == len(shown) + 10


def test_another_simulator_in_training_is_said(agent: Agent) -> None:
    assert len(view._introduction(agent).splitlines()) == 2
    agent.config = agent.config.replace(env="Hopper-v4", backend="gymnasium")
    assert "trained with gymnasium, shown in envpool's Hopper-v3" in view._introduction(agent)


REFUSED = {
    "--lane -1": "--lane must be an integer of at least 0",
    "--lane 7": "lane must be one of those in .*0..1, got 7",
    "--film run.avi": "--film must end in .mp4 or .gif, got 'run.avi'",
    "--film run.gif --width 10": r"--width must be an integer in \[64, 3840\], got 10",
    "--film run.gif --fps 90": r"--fps must be a number in \[1, 50\], or none, got 90",
    "--film run.gif --camera left": "--camera must be one of track, front, behind, above",
    "--film run.gif --episodes 0": "--episodes must be an integer of at least 1",
    "--film run.gif --seconds 0": "--seconds must be a number above 0",
    "--seed x": "--seed must be an integer in",
    "--speed 2": "unrecognized arguments: --speed 2",
    "other": "unrecognized arguments: other",
}


@pytest.mark.parametrize("options", REFUSED)
def test_what_is_wrong_is_said_in_one_line(
    run: Path, options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        view_command([str(run), *options.split()])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("fastanf: error: ")
    assert re.search(REFUSED[options], error)


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        view_command(arguments)
    captured = capsys.readouterr()
    assert caught.value.code == 2 and captured.out == ""
    return captured.err


def test_without_a_display_a_film_is_advised(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_display() -> None:
        raise window.NoDisplay("no window can be opened here (no display)")

    monkeypatch.setattr(window, "_check_display", no_display)
    error = error_of([str(run)], capsys)
    assert error == (
        "fastanf: error: no window can be opened here (no display); --film run.mp4 needs none\n"
    )


def test_without_opengl_a_window_is_advised(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def no_opengl(*arguments: object) -> None:
        raise NoOpenGL("no OpenGL can draw here; install EGL")

    monkeypatch.setattr(showing, "Renderer", no_opengl)
    error = error_of([str(run), "--film", str(tmp_path / "run.gif")], capsys)
    assert error.endswith("install EGL; without --film a window opens, on a display\n")
    assert error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_without_an_agent_that_of_the_package_is_shown(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(view, "SHIPPED_AGENT", tmp_path / "agent.safetensors")
    assert "the agent that comes with fastanf is not there" in error_of([], capsys)
    save_agent(load_agent(run, LANE), view.SHIPPED_AGENT)
    monkeypatch.setattr(showing, "Renderer", GreyRenderer)
    assert view_command(["--film", str(tmp_path / "run.gif")]) == 0
    assert capsys.readouterr().out.startswith("Static-SAC after 8 steps")
