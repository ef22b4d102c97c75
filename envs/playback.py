"""An episode that one can draw, played by the simulator that trains: envpool, one environment.

What is drawn is what happened: dynamics, reward and end of the episode are envpool's own, and each
pose is what envpool reports. Nothing is simulated a second time. envpool's option
`exclude_current_positions_from_observation=False` puts the horizontal position of the root, which
a policy does not see, before the features; with it the observation begins with all of MuJoCo's
qpos.

Axes: nq positions, D real features, A actions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs import registry
from envs.interface import VecEnv

Act = Callable[[NDArray[np.float32], int], NDArray[np.float32]]
"""(observation [1, D], number of the step in its episode) -> action [1, A] in the task's units."""


@dataclass(frozen=True)
class Robot:
    """What drawing a task takes."""

    model_file: str
    """The MuJoCo model that envpool simulates."""
    num_positions: int
    """nq."""
    step_s: float
    """Seconds of an environment step."""


_ROBOTS = {
    "HalfCheetah": (9, 0.05),
    "Hopper": (6, 0.008),
    "Walker2d": (9, 0.008),
    "Ant": (15, 0.05),
    "Humanoid": (24, 0.015),
}
"""nq and seconds a step. A table, so that MuJoCo need not be imported; tests compare it with the
models."""


class Moment(NamedTuple):
    """One instant of an episode."""

    qpos: NDArray[np.float64]
    """[nq] MuJoCo's generalised positions, in the precision of float32."""
    obs: NDArray[np.float32]
    """[D] what the policy sees."""
    reward: float
    """Of the step that led here; 0 at the start."""
    is_last: bool
    """Whether the episode ends here, by termination or by its time limit."""


def robot(env_id: str) -> Robot:
    """What drawing a task takes.

    Raises:
        ValueError: envpool does not have the task.
    """
    registry.validate(env_id)
    import envpool  # here, so that a name is refused at once

    config = envpool.make_spec(env_id).config
    # envpool simulates its own copies of gymnasium's models, for versions v3 and v4 too.
    name = f"{Path(config.xml_file).stem}_envpool.xml"
    file = Path(config.base_path) / "mujoco" / "assets_gym" / name
    return Robot(str(file), *_ROBOTS[env_id.partition("-")[0]])


def play(env_id: str, seed: int, act: Act, **task_options: Any) -> Iterator[Moment]:
    """The first episode of one environment row, from its reset to its end.

    Args:
        env_id: a task that envpool has.
        seed: of the row, in [0, 2**31), as in `envs.make`.
        act: the policy.
        **task_options: as in `envs.make`.

    Yields:
        The moments of the episode: one for the reset and one for each step.

    Raises:
        ValueError: envpool does not have the task, or a seed or option that is not allowed.
    """
    registry.validate(env_id)
    num_positions, _ = _ROBOTS[env_id.partition("-")[0]]
    env = registry.make(
        env_id,
        seeds=[seed],
        num_threads=1,
        exclude_current_positions_from_observation=False,
        **task_options,
    )
    try:
        yield from _moments(env, num_positions, act)
    finally:
        env.close()


def _moments(env: VecEnv, num_positions: int, act: Act) -> Iterator[Moment]:
    def moment(seen: NDArray[np.float32], reward: float, is_last: bool) -> Moment:
        qpos = seen[0, :num_positions].astype(np.float64)
        return Moment(qpos, seen[0, -env.spec.num_features :], reward, is_last)

    now = moment(env.reset(), 0.0, False)
    yield now
    for time in range(env.spec.max_episode_steps):
        step = env.step(act(now.obs[None], time))
        is_last = bool(step.terminated[0] | step.truncated[0])
        now = moment(step.final_obs, float(step.reward[0]), is_last)
        yield now
        if is_last:
            return
