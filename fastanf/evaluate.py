"""Deterministic episodes of all lanes at once.

Axes: L lanes, M episodes per lane, N = L * M rows of the simulator (lane-major). Source of the
protocol: arXiv 2302.06548, Sec. 5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastanf.algorithms.actor_critic import ActorCritic
from fastanf.collect import fill_rows, finite_actions
from fastanf.graphs import Graphs
from fastanf.instrument import Stage, stage
from fastanf.rng import Stream
from fastanf.simulator import Simulator


class Act:
    """The deterministic act of all lanes, with noise of its own at every step.

    Args:
        algorithm: acts.
        num_lanes: L.
        graphs: record and replay the act; None calls every operation each time.
    """

    def __init__(self, algorithm: ActorCritic, num_lanes: int, graphs: Graphs | None = None):
        self._algorithm, self.num_lanes = algorithm, num_lanes
        self._graphs = graphs if algorithm.is_capturable else None
        self._inputs: tuple[Tensor, Tensor] | None = None  # at fixed addresses

    def __call__(self, obs: Tensor, first_row: int) -> Tensor:
        """Actions [N, A] on observations [N, D]; their noise is that of M rows from `first_row`."""
        if self._graphs is None:
            return self._act(obs, first_row)
        if self._inputs is None:
            self._inputs = obs.clone(), torch.zeros((), dtype=torch.int64, device=obs.device)
        held, first = self._inputs
        held.copy_(obs)
        first.fill_(first_row)
        layout = self._algorithm.features.layout_version
        return self._graphs.run("act", layout, lambda: self._act(held, first))

    def _act(self, obs: Tensor, first_row: int | Tensor) -> Tensor:
        L, N = self.num_lanes, obs.shape[0]
        M = N // L
        rows = first_row + torch.arange(M, device=obs.device)
        x = fill_rows(obs.view(L, M, -1))
        rows = fill_rows(rows.expand(L, -1))
        x = self._algorithm.features.draw(x, rows, Stream.EVAL_FEATURES)
        return finite_actions(self._algorithm.act(x))[:, :M].reshape(N, -1)


@torch.no_grad()
def evaluate(simulator: Simulator, act: Act, round_index: int) -> Tensor:
    """Undiscounted returns of one episode in every row, acting without exploration.

    The noise features are drawn anew at every step, whatever `redraw` is: nothing is replayed here.

    Args:
        simulator: N = L * M rows; each begins its next episode.
        act: of L lanes.
        round_index: number of this evaluation, so that each sees noise of its own.

    Returns:
        [L, M] float64 returns on the host; nan where the simulation of an episode broke down.
    """
    N, max_steps = simulator.num_rows, simulator.spec.max_episode_steps
    num_episodes = N // act.num_lanes
    obs = simulator.reset()
    device = obs.device
    returns = torch.zeros(N, dtype=torch.float64, device=device)
    is_running = torch.ones(N, dtype=torch.bool)  # on the host
    for time in range(max_steps):
        with stage(Stage.ACT):
            action = act(obs, (round_index * max_steps + time) * num_episodes)
        with stage(Stage.ENV_STEP):
            step, is_over, has_failed = simulator.step_running(action, is_running)
        is_counted = is_running.to(device, non_blocking=True)
        returns += torch.where(is_counted, step.reward, 0.0)
        returns.masked_fill_(is_counted & step.failed, torch.nan)
        is_running = is_running & ~(is_over | has_failed)
        obs = step.obs
        if not is_running.any():
            break
    return returns.view(act.num_lanes, num_episodes).cpu()
