"""The policies of the papers as presets of settings, and the lanes that a study is made of.

A policy is no code path: dense is sparsity 0, static a topology that never evolves, a moment mask
an optimizer. Values: ANF, Grooten et al. 2023, arXiv 2302.06548; DS-SAC and DS-TD3, Sokar et
al. 2022, arXiv 2106.04217; TowS, Grooten et al., poster "Towards Implementing Truly Sparse
Connections in Deep RL Agents".
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from fastanf.config import (
    ALIASES,
    OPTIONS,
    TrainConfig,
    idle_names,
    normalize,
    train_option,
)
from fastanf.options import did_you_mean, shown

MOST_LANES = 20_000
"""Of a study; more would take minutes to plan and years to train."""


@dataclass(frozen=True)
class Preset:
    """What a policy's name stands for."""

    name: str
    values: Mapping[str, Any]
    """Settings that differ from the defaults; an explicit setting overrides them."""
    default_input_sparsity: float | None = None
    """Input layer sparsity when neither it nor a global sparsity is given."""
    default_global_sparsity: float | None = None
    """Global sparsity when none is given."""
    is_dense: bool = False
    """A baseline: settings of the sparsity are not for it."""


_ALGORITHMS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "SAC": {"algorithm": "sac"},
        "TD3": {"algorithm": "td3", "policy_delay": 2, "target_period": 2},
    }
)
_HARD_TARGETS = {"tau": 1.0, "target_period": 1000}
_DS_SAC = {"batch_size": 256, "learning_rate": 3e-4, "drop_fraction": 0.1, **_HARD_TARGETS}
_DS_TD3 = {"batch_size": 100, "learning_rate": 1e-3, "drop_fraction": 0.05}


def _presets() -> dict[str, Preset]:
    presets = []
    for base, shared in _ALGORITHMS.items():
        dynamic = {**shared, "topology": "set", "topology_period": 1000, "optimizer": "MaskAdam"}
        frozen = {**shared, "topology": "static", "optimizer": "MaskAdam"}
        ds = {**dynamic, "optimizer": "Adam", "sparsity_distribution": "ER"}
        ds |= _DS_SAC if base == "SAC" else _DS_TD3
        presets += [
            Preset(base, {**shared, "topology": "static", "optimizer": "Adam"}, is_dense=True),
            Preset(f"ANF-{base}", dynamic, default_input_sparsity=0.8),
            Preset(f"Static-{base}", frozen, default_input_sparsity=0.8),
            Preset(f"TowS-{base}", dynamic, default_global_sparsity=0.9),
            Preset(f"DS-{base}", ds, default_global_sparsity=0.5),
        ]
    return {preset.name: preset for preset in presets}


PRESETS: Mapping[str, Preset] = MappingProxyType(_presets())
PRESET_ALIASES: Mapping[str, str] = MappingProxyType(
    {"SS-SAC": "Static-SAC", "SS-TD3": "Static-TD3"}
)
_SPARSITY_LANE_NAMES = frozenset(
    name for name, entry in OPTIONS.items() if entry.kind == "lane" and entry.group == "sparsity"
)


def find_preset(policy: str) -> Preset:
    """The preset of that name; case does not matter.

    Raises:
        ValueError: no such policy; names the nearest ones, or all.
    """
    names = {name.lower(): name for name in PRESETS}
    names |= {alias.lower(): name for alias, name in PRESET_ALIASES.items()}
    found = names.get(policy.lower())
    if found is None:
        hint = did_you_mean(policy, [*PRESETS, *PRESET_ALIASES])
        raise ValueError(f"policy must be one of {', '.join(PRESETS)}, got {shown(policy)}{hint}")
    return PRESETS[found]


def lane_config(policy: str, overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """A policy's settings with explicit ones over them.

    A dense policy is the baseline of a study: of the overrides it takes all but those of its
    sparsity (how much, which connections, when), and a moment mask is no different from Adam there.

    Args:
        policy: name of a preset.
        overrides: values by flat name.

    Raises:
        ValueError: no such policy or setting, or a value that is not allowed.
    """
    preset = find_preset(policy)
    given = {train_option(name).name: value for name, value in (overrides or {}).items()}
    TrainConfig.of(**given)  # a value that a dense lane ignores must be a good one too
    if preset.is_dense:
        given = {name: v for name, v in given.items() if name not in _SPARSITY_LANE_NAMES}
        if str(given.get("optimizer", "")).lower() == "maskadam":
            del given["optimizer"]
    values = {**preset.values, **given, "policy": preset.name}
    has_global = values.get("global_sparsity") is not None
    has_input = values.get("input_layer_sparsity") is not None
    if not has_global and preset.default_global_sparsity is not None:
        values["global_sparsity"] = preset.default_global_sparsity
    if not has_global and not has_input and preset.default_input_sparsity is not None:
        values["input_layer_sparsity"] = preset.default_input_sparsity
    return TrainConfig.of(**values)


@dataclass(frozen=True)
class Arm:
    """One part of a study: policies with settings of their own."""

    policies: Sequence[str]
    """Names of presets, no two of the same preset."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Explicit settings of all its lanes."""
    vary: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Values by setting; every combination is made, the last setting fastest."""
    own: frozenset[str] = frozenset()
    """The overrides that set it apart from other arms: a lane's `variant` names them too."""


@dataclass(frozen=True)
class Expansion:
    """The lanes of a study, and what the user should know about them."""

    lanes: tuple[TrainConfig, ...]
    notes: tuple[str, ...] = ()


@dataclass
class _Used:
    """Which explicit settings were given anywhere, and which made a difference."""

    given: dict[str, None] = field(default_factory=dict)
    policies: dict[str, None] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    num_merged: int = 0


def expand(
    policies: Sequence[str],
    vary: Mapping[str, Sequence[Any]] | None = None,
    num_seeds: int = 1,
    overrides: Mapping[str, Any] | None = None,
    first_seed: int = 0,
    envs: Sequence[str] = (),
) -> Expansion:
    """Every combination of tasks, policies, varied values and seeds, one lane each.

    Args:
        policies: as in an `Arm`.
        vary: as in an `Arm`.
        num_seeds: as in `expand_arms`.
        overrides: as in an `Arm`.
        first_seed: as in `expand_arms`.
        envs: as in `expand_arms`.

    Raises:
        ValueError: a name or value that is not allowed, or one that is given twice.
    """
    return expand_arms([Arm(policies, overrides or {}, vary or {})], num_seeds, first_seed, envs)


def expand_arms(
    arms: Sequence[Arm], num_seeds: int = 1, first_seed: int = 0, envs: Sequence[str] = ()
) -> Expansion:
    """Every combination of tasks, an arm's policies and varied values, and seeds, one lane each.

    A lane's `variant` names the varied settings, and those that are an arm's own, that make a
    difference to it; not the noise fraction, which has a column of its own in every record. Lanes
    that would be equal (a dense policy under a varied sparsity) are kept once, under their first
    variant.

    Args:
        arms: of the study, in order.
        num_seeds: seeds of each combination: first_seed, first_seed + 1, ...
        first_seed: the first seed.
        envs: tasks; empty for the one in an arm's overrides or the default.

    Raises:
        ValueError: a name or value that is not allowed, or one that is given twice.
    """
    _check_count(arms, num_seeds, len(envs))
    used = _Used()
    lanes: dict[tuple[Any, ...], TrainConfig] = {}
    _refuse_twice("env", envs)
    for env, arm in itertools.product(envs or [None], arms):
        for config, variant in _configs(arm, {"env": env} if env is not None else {}, used):
            for seed in range(first_seed, first_seed + num_seeds):
                lane = config.replace(seed=seed, variant=variant)
                key = lane_identity(lane)
                used.num_merged += key in lanes
                lanes.setdefault(key, lane)
    return Expansion(tuple(lanes.values()), _notes(used))


def _check_count(arms: Sequence[Arm], num_seeds: int, num_envs: int) -> None:
    """Refuse a study of more lanes than can be planned, before any is made."""
    num_lanes = (
        sum(math.prod(map(len, (arm.policies, *arm.vary.values()))) for arm in arms)
        * max(1, num_envs)
        * num_seeds
    )
    if num_lanes > MOST_LANES:
        raise ValueError(
            f"the combinations of policy, env, vary and num_seeds must be at most {MOST_LANES} "
            f"lanes, got {shown(num_lanes)}; give fewer values, or make several studies of them"
        )


def _configs(arm: Arm, task: Mapping[str, Any], used: _Used) -> Iterator[tuple[TrainConfig, str]]:
    """Settings and variant of every combination of an arm's policies and varied values."""
    overrides = {train_option(name).name: value for name, value in arm.overrides.items()}
    axes = _axes(arm.vary, overrides)
    names = [find_preset(policy).name for policy in arm.policies]
    if not names:
        raise ValueError(f"policy must be one or more of {', '.join(PRESETS)}, got none")
    _refuse_twice("policy", names)
    used.policies |= dict.fromkeys(names)
    used.given |= dict.fromkeys((*overrides, *axes))
    for name, values in itertools.product(names, _combinations(axes)):
        config = lane_config(name, {**overrides, **values, **task})
        effective = _effective(config)
        used.names |= effective
        named = [
            key
            for key in (*overrides, *axes)
            if (key in arm.own or key in axes) and key != "noise_fraction"
        ]
        variant = ",".join(
            f"{key}={OPTIONS[key].spell(config.get(key))}" for key in named if key in effective
        )
        yield config, variant


def _axes(vary: Mapping[str, Sequence[Any]], overrides: Mapping[str, Any]) -> dict[str, list[Any]]:
    axes: dict[str, list[Any]] = {}
    for given, values in vary.items():
        if ALIASES.get(normalize(given)) in ("policy", "env", "first_seed"):
            raise ValueError(
                f"vary: {given} takes several values with an option of its own: "
                "--policy P Q, --env E F, --num_seeds N --seed FIRST"
            )
        entry = train_option(given)
        if not entry.is_flag:
            raise ValueError(f"vary: {entry.name} follows from the policy; use --policy")
        if entry.name in overrides:
            raise ValueError(f"vary: {entry.name} has a value of its own; give one or the other")
        if entry.name in axes:
            raise ValueError(f"vary: {entry.name} is given twice")
        axes[entry.name] = [entry.check(value, f"vary: {entry.name}") for value in values]
        if not axes[entry.name]:
            raise ValueError(f"vary: {entry.name} must have one or more values, as field=v1,v2")
        _refuse_twice(f"vary: {entry.name}", axes[entry.name])
    return axes


def _combinations(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def _refuse_twice(label: str, values: Sequence[Any]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{label} must name different values, got {shown(value)} twice")
        seen.add(value)


def _effective(config: TrainConfig) -> frozenset[str]:
    """The settings whose values matter to this lane, given its policy."""
    effective = set(OPTIONS) - idle_names(config)
    if find_preset(config.algorithm.policy).is_dense:
        effective -= _SPARSITY_LANE_NAMES
    return frozenset(effective)


def lane_identity(config: TrainConfig) -> tuple[Any, ...]:
    """What lanes that train alike have in common: every setting that matters to them."""
    names = sorted(_effective(config) - {"variant"})
    return tuple((name, config.get(name)) for name in names)


def _notes(used: _Used) -> tuple[str, ...]:
    policies = ", ".join(used.policies)
    notes = [
        f"{name} makes no difference to {policies} with the other settings given"
        for name in used.given
        if name not in used.names
    ]
    if used.num_merged:
        notes.append(f"{used.num_merged} lanes equal to others were left out")
    return tuple(notes)
