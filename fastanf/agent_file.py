"""One agent in one safetensors file, its sparse weights stored by their connections.

Metadata: `fastanf_agent`, the JSON of settings, task, step, updates, evaluation and versions.
Tensors have the names of agent_state.py. A weight `w` [1, O, I] with a mask is stored as

    w.values [K] float32                          of the active connections, output by output
    w.bits [ceil(O I / 8)] uint8                  one bit a connection, the lowest first; or
    w.columns [K], w.counts [O] uint16 or uint32  inputs of the connections, and how many each
                                                  output has, whichever form is smaller

Whole numbers are stored as short as they fit, and are int64 again when they are read.

A file may come from anywhere: the header is checked first (tensor_header.py), then what it says
(agent_facts.py), then the tensors are read, from memory and not from a map of the file, which may
become shorter meanwhile.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch import Tensor

from fastanf.agent_facts import AgentFacts, check_tensors, read_facts
from fastanf.agent_state import AgentState
from fastanf.files import write_atomic
from fastanf.rows import EvaluationRow
from fastanf.strict_json import strict_loads
from fastanf.tensor_header import TensorHeader, read_header

FORMAT = 1
_METADATA = "fastanf_agent"
_MASK = ".mask"
_KINDS: dict[str, Any] = {
    "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8", "U8": "u1", "U16": "<u2", "U32": "<u4",
    "BOOL": "?",
}  # fmt: skip
_MOST_CHARACTERS = 300
"""Of a complaint about a file, which may quote it."""

Arrays = dict[str, NDArray[Any]]


def write_agent(path: Path, state: AgentState) -> None:
    """Write one agent, replacing the file as a whole.

    Raises:
        OSError: it cannot be written.
    """
    write_atomic(path, agent_bytes(state))


def agent_bytes(state: AgentState) -> bytes:
    """One agent as the content of a file."""
    arrays: Arrays = {}
    for name, tensor in state.tensors.items():
        if name + _MASK in state.tensors:
            mask = state.tensors[name + _MASK].numpy()
            for part, array in _packed(tensor.numpy()[0], mask[0]).items():
                arrays[f"{name}.{part}"] = array
        elif not name.endswith(_MASK):
            arrays[name] = _shortened(tensor.numpy())
    shapes = {
        name.removesuffix(_MASK): list(mask.shape)
        for name, mask in state.tensors.items()
        if name.endswith(_MASK)
    }
    about = {
        "format": FORMAT,
        "config": state.config.flat(),
        "spec": dataclasses.asdict(state.spec),
        "lane": state.lane,
        "step": state.step,
        "num_updates": state.num_updates,
        "evaluation": None if state.evaluation is None else _finite(state.evaluation),
        "versions": dict(state.versions),
        "sparse_shapes": shapes,
    }
    return save(arrays, metadata={_METADATA: json.dumps(about)})


def read_agent(path: Path) -> AgentState:
    """Read what `write_agent` wrote.

    Raises:
        ValueError: it is no agent's file, of another format, damaged, or too large.
    """
    label = f"agent file {str(path)!r}"
    try:
        # A FIFO that nobody writes to would be waited for.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ValueError(f"{label} is no regular file")
            return parse_agent(file, found.st_size, label)
    except OSError as error:
        raise ValueError(
            f"{label} cannot be read ({error}): export it anew from its run"
        ) from error


def parse_agent(file: BinaryIO, size: int, label: str) -> AgentState:
    """An agent from the content of its file, of which nothing is believed unchecked.

    Args:
        file: standing at its start.
        size: bytes that it has.
        label: what it is called in errors.

    Raises:
        ValueError: it is no agent's file, of another format, damaged, or too large.
    """
    try:
        header = read_header(file, size)
        about = strict_loads(header.metadata.get(_METADATA, "null"))
    except ValueError as error:
        raise ValueError(_complaint(label, "cannot be read", error)) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else None
        raise ValueError(
            f"{label} has format {str(found)[:80]!r}, this version reads {FORMAT}: export it anew "
            "from its run"
        )
    try:
        facts = read_facts(about)
        check_tensors(facts, header)
        return _state(facts, _arrays(file, header))
    except MemoryError as error:
        raise ValueError(
            f"{label} does not fit into memory: {error or 'free some first'}"
        ) from None
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise ValueError(_complaint(label, "is damaged", error)) from error


def _complaint(label: str, what: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:_MOST_CHARACTERS]
    return f"{label} {what} ({reason}): export it anew from its run"


def _arrays(file: BinaryIO, header: TensorHeader) -> Arrays:
    """All tensors, each in memory of its own."""
    data = file.read(header.num_data_bytes)
    if len(data) < header.num_data_bytes:
        raise ValueError(f"it ended {header.num_data_bytes - len(data):,} bytes early")
    return {
        name: np.frombuffer(data[stored.start : stored.end], _KINDS[stored.dtype])
        .reshape(stored.shape)
        .copy()
        for name, stored in header.tensors.items()
    }


def _state(facts: AgentFacts, arrays: Arrays) -> AgentState:
    tensors: dict[str, Tensor] = {}
    for name, shape in facts.sparse_shapes.items():
        parts = {
            part: arrays.pop(f"{name}.{part}")
            for part in ("values", "bits", "columns", "counts")
            if f"{name}.{part}" in arrays
        }
        weight, mask = _unpacked(parts, shape)
        tensors[name] = torch.from_numpy(weight).unsqueeze(0)
        tensors[name + _MASK] = torch.from_numpy(mask).unsqueeze(0)
    for name, array in arrays.items():
        is_whole = np.issubdtype(array.dtype, np.unsignedinteger)
        tensors[name] = torch.from_numpy(array.astype(np.int64) if is_whole else array)
    return AgentState(
        config=facts.config,
        spec=facts.spec,
        lane=facts.lane,
        step=facts.step,
        num_updates=facts.num_updates,
        evaluation=facts.evaluation,
        versions=facts.versions,
        tensors=tensors,
    )


def _packed(weight: NDArray[np.float32], mask: NDArray[np.bool_]) -> Arrays:
    """The parts of a weight [O, I] that are stored."""
    bits = np.packbits(mask, bitorder="little")
    columns = _shortened(mask.nonzero()[1], mask.shape[1])
    counts = _shortened(mask.sum(1), mask.shape[1] + 1)
    values = {"values": np.ascontiguousarray(weight[mask])}
    if columns.nbytes + counts.nbytes < bits.nbytes:
        return values | {"columns": columns, "counts": counts}
    return values | {"bits": bits}


def _unpacked(
    parts: Arrays, shape: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Weight and mask [O, I] of the parts.

    Raises:
        ValueError: another number of connections than of values. IndexError: of a column not there.
    """
    O, I = shape
    if "bits" in parts:
        mask = np.unpackbits(parts["bits"], count=O * I, bitorder="little").astype(bool)
        mask = mask.reshape(O, I)
    else:
        mask = np.zeros(shape, dtype=bool)
        # Not numpy's own sum: in 64 bits the counts may overflow.
        if sum(parts["counts"].tolist()) != len(parts["columns"]):
            raise ValueError("the counts of its connections are not as many as their columns")
        mask[np.repeat(np.arange(O), parts["counts"].astype(np.int64)), parts["columns"]] = True
    if np.count_nonzero(mask) != len(parts["values"]):
        raise ValueError("it has another number of connections than of their values")
    weight = np.zeros(shape, dtype=np.float32)
    weight[mask] = parts["values"]
    return weight, mask


def _shortened(array: NDArray[Any], limit: int | None = None) -> NDArray[Any]:
    """Whole numbers from 0 on in 16 or 32 bits if they fit, all else as it is.

    Args:
        array: of any type.
        limit: that the numbers are below; by default found among them.
    """
    if not np.issubdtype(array.dtype, np.integer) or array.size == 0 or array.min() < 0:
        return np.asarray(array, order="C")
    limit = int(array.max()) + 1 if limit is None else limit
    for kind in (np.uint16, np.uint32):
        if limit <= np.iinfo(kind).max + 1:
            return np.asarray(array, dtype=kind, order="C")
    return np.asarray(array, order="C")


def _finite(evaluation: EvaluationRow) -> dict[str, Any]:
    """A row as JSON: nan, which JSON lacks, as null."""
    values = dataclasses.asdict(evaluation).items()
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values}
