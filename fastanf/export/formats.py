"""The formats of exported agents: how a file is made, and how its users load it and act.

Files are loaded here for one purpose, to see that they act as their agent, and only from the bytes
that were just made: `torch.export.load` of torch 2.13 unpickles what an archive says is pickled
(torch/export/pt2_archive/_package.py), so a .pt2 file from elsewhere could run anything.

Axes: n rows, F features, A actions.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from fastanf.agent import AGENT_SUFFIX, Agent
from fastanf.agent_file import agent_bytes, parse_agent
from fastanf.export.policy import Floats, Policy, about

Act = Callable[[Floats], Floats]
"""Features [n, F] -> actions [n, A]."""


@dataclass(frozen=True)
class Format:
    """How agents are made into the content of a file, and acted with when that is read again."""

    suffix: str
    content: Callable[[Agent, Policy], bytes]
    read: Callable[[bytes], Act]
    packages: tuple[str, ...] = ()
    """Of the extra `export` that it needs."""


def check_packages(format_name: str) -> None:
    """See that what a format needs is installed.

    Raises:
        ValueError: what is missing, and how to install it.
    """
    missing = [
        name for name in FORMATS[format_name].packages if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ValueError(
            f"--format {format_name} needs the package{'s' * (len(missing) > 1)} "
            f"{' and '.join(missing)}: pip install 'fastanf[export]'"
        )


def _onnx_content(agent: Agent, policy: Policy) -> bytes:
    from fastanf.export.onnx_graph import onnx_graph

    return onnx_graph(policy, about(agent))


def _read_onnx(content: bytes) -> Act:
    from onnxruntime import backend

    graph = backend.prepare(content, "CPU")  # pyright: ignore[reportArgumentType]  bytes too
    return lambda features: np.asarray(graph.run([features])[0])


def _torch_content(agent: Agent, policy: Policy) -> bytes:
    from fastanf.export.torch_program import torch_program

    return torch_program(policy, about(agent))


def _read_torch(content: bytes) -> Act:
    module = torch.export.load(io.BytesIO(content)).module()

    def act(features: Floats) -> Floats:
        with torch.no_grad():
            return module(torch.from_numpy(features)).numpy()

    return act


def _agent_content(agent: Agent, policy: Policy) -> bytes:
    del policy
    return agent_bytes(agent.state)


def _read_agent(content: bytes) -> Act:
    state = parse_agent(io.BytesIO(content), len(content), "the agent's file")
    return Agent(state).act_on_features


FORMATS = {
    "onnx": Format(".onnx", _onnx_content, _read_onnx, ("onnx", "onnxruntime")),
    "torch": Format(".pt2", _torch_content, _read_torch),
    "agent": Format(AGENT_SUFFIX, _agent_content, _read_agent),
}
"""By the names that the command knows."""
