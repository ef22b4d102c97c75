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

from fastanf import kernels
from fastanf.kernels.mask_adam import (
    FusedStep,
    TrainedTensor,
    follow_,
    is_fused,
    mask_adam_,
    mask_sgd_,
)
from fastanf.sparse.input_penalty import InputPenalty
from fastanf.sparse.kept_gradient import KeptGradient
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
        penalty: of the first layer's weights, added to their gradient; or None.
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
        penalty: InputPenalty | None = None,
    ):
        self.parameters = list(parameters)
        self.targets = list(targets)
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.mask_moments = mask_moments
        self.use_sgd = use_sgd
        self.masks_targets = masks_targets
        self._penalty = penalty
        self.kept_gradients: Sequence[KeptGradient] = ()
        """What the next step keeps of the gradients of the loss."""
        self.num_steps: int | Tensor = _zero_steps(self.parameters)
        self._fused: dict[bool, FusedStep] = {}
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
        self.num_steps += 1  # a tensor stays where it is, so that a CUDA graph counts
        for kept in self.kept_gradients:
            kept.keep_(grads)
        follows = bool(self.targets) and tau is not None and self.masks_targets
        grads = [grad.contiguous() for grad in self._penalised(grads)]
        if all(is_fused(parameter.tensor) for parameter in self.parameters):
            self._fused_step_(grads, tau if follows else None)
        else:
            for tensor, grad in zip(self._trained(follows), grads, strict=True):
                self._plain_step_(tensor, grad, tau if follows else None)
        if tau is not None and not self.masks_targets:
            self.follow_(tau)

    def _penalised(self, grads: Sequence[Tensor]) -> Sequence[Tensor]:
        penalty = self._penalty
        if penalty is None or penalty.is_nothing:
            return grads
        return [
            penalty.added(grad) if parameter.layer is penalty.layer else grad
            for parameter, grad in zip(self.parameters, grads, strict=True)
        ]

    def _fused_step_(self, grads: Sequence[Tensor], tau: Tensor | None) -> None:
        follows = tau is not None
        if follows not in self._fused:
            self._fused[follows] = FusedStep(self._trained(follows))
        self._fused[follows].run_(
            grads, None if self.use_sgd else self.num_steps, self.learning_rate, self.weight_decay,
            self.mask_moments, tau,
        )  # fmt: skip

    def _plain_step_(self, tensor: TrainedTensor, grad: Tensor, tau: Tensor | None) -> None:
        grad = grad.view_as(tensor.weight)
        if tensor.exp_avg is None or tensor.exp_avg_sq is None:
            return mask_sgd_(
                tensor.weight, grad, self.learning_rate, self.weight_decay, tensor.mask,
                target=tensor.target, tau=tau,
            )  # fmt: skip
        return mask_adam_(
            tensor.weight, grad, tensor.exp_avg, tensor.exp_avg_sq, self.num_steps,
            self.learning_rate, self.weight_decay, tensor.mask, self.mask_moments,
            target=tensor.target, tau=tau,
        )  # fmt: skip

    def _trained(self, follows: bool) -> list[TrainedTensor]:
        """The parameters with what belongs to them, each seen as [L, n]."""
        L = self.learning_rate.shape[0]

        def of(tensors: Sequence[Tensor], index: int) -> Tensor | None:
            return tensors[index].view(L, -1) if tensors else None

        targets = [target.tensor for target in self.targets] if follows else []
        return [
            TrainedTensor(
                parameter.tensor.detach().view(L, -1),
                of(self.exp_avg, index),
                of(self.exp_avg_sq, index),
                _mask_per_lane(L, parameter.mask),
                of(targets, index),
            )
            for index, parameter in enumerate(self.parameters)
        ]

    @torch.no_grad()
    def follow_(self, tau: Tensor) -> None:
        """Move the targets by tau [L] without a step."""
        if not self.targets:
            return
        trained = self._trained(follows=True)
        if not self.masks_targets:
            trained = [tensor._replace(mask=None) for tensor in trained]
        follow_(trained, tau)

    def state_dict(self) -> dict[str, Tensor]:
        """Moments by the names of their parameters, in a form that all layouts share, and the
        number of steps.
        """
        state = {"num_steps": torch.as_tensor(self.num_steps)}
        for kind, moments in self._moments():
            for parameter, moment in zip(self.parameters, moments, strict=False):
                state[f"{parameter.name}.{kind}"] = parameter.to_dense(moment)
        return state

    def load_state_dict_(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned; the parameters' connections are in place already."""
        if isinstance(self.num_steps, Tensor):
            self.num_steps.copy_(state["num_steps"])
        else:
            self.num_steps = int(state["num_steps"])
        for kind, moments in self._moments():
            for parameter, moment in zip(self.parameters, moments, strict=False):
                moment.copy_(parameter.from_dense(state[f"{parameter.name}.{kind}"]))

    def _moments(self) -> tuple[tuple[str, list[Tensor]], ...]:
        return ("exp_avg", self.exp_avg), ("exp_avg_sq", self.exp_avg_sq)

    def index_of(self, tensor: Tensor) -> int:
        """The place of a trained tensor among `tensors()`."""
        return next(i for i, p in enumerate(self.parameters) if p.tensor is tensor)

    def moments_of(self, tensor: Tensor) -> list[Tensor]:
        """Both moments of a trained tensor, or none (SGD)."""
        if self.use_sgd:
            return []
        index = self.index_of(tensor)
        return [self.exp_avg[index], self.exp_avg_sq[index]]


def _zero_steps(parameters: Sequence[Parameter]) -> int | Tensor:
    """0, on the CPU as a Python number and else where the parameters are, [] int64."""
    weight = parameters[0].tensor
    if weight.is_cpu and not kernels.is_triton(weight):
        return 0
    return torch.zeros((), dtype=torch.int64, device=weight.device)


def _mask_per_lane(num_lanes: int, mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.view(num_lanes, -1)
