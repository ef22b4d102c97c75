"""One agent in one safetensors file, its sparse weights stored by their connections.

Metadata: `fastanf_agent`, the JSON of settings, task, step, updates, evaluation and versions.
Tensors have the names of agent_state.py. A weight `w` [1, O, I] with a mask is stored as

    w.values [K] float32                          of the active connections, output by output
    w.bits [ceil(O I / 8)] uint8                  one bit a connection, the lowest first; or
    w.columns [K], w.counts [O] uint16 or uint32  inputs of the connections, and how many each
                                                  output has, whichever form is smaller

Whole numbers are stored as short as they fit, and are int64 again when they are read.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from envs.interface import EnvSpec
from fastanf.agent_state import AgentState
from fastanf.config import from_flat
from fastanf.files import write_atomic
from fastanf.rows import EvaluationRow

FORMAT = 1
_METADATA = "fastanf_agent"
_MASK = ".mask"

Arrays = dict[str, NDArray[Any]]


def write_agent(path: Path, state: AgentState) -> None:
    """Write one agent, replacing the file as a whole.

    Raises:
        OSError: it cannot be written.
    """
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
    write_atomic(path, save(arrays, metadata={_METADATA: json.dumps(about)}))


def read_agent(path: Path) -> AgentState:
    """Read what `write_agent` wrote.

    Raises:
        ValueError: it is no agent's file, of another format, or damaged.
    """
    try:
        with safe_open(path, "np") as stored:
            about = json.loads((stored.metadata() or {}).get(_METADATA, "null"))
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"agent file {str(path)!r} cannot be read ({error}): export it anew from its run"
        ) from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else None
        raise ValueError(
            f"agent file {str(path)!r} has format {found!r}, this version reads {FORMAT}: export "
            "it anew from its run"
        )
    try:
        return _state(about, arrays)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"agent file {str(path)!r} is damaged ({error}): export it anew from its run"
        ) from error


def _state(about: Mapping[str, Any], arrays: Arrays) -> AgentState:
    tensors: dict[str, Tensor] = {}
    for name, shape in about["sparse_shapes"].items():
        parts = {
            part: arrays.pop(f"{name}.{part}")
            for part in ("values", "bits", "columns", "counts")
            if f"{name}.{part}" in arrays
        }
        weight, mask = _unpacked(parts, tuple(shape[1:]))
        tensors[name] = torch.from_numpy(weight).unsqueeze(0)
        tensors[name + _MASK] = torch.from_numpy(mask).unsqueeze(0)
    for name, array in arrays.items():
        is_whole = np.issubdtype(array.dtype, np.unsignedinteger)
        tensors[name] = torch.from_numpy(array.astype(np.int64) if is_whole else array)
    spec = about["spec"]
    limits = {name: tuple(spec[name]) for name in ("action_low", "action_high")}
    evaluation = about["evaluation"]
    return AgentState(
        config=from_flat(about["config"]),
        spec=EnvSpec(**{**spec, **limits}),
        lane=about["lane"],
        step=about["step"],
        num_updates=about["num_updates"],
        evaluation=None if evaluation is None else EvaluationRow(**_with_nan(evaluation)),
        versions=about["versions"],
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
    """Weight and mask [O, I] of the parts."""
    O, I = shape
    if "bits" in parts:
        mask = np.unpackbits(parts["bits"], count=O * I, bitorder="little").astype(bool)
        mask = mask.reshape(O, I)
    else:
        mask = np.zeros(shape, dtype=bool)
        mask[np.repeat(np.arange(O), parts["counts"]), parts["columns"]] = True
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


def _with_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in values.items()}
