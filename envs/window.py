"""A window that shows a robot, by MuJoCo's interactive viewer: the mouse moves the camera.

The scene is that of the films (`envs.rendering_process`).
"""

from __future__ import annotations

import importlib
import sys
import threading
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.gymnasium_backend import quiet_construction
from envs.rendering import CAMERAS
from envs.rendering_process import load_scene, make_camera, near_origin

_mujoco: Any = mujoco  # its functions come from C++ and carry no types


_CLOSING_S = 10.0
"""Longest wait for the viewer to end."""


class NoDisplay(ValueError):
    """No window can be opened on this machine."""


class Window:
    """Shows states of one model; a context manager.

    Args:
        model_file: a MuJoCo model with a camera `track`.
        camera: one of `envs.rendering.CAMERAS`, where the camera is at first.

    Raises:
        NoDisplay: no window can be opened.
    """

    def __init__(self, model_file: str, camera: str = "track") -> None:
        _check_display()
        from mujoco import viewer  # it loads GLFW, which needs libraries of a display

        with quiet_construction():
            self._model = load_scene(model_file)
        self._data = _mujoco.MjData(self._model)
        others = set(threading.enumerate())
        try:
            self._viewer: Any = viewer.launch_passive(
                self._model, self._data, show_left_ui=False, show_right_ui=False
            )
        except RuntimeError as error:  # macOS, where only mjpython may open it
            raise NoDisplay(str(error)) from error
        self._threads = set(threading.enumerate()) - others
        chosen, now = make_camera(self._model, CAMERAS[camera]), self._viewer.cam
        now.type, now.fixedcamid, now.trackbodyid = chosen.type, chosen.fixedcamid, 1
        now.azimuth, now.elevation = chosen.azimuth, chosen.elevation
        now.distance = chosen.distance

    @property
    def is_open(self) -> bool:
        """Whether nobody has closed it."""
        return self._viewer.is_running()

    def show(self, qpos: NDArray[np.float64], above: str, below: str) -> None:
        """Show a state [nq], with a text at the top and one at the bottom."""
        font, place = _mujoco.mjtFontScale.mjFONTSCALE_150, _mujoco.mjtGridPos
        with self._viewer.lock():
            self._data.qpos[:] = near_origin(self._model, qpos)
            _mujoco.mj_forward(self._model, self._data)
        self._viewer.set_texts(
            [
                (font, place.mjGRID_TOPLEFT, above, ""),
                (font, place.mjGRID_BOTTOMLEFT, below, ""),
            ]
        )
        self._viewer.sync()

    def close(self) -> None:
        """Close the window."""
        self._viewer.close()
        # At its end the process closes the display, which must not happen to one who still draws.
        for thread in self._threads:
            thread.join(_CLOSING_S)

    def __enter__(self) -> Window:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_display() -> None:
    """Open a window that nobody sees: the viewer would wait for ever for one that cannot open.

    Raises:
        NoDisplay: that does not work.
    """
    if sys.platform == "darwin":  # not the viewer's way there
        return
    try:
        library: Any = importlib.import_module("glfw")
    except ImportError as error:
        raise NoDisplay(f"no window can be opened here ({error})") from None
    said: list[str] = []
    library.set_error_callback(
        lambda code, text: said.append(text.decode(errors="replace").strip())
    )
    window = None
    if library.init():
        library.window_hint(library.VISIBLE, False)
        window = library.create_window(64, 64, "", None, None)
        if window:
            library.destroy_window(window)
        library.terminate()
    library.set_error_callback(None)
    if not window:
        raise NoDisplay(f"no window can be opened here ({'; '.join(said) or 'no reason given'})")
