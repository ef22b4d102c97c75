"""Tensors in a safetensors file, written piece by piece with a checksum, and read whole.

The format (https://github.com/huggingface/safetensors, "Format"): eight bytes with the length of a
JSON header, the header, then the tensors' bytes without gaps. It is written here, not by the
package, because a checkpoint wants three things of the same pass: no second copy of the tensors in
memory, a checksum, and the errno of a disk that is full. What is read shares the memory of the
file's bytes, for the same reason; the header is checked before (tensor_header.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fastanf.files import open_regular, sha256_of
from fastanf.tensor_header import MOST_HEADER_BYTES, StoredTensor, read_header

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_TYPES = {name: dtype for dtype, name in _NAMES.items()}
_ALIGNMENT = _LENGTH_BYTES = 8
_OTHER = "is not what was written: its checksum differs"


@dataclasses.dataclass(frozen=True)
class Seal:
    """What a file's content is known by."""

    size: int
    """Bytes."""
    sha256: str
    """Hexadecimal."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Seal:
    """Write a safetensors file and flush it to the disk.

    Args:
        path: the file; one that is there is replaced. It is whole only when this has returned.
        tensors: by name, on any device.

    Raises:
        OSError: the write failed; nothing is left of the file.
    """
    checksum = hashlib.sha256()
    size = 0
    path.unlink(missing_ok=True)  # not emptied: what was written may have a second name
    try:
        with open(path, "wb") as file:
            for piece in _pieces(tensors):
                checksum.update(piece)
                file.write(piece)
                size += len(piece)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return Seal(size, checksum.hexdigest())


def _pieces(tensors: Mapping[str, Tensor]) -> Iterable[bytes | memoryview]:
    """The file's content; one tensor at a time is on the host."""
    # The widest numbers first, so that each tensor starts at a multiple of its numbers' size.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, offset = {}, 0
    for name in names:
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    yield len(text).to_bytes(8, "little")
    yield text
    for name in names:
        host = tensors[name].detach().cpu().contiguous().view(-1).view(torch.uint8)
        yield host.numpy().data


def read_tensors(path: Path, seal: Seal, most_bytes: int) -> dict[str, Tensor]:
    """Read a file that `write_tensors` wrote.

    Args:
        path: the file.
        seal: what its content must be.
        most_bytes: a larger file is not read.

    Raises:
        ValueError: the file is missing, too large, damaged or no file of tensors.
    """
    if seal.size > most_bytes:
        raise ValueError(
            f"{path.name} has {seal.size:,} bytes; this run's has {most_bytes:,} at most"
        )
    try:
        data = _content(path, seal)
        start = io.BytesIO(data[: _LENGTH_BYTES + MOST_HEADER_BYTES])
        header = read_header(start, len(data))
        return {
            name: _view(data, stored, start.tell() + stored.start)
            for name, stored in header.tensors.items()
        }
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from error


def _content(path: Path, seal: Seal) -> bytearray:
    """The bytes of a file, in memory once."""
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size != seal.size:
            raise ValueError(_OTHER)
        data = bytearray(seal.size)
        if file.readinto(data) != seal.size or hashlib.sha256(data).hexdigest() != seal.sha256:
            raise ValueError(_OTHER)
    return data


def _view(data: bytearray, stored: StoredTensor, place: int) -> Tensor:
    """A tensor that shares the bytes of its file."""
    dtype = _TYPES.get(stored.dtype)
    if dtype is None:
        raise ValueError(f"a tensor of {stored.dtype}, which no checkpoint has")
    if stored.num_items == 0:
        return torch.empty(stored.shape, dtype=dtype)
    numbers = torch.frombuffer(data, dtype=dtype, count=stored.num_items, offset=place)
    return numbers.view(stored.shape)


def read_row(path: Path, row: int, is_wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """One row of the first axis of some tensors, [1, ...], and single numbers as they are. Nothing
    else of the file is read, whose seal is not looked at.

    Args:
        path: the file.
        row: at least 0.
        is_wanted: asked of a tensor's name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no file of tensors, or one that is wanted has fewer rows.
    """
    tensors = {}
    with open_regular(path) as file:
        header = read_header(file, os.fstat(file.fileno()).st_size)
        first_byte = file.tell()
        for name, stored in header.tensors.items():
            if not is_wanted(name):
                continue
            begin, end, shape = stored.start, stored.end, stored.shape
            if shape:
                if row >= shape[0]:
                    raise ValueError(f"{name} has {shape[0]} rows, and no row {row}")
                size, shape = (end - begin) // shape[0], (1, *shape[1:])
                begin, end = begin + row * size, begin + (row + 1) * size
            data = os.pread(file.fileno(), end - begin, first_byte + begin)
            if len(data) != end - begin:
                raise ValueError(f"{name} is cut off")
            part = dataclasses.replace(stored, shape=shape)
            tensors[name] = _view(bytearray(data), part, 0)
    return tensors


def check_seal(path: Path, seal: Seal) -> None:
    """Whether a file is what was written; it is read in small pieces.

    Raises:
        OSError: it cannot be read.
        ValueError: its content is another.
    """
    # One byte more than there should be, so that a longer file is seen.
    size, checksum = sha256_of(path, seal.size + 1)
    if Seal(size, checksum.hexdigest()) != seal:
        raise ValueError(f"{path.name} {_OTHER}")
