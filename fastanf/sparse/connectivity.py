"""Whether an input layer is connected to the real features or to the noise.

Measured on masks, not by counting zero weights. Two figures say how well the layer has selected:

    real_share   connections on real features / connections on any feature
    selectivity  (mean connections per real feature) / (mean connections per noise feature)

A random mask has real_share = D / F and selectivity 1. The mean connections per feature are what
Grooten et al. 2023, arXiv 2302.06548, plot over training.

Axes: F features with noise, A action columns, H hidden units; L lanes and C critics in front.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Connectivity:
    """Connections of an input layer, [...] per layer, split by what the feature is."""

    real: Tensor
    """[...] int64, active connections on real features."""
    noise: Tensor
    """[...] int64, active connections on noise features."""
    num_real_features: Tensor
    """int64, broadcasts against `real`."""
    num_noise_features: Tensor
    """int64, broadcasts against `noise`."""

    @property
    def per_real_feature(self) -> Tensor:
        """[...] float64, mean connections of a real feature; NaN where there is none."""
        return self.real.double() / self.num_real_features

    @property
    def per_noise_feature(self) -> Tensor:
        """[...] float64, mean connections of a noise feature; NaN where there is none."""
        return self.noise.double() / self.num_noise_features

    @property
    def real_share(self) -> Tensor:
        """[...] float64 in 0..1, share of connections on real features; NaN without any."""
        return self.real.double() / (self.real + self.noise)

    @property
    def selectivity(self) -> Tensor:
        """[...] float64, per_real_feature / per_noise_feature; inf where noise is fully cut off."""
        return self.per_real_feature / self.per_noise_feature


def connections_per_feature(mask: Tensor, num_action_columns: int = 0) -> Tensor:
    """Active connections of each feature: [..., H, F + A] bool -> [..., F] int64.

    Args:
        mask: [..., H, F + A] bool.
        num_action_columns: A >= 0, trailing columns that are left out (a critic's actions).

    Raises:
        ValueError: no feature left.
    """
    num_features = mask.shape[-1] - num_action_columns
    if num_action_columns < 0 or num_features < 1:
        raise ValueError(
            f"num_action_columns={num_action_columns} is not allowed; "
            f"a mask of {mask.shape[-1]} columns allows 0..{mask.shape[-1] - 1}"
        )
    return mask[..., :num_features].sum(-2)


def count_connections(
    mask: Tensor, real_columns: Tensor, num_action_columns: int = 0
) -> Connectivity:
    """Split the active connections of an input layer into real and noise.

    Args:
        mask: [..., H, F + A] bool.
        real_columns: [F] bool, True at real features; or [L, F] where the lanes, the mask's first
            axis, hold them at different places.
        num_action_columns: A >= 0, trailing columns that are left out.

    Returns:
        Counts of shape [...].

    Raises:
        ValueError: real_columns of another number of features, or no feature left.
    """
    per_feature = connections_per_feature(mask, num_action_columns)
    num_features = per_feature.shape[-1]
    if real_columns.shape[-1] != num_features:
        raise ValueError(
            f"real_columns has {real_columns.shape[-1]} features; the mask has {num_features}"
        )
    num_missing_axes = per_feature.dim() - real_columns.dim()
    is_real = real_columns.reshape(*real_columns.shape[:-1], *(1,) * num_missing_axes, num_features)
    real = torch.where(is_real, per_feature, 0).sum(-1)
    num_real_features = is_real.sum(-1)
    return Connectivity(
        real, per_feature.sum(-1) - real, num_real_features, num_features - num_real_features
    )
