"""Seals of a run's tables: whether what was written once is still there, byte by byte.

A *seal* is the length and the SHA-256 of a table's content at some moment, as a checkpoint keeps
it. Later rows come behind that; a byte that changed before it is seen.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fastanf.files import sha256_of
from fastanf.options import shown
from fastanf.rows import FILES, PROFILED_FILES
from fastanf.run_manifest import is_checksum

MAX_BYTES = 1 << 32
"""The most that a table may have."""
ALL_FILES = tuple(dict.fromkeys([*FILES.values(), *PROFILED_FILES.values()]))
"""Every table that a run may have."""

Seals = Mapping[str, Mapping[str, Any]]
"""Table -> {"bytes": n, "sha256": hexadecimal}."""


def verify_tables(path: str | Path, seals: Seals) -> None:
    """Sees whether the tables of a run folder begin with what a checkpoint has sealed.

    Args:
        path: the run folder.
        seals: as `RunTables.seals` gave them.

    Raises:
        ValueError: names the first table that was changed or is damaged, or these are no seals.
    """
    verify_seals(Path(path), seals, tuple(FILES.values()), ALL_FILES)


def verify_seals(folder: Path, seals: Any, needed: Collection[str], known: Collection[str]) -> None:
    """Sees whether the sealed tables of a folder begin with what was sealed.

    Args:
        folder: that holds them.
        seals: table -> seal, of unknown origin.
        needed: tables that must be sealed.
        known: tables that may be.

    Raises:
        ValueError: as `verify_tables`.
    """
    if not isinstance(seals, Mapping):
        raise ValueError(f"seals of tables must be an object, got {shown(seals)}")
    for name in [*needed, *seals]:
        if name not in seals or name not in known:
            what = "has no seal" if name not in seals else "is sealed, but is no table of this run"
            raise ValueError(
                f"{str(folder)!r}: {shown(name)} {what}: the checkpoint is of another run"
            )
    for name, seal in seals.items():
        if not _is_seal(seal):
            raise ValueError(f"seal of {name} must be a length and a SHA-256, got {shown(seal)}")
        _verify_one(folder / name, seal["bytes"], seal["sha256"])


def _verify_one(file: Path, size: int, sha256: str) -> None:
    try:
        num_found, digest = sha256_of(file, size)
    except OSError as error:
        raise ValueError(f"{str(file)!r} cannot be read ({error.strerror}): put it back") from error
    if num_found < size:
        what = f"has {num_found} bytes of the {size}"
    elif digest.hexdigest() != sha256:
        what = f"differs in the first {size} bytes from those"
    else:
        return
    raise ValueError(
        f"{str(file)!r} was changed or damaged since the run wrote it: it {what} that the "
        "checkpoint knows; put the file back as it was, or start a new run"
    )


def _is_seal(seal: Any) -> bool:
    return (
        isinstance(seal, Mapping)
        and set(seal) == {"bytes", "sha256"}
        and isinstance(seal["bytes"], int)
        and not isinstance(seal["bytes"], bool)
        and 0 < seal["bytes"] <= MAX_BYTES
        and is_checksum(seal["sha256"])
    )
