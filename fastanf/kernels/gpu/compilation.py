"""Compiling the kernels for an architecture that this machine need not have, and what comes out.

`compile_only` makes every launch of the process compile and not run, on tensors of the CPU. What a
program launches, and what its kernels compile to, can then be read without a GPU.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit

from fastanf import kernels

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_WARP = 32
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9]+)([.\w]*)", re.M)
_LOADS = ("LDG", "LDGSTS")


class Launch(NamedTuple):
    """A kernel that would have run."""

    name: str
    compiled: Any
    """Triton's compiled kernel; launches of one variant share it."""
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    """By the names of the kernel's parameters."""


@dataclass(frozen=True)
class Code:
    """What one variant of a kernel compiled to."""

    registers: int
    """Of a thread."""
    shared_bytes: int
    """Of a block."""
    num_warps: int
    instructions: Mapping[str, int]
    """Occurrences in the code by name, such as HGMMA or FFMA; loops count once."""
    load_bits: Mapping[int, int]
    """Loads from global memory by the bits that a thread loads at once."""

    @property
    def spills(self) -> int:
        """Loads and stores of local memory: registers that did not suffice."""
        return self.instructions.get("LDL", 0) + self.instructions.get("STL", 0)


def missing_tools() -> list[str]:
    """Programs that Triton's package should have and does not."""
    return [name for name in ("ptxas", "cuobjdump", "nvdisasm") if not (_TOOLS / name).exists()]


def compile_only(architecture: int) -> list[Launch]:
    """From now on, this process's Triton kernels take tensors of the CPU, compile and do not run.

    What they should have written stays what it was. Triton must not interpret
    (TRITON_INTERPRET).

    Args:
        architecture: compute capability, 90 for Hopper.

    Returns:
        The launches, a list that grows.
    """
    launches: list[Launch] = []
    target = GPUTarget("cuda", architecture, _WARP)
    driver.set_active(_NoDevice(target))  # pyright: ignore[reportArgumentType]
    run = jit.JITFunction.run

    def note(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        del warmup
        compiled = run(self, *args, grid=grid, warmup=True, **kwargs)
        arguments = dict(zip(self.arg_names, args, strict=False)) | kwargs
        launches.append(Launch(self.__name__, compiled, tuple(grid), arguments))
        return compiled

    jit.JITFunction.run = note
    kernels.NATIVE, kernels.TRITON = None, ("cpu",)
    return launches


class _NoDevice:
    """What Triton asks its driver for while it compiles."""

    def __init__(self, target: GPUTarget):
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def code_of(compiled: Any) -> Code:
    """Registers, shared memory and instructions of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _output("cuobjdump", "-res-usage", file.name)
        assembly = _output("nvdisasm", file.name)
    found = re.search(r"REG:(\d+)", usage)
    assert found is not None, usage
    names: Counter[str] = Counter()
    loads: Counter[int] = Counter()
    for name, suffix in _INSTRUCTION.findall(assembly):
        names[name] += 1
        if name in _LOADS:
            loads[_load_bits(suffix)] += 1
    metadata = compiled.metadata
    return Code(int(found[1]), metadata.shared, metadata.num_warps, names, loads)


def _load_bits(suffix: str) -> int:
    """Of the suffixes of a load: 128 in .E.BYPASS.128, 8 in .E.U8; 32 where none is a number."""
    for part in reversed(suffix.split(".")):
        width = part.lstrip("US")
        if width in ("8", "16", "64", "128", "256"):
            return int(width)
    return 32


def _output(tool: str, *arguments: str) -> str:
    command = [str(_TOOLS / tool), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
