"""The five tasks: their numbers, what each observes and is paid for, and MuJoCo's models of them.

What a task is made of:

* `Rules`: the numbers of gymnasium's constructor, under its names (`healthy_z_range`, ...), so that
  a caller can change them under these names too.
* `Kind`: what all versions of a task share.
* `Task`: both, and what tells one version from another. `envs.mjx_simulation` plays it.

The models are those files that gymnasium installs. Sources: gymnasium.envs.mujoco (v4 and v5);
v3 is v4 with the contact forces present and zero, as the simulator of Grooten et al. 2023, arXiv
2302.06548, left them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import jax
import mujoco

with contextlib.redirect_stdout(io.StringIO()):  # it prints that warp is not installed
    from mujoco import mjx

from envs.gymnasium_backend import quiet_construction

Array = jax.Array
_mujoco: Any = mujoco  # its classes come from C++ and carry no types

ANYTHING = (-math.inf, math.inf)


@dataclass(frozen=True)
class Rules:
    """Numbers of one task, named as in gymnasium's constructors."""

    xml_file: str
    frame_skip: int
    forward_reward_weight: float = 1.0
    ctrl_cost_weight: float = 0.0
    contact_cost_weight: float = 0.0
    """Cost of the squared contact forces, with weight 0 they are not computed for it."""
    contact_cost_range: tuple[float, float] = ANYTHING
    """The contact cost is clipped to it."""
    contact_force_range: tuple[float, float] = ANYTHING
    """Contact forces are clipped to it before anything else."""
    healthy_reward: float = 0.0
    terminate_when_unhealthy: bool = True
    healthy_z_range: tuple[float, float] = ANYTHING
    healthy_angle_range: tuple[float, float] = ANYTHING
    healthy_state_range: tuple[float, float] = ANYTHING
    reset_noise_scale: float = 0.0
    solver_iterations: int = 8
    """Largest number of iterations of the constraint solver in a step. MuJoCo allows 100 and stops
    earlier; in float32 some row of a batch hardly ever reaches MuJoCo's tolerance, so that all
    would wait for the limit. With 8 and 6 every task's errors against gymnasium are those of 100
    and 50, in a third of the time; with 4 and 8 the worst of 2560 steps are wrong by 1."""
    ls_iterations: int = 6
    """Largest number of iterations of its line search."""


@dataclass(frozen=True)
class Kind:
    """What the versions of one task share."""

    num_origin: int
    """How many leading positions are horizontal: not observed, and free to move."""
    max_velocity: float = math.inf
    """Observed velocities are clipped to it."""
    is_velocity_normal: bool = False
    """Whether a reset draws velocities from a normal, not a uniform distribution."""
    is_z_range_closed: bool = False
    """Whether the limits of the healthy height are themselves healthy."""
    shows_inertia: bool = False
    """Whether inertias and velocities of bodies and actuator forces are observed (Humanoid)."""
    centre: Callable[[Any, Any], Array] | None = None
    """Model and data to the rewarded point's first coordinate []; None is that of qpos."""


@dataclass(frozen=True)
class Task:
    """One environment id."""

    rules: Rules
    kind: Kind
    contact_features: str = "none"
    """Contact forces among the features: none, zero, or true."""
    pays_at_end: bool = True
    """Whether the healthy reward is paid for a step that ends the episode, too."""
    first_body: int = 0
    """The first body that is observed; 1 leaves the world out, and its six degrees of freedom."""

    @property
    def reads_contact_forces(self) -> bool:
        """Whether a step must compute contact forces."""
        return self.contact_features == "true" or self.rules.contact_cost_weight != 0


def _torso_x(model: Any, data: Any) -> Array:
    del model
    return data.xpos[1, 0]


def _mass_centre_x(model: Any, data: Any) -> Array:
    """Sum of m_b x_b over sum of m_b, of all bodies b."""
    mass = model.body_mass
    return mass @ data.xipos[:, 0] / mass.sum()


_KINDS = {
    "HalfCheetah": Kind(num_origin=1, is_velocity_normal=True),
    "Hopper": Kind(num_origin=1, max_velocity=10.0),
    "Walker2d": Kind(num_origin=1, max_velocity=10.0),
    "Ant": Kind(num_origin=2, is_velocity_normal=True, is_z_range_closed=True, centre=_torso_x),
    "Humanoid": Kind(num_origin=2, shows_inertia=True, centre=_mass_centre_x),
}
_RULES = {
    "HalfCheetah": Rules(
        xml_file="half_cheetah.xml",
        frame_skip=5,
        ctrl_cost_weight=0.1,
        terminate_when_unhealthy=False,
        reset_noise_scale=0.1,
    ),
    "Hopper": Rules(
        xml_file="hopper.xml",
        frame_skip=4,
        ctrl_cost_weight=1e-3,
        healthy_reward=1.0,
        healthy_z_range=(0.7, math.inf),
        healthy_angle_range=(-0.2, 0.2),
        healthy_state_range=(-100.0, 100.0),
        reset_noise_scale=5e-3,
    ),
    "Walker2d": Rules(
        xml_file="walker2d.xml",
        frame_skip=4,
        ctrl_cost_weight=1e-3,
        healthy_reward=1.0,
        healthy_z_range=(0.8, 2.0),
        healthy_angle_range=(-1.0, 1.0),
        reset_noise_scale=5e-3,
    ),
    "Ant": Rules(
        xml_file="ant.xml",
        frame_skip=5,
        ctrl_cost_weight=0.5,
        contact_force_range=(-1.0, 1.0),
        healthy_reward=1.0,
        healthy_z_range=(0.2, 1.0),
        reset_noise_scale=0.1,
    ),
    "Humanoid": Rules(
        xml_file="humanoid.xml",
        frame_skip=5,
        forward_reward_weight=1.25,
        ctrl_cost_weight=0.1,
        healthy_reward=5.0,
        healthy_z_range=(1.0, 2.0),
        reset_noise_scale=1e-2,
    ),
}
_RULES_V5: dict[str, dict[str, Any]] = {
    "Walker2d": {"xml_file": "walker2d_v5.xml"},
    "Ant": {"contact_cost_weight": 5e-4},
    "Humanoid": {"contact_cost_weight": 5e-7, "contact_cost_range": (-math.inf, 10.0)},
}
_CONTACT_FEATURES = {
    "Ant-v3": "zero",
    "Ant-v5": "true",
    "Humanoid-v3": "zero",
    "Humanoid-v4": "true",
    "Humanoid-v5": "true",
}


def make_task(env_id: str, **options: Any) -> Task:
    """The task of an id such as Humanoid-v3.

    Args:
        env_id: one of the registry's.
        **options: rules to change, by the names of `Rules`.

    Raises:
        ValueError: no such rule.
    """
    name, _, version = env_id.partition("-")
    known = [field.name for field in dataclasses.fields(Rules)]
    for option in options:
        if option not in known:
            raise ValueError(
                f"task option {option!r} is unknown to {env_id} in mjx; "
                f"allowed are {', '.join(known)}"
            )
    is_v5 = version == "v5"
    own = _RULES_V5.get(name, {}) if is_v5 else {}
    return Task(
        rules=dataclasses.replace(_RULES[name], **{**own, **options}),
        kind=_KINDS[name],
        contact_features=_CONTACT_FEATURES.get(env_id, "none"),
        pays_at_end=not is_v5,
        first_body=int(is_v5),
    )


def load_model(task: Task) -> Any:
    """MuJoCo's model of a task, with the solver that MJX has.

    Humanoid's file names the PGS solver, which MJX lacks; Newton's method solves the same problem.
    """
    folder = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    with quiet_construction():
        model = _mujoco.MjModel.from_xml_path(str(folder / task.rules.xml_file))
    model.opt.solver = _mujoco.mjtSolver.mjSOL_NEWTON
    model.opt.iterations = task.rules.solver_iterations
    model.opt.ls_iterations = task.rules.ls_iterations
    return model


@functools.cache
def data_bytes(task: Task) -> int:
    """Size of MJX's data of one environment."""
    return sum(array.nbytes for array in jax.tree.leaves(mjx.make_data(load_model(task))))
