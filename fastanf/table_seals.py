"""Seals of a run's tables: whether what lanes wrote once is still there, byte by byte.

A *seal* is the length and the SHA-256 of some lanes' rows in a table at some moment, as a
checkpoint keeps it. Later rows have later steps; a byte that changed before them is seen. Other
lanes' rows may come between: each lane has a digest of its own, and a seal is made of theirs.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from fastanf.options import shown
from fastanf.rows import FILES, PROFILED_FILES
from fastanf.run_manifest import is_checksum
from fastanf.tables import MAX_BYTES

ALL_FILES = tuple(dict.fromkeys([*FILES.values(), *PROFILED_FILES.values()]))
"""Every table that a run may have."""

Seals = Mapping[str, Mapping[str, Any]]
"""Table -> {"bytes": n, "sha256": hexadecimal}."""


class LaneDigests:
    """Bytes and SHA-256 of each lane's rows in one table, in the order in which they came."""

    def __init__(self, of_lanes: "Mapping[int, tuple[int, hashlib._Hash]] | None" = None) -> None:
        self._of_lanes = of_lanes or {}

    def extended(self, lines: Iterable[tuple[int, bytes]]) -> "LaneDigests":
        """Those after further rows; these stay as they are.

        Args:
            lines: lane and line of each.
        """
        changed: dict[int, tuple[int, hashlib._Hash]] = {}
        for lane, line in lines:
            if lane in changed:
                size, digest = changed[lane]
            elif lane in self._of_lanes:
                size, digest = self._of_lanes[lane][0], self._of_lanes[lane][1].copy()
            else:
                size, digest = 0, hashlib.sha256()
            digest.update(line)
            changed[lane] = size + len(line), digest
        return LaneDigests({**self._of_lanes, **changed})

    def without(self, lanes: Collection[int]) -> "LaneDigests":
        """Those of other lanes."""
        return LaneDigests({k: v for k, v in self._of_lanes.items() if k not in lanes})

    def seal(self, lanes: Collection[int]) -> dict[str, Any]:
        """Of some lanes."""
        size, digest = 0, hashlib.sha256()
        for lane in sorted(lanes):
            lane_size, lane_digest = self._of_lanes.get(lane, (0, hashlib.sha256()))
            size += lane_size
            digest.update(lane_digest.digest())
        return {"bytes": size, "sha256": digest.hexdigest()}


def check_names(folder: Path, seals: Any, tables: Collection[str]) -> None:
    """See whether seals are of these tables.

    Args:
        folder: that holds the tables.
        seals: table -> seal, of unknown origin.
        tables: their names.

    Raises:
        ValueError: they are not.
    """
    if not isinstance(seals, Mapping):
        raise ValueError(f"seals of tables must be an object, got {shown(seals)}")
    for name in [*tables, *seals]:
        if name not in seals or name not in tables:
            what = "has no seal" if name not in seals else "is sealed, but is no table of this run"
            raise ValueError(
                f"{str(folder)!r}: {shown(name)} {what}: the checkpoint is of another run"
            )


def check_seal(
    file: Path, seal: Any, lanes: Collection[int], content: Callable[[], LaneDigests]
) -> None:
    """See whether a table holds what was sealed.

    Args:
        file: the table.
        seal: of unknown origin.
        lanes: that were sealed.
        content: reads what the table holds of them.

    Raises:
        ValueError: it was changed or is damaged, or this is no seal.
    """
    if not _is_seal(seal):
        raise ValueError(f"seal of {file.name} must be a length and a SHA-256, got {shown(seal)}")
    try:
        found = content().seal(lanes)
    except OSError as error:
        raise ValueError(f"{str(file)!r} cannot be read ({error.strerror}): put it back") from error
    if found == dict(seal):
        return
    size, numbers = seal["bytes"], _spans(lanes)
    if found["bytes"] != size:
        what = f"has {found['bytes']} bytes of lanes {numbers}, not the {size}"
    else:
        what = f"differs in the {size} bytes of lanes {numbers} from those"
    raise ValueError(
        f"{str(file)!r} was changed or damaged since the run wrote it: it {what} that the "
        "checkpoint knows; put the file back as it was, or start a new run"
    )


def _spans(lanes: Collection[int]) -> str:
    return f"{min(lanes)} to {max(lanes)}" if len(lanes) > 1 else str(min(lanes, default=0))


def _is_seal(seal: Any) -> bool:
    return (
        isinstance(seal, Mapping)
        and set(seal) == {"bytes", "sha256"}
        and isinstance(seal["bytes"], int)
        and not isinstance(seal["bytes"], bool)
        and 0 <= seal["bytes"] <= MAX_BYTES
        and is_checksum(seal["sha256"])
    )
