"""A study as a TOML file: which policies, tasks, settings and seeds, and its arms.

    name = "anf_noise"                   # also of its default run folder, runs/anf_noise
    about = "One or two sentences."
    policy = ["ANF-SAC", "SAC"]          # policy, env, num_seeds, first_seed as on the command line
    num_seeds = 5
    [settings]                           # any setting of a lane, by any of its flag's names
    max_timesteps = 1_000_000
    [vary]
    noise_fraction = [0.8, 0.9]          # every combination
    [[arm]]                              # any number, each on top of what is shared above
    policy = "SAC"
    settings.learning_rate = 3e-4

Without arms the study is one expansion of what is shared, with arms it is all of theirs. What an
arm sets or varies takes the place of what is shared; so do flags given beside a file.
"""

import dataclasses
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastanf.config import ALIASES, OPTIONS, RUN_OPTIONS, normalize, train_option
from fastanf.files import read_regular
from fastanf.options import Option, did_you_mean, shown, start_of
from fastanf.paths import expanded
from fastanf.presets import Arm, Expansion, expand_arms, find_preset

SHIPPED = Path(__file__).parent / "studies"
"""Where the studies that come with the package are."""
_KEYS = ("name", "about", "policy", "env", "num_seeds", "first_seed", "settings", "vary", "arm")
_ARM_KEYS = ("policy", "settings", "vary")
_OWN_FLAGS = ("policy", "env", "num_seeds", "first_seed")
_NAME = r"[A-Za-z0-9][\w.+-]{,99}"
_MOST_BYTES, _MOST_OF_A_LINE = 2**18, 4000  # tomllib needs the square of a line for a.b.c...


@dataclass(frozen=True)
class StudyArm:
    """What one `[[arm]]` says."""

    policies: tuple[str, ...] | None = None
    """None for the shared ones."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    vary: Mapping[str, Sequence[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class StudySpec:
    """What a study trains, before it is expanded; the defaults are those of a command."""

    name: str = ""
    """Empty for a study that only a command line describes."""
    about: str = ""
    policies: tuple[str, ...] = (OPTIONS["policy"].default,)
    envs: tuple[str, ...] = (OPTIONS["env"].default,)
    num_seeds: int = RUN_OPTIONS["num_seeds"].default
    first_seed: int = RUN_OPTIONS["first_seed"].default
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Values by setting."""
    vary: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    arms: tuple[StudyArm, ...] = ()
    text: str = ""
    """The file's."""

    @property
    def all_policies(self) -> tuple[str, ...]:
        """The policies of every arm."""
        named = [arm.policies or self.policies for arm in self.arms] or [self.policies]
        return tuple(dict.fromkeys(policy for policies in named for policy in policies))

    def changed(
        self, settings: Mapping[str, Any], vary: Mapping[str, Sequence[Any]], **values: Any
    ) -> "StudySpec":
        """The study with flags over what the file says, in every arm.

        Args:
            settings: values by flat name. One for a varied setting makes that its only value, so
                that `variant` names it as before.
            vary: values by any name of a setting; they replace a setting's value.
            values: of `policies`, `envs`, `num_seeds`, `first_seed`; None for what was not given.

        Raises:
            ValueError: policies or varied settings for a study that has arms.
        """
        given = {name: value for name, value in values.items() if value is not None}
        if self.arms:
            for flag, is_given in (("policy", "policies" in given), ("vary", bool(vary))):
                if is_given:
                    raise ValueError(
                        f"--{flag} does not go with study {self.name}, which has arms; "
                        "change a copy of its file instead"
                    )
        arms = tuple(
            StudyArm(arm.policies, _replaced(arm.settings, settings), _fixed(arm.vary, settings))
            for arm in self.arms
        )
        axes = set(self.vary) - _names(vary)
        elsewhere = {name: value for name, value in settings.items() if name not in axes}
        return dataclasses.replace(
            self,
            **given,
            settings=_without(self.settings, vary) | elsewhere,
            vary=_without(_fixed(self.vary, settings), vary) | dict(vary),
            arms=arms,
        )

    def expand(self) -> Expansion:
        """The lanes of the study.

        Raises:
            ValueError: a value that is not allowed or given twice, alone or with others; begins
                with the study's name where it has one.
        """
        arms = [
            Arm(
                arm.policies or self.policies,
                _without(self.settings, arm.vary) | dict(arm.settings),
                _without(self.vary, arm.settings) | dict(arm.vary),
                frozenset(arm.settings),
            )
            for arm in self.arms or (StudyArm(),)
        ]
        try:
            return expand_arms(arms, self.num_seeds, self.first_seed, self.envs)
        except ValueError as error:
            if not self.name:
                raise
            raise ValueError(f"study {self.name}: {error}") from error


def _names(given: Mapping[str, Any]) -> set[str]:
    return {train_option(name).name for name in given}


def _replaced(values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given.get(name, value) for name, value in values.items()}


def _fixed(vary: Mapping[str, Sequence[Any]], given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: [given[name]] if name in given else values for name, values in vary.items()}


def _without(values: Mapping[str, Any], replaced: Mapping[str, Any]) -> dict[str, Any]:
    names = _names(replaced)
    return {name: value for name, value in values.items() if name not in names}


def shipped_names() -> list[str]:
    """The studies that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def find_study(file: str) -> Path:
    """The file of a study: as it stands, or one that comes with the package, by its name.

    Args:
        file: a path, or the name of a shipped study: NAME, NAME.toml or studies/NAME.toml.

    Raises:
        ValueError: neither is there; names the nearest.
    """
    path, names = expanded(file, "--study"), shipped_names()
    if os.path.isfile(path):  # Path raises where a name is too long
        return path
    name = path.name.removesuffix(".toml")
    if name in names and str(path.parent) in (".", "studies"):
        return SHIPPED / f"{name}.toml"
    raise ValueError(
        f"--study must be a TOML file, or one of {', '.join(names)}, got {shown(file)}"
        f"{did_you_mean(name, names)}"
    )


def load_study(file: str) -> StudySpec:
    """The study that a file describes; `file` as in `find_study`.

    Raises:
        ValueError: no such file, or one that is no study, with the file and the key.
    """
    path = find_study(file)
    try:
        data = read_regular(path.resolve(), _MOST_BYTES)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"--study {str(path)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--study {str(path)!r} cannot be read: not UTF-8 at byte {error.start}"
        ) from error
    except ValueError as error:
        raise ValueError(f"--study must be the TOML file of a study: {error}") from error
    return parse_study(text, path.name)


def parse_study(text: str, file: str = "study") -> StudySpec:
    """The study that the text of a file describes.

    Args:
        text: TOML.
        file: its name, with which errors begin.

    Raises:
        ValueError: in one line, the file, the key and what is allowed.
    """
    try:
        for number, line in enumerate(text.split("\n"), start=1):
            if len(line) > _MOST_OF_A_LINE:
                size = f"{len(line)} characters, at most {_MOST_OF_A_LINE} are allowed"
                raise ValueError(f"line {number} has {size}; lists may go over several lines")
        try:
            content = tomllib.loads(text)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"not TOML: {start_of(str(error))}") from None
        return _spec(content, text)
    except ValueError as error:
        raise ValueError(f"{file}: {' '.join(str(error).split())}") from error


def _spec(content: Mapping[str, Any], text: str) -> StudySpec:
    values = _keys(content, _KEYS, "")
    name = values.get("name")
    if not isinstance(name, str) or not re.fullmatch(_NAME, name, re.ASCII):
        raise ValueError(
            'name must be letters, digits and _ . + - (at most 100), as in name = "my_study", got '
            f"{shown(name)}"
        )
    about = values.get("about", "")
    if not isinstance(about, str):
        raise ValueError(f"about must be a text, got {shown(about)}")
    arms = values.get("arm", [])
    if not isinstance(arms, list) or not all(isinstance(arm, dict) for arm in arms):
        raise ValueError("arm must be tables: [[arm]] above the keys of each")
    given: dict[str, Any] = {"policies": _policies(values, ""), "envs": _words(values, "env", "")}
    for key in ("num_seeds", "first_seed"):
        given[key] = RUN_OPTIONS[key].check(values[key]) if key in values else None
    settings, vary = _settings_and_vary(values, "")
    return StudySpec(
        name=name,
        about=" ".join(about.split()),
        settings=settings,
        vary=vary,
        arms=tuple(_arm(arm, f"arm {number}: ") for number, arm in enumerate(arms, start=1)),
        text=text,
        **{key: value for key, value in given.items() if value is not None},
    )


def _arm(content: Mapping[str, Any], place: str) -> StudyArm:
    values = _keys(content, _ARM_KEYS, place)
    return StudyArm(_policies(values, place), *_settings_and_vary(values, place))


def _keys(content: Mapping[str, Any], allowed: Sequence[str], place: str) -> dict[str, Any]:
    """A table under its own keys: dashes, case and the published code's names are free."""
    values: dict[str, Any] = {}
    for given, value in content.items():
        key = "first_seed" if normalize(given) == "seed" else normalize(given)
        if key not in allowed:
            raise ValueError(f"{place}{_refusal(given, key, allowed)}")
        if key in values:
            raise ValueError(f"{place}{key} is given twice")
        values[key] = value
    return values


def _refusal(given: str, key: str, allowed: Sequence[str]) -> str:
    name = ALIASES.get(key)
    if name in OPTIONS and OPTIONS[name].is_flag and name not in _KEYS:
        return f"{given} is a setting: it stands under settings, or under vary"
    if name in RUN_OPTIONS and name not in _KEYS:
        return f"{given} belongs to a command, not to a study: --{name} on the command line"
    return f"{shown(given)} must be one of {', '.join(allowed)}{did_you_mean(key, allowed)}"


def _policies(values: Mapping[str, Any], place: str) -> tuple[str, ...] | None:
    words = _words(values, "policy", place)
    for word in words or ():
        try:
            find_preset(word)
        except ValueError as error:
            raise ValueError(f"{place}{error}") from None
    return words


def _words(values: Mapping[str, Any], key: str, place: str) -> tuple[str, ...] | None:
    """A name or a list of names; None where the key is not given."""
    if key not in values:
        return None
    given = values[key]
    words = [given] if isinstance(given, str) else given
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        raise ValueError(f"{place}{key} must be a name or a list of names, got {shown(given)}")
    return tuple(words)


def _settings_and_vary(
    values: Mapping[str, Any], place: str
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    settings: dict[str, Any] = {}
    vary: dict[str, list[Any]] = {}
    for key, result in (("settings", settings), ("vary", vary)):
        table = values.get(key, {})
        if not isinstance(table, dict):
            raise ValueError(f"{place}{key} must be a table, got {shown(table)}")
        for given, value in table.items():
            label = f"{place}{key}: {start_of(given)}"
            entry = _setting(given, f"{place}{key}")
            if entry.name in settings or entry.name in vary:
                raise ValueError(f"{label} is given twice, in settings or vary")
            if key == "settings":
                result[entry.name] = _value(entry, value, label)
            elif not isinstance(value, list) or not value:
                raise ValueError(
                    f"{label} must be a list of one or more values, got {shown(value)}"
                )
            else:
                result[entry.name] = [_value(entry, item, label) for item in value]
    return settings, vary


def _setting(given: str, place: str) -> Option:
    name = ALIASES.get(normalize(given))
    if name in _OWN_FLAGS or normalize(given) == "seed":
        raise ValueError(f"{place}: {start_of(given)} stands at the top of the file, not here")
    if name in RUN_OPTIONS:
        raise ValueError(
            f"{place}: {given} belongs to a command, not to a study: --{name} on the command line"
        )
    try:
        entry = train_option(given)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    if not entry.is_flag:
        raise ValueError(f"{place}: {given} follows from the policy")
    return entry


def _value(entry: Option, value: Any, label: str) -> Any:
    # TOML has no none, and 256x256 is shorter than a list.
    if isinstance(value, str) and (entry.is_tuple or entry.is_optional):
        return entry.parse(value, label)
    return entry.check(value, label)
