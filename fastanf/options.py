"""What an option is: declared as a dataclass field, checked, and spelled on a command line.

A setting is a field made by `option`, with its type in the annotation and its help text in the
docstring under it. `read_options` gathers that as `Option`s; a `Group` checks every field when it
is made.
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
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

from fastanf.plain_text import visible

Kind = Literal["lane", "static", "run"]


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


def at_least(low: int, most: int | None = None) -> Allowed:
    """The integers from `low` on, up to `most` where it is given."""
    if most is None:
        return Allowed(f"an integer of at least {low}", lambda value: value >= low)
    text = f"an integer of at least {low} and at most {most}"
    return Allowed(text, lambda value: low <= value <= most)


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
        text = self.allowed.text if self.allowed else _KINDS[self.item]
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
            raise ValueError(f"{label} must be {self.expected()}, got {shown(value)}{hint}")
        return checked

    def parse(self, text: str, label: str = "") -> Any:
        """A value from its spelling on the command line (sizes as 256x256, absent as none)."""
        label, text = label or self.name, text.strip()
        word = text.lower()
        if self.is_optional and word in ("none", "null"):
            return None
        value: Any = text
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
            raise ValueError(f"{label} must be {self.expected()}, got {shown(text)}") from None
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
            # What does not print would break lines of records and of the terminal.
            if not isinstance(value, str) or not value.isprintable():
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
        return self.item(value) + 0  # -0.0 becomes 0.0: lanes that are alike look alike


_KINDS = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a name of characters that print",
}


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


_MOST_SHOWN = 100


def shown(value: object) -> str:
    """A value as an error shows it: its start where it is long, on one line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, lists in lists
        return f"what is too long to show ({type(value).__name__})"
    return start_of(text, _MOST_SHOWN)


def start_of(text: str, most: int = 400) -> str:
    """A text as an error repeats it: its start where it is long, and what prints."""
    start = visible(text[:most])[:most]
    return start if len(text) <= most else f"{start}... ({len(text)} characters)"


def did_you_mean(value: object, names: Iterable[str]) -> str:
    """` (did you mean X or Y?)` for names that resemble a mistyped one, else an empty string."""
    if not isinstance(value, str) or len(value) > _MOST_SHOWN:
        return ""
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(value.lower(), by_lower, n=2, cutoff=0.6)
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
