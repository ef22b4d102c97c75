"""HTML as values: text is escaped unless it is `Markup` already.

Whatever comes from records is a plain string, so it cannot become markup by mistake. Characters
that do not print are shown as escapes: some turn the direction of text, and half a pair of UTF-16
cannot be written at all.
"""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastanf.plain_text import visible

VOID = frozenset({"meta", "img", "br"})
"""Elements without content or end tag."""


MAX_UNWRAPPED = 34
"""Characters of a cell that stays on one line, though it has blanks and dashes to break at."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(content: str) -> Markup:
    """The content as HTML: escaped, unless it is markup."""
    return content if isinstance(content, Markup) else Markup(_escaped(content))


def _escaped(content: str) -> str:
    return html.escape(visible(content, keep="\n\t"), quote=True)


def join(contents: Iterable[str], separator: str = "") -> Markup:
    """All contents one after the other."""
    return Markup(text(separator).join(map(text, contents)))


def element(tag: str, *contents: str, **attributes: str | bool | None) -> Markup:
    """One element.

    Args:
        tag: its name.
        contents: text or markup inside it.
        attributes: `class_` stands for class, and other underscores for dashes; True is an
            attribute without a value, None and False are none.
    """
    start = f"<{tag}"
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        start += f" {name.rstrip('_').replace('_', '-')}"
        start += "" if value is True else f'="{_escaped(value)}"'
    if tag in VOID:
        return Markup(start + ">")
    return Markup(f"{start}>{join(contents)}</{tag}>")


@dataclass(frozen=True)
class Column:
    """The head of a table's column."""

    head: str
    is_number: bool = False
    """Numbers stand at the right, text at the left."""


def table(label: str, columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> Markup:
    """A table in a box of its own, in which it scrolls where the page is too narrow for it.

    Args:
        label: what it shows, for those who do not see it.
        columns: heads; the first column names its rows.
        rows: a cell for each column.
    """
    head = element("tr", *(element("th", c.head, scope="col", class_=_side(c)) for c in columns))
    body = [element("tr", *map(_cell, range(len(columns)), columns, row)) for row in rows]
    whole = element(
        "table",
        element("caption", label, class_="unseen"),
        element("thead", head),
        element("tbody", *body),
    )
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=label)


def _side(column: Column) -> str | None:
    return "number" if column.is_number else None


def _cell(index: int, column: Column, cell: str) -> Markup:
    side = _side(column) or ("nowrap" if len(cell) <= MAX_UNWRAPPED else None)
    if index == 0:
        return element("th", cell, scope="row", class_=side)
    return element("td", cell, class_=side)


def paragraph(*contents: str, class_: str | None = None) -> Markup:
    """A paragraph."""
    return element("p", *contents, class_=class_)


def note(*contents: str) -> Markup:
    """The line beneath a table that says what its numbers mean."""
    return element("p", *contents, class_="note")


def details(summary: str, *contents: str) -> Markup:
    """What is read on demand only."""
    return element("details", element("summary", summary), *contents)


def with_range(value: str, interval: str) -> Markup:
    """A number and its interval beneath it."""
    parts = [element("span", value)]
    if interval:
        parts += [element("br"), element("span", interval, class_="range")]
    return join(parts)
