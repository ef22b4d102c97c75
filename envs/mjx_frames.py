"""The contact frame of a capsule on a plane as MuJoCo chooses it, for MJX.

Axes: K pairs of a plane and a capsule, each with two contacts.

A contact's frame has the plane's normal first; friction acts in the other two directions. MuJoCo
lays the first of them along the capsule's axis (mjc_PlaneCapsule and mju_makeFrame). MJX 3.17 does
so only where the capsule lies flatter than 60 degrees, and takes a fixed direction elsewhere; with
MuJoCo's pyramidal friction cones, the forces on a steep leg then differ by up to a half.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from mujoco.mjx._src import collision_driver
from mujoco.mjx._src.types import GeomType

Array = jax.Array
NUM_CONTACTS = 2
_SMALLEST_NORM = 1e-15
"""MuJoCo's mjMINVAL: below it a capsule stands upright, and the first direction is x."""


@contextlib.contextmanager
def capsule_frames() -> Iterator[None]:
    """Within, MJX's functions are traced with MuJoCo's frames."""
    table: dict[Any, Any] = collision_driver._COLLISION_FUNC
    key = (GeomType.PLANE, GeomType.CAPSULE)
    before = table[key]
    table[key] = _plane_capsule
    try:
        yield
    finally:
        table[key] = before


def _plane_capsule(model: Any, data: Any, group: Any, pairs: Array) -> tuple[Array, Array, Array]:
    """Both contacts of each pair, in MJX's order.

    Args:
        model, data: MJX's, of one environment.
        group: of the pairs; not used.
        pairs: [K, 2] ids of plane and capsule.

    Returns:
        Distances [2 K], positions [2 K, 3] and frames [2 K, 3, 3], whose rows are the directions.
    """
    del group
    plane, capsule = pairs.T
    normal = data.geom_xmat[plane][:, :, 2]
    axis = data.geom_xmat[capsule][:, :, 2]
    half_length = model.geom_size[capsule][:, 1:2] * axis
    ends = data.geom_xpos[capsule][:, None] + jnp.stack([half_length, -half_length], 1)
    radius = model.geom_size[capsule][:, None, 0]
    height = jnp.einsum("ki,kci->kc", normal, ends - data.geom_xpos[plane][:, None])
    distance = height - radius
    position = ends - normal[:, None] * (radius + 0.5 * distance)[..., None]
    along = axis - normal * jnp.sum(normal * axis, 1, keepdims=True)
    norm = jnp.linalg.norm(along, axis=1, keepdims=True)
    is_upright = norm < _SMALLEST_NORM
    along = jnp.where(
        is_upright, jnp.array([1.0, 0.0, 0.0]), along / jnp.where(is_upright, 1.0, norm)
    )
    frame = jnp.stack([normal, along, jnp.cross(normal, along)], 1)
    frames = jnp.repeat(frame, NUM_CONTACTS, axis=0)
    return distance.ravel(), position.reshape(-1, 3), frames


_plane_capsule.ncon = NUM_CONTACTS  # type: ignore[attr-defined]
