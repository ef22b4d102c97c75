"""TD3, twin delayed deep deterministic policy gradient, on stacked lanes. Source: Fujimoto et al.
2018, arXiv 1802.09477.

Axes: L lanes, C = 2 critics, B minibatch, A actions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastanf.algorithms.actor_critic import ActorCritic, AlgorithmSettings
from fastanf.features import FeatureView, NoisyFeatures
from fastanf.instrument import Stage, stage
from fastanf.kernels.layer_input import LayerInput
from fastanf.kernels.losses import bellman_target
from fastanf.nets import TanhActor
from fastanf.replay import Batch
from fastanf.rng import LaneRng, Stream


def td3_target(q_next: Tensor, reward: Tensor, not_terminated: Tensor, discount: Tensor) -> Tensor:
    """Clipped double-Q target y = r + discount * not_terminated * min_c Q_c(s', a').

    Source: Fujimoto et al. 2018, arXiv 1802.09477, Alg. 1.

    Args:
        q_next: [L, C, B] target critics at the smoothed next action.
        reward: [L, B], per environment step.
        not_terminated: [L, B] in {0, 1}; 1 also where the time limit ended the episode.
        discount: [L] in [0, 1).

    Returns:
        [L, B].
    """
    return bellman_target(q_next, reward, not_terminated, discount)


class TD3(ActorCritic):
    """TD3 with clipped target smoothing and a delayed actor."""

    actor_outputs_per_action = 1
    initialisation = "fan_in"
    has_target_actor = True

    def __init__(self, settings: AlgorithmSettings, features: NoisyFeatures, rng: LaneRng):
        super().__init__(settings, features, rng)
        assert self.target_actor_mlp is not None
        self.actor = TanhActor(self.actor_mlp, self.action_range)
        self.target_actor = TanhActor(self.target_actor_mlp, self.action_range)

    def _clip(self, action: Tensor) -> Tensor:
        scale, offset = self.action_range
        return torch.minimum(torch.maximum(action, offset - scale), offset + scale)

    def _target(self, batch: Batch, next_view: FeatureView, update: int | Tensor) -> Tensor:
        s, B = self.settings, batch.reward.shape[1]
        noise = self.rng.normal(Stream.TARGET_NOISE, update, (self.num_actions, B))
        clip = s.target_noise_clip[:, None, None]
        noise = (noise * s.target_noise[:, None, None]).clamp(-clip, clip)
        next_action = self.target_actor.deterministic(next_view.draw())
        next_action = self._clip(next_action + noise * self.action_range.scale)
        q_next = self.target_critic.value(next_view.draw(), next_action)
        return td3_target(q_next, batch.reward, batch.not_terminated, s.discount)

    def _update_actor_(self, view: FeatureView, update: int | Tensor, tau: Tensor | None) -> None:
        """Maximise E[Q_1(s, pi(s))]. Source: arXiv 1802.09477, Alg. 1."""
        with stage(Stage.ACTOR_FORWARD):
            action = self.actor.deterministic(view.draw())
            q = self.critic.frozen_value(view.draw(), action, num_critics=1)[:, 0]  # [L, B]
        with stage(Stage.ACTOR_BACKWARD):
            slope = torch.full_like(q, -1 / q.shape[1])  # of -mean(q)
            grads = torch.autograd.grad(q, self.actor_optimizer.tensors(), slope)
        with stage(Stage.ACTOR_OPTIMIZER):
            self.actor_optimizer.step_(grads, tau)
        self.seen = self.seen._replace(actor=(q.detach(),))

    def _actor_losses(self) -> dict[str, Tensor]:
        assert self.seen.actor is not None
        (q,) = self.seen.actor
        return {"actor": -q.mean(-1)}

    @torch.no_grad()
    def explore(self, x: LayerInput, step: int | Tensor) -> Tensor:
        """Actions [L, B, A] of the policy with Gaussian noise, clipped to the range."""
        noise = self.rng.normal(Stream.EXPLORE, step, (self.num_actions, x.num_columns))
        noise = noise * self.settings.exploration_noise[:, None, None] * self.action_range.scale
        return self._clip(self.actor.deterministic(x) + noise).transpose(1, 2)

    @torch.no_grad()
    def act(self, x: LayerInput) -> Tensor:
        """The policy's action [L, B, A]."""
        return self.actor.deterministic(x).transpose(1, 2)
