"""What this machine can do at most, measured: a large product and large copies.

The roofs of a roofline (Williams et al. 2009, Communications of the ACM 52(4)): no stage computes
faster than the product, none moves data faster than the copy. A block's weights may live in the
processor's caches, which copy faster than memory; so a copy of the block's own size is measured
too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

PRODUCT_SIZE = 2048
MEMORY_COPY_BYTES = 1 << 28
_MIN_COPY_BYTES = 1 << 20
_SECONDS = 0.25
"""How long each figure is measured, at least five times."""


@dataclass(frozen=True)
class Peaks:
    """Measured limits of a device."""

    gflop_s: float
    """Product of two square float32 matrices, 10^9 operations per second."""
    memory_gb_s: float
    """Copy of an array larger than the caches, 10^9 bytes read and written per second."""
    working_set_gb_s: float
    """Copy of `working_set_bytes`."""
    working_set_bytes: int
    """What a block touches in one update."""


def measure_peaks(device: torch.device, working_set_bytes: int) -> Peaks:
    """Measure the limits of a device, in about a second.

    Args:
        device: to measure on; nothing else should run there.
        working_set_bytes: what the block at hand touches in one update.
    """
    return Peaks(
        sgemm_gflop_s(device, PRODUCT_SIZE),
        copy_gb_s(device, MEMORY_COPY_BYTES),
        copy_gb_s(device, min(max(working_set_bytes, _MIN_COPY_BYTES), MEMORY_COPY_BYTES)),
        working_set_bytes,
    )


def sgemm_gflop_s(device: torch.device, size: int = PRODUCT_SIZE) -> float:
    """10^9 operations per second of a product of two [size, size] float32 matrices."""
    a, b = torch.rand(size, size, device=device), torch.rand(size, size, device=device)
    out = torch.empty_like(a)
    return 2 * size**3 / _best_s(lambda: torch.mm(a, b, out=out), device) / 1e9


def copy_gb_s(device: torch.device, num_bytes: int) -> float:
    """10^9 bytes per second, read and written, of copying between two halves of `num_bytes`."""
    half = torch.zeros(num_bytes // 8, device=device)  # float32: a quarter of the bytes, halved
    other = torch.empty_like(half)
    return 2 * half.numel() * half.element_size() / _best_s(lambda: other.copy_(half), device) / 1e9


def _best_s(work: Callable[[], object], device: torch.device) -> float:
    """Shortest time of one call: a limit is what is reached undisturbed."""
    times: list[float] = []
    for _ in range(2):
        work()
    until = time.perf_counter() + _SECONDS
    while len(times) < 5 or time.perf_counter() < until:
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - start)
    return min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
