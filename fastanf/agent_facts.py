"""What an agent's file says beside its tensors, and which tensors must follow from it.

Everything is checked before memory is taken for any of it: settings by their own rules, the task
against the registry, shapes against the settings, and what all that needs against what is free.

Axes: O outputs and I inputs of a layer.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from envs import registry
from envs.interface import EnvSpec
from fastanf.config import TrainConfig, from_flat
from fastanf.memory import available_bytes, mib_text
from fastanf.networks import lane_networks
from fastanf.rows import EvaluationRow
from fastanf.tensor_header import StoredTensor, TensorHeader

_KEYS = {
    "format", "config", "spec", "lane", "step", "num_updates", "evaluation", "versions",
    "sparse_shapes",
}  # fmt: skip
_PARTS = ("values", "bits", "columns", "counts")
_WHOLE = ("U16", "U32", "I64")
_TYPES = {"values": ("F32",), "bits": ("U8",), "columns": _WHOLE, "counts": _WHOLE}
_OTHER_TYPES = ("F32", "F64", *_WHOLE)
_SPARSE_BYTES, _DENSE_BYTES = 36, 24
"""Of a possible connection, at most, while an agent is built of a file: weights, masks and what new
ones are drawn from. 8.7 million with 1% of them active took 35.1 bytes each."""
_MOST_FEATURES, _MOST_ACTIONS = 2**20, 2**12
"""Of a task; the largest of MuJoCo's has 376 and 17."""


@dataclass(frozen=True)
class AgentFacts:
    """Settings and numbers of one agent, each of its own type and allowed."""

    config: TrainConfig
    spec: EnvSpec
    lane: int
    step: int
    num_updates: int
    evaluation: EvaluationRow | None
    versions: Mapping[str, str | None]
    sparse_shapes: Mapping[str, tuple[int, int]]
    """[O, I] of the weights that are stored by their connections."""


def read_facts(about: Mapping[str, Any]) -> AgentFacts:
    """The facts in the metadata of a file.

    Raises:
        ValueError: one is missing, unknown, of another type or not allowed.
    """
    if set(about) != _KEYS:
        odd = ", ".join(sorted(_KEYS ^ set(about)))
        raise ValueError(f"it must say {', '.join(sorted(_KEYS))} and no more, not so: {odd[:200]}")
    config = _config(about["config"])
    return AgentFacts(
        config=config,
        spec=_spec(about["spec"], config),
        lane=_count(about["lane"], "lane"),
        step=_count(about["step"], "step"),
        num_updates=_count(about["num_updates"], "num_updates"),
        evaluation=_evaluation(about["evaluation"]),
        versions=_versions(about["versions"]),
        sparse_shapes=_sparse_shapes(about["sparse_shapes"]),
    )


def check_tensors(facts: AgentFacts, header: TensorHeader) -> None:
    """Whether a file's tensors can be those of the settings, and have room in memory.

    Raises:
        ValueError: one is missing, unknown, or of another type or shape than the settings say.
        MemoryError: they are too large for this machine.
    """
    networks = lane_networks(facts.config, facts.spec)
    sizes = networks[0].sizes
    weights = {
        f"actor.{index}.weight": (num_outputs, num_inputs)
        for index, (num_inputs, num_outputs) in enumerate(itertools.pairwise(sizes))
    }
    strange = set(facts.sparse_shapes) - set(weights)
    if strange:
        raise ValueError(f"sparse_shapes names no weight of its settings: {min(strange)[:80]!r}")
    unused, needed = dict(header.tensors), header.num_data_bytes
    for name, shape in weights.items():
        if name in facts.sparse_shapes:
            _check_shape(name, facts.sparse_shapes[name], shape)
            parts = {part: unused.pop(f"{name}.{part}", None) for part in _PARTS}
            _check_parts(name, {k: v for k, v in parts.items() if v is not None}, shape)
            needed += _SPARSE_BYTES * math.prod(shape)
        else:
            stored = unused.pop(name, None)
            is_float = stored is not None and stored.dtype == "F32"
            _check_shape(name, stored.shape if stored and is_float else None, (1, *shape))
            needed += _DENSE_BYTES * math.prod(shape)
    for name, stored in unused.items():
        if not name.startswith(("actor.", "features.")) or stored.dtype not in _OTHER_TYPES:
            raise ValueError(f"its settings have no place for tensor {name[:80]!r}")
        if stored.num_items > max(sizes):
            raise ValueError(f"tensor {name[:80]!r} has more numbers than its settings have places")
    free = available_bytes("cpu")
    if needed > free:
        raise MemoryError(f"it needs {mib_text(needed)}, {mib_text(free)} are free")


def _check_parts(name: str, parts: Mapping[str, StoredTensor], shape: tuple[int, int]) -> None:
    """Whether the parts of a sparse weight [O, I] have the shapes that they must have."""
    num_outputs, num_inputs = shape
    for part, stored in parts.items():
        if stored.dtype not in _TYPES[part]:
            raise ValueError(f"tensor {name}.{part} must be {_TYPES[part][0]}, got {stored.dtype}")
        if len(stored.shape) != 1 or stored.num_items > num_outputs * num_inputs:
            raise ValueError(f"tensor {name}.{part} has an impossible shape {[*stored.shape]}")
    found = {part: stored.num_items for part, stored in parts.items()}
    if set(found) == {"values", "bits"}:
        fits = found["bits"] == -(-num_outputs * num_inputs // 8)
    else:
        fits = set(found) == {"values", "columns", "counts"}
        fits = fits and found["columns"] == found["values"] and found["counts"] == num_outputs
    if not fits or not found["values"]:
        raise ValueError(f"tensor {name} must have its connections stored in parts that fit")


def _check_shape(name: str, found: tuple[int, ...] | None, expected: tuple[int, ...]) -> None:
    if found != expected:
        held = "none of F32" if found is None else [*found]
        raise ValueError(
            f"tensor {name} must have the shape {[*expected]}, as its settings say, got {held}"
        )


def _config(values: Any) -> TrainConfig:
    if not isinstance(values, dict):
        raise ValueError("config must be settings by name")
    return from_flat(values)


def _spec(values: Any, config: TrainConfig) -> EnvSpec:
    names = {field.name for field in dataclasses.fields(EnvSpec)}
    if not isinstance(values, dict) or set(values) != names:
        raise ValueError(f"spec must have {', '.join(sorted(names))}")
    spec = EnvSpec(
        env_id=_text(values["env_id"], "spec: env_id"),
        num_features=_count(values["num_features"], "spec: num_features", 1, _MOST_FEATURES),
        num_actions=_count(values["num_actions"], "spec: num_actions", 1, _MOST_ACTIONS),
        action_low=_numbers(values["action_low"], "spec: action_low"),
        action_high=_numbers(values["action_high"], "spec: action_high"),
        max_episode_steps=_count(values["max_episode_steps"], "spec: max_episode_steps", 1),
    )
    limits = [*zip(spec.action_low, spec.action_high, strict=False)]
    sizes = {len(spec.action_low), len(spec.action_high), spec.num_actions}
    if len(sizes) > 1 or not all(low < high for low, high in limits):
        raise ValueError("spec: action_low must be below action_high, for each of num_actions")
    task = config.task
    if spec.env_id != task.env:
        raise ValueError(f"spec is of env {spec.env_id!r}, config of {task.env!r}")
    # A task of somebody's own needs no simulator to be acted in; a known one must be itself.
    is_known = task.backend in registry.backend_names()
    if is_known and task.env in registry.known_env_ids(task.backend):
        known = registry.spec(task.env, task.backend)
        if dataclasses.replace(spec, max_episode_steps=known.max_episode_steps) != known:
            raise ValueError(f"spec is not that of {task.env} in backend {task.backend}")
    return spec


def _evaluation(values: Any) -> EvaluationRow | None:
    """A row; JSON has null for nan."""
    if values is None:
        return None
    fields = {field.name: field.type for field in dataclasses.fields(EvaluationRow)}
    if not isinstance(values, dict) or set(values) != set(fields):
        raise ValueError(f"evaluation must have {', '.join(fields)}")
    cells: dict[str, Any] = {}
    for name, kind in fields.items():
        value, label = values[name], f"evaluation: {name}"
        if kind is float:
            cells[name] = math.nan if value is None else _numbers([value], label)[0]
        else:
            cells[name] = _count(value, label) if kind is int else _text(value, label)
    return EvaluationRow(**cells)


def _versions(values: Any) -> dict[str, str | None]:
    if not isinstance(values, dict):
        raise ValueError("versions must be texts by name")
    return {
        _text(name, "versions"): None if value is None else _text(value, "versions")
        for name, value in values.items()
    }


def _sparse_shapes(values: Any) -> dict[str, tuple[int, int]]:
    if not isinstance(values, dict):
        raise ValueError("sparse_shapes must be shapes by name")
    shapes = {}
    for name, shape in values.items():
        if not isinstance(shape, list) or len(shape) != 3 or shape[0] != 1:
            raise ValueError(
                f"sparse_shapes: {name[:80]!r} must be [1, O, I], got {str(shape)[:80]}"
            )
        label = f"sparse_shapes: {name[:80]!r}"
        shapes[name] = (_count(shape[1], label, 1), _count(shape[2], label, 1))
    return shapes


def _count(value: Any, label: str, low: int = 0, high: int = 2**53) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{label} must be an integer in [{low}, {high}], got {str(value)[:80]!r}")
    return value


def _numbers(values: Any, label: str) -> tuple[float, ...]:
    if not isinstance(values, list) or not all(
        type(value) in (int, float) and math.isfinite(value) and abs(value) < 2**53 * 1.0
        for value in values
    ):
        raise ValueError(f"{label} must be finite numbers, got {str(values)[:80]}")
    return tuple(float(value) for value in values)


def _text(value: Any, label: str) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{label} must be a text of one line, got {str(value)[:80]!r}")
    return value
