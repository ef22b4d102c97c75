"""The flags of the command that trains: made from the settings, and read from its arguments.

Every mixture of dashes, underscores and cases of a name is the same flag, and the names of the
published code are aliases.
"""

# argparse and not a library that makes flags from dataclasses: errors must be one line with exit
# code 2, names must be free in dashes and underscores, and some flags take several values.

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from fastanf.config import (
    ALIASES,
    OPTIONS,
    RUN_OPTIONS,
    group_help,
    normalize,
    train_option,
)
from fastanf.options import Option, did_you_mean, shown, start_of
from fastanf.presets import MOST_LANES, PRESET_ALIASES, PRESETS
from fastanf.published_flags import ALREADY_SO, ELSEWHERE, TRANSLATED, is_number
from fastanf.settings import RunConfig

SEVERAL = ("policy", "env", "vary")
"""Options that take one or more words."""


@dataclass(frozen=True)
class Flags:
    """What the flags of a command say; only what was given."""

    values: Mapping[str, Any]
    """Text by flag, under its own name; a list where it takes several words."""
    labels: Mapping[str, str]
    """How each option was spelled."""

    @property
    def train_values(self) -> dict[str, Any]:
        """Settings of the lanes by name, checked; without policies, tasks and varied ones.

        Raises:
            ValueError: a value that is not allowed.
        """
        return {
            name: entry.parse(_text(self.values[name]), self.labels[name])
            for name, entry in OPTIONS.items()
            if name in self.values and name not in SEVERAL
        }

    @property
    def run_config(self) -> RunConfig:
        """Settings of the command, the defaults where nothing was given.

        Raises:
            ValueError: a value that is not allowed.
        """
        given: dict[str, Any] = {
            name: entry.parse(self.values[name], self.labels[name])
            for name, entry in RUN_OPTIONS.items()
            if name in self.values and name not in SEVERAL
        }
        return RunConfig(**given, vary=tuple(self.values.get("vary", ())))

    def words(self, name: str) -> tuple[str, ...] | None:
        """The words of a flag that takes several, commas between them allowed; None if not given.

        Raises:
            ValueError: the flag without a word.
        """
        if name not in self.values:
            return None
        words = tuple(word for value in self.values[name] for word in value.split(",") if word)
        if not words:
            raise ValueError(f"--{name} must be one or more {_NOUNS[name]}, got none")
        return words


_NOUNS = {"policy": "policies, e.g. ANF-SAC SAC", "env": "tasks, e.g. HalfCheetah-v3"}


def read_flags(arguments: Sequence[str]) -> Flags:
    """The flags of a command.

    Raises:
        ValueError: an unknown flag, or one without its value.
        SystemExit: code 0 after --help.
    """
    tokens, spelled = _normalized(arguments)
    values = {k: v for k, v in vars(_parser().parse_args(tokens)).items() if v is not None}
    return Flags(
        values, {name: spelled.get(name, f"--{name}") for name in (*OPTIONS, *RUN_OPTIONS)}
    )


def vary_values(items: Sequence[str]) -> dict[str, list[Any]]:
    """Values by setting, as typed, of the words of --vary: `field=v1,v2`.

    Raises:
        ValueError: another form, no such setting, or a value that is not allowed.
    """
    vary: dict[str, list[Any]] = {}
    for item in items:
        name, is_given, values = item.partition("=")
        if not is_given or not name:
            raise ValueError(f"--vary must be field=v1,v2, got {shown(item)}")
        if name in vary:
            raise ValueError(f"--vary: {name} is given twice")
        entry = train_option(name)
        texts = [text for text in values.split(",") if text]
        if len(texts) > MOST_LANES:
            raise ValueError(
                f"--vary {name} must have at most {MOST_LANES} values, got {len(texts)}"
            )
        vary[name] = [entry.parse(text, f"--vary {name}") for text in texts]
    return vary


def _normalized(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Tokens with each flag under its own name, and how each was spelled."""
    tokens, spelled = [], {}
    for token in arguments:
        if token.startswith("--") and len(token) > 2:
            typed, is_joined, value = token.partition("=")
            name, fixed = _flag(typed)
            if fixed is not None and is_joined:
                raise ValueError(f"{typed} takes no value, got {shown(value)}")
            spelled[name] = typed
            value = value if fixed is None else fixed
            # argparse takes -- away wherever it stands, but not behind a blank.
            value = " --" if value == "--" else value
            tokens.append(f"--{name}={value}" if is_joined or fixed is not None else f"--{name}")
        elif re.fullmatch(r"-[A-Za-z].*", token) and token != "-h" and not is_number(token):
            hint = did_you_mean(normalize(token), _all_flags())
            raise ValueError(f"{start_of(token)} is not an option{hint}")
        else:
            # argparse takes -1e-3 for an option, but nothing that begins with a blank.
            tokens.append(f" {token}" if token.startswith("-") and is_number(token) else token)
    return tokens, spelled


def _flag(typed: str) -> tuple[str, str | None]:
    """The flag's own name, and its value where the spelling holds it (--no_tensorboard)."""
    name = normalize(typed)
    if name in ELSEWHERE:
        raise ValueError(f"{typed} is not an option here: {ELSEWHERE[name]}")
    if name == "help" or name in TRANSLATED or name in ALREADY_SO:
        return name, None
    if name in ALIASES:
        return ALIASES[name], None
    positive = ALIASES.get(name.removeprefix("no_"))
    if name.startswith("no_") and positive is not None and _option(positive).item is bool:
        return positive, "false"
    hint = did_you_mean(name, _all_flags())
    raise ValueError(f"{start_of(typed)} is not an option{hint}; see --help")


def _option(name: str) -> Option:
    return OPTIONS[name] if name in OPTIONS else RUN_OPTIONS[name]


def _all_flags() -> list[str]:
    flags = [*ALIASES, *TRANSLATED, *ALREADY_SO]
    return [f"--{name}" for name in flags if name not in ELSEWHERE]


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "x".join(value).replace(",", "x")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(start_of(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="train.py",
        usage="%(prog)s [--policy P [P ...]] [--env E [E ...]] [--num-seeds N] [options]",
        description=(
            "Train agents on extremely noisy environments: every combination of policies, tasks, "
            "varied settings and seeds is a lane, and lanes of one shape train together."
        ),
        epilog=_epilog(),
        allow_abbrev=False,
        formatter_class=_formatter,
    )
    for group, about in group_help():
        section = parser.add_argument_group(group, about)
        for entry in (*OPTIONS.values(), *RUN_OPTIONS.values()):
            if entry.group == group and entry.is_flag:
                section.add_argument(f"--{entry.name}", **_argument(entry))
    for name in TRANSLATED:
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    for name in ALREADY_SO:
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS, action="store_const", const="true")
    return parser


_formatter: Callable[..., argparse.HelpFormatter] = lambda prog: argparse.HelpFormatter(  # noqa: E731
    prog, max_help_position=30, width=100
)


def _argument(entry: Option) -> dict[str, Any]:
    facts = [f"default {entry.spell(entry.default) or 'none'}"]
    if entry.kind != "run":
        facts.append(entry.kind)
    if entry.aliases:
        facts.append("also " + ", ".join(f"--{alias}" for alias in entry.aliases))
    words: dict[str, Any] = {"dest": entry.name}
    if entry.item is bool:
        words |= {"nargs": "?", "const": "true", "metavar": "true|false"}
    elif entry.name in SEVERAL or entry.is_tuple:
        action = "extend" if entry.name == "vary" else "store"
        words |= {"nargs": "+", "action": action, "metavar": _METAVARS.get(entry.name, "N")}
    elif entry.choices and len(entry.choices) <= 3:
        words |= {"metavar": "|".join(entry.choices)}
    else:
        words |= {"metavar": {int: "N", float: "X", str: "NAME"}[entry.item]}
    has_limits = (entry.allowed and entry.item is not str) or len(entry.choices) > 3
    limits = entry.expected() if has_limits else ""
    help_text = " ".join(
        [entry.help, f"{limits[0].upper()}{limits[1:]}." if limits else ""]
    ).strip()
    words["help"] = f"{help_text} [{'; '.join(facts)}]".replace("%", "%%")
    return words


_METAVARS = {"policy": "P", "env": "E", "vary": "FIELD=V1,V2"}


def _epilog() -> str:
    policies = ", ".join([*PRESETS, *(f"{a} (= {name})" for a, name in PRESET_ALIASES.items())])
    published = "; ".join(f"--{name} ({meaning})" for name, meaning in TRANSLATED.items())
    text = (
        f"Policies: {policies}. An option applies to every policy, over its own setting; the "
        "dense ones (SAC, TD3) take none of the sparsity's. Dashes, underscores and case of a name "
        "make no difference; a switch is turned off by --no-NAME; of an option that stands twice "
        "the last one counts (of --vary, all). A lane option may differ between lanes that train "
        "together (--vary), a static one makes another block. Published flags: "
        f"{published}."
    )
    return text.replace("%", "%%")
