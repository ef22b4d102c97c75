"""One plain lane of SAC, two separate critics, written from Haarnoja et al. 2018, arXiv 1812.05905.

Axes: B rows of a minibatch, A actions, F features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Normal, TanhTransform

from fastanf.config import TrainConfig
from fastanf.replay import Batch
from fastanf.rng import Stream
from tests.oracle.plain_sparse import (
    PlainFeatures,
    PlainNetwork,
    PlainOptimizer,
    PlainRandom,
    evolve,
    move_target,
)


@dataclass
class PlainLane:
    """What a lane begins with, and the numbers it is given."""

    config: TrainConfig
    actor: PlainNetwork
    q1: PlainNetwork
    q2: PlainNetwork
    random: PlainRandom
    features: PlainFeatures
    action_low: Tensor
    """[A]."""
    action_high: Tensor
    """[A]."""


class PlainSAC:
    """SAC as Alg. 1 of the paper has it, plus the sparse input layer's evolution."""

    def __init__(self, lane: PlainLane):
        self.lane, self.config = lane, lane.config
        self.actor, self.q1, self.q2 = lane.actor, lane.q1, lane.q2
        self.target_q1, self.target_q2 = self.q1.copy(), self.q2.copy()
        self.actor_optimizer = PlainOptimizer(self.actor, self.config)
        self.q1_optimizer = PlainOptimizer(self.q1, self.config)
        self.q2_optimizer = PlainOptimizer(self.q2, self.config)
        self.log_alpha = torch.zeros((), dtype=lane.action_low.dtype, requires_grad=True)
        self.alpha_optimizer = torch.optim.Adam(
            [self.log_alpha], lr=self.config.optimizer.learning_rate
        )

    @property
    def alpha(self) -> float:
        is_tuned = self.config.algorithm.automatic_temperature
        return (
            float(self.log_alpha.detach().exp()) if is_tuned else self.config.algorithm.temperature
        )

    def sample(self, x: Tensor, draw: int) -> tuple[Tensor, Tensor]:
        """Action [B, A] and log-density [B] by the change of variables, App. C of the paper."""
        mean, log_std = self.actor(x).chunk(2, dim=1)
        std = log_std.clamp(-20, 2).exp()
        num_actions = mean.shape[1]
        noise = self.lane.random.normal(Stream.ACTION_NOISE, draw, len(x), num_actions)
        u = mean + std * noise
        scale = (self.lane.action_high - self.lane.action_low) / 2
        offset = (self.lane.action_high + self.lane.action_low) / 2
        log_normal = Normal(mean, std).log_prob(u).sum(1)
        log_slope = TanhTransform().log_abs_det_jacobian(u, u.tanh()) + scale.log()
        return offset + scale * u.tanh(), log_normal - log_slope.sum(1)

    def update(self, batch: Batch, update: int) -> None:
        """One update from a minibatch without the lane axis."""
        show, call = self.lane.features, 8 * update
        algorithm = self.config.algorithm
        with torch.no_grad():
            action, log_density = self.sample(
                show(batch.next_obs, batch.next_obs_id, call + 4), 2 * update
            )
            x = torch.cat([show(batch.next_obs, batch.next_obs_id, call + 5), action], 1)
            smallest = torch.minimum(self.target_q1(x), self.target_q2(x)).squeeze(1)
            soft_value = smallest - self.alpha * log_density
            y = batch.reward + algorithm.discount * batch.not_terminated * soft_value
        x = torch.cat([show(batch.obs, batch.obs_id, call), batch.action], 1)
        self.q1_optimizer.step(((self.q1(x).squeeze(1) - y) ** 2).mean())
        self.q2_optimizer.step(((self.q2(x).squeeze(1) - y) ** 2).mean())
        if update % algorithm.policy_delay == 0:
            self._update_actor(batch, update)
        if update % algorithm.target_period == 0:
            trims = self.config.sparsity.target_sparsity == "trim"
            move_target(self.target_q1, self.q1, algorithm.tau, trims)
            move_target(self.target_q2, self.q2, algorithm.tau, trims)
        self._evolve(update)

    def _update_actor(self, batch: Batch, update: int) -> None:
        show, call = self.lane.features, 8 * update
        action, log_density = self.sample(show(batch.obs, batch.obs_id, call + 1), 2 * update + 1)
        x = torch.cat([show(batch.obs, batch.obs_id, call + 2), action], 1)
        q = torch.minimum(self.q1(x), self.q2(x)).squeeze(1)
        self.actor_optimizer.step((self.alpha * log_density - q).mean())
        if self.config.algorithm.automatic_temperature:
            target_entropy = -action.shape[1]
            gap = (-log_density - target_entropy).detach()
            self.alpha_optimizer.zero_grad()
            (self.log_alpha * gap).mean().backward()
            self.alpha_optimizer.step()

    def _evolve(self, update: int) -> None:
        rest = (self.lane.random, self.config, update)
        trims = self.config.sparsity.target_sparsity == "trim"
        t1, t2 = (None, None) if trims else (self.target_q1, self.target_q2)
        evolve(self.actor, None, self.actor_optimizer, *rest, (0, 0, 1))
        evolve(self.q1, t1, self.q1_optimizer, *rest, (1, 0, 2))
        evolve(self.q2, t2, self.q2_optimizer, *rest, (1, 1, 2))
