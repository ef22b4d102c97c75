"""Pictures of a MuJoCo model without a display: OpenGL by EGL or, where that is not, by OSMesa.

Drawing happens in a process of its own (`envs.rendering_process` says why), which also lets the two
platforms be tried one after the other, whatever this process has imported.

A picture is [height, width, 3] uint8 RGB, the top row first.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

_PROGRAM = Path(__file__).with_name("rendering_process.py")
_FOLLOWING = {"distance": 4.0}
CAMERAS: dict[str, dict[str, Any]] = {
    "track": {"name": "track"},
    "front": {"azimuth": 160.0, "elevation": -12.0, **_FOLLOWING},
    "behind": {"azimuth": 20.0, "elevation": -12.0, **_FOLLOWING},
    "above": {"azimuth": 90.0, "elevation": -60.0, **_FOLLOWING},
}
"""Cameras that go with the robot: `track` is that of the model, which looks from the side."""


class NoOpenGL(ValueError):
    """Nothing can be drawn on this machine."""


class Renderer:
    """Draws states of one model; a context manager.

    Args:
        model_file: a MuJoCo model with a camera `track`.
        width, height: pixels of a picture.
        camera: one of `CAMERAS`.

    Raises:
        NoOpenGL: no platform works; says what to install. Where MUJOCO_GL is set, its platform
            alone is tried.
        ValueError: no such camera.
    """

    def __init__(self, model_file: str, width: int, height: int, camera: str = "track") -> None:
        if camera not in CAMERAS:
            raise ValueError(f"camera is {camera!r}; allowed are {', '.join(CAMERAS)}")
        self._shape = height, width, 3
        request = {"model_file": model_file, "view": CAMERAS[camera]}
        request |= {"width": width, "height": height}
        reasons = {}
        for platform in _platforms():
            self._start(json.dumps(request), platform)
            answer = self._answer()
            if "nq" in answer:
                self.num_positions: int = answer["nq"]
                return
            reasons[platform or "the default"] = answer["error"]
            self.close()
        raise NoOpenGL(_advice(reasons))

    def draw(self, qpos: NDArray[np.float64]) -> NDArray[np.uint8]:
        """The picture of a state [nq].

        Raises:
            ValueError: another number of positions.
            RuntimeError: the drawing process ended.
        """
        if qpos.shape != (self.num_positions,):
            raise ValueError(f"qpos has shape {qpos.shape}; needed is ({self.num_positions},)")
        num_bytes = int(np.prod(self._shape))
        try:
            self._states.write(np.ascontiguousarray(qpos, np.float64).tobytes())
            self._states.flush()
            data = self._pictures.read(num_bytes)
        except BrokenPipeError:
            data = b""
        if len(data) != num_bytes:
            raise RuntimeError(f"drawing broke down: {self._last_words()}")
        return np.frombuffer(data, np.uint8).reshape(self._shape)

    def close(self) -> None:
        """End the drawing process."""
        self._process.kill()  # it holds nothing that needs an orderly end
        self._process.wait()
        for stream in (self._states, self._pictures, self._messages):
            with contextlib.suppress(BrokenPipeError):  # what a process that ended never read
                stream.close()

    def _start(self, request: str, platform: str) -> None:
        surroundings = {k: v for k, v in os.environ.items() if k != "PYOPENGL_PLATFORM"}
        if platform:
            surroundings["MUJOCO_GL"] = platform
        # A pipe that nobody reads would fill up.
        self._messages: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            # -P: the modules beside the program are not for it
            [sys.executable, "-P", str(_PROGRAM), request],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            env=surroundings,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._states, self._pictures = self._process.stdin, self._process.stdout

    def _answer(self) -> dict[str, Any]:
        line = self._pictures.readline()
        return json.loads(line) if line else {"error": self._last_words()}

    def _last_words(self) -> str:
        code = self._process.wait()
        self._messages.seek(0)
        lines = self._messages.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"its process ended with {code}"

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _platforms() -> tuple[str, ...]:
    """Values of MUJOCO_GL to try; an empty one leaves the choice to MuJoCo."""
    chosen = os.environ.get("MUJOCO_GL", "")
    if chosen or sys.platform != "linux":
        return (chosen,)
    return ("egl", "osmesa")


def _advice(reasons: dict[str, str]) -> str:
    tried = "; ".join(f"{platform}: {' '.join(text.split())}" for platform, text in reasons.items())
    if os.environ.get("MUJOCO_GL"):
        return (
            f"MUJOCO_GL is {os.environ['MUJOCO_GL']!r}, which cannot draw here ({tried}); unset it"
        )
    return (
        f"no OpenGL can draw here ({tried}); install EGL (Debian: apt-get install libegl1 "
        "libgl1-mesa-dri) or OSMesa (libosmesa6)"
    )
