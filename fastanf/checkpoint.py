"""Checkpoints of a block: tensors in safetensors files, everything else in JSON, never pickle.

    checkpoints/block0/
        checkpoint-7.json               what the seventh checkpoint is made of, with checksums
        tensors-7.safetensors           networks, moments, simulators, the replay's newest moment
        replay-7-90000-95000.safetensors    transitions of these times (replay_spans.py)

A file is written once and never changed. The JSON file comes last and at once: it makes the rest a
checkpoint. The checkpoint before stays, with all that it is made of, and is taken where the newest
turns out to be damaged. The replay's files are shared: a checkpoint writes what came since the one
before, so that its cost does not grow with the replay.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from fastanf.files import read_regular, sync_folder, write_atomic
from fastanf.replay import LaneReplay
from fastanf.replay_spans import Span, kept_and_new, pieces
from fastanf.replay_state import bytes_per_time, restore_span_, span_tensors
from fastanf.strict_json import strict_loads
from fastanf.tensor_file import Seal, check_seal, read_tensors, write_tensors

FORMAT = 3
SPAN_BYTES = 64 * 2**20
"""A file of the replay is about as large at most: so much is copied to the host at once."""
MOST_INDEX_BYTES = 16 * 2**20
_INDEX_NAME = re.compile(r"checkpoint-([0-9]{1,18})\.json")
_FILE_NAME = re.compile(
    r"(tensors|replay)-([0-9]{1,18})(-w[0-9a-f]{8})?(-[0-9]{1,19}-[0-9]{1,19})?\.safetensors"
)
_SPAN_OVERHEAD = 2**20
"""A header's share of a span's bytes."""


def block_path(run_dir: str | Path, index: int) -> Path:
    """Where a run keeps the checkpoints of one of its blocks."""
    return Path(run_dir) / "checkpoints" / f"block{index}"


def lane_path(run_dir: str | Path, lane: int) -> Path:
    """Where a run keeps the last sound checkpoint of a lane that broke down."""
    return Path(run_dir) / "checkpoints" / f"lane{lane}"


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint is made of."""

    path: Path
    """The folder."""
    number: int
    state: Mapping[str, Any]
    """Counters and other JSON values."""
    seals: Mapping[str, Seal]
    """Of every file."""
    spans: tuple[Span, ...] = ()
    """Files of the replay, in the order of their times."""

    @property
    def tensors_file(self) -> str:
        """The name of the file with everything but the replay's transitions."""
        return next(name for name in self.seals if name.startswith("tensors-"))

    def tensors(self, most_bytes: int) -> dict[str, Tensor]:
        """Everything but the replay's transitions.

        Raises:
            ValueError: the file is larger than most_bytes, or damaged.
        """
        name = self.tensors_file
        return read_tensors(self.path / name, self.seals[name], most_bytes)

    def restore_transitions_(self, replay: LaneReplay) -> None:
        """Put the replay's transitions back, where its newest moment is restored already.

        Raises:
            ValueError: some are missing, damaged or of another replay.
        """
        most_per_time = bytes_per_time(replay) + replay.obs[:, 0].nbytes
        for span, start, stop in pieces(self.spans, replay.oldest, replay.time):
            most = (span.end - span.first) * most_per_time + _SPAN_OVERHEAD
            tensors = read_tensors(self.path / span.file, self.seals[span.file], most)
            restore_span_(replay, tensors, span.first, start, stop)
        replay.first_unsaved = replay.time

    def check(self) -> None:
        """Read every file once.

        Raises:
            ValueError: one is missing or is not what was written.
        """
        for name, seal in self.seals.items():
            try:
                check_seal(self.path / name, seal)
            except OSError as error:
                raise ValueError(f"{name} cannot be read: {error.strerror}") from error

    def index(self) -> tuple[Path, bytes]:
        """The JSON file that makes the files a checkpoint, once it is there."""
        content = {
            "format": FORMAT,
            "number": self.number,
            "state": self.state,
            "seals": {name: asdict(seal) for name, seal in self.seals.items()},
            "spans": [asdict(span) for span in self.spans],
        }
        text = json.dumps(content | {"sha256": _digest(content)}, indent=1, allow_nan=False)
        return _index_path(self.path, self.number), text.encode()

    def write_index(self) -> None:
        """Make the files a checkpoint."""
        write_atomic(*self.index())


@dataclass
class BlockCheckpoints:
    """The checkpoints of one block, as the process that trains it keeps them."""

    path: Path
    """Their folder; made by the first one."""
    commit: Callable[[Path, bytes], None] = lambda path, data: write_atomic(path, data)
    """Writes the file that makes others a checkpoint, if this process is still to do so; an error
    says that it is not, or that the disk did not take it."""
    writer: str = ""
    """In the names of files: what another process may write, that was thought to be dead, is
    never taken for this one's."""
    standing: list[Checkpoint] = field(default_factory=list)
    """Those that are there, the newest first; what they are not made of is removed."""

    @property
    def place(self) -> str:
        """What has to have space for them, in words."""
        return str(self.path)

    def save(
        self,
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        replay: LaneReplay | None = None,
    ) -> None:
        """Write a checkpoint.

        Args:
            tensors: by name.
            state: JSON values.
            replay: whose transitions belong to it; None for a block that is never trained again,
                whose other checkpoints go too.

        Raises:
            OSError: the write failed; the checkpoints are as they were.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        number = 1 + max([0, *self._known_numbers()])
        try:
            spans, seals = ((), {}) if replay is None else self._write_replay(replay, number)
            name = f"tensors-{self._stem(number)}.safetensors"
            seals[name] = write_tensors(self.path / name, tensors)
            sync_folder(self.path)
            checkpoint = Checkpoint(self.path, number, state, seals, tuple(spans))
            self._publish(checkpoint)
            before = self._files()  # what another process writes after the commit is its own
            self.commit(*checkpoint.index())
        except BaseException:
            self._remove(file for file in self._files() if self._is_of(number, file))
            raise
        if replay is not None:
            replay.first_unsaved = replay.time
        self.standing = [checkpoint, *(self.standing[:1] if replay is not None else [])]
        wanted = {name for checkpoint in self.standing for name in checkpoint.seals}
        wanted |= {_index_path(self.path, checkpoint.number).name for checkpoint in self.standing}
        self._remove(before - wanted)

    def _stem(self, number: int) -> str:
        return f"{number}-w{self.writer}" if self.writer else str(number)

    def _is_of(self, number: int, file: str) -> bool:
        """Whether this process wrote a file for a checkpoint."""
        found = _FILE_NAME.fullmatch(file)
        return found is not None and f"{found[2]}{found[3] or ''}" == self._stem(number)

    def _write_replay(self, replay: LaneReplay, number: int) -> tuple[list[Span], dict[str, Seal]]:
        newest = self.standing[0] if self.standing else None
        most = max(1, SPAN_BYTES // bytes_per_time(replay))
        first_unsaved = replay.first_unsaved if newest else replay.oldest
        spans, new = kept_and_new(
            newest.spans if newest else (), first_unsaved, replay.time, replay.oldest, most
        )
        seals = {span.file: newest.seals[span.file] for span in spans} if newest else {}
        for first, end in new:
            name = f"replay-{self._stem(number)}-{first}-{end}.safetensors"
            seals[name] = write_tensors(self.path / name, span_tensors(replay, first, end))
            spans.append(Span(first, end, name))
        return spans, seals

    def load(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest checkpoint that is whole, and what is wrong with those after it.

        Raises:
            ValueError: there are checkpoints, and none is whole.
        """
        damage: list[str] = []
        for number in sorted(self._known_numbers(), reverse=True):
            try:
                checkpoint = self._read(number)
            except ValueError as error:
                damage.append(f"checkpoint {number} of {self.path}: {error}")
                continue
            self.standing = [checkpoint]
            return checkpoint, damage
        if damage:
            raise ValueError(
                f"{'; '.join(damage)}: put the files back as they were, or start a new run"
            )
        return None, damage

    def keep_for_lane(
        self, lane: int, is_sound: Callable[[Mapping[str, Any]], bool]
    ) -> Checkpoint | None:
        """Keep the newest checkpoint that a claim holds for beside the block's, without its replay.

        Args:
            lane: its number in the run.
            is_sound: asked of a checkpoint's state.

        Returns:
            The checkpoint; None where there is none.
        """
        for checkpoint in self.standing:
            if is_sound(checkpoint.state):
                _copy_without_replay(checkpoint, self.path.with_name(f"lane{lane}"))
                return checkpoint
        return None

    def _known_numbers(self) -> Iterable[int]:
        """Of the checkpoints that there are."""
        return _numbers(self.path)

    def _read(self, number: int) -> Checkpoint:
        """A checkpoint, all of whose files were looked at."""
        checkpoint = read_checkpoint(self.path, number)
        checkpoint.check()
        return checkpoint

    def _publish(self, checkpoint: Checkpoint) -> None:
        """Let others have the files, before they become a checkpoint."""

    def _files(self) -> set[str]:
        """Names of what belongs to checkpoints."""
        with contextlib.suppress(OSError):
            return {file.name for file in self.path.iterdir() if belongs_to_checkpoint(file.name)}
        return set()

    def _remove(self, names: Iterable[str]) -> None:
        with contextlib.suppress(OSError):  # what cannot be removed harms nobody
            for name in names:
                (self.path / name).unlink(missing_ok=True)


def newest_checkpoint(path: Path) -> Checkpoint | None:
    """The newest checkpoint of a folder whose JSON file is whole, for who only reads; its other
    files were not looked at. None where there is none.

    Raises:
        ValueError: there are checkpoints, and none can be read.
    """
    problem: ValueError | None = None
    for number in sorted(_numbers(path), reverse=True):
        if _index_path(path, number).exists():
            try:
                return read_checkpoint(path, number)
            except ValueError as error:
                problem = problem or ValueError(f"checkpoint {number} of {path}: {error}")
    if problem:
        raise problem
    return None


def read_checkpoint(path: Path, number: int) -> Checkpoint:
    """What a checkpoint is made of, from its JSON file.

    Raises:
        ValueError: the file is missing, damaged or of another format.
    """
    index = _index_path(path, number)
    try:
        content = strict_loads(read_regular(index, MOST_INDEX_BYTES))
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"unknown format; this version reads {FORMAT}")
        if content.pop("sha256", None) != _digest(content):
            raise ValueError("it is not what was written: its checksum differs")
        return _checkpoint(path, number, content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index.name} cannot be read: {error}") from error


def _checkpoint(path: Path, number: int, content: Mapping[str, Any]) -> Checkpoint:
    """From JSON whose checksum is right: it may still come from a stranger."""
    seals = {name: Seal(**seal) for name, seal in content["seals"].items()}
    spans = tuple(Span(**span) for span in content["spans"])
    checkpoint = Checkpoint(path, number, dict(content["state"]), seals, spans)
    strange = [name for name in seals if not _FILE_NAME.fullmatch(name)]
    ours = re.compile(rf"tensors-{number}(-w[0-9a-f]{{8}})?\.safetensors")
    tensors_files = {name for name in seals if ours.fullmatch(name)}
    numbers = [seal.size for seal in seals.values()]
    numbers += [time for span in spans for time in (span.first, span.end)]
    is_right = (
        content["number"] == number
        and len(tensors_files) == 1
        and tensors_files | {span.file for span in spans} == set(seals)
        and all(type(value) is int and value >= 0 for value in numbers)
        and all(span.first < span.end for span in spans)
        and [span.first for span in spans] == sorted({span.first for span in spans})
    )
    if strange or not is_right:
        raise ValueError(f"it names {strange[0]!r}" if strange else "it contradicts itself")
    return checkpoint


def _copy_without_replay(checkpoint: Checkpoint, folder: Path) -> None:
    """The same file under a second name where the file system has such, else a copy of it."""
    folder.mkdir(parents=True, exist_ok=True)
    name = checkpoint.tensors_file
    target = folder / name
    target.unlink(missing_ok=True)
    try:
        os.link(checkpoint.path / name, target)
    except OSError:
        target.write_bytes((checkpoint.path / name).read_bytes())
    seals = {name: checkpoint.seals[name]}
    Checkpoint(folder, checkpoint.number, checkpoint.state, seals).write_index()


def belongs_to_checkpoint(name: str) -> bool:
    """Whether a checkpoint's file has such a name."""
    return _INDEX_NAME.fullmatch(name) is not None or _FILE_NAME.fullmatch(name) is not None


def checkpoint_numbers(names: Iterable[str]) -> list[int]:
    """Numbers of the checkpoints whose JSON files are among some names."""
    return [int(found[1]) for found in map(_INDEX_NAME.fullmatch, names) if found]


def _index_path(path: Path, number: int) -> Path:
    return path / f"checkpoint-{number}.json"


def _numbers(path: Path) -> list[int]:
    """Numbers of the checkpoints that a folder holds."""
    with contextlib.suppress(OSError):
        return checkpoint_numbers(file.name for file in path.iterdir())
    return []


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
