"""Builds the CPU kernels: one shared library with C entry points, loaded through ctypes.

The library needs a C++17 compiler only, neither torch's headers nor Python's. Where none is found
the installation goes on, and fastanf computes with its plain-torch reference.
"""

from __future__ import annotations

import logging
import os
import platform
import shlex
import subprocess
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("fastanf/kernels/native")
# Contraction is off so that every variant, vector body and tail, gives the same bits.
FLAGS = [
    "-O3",
    "-std=c++17",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fvisibility=hidden",
]
X86_VARIANTS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": [
        "-mavx512f",
        "-mavx512bw",
        "-mavx512dq",
        "-mavx512vl",
        "-mfma",
        "-mprefer-vector-width=512",
    ],
}
OPENMP = [["-fopenmp"], ["-fopenmp-simd"]]  # Apple's compiler has no -fopenmp: one thread there

log = logging.getLogger("fastanf.setup")


def is_x86_64() -> bool:
    """Whether the build is for 64-bit x86 processors."""
    is_universal_or_arm = "arm64" in os.environ.get("ARCHFLAGS", "")
    return platform.machine().lower() in ("x86_64", "amd64") and not is_universal_or_arm


def compile_library(output: Path) -> None:
    """Compiles the library to `output`; raises OSError or CalledProcessError when that fails."""
    output.parent.mkdir(parents=True, exist_ok=True)
    failure: Exception | None = None
    for compiler in [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]:
        for openmp in OPENMP:
            try:
                _compile_with(shlex.split(compiler), openmp, output)
            except (OSError, subprocess.CalledProcessError) as error:
                failure = failure or error
            else:
                return
    assert failure is not None
    raise failure


def _compile_with(compiler: list[str], openmp: list[str], output: Path) -> None:
    units = [("variant.cpp", ["-DFASTANF_VARIANT=baseline"])]
    dispatch_flags: list[str] = []
    if is_x86_64():
        dispatch_flags = ["-DFASTANF_X86_VARIANTS"]
        for name, flags in X86_VARIANTS.items():
            units.append(("variant.cpp", [f"-DFASTANF_VARIANT={name}", *flags]))
    units.append(("dispatch.cpp", dispatch_flags))
    with tempfile.TemporaryDirectory() as scratch:
        objects = []
        for number, (source, flags) in enumerate(units):
            objects.append(f"{scratch}/{number}.o")
            _call(
                [*compiler, *FLAGS, *openmp, *flags, "-c", str(NATIVE / source), "-o", objects[-1]]
            )
        library = f"{scratch}/library"
        _call([*compiler, "-shared", *openmp, *objects, "-o", library])
        # A rename, so that a process that has the old library loaded keeps its own copy.
        fresh = output.with_suffix(".fresh")
        fresh.write_bytes(Path(library).read_bytes())
        fresh.chmod(0o755)
        fresh.replace(output)


def _call(command: list[str]) -> None:
    log.info("%s", shlex.join(command))
    subprocess.run(command, check=True, capture_output=True, text=True)


class BuildNative(build_ext):
    """Compiles the kernels in place of a Python extension; a failure is a warning."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, ext: Extension) -> None:
        output = Path(self.get_ext_fullpath(ext.name))
        try:
            compile_library(output)
        except (OSError, subprocess.CalledProcessError) as error:
            detail = getattr(error, "stderr", None) or str(error)
            log.warning("CPU kernels not built, the plain-torch reference is used: %s", detail)
            output.unlink(missing_ok=True)


setup(
    ext_modules=[
        Extension(
            "fastanf.kernels.native._fastanf_native",
            sources=[str(path) for path in sorted(NATIVE.glob("*.cpp"))],
            depends=[str(path) for path in sorted(NATIVE.glob("*.h"))],
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildNative},
)
