"""A flame graph of the Python side, drawn by py-spy (pip install 'fastanf[profile]').

py-spy samples the process from outside, so the code under measurement runs as it is. Linux lets a
child look into its parent only where the parent allows it, which is asked for here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_PR_SET_PTRACER, _ANY_PROCESS = 0x59616D61, ctypes.c_ulong(-1)
_SAMPLES_PER_S = 200
_STARTUP_S = 1.0  # py-spy looks up the interpreter's symbols first


def py_spy() -> str:
    """The path of py-spy.

    Raises:
        ValueError: it is not installed.
    """
    beside = shutil.which("py-spy", path=str(Path(sys.executable).parent))
    found = beside or shutil.which("py-spy")
    if found is None:
        raise ValueError("--flame needs py-spy: pip install 'fastanf[profile]'")
    return found


def write_flame(path: Path, work: Callable[[], object], seconds: float) -> None:
    """Sample this process while `work` is called again and again.

    Args:
        path: an SVG file.
        work: what to look at; called until the sampling ends.
        seconds: of sampling.

    Raises:
        ValueError: py-spy is missing or fails (for instance without the right to look).
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY_PROCESS, 0, 0, 0)
    command = [py_spy(), "record", "--output", str(path), "--pid", str(os.getpid())]
    command += ["--duration", str(max(1, round(seconds))), "--rate", str(_SAMPLES_PER_S)]
    sampler = subprocess.Popen(
        [*command, "--nonblocking"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    until = time.perf_counter() + seconds + 10 * _STARTUP_S
    while sampler.poll() is None and time.perf_counter() < until:
        work()
    try:
        _, errors = sampler.communicate(timeout=10 * _STARTUP_S)
    except subprocess.TimeoutExpired:
        sampler.kill()
        raise ValueError("--flame: py-spy did not end") from None
    if sampler.returncode != 0:
        reason = errors.strip().splitlines()
        raise ValueError(f"--flame: py-spy failed: {reason[-1] if reason else 'no reason given'}")
