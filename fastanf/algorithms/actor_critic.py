"""The actor-critic that SAC and TD3 share: networks, targets, optimizers and the order of one
update.

Axes: L lanes, C = 2 critics, B minibatch, A actions, F features. Losses are reduced over the batch
and summed over lanes and critics, so that a lane's gradient is its own.

One update: critics, then (every `policy_delay` updates) the actor, the targets in the same pass as
the optimizer's. Then the topology of the lanes that are due (`evolve_if_due_`). Moving a target
together with its network is exact: nothing reads the targets between the critics' step and the end
of the update.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastanf.activations import Activation
from fastanf.features import FeatureView, NoisyFeatures
from fastanf.instrument import Stage, stage
from fastanf.kernels.layer_input import LayerInput
from fastanf.kernels.losses import squared_error
from fastanf.nets import NUM_CRITICS, ActionRange, StackedMLP, TwinCritic, build_mlp
from fastanf.replay import Batch
from fastanf.rng import LaneRng
from fastanf.sparse.evolution import TopologyEvolution, TopologySettings
from fastanf.sparse.input_penalty import InputPenalty
from fastanf.sparse.layers import CsrLinear
from fastanf.sparse.mask_adam import StackedOptimizer
from fastanf.sparse.trim import trim_to_

ACTOR, CRITIC = 0, 1
# Network calls of one update that may draw features; the next update's calls are numbered from
# there.
CALLS_PER_UPDATE = 8


@dataclass(frozen=True)
class AlgorithmSettings:
    """What an algorithm needs to know, one entry a lane where the axis L is named."""

    num_features: int
    """F, noise included."""
    action_low: Sequence[float]
    """[A] in the environment's units."""
    action_high: Sequence[float]
    """[A]."""
    hidden: Sequence[int]
    """Sizes of the hidden layers."""
    activation: Activation
    """Of the hidden layers."""
    actor_active: Sequence[Sequence[int]]
    """Active connections per layer and lane, where they are pruned those that stay."""
    critic_active: Sequence[Sequence[int]]
    """The same for each of the two critics."""
    actor_layouts: Sequence[str]
    """How each layer's connections are stored, "masked" or "csr"."""
    critic_layouts: Sequence[str]
    actor_topology: TopologySettings
    """How connections change."""
    critic_topology: TopologySettings
    learning_rate: Tensor
    """[L]."""
    weight_decay: Tensor
    """[L] coupled L2."""
    mask_moments: Tensor
    """[L] bool, MaskAdam where true."""
    input_l1: Tensor
    """[L] strength of the penalties on the first layers' feature weights."""
    input_group_lasso: Tensor
    """[L]."""
    discount: Tensor
    """[L]."""
    tau: Tensor
    """[L] step of the targets."""
    target_period: Sequence[int]
    """Updates between two steps of the targets, per lane."""
    policy_delay: int
    """Updates of the critics per update of the actor."""
    temperature: Tensor
    """[L] of SAC's entropy; the starting value where it is tuned."""
    automatic_temperature: Tensor
    """[L] bool."""
    target_noise: Tensor
    """[L] deviation of TD3's target smoothing, in units of the action's scale."""
    target_noise_clip: Tensor
    """[L]."""
    exploration_noise: Tensor
    """[L] deviation of TD3's exploration."""
    layer_norm: bool = False
    """Hidden layers are normalised before their activation."""
    input_gate: bool = False
    """Every feature has a learned gate in each network."""
    use_sgd: bool = False
    """Plain gradient descent in place of Adam."""
    trim_targets: bool = False
    """Targets keep as many connections as the network, the largest, wherever they are (the
    published rule).
    """


class UpdateKind(NamedTuple):
    """What an update does beside a step of the critics; updates of one kind are one program."""

    actor: bool
    """A step of the actor."""
    targets: bool
    """A step of the targets, in some lanes at least."""
    gradients: bool
    """Dense gradients are kept, for connections that are to grow by them."""


class Seen(NamedTuple):
    """What the figures of the last update are made of, where a record asks for them."""

    critic: tuple[Tensor, Tensor] | None = None
    """q [L, C, B] and q - y."""
    actor: tuple[Tensor, ...] | None = None
    """[L, B] each, what the loss of the actor's last update is made of."""
    temperature: Tensor | None = None
    """[L] in that update, where there is one."""


class Losses(NamedTuple):
    """Figures of the last update, for records; an actor's stay as they were while it waits."""

    critic: Tensor  # [L] sum over critics of the mean squared error
    actor: Tensor  # [L]
    value: Tensor  # [L] mean of Q over batch and critics
    entropy: Tensor  # [L] mean of -log pi, NaN for TD3
    temperature: Tensor  # [L], NaN for TD3


class ActorCritic(ABC):
    """Stacked actor, twin critic and their targets.

    Args:
        settings: of all lanes.
        features: what the networks see.
        rng: random numbers of the lanes.
    """

    actor_outputs_per_action: int
    initialisation: str
    has_target_actor: bool

    def __init__(self, settings: AlgorithmSettings, features: NoisyFeatures, rng: LaneRng):
        self.settings, self.features, self.rng = settings, features, rng
        device = rng.key.device
        self.action_range = ActionRange.from_limits(
            settings.action_low, settings.action_high, device
        )
        F, A = settings.num_features, len(settings.action_low)
        self.num_actions = A
        num_gates = F if settings.input_gate else 0
        actor_sizes = (F, *settings.hidden, self.actor_outputs_per_action * A)
        critic_sizes = (F + A, *settings.hidden, 1)
        self.actor_mlp = build_mlp(
            rng, ACTOR, actor_sizes, settings.actor_active, 1, settings.activation,
            self.initialisation, settings.actor_layouts, settings.layer_norm, num_gates,
            settings.actor_topology.starts_dense,
        )  # fmt: skip
        critic_mlp = build_mlp(
            rng, CRITIC, critic_sizes, settings.critic_active, NUM_CRITICS, settings.activation,
            self.initialisation, settings.critic_layouts, settings.layer_norm, num_gates,
            settings.critic_topology.starts_dense,
        )  # fmt: skip
        self.critic = TwinCritic(critic_mlp)
        self.target_critic = self.critic.target_copy()
        self.target_actor_mlp = self.actor_mlp.target_copy() if self.has_target_actor else None
        self.actor_optimizer = self._optimizer(self.actor_mlp, self.target_actor_mlp)
        self.critic_optimizer = self._optimizer(critic_mlp, self.target_critic.mlp)
        self.topologies = (
            self._topology(ACTOR, self.actor_mlp, self.target_actor_mlp, self.actor_optimizer),
            self._topology(CRITIC, critic_mlp, self.target_critic.mlp, self.critic_optimizer),
        )
        self.seen = Seen()
        # Of the last update before a checkpoint that this goes on from.
        unknown = torch.full_like(settings.tau, float("nan"))
        self._earlier_losses = Losses(*[unknown] * len(Losses._fields))
        periods = settings.target_period
        self._target_period = torch.tensor(periods, device=device)
        self._shares_target_period = len(set(periods)) == 1

    def _optimizer(self, network: StackedMLP, target: StackedMLP | None) -> StackedOptimizer:
        s = self.settings
        targets = () if target is None else target.parameters()
        return StackedOptimizer(
            network.parameters(),
            targets,
            s.learning_rate,
            s.weight_decay,
            s.mask_moments,
            s.use_sgd,
            masks_targets=not s.trim_targets,
            penalty=InputPenalty(
                network.layers[0], s.num_features, s.input_l1, s.input_group_lasso
            ),
        )

    def _topology(
        self,
        index: int,
        network: StackedMLP,
        target: StackedMLP | None,
        optimizer: StackedOptimizer,
    ) -> TopologyEvolution:
        # Trimmed targets choose their own connections.
        follows = target is not None and not self.settings.trim_targets
        target_layers = target.layers if target is not None and follows else ()
        settings = self.settings.actor_topology if index == ACTOR else self.settings.critic_topology
        return TopologyEvolution(
            settings, index, network.layers, target_layers, optimizer, self.rng
        )

    def kind_of(self, update: int) -> UpdateKind:
        """What update number `update` does; the first is 1."""
        return UpdateKind(
            actor=update % self.settings.policy_delay == 0,
            targets=any(update % period == 0 for period in self.settings.target_period),
            # An actor's connections may grow by the gradient of an update before.
            gradients=any(
                topology.needs_gradient(update, self.settings.policy_delay)
                for topology in self.topologies
            ),
        )

    def update_(
        self, batch: Batch, update: int | Tensor, kind: UpdateKind, envs_per_lane: int = 1
    ) -> None:
        """One update of every lane, but for its topology.

        With the number on the device nothing here depends on a number of the host but `kind`, so
        that updates of one kind can be one CUDA graph.

        Args:
            batch: [L, B, .].
            update: its number, the first is 1; or the same as int64 [] on the device.
            kind: of this number.
            envs_per_lane: E of the replay, to read an observation's time from its id.
        """
        for topology in self.topologies:
            topology.keep_gradients_(kind.gradients)
        call, half = CALLS_PER_UPDATE * update, CALLS_PER_UPDATE // 2
        features = self.features
        view = features.view(batch.obs, batch.obs_id, call, envs_per_lane, half)
        next_view = features.view(
            batch.next_obs, batch.next_obs_id, call + half, envs_per_lane, half
        )
        tau = self._tau_now(update) if kind.targets else None
        self._update_critic_(batch, view, next_view, update, tau)
        if kind.actor:
            self._update_actor_(view, update, tau if self.has_target_actor else None)
        elif tau is not None and self.target_actor_mlp is not None:
            with stage(Stage.POLYAK):
                self.actor_optimizer.follow_(tau)
        if tau is not None and self.settings.trim_targets:
            with stage(Stage.POLYAK):
                self._trim_targets_(tau)

    def evolve_if_due_(self, update: int) -> bool:
        """Change the connections of the lanes whose turn it is after update number `update`.

        Returns:
            Whether any lane's turn it was.
        """
        were_due = [topology.evolve_if_due_(update) for topology in self.topologies]
        return any(were_due)

    @property
    def is_capturable(self) -> bool:
        """Whether an update asks the host for nothing; plain torch does for csr layers."""
        networks = self.networks().values()
        return not any(isinstance(layer, CsrLinear) for mlp in networks for layer in mlp.layers)

    def _tau_now(self, update: int | Tensor) -> Tensor:
        """[L] step of the targets, zero in lanes whose period has not passed."""
        if self._shares_target_period:
            return self.settings.tau
        return self.settings.tau * (update % self._target_period == 0)

    def _update_critic_(
        self,
        batch: Batch,
        view: FeatureView,
        next_view: FeatureView,
        update: int | Tensor,
        tau: Tensor | None,
    ) -> None:
        with stage(Stage.TARGET), torch.no_grad():
            target = self._target(batch, next_view, update)  # [L, B]
        with stage(Stage.CRITIC_FORWARD):
            q = self.critic.value(view.draw(), batch.action.transpose(1, 2))  # [L, C, B]
            error, slope = squared_error(q.detach(), target)
        with stage(Stage.CRITIC_BACKWARD):
            grads = torch.autograd.grad(q, self.critic_optimizer.tensors(), slope)
        with stage(Stage.CRITIC_OPTIMIZER):
            self.critic_optimizer.step_(grads, tau)
        self.seen = self.seen._replace(critic=(q.detach(), error))

    @abstractmethod
    def _target(self, batch: Batch, next_view: FeatureView, update: int | Tensor) -> Tensor:
        """[L, B] what the critics learn."""

    @abstractmethod
    def _update_actor_(self, view: FeatureView, update: int | Tensor, tau: Tensor | None) -> None:
        """One step of the actor, and of its target by tau."""

    @property
    def losses(self) -> Losses:
        """Figures of the last update, NaN before the first."""
        losses = self._earlier_losses
        if self.seen.critic is not None:
            q, error = self.seen.critic
            losses = losses._replace(critic=error.square().mean(-1).sum(1), value=q.mean((1, 2)))
        return losses if self.seen.actor is None else losses._replace(**self._actor_losses())

    def restore_losses_(self, losses: Tensor) -> None:
        """Figures [5, L] that `losses` showed when a checkpoint was written.

        Raises:
            ValueError: another number of lanes.
        """
        shape = len(Losses._fields), len(self.settings.tau)
        if losses.shape != shape:
            raise ValueError(
                f"checkpoint tensor losses has shape {tuple(losses.shape)}; expected is {shape}"
            )
        self._earlier_losses = Losses(*losses.to(self.settings.tau.device))
        self.seen = Seen()

    @abstractmethod
    def _actor_losses(self) -> dict[str, Tensor]:
        """Those figures, each [L], that come from the actor's last update."""

    @abstractmethod
    def explore(self, x: LayerInput, step: int | Tensor) -> Tensor:
        """Actions [L, B, A] for training on features x [L, F, B] at environment step `step`."""

    @abstractmethod
    def act(self, x: LayerInput) -> Tensor:
        """Deterministic actions [L, B, A] on features x [L, F, B]."""

    def _trim_targets_(self, tau: Tensor) -> None:
        moved = tau > 0
        pairs = [(self.critic.mlp, self.target_critic.mlp)]
        if self.target_actor_mlp is not None:
            pairs.append((self.actor_mlp, self.target_actor_mlp))
        for network, target in pairs:
            for layer, target_layer in zip(network.layers, target.layers, strict=True):
                if layer.is_sparse:
                    rows = moved.repeat_interleave(layer.shape[0] // moved.shape[0])
                    trim_to_(target_layer.trained, layer.trained, rows)

    def networks(self) -> dict[str, StackedMLP]:
        """Every network by its name in a checkpoint."""
        networks = {
            "actor": self.actor_mlp,
            "critic": self.critic.mlp,
            "target_critic": self.target_critic.mlp,
        }
        if self.target_actor_mlp is not None:
            networks["target_actor"] = self.target_actor_mlp
        return networks

    def further_tensors(self) -> dict[str, Tensor]:
        """What is trained beside the networks, by name, lanes first."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, masks, moments and counters by name, in a form that all layouts share."""
        state = {}
        for name, network in self.networks().items():
            for parameter in network.parameters():
                state[f"{name}.{parameter.name}"] = parameter.to_dense(parameter.tensor.detach())
                layer = parameter.layer
                if layer is not None and layer.is_sparse and not name.startswith("target"):
                    state[f"{name}.{parameter.name}.mask"] = layer.connection_mask()
        for name, optimizer in self._optimizers().items():
            state |= {f"{name}.optimizer.{k}": v for k, v in optimizer.state_dict().items()}
        return state | self._delayed_gradients()

    @torch.no_grad()
    def load_state_dict_(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned, into this algorithm's memory.

        Raises:
            ValueError: a tensor is missing or has another shape, or a layer another number of
                connections.
        """
        for name, tensor in self.state_dict().items():
            if name not in state or state[name].shape != tensor.shape:
                found = tuple(state[name].shape) if name in state else "none"
                raise ValueError(
                    f"checkpoint tensor {name} has shape {found}; this run expects "
                    f"{tuple(tensor.shape)}"
                )
        for name, network in self.networks().items():
            for parameter in network.parameters():
                key, layer = f"{name}.{parameter.name}", parameter.layer
                # A target shares its network's connections, and comes later.
                if layer is not None and f"{key}.mask" in state:
                    layer.set_connections_(state[f"{key}.mask"])
                parameter.tensor.copy_(parameter.from_dense(state[key]))
        for name, optimizer in self._optimizers().items():
            prefix = f"{name}.optimizer."
            optimizer.load_state_dict_(
                {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            )
        for name, gradient in self._delayed_gradients().items():
            gradient.copy_(state[name])

    def _delayed_gradients(self) -> dict[str, Tensor]:
        """Those that connections of the actor may grow by after an update without its step."""
        if self.settings.policy_delay == 1:
            return {}
        parameters = self.actor_optimizer.parameters
        kept = self.topologies[ACTOR].kept_gradients
        return {f"actor.{parameters[own.parameter].name}.gradient": own.kept for own in kept}

    def _optimizers(self) -> dict[str, StackedOptimizer]:
        return {"actor": self.actor_optimizer, "critic": self.critic_optimizer}
