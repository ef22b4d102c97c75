"""A CUDA graph as far as a CPU can be one: a program's operations on their tensors, run again.

Recording notes every operation that torch dispatches and every launch of an interpreted Triton
kernel, with the tensors and numbers that it was given. Replaying runs these again on the same
tensors and writes results into the tensors of the recording; the program's Python does not run. So
what a captured program may not do shows here too: a number of the host that should have changed, a
tensor that was replaced and not written to, a read that the host waits for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_flatten
from triton.runtime import interpreter

from fastanf.graphs import Graph
from tests.host_reads import NoHostReads

# Pageable memory of the host that a captured copy would read again later.
_FROM_HOST = ("aten::lift_fresh", "aten::lift")
_ALLOCATIONS = ("aten::empty", "aten::new_empty")


class RecordedGraph(NoHostReads):
    """What one run of a program did. The run counts: the first replay after it does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Callable[[], None]] = []
        self.names: list[str] = []
        self._is_fresh = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func._schema.name, kwargs or {}
        assert name not in _FROM_HOST, f"{name} brings data from the host"
        outputs = super().__torch_dispatch__(func, types, args, kwargs)
        is_view = any(
            result.alias_info is not None and not result.alias_info.is_write
            for result in func._schema.returns
        )
        if is_view or name.startswith(_ALLOCATIONS):
            return outputs

        def run() -> None:
            for held, found in zip(_tensors(outputs), _tensors(func(*args, **kwargs)), strict=True):
                if held is not found:
                    held.copy_(found)

        self._add(name, run)
        return outputs

    def launch(self, executor: Any, args: tuple, kwargs: dict) -> None:
        """Run a kernel and note it."""

        def run() -> None:
            _LAUNCH(executor, *args, **kwargs)

        with _disable_current_modes():
            run()
        self._add(executor.fn.__name__, run)

    def _add(self, name: str, run: Callable[[], None]) -> None:
        self.names.append(name)
        self.nodes.append(run)

    def replay(self) -> None:
        """Run it again."""
        if not self._is_fresh:
            with torch.no_grad():
                for run in self.nodes:
                    run()
        self._is_fresh = False


def _tensors(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(outputs)[0] if isinstance(leaf, Tensor)]


_LAUNCH = interpreter.GridExecutor.__call__


class Recordings:
    """Captures programs for `Graphs`, and keeps what it captured."""

    def __init__(self) -> None:
        self.graphs: list[RecordedGraph] = []

    def __call__(self, program: Callable[[], None]) -> Graph:
        graph = RecordedGraph()

        def launch(executor: Any, *args: Any, **kwargs: Any) -> None:
            graph.launch(executor, args, kwargs)

        interpreter.GridExecutor.__call__ = launch  # pyright: ignore[reportAttributeAccessIssue]
        try:
            with graph:
                program()
        finally:
            interpreter.GridExecutor.__call__ = _LAUNCH
        self.graphs.append(graph)
        return graph
