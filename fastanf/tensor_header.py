"""The header of a safetensors file, checked against the file's size before a tensor is read.

The format (https://github.com/huggingface/safetensors, "Format"): eight bytes with the length of a
JSON header, the header, then the tensors' bytes without gaps. Nothing is taken on trust: a header
may claim any length, shape and place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from fastanf.strict_json import strict_loads

ITEM_BYTES = {"F32": 4, "F64": 8, "I32": 4, "I64": 8, "U8": 1, "U16": 2, "U32": 4, "BOOL": 1}
"""Bytes of a number, by the format's name of its type; other types are refused."""
MOST_HEADER_BYTES = 2**20
"""Ours take some kilobytes; the format itself allows 100 MB."""
MOST_DIMENSIONS = 8
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_KEYS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor is, and what it is."""

    dtype: str
    """One of `ITEM_BYTES`."""
    shape: tuple[int, ...]
    start: int
    """Of its bytes, counted from the end of the header."""
    end: int

    @property
    def num_items(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class TensorHeader:
    """What a file says of its content, which fills it exactly."""

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]
    num_data_bytes: int
    """Of all tensors."""


def read_header(file: BinaryIO, size: int) -> TensorHeader:
    """The header of a file, which is left standing at the first byte of its tensors.

    Args:
        file: standing at its start.
        size: bytes of the file.

    Raises:
        ValueError: it is no such header, or not that of a file of this size.
    """
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    room = min(MOST_HEADER_BYTES, size - _LENGTH_BYTES)
    if not 2 <= length <= room:
        raise ValueError(f"a header of {length:,} bytes, where at most {max(0, room):,} can be")
    content = strict_loads(file.read(length))
    if not isinstance(content, dict):
        raise ValueError("a header that is no JSON object")
    metadata = content.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError(f"{_METADATA} must be texts by name")
    tensors = {name: _tensor(name, entry) for name, entry in content.items()}
    num_data_bytes = size - _LENGTH_BYTES - length
    _check_places(tensors, num_data_bytes)
    return TensorHeader(tensors, metadata, num_data_bytes)


def _tensor(name: str, entry: Any) -> StoredTensor:
    if not isinstance(entry, dict) or set(entry) != _KEYS:
        raise ValueError(f"tensor {name[:80]!r} must have {', '.join(sorted(_KEYS))}")
    dtype, shape, places = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValueError(
            f"tensor {name[:80]!r} must be of a type {', '.join(ITEM_BYTES)}, got "
            f"{str(dtype)[:80]!r}"
        )
    if not _are_counts(shape) or len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"tensor {name[:80]!r} has an impossible shape {str(shape)[:80]}")
    if not _are_counts(places) or len(places) != 2:
        raise ValueError(f"tensor {name[:80]!r} has impossible data_offsets {str(places)[:80]}")
    tensor = StoredTensor(dtype, tuple(shape), *places)
    # Python's whole numbers do not overflow, so a product that is too large is only unequal.
    if tensor.end - tensor.start != tensor.num_items * ITEM_BYTES[dtype]:
        raise ValueError(
            f"tensor {name[:80]!r} of {dtype} {str(shape)[:80]} does not take the bytes "
            f"{tensor.start:,} to {tensor.end:,}"
        )
    return tensor


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)


def _check_places(tensors: Mapping[str, StoredTensor], num_bytes: int) -> None:
    """Whether tensors lie one behind the other and fill so many bytes."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if tensor.start != end:
            raise ValueError(
                f"tensor {name[:80]!r} begins at byte {tensor.start:,}, where the one before ends "
                f"at {end:,}"
            )
        end = tensor.end
    if end != num_bytes:
        raise ValueError(f"its tensors take {end:,} bytes, the file has {num_bytes:,} for them")
