"""The compiled CPU kernels, loaded through ctypes (which releases the interpreter lock).

The library links against OpenMP's runtime by the name that torch's own copy carries, so that after
`import torch` both share one pool of threads. A waiting thread of that pool spins for milliseconds
where GOMP_SPINCOUNT is not set, which costs dearly when other processes want the same cores.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch  # noqa: F401  first, so that its OpenMP runtime is the one in use

LIBRARY = Path(__file__).with_name("_fastanf_native.so")
VARIANTS = ("baseline", "avx2", "avx512")
_ABI = 3

_P, _I, _I64, _U32, _F = (
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_uint32,
    ctypes.c_float,
)


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


# The structures of kernels.h; positional arguments follow their order.
class PartArgs(ctypes.Structure):
    _fields_ = [
        *_fields(_P, "data"),
        *_fields(_I64, "num lane_stride feature_stride row_stride"),
    ]


class InputArgs(ctypes.Structure):
    _fields_ = [
        *_fields(PartArgs, "real extra"),
        *_fields(_I64, "rows num_noise"),
        *_fields(_P, "key noise_row std quantiles"),
        *_fields(_I64, "num_tables"),
        *_fields(_U32, "stream"),
    ]


class WeightGradArgs(ctypes.Structure):
    _fields_ = [
        *_fields(InputArgs, "input"),
        *_fields(_P, "grad"),
        *_fields(_I64, "lanes copies outputs inputs"),
        *_fields(_P, "weight_grad bias_grad"),
        *_fields(_I, "threads"),
    ]


class ConnectionArgs(ctypes.Structure):
    _fields_ = [
        *_fields(_P, "start column"),
        *_fields(_I64, "start_stride stride blocks block_size"),
    ]


class LayerArgs(ctypes.Structure):
    _fields_ = [
        *_fields(_P, "weight bias"),
        *_fields(_I64, "weight_stride bias_stride outputs inputs"),
        *_fields(ConnectionArgs, "at"),
        *_fields(_F, "slope"),
        *_fields(_P, "output"),
    ]


class ForwardArgs(ctypes.Structure):
    _fields_ = [
        *_fields(InputArgs, "input"),
        *_fields(_P, "layers"),
        *_fields(_I64, "count lanes copies"),
        *_fields(_I, "threads"),
    ]


class BackLayerArgs(ctypes.Structure):
    _fields_ = [
        *_fields(_P, "weight"),
        *_fields(_I64, "weight_stride outputs inputs first num"),
        *_fields(ConnectionArgs, "turned"),
        *_fields(_P, "source activated"),
        *_fields(_F, "slope"),
        *_fields(_P, "input_grad"),
    ]


class BackwardArgs(ctypes.Structure):
    _fields_ = [
        *_fields(_P, "grad layers"),
        *_fields(_I64, "count matrices rows"),
        *_fields(_I, "threads"),
    ]


class CsrWeightGradArgs(ctypes.Structure):
    _fields_ = [
        *_fields(InputArgs, "input"),
        *_fields(ConnectionArgs, "at"),
        *_fields(_P, "grad"),
        *_fields(_I64, "lanes copies outputs inputs"),
        *_fields(_P, "value_grad bias_grad"),
        *_fields(_I, "threads"),
    ]


class AdamTensor(ctypes.Structure):
    _fields_ = [
        *_fields(_P, "weight grad exp_avg exp_avg_sq mask target"),
        *_fields(_I64, "n"),
    ]


class AdamArgs(ctypes.Structure):
    _fields_ = [
        *_fields(_P, "tensors"),
        *_fields(_I64, "count lanes"),
        *_fields(_P, "step_size weight_decay mask_moments tau"),
        *_fields(_F, "beta1 one_minus_beta1 beta2 one_minus_beta2 sqrt_correction2 eps"),
        *_fields(_I, "threads"),
    ]


class EvolveArgs(ctypes.Structure):
    _fields_ = [
        *_fields(_P, "start column value exp_avg exp_avg_sq target num_drop new_bound key"),
        *_fields(_I64, "matrices copies outputs inputs stored blocks block_size step"),
        *_fields(_U32, "drop_stream grow_stream value_stream"),
        *_fields(_I, "threads"),
    ]


class TransposeArgs(ctypes.Structure):
    _fields_ = [
        *_fields(_P, "start column turned_start turned_column source"),
        *_fields(_I64, "matrices outputs inputs stored blocks turned_size"),
        *_fields(_I, "threads"),
    ]


class GatherArgs(ctypes.Structure):
    _fields_ = [
        *_fields(_P, "obs action reward not_terminated final_slot final_obs time env"),
        *_fields(_P, "out_obs out_action out_reward out_not_terminated out_next_obs"),
        *_fields(_P, "out_obs_id out_next_obs_id"),
        *_fields(_I64, "lanes slots envs finals features actions batch"),
        *_fields(_I, "threads"),
    ]


class SquashArgs(ctypes.Structure):
    _fields_ = [
        *_fields(_P, "head normal scale offset constant"),
        *_fields(_F, "low high"),
        *_fields(_P, "action log_density"),
        *_fields(_I64, "lanes actions rows"),
        *_fields(_I, "threads"),
    ]


class SquashGradArgs(ctypes.Structure):
    _fields_ = [
        *_fields(_P, "head normal scale"),
        *_fields(_F, "low high"),
        *_fields(_P, "action_grad density_grad head_grad"),
        *_fields(_I64, "lanes actions rows"),
        *_fields(_I, "threads"),
    ]


_SIGNATURES = {
    "fastanf_abi": (_I, []),
    "fastanf_variant": (_I, []),
    "fastanf_set_variant": (_I, [_I]),
    "fastanf_random": (
        None,
        [_P, _I64, _I64, _I64, _I64, _I64, _P, _P, _U32, _I64, _P, _P, _I64, _I, _I],
    ),
    "fastanf_adam": (None, [ctypes.POINTER(AdamArgs)]),
    "fastanf_polyak": (None, [_P, _P, _P, _P, _I64, _I64, _I]),
    "fastanf_weight_grad": (None, [ctypes.POINTER(WeightGradArgs)]),
    "fastanf_forward": (None, [ctypes.POINTER(ForwardArgs)]),
    "fastanf_backward": (None, [ctypes.POINTER(BackwardArgs)]),
    "fastanf_csr_weight_grad": (None, [ctypes.POINTER(CsrWeightGradArgs)]),
    "fastanf_evolve": (None, [ctypes.POINTER(EvolveArgs)]),
    "fastanf_transpose": (None, [ctypes.POINTER(TransposeArgs)]),
    "fastanf_gather": (None, [ctypes.POINTER(GatherArgs)]),
    "fastanf_squash": (None, [ctypes.POINTER(SquashArgs)]),
    "fastanf_squash_grad": (None, [ctypes.POINTER(SquashGradArgs)]),
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
