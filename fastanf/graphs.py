"""Work on the device that is recorded once and replayed: the host then launches it with one call.

The nets of this field are small: launched one by one, their kernels take less time than the calls.
A program is a function without arguments that works on tensors at fixed addresses and asks the
host for nothing. What changes from call to call, such as the number of an update, lives in device
memory.

Programs of one key are one graph. The first calls run it plainly, which compiles kernels and lets
libraries set themselves up; those calls are as real as any other. Then it is captured, and from
there on replayed: the same kernels with the same arguments, so with the same bits.

Source: torch's CUDA graphs, docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar

import torch

Outputs = TypeVar("Outputs")

_PLAIN_CALLS = 2
"""Before a capture. In the first, kernels are compiled and allocations are found."""


class Graph(Protocol):
    """A recorded program."""

    def replay(self) -> None:
        """Run it again on the memory that it was recorded with."""
        ...


Capture = Callable[[Callable[[], None]], Graph]
"""Records a program without running it."""


class Graphs:
    """The graphs of a device, by key.

    Args:
        make_capture: gives what records programs, anew whenever memory has moved.
    """

    def __init__(self, make_capture: Callable[[], Capture]):
        self._make_capture = make_capture
        self._capture = make_capture()
        self.is_warm = False
        """Whether any program was recorded yet; before, calls compile kernels and take long."""
        self._graphs: dict[Hashable, tuple[Graph, object]] = {}
        self._num_plain: dict[Hashable, int] = {}
        self._layout: Hashable = None

    def run(self, key: Hashable, layout: Hashable, program: Callable[[], Outputs]) -> Outputs:
        """Run a program, or replay what was recorded of it.

        Args:
            key: programs of one key do the same to the same memory.
            layout: changes when memory that programs work on has moved; all are then recorded anew.
            program: gives tensors, or anything made of them.

        Returns:
            What the program gave when it was recorded: the same tensors, with new values.
        """
        if layout != self._layout:
            self._graphs.clear()
            self._capture, self._layout = self._make_capture(), layout
        if key in self._graphs:
            graph, outputs = self._graphs[key]
            graph.replay()
            return outputs  # pyright: ignore[reportReturnType]
        self._num_plain[key] = self._num_plain.get(key, 0) + 1
        if self._num_plain[key] <= _PLAIN_CALLS:
            return program()
        recorded: list[Outputs] = []
        graph = self._capture(lambda: recorded.append(program()))
        self._graphs[key], self.is_warm = (graph, recorded[0]), True
        graph.replay()
        return recorded[0]


def cuda_capture() -> Capture:
    """Captures CUDA graphs that share a pool of memory; they are replayed one after the other.

    What is captured after the others are gone needs a capture of its own: tensors that they gave
    may live on, and their pool with them.
    """
    pool = torch.cuda.graph_pool_handle()

    def capture(program: Callable[[], None]) -> Graph:
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as a simulator's, may allocate while this one captures.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            program()
        return graph

    return capture


def graphs_for(device: torch.device) -> Graphs | None:
    """Graphs where there are any: on CUDA."""
    return Graphs(cuda_capture) if device.type == "cuda" else None
