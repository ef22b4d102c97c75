"""The five tasks as pure functions on MJX, with the semantics of gymnasium's classes.

Axes: D features, A actions, nq and nv sizes of MuJoCo's state, nbody bodies. Every function is
about one environment; `envs.mjx_backend` maps them over rows.

What a task is made of:

* `Rules`: the numbers of gymnasium's constructor, under its names (`healthy_z_range`, ...), so that
  a caller can change them under these names too.
* `reset`: a full reset, drawn from a key; nothing of an earlier episode stays.
* `advance`: `frame_skip` steps of MJX, reward, health and observation.

Two habits of MuJoCo that gymnasium's rewards depend on are kept. What is derived from the state
(positions of bodies, inertias, forces) is that of the last evaluation inside the integrator, so it
is older than qpos and qvel; and a reset knows no contact forces. One habit is left out on purpose:
the horizontal origin moves with the body, for nothing depends on it but the distance of a step,
which a float32 far from its origin would round (500 m away to 3e-5 m, in a step of 0.2 m).

The models are those files that gymnasium installs. Sources: gymnasium.envs.mujoco (v4 and v5);
v3 is v4 with the contact forces present and zero, as the simulator of Grooten et al. 2023, arXiv
2302.06548, left them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np

with contextlib.redirect_stdout(io.StringIO()):  # it prints that warp is not installed
    from mujoco import mjx
    from mujoco.mjx._src.forward import _integrate_pos
    from mujoco.mjx._src.types import JointType

    from envs.mjx_frames import capsule_frames

from envs.gymnasium_backend import quiet_construction

Array = jax.Array
_mujoco: Any = mujoco  # its classes come from C++ and carry no types

ANYTHING = (-math.inf, math.inf)
LARGEST_STATE = 1e10
"""Beyond it a simulation has failed, as in MuJoCo (mjMAXVAL)."""


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


class Body(NamedTuple):
    """The state of one environment within an episode; with it the next step is determined."""

    qpos: Array
    """[nq] generalised positions; the horizontal ones count from the origin of this step."""
    qvel: Array
    """[nv] generalised velocities."""
    warmstart: Array
    """[nv] accelerations from which the constraint solver starts."""
    centre: Array
    """[] first coordinate of the point whose movement is rewarded, from the same origin."""


class Derived(NamedTuple):
    """What observation and reward read beside qpos and qvel; empty where a task reads none."""

    inertia: Array
    """[nbody, 10] inertia of each body about its tree's centre of mass."""
    velocity: Array
    """[nbody, 6] velocity of each body, rotational then translational."""
    actuator_force: Array
    """[nv] forces of the actuators on the degrees of freedom."""
    contact_force: Array
    """[nbody, 6] torque and force of contacts on each body, clipped."""


class Outcome(NamedTuple):
    """What one step of one environment leads to."""

    body: Body
    obs: Array
    """[D]"""
    reward: Array
    """[]"""
    is_unhealthy: Array
    """[] bool: the task ends here."""
    has_failed: Array
    """[] bool: the simulation is not finite or beyond `LARGEST_STATE`; the rest means nothing."""


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


def data_bytes(task: Task) -> int:
    """Size of MJX's data of one environment."""
    return sum(array.nbytes for array in jax.tree.leaves(mjx.make_data(load_model(task))))


class Simulation:
    """The functions of one task on one model.

    Args:
        task: what `make_task` returned.
        impl: MJX's implementation, jax or warp.
        num_rows: that are going to be mapped over; warp shares room for contacts among them.
    """

    def __init__(self, task: Task, impl: str = "jax", num_rows: int = 1):
        self.task, self.rules, self.kind = task, task.rules, task.kind
        host_model = load_model(task)
        self.step_s = float(host_model.opt.timestep) * self.rules.frame_skip
        self.model = mjx.put_model(host_model, impl=impl)
        is_rk4 = host_model.opt.integrator == _mujoco.mjtIntegrator.mjINT_RK4
        self._is_rk4 = is_rk4 and impl == "jax"
        self._joints = [JointType(kind) for kind in host_model.jnt_type]
        room: dict[str, Any] = {}
        if impl == "warp":
            shapes: Any = mjx.make_data(host_model)._impl
            num_contacts, num_constraints = len(shapes.contact.dist), len(shapes.efc_J)
            room = {"naconmax": num_rows * num_contacts, "njmax": num_constraints}
        self._still = mjx.make_data(host_model, impl=impl, **room)
        # warp has no functions for a part of a step, which is what a reset needs.
        is_jax = impl == "jax"
        self._reset_model = self.model if is_jax else mjx.put_model(host_model, impl="jax")
        self._reset_data = self._still if is_jax else mjx.make_data(host_model, impl="jax")
        self._qpos0 = np.asarray(host_model.qpos0)
        self._num_bodies = int(host_model.nbody)
        self.num_actions = int(host_model.nu)

    def reset(self, key: Array) -> tuple[Body, Array]:
        """Draw the first state of an episode.

        Returns:
            The body and its observation [D].
        """
        for_qpos, for_qvel = jax.random.split(key)
        qvel = self._still.qvel
        shape, dtype, scale = self._qpos0.shape, qvel.dtype, self.rules.reset_noise_scale
        qpos = self._qpos0 + scale * jax.random.uniform(for_qpos, shape, dtype, -1.0, 1.0)
        if self.kind.is_velocity_normal:
            draw = jax.random.normal(for_qvel, qvel.shape, dtype)
        else:
            draw = jax.random.uniform(for_qvel, qvel.shape, dtype, -1.0, 1.0)
        return self.place(jnp.asarray(qpos, dtype), scale * draw)

    def place(self, qpos: Array, qvel: Array) -> tuple[Body, Array]:
        """The body in a chosen state [nq], [nv] with no history, and its observation [D]."""
        data, model = self._reset_data.replace(qpos=qpos, qvel=qvel), self._reset_model
        if self.kind.centre is not None:
            data = mjx.com_vel(model, mjx.com_pos(model, mjx.kinematics(model, data)))
        # MJX normalises quaternions in its copy of qpos; MuJoCo leaves them as they are.
        body = Body(qpos, qvel, jnp.zeros_like(qvel), self._centre(data))
        return body, self._observe(body, self._derived(data))

    def advance(self, body: Body, action: Array) -> Outcome:
        """One environment step with an action [A] in the task's units."""
        body, action = self._recentred(body), action.astype(body.qpos.dtype)
        return self.judge(body.centre, *self.simulate(body, action), action)

    def simulate(self, body: Body, action: Array) -> tuple[Body, Derived]:
        """`frame_skip` steps of MJX."""
        start = self._still.replace(ctrl=action)

        def substep(_: int, carry: tuple[Body, Derived]) -> tuple[Body, Derived]:
            body = carry[0]
            if self._is_rk4:
                return self._rk4_step(start, body)
            data = start.replace(qpos=body.qpos, qvel=body.qvel, qacc_warmstart=body.warmstart)
            with capsule_frames():
                data = mjx.step(self.model, data)
            return self._read(data)

        derived = self._derived(start)
        return jax.lax.fori_loop(0, self.rules.frame_skip, substep, (body, derived))

    def _rk4_step(self, start: Any, body: Body) -> tuple[Body, Derived]:
        """One step of the classical Runge-Kutta method, as a loop over its four stages.

        With a_i = 0, 1/2, 1/2, 1 and b_i = 1/6, 1/3, 1/3, 1/6, and F the forward dynamics:

            v_i = v + a_i dt w_{i-1}    q_i = q (+) a_i dt v_{i-1}    w_i = F(q_i, v_i)
            v' = v + dt sum b_i w_i     q' = q (+) dt sum b_i v_i

        MJX's own writes the stages out, so that the program is four times as long and takes as much
        longer to compile.
        """
        model, dt = self.model, self.model.opt.timestep
        with_history = start.replace(qacc_warmstart=body.warmstart)

        def moved(velocity: Array) -> Array:
            return _integrate_pos(self._joints, body.qpos, velocity, dt)

        def stage(carry: Any, weights: Array) -> tuple[Any, None]:
            velocity, acceleration, mean_velocity, mean_acceleration, _ = carry
            a, b = weights
            qpos, qvel = moved(a * velocity), body.qvel + a * dt * acceleration
            with capsule_frames():
                data = mjx.forward(model, with_history.replace(qpos=qpos, qvel=qvel))
            mean_velocity += b * qvel
            mean_acceleration += b * data.qacc
            return (qvel, data.qacc, mean_velocity, mean_acceleration, self._read(data)), None

        nothing = jnp.zeros_like(body.qvel)
        first = (nothing, nothing, nothing, nothing, (body, self._derived(start)))
        weights = jnp.array([[0, 1 / 6], [1 / 2, 1 / 3], [1 / 2, 1 / 3], [1, 1 / 6]], nothing.dtype)
        stages, _ = jax.lax.scan(stage, first, weights)
        _, acceleration, mean_velocity, mean_acceleration, (last, derived) = stages
        qvel = body.qvel + dt * mean_acceleration
        qpos = moved(mean_velocity)
        centre = qpos[0] if self.kind.centre is None else last.centre
        return Body(qpos, qvel, acceleration, centre), derived

    def _read(self, data: Any) -> tuple[Body, Derived]:
        """What is kept of MJX's data after a step, or a stage of one."""
        if self.task.reads_contact_forces:
            data = mjx.rne_postconstraint(self.model, data)
        body = Body(data.qpos, data.qvel, data.qacc_warmstart, self._centre(data))
        return body, self._derived(data)

    def judge(self, before: Array, body: Body, derived: Derived, action: Array) -> Outcome:
        """What a step means that moved the centre from `before` [] to that of `body`."""
        rules = self.rules
        is_healthy = self._is_healthy(body)
        pays = is_healthy | (self.task.pays_at_end and rules.terminate_when_unhealthy)
        reward = (
            rules.forward_reward_weight * (body.centre - before) / self.step_s
            + rules.healthy_reward * pays
            - rules.ctrl_cost_weight * jnp.sum(jnp.square(action))
            - self._contact_cost(derived)
        )
        obs = self._observe(body, derived)
        numbers = jnp.concatenate([body.qpos, body.qvel, obs, reward[None]])
        # NaN fails too, for it is not smaller than anything.
        has_failed = ~jnp.all(jnp.abs(numbers) < LARGEST_STATE)
        is_unhealthy = ~is_healthy & rules.terminate_when_unhealthy & ~has_failed
        return Outcome(body, obs, reward, is_unhealthy, has_failed)

    def _recentred(self, body: Body) -> Body:
        """The same body with its horizontal position as the origin."""
        qpos = body.qpos.at[: self.kind.num_origin].set(0.0)
        return body._replace(qpos=qpos, centre=body.centre - body.qpos[0])

    def _centre(self, data: Any) -> Array:
        return data.qpos[0] if self.kind.centre is None else self.kind.centre(self.model, data)

    def _derived(self, data: Any) -> Derived:
        impl, dtype = data._impl, data.qpos.dtype
        contact_force = jnp.zeros((self._num_bodies, 6), dtype)
        if self.task.reads_contact_forces:
            contact_force = jnp.clip(impl.cfrc_ext, *self.rules.contact_force_range)
        if not self.kind.shows_inertia:
            nothing = jnp.zeros(0, dtype)
            return Derived(nothing, nothing, nothing, contact_force)
        return Derived(impl.cinert, data.cvel, data.qfrc_actuator, contact_force)

    def _observe(self, body: Body, derived: Derived) -> Array:
        kind, first = self.kind, self.task.first_body
        limit, contact_force = kind.max_velocity, derived.contact_force
        parts = [body.qpos[kind.num_origin :], jnp.clip(body.qvel, -limit, limit)]
        if kind.shows_inertia:
            parts += [derived.inertia[first:], derived.velocity[first:]]
            parts += [derived.actuator_force[6 * first :]]
        if self.task.contact_features == "true":
            parts += [contact_force[first:]]
        elif self.task.contact_features == "zero":
            parts += [jnp.zeros_like(contact_force)]
        return jnp.concatenate([part.ravel() for part in parts])

    def _is_healthy(self, body: Body) -> Array:
        rules, qpos = self.rules, body.qpos
        height = qpos[self.kind.num_origin]
        low, high = rules.healthy_z_range
        is_healthy = (low < height) & (height < high)
        if self.kind.is_z_range_closed:
            is_healthy = (low <= height) & (height <= high)
        if self.kind.num_origin == 1:  # the planar tasks have one angle
            low, high = rules.healthy_angle_range
            is_healthy &= (low < qpos[2]) & (qpos[2] < high)
        low, high = rules.healthy_state_range
        state = jnp.concatenate([qpos[2:], body.qvel])
        return is_healthy & jnp.all((low < state) & (state < high))

    def _contact_cost(self, derived: Derived) -> Array:
        rules = self.rules
        cost = rules.contact_cost_weight * jnp.sum(jnp.square(derived.contact_force))
        return jnp.clip(cost, *rules.contact_cost_range)
