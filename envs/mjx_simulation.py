"""A task as pure functions on MJX: reset, step and its outcome, as in gymnasium's classes.

Axes: D features, A actions, nq and nv sizes of MuJoCo's state, nbody bodies. Every function is
about one environment; `envs.mjx_backend` maps them over rows.

* `Simulation.reset`: a full reset, drawn from a key; nothing of an earlier episode stays.
* `Simulation.advance`: `frame_skip` steps of MJX (`simulate`), then reward, health and observation
  (`judge`).

Two habits of MuJoCo that gymnasium's rewards depend on are kept. What is derived from the state
(positions of bodies, inertias, forces) is that of the last evaluation inside the integrator, so it
is older than qpos and qvel; and a reset knows no contact forces. One habit is left out on purpose:
the horizontal origin moves with the body, for nothing depends on it but the distance of a step,
which a float32 far from its origin would round (500 m away to 3e-5 m, in a step of 0.2 m).
"""

from __future__ import annotations

import contextlib
import io
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

with contextlib.redirect_stdout(io.StringIO()):  # it prints that warp is not installed
    from mujoco import mjx
    from mujoco.mjx._src.forward import _integrate_pos
    from mujoco.mjx._src.types import JointType

    from envs.mjx_frames import capsule_frames

from envs.mjx_tasks import Task, load_model

Array = jax.Array
_mujoco: Any = mujoco  # its classes come from C++ and carry no types

LARGEST_STATE = 1e10
"""Beyond it a simulation has failed, as in MuJoCo (mjMAXVAL)."""


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
