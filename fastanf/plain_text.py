"""Strings that came from files, made fit to be shown on a terminal or to name a file.

A run folder or an agent may come from anywhere, and its names with it: a policy called
"../../.bashrc", a variant with escape sequences for the terminal.
"""

from __future__ import annotations

import hashlib
import re

MOST_BYTES = 120
"""Of the name of a file, so that suffixes and prefixes fit into the 255 of a file system."""
_DIGEST_CHARACTERS = 10


def visible(text: str, keep: str = "") -> str:
    """The text with everything that does not print, or changes how other text prints, as escapes.

    Args:
        text: any; printable text comes back as it is.
        keep: characters that stay, such as line breaks.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def file_stem(name: str) -> str:
    """A name for one file in its folder: never another folder, a hidden file or an option.

    Letters, digits and `_ . + = -` stay, all else becomes `-`. A name that is too long ends in a
    digest of the whole, so that two of them stay apart.
    """
    stem = re.sub(r"[^A-Za-z0-9_.+=-]+", "-", name).lstrip(".-") or "unnamed"
    if len(stem) <= MOST_BYTES:
        return stem
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{stem[: MOST_BYTES - len(digest) - 1]}-{digest}"
