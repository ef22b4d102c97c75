"""The run folder: what a run writes down while it trains, and how it is read again.

    manifest.json   versions, device, commit, command line, status; replaced as a whole
    lanes.csv       one row a lane, every field of its configuration
    eval.csv        one row a lane and evaluation           (EvaluationRow)
    train.csv       one row a lane and training interval    (TrainingRow)
    topology.csv    one row a lane, network, layer and step (TopologyRow)
    features.csv    one row a lane, network and evaluation  (FeatureRow)
    stages.csv      one row a stage and interval, with --profile (ProfileRow)
    tb/             TensorBoard events, one sub-folder a lane

The CSV files are the record; TensorBoard and wandb mirror them and may fail without stopping a
run. Rows are appended whole and synced, so that a killed process leaves at most one torn last line,
which readers skip and `RunFolder.open` removes.
"""

import contextlib
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastanf.files import append_text, write_atomic
from fastanf.mirrors import Mirrors
from fastanf.provenance import facts, now, start
from fastanf.rows import (
    FILES,
    PROFILED_FILES,
    AnyRow,
    EvaluationRow,
    FeatureRow,
    ProfileRow,
    TopologyRow,
    TrainingRow,
    columns,
    csv_line,
    lanes_text,
    read_lanes,
    row_cells,
    whole_rows,
)

FORMAT_VERSION = 1
STATUSES = ("running", "finished", "interrupted", "failed")


class RunFolder:
    """Writes the records of one run. Use `create` for a new run, `open` for one that goes on."""

    def __init__(
        self, path: Path, manifest: dict[str, Any], mirrors: "Mirrors", profile: bool = False
    ) -> None:
        self.path = path
        self.manifest = manifest
        self._mirrors = mirrors
        self._files = PROFILED_FILES if profile else FILES
        self._lock: int | None = None

    @classmethod
    def create(
        cls,
        path: str | Path,
        manifest: Mapping[str, Any],
        lane_rows: Sequence[Mapping[str, Any]],
        *,
        tensorboard: bool = False,
        wandb_mode: str = "disabled",
        profile: bool = False,
    ) -> "RunFolder":
        """Makes the folder with manifest.json, lanes.csv and empty tables.

        Args:
            path: a folder that does not exist yet; missing parents are made.
            manifest: what the caller knows (device, configuration, ...); JSON values. Overrides the
                facts that are gathered here, except `format_version` and `status`.
            lane_rows: one flat mapping a lane; must hold lane, policy, seed.
            tensorboard: also write TensorBoard events under tb/.
            wandb_mode: "disabled", "online" or "offline".
            profile: also keep stages.csv, and the stages' columns in train.csv.

        Raises:
            ValueError: the folder exists or cannot be made, or a mirror is not installed. Nothing
                is left behind then.
        """
        path = Path(path)
        content = {**facts(), **manifest, "format_version": FORMAT_VERSION, "status": "running"}
        manifest_bytes = _manifest_bytes(content)
        lanes_bytes = lanes_text(lane_rows).encode()
        mirrors = Mirrors(path, lane_rows, tensorboard, wandb_mode)
        run = cls(path, content, mirrors, profile)
        parents = [parent for parent in path.parents if not parent.exists()]
        try:
            path.mkdir(parents=True)
        except FileExistsError as error:
            raise ValueError(
                f"run_dir {str(path)!r} exists already: give a new name, or `resume` it"
            ) from error
        except OSError as error:
            _remove_empty(parents)
            raise ValueError(
                f"run_dir {str(path)!r} cannot be made ({error.strerror}): give a writable folder"
            ) from error
        try:
            write_atomic(path / "lanes.csv", lanes_bytes)
            for kind, name in run._files.items():
                write_atomic(path / name, csv_line(columns(kind)).encode())
            write_atomic(path / "manifest.json", manifest_bytes)  # last: it makes the folder a run
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            _remove_empty(parents)
            raise
        run._lock = _lock(path)
        return run

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        tensorboard: bool = False,
        wandb_mode: str = "disabled",
        profile: bool = False,
    ) -> "RunFolder":
        """Opens a run to go on with; removes a torn last line of each table. `profile` is what it
        was created with.

        Raises:
            ValueError: no readable run of a known format is there, or a process trains it.
        """
        path = Path(path)
        manifest = read_manifest(path)
        mirrors = Mirrors(path, read_lanes(path), tensorboard, wandb_mode)
        run = cls(path, manifest, mirrors, profile)
        run._lock = _lock(path)
        try:
            for kind, name in run._files.items():
                _mend(path / name, columns(kind))
        except BaseException:
            run.close()
            raise
        return run

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def write_lanes(self, lane_rows: Sequence[Mapping[str, Any]]) -> None:
        """Replaces lanes.csv by one with further lanes, as a whole.

        Args:
            lane_rows: as for `create`; those that are there come first, with the same numbers.
        """
        write_atomic(self.path / "lanes.csv", lanes_text(lane_rows).encode())
        self._mirrors.name_lanes(lane_rows)

    def append_evaluation(self, rows: Iterable[EvaluationRow]) -> None:
        """Appends to eval.csv and syncs; all rows or, if the disk is full, none (OSError)."""
        self._append(list(rows))

    def append_training(self, rows: Iterable[TrainingRow]) -> None:
        """Appends to train.csv, as `append_evaluation`."""
        self._append(list(rows))

    def append_topology(self, rows: Iterable[TopologyRow]) -> None:
        """Appends to topology.csv, as `append_evaluation`."""
        self._append(list(rows))

    def append_features(self, rows: Iterable[FeatureRow]) -> None:
        """Appends to features.csv, as `append_evaluation`."""
        self._append(list(rows))

    def append_profile(self, rows: Iterable[ProfileRow]) -> None:
        """Appends to stages.csv, as `append_evaluation`."""
        self._append(list(rows))

    def _append(self, rows: Sequence[AnyRow]) -> None:
        if rows:
            path = self.path / self._files[type(rows[0])]
            append_text(path, "".join(csv_line(row_cells(row)) for row in rows))
            self._mirrors.add(rows)

    def truncate_after(self, lane_steps: Mapping[int, int]) -> None:
        """Drops what a resumed run will record again: rows of a lane beyond its checkpoint's step.

        Args:
            lane_steps: lane -> step of the checkpoint; rows at that step stay. Rows of lanes that
                are not named stay too.
        """
        for kind, name in self._files.items():
            path = self.path / name
            lane_at, step_at = columns(kind).index("lane"), columns(kind).index("step")
            header, *rows = whole_rows(path)
            kept = [
                row
                for row in rows
                if int(row[step_at]) <= lane_steps.get(int(row[lane_at]), sys.maxsize)
            ]
            if len(kept) < len(rows):
                write_atomic(path, "".join(map(csv_line, [header, *kept])).encode())
        self._mirrors.purge_after = dict(lane_steps)

    def set_status(self, status: str, **extra: Any) -> None:
        """Rewrites the manifest with a status of `STATUSES`, the time, and further JSON values.

        Raises:
            ValueError: unknown status. OSError: the old manifest is still there.
        """
        if status not in STATUSES:
            raise ValueError(f"status {status!r} is unknown: one of {', '.join(STATUSES)}")
        content = {**self.manifest, **extra, "status": status, "updated_at": now()}
        write_atomic(self.path / "manifest.json", _manifest_bytes(content))
        self.manifest = content

    def begin_again(self, **extra: Any) -> None:
        """Says in the manifest that another process goes on with the run, and with which code.

        Args:
            extra: further JSON values.
        """
        starts = [*self.manifest.get("starts", []), start()]
        self.set_status("running", starts=starts, **extra)

    def close(self) -> None:
        """Ends the mirrors and lets others open the run; the tables need no closing."""
        self._mirrors.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a run folder. Raises ValueError where there is none of a known format."""
    path = Path(path)
    try:
        content = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"run_dir {str(path)!r} has no readable manifest.json ({error.strerror}): "
            "give the folder of a run"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"run_dir {str(path)!r}: manifest.json is not JSON: give the folder of a run"
        ) from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"run_dir {str(path)!r} has format_version {version!r}: allowed is {FORMAT_VERSION}"
        )
    return content


def _manifest_bytes(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, default=str) + "\n").encode()


def _lock(path: Path) -> int | None:
    """Holds the folder until the descriptor is closed or the process ends; None where the file
    system has no locks.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ValueError(
            f"run_dir {str(path)!r} is being trained by another process: wait for it, or stop it"
        ) from None
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_empty(folders: Iterable[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _mend(path: Path, header: Sequence[str]) -> None:
    """Removes a torn last line in place; makes the table where it is missing or has no header."""
    data = path.read_bytes() if path.exists() else b""
    whole = data.rfind(b"\n") + 1
    if whole == 0:
        write_atomic(path, csv_line(header).encode())
    elif whole < len(data):
        os.truncate(path, whole)
    found = whole_rows(path)[0]
    if found != list(header):
        raise ValueError(f"{path.name} has columns {','.join(found)}: expected {','.join(header)}")
