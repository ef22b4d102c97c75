"""Activation functions as ONNX nodes; the formulas are those of activation_functions.py.

ONNX has some of them as operations; the others are composed of elementary ones.

Axes: h is [n, H]; learned parameters are [H] or [1].
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fastanf.activation_functions import SELU_ALPHA, SELU_SCALE
from fastanf.activations import Activation
from fastanf.export.onnx_nodes import Nodes


def activate(
    nodes: Nodes,
    activation: Activation,
    h: str,
    layer_index: int,
    learned: Mapping[str, NDArray[np.float32]],
) -> str:
    """Append an activation.

    Args:
        nodes: of the graph.
        activation: the function with its arguments.
        h: name of the pre-activations [n, H].
        layer_index: of the hidden layer, the first is 0.
        learned: [H] or [1], what the function has learned in this layer, by name.

    Returns:
        The name of the result [n, H].

    Raises:
        ValueError: an activation that has no form here.
    """
    name, args = activation.name, activation.args
    if name in _PLAIN:
        return nodes.add(_PLAIN[name], h)
    if name == "elu":
        return nodes.add("Elu", h, alpha=args[0])
    if name == "selu":
        return nodes.add("Selu", h, alpha=SELU_ALPHA, gamma=SELU_SCALE)
    if name == "leakyrelu":
        return nodes.add("LeakyRelu", h, alpha=args[0])
    if name == "allrelu":
        return nodes.add("LeakyRelu", h, alpha=args[0] if layer_index % 2 else -args[0])
    if name not in _COMPOSED:
        raise ValueError(f"activation {name} has no ONNX form: take --format torch")
    if not activation.is_learnable:
        return _COMPOSED[name](nodes, h, *(nodes.number(value) for value in args))
    stored = {
        part: nodes.constant(values, f"{layer_index}.activation.{part}")
        for part, values in learned.items()
    }
    return _COMPOSED[name](nodes, h, **stored)


def _swish(nodes: Nodes, h: str) -> str:
    return nodes.add("Mul", h, nodes.add("Sigmoid", h))


def _symsqrt(nodes: Nodes, h: str) -> str:
    return nodes.add("Mul", nodes.add("Sign", h), nodes.add("Sqrt", nodes.add("Abs", h)))


def _symsqrt1(nodes: Nodes, h: str) -> str:
    is_outside = nodes.add("Greater", nodes.add("Abs", h), nodes.number(1.0))
    return nodes.add("Where", is_outside, _symsqrt(nodes, h), h)


def _nonlex(
    nodes: Nodes,
    h: str,
    multiplier_right: str,
    exponent_right: str,
    multiplier_left: str,
    exponent_left: str,
) -> str:
    zero, one = nodes.number(0.0), nodes.number(1.0)
    is_right, is_left = nodes.add("Greater", h, zero), nodes.add("Less", h, zero)
    # The side that is not taken gets 1, whose powers are finite.
    right = nodes.add("Pow", nodes.add("Where", is_right, h, one), exponent_right)
    left = nodes.add("Pow", nodes.add("Where", is_left, nodes.add("Neg", h), one), exponent_left)
    left = nodes.add("Neg", nodes.add("Mul", multiplier_left, left))
    middle = nodes.add("Mul", h, zero)  # a NaN goes through
    middle = nodes.add("Where", is_left, left, middle)
    return nodes.add("Where", is_right, nodes.add("Mul", multiplier_right, right), middle)


def _fixedsrelu(
    nodes: Nodes,
    h: str,
    threshold_right: str,
    slope_right: str,
    threshold_left: str,
    slope_left: str,
) -> str:
    def beyond(threshold: str, slope: str) -> str:
        rise = nodes.add("Mul", slope, nodes.add("Sub", h, threshold))
        return nodes.add("Add", threshold, rise)

    is_left = nodes.add("Less", h, threshold_left)
    is_right = nodes.add("Greater", h, threshold_right)
    right = nodes.add("Where", is_right, beyond(threshold_right, slope_right), h)
    return nodes.add("Where", is_left, beyond(threshold_left, slope_left), right)


_PLAIN = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}
_COMPOSED = {
    "swish": _swish,
    "symsqrt": _symsqrt,
    "symsqrt1": _symsqrt1,
    "nonlex": _nonlex,
    "lex": _nonlex,
    "fixedsrelu": _fixedsrelu,
    "srelu": _fixedsrelu,
}
