"""Activation functions of the hidden layers, by the names that the ANF code gives them.

`act_func_args` sets the parameters of a function: constants, or for `srelu` and `lex` the values
from which they are learned, one per layer or one per neuron.

    lex       m_r * x^e_r for x > 0, -m_l * (-x)^e_l for x < 0; `nonlex` with constants
    srelu     slopes beyond two thresholds; `fixedsrelu` with constants
    allrelu   x for x > 0, else -a * x in hidden layers 0, 2, ... and a * x in 1, 3, ...

The formulas are in activation_functions.py. The roots and powers have no finite slope at 0; there
the gradient is taken as 0, as that of relu.

Axes: h is feature-major, [L, (C,) H, B]; parameters are [L, (C,) H or 1, 1].
"""

# torch is imported where the functions are applied: the command line checks names and arguments
# before anything slow is imported.
from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class _Signature:
    arg_names: tuple[str, ...] = ()
    defaults: tuple[float, ...] = ()
    is_learnable: bool = False
    is_alternating: bool = False
    """Whether the sign of the argument alternates by layer, negative in the first."""


_SRELU = ("threshold_right", "slope_right", "threshold_left", "slope_left")
_LEX = ("multiplier_right", "exponent_right", "multiplier_left", "exponent_left")

_SIGNATURES = {
    "relu": _Signature(),
    "tanh": _Signature(),
    "sigmoid": _Signature(),
    "elu": _Signature(("alpha",), (1.0,)),
    "leakyrelu": _Signature(("slope",), (0.01,)),
    "swish": _Signature(),
    "selu": _Signature(),
    "symsqrt": _Signature(),
    "symsqrt1": _Signature(),
    "nonlex": _Signature(_LEX, (1.0, 1.0, 1.0, 0.5)),
    "lex": _Signature(_LEX, (1.0, 1.0, 1.0, 0.5), is_learnable=True),
    "fixedsrelu": _Signature(_SRELU, (0.4, 0.2, -0.4, 0.2)),
    "srelu": _Signature(_SRELU, (0.4, 0.2, -0.4, 0.2), is_learnable=True),
    "allrelu": _Signature(("slope",), (0.6,), is_alternating=True),
}

ACTIVATIONS = tuple(_SIGNATURES)
"""The names of all activations."""


@dataclass(frozen=True)
class Activation:
    """One activation function with its arguments; calling it applies it."""

    name: str
    args: tuple[float, ...] = ()
    per_neuron: bool = False

    @property
    def is_learnable(self) -> bool:
        """Whether the arguments are trained."""
        return _SIGNATURES[self.name].is_learnable

    @property
    def slope_below_zero(self) -> float | None:
        """a where the function is x for x > 0 and a * x else, with a in [0, 1], in every layer;
        None for other functions. Kernels apply these themselves.
        """
        if self.name == "relu":
            return 0.0
        if self.name == "leakyrelu" and 0 <= self.args[0] <= 1:
            return self.args[0]
        return None

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
        import torch

        rows = num_neurons if (self.per_neuron if per_neuron is None else per_neuron) else 1
        names = _SIGNATURES[self.name].arg_names
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
        signature, function = _SIGNATURES[self.name], _function(self.name)
        if signature.is_learnable:
            return function(h, *(parameters[name] for name in signature.arg_names))
        if signature.is_alternating and layer_index % 2 == 0:
            return function(h, *(-value for value in self.args))
        return function(h, *self.args)


@functools.cache
def _function(name: str) -> Callable[..., Tensor]:
    from fastanf import activation_functions

    return getattr(activation_functions, name)


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
    if name not in _SIGNATURES:
        near = difflib.get_close_matches(name, ACTIVATIONS, n=3, cutoff=0.5)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise ValueError(f"activation={name!r} is not one of {', '.join(ACTIVATIONS)}{hint}")
    signature = _SIGNATURES[name]
    values = tuple(float(arg) for arg in args or ()) or signature.defaults
    if len(values) != len(signature.arg_names):
        allowed = f"none or {len(signature.arg_names)} ({', '.join(signature.arg_names)})"
        raise ValueError(
            f"act_func_args={list(values)} is not allowed; "
            f"{name} takes {allowed if signature.arg_names else 'none'}"
        )
    if per_neuron and not signature.is_learnable:
        learnable = ", ".join(key for key, each in _SIGNATURES.items() if each.is_learnable)
        raise ValueError(
            f"act_func_per_neuron=True is not allowed with activation {name}; only with {learnable}"
        )
    return Activation(name, values, per_neuron)
