"""Fast forms of the operations that dominate a step, and the one choice between them.

Each file defines an operation twice with one signature: `name_ref` in plain torch, which says what
it computes, and `name`, which takes the fast form for the device at hand: on the CPU the compiled
library of `native/`, on CUDA the Triton kernels of `gpu/`. The environment variable FASTANF_KERNELS
chooses, and `use` anew:

    auto        the fast form where it can be had, else the reference with one warning (default)
    native      as auto; an error where the CPU's library was not built
    triton      as auto; an error without Triton. On the CPU, Triton's interpreter runs the kernels
                (TRITON_INTERPRET=1): slow, and how they are tested without a GPU
    reference   plain torch
"""

from __future__ import annotations

import ctypes
import logging
import os
from importlib import util

import torch

from fastanf.kernels.native import LIBRARY, VARIANTS, load

CHOICES = ("auto", "native", "triton", "reference")
PRECISIONS = ("tf32", "float32")
_LOG = logging.getLogger(__name__)


def _load_native(choice: str, name: str) -> ctypes.CDLL | None:
    if choice in ("reference", "triton"):
        return None
    try:
        return load(LIBRARY)
    except OSError as error:
        if choice == "native":
            raise ValueError(
                f"{name}=native: {error}; install a C++17 compiler (e.g. g++) and reinstall "
                f"fastanf, or use {name}=auto"
            ) from error
        _LOG.warning(
            "no compiled CPU kernels (%s): computing with the slower plain-torch reference. "
            "Install a C++17 compiler (e.g. g++) and reinstall fastanf to have them",
            error,
        )
        return None


def _triton_devices(choice: str, name: str) -> tuple[str, ...]:
    """The types of device whose tensors Triton's kernels take."""
    if choice == "reference":
        return ()
    is_interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if util.find_spec("triton") is None:
        if choice == "triton":
            raise ValueError(f"{name}=triton: Triton is not installed; pip install triton")
        if torch.cuda.is_available():
            _LOG.warning("Triton is not installed: on CUDA the slower plain torch computes")
        return ()
    if choice != "triton":
        return () if is_interpreted else ("cuda",)
    if is_interpreted:
        return ("cpu",)
    if not torch.cuda.is_available():
        raise ValueError(
            f"{name}=triton: there is no CUDA device; set TRITON_INTERPRET=1 to interpret the "
            f"kernels on the CPU (slow), or use {name}=auto"
        )
    return ("cuda",)


def _check(choice: str, name: str) -> str:
    if choice not in CHOICES:
        raise ValueError(f"{name}={choice!r}: must be one of {', '.join(CHOICES)}")
    return choice


_AT_START = _check(os.environ.get("FASTANF_KERNELS", "auto"), "FASTANF_KERNELS")

NATIVE: ctypes.CDLL | None = _load_native(_AT_START, "FASTANF_KERNELS")
"""The compiled CPU kernels, or None where something else computes."""

TRITON: tuple[str, ...] = _triton_devices(_AT_START, "FASTANF_KERNELS")
"""Types of device whose tensors Triton's kernels take."""

PRECISION = "tf32"
"""How hidden layers multiply on CUDA: "tf32" rounds factors to 10 bits behind the point and adds in
float32, "float32" rounds nothing. See `use_precision`."""


def use(choice: str) -> None:
    """Choose anew for this process; `auto` leaves the choice as it is.

    Raises:
        ValueError: no such choice, or one that this machine does not have.
    """
    global NATIVE, TRITON
    if choice != "auto":
        _check(choice, "--impl")
        devices = _triton_devices(choice, "--impl")
        NATIVE, TRITON = _load_native(choice, "--impl"), devices


def use_precision(precision: str) -> None:
    """How CUDA multiplies matrices from now on, in Triton's kernels and in torch's own.

    With "tf32" the tensor cores multiply. Output layers, losses, optimizers and the CPU are always
    exact float32.

    Raises:
        ValueError: another precision than "tf32" and "float32".
    """
    global PRECISION
    if precision not in PRECISIONS:
        raise ValueError(
            f"--matmul_precision={precision!r}: must be one of {', '.join(PRECISIONS)}"
        )
    PRECISION = precision
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def is_triton(*tensors: torch.Tensor) -> bool:
    """Whether Triton's kernels take these tensors, float32 or of integers."""
    if not TRITON:
        return False
    return all(tensor.device.type in TRITON and tensor.dtype != torch.float64 for tensor in tensors)


def implementation(device: str = "cpu") -> str:
    """What computes on tensors of a type of device: "native", "triton" or "reference"."""
    if device in TRITON:
        return "triton"
    return "native" if device == "cpu" and NATIVE is not None else "reference"


def variant() -> str:
    """The instruction set of the compiled CPU kernels in use, or what computes in their place."""
    return implementation() if NATIVE is None else VARIANTS[NATIVE.fastanf_variant()]
