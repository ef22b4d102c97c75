"""Pictures without a display, on whatever platform draws, and what is said where none does."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from envs import rendering
from envs.playback import play, robot
from envs.rendering import CAMERAS, NoOpenGL, Renderer

WIDTH, HEIGHT = 160, 120
TASKS = ("HalfCheetah-v3", "Hopper-v3", "Walker2d-v3", "Ant-v3", "Humanoid-v3")


@cache
def missing() -> str:
    """Why nothing can be drawn; empty where it can."""
    try:
        Renderer(robot("Hopper-v3").model_file, 16, 16).close()
    except NoOpenGL as error:
        return str(error)
    return ""


@pytest.fixture
def can_draw() -> None:
    if missing():
        pytest.skip(missing())


def pose(env_id: str, x: float = 0.5) -> NDArray[np.float64]:
    start = next(play(env_id, 0, lambda obs, time: obs))
    return np.concatenate([[x], start.qpos[1:]])


@pytest.fixture
def cheetah(can_draw: None) -> Iterator[Renderer]:
    with Renderer(robot("HalfCheetah-v3").model_file, WIDTH, HEIGHT) as renderer:
        yield renderer


def test_a_picture_shows_the_state_and_nothing_else(cheetah: Renderer) -> None:
    start, bent = pose("HalfCheetah-v3"), pose("HalfCheetah-v3")
    bent[3] += 0.5
    pictures = [cheetah.draw(state) for state in (start, bent, start)]
    assert all(p.shape == (HEIGHT, WIDTH, 3) and p.dtype == np.uint8 for p in pictures)
    assert np.array_equal(pictures[0], pictures[2])
    assert (pictures[0] != pictures[1]).any(2).sum() > 50


def test_the_floor_has_no_end(cheetah: Renderer) -> None:
    near, step, far = (cheetah.draw(pose("HalfCheetah-v3", x)) for x in (0.5, 0.75, 1000.5))
    assert np.array_equal(near, far)
    assert (near != step).any(2).mean() > 0.05  # it moves by


@pytest.mark.parametrize(
    ("env_id", "camera"),
    [*((task, "track") for task in TASKS), *(("Ant-v3", name) for name in list(CAMERAS)[1:])],
)
def test_the_robot_is_in_the_middle_of_the_picture(
    can_draw: None, env_id: str, camera: str
) -> None:
    with Renderer(robot(env_id).model_file, WIDTH, HEIGHT, camera) as renderer:
        for x in (0.25, 7.75):
            bent = pose(env_id, x)
            bent[-1] += 1.0  # its last joint
            changed = (renderer.draw(pose(env_id, x)) != renderer.draw(bent)).any(2)
            rows, columns = np.nonzero(changed)
            assert len(rows) >= 10
            assert 0.3 * WIDTH < columns.mean() < 0.7 * WIDTH
            assert 0.2 * HEIGHT < rows.mean() < 0.9 * HEIGHT


def test_what_does_not_fit_is_refused(cheetah: Renderer) -> None:
    with pytest.raises(ValueError, match=r"qpos has shape \(8,\); needed is \(9,\)"):
        cheetah.draw(np.zeros(8))
    with pytest.raises(ValueError, match="camera is 'left'; allowed are track, front"):
        Renderer("any.xml", WIDTH, HEIGHT, "left")


def pretend(monkeypatch: pytest.MonkeyPatch, folder: Path, program: str) -> None:
    """Let another program draw; it finds what MUJOCO_GL is in `platform`."""
    file = folder / "program.py"
    file.write_text(f"import json, os, sys\nplatform = os.environ.get('MUJOCO_GL', '')\n{program}")
    monkeypatch.setattr(rendering, "_PROGRAM", file)
    monkeypatch.setattr(rendering.sys, "platform", "linux")
    monkeypatch.delenv("MUJOCO_GL", raising=False)


REFUSES = "print(json.dumps({'error': f'no lib{platform}\\nfound'}))\nsys.exit(1)\n"
DRAWS_GREY = """
print(json.dumps({"nq": 2}), flush=True)
while sys.stdin.buffer.read(16):
    sys.stdout.buffer.write(bytes([100]) * (4 * 3 * 3))
    sys.stdout.flush()
"""


def test_the_second_platform_draws_where_the_first_cannot(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first_fails = f"if platform != 'osmesa':\n  {REFUSES.replace(chr(10), chr(10) + '  ')}\n"
    pretend(monkeypatch, tmp_path, first_fails + DRAWS_GREY)
    with Renderer("any.xml", 4, 3) as renderer:
        assert (renderer.draw(np.zeros(2)) == 100).all()
        assert renderer.num_positions == 2


def test_without_a_platform_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch, tmp_path, REFUSES)
    with pytest.raises(NoOpenGL) as caught:
        Renderer("any.xml", 4, 3)
    message = str(caught.value)
    assert "egl: no libegl found; osmesa: no libosmesa found" in message
    assert "libegl1 libgl1-mesa-dri" in message and "libosmesa6" in message
    assert "\n" not in message


def test_a_platform_that_was_chosen_is_the_only_one_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch, tmp_path, REFUSES)
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    with pytest.raises(NoOpenGL, match=r"MUJOCO_GL is 'glfw'.*no libglfw found.*unset it") as error:
        Renderer("any.xml", 4, 3)
    assert "egl" not in str(error.value)


def test_a_program_that_ends_is_an_error_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dies = "print(json.dumps({'nq': 2}), flush=True)\nsys.stdin.buffer.read(16)\nsys.exit('lost')\n"
    pretend(monkeypatch, tmp_path, dies)
    with Renderer("any.xml", 4, 3) as renderer:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="drawing broke down: lost"):
                renderer.draw(np.zeros(2))


def test_a_program_that_crashes_at_once_is_a_platform_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch, tmp_path, "os.abort()\n")
    with pytest.raises(NoOpenGL, match="its process ended with -6"):
        Renderer("any.xml", 4, 3)
