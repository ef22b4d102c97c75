"""Deterministic episodes of all lanes at once.

Axes: L lanes, M episodes per lane, N = L * M rows of the simulator (lane-major). Source of the
protocol: arXiv 2302.06548, Sec. 5.
"""

from __future__ import annotations

import numpy as np
import torch

from envs.interface import RowVecEnv, VecEnv
from fastanf.algorithms.actor_critic import ActorCritic
from fastanf.collect import fill_rows
from fastanf.instrument import Stage, stage
from fastanf.rng import Stream


@torch.no_grad()
def evaluate(env: VecEnv, algorithm: ActorCritic, num_lanes: int, round_index: int) -> np.ndarray:
    """Undiscounted returns of one episode in every row, acting without exploration.

    The noise features are drawn anew at every step, whatever `redraw` is: nothing is replayed here.

    Args:
        env: N = L * M rows; each begins its next episode.
        algorithm: acts.
        num_lanes: L.
        round_index: number of this evaluation, so that each sees noise of its own.

    Returns:
        [L, M] float64 returns.
    """
    num_episodes = env.num_rows // num_lanes
    device = algorithm.action_range.scale.device
    max_steps = env.spec.max_episode_steps
    obs = env.reset()
    returns = np.zeros(env.num_rows)
    running = np.arange(env.num_rows, dtype=np.int32)
    for time in range(max_steps):
        x = torch.from_numpy(obs).to(device).view(num_lanes, num_episodes, -1)
        first = (round_index * max_steps + time) * num_episodes
        rows = first + torch.arange(num_episodes, device=device)
        rows = fill_rows(rows.expand(num_lanes, -1))
        with stage(Stage.ACT):
            x = algorithm.features.draw(fill_rows(x), rows, Stream.EVAL_FEATURES)
            action = algorithm.act(x)[:, :num_episodes].reshape(env.num_rows, -1).cpu().numpy()
        with stage(Stage.ENV_STEP):
            obs, running = _step_running(env, action, obs, running, returns)
        if len(running) == 0:
            break
    return returns.reshape(num_lanes, num_episodes)


def _step_running(
    env: VecEnv, action: np.ndarray, obs: np.ndarray, running: np.ndarray, returns: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Step the rows whose episode still runs, all rows where the backend can do no less; adds
    to returns.
    """
    if isinstance(env, RowVecEnv):
        step = env.step_rows(action[running], running)
        obs = obs.copy()
        obs[running] = step.final_obs
        reward, done = step.reward, step.terminated | step.truncated
    else:
        step = env.step(action)
        obs = step.obs
        reward, done = step.reward[running], (step.terminated | step.truncated)[running]
    returns[running] += reward
    return obs, running[~done]
