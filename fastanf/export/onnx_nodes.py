"""The nodes and stored numbers of an ONNX graph while it is written."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper


class Nodes:
    """Nodes in the order of their computation; every one has a single output."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self._stored: dict[str, TensorProto] = {}

    @property
    def initializers(self) -> list[TensorProto]:
        """What is stored."""
        return list(self._stored.values())

    def add(self, operation: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Append a node.

        Args:
            operation: its ONNX name.
            inputs: names of what enters.
            output: name of what leaves; a new one by default.
            attributes: of the operation.

        Returns:
            The output's name.
        """
        output = output or f"{operation.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, inputs, [output], **attributes))
        return output

    def constant(self, values: NDArray[Any], name: str = "") -> str:
        """Store an array; one of a name that is there already is not stored again.

        Returns:
            Its name.
        """
        name = name or f"constant_{len(self._stored)}"
        if name not in self._stored:
            self._stored[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def number(self, value: float) -> str:
        """Store one float32, or name it where it is stored."""
        return self.constant(np.array(value, dtype=np.float32), f"number {value!r}")
