"""Fast forms of the operations that dominate a step, and the one choice between them.

Each file defines an operation twice with one signature: `name_ref` in plain torch, which says what
it computes, and `name`, which takes the fast form for the device at hand. On CPU the fast form is
the compiled library of `native/`; the environment variable FASTANF_KERNELS chooses, and `use` anew:

    auto        compiled where it was built, else the reference with one warning (default)
    native      compiled; an error where it was not built
    reference   plain torch
"""

from __future__ import annotations

import ctypes
import logging
import os

from fastanf.kernels.native import LIBRARY, VARIANTS, load

CHOICES = ("auto", "native", "reference")


def _choose(choice: str, name: str) -> ctypes.CDLL | None:
    if choice not in CHOICES:
        raise ValueError(f"{name}={choice!r}: must be one of {', '.join(CHOICES)}")
    if choice == "reference":
        return None
    try:
        return load(LIBRARY)
    except OSError as error:
        if choice == "native":
            raise ValueError(
                f"{name}=native: {error}; install a C++17 compiler (e.g. g++) and reinstall "
                f"fastanf, or use {name}=auto"
            ) from error
        logging.getLogger(__name__).warning(
            "no compiled CPU kernels (%s): computing with the slower plain-torch reference. "
            "Install a C++17 compiler (e.g. g++) and reinstall fastanf to have them",
            error,
        )
        return None


NATIVE: ctypes.CDLL | None = _choose(os.environ.get("FASTANF_KERNELS", "auto"), "FASTANF_KERNELS")
"""The compiled CPU kernels, or None where the reference computes."""


def use(choice: str) -> None:
    """Choose anew for this process; `auto` leaves the choice as it is.

    Raises:
        ValueError: no such choice, or `native` where it was not built.
    """
    global NATIVE
    if choice != "auto":
        NATIVE = _choose(choice, "--impl")


def implementation() -> str:
    """What computes on CPU tensors: "native" or "reference"."""
    return "reference" if NATIVE is None else "native"


def variant() -> str:
    """The instruction set of the compiled kernels in use, or "reference"."""
    return "reference" if NATIVE is None else VARIANTS[NATIVE.fastanf_variant()]
