"""The formats of exported agents: how a file is written, and how its users load it and act.

Axes: n rows, F features, A actions.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fastanf.agent import AGENT_SUFFIX, Agent, load_agent
from fastanf.agent_file import write_agent
from fastanf.export.policy import Floats, Policy, about
from fastanf.files import write_atomic

Act = Callable[[Floats], Floats]
"""Features [n, F] -> actions [n, A]."""


@dataclass(frozen=True)
class Format:
    """How agents are written in one format, and acted with when they are read again."""

    suffix: str
    write: Callable[[Agent, Policy, Path], None]
    read: Callable[[Path], Act]
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


def _write_onnx(agent: Agent, policy: Policy, path: Path) -> None:
    from fastanf.export.onnx_graph import onnx_graph

    write_atomic(path, onnx_graph(policy, about(agent)))


def _read_onnx(path: Path) -> Act:
    from onnxruntime import backend

    graph = backend.prepare(str(path), "CPU")  # pyright: ignore[reportArgumentType]  a path too
    return lambda features: np.asarray(graph.run([features])[0])


def _write_torch(agent: Agent, policy: Policy, path: Path) -> None:
    from fastanf.export.torch_program import torch_program

    write_atomic(path, torch_program(policy, about(agent)))


def _read_torch(path: Path) -> Act:
    module = torch.export.load(path).module()

    def act(features: Floats) -> Floats:
        with torch.no_grad():
            return module(torch.from_numpy(features)).numpy()

    return act


def _write_agent(agent: Agent, policy: Policy, path: Path) -> None:
    del policy
    write_agent(path, agent.state)


def _read_agent(path: Path) -> Act:
    return load_agent(path).act_on_features


FORMATS = {
    "onnx": Format(".onnx", _write_onnx, _read_onnx, ("onnx", "onnxruntime")),
    "torch": Format(".pt2", _write_torch, _read_torch),
    "agent": Format(AGENT_SUFFIX, _write_agent, _read_agent),
}
"""By the names that the command knows."""
