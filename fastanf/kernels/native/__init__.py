"""The compiled CPU kernels, loaded through ctypes (which releases the interpreter lock).

The library links against OpenMP's runtime by the name that torch's own copy carries, so that after
`import torch` both share one pool of threads. A waiting thread of that pool spins for milliseconds
where GOMP_SPINCOUNT is not set, which costs dearly when other processes want the same cores.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch  # noqa: F401  first, so that its OpenMP runtime is the one in use

LIBRARY = Path(__file__).with_name("_fastanf_native.so")
VARIANTS = ("baseline", "avx2", "avx512")
_ABI = 1

_P, _I, _I64, _U32, _F = (
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_uint32,
    ctypes.c_float,
)
_SIGNATURES = {
    "fastanf_abi": (_I, []),
    "fastanf_variant": (_I, []),
    "fastanf_set_variant": (_I, [_I]),
    "fastanf_random": (
        None,
        [_P, _I64, _I64, _I64, _I64, _I64, _P, _P, _U32, _I64, _P, _P, _I64, _I, _I],
    ),
    "fastanf_adam": (None, [_P] * 10 + [_I64, _I64] + [_F] * 6 + [_I]),
    "fastanf_polyak": (None, [_P, _P, _P, _P, _I64, _I64, _I]),
}


def load(path: Path = LIBRARY) -> ctypes.CDLL:
    """The library at `path` with its functions' signatures declared.

    Raises:
        OSError: where there is no library, it cannot be loaded, or it is of another version.
    """
    if not path.is_file():
        raise OSError(f"{path.name} is not there")
    library = ctypes.CDLL(str(path))
    try:
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise OSError(f"{path.name} is of another version: {error}") from error
    if library.fastanf_abi() != _ABI:
        raise OSError(f"{path.name} is of version {library.fastanf_abi()}, not {_ABI}")
    return library
