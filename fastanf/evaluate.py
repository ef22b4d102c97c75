"""Deterministic episodes of all lanes at once.

Axes: L lanes, M episodes per lane, N = L * M rows of the simulator (lane-major). Source of the
protocol: arXiv 2302.06548, Sec. 5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastanf.algorithms.actor_critic import ActorCritic
from fastanf.collect import fill_rows
from fastanf.instrument import Stage, stage
from fastanf.rng import Stream
from fastanf.simulator import Simulator


@torch.no_grad()
def evaluate(
    simulator: Simulator, algorithm: ActorCritic, num_lanes: int, round_index: int
) -> Tensor:
    """Undiscounted returns of one episode in every row, acting without exploration.

    The noise features are drawn anew at every step, whatever `redraw` is: nothing is replayed here.

    Args:
        simulator: N = L * M rows; each begins its next episode.
        algorithm: acts.
        num_lanes: L.
        round_index: number of this evaluation, so that each sees noise of its own.

    Returns:
        [L, M] float64 returns on the host; nan where the simulation of an episode broke down.
    """
    N, max_steps = simulator.num_rows, simulator.spec.max_episode_steps
    num_episodes = N // num_lanes
    obs = simulator.reset()
    device = obs.device
    returns = torch.zeros(N, dtype=torch.float64, device=device)
    is_running = torch.ones(N, dtype=torch.bool)  # on the host
    for time in range(max_steps):
        first = (round_index * max_steps + time) * num_episodes
        rows = first + torch.arange(num_episodes, device=device)
        rows = fill_rows(rows.expand(num_lanes, -1))
        with stage(Stage.ACT):
            x = fill_rows(obs.view(num_lanes, num_episodes, -1))
            x = algorithm.features.draw(x, rows, Stream.EVAL_FEATURES)
            action = algorithm.act(x)[:, :num_episodes].reshape(N, -1)
        with stage(Stage.ENV_STEP):
            step, is_over, has_failed = simulator.step_running(action, is_running)
        is_counted = is_running.to(device, non_blocking=True)
        returns += torch.where(is_counted, step.reward, 0.0)
        returns.masked_fill_(is_counted & step.failed, torch.nan)
        is_running = is_running & ~(is_over | has_failed)
        obs = step.obs
        if not is_running.any():
            break
    return returns.view(num_lanes, num_episodes).cpu()
