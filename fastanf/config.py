"""The settings of one lane as a whole: by group or by flat name, and the rules over several.

Names are unique over groups (settings.py), so a setting is read and replaced by its name alone.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastanf.options import Option, did_you_mean, read_options_once, start_of
from fastanf.settings import (
    AlgorithmConfig,
    NetworkConfig,
    NoiseConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    SparsityConfig,
    TaskConfig,
)


@dataclass(frozen=True)
class TrainConfig:
    """All settings of one lane.

    Raises:
        ValueError: a value that is not allowed, alone or together with another.
    """

    task: TaskConfig = field(default_factory=TaskConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    sparsity: SparsityConfig = field(default_factory=SparsityConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        check_together(self)

    @classmethod
    def of(cls, **values: Any) -> "TrainConfig":
        """The defaults with some settings changed, by flat names."""
        return cls().replace(**values)

    def get(self, name: str) -> Any:
        """The value of a setting, by its flat name."""
        entry = train_option(name)
        return getattr(getattr(self, entry.group), entry.name)

    def replace(self, **values: Any) -> "TrainConfig":
        """A copy with some settings changed, by flat names; lists count as tuples.

        Raises:
            ValueError: no such setting, or a value that is not allowed.
        """
        by_group: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            entry = train_option(name)
            changes = by_group.setdefault(entry.group, {})
            if entry.name in changes:
                raise ValueError(f"{entry.name} is given twice, also as {name}")
            changes[entry.name] = value
        groups = {
            group: dataclasses.replace(getattr(self, group), **changes)
            for group, changes in by_group.items()
        }
        return dataclasses.replace(self, **groups)

    def flat(self) -> dict[str, Any]:
        """Every setting by its flat name, in the order of declaration."""
        return {name: getattr(getattr(self, entry.group), name) for name, entry in OPTIONS.items()}

    @property
    def effective_replay_capacity(self) -> int:
        """Transitions that a lane can ever hold: a run shorter than the capacity needs no more."""
        return min(
            self.schedule.replay_capacity,
            self.schedule.start_timesteps + self.schedule.max_timesteps,
        )

    @property
    def num_updates(self) -> int:
        """Updates of the whole run: each lock step of a lane's environments makes as many."""
        lock_steps = -(-self.schedule.max_timesteps // self.task.envs_per_lane)
        return lock_steps * self.schedule.updates_per_step


_GROUPS: dict[str, type] = {
    "task": TaskConfig,
    "noise": NoiseConfig,
    "algorithm": AlgorithmConfig,
    "optimizer": OptimizerConfig,
    "network": NetworkConfig,
    "sparsity": SparsityConfig,
    "schedule": ScheduleConfig,
}
OPTIONS: dict[str, Option] = {
    name: entry for group in _GROUPS.values() for name, entry in read_options_once(group).items()
}
"""The settings of a lane by flat name."""
RUN_OPTIONS: dict[str, Option] = read_options_once(RunConfig)
"""The settings of the command."""
STATIC_NAMES = tuple(name for name, entry in OPTIONS.items() if entry.kind == "static")
LANE_NAMES = tuple(name for name, entry in OPTIONS.items() if entry.kind == "lane")


def group_help() -> list[tuple[str, str]]:
    """Name and meaning of every group, the command's own (`run`) included."""
    groups = {"run": RunConfig, **_GROUPS}
    return [(name, inspect.cleandoc(owner.__doc__ or "")) for name, owner in groups.items()]


def normalize(name: str) -> str:
    """A name without leading dashes, case and the difference of dashes and underscores."""
    return name.lstrip("-").replace("-", "_").lower()


ALIASES: dict[str, str] = {
    normalize(alias): name
    for name, entry in (OPTIONS | RUN_OPTIONS).items()
    for alias in (name, *entry.aliases)
}
"""Normalized name or alias -> flat name."""


def train_option(name: str) -> Option:
    """The option of that name, aliases included.

    Raises:
        ValueError: no such setting of a lane; names the nearest.
    """
    found = OPTIONS.get(name) or OPTIONS.get(ALIASES.get(normalize(name), ""))
    if found is None:
        near = did_you_mean(normalize(name), (a for a, n in ALIASES.items() if n in OPTIONS))
        raise ValueError(f"{start_of(name)} is not a setting of training{near}")
    return found


def check_together(config: TrainConfig) -> None:
    """Rules over several settings.

    Raises:
        ValueError: in one line, with the settings and what is allowed.
    """
    schedule, envs_per_lane, noise = config.schedule, config.task.envs_per_lane, config.noise
    if noise.noise_distribution == "empirical" and noise.noise_std != 1:
        raise ValueError(
            f"noise_std must be 1 with noise_distribution empirical, got {noise.noise_std:g}"
        )
    smallest = max(config.algorithm.batch_size, 2 * envs_per_lane)
    if schedule.replay_capacity < smallest:
        raise ValueError(
            f"replay_capacity must be an integer of at least {smallest} (batch_size, and two "
            f"steps of envs_per_lane), got {schedule.replay_capacity}"
        )
    if schedule.start_timesteps < envs_per_lane:
        raise ValueError(
            f"start_timesteps must be an integer of at least envs_per_lane = {envs_per_lane}, "
            f"got {schedule.start_timesteps}"
        )
    if config.task.mjx_impl != "jax" and config.task.backend != "mjx":
        raise ValueError(
            f"mjx_impl {config.task.mjx_impl} needs backend mjx, got {config.task.backend}"
        )
    sparsity = config.sparsity
    if (
        has_sparsity(config)
        and sparsity.topology != "static"
        and {sparsity.sparse_networks, sparsity.evolving_networks} == {"actor", "critic"}
    ):
        raise ValueError(
            f"evolving_networks must be both or {sparsity.sparse_networks} with sparse_networks "
            f"{sparsity.sparse_networks}, got {sparsity.evolving_networks!r}"
        )
    obstacle = csr_obstacle(config)
    if config.sparsity.layout == "csr" and has_sparsity(config) and obstacle:
        raise ValueError(
            f"layout csr does not go with {obstacle}; allowed is layout masked, or auto"
        )


def csr_obstacle(config: TrainConfig) -> str | None:
    """The setting that csr layers cannot serve, as name and value; None if they can."""
    sparsity, optimizer = config.sparsity, config.optimizer.optimizer
    if sparsity.target_sparsity == "trim":
        return "target_sparsity trim"
    if optimizer == "Adam" and sparsity.topology != "static":
        return "optimizer Adam and a topology that changes"
    if sparsity.topology in ("rigl", "pruning"):
        return f"topology {sparsity.topology}"
    if config.network.input_gate:
        return "input_gate true"
    if config.optimizer.input_group_lasso:
        return f"input_group_lasso {config.optimizer.input_group_lasso:g}"
    return None


def has_sparsity(config: TrainConfig) -> bool:
    """Whether any connection of the lane is inactive."""
    return bool(config.sparsity.global_sparsity or config.sparsity.input_layer_sparsity)


_REPLACEMENT = {"drop_fraction", "drop_schedule", "new_weights"}
_IDLE_OF_TOPOLOGY = {
    "static": {*_REPLACEMENT, "topology_period", "topology_end", "evolving_networks"},
    "pruning": _REPLACEMENT,
}


def idle_names(config: TrainConfig) -> frozenset[str]:
    """The settings whose values make no difference to this lane."""
    idle: set[str] = set()
    if config.task.backend != "mjx":
        idle |= {"mjx_impl"}
    if config.algorithm.algorithm == "sac":
        idle |= {"target_noise", "target_noise_clip", "exploration_noise"}
    else:
        idle |= {"temperature", "automatic_temperature"}
    if not has_sparsity(config):
        idle |= set(read_options_once(SparsityConfig)) - {"global_sparsity", "input_layer_sparsity"}
    if not config.sparsity.global_sparsity:
        idle |= {"sparsity_distribution", "sparse_output_layer"}
    idle |= _IDLE_OF_TOPOLOGY.get(config.sparsity.topology, set())
    if config.noise.noise_fraction == 0:
        idle |= {"noise_std", "noise_distribution", "noise_redraw"}
    if config.noise.permute_period == 0:
        idle |= {"permute_replay"}
    return frozenset(idle)


def block_key(config: TrainConfig) -> tuple[Any, ...]:
    """What lanes of one block share: every static setting, and whether the optimizer is an Adam."""
    static = tuple(config.get(name) for name in STATIC_NAMES)
    return (*static, "SGD" if config.optimizer.optimizer == "SGD" else "Adam")


def from_flat(values: Mapping[str, Any]) -> TrainConfig:
    """The configuration that `flat` wrote, after a journey through JSON too.

    Raises:
        ValueError: an unknown name or a value that is not allowed.
    """
    return TrainConfig.of(**values)
