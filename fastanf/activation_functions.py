"""The activation functions themselves; each has the name that a configuration gives it.

Axes: h is feature-major, [L, (C,) H, B]; parameters are numbers, or learned tensors
[L, (C,) H or 1, 1]. Every function returns a tensor like h.

torch computes the last elements of a CPU tensor, those that do not fill a vector register, by
scalar code. For sigmoid, silu, elu, selu, softplus and pow that code rounds in another way, so that
a lane's bits would depend on which lanes follow it. Here these are made of exp, expm1, log, sqrt,
logsigmoid and arithmetic, whose two forms agree, gradients included.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

Value = Tensor | float

# Klambauer et al. 2017, arXiv 1706.02515, eq. 14.
SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805

_EXACT_EXPONENTS = (0.5, 1.0, 2.0)
"""Powers that torch computes by sqrt, copy and product."""


def relu(h: Tensor) -> Tensor:
    """max(h, 0)."""
    return torch.relu(h)


def tanh(h: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return torch.tanh(h)


def sigmoid(h: Tensor) -> Tensor:
    """1 / (1 + exp(-h))."""
    return F.logsigmoid(h).exp()


def elu(h: Tensor, alpha: Value) -> Tensor:
    """h for h > 0, else alpha * (exp(h) - 1)."""
    return torch.where(h > 0, h, alpha * h.clamp(max=0).expm1())


def leakyrelu(h: Tensor, slope: float) -> Tensor:
    """h for h > 0, else slope * h."""
    return F.leaky_relu(h, slope)


def swish(h: Tensor) -> Tensor:
    """h * sigmoid(h)."""
    return h * sigmoid(h)


def selu(h: Tensor) -> Tensor:
    """Scaled elu with the self-normalising constants."""
    return SELU_SCALE * elu(h, SELU_ALPHA)


def symsqrt(h: Tensor) -> Tensor:
    """sign(h) * sqrt(|h|)."""
    return nonlex(h, 1.0, 0.5, 1.0, 0.5)


def symsqrt1(h: Tensor) -> Tensor:
    """h within [-1, 1], symsqrt outside."""
    return torch.where(h.abs() > 1, h.sign() * h.abs().clamp(min=1).sqrt(), h)


def nonlex(
    h: Tensor,
    multiplier_right: Value,
    exponent_right: Value,
    multiplier_left: Value,
    exponent_left: Value,
) -> Tensor:
    """m_r * h^e_r for h > 0, -m_l * (-h)^e_l for h < 0."""
    # The side that is not taken gets 1: its power and the gradients of it stay finite.
    right = multiplier_right * _power(torch.where(h > 0, h, 1.0), exponent_right)
    left = -multiplier_left * _power(torch.where(h < 0, -h, 1.0), exponent_left)
    # 0 * h and not 0: a NaN goes through.
    return torch.where(h > 0, right, torch.where(h < 0, left, 0.0 * h))


def lex(
    h: Tensor,
    multiplier_right: Tensor,
    exponent_right: Tensor,
    multiplier_left: Tensor,
    exponent_left: Tensor,
) -> Tensor:
    """`nonlex` with learned values."""
    values = (multiplier_right, exponent_right, multiplier_left, exponent_left)
    return nonlex(h, *(_over_neurons(value, h) for value in values))


def fixedsrelu(
    h: Tensor, threshold_right: Value, slope_right: Value, threshold_left: Value, slope_left: Value
) -> Tensor:
    """t_r + a_r * (h - t_r) above t_r, t_l + a_l * (h - t_l) below t_l, else h.

    Source: Jin et al. 2016, arXiv 1512.07030, eq. 1.
    """
    right = threshold_right + slope_right * (h - threshold_right)
    left = threshold_left + slope_left * (h - threshold_left)
    return torch.where(h < threshold_left, left, torch.where(h > threshold_right, right, h))


def srelu(
    h: Tensor,
    threshold_right: Tensor,
    slope_right: Tensor,
    threshold_left: Tensor,
    slope_left: Tensor,
) -> Tensor:
    """`fixedsrelu` with learned values."""
    values = (threshold_right, slope_right, threshold_left, slope_left)
    return fixedsrelu(h, *(_over_neurons(value, h) for value in values))


def allrelu(h: Tensor, slope: float) -> Tensor:
    """h for h > 0, else slope * h, where the sign of the slope alternates by layer.

    Source: Curci et al. 2021, arXiv 2102.01732, eq. 3.
    """
    return F.leaky_relu(h, slope)


def _power(base: Tensor, exponent: Value) -> Tensor:
    """base^exponent for base > 0."""
    if isinstance(exponent, float) and exponent in _EXACT_EXPONENTS:
        return base**exponent
    return (exponent * base.log()).exp()


def _over_neurons(value: Tensor, h: Tensor) -> Tensor:
    """A parameter [L, H or 1, 1] as [L, H, 1].

    Its gradient is thus summed over the batch first and over the neurons then. A sum into one
    single number, as of one lane alone, would be shared out between threads, with other rounding.
    """
    return value.expand(*h.shape[:-1], 1)
