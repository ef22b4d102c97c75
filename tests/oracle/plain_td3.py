"""One plain lane of TD3, two separate critics, written from Fujimoto et al. 2018, arXiv 1802.09477.

Axes: B rows of a minibatch, A actions, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastanf.replay import Batch
from fastanf.rng import Stream
from tests.oracle.plain_sac import PlainLane
from tests.oracle.plain_sparse import PlainNetwork, PlainOptimizer, evolve, move_target


class PlainTD3:
    """TD3 as Alg. 1 of the paper has it, plus the sparse input layer's evolution."""

    def __init__(self, lane: PlainLane):
        self.lane, self.config = lane, lane.config
        self.actor, self.q1, self.q2 = lane.actor, lane.q1, lane.q2
        self.target_actor = self.actor.copy()
        self.target_q1, self.target_q2 = self.q1.copy(), self.q2.copy()
        self.actor_optimizer = PlainOptimizer(self.actor, self.config)
        self.q1_optimizer = PlainOptimizer(self.q1, self.config)
        self.q2_optimizer = PlainOptimizer(self.q2, self.config)
        self.scale = (lane.action_high - lane.action_low) / 2
        self.offset = (lane.action_high + lane.action_low) / 2

    def act(self, actor: PlainNetwork, x: Tensor) -> Tensor:
        """[B, F] -> [B, A]."""
        return self.offset + self.scale * actor(x).tanh()

    def update(self, batch: Batch, update: int) -> None:
        """One update from a minibatch without the lane axis."""
        show, call = self.lane.features, 8 * update
        algorithm = self.config.algorithm
        with torch.no_grad():
            B, A = batch.action.shape
            noise = self.lane.random.normal(Stream.TARGET_NOISE, update, B, A)
            clip = algorithm.target_noise_clip
            noise = (algorithm.target_noise * noise).clamp(-clip, clip) * self.scale
            action = self.act(self.target_actor, show(batch.next_obs, batch.next_obs_id, call + 4))
            action = (action + noise).clamp(self.lane.action_low, self.lane.action_high)
            x = torch.cat([show(batch.next_obs, batch.next_obs_id, call + 5), action], 1)
            smallest = torch.minimum(self.target_q1(x), self.target_q2(x)).squeeze(1)
            y = batch.reward + algorithm.discount * batch.not_terminated * smallest
        x = torch.cat([show(batch.obs, batch.obs_id, call), batch.action], 1)
        self.q1_optimizer.step(((self.q1(x).squeeze(1) - y) ** 2).mean())
        self.q2_optimizer.step(((self.q2(x).squeeze(1) - y) ** 2).mean())
        if update % algorithm.policy_delay == 0:
            action = self.act(self.actor, show(batch.obs, batch.obs_id, call + 1))
            x = torch.cat([show(batch.obs, batch.obs_id, call + 2), action], 1)
            self.actor_optimizer.step(-self.q1(x).mean())
        if update % algorithm.target_period == 0:
            trims = self.config.sparsity.target_sparsity == "trim"
            move_target(self.target_actor, self.actor, algorithm.tau, trims)
            move_target(self.target_q1, self.q1, algorithm.tau, trims)
            move_target(self.target_q2, self.q2, algorithm.tau, trims)
        self._evolve(update)

    def _evolve(self, update: int) -> None:
        rest = (self.lane.random, self.config, update)
        trims = self.config.sparsity.target_sparsity == "trim"
        ta, t1, t2 = (
            (None, None, None) if trims else (self.target_actor, self.target_q1, self.target_q2)
        )
        evolve(self.actor, ta, self.actor_optimizer, *rest, (0, 0, 1))
        evolve(self.q1, t1, self.q1_optimizer, *rest, (1, 0, 2))
        evolve(self.q2, t2, self.q2_optimizer, *rest, (1, 1, 2))
