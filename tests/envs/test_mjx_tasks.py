"""MJX's tasks against gymnasium's own environments: the same state and action, one step each.

Axes: N rows, T steps, K rows of a call, D features. The states are those of random episodes; before
each step both sides are placed in the same state, because contacts would soon drive them apart.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import mujoco
import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

import envs
from envs.gymnasium_backend import GymnasiumVecEnv

jax = pytest.importorskip("jax", reason="needs the extra fastanf[mjx]")
import jax.numpy as jnp  # noqa: E402
from mujoco import mjx  # noqa: E402

from envs import mjx_tasks  # noqa: E402
from envs.mjx_frames import capsule_frames  # noqa: E402
from envs.mjx_simulation import Body, Derived, Outcome, Simulation  # noqa: E402
from envs.mjx_tasks import make_task  # noqa: E402

N, T, K = 50, 40, 5
NEWTON = 2
X64_MOST, X64_WORST, X64_REWARD = (1e-6, 1e-5), 1e-3, 1e-5
# Measured, of the worst entry of an observation in 99% of 2560 steps: HalfCheetah 8e-5, Hopper
# 3e-6, Walker2d 4e-5, Ant 6e-5, Humanoid 4e-4; of the reward 2e-6, 4e-7, 3e-6, 3e-6 and 5e-6.
F32_FIRST_OBS, F32_OBS, F32_REWARD = 1e-5, 5e-4, 2e-5
NAMES = ("HalfCheetah", "Hopper", "Walker2d", "Ant", "Humanoid")
# Versions of one model share a simulation. Walker2d-v4 has another floor, which is tested apart.
IDS = [f"{name}-{v}" for name in NAMES for v in ("v4", "v5") if (name, v) != ("Walker2d", "v4")]


class Steps(NamedTuple):
    """T x N single steps of gymnasium's environment, in float64."""

    qpos: NDArray[np.float64]
    qvel: NDArray[np.float64]
    action: NDArray[np.float32]
    first_obs: NDArray[np.float32]
    obs: NDArray[np.float32]
    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]


@functools.cache
def oracle_steps(env_id: str) -> Steps:
    """Random episodes, one step at a time from a state without history."""
    env = envs.make(env_id, "gymnasium", range(N))
    assert isinstance(env, GymnasiumVecEnv)
    for row in range(N):
        # Humanoid's file asks for PGS and 50 iterations, which end before they agree on anything.
        env._mujoco_env(row).model.opt.solver = NEWTON
    env.reset()
    rng = np.random.default_rng(0)
    found: list[tuple[Any, ...]] = []
    for _ in range(T):
        states = [env.get_state(row) for row in range(N)]
        qpos, qvel = (np.stack(part) for part in zip(*states, strict=True))
        first_obs = np.stack([env.set_state(row, *states[row]) for row in range(N)])
        uniform = rng.random((N, env.spec.num_actions))
        low, high = np.array([env.spec.action_low, env.spec.action_high])
        action = (low + (high - low) * uniform).astype(np.float32)
        step = env.step(action)
        found.append((qpos, qvel, action, first_obs, step.final_obs, step.reward, step.terminated))
    env.close()
    return Steps(*(np.concatenate(part) for part in zip(*found, strict=True)))


def physics_id(env_id: str) -> str:
    """The id whose simulation serves this one."""
    return f"{env_id.partition('-')[0]}-v5"


@functools.cache
def simulated(env_id: str, is_x64: bool) -> tuple[Any, Any, Body, Derived]:
    """Simulation of all steps of the physics' own id: centre before, body and derived after."""
    steps = oracle_steps(env_id)
    # In float64 the solver shall come as far as MuJoCo's.
    options = {"solver_iterations": 100, "ls_iterations": 50} if is_x64 else {}
    with jax.enable_x64(is_x64):
        simulation = Simulation(make_task(env_id, **options))

        def one(qpos: Any, qvel: Any, action: Any) -> Any:
            body, _ = simulation.place(qpos, qvel)
            body = simulation._recentred(body)
            return body.centre, *simulation.simulate(body, action.astype(qpos.dtype))

        dtype, step = np.float64 if is_x64 else np.float32, jax.jit(jax.vmap(one))
        arrays = steps.qpos.astype(dtype), steps.qvel.astype(dtype), steps.action
        # The solver of a call goes on until its slowest row is done: few rows at once are faster.
        # And XLA 0.10.2 stood still in one call of all T x N on two cores.
        found = [
            jax.block_until_ready(step(*(array[i : i + K] for array in arrays)))
            for i in range(0, T * N, K)
        ]
        before, body, derived = jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)
    return simulation, before, body, derived


@functools.cache
def judged(env_id: str, is_x64: bool) -> tuple[Outcome, NDArray[Any], Steps]:
    """Outcomes of one id, its first observations, and what its oracle says."""
    steps, of_physics = oracle_steps(env_id), oracle_steps(physics_id(env_id))
    assert np.array_equal(steps.qpos, of_physics.qpos) and len(steps.qpos) >= 2000
    _, before, body, derived = simulated(physics_id(env_id), is_x64)
    with jax.enable_x64(is_x64):
        simulation, dtype = Simulation(make_task(env_id)), body.qpos.dtype
        action = jnp.asarray(steps.action, dtype)
        outcome = jax.jit(jax.vmap(simulation.judge))(before, body, derived, action)
        state = jnp.asarray(steps.qpos, dtype), jnp.asarray(steps.qvel, dtype)
        _, first_obs = jax.jit(jax.vmap(simulation.place))(*state)
    return outcome, np.asarray(first_obs), steps


def errors(found: Any, expected: NDArray[np.float32]) -> NDArray[np.float64]:
    """|found - expected| / (1 + |expected|)."""
    exact = expected.astype(np.float64)
    return np.abs(np.asarray(found, np.float64) - exact) / (1 + np.abs(exact))


@pytest.mark.parametrize("env_id", IDS)
def test_a_step_is_gymnasiums_in_float64(env_id: str) -> None:
    outcome, first_obs, steps = judged(env_id, is_x64=True)
    assert errors(first_obs, steps.first_obs).max() < 1e-6
    assert not np.asarray(outcome.has_failed).any()
    np.testing.assert_array_equal(np.asarray(outcome.is_unhealthy), steps.terminated)
    assert steps.terminated.any() == (not env_id.startswith("HalfCheetah"))
    # The oracle's numbers are rounded to float32; solvers stop at 1e-8 of their own scale, which
    # shows in forces (Humanoid's reach 1e3) and, in the worst of 2000 steps, in a velocity.
    off = errors(outcome.obs, steps.obs)
    assert np.quantile(off, 0.999) < X64_MOST[env_id.startswith("Humanoid")]
    assert off.max() < X64_WORST
    assert errors(outcome.reward, steps.reward).max() < X64_REWARD


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5"])
def test_a_step_in_float32_is_near_gymnasiums(env_id: str) -> None:
    outcome, first_obs, steps = judged(env_id, is_x64=False)
    assert errors(first_obs, steps.first_obs).max() < F32_FIRST_OBS
    assert not np.asarray(outcome.has_failed).any()
    # A contact that float32 sees and float64 does not changes the velocities around it.
    obs, reward = errors(outcome.obs, steps.obs).max(1), errors(outcome.reward, steps.reward)
    assert np.quantile(obs, 0.99) < F32_OBS and np.quantile(reward, 0.99) < F32_REWARD
    differs = np.asarray(outcome.is_unhealthy) != steps.terminated
    assert differs.mean() < 1e-3


def test_models_are_gymnasiums() -> None:
    for env_id in (f"{name}-{version}" for name in NAMES for version in ("v4", "v5")):
        env = envs.make(env_id, "gymnasium", [0])
        assert isinstance(env, GymnasiumVecEnv)
        theirs, ours = env._mujoco_env(0).model, mjx_tasks.load_model(make_task(env_id))
        for field in ("body_mass", "body_inertia", "geom_friction", "geom_size", "dof_damping",
                      "jnt_range", "actuator_gear", "geom_margin", "qpos0"):  # fmt: skip
            np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field), field)
        simulation = make_task(env_id).rules
        assert simulation.frame_skip == env._mujoco_env(0).frame_skip
        env.close()


def test_v3_is_v4_with_contact_forces_that_are_zero() -> None:
    for name in ("HalfCheetah", "Hopper", "Walker2d"):
        assert make_task(f"{name}-v3") == make_task(f"{name}-v4")
    with jax.enable_x64(True):
        for name, source in (("Ant", "Ant-v5"), ("Humanoid", "Humanoid-v5")):
            _, before, body, derived = simulated(source, True)
            action = jnp.asarray(oracle_steps(source).action, body.qpos.dtype)
            outcomes = [
                jax.vmap(Simulation(make_task(f"{name}-{version}")).judge)(
                    before, body, derived, action
                )
                for version in ("v3", "v4")
            ]
            v3, v4 = outcomes
            shown = v4.obs.shape[1] - 84 * (name == "Humanoid")
            assert v3.obs.shape[1] == envs.spec(f"{name}-v3", "mjx").num_features == shown + 84
            np.testing.assert_array_equal(v3.obs[:, :shown], v4.obs[:, :shown])
            assert not np.asarray(v3.obs[:, shown:]).any()
            np.testing.assert_array_equal(v3.reward, v4.reward)


@functools.cache
def simulation_of(env_id: str) -> Simulation:
    return Simulation(make_task(env_id))


def body_at(env_id: str, **positions: float) -> tuple[Simulation, Body, Derived]:
    """A body at rest with some coordinates changed, and what a still simulation derives."""
    simulation = simulation_of(env_id)
    names = {"x": 0, "z": simulation.kind.num_origin, "angle": 2, "joint": -1}
    qpos = np.array(simulation._qpos0, np.float32)
    for name, value in positions.items():
        qpos[names[name]] = value
    still = simulation._still
    body = Body(jnp.asarray(qpos), jnp.zeros_like(still.qvel), jnp.zeros_like(still.qvel),
                jnp.float32(0))  # fmt: skip
    return simulation, body, simulation._derived(still)


@pytest.mark.parametrize(
    ("env_id", "positions", "is_healthy"),
    [
        ("Hopper-v4", {}, True),
        ("Hopper-v4", {"z": 0.7}, False),  # the limits themselves are unhealthy
        ("Hopper-v4", {"z": 0.701}, True),
        ("Hopper-v4", {"angle": 0.2}, False),
        ("Hopper-v4", {"angle": -0.199}, True),
        ("Hopper-v4", {"joint": 100.0}, False),
        ("Walker2d-v5", {"z": 2.0}, False),
        ("Walker2d-v5", {"angle": 0.99}, True),
        ("Walker2d-v5", {"angle": 1.0}, False),
        ("Walker2d-v5", {"joint": 1e5}, True),
        ("Ant-v4", {"z": 1.0}, True),  # here they are healthy
        ("Ant-v4", {"z": 1.001}, False),
        ("Ant-v4", {"z": 0.2}, True),
        ("Humanoid-v3", {"z": 1.0}, False),
        ("Humanoid-v3", {"z": 1.999}, True),
    ],
)
def test_health_has_gymnasiums_limits(
    env_id: str, positions: dict[str, float], is_healthy: bool
) -> None:
    simulation, body, derived = body_at(env_id, **positions)
    zero = jnp.zeros(simulation.num_actions)
    outcome = simulation.judge(jnp.float32(0), body, derived, zero)
    assert bool(outcome.is_unhealthy) == (not is_healthy) and not bool(outcome.has_failed)
    healthy_reward = simulation.rules.healthy_reward
    pays = is_healthy or not env_id.endswith("v5")
    assert float(outcome.reward) == pytest.approx(healthy_reward * pays)


@pytest.mark.parametrize("value", [np.nan, np.inf, -2e10])
def test_a_simulation_that_breaks_down_has_failed_and_did_not_end(value: float) -> None:
    for env_id in ("HalfCheetah-v3", "Hopper-v4", "Humanoid-v3"):
        simulation, body, derived = body_at(env_id, joint=value)
        zero = jnp.zeros(simulation.num_actions)
        outcome = simulation.judge(jnp.float32(0), body, derived, zero)
        assert bool(outcome.has_failed) and not bool(outcome.is_unhealthy)


def test_the_origin_moves_with_the_body() -> None:
    for env_id in ("HalfCheetah-v3", "Ant-v4"):
        simulation, body, _ = body_at(env_id, x=512.25)
        body = body._replace(centre=jnp.float32(512.5))
        moved = simulation._recentred(body)
        assert moved.qpos[0] == 0 and moved.centre == 0.25
        np.testing.assert_array_equal(moved.qpos[2:], body.qpos[2:])


@pytest.mark.parametrize("env_id", ["HalfCheetah-v3", "Hopper-v5", "Ant-v4", "Humanoid-v3"])
def test_resets_are_drawn_as_gymnasium_draws_them(env_id: str) -> None:
    simulation = simulation_of(env_id)
    keys = jax.random.split(jax.random.key(0), 2000)
    body, obs = jax.jit(jax.vmap(simulation.reset))(keys)
    scale, origin = simulation.rules.reset_noise_scale, simulation.kind.num_origin
    share = (np.asarray(body.qpos, np.float64) - simulation._qpos0) / scale
    assert np.abs(share).max() <= 1.001  # float32
    assert scipy.stats.kstest((share.ravel() + 1) / 2, "uniform").pvalue > 1e-3
    speed = np.asarray(body.qvel, np.float64).ravel() / scale
    if simulation.kind.is_velocity_normal:
        assert scipy.stats.kstest(speed, "norm").pvalue > 1e-3
    else:
        assert scipy.stats.kstest((speed + 1) / 2, "uniform").pvalue > 1e-3
    correlation = np.corrcoef(np.concatenate([body.qpos, body.qvel], 1).T)
    assert np.abs(correlation - np.eye(len(correlation))).max() < 0.12  # 5 / sqrt(2000)
    np.testing.assert_array_equal(obs[:, : body.qpos.shape[1] - origin], body.qpos[:, origin:])
    assert obs.shape[1] == envs.spec(env_id, "mjx").num_features


def test_rules_go_by_gymnasiums_names() -> None:
    task = make_task("Ant-v5", reset_noise_scale=0.0, healthy_z_range=(0.3, 0.9))
    assert task.rules.healthy_z_range == (0.3, 0.9) and task.rules.contact_cost_weight == 5e-4
    body, _ = jax.jit(Simulation(task).reset)(jax.random.key(1))
    np.testing.assert_array_equal(body.qpos, simulation_of("Ant-v4")._qpos0.astype(np.float32))
    with pytest.raises(ValueError, match=r"^task option 'resetnoise' is unknown to Ant-v5 in mjx"):
        make_task("Ant-v5", resetnoise=1.0)


def test_frames_of_capsules_on_the_floor_are_mujocos() -> None:
    simulation = simulation_of("Ant-v4")
    model = mjx_tasks.load_model(simulation.task)
    engine: Any = mujoco
    data, rng, num_steep = engine.MjData(model), np.random.default_rng(0), 0
    with jax.enable_x64(True):
        mjx_model, still = mjx.put_model(model), mjx.make_data(model)

        @jax.jit
        def contacts(qpos: Any) -> Any:
            with capsule_frames():
                moved = mjx.kinematics(mjx_model, still.replace(qpos=qpos))
                impl: Any = mjx.collision(mjx_model, moved)._impl
                return impl.contact

        for trial in range(60):
            data.qpos[:] = model.qpos0 + rng.uniform(-1, 1, model.nq) * (trial > 0)
            data.qpos[2] = rng.uniform(0.05, 0.4)
            engine.mj_forward(model, data)
            found = contacts(jnp.asarray(data.qpos))
            for contact in data.contact:
                same = (np.asarray(found.geom) == contact.geom).all(1)
                same &= np.abs(np.asarray(found.dist) - contact.dist) < 1e-9
                assert same.any()
                frames = np.asarray(found.frame)[same].reshape(-1, 9)
                assert np.abs(frames - contact.frame).max(1).min() < 1e-6
                axis = data.geom_xmat[contact.geom[1]].reshape(3, 3)[:, 2]
                num_steep += abs(axis[2]) > 0.9
    assert num_steep > 10
