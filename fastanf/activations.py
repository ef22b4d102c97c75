"""Activation functions of the hidden layers, by the names that the ANF code gives them.

`act_func_args` sets the parameters of a function: constants, or for `srelu` and `lex` the values
from which they are learned, one per layer or one per neuron.

    symsqrt   sign(x) * sqrt(|x|)
    symsqrt1  x within [-1, 1], symsqrt outside
    lex       m_r * x^e_r for x > 0, -m_l * (-x)^e_l for x < 0; `nonlex` with constants
    srelu     t_r + a_r * (x - t_r) above t_r, t_l + a_l * (x - t_l) below t_l, else x
              (Jin et al. 2016, arXiv 1512.07030, eq. 1); `fixedsrelu` with constants
    allrelu   x for x > 0, else -a * x in hidden layers 0, 2, ... and a * x in 1, 3, ...
              (Curci et al. 2021, arXiv 2102.01732, eq. 3)

The roots and powers have no finite slope at 0; there the gradient is taken as 0, as that of relu.

Axes: h is feature-major, [L, (C,) H, B]; parameters are [L, (C,) H or 1, 1].
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class _Formula:
    function: Callable[..., Tensor]
    """(h, *values) -> tensor like h."""
    arg_names: tuple[str, ...] = ()
    defaults: tuple[float, ...] = ()
    is_learnable: bool = False
    is_alternating: bool = False
    """Whether the sign of the argument alternates by layer, negative in the first."""


@dataclass(frozen=True)
class Activation:
    """One activation function with its arguments; calling it applies it."""

    name: str
    args: tuple[float, ...] = ()
    per_neuron: bool = False

    @property
    def is_learnable(self) -> bool:
        """Whether the arguments are trained."""
        return _FORMULAS[self.name].is_learnable

    def initial_parameters(
        self, leading: tuple[int, ...], num_neurons: int, per_neuron: bool | None = None
    ) -> dict[str, Tensor]:
        """What is trained in one hidden layer, at its starting values.

        Args:
            leading: (L,) or (L, C).
            num_neurons: H.
            per_neuron: overrides the activation's own choice.

        Returns:
            float32 tensors [*leading, H or 1, 1] by name; none for a function that is not learned.
        """
        if not self.is_learnable:
            return {}
        rows = num_neurons if (self.per_neuron if per_neuron is None else per_neuron) else 1
        names = _FORMULAS[self.name].arg_names
        return {
            name: torch.full((*leading, rows, 1), value)
            for name, value in zip(names, self.args, strict=True)
        }

    def __call__(self, h: Tensor, layer_index: int = 0, **parameters: Tensor) -> Tensor:
        """Apply the function.

        Args:
            h: [..., H, B] pre-activations.
            layer_index: of the hidden layer, the first is 0.
            parameters: those of `initial_parameters`, all of them.

        Returns:
            Tensor like h.
        """
        formula = _FORMULAS[self.name]
        if formula.is_learnable:
            return formula.function(h, *(parameters[name] for name in formula.arg_names))
        if formula.is_alternating and layer_index % 2 == 0:
            return formula.function(h, *(-value for value in self.args))
        return formula.function(h, *self.args)


def make_activation(
    name: str, args: Sequence[float] | None = (), per_neuron: bool = False
) -> Activation:
    """The activation of that name.

    Args:
        name: one of ACTIVATIONS.
        args: all its arguments in the published order, or none for the published values:
            elu: alpha; leakyrelu, allrelu: slope; srelu, fixedsrelu: threshold_right, slope_right,
            threshold_left, slope_left; lex, nonlex: multiplier_right, exponent_right,
            multiplier_left, exponent_left.
        per_neuron: learn one parameter per neuron and not one per layer.

    Raises:
        ValueError: an unknown name, another number of arguments, or per_neuron where nothing is
            learned.
    """
    if name not in _FORMULAS:
        near = difflib.get_close_matches(name, ACTIVATIONS, n=3, cutoff=0.5)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise ValueError(f"activation={name!r} is not one of {', '.join(ACTIVATIONS)}{hint}")
    formula = _FORMULAS[name]
    values = tuple(float(arg) for arg in args or ()) or formula.defaults
    if len(values) != len(formula.arg_names):
        allowed = f"none or {len(formula.arg_names)} ({', '.join(formula.arg_names)})"
        raise ValueError(
            f"act_func_args={list(values)} is not allowed; "
            f"{name} takes {allowed if formula.arg_names else 'none'}"
        )
    if per_neuron and not formula.is_learnable:
        learnable = ", ".join(key for key, each in _FORMULAS.items() if each.is_learnable)
        raise ValueError(
            f"act_func_per_neuron=True is not allowed with activation {name}; only with {learnable}"
        )
    return Activation(name, values, per_neuron)


Value = Tensor | float


def _srelu(
    x: Tensor, threshold_right: Value, slope_right: Value, threshold_left: Value, slope_left: Value
) -> Tensor:
    right = threshold_right + slope_right * (x - threshold_right)
    left = threshold_left + slope_left * (x - threshold_left)
    return torch.where(x < threshold_left, left, torch.where(x > threshold_right, right, x))


def _lex(
    x: Tensor,
    multiplier_right: Value,
    exponent_right: Value,
    multiplier_left: Value,
    exponent_left: Value,
) -> Tensor:
    # The side that is not taken gets 1: its power and the gradients of it stay finite.
    right = multiplier_right * torch.where(x > 0, x, 1.0) ** exponent_right
    left = -multiplier_left * torch.where(x < 0, -x, 1.0) ** exponent_left
    # 0 * x and not 0: a NaN goes through.
    return torch.where(x > 0, right, torch.where(x < 0, left, 0.0 * x))


def _symsqrt(x: Tensor) -> Tensor:
    return _lex(x, 1.0, 0.5, 1.0, 0.5)


def _symsqrt1(x: Tensor) -> Tensor:
    return torch.where(x.abs() > 1, x.sign() * x.abs().clamp(min=1).sqrt(), x)


_SRELU = ("threshold_right", "slope_right", "threshold_left", "slope_left")
_LEX = ("multiplier_right", "exponent_right", "multiplier_left", "exponent_left")

_FORMULAS = {
    "relu": _Formula(torch.relu),
    "tanh": _Formula(torch.tanh),
    "sigmoid": _Formula(torch.sigmoid),
    "elu": _Formula(F.elu, ("alpha",), (1.0,)),
    "leakyrelu": _Formula(F.leaky_relu, ("slope",), (0.01,)),
    "swish": _Formula(F.silu),
    "selu": _Formula(F.selu),
    "symsqrt": _Formula(_symsqrt),
    "symsqrt1": _Formula(_symsqrt1),
    "nonlex": _Formula(_lex, _LEX, (1.0, 1.0, 1.0, 0.5)),
    "lex": _Formula(_lex, _LEX, (1.0, 1.0, 1.0, 0.5), is_learnable=True),
    "fixedsrelu": _Formula(_srelu, _SRELU, (0.4, 0.2, -0.4, 0.2)),
    "srelu": _Formula(_srelu, _SRELU, (0.4, 0.2, -0.4, 0.2), is_learnable=True),
    "allrelu": _Formula(F.leaky_relu, ("slope",), (0.6,), is_alternating=True),
}

ACTIVATIONS = tuple(_FORMULAS)
"""The names of all activations."""
