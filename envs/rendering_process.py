"""The process that draws: states of one model in, pictures out. Started by `envs.rendering`.

It is a program of its own because OpenGL's platform is chosen once a process, when MuJoCo is first
imported, and because what goes wrong in a graphics driver should not take its caller along. It
imports nothing of this project, so that it starts in a fraction of a second.

Arguments: one JSON object of model_file, width, height and view (see `envs.rendering`). Input:
states, nq float64 each. Output: a line of JSON, {"nq": ...} or {"error": ...}, then
width * height * 3 bytes RGB for each state, the top row first.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, BinaryIO

import mujoco
import numpy as np
from numpy.typing import NDArray

_mujoco: Any = mujoco  # its functions come from C++ and carry no types

_FLOOR_SQUARE_M = 1.0
"""Side of a square of the floor."""


def load_scene(file: str) -> Any:
    """The model of a task, made fit for looking at; nothing of it is simulated.

    The floor's black squares would hide the shadow, and the light comes straight from above and
    from below the heads of some, so that they cast no shadow and the side one sees is dark.
    """
    model = _mujoco.MjModel.from_xml_path(file)
    # 480 x 360 drawn by one CPU core: 0.09 s with these, 0.2 s with 8, 4096 and a mirroring floor
    model.vis.quality.offsamples, model.vis.quality.shadowsize = 4, 2048
    is_floor = model.geom_type == _mujoco.mjtGeom.mjGEOM_PLANE
    model.geom_size[is_floor, :2] = 0  # no border in sight
    for material in np.unique(model.geom_matid[is_floor]):
        _soften(model, material)
    model.vis.rgba.haze[:] = 0.45  # else a white line at the horizon
    model.vis.headlight.ambient[:] = 0.35
    model.vis.headlight.diffuse[:] = 0.35
    direction = np.array([0.3, 0.5, -1.0])
    model.light_dir[:] = direction / np.linalg.norm(direction)
    model.light_pos[:] = -3 * model.light_dir
    model.light_diffuse[:] = 0.6
    model.stat.extent = 8  # shadows end so far away; of two models, nearer, with specks
    return model


def _soften(model: Any, material: int) -> None:
    """Two greys for black and white, in squares of a fixed size, without a mirror."""
    model.mat_reflectance[material] = 0
    model.mat_texuniform[material] = True
    model.mat_texrepeat[material] = 0.5 / _FLOOR_SQUARE_M  # the texture is two squares wide
    texture = model.mat_texid[material, _mujoco.mjtTextureRole.mjTEXROLE_RGB]
    size = model.tex_width[texture] * model.tex_height[texture] * model.tex_nchannel[texture]
    pixels = model.tex_data[model.tex_adr[texture] :][:size]
    pixels[:] = 110 + 0.35 * pixels


def near_origin(model: Any, qpos: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same picture of a robot that is at most a square away from the origin.

    The floor looks the same every two squares; it and the shadow end some hundred metres from the
    origin, where a good policy gets.
    """
    is_free = model.jnt_type[0] == _mujoco.mjtJoint.mjJNT_FREE
    moved = qpos.copy()
    moved[: 2 if is_free else 1] %= 2 * _FLOOR_SQUARE_M
    return moved


def make_camera(model: Any, view: dict[str, Any]) -> Any:
    """A camera of the model, by its name, or one that follows the first body at an angle."""
    camera = _mujoco.MjvCamera()
    if "name" in view:
        camera.type = _mujoco.mjtCamera.mjCAMERA_FIXED
        camera.fixedcamid = model.camera(view["name"]).id
        return camera
    camera.type = _mujoco.mjtCamera.mjCAMERA_TRACKING
    camera.trackbodyid = 1
    camera.azimuth, camera.elevation = view["azimuth"], view["elevation"]
    camera.distance = view["distance"]
    return camera


def draw_all(request: dict[str, Any], states: BinaryIO, pictures: BinaryIO) -> None:
    """Draw every state that comes until there are no more."""
    width, height = request["width"], request["height"]
    model = load_scene(request["model_file"])
    model.vis.global_.offwidth, model.vis.global_.offheight = width, height
    data = _mujoco.MjData(model)
    with _mujoco.Renderer(model, height, width) as renderer:
        camera = make_camera(model, request["view"])

        def draw() -> bytes:
            _mujoco.mj_forward(model, data)
            renderer.update_scene(data, camera)
            return renderer.render().tobytes()

        draw()  # who cannot draw says so now
        pictures.write(json.dumps({"nq": model.nq}).encode() + b"\n")
        pictures.flush()
        size = model.nq * data.qpos.itemsize
        while len(state := states.read(size)) == size:
            data.qpos[:] = near_origin(model, np.frombuffer(state))
            pictures.write(draw())
            pictures.flush()


def main() -> int:
    """Draw what standard input holds; returns the exit code."""
    pictures = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a driver prints
    # Without a handler MuJoCo appends its warnings to a file in the working folder.
    _mujoco.set_mju_user_warning(lambda text: sys.stderr.write(f"{text}\n"))
    try:
        draw_all(json.loads(sys.argv[1]), sys.stdin.buffer, pictures)
    except Exception as error:  # OpenGL's bindings raise anything where a library is missing
        pictures.write(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode() + b"\n")
        pictures.flush()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
