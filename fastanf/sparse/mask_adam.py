"""Optimizers of stacked, masked parameters: MaskAdam, Adam and SGD, with the target's polyak step
in the same pass.

Axes: L lanes; a parameter [G, ...] is seen as [L, n]. MaskAdam is Adam whose gradient and both
moments are zero where a connection is inactive (Grooten et al. 2023, arXiv 2302.06548, Sec. 4).
With `mask_moments` False in a lane, its moments follow the dense gradient and only the weights are
masked (DS of Sokar et al. 2022). Both can stand in one block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fastanf.kernels.mask_adam import mask_adam_, mask_sgd_, polyak_
from fastanf.sparse.layers import Parameter


class StackedOptimizer:
    """Steps all parameters of one network in every lane, and lets its target follow.

    Args:
        parameters: what is trained.
        targets: the same parameters of the target network, or none.
        learning_rate: [L].
        weight_decay: [L], coupled L2 on every parameter.
        mask_moments: [L] bool, True for MaskAdam.
        use_sgd: plain gradient descent in place of Adam, for all lanes.
        masks_targets: keep targets on the connections of their network; else they move everywhere.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        targets: Iterable[Parameter],
        learning_rate: Tensor,
        weight_decay: Tensor,
        mask_moments: Tensor,
        use_sgd: bool = False,
        masks_targets: bool = True,
    ):
        self.parameters = list(parameters)
        self.targets = list(targets)
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.mask_moments = mask_moments
        self.use_sgd = use_sgd
        self.masks_targets = masks_targets
        self.num_steps = 0
        self.exp_avg: list[Tensor] = []
        self.exp_avg_sq: list[Tensor] = []
        if not use_sgd:
            self.exp_avg = [torch.zeros_like(p.tensor) for p in self.parameters]
            self.exp_avg_sq = [torch.zeros_like(p.tensor) for p in self.parameters]

    def tensors(self) -> list[Tensor]:
        """The trained tensors, in the order in which `step_` wants their gradients."""
        return [parameter.tensor for parameter in self.parameters]

    @torch.no_grad()
    def step_(self, grads: Sequence[Tensor], tau: Tensor | None = None) -> None:
        """One step; with tau [L] the targets then move by tau towards the new weights."""
        self.num_steps += 1
        L = self.learning_rate.shape[0]
        for i, (parameter, grad) in enumerate(zip(self.parameters, grads, strict=True)):
            weight, grad = _per_lane(L, parameter.tensor, grad.contiguous())
            mask = _mask_per_lane(L, parameter.mask)
            follow = None
            if self.targets and tau is not None and self.masks_targets:
                follow = self.targets[i].tensor.view(L, -1)
            if self.use_sgd:
                mask_sgd_(
                    weight,
                    grad,
                    self.learning_rate,
                    self.weight_decay,
                    mask,
                    target=follow,
                    tau=None if follow is None else tau,
                )
                continue
            mask_adam_(
                weight,
                grad,
                self.exp_avg[i].view(L, -1),
                self.exp_avg_sq[i].view(L, -1),
                self.num_steps,
                self.learning_rate,
                self.weight_decay,
                mask,
                self.mask_moments,
                target=follow,
                tau=None if follow is None else tau,
            )
        if tau is not None and not self.masks_targets:
            self.follow_(tau)

    @torch.no_grad()
    def follow_(self, tau: Tensor) -> None:
        """Move the targets by tau [L] without a step."""
        L = tau.shape[0]
        if not self.targets:
            return
        for (_, target, _), (_, online, mask) in zip(self.targets, self.parameters, strict=True):
            mask = _mask_per_lane(L, mask) if self.masks_targets else None
            polyak_(*_per_lane(L, target, online.detach()), tau, mask=mask)

    def state_dict(self) -> dict[str, Tensor]:
        """Moments by the names of their parameters, and the number of steps."""
        state = {"num_steps": torch.tensor(self.num_steps)}
        for kind, moments in (("exp_avg", self.exp_avg), ("exp_avg_sq", self.exp_avg_sq)):
            for parameter, moment in zip(self.parameters, moments, strict=False):
                state[f"{parameter.name}.{kind}"] = moment
        return state

    def moments_of(self, tensor: Tensor) -> list[Tensor]:
        """Both moments of a trained tensor, or none (SGD)."""
        if self.use_sgd:
            return []
        index = next(i for i, p in enumerate(self.parameters) if p.tensor is tensor)
        return [self.exp_avg[index], self.exp_avg_sq[index]]


def _per_lane(num_lanes: int, weight: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    return weight.detach().view(num_lanes, -1), other.view(num_lanes, -1)


def _mask_per_lane(num_lanes: int, mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.view(num_lanes, -1)
