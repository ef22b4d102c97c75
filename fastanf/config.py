"""Every setting of a run: its name, default, meaning, allowed values, whether lanes may differ.

`TrainConfig` is one lane's settings, in small frozen groups. An option is *lane* (a column over the
lanes of a block) or *static* (part of the block's shape and loop). Names are unique over groups,
so a setting is read and replaced by its name alone. The docstring under a field is its help text.
Defaults: Grooten et al. 2023, arXiv 2302.06548.
"""

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

Kind = Literal["lane", "static", "run"]

ACTIVATIONS = (
    "relu",
    "tanh",
    "sigmoid",
    "elu",
    "leakyrelu",
    "swish",
    "selu",
    "symsqrt",
    "symsqrt1",
    "nonlex",
    "lex",
    "fixedsrelu",
    "srelu",
    "allrelu",
)


@dataclass(frozen=True)
class Allowed:
    """A set of values, in words and as a test."""

    text: str
    test: Callable[[Any], bool]


def interval(text: str) -> Allowed:
    """The finite numbers of an interval written as in mathematics, e.g. `[0, 1)` or `(0, inf)`."""
    low, high = (float(end) for end in text[1:-1].split(","))

    def test(value: float) -> bool:
        above = low <= value if text[0] == "[" else low < value
        below = value <= high if text[-1] == "]" else value < high
        return above and below and math.isfinite(value)

    if high == math.inf:
        return Allowed(f"a number {'of at least' if text[0] == '[' else 'above'} {low:g}", test)
    return Allowed(f"a number in {text}", test)


def at_least(low: int) -> Allowed:
    """The integers from `low` on."""
    return Allowed(f"an integer of at least {low}", lambda value: value >= low)


def _sizes_are_positive(value: tuple[int, ...]) -> bool:
    return len(value) > 0 and min(value) >= 1


def _are_finite(value: tuple[float, ...]) -> bool:
    return all(math.isfinite(number) for number in value)


def option(
    default: Any,
    *,
    kind: Kind,
    aliases: tuple[str, ...] = (),
    choices: tuple[str, ...] = (),
    allowed: Allowed | None = None,
    is_flag: bool = True,
) -> Any:
    """Declare one setting as a dataclass field.

    Args:
        default: the value when nothing is said.
        kind: `lane` (may differ between the lanes of a block), `static` (shared by a block),
            `run` (of the whole command).
        aliases: other names of the flag, those of the published code among them.
        choices: the allowed words; case does not matter.
        allowed: the allowed numbers. None is allowed where the annotation says so.
        is_flag: whether the command line offers it.
    """
    metadata = {
        "kind": kind,
        "aliases": aliases,
        "choices": choices,
        "allowed": allowed,
        "is_flag": is_flag,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Option:
    """What is known of one setting."""

    name: str
    group: str
    """The group that holds it, e.g. `sparsity`."""
    kind: Kind
    item: type
    """Type of the value, or of its items where it is a tuple."""
    is_tuple: bool
    is_optional: bool
    """Whether None is a value."""
    default: Any
    help: str
    aliases: tuple[str, ...]
    choices: tuple[str, ...]
    allowed: Allowed | None
    is_flag: bool

    def expected(self) -> str:
        """The allowed values in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        kind = {int: "an integer", float: "a number", bool: "true or false", str: "a name"}[
            self.item
        ]
        text = self.allowed.text if self.allowed else kind
        return f"{text}, or none" if self.is_optional else text

    def check(self, value: Any, label: str = "") -> Any:
        """The value in its own type, or a ValueError of one line that names `label`."""
        label = label or self.name
        if value is None and self.is_optional:
            return None
        try:
            checked = self._items(value) if self.is_tuple else self._convert(value)
            is_allowed = self.allowed is None or self.allowed.test(checked)
            is_allowed = is_allowed and (not self.choices or checked in self.choices)
        except (TypeError, ValueError, OverflowError):
            is_allowed, checked = False, value
        if not is_allowed:
            hint = did_you_mean(value, self.choices)
            raise ValueError(f"{label} must be {self.expected()}, got {value!r}{hint}")
        return checked

    def parse(self, text: str, label: str = "") -> Any:
        """A value from its spelling on the command line (sizes as 256x256, absent as none)."""
        label, word = label or self.name, text.strip().lower()
        if self.is_optional and word in ("none", "null"):
            return None
        value: Any = text.strip()
        try:
            if self.is_tuple:
                value = tuple(_number(part) for part in word.split("x")) if word else ()
            elif self.item in (int, float):
                value = _number(word)
            elif self.item is bool:
                value = {
                    "true": True,
                    "1": True,
                    "yes": True,
                    "false": False,
                    "0": False,
                    "no": False,
                }[word]
        except (ValueError, KeyError):
            raise ValueError(f"{label} must be {self.expected()}, got {text!r}") from None
        return self.check(value, label)

    def spell(self, value: Any) -> str:
        """The spelling that `parse` reads back."""
        if self.is_tuple:
            return "x".join(self._spell_item(item) for item in value)
        return "none" if value is None else self._spell_item(value)

    def _spell_item(self, item: Any) -> str:
        if isinstance(item, bool):
            return "true" if item else "false"
        return repr(item) if isinstance(item, float) else str(item)

    def _items(self, value: Any) -> tuple[Any, ...]:
        if isinstance(value, str):
            raise TypeError
        return tuple(self._convert(item) for item in value)

    def _convert(self, value: Any) -> Any:
        if self.item is str:
            if not isinstance(value, str):
                raise TypeError
            return {choice.lower(): choice for choice in self.choices}.get(value.lower(), value)
        if self.item is bool:
            if not isinstance(value, bool):
                raise TypeError
            return value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError
        if self.item is int and value != int(value):
            raise ValueError
        return self.item(value)


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def did_you_mean(value: object, names: Iterable[str]) -> str:
    """` (did you mean X or Y?)` for names that resemble a mistyped one, else an empty string."""
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(str(value).lower(), by_lower, n=2, cutoff=0.6)
    return f" (did you mean {' or '.join(by_lower[name] for name in near)}?)" if near else ""


@functools.cache
def _class_bodies(module: str) -> dict[str, list[ast.stmt]]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}


def field_docs(owner: type) -> dict[str, str]:
    """The docstring under each annotated field of a module's class, by field name."""
    body = _class_bodies(owner.__module__)[owner.__name__]
    docs = {}
    for statement, after in itertools.pairwise(body):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            is_doc = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            text = after.value.value if is_doc else ""  # pyright: ignore[reportAttributeAccessIssue]
            docs[statement.target.id] = " ".join(str(text).split())
    return docs


def read_options(owner: type, group: str) -> dict[str, Option]:
    """The options that a dataclass declares, by name."""
    docs, hints = field_docs(owner), typing.get_type_hints(owner)
    options = {}
    for entry in fields(owner):
        hint, is_optional = hints[entry.name], False
        if isinstance(hint, types.UnionType):
            (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
            is_optional = True
        is_tuple = typing.get_origin(hint) is tuple
        options[entry.name] = Option(
            name=entry.name,
            group=group,
            item=typing.get_args(hint)[0] if is_tuple else hint,
            is_tuple=is_tuple,
            is_optional=is_optional,
            default=entry.default,
            help=docs[entry.name],
            **entry.metadata,
        )
    return options


class Group:
    """Checks every field against its declaration when an instance is made."""

    def __post_init__(self) -> None:
        for name, entry in read_options_once(type(self)).items():
            object.__setattr__(self, name, entry.check(getattr(self, name)))


_OPTIONS_OF: dict[type, dict[str, Option]] = {}


def read_options_once(owner: type) -> dict[str, Option]:
    """`read_options`, remembered: reading the source of a class is slow."""
    if owner not in _OPTIONS_OF:
        name = owner.__name__.removesuffix("Config").lower()
        _OPTIONS_OF[owner] = read_options(owner, name)
    return _OPTIONS_OF[owner]


_SHARE = interval("[0, 1)")
_SHARE_CLOSED = interval("[0, 1]")
_NOT_NEGATIVE = interval("[0, inf)")
_POSITIVE = interval("(0, inf)")
_NUM_SEEDS = Allowed("an integer in [1, 10000]", lambda value: 1 <= value <= 10_000)
_SEED = Allowed("an integer in [0, 2147483647]", lambda value: 0 <= value < 2**31)


@dataclass(frozen=True)
class TaskConfig(Group):
    """The environment."""

    env: str = option("HalfCheetah-v3", kind="static")
    """Task: HalfCheetah, Hopper, Walker2d, Ant or Humanoid, with -v3 (the papers' features), -v4 or
    -v5. Several are trained one after the other."""
    backend: str = option("envpool", kind="static")
    """Simulator: envpool, or gymnasium (slow, the reference)."""
    envs_per_lane: int = option(1, kind="static", allowed=at_least(1))
    """Environments that each lane steps together; 1 is the papers' setting."""


@dataclass(frozen=True)
class NoiseConfig(Group):
    """The noise features of an extremely noisy environment."""

    noise_fraction: float = option(0.0, kind="static", aliases=("fake_features",), allowed=_SHARE)
    """Share of noise features: D real features become D / (1 - fraction), rounded up."""
    noise_std: float = option(1.0, kind="lane", aliases=("fake_noise_std",), allowed=_POSITIVE)
    """Standard deviation of gaussian noise features."""
    noise_distribution: str = option("gaussian", kind="static", choices=("gaussian", "empirical"))
    """gaussian, or empirical: histograms of the task's own real features."""
    noise_redraw: str = option("per_call", kind="static", choices=("per_call", "per_step"))
    """per_call: every network call sees fresh noise, as in the published code; per_step: the noise
    seen at an environment step is the noise that is replayed."""
    permute_period: int = option(0, kind="static", allowed=at_least(0))
    """Environment steps after which all features change places (transfer); 0 is never."""
    permute_replay: bool = option(True, kind="static")
    """Whether old transitions appear in the new order too, as in the published code."""


@dataclass(frozen=True)
class AlgorithmConfig(Group):
    """The learning algorithm."""

    policy: str = option("ANF-SAC", kind="lane")
    """Preset that the lane was made from. Several train together."""
    variant: str = option("", kind="lane", is_flag=False)
    """What --vary set in this lane, as field=value,field=value."""
    seed: int = option(0, kind="lane", allowed=_SEED, is_flag=False)
    """The lane's seed; every random number of the lane follows from it."""
    algorithm: str = option("sac", kind="static", choices=("sac", "td3"), is_flag=False)
    """Set by the policy."""
    discount: float = option(0.99, kind="lane", aliases=("gamma",), allowed=_SHARE)
    """Discount of the return per environment step."""
    tau: float = option(0.005, kind="lane", allowed=interval("(0, 1]"))
    """Step of the target networks towards the online ones; 1 copies them."""
    target_period: int = option(
        1, kind="lane", aliases=("target_update_interval",), allowed=at_least(1)
    )
    """Updates between two moves of the target networks."""
    batch_size: int = option(100, kind="static", allowed=at_least(1))
    """Transitions of a minibatch, per lane."""
    policy_delay: int = option(1, kind="static", allowed=at_least(1))
    """Critic updates for each actor update."""
    temperature: float = option(0.2, kind="lane", aliases=("alpha",), allowed=_NOT_NEGATIVE)
    """SAC: weight of the entropy, or its first value when it is tuned."""
    automatic_temperature: bool = option(False, kind="lane", aliases=("automatic_entropy_tuning",))
    """SAC: tune the temperature towards a target entropy of -A."""
    target_noise: float = option(0.2, kind="lane", aliases=("policy_noise",), allowed=_NOT_NEGATIVE)
    """TD3: standard deviation of the noise on the target action, as a share of the action limit."""
    target_noise_clip: float = option(
        0.5, kind="lane", aliases=("noise_clip",), allowed=_NOT_NEGATIVE
    )
    """TD3: largest noise on the target action, as a share of the action limit."""
    exploration_noise: float = option(
        0.1, kind="lane", aliases=("expl_noise",), allowed=_NOT_NEGATIVE
    )
    """TD3: standard deviation of the noise on the actions taken, as a share of the action limit."""


@dataclass(frozen=True)
class OptimizerConfig(Group):
    """The optimizer of actor, critics and temperature."""

    optimizer: str = option("MaskAdam", kind="lane", choices=("MaskAdam", "Adam", "SGD"))
    """MaskAdam keeps gradient and moments of inactive connections at zero; Adam does not."""
    learning_rate: float = option(1e-3, kind="lane", aliases=("lr",), allowed=_POSITIVE)
    """Step size of the optimizer."""
    weight_decay: float = option(2e-4, kind="lane", allowed=_NOT_NEGATIVE)
    """L2 penalty, added to the gradient of every parameter."""


@dataclass(frozen=True)
class NetworkConfig(Group):
    """The networks of actor and critics."""

    hidden: tuple[int, ...] = option(
        (256, 256),
        kind="static",
        aliases=("hidden_dims",),
        allowed=Allowed("one or more widths of at least 1, e.g. 256x256", _sizes_are_positive),
    )
    """Widths of the hidden layers, any number of them, e.g. 256x256 or 400 300."""
    activation: str = option("relu", kind="static", choices=ACTIVATIONS)
    """Activation of the hidden layers."""
    activation_args: tuple[float, ...] = option(
        (),
        kind="static",
        aliases=("act_func_args",),
        allowed=Allowed("finite numbers, e.g. 0.4 0.2 -0.4 0.2", _are_finite),
    )
    """Parameters of the activation, in its own order; its defaults when none are given."""
    activation_per_neuron: bool = option(False, kind="static", aliases=("act_func_per_neuron",))
    """Learn the parameters of lex and srelu for each neuron instead of each layer."""


@dataclass(frozen=True)
class SparsityConfig(Group):
    """How sparse the layers are, and how their connections change."""

    global_sparsity: float | None = option(None, kind="lane", allowed=_SHARE)
    """Share of inactive connections in each whole network, dense layers included."""
    input_layer_sparsity: float | None = option(None, kind="lane", allowed=_SHARE)
    """Share of inactive connections in the first layer, whatever the distribution says."""
    sparsity_distribution: str = option(
        "uniform",
        kind="lane",
        aliases=("sparsity_distribution_method",),
        choices=("uniform", "ER", "new"),
    )
    """How the global sparsity is divided over the layers."""
    sparse_output_layer: bool = option(
        False, kind="lane", aliases=("output_layer_sparse", "output_layer_sparsity")
    )
    """Whether the actor's output layer takes part; the critics' single output is always dense."""
    topology: str = option("set", kind="lane", choices=("set", "static"))
    """set: drop the weakest connections and grow as many at random; static: keep the first ones."""
    drop_fraction: float = option(
        0.05, kind="lane", aliases=("ann_setZeta", "zeta"), allowed=_SHARE_CLOSED
    )
    """Share of the active connections that is replaced at each topology change."""
    topology_period: int = option(
        1000, kind="lane", aliases=("ann_ascTopologyChangePeriod",), allowed=at_least(1)
    )
    """Updates between two topology changes."""
    new_weights: str = option(
        "zero",
        kind="lane",
        aliases=("init_new_weights_method",),
        choices=("zero", "unif", "xavier"),
    )
    """First value of a grown connection."""
    target_sparsity: str = option("mask", kind="static", choices=("mask", "trim"))
    """mask: targets have the online connections; trim: as many, the largest (published code)."""
    layout: str = option("auto", kind="static", choices=("auto", "masked"))
    """How sparse layers are stored; auto chooses."""


@dataclass(frozen=True)
class ScheduleConfig(Group):
    """How long, how often, how much memory."""

    max_timesteps: int = option(1_000_000, kind="static", allowed=at_least(1))
    """Environment steps of each lane after the random ones."""
    start_timesteps: int = option(25_000, kind="static", allowed=at_least(1))
    """Environment steps of each lane with random actions, in addition to max_timesteps."""
    updates_per_step: int = option(1, kind="static", allowed=at_least(1))
    """Updates for each lock step of a lane's environments."""
    eval_freq: int = option(5000, kind="static", allowed=at_least(1))
    """Environment steps of each lane between two evaluations."""
    eval_episodes: int = option(10, kind="static", allowed=at_least(1))
    """Deterministic episodes of an evaluation."""
    replay_capacity: int = option(
        1_000_000, kind="static", aliases=("buffer_size",), allowed=at_least(2)
    )
    """Transitions that each lane keeps."""


@dataclass(frozen=True)
class TrainConfig:
    """All settings of one lane.

    Raises:
        ValueError: a value that is not allowed, alone or together with another.
    """

    task: TaskConfig = TaskConfig()
    noise: NoiseConfig = NoiseConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    network: NetworkConfig = NetworkConfig()
    sparsity: SparsityConfig = SparsityConfig()
    schedule: ScheduleConfig = ScheduleConfig()

    def __post_init__(self) -> None:
        check_together(self)

    @classmethod
    def of(cls, **values: Any) -> "TrainConfig":
        """The defaults with some settings changed, by flat names."""
        return cls().replace(**values)

    def get(self, name: str) -> Any:
        """The value of a setting, by its flat name."""
        return getattr(getattr(self, train_option(name).group), name)

    def replace(self, **values: Any) -> "TrainConfig":
        """A copy with some settings changed, by flat names; lists count as tuples.

        Raises:
            ValueError: no such setting, or a value that is not allowed.
        """
        by_group: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            by_group.setdefault(train_option(name).group, {})[name] = value
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


@dataclass(frozen=True)
class RunConfig(Group):
    """The command as a whole."""

    num_seeds: int = option(1, kind="run", allowed=_NUM_SEEDS)
    """Seeds of each policy and variant, counted up from the first."""
    first_seed: int = option(0, kind="run", aliases=("seed",), allowed=_SEED)
    """The first seed."""
    vary: tuple[str, ...] = option((), kind="run")
    """Settings with several values, as field=v1,v2; all combinations train. Sizes: 256x256."""
    run_dir: str | None = option(None, kind="run")
    """New folder for records and checkpoints; by default runs/ and time, policy and task."""
    device: str = option("auto", kind="run")
    """Where the networks and the replay live: auto, cpu, cuda or cuda:N."""
    num_threads: int = option(0, kind="run", allowed=at_least(0))
    """CPU threads; 0 is all."""
    checkpoint_minutes: float = option(5.0, kind="run", allowed=_POSITIVE)
    """Minutes between two checkpoints."""
    wandb_mode: str = option("disabled", kind="run", choices=("disabled", "online", "offline"))
    """Copy the records to Weights & Biases; online and offline need the extra fastanf[wandb]."""
    tensorboard: bool = option(True, kind="run")
    """Write TensorBoard files into the run folder."""
    plan: bool = option(False, kind="run")
    """Print blocks, lanes, layers and memory, and stop."""
    plain: bool = option(False, kind="run")
    """Print plain lines instead of a live display."""


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
        raise ValueError(f"{name} is not a setting of training{near}")
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


def has_sparsity(config: TrainConfig) -> bool:
    """Whether any connection of the lane is inactive."""
    return bool(config.sparsity.global_sparsity or config.sparsity.input_layer_sparsity)


def idle_names(config: TrainConfig) -> frozenset[str]:
    """The settings whose values make no difference to this lane."""
    idle: set[str] = set()
    if config.algorithm.algorithm == "sac":
        idle |= {"target_noise", "target_noise_clip", "exploration_noise"}
    else:
        idle |= {"temperature", "automatic_temperature"}
    if not has_sparsity(config):
        idle |= set(read_options_once(SparsityConfig)) - {"global_sparsity", "input_layer_sparsity"}
    if not config.sparsity.global_sparsity:
        idle |= {"sparsity_distribution", "sparse_output_layer"}
    if config.sparsity.topology == "static":
        idle |= {"drop_fraction", "topology_period", "new_weights"}
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
