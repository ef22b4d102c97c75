"""Soft Actor-Critic on stacked lanes. Source: Haarnoja et al. 2018, arXiv 1812.05905, Sec. 5 and 6.

Axes: L lanes, C = 2 critics, B minibatch, A actions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastanf.algorithms.actor_critic import ActorCritic, AlgorithmSettings
from fastanf.features import FeatureView, NoisyFeatures
from fastanf.instrument import Stage, stage
from fastanf.kernels.layer_input import LayerInput
from fastanf.kernels.losses import bellman_target, mean_slope, smallest_value
from fastanf.kernels.mask_adam import mask_adam_
from fastanf.nets import GaussianActor
from fastanf.replay import Batch
from fastanf.rng import LaneRng, Stream


def soft_target(
    q_next: Tensor,
    log_density_next: Tensor,
    reward: Tensor,
    not_terminated: Tensor,
    discount: Tensor,
    temperature: Tensor,
) -> Tensor:
    """Soft Bellman target y = r + discount * not_terminated * (min_c Q_c(s', a') - temperature *
    log pi(a'|s')).

    Source: Haarnoja et al. 2018, arXiv 1812.05905, eq. 2 and 3 with the minimum of twin critics.

    Args:
        q_next: [L, C, B] target critics at an action of the policy in the next state.
        log_density_next: [L, B] of that action.
        reward: [L, B], per environment step.
        not_terminated: [L, B] in {0, 1}; 1 also where the time limit ended the episode.
        discount: [L] in [0, 1).
        temperature: [L].

    Returns:
        [L, B].
    """
    return bellman_target(q_next, reward, not_terminated, discount, log_density_next, temperature)


class SAC(ActorCritic):
    """SAC with a fixed or a tuned temperature per lane."""

    actor_outputs_per_action = 2
    initialisation = "xavier"
    has_target_actor = False

    def __init__(self, settings: AlgorithmSettings, features: NoisyFeatures, rng: LaneRng):
        super().__init__(settings, features, rng)
        self.actor = GaussianActor(self.actor_mlp, self.action_range)
        is_tuned = settings.automatic_temperature
        start = torch.where(is_tuned, torch.ones_like(settings.temperature), settings.temperature)
        self.log_temperature = start.log().unsqueeze(1)  # [L, 1]
        self._temperature_moments = torch.zeros(2, *self.log_temperature.shape, device=start.device)
        self._tunes_any = bool(is_tuned.any())

    @property
    def temperature(self) -> Tensor:
        """[L] weight of the entropy."""
        if not self._tunes_any:
            return self.settings.temperature
        is_tuned = self.settings.automatic_temperature
        tuned = self.log_temperature.squeeze(1).exp()
        return torch.where(is_tuned, tuned, self.settings.temperature)

    def _normal(self, num_rows: int, draw: int | Tensor) -> Tensor:
        return self.rng.normal(Stream.ACTION_NOISE, draw, (self.num_actions, num_rows))

    def _target(self, batch: Batch, next_view: FeatureView, update: int | Tensor) -> Tensor:
        B = batch.reward.shape[1]
        next_action, log_density = self.actor.sample(next_view.draw(), self._normal(B, 2 * update))
        q_next = self.target_critic.value(next_view.draw(), next_action)
        return soft_target(
            q_next, log_density, batch.reward, batch.not_terminated, self.settings.discount,
            self.temperature,
        )  # fmt: skip

    def _update_actor_(self, view: FeatureView, update: int | Tensor, tau: Tensor | None) -> None:
        """Minimise E[temperature * log pi(a|s) - min_c Q_c(s, a)]. Source: arXiv 1812.05905,
        eq. 7 and 9.
        """
        with stage(Stage.ACTOR_FORWARD):
            x = view.draw()
            normal = self._normal(x.num_columns, 2 * update + 1)
            action, log_density = self.actor.sample(x, normal)
            q = self.critic.frozen_value(view.draw(), action)  # [L, C, B]
            smallest, q_slope = smallest_value(q.detach())
            temperature = self.temperature
        with stage(Stage.ACTOR_BACKWARD):
            slopes = mean_slope(log_density, temperature), q_slope
            grads = torch.autograd.grad((log_density, q), self.actor_optimizer.tensors(), slopes)
        with stage(Stage.ACTOR_OPTIMIZER):
            self.actor_optimizer.step_(grads, tau)
            if self._tunes_any:
                entropy = -log_density.detach().mean(-1)
                self._update_temperature_(entropy, self.actor_optimizer.num_steps)
        parts = log_density.detach(), smallest
        self.seen = self.seen._replace(actor=parts, temperature=temperature)

    def _actor_losses(self) -> dict[str, Tensor]:
        assert self.seen.actor is not None
        (log_density, q), temperature = self.seen.actor, self.seen.temperature
        assert temperature is not None
        loss = (temperature.unsqueeze(1) * log_density - q).mean(-1)
        entropy = -log_density.mean(-1)
        return {"actor": loss, "entropy": entropy, "temperature": temperature}

    def further_tensors(self) -> dict[str, Tensor]:
        """The temperature and its moments."""
        return {
            "log_temperature": self.log_temperature,
            "log_temperature.moments": self._temperature_moments.transpose(0, 1),
        }

    @torch.no_grad()
    def _update_temperature_(self, entropy: Tensor, num_steps: int | Tensor) -> None:
        """Minimise log temperature * (entropy - target), target = -A. Source: arXiv 1812.05905,
        eq. 18 in its log form.
        """
        s = self.settings
        # Where it is fixed nothing moves, the moments included.
        grad = torch.where(s.automatic_temperature, entropy + self.num_actions, 0.0).unsqueeze(1)
        rate = torch.where(s.automatic_temperature, s.learning_rate, 0.0)
        exp_avg, exp_avg_sq = self._temperature_moments[0], self._temperature_moments[1]
        mask_adam_(
            self.log_temperature, grad, exp_avg, exp_avg_sq, num_steps, rate, torch.zeros_like(rate)
        )

    @torch.no_grad()
    def explore(self, x: LayerInput, step: int | Tensor) -> Tensor:
        """Actions [L, B, A] drawn from the policy."""
        normal = self.rng.normal(Stream.EXPLORE, step, (self.num_actions, x.num_columns))
        return self.actor.sample(x, normal)[0].transpose(1, 2)

    @torch.no_grad()
    def act(self, x: LayerInput) -> Tensor:
        """The mean action [L, B, A]."""
        return self.actor.deterministic(x).transpose(1, 2)

    def state_dict(self) -> dict[str, Tensor]:
        """Adds the temperature and its moments."""
        return super().state_dict() | {
            "log_temperature": self.log_temperature,
            "log_temperature.moments": self._temperature_moments,
        }

    @torch.no_grad()
    def load_state_dict_(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: a tensor is missing or has another shape.
        """
        super().load_state_dict_(state)
        self.log_temperature.copy_(state["log_temperature"])
        self._temperature_moments.copy_(state["log_temperature.moments"])
