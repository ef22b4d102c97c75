"""An actor as an ONNX graph: `features` [n, F] -> `action` [n, A], any n.

Written node by node, opset 18, with standard operations only. A sparse weight is stored as the
values of its connections and the distances between them, one byte each,

    place_k = d_1 + ... + d_k - 1          W = scatter(values at places, zeros), [O, I]

in nodes that depend on nothing but stored numbers: onnxruntime computes them once, when it loads
the graph, and multiplies dense matrices from then on. Where two connections are more than 255
apart, zeros are stored in between. (ONNX's own `sparse_initializer` takes 12 bytes a connection
for these 5, and its checker lets no `Gemm` read one.)

Axes: inside, rows [n, .].
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fastanf.export.onnx_activations import activate
from fastanf.export.onnx_nodes import Nodes
from fastanf.export.policy import Policy, PolicyLayer
from fastanf.kernels.layer_norm import EPS

OPSET = 18
IR_VERSION = 8
"""The oldest that has this opset, so that older runtimes read it."""
_LARGEST_GAP = 255


def onnx_graph(policy: Policy, about: dict[str, Any]) -> bytes:
    """The graph as the content of a .onnx file.

    Args:
        policy: the actor.
        about: JSON values, stored as the metadata property `fastanf`.

    Raises:
        ValueError: the graph is larger than the 2 GiB that one file can hold.
    """
    nodes = Nodes()
    x = _normalised(nodes, policy, "features")
    last = len(policy.layers) - 1
    for index, layer in enumerate(policy.layers):
        weight = _weight(nodes, layer, f"{index}.weight")
        bias = nodes.constant(layer.bias, f"{index}.bias")
        x = nodes.add("Gemm", x, weight, bias, transB=1)
        if index < last:
            x = _layer_norm(nodes, layer, x, index)
            x = activate(nodes, policy.activation, x, index, layer.activation)
    squashed = nodes.add("Mul", nodes.add("Tanh", x), nodes.constant(policy.action_scale))
    nodes.add("Add", squashed, nodes.constant(policy.action_offset), output="action")
    ends = (("features", policy.num_features), ("action", len(policy.action_scale)))
    taken, given = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in ends
    )
    graph = helper.make_graph(nodes.nodes, "actor", [taken], [given], nodes.initializers)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="fastanf"
    )
    model.ir_version = IR_VERSION
    helper.set_model_props(model, {"fastanf": json.dumps(about)})
    if model.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        raise ValueError(
            f"format onnx holds at most 2 GiB, this actor has {model.ByteSize() / 2**30:.1f} GiB: "
            "take --format torch"
        )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _normalised(nodes: Nodes, policy: Policy, x: str) -> str:
    if policy.feature_shift is None or policy.feature_scale is None:
        return x
    x = nodes.add("Sub", x, nodes.constant(policy.feature_shift, "features.shift"))
    x = nodes.add("Div", x, nodes.constant(policy.feature_scale, "features.scale"))
    low, high = (nodes.number(sign * policy.feature_limit) for sign in (-1, 1))
    return nodes.add("Clip", x, low, high)


def _layer_norm(nodes: Nodes, layer: PolicyLayer, x: str, index: int) -> str:
    if layer.norm_scale is None or layer.norm_shift is None:
        return x
    scale = nodes.constant(layer.norm_scale, f"{index}.norm.scale")
    shift = nodes.constant(layer.norm_shift, f"{index}.norm.shift")
    return nodes.add("LayerNormalization", x, scale, shift, axis=-1, epsilon=EPS)


def _weight(nodes: Nodes, layer: PolicyLayer, name: str) -> str:
    """The name of a weight [O, I]."""
    if layer.mask is None:
        return nodes.constant(layer.weight, name)
    values, gaps = _with_gaps(layer.weight, layer.mask)
    if values.nbytes + gaps.nbytes >= layer.weight.nbytes:
        return nodes.constant(layer.weight, name)
    distances = nodes.add("Cast", nodes.constant(gaps, f"{name}.gaps"), to=TensorProto.INT64)
    places = nodes.add("CumSum", distances, nodes.constant(np.array(0), "axis"))
    places = nodes.add("Sub", places, nodes.constant(np.array(1), "one"))
    size = nodes.constant(np.array([layer.weight.size]), f"{name}.size")
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    zeros = nodes.add("ConstantOfShape", size, value=zero)
    stored = nodes.constant(values, f"{name}.values")
    flat = nodes.add("ScatterElements", zeros, places, stored, axis=0)
    shape = nodes.constant(np.array(layer.weight.shape), f"{name}.shape")
    return nodes.add("Reshape", flat, shape, output=name)


def _with_gaps(
    weight: NDArray[np.float32], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Values [K] of the connections in order, and the distance [K] of each from the one before, the
    first from -1; with zeros at places without a connection where a distance has no byte.
    """
    places = np.flatnonzero(mask)
    before = np.concatenate([[-1], places[:-1]])
    num_missing = (places - before - 1) // _LARGEST_GAP
    first = np.repeat(num_missing.cumsum() - num_missing, num_missing)
    number = np.arange(len(first)) - first + 1  # of a zero behind its connection: 1, 2, ...
    zeros = np.repeat(before, num_missing) + _LARGEST_GAP * number
    every = np.sort(np.concatenate([places, zeros]))
    values = np.where(mask.ravel()[every], weight.ravel()[every], np.float32(0))
    return values, np.diff(every, prepend=-1).astype(np.uint8)
