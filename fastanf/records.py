"""The run folder: what a run writes down while it trains, and how it is read again.

    manifest.json   versions, device, commit, command line, status; replaced as a whole
    lanes.csv       one row a lane, every field of its configuration
    eval.csv        one row a lane and evaluation           (EvaluationRow)
    train.csv       one row a lane and training interval    (TrainingRow)
    topology.csv    one row a lane, network, layer and step (TopologyRow)
    tb/             TensorBoard events, one sub-folder a lane

The CSV files are the record; TensorBoard and wandb mirror them and may fail without stopping a
run. Rows are appended whole and synced, so that a killed process leaves at most one torn last line,
which readers skip and `RunFolder.open` removes.
"""

import contextlib
import csv
import io
import json
import logging
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from importlib import metadata, util
from pathlib import Path
from typing import Any, TypeVar

import torch

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
STATUSES = ("running", "finished", "interrupted", "failed")
WANDB_MODES = ("disabled", "online", "offline")
VERSIONED = ("fastanf", "torch", "numpy", "mujoco", "envpool", "gymnasium")
NAN = math.nan


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One evaluation of one lane; `return_*` are over its deterministic episodes."""

    lane: int
    policy: str
    env: str
    seed: int
    noise_fraction: float
    variant: str
    step: int
    updates: int
    wall_s: float
    return_mean: float
    return_std: float
    return_min: float
    return_max: float
    episodes: int


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """Means over the updates of one lane since its last row; nan where there is no such quantity.

    `episode_return` is the mean return of the `episodes` training episodes that ended since then.
    """

    lane: int
    step: int
    updates: int
    episodes: int = 0
    episode_return: float = NAN
    critic_loss: float = NAN
    actor_loss: float = NAN
    temperature: float = NAN
    q_mean: float = NAN
    log_prob: float = NAN
    env_steps_per_s: float = NAN
    lane_updates_per_s: float = NAN


@dataclass(frozen=True, slots=True)
class TopologyRow:
    """The connections of one sparse layer of one lane after a topology change.

    `network` is "actor", "critic1" or "critic2"; `layer` counts from 0; `density` is the active
    share of the layer. `real_connections` and `noise_connections` start at a real and at a noise
    feature; `precision` is real / (real + noise), nan where the layer sees no features.
    """

    lane: int
    step: int
    updates: int
    network: str
    layer: int
    active: int
    density: float = NAN
    real_connections: int = 0
    noise_connections: int = 0
    precision: float = NAN


Row = TypeVar("Row", EvaluationRow, TrainingRow, TopologyRow)
AnyRow = EvaluationRow | TrainingRow | TopologyRow
FILES: dict[type, str] = {
    EvaluationRow: "eval.csv",
    TrainingRow: "train.csv",
    TopologyRow: "topology.csv",
}


def columns(kind: type) -> tuple[str, ...]:
    """The columns of a row class, in the order of its file."""
    return tuple(field.name for field in fields(kind))


def write_atomic(path: Path, data: bytes) -> None:
    """Replaces a file as a whole: a reader sees the old content or the new one, never a part.

    Raises:
        OSError: the write failed; the old file is as it was and nothing is left beside it.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class RunFolder:
    """Writes the records of one run. Use `create` for a new run, `open` for one that goes on."""

    def __init__(self, path: Path, manifest: dict[str, Any], mirrors: "_Mirrors") -> None:
        self.path = path
        self.manifest = manifest
        self._mirrors = mirrors

    @classmethod
    def create(
        cls,
        path: str | Path,
        manifest: Mapping[str, Any],
        lane_rows: Sequence[Mapping[str, Any]],
        *,
        tensorboard: bool = False,
        wandb_mode: str = "disabled",
    ) -> "RunFolder":
        """Makes the folder with manifest.json, lanes.csv and empty tables.

        Args:
            path: a folder that does not exist yet; missing parents are made.
            manifest: what the caller knows (device, configuration, ...); JSON values. Overrides the
                facts that are gathered here, except `format_version` and `status`.
            lane_rows: one flat mapping a lane; must hold lane, policy, seed.
            tensorboard: also write TensorBoard events under tb/.
            wandb_mode: "disabled", "online" or "offline".

        Raises:
            ValueError: the folder exists or cannot be made, or a mirror is not installed. Nothing
                is left behind then.
        """
        path = Path(path)
        content = {**_facts(), **manifest, "format_version": FORMAT_VERSION, "status": "running"}
        manifest_bytes = _manifest_bytes(content)
        lanes_bytes = _lanes_text(lane_rows).encode()
        mirrors = _Mirrors(path, lane_rows, tensorboard, wandb_mode)
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
            for kind, name in FILES.items():
                write_atomic(path / name, _line(columns(kind)).encode())
            write_atomic(path / "manifest.json", manifest_bytes)  # last: it makes the folder a run
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            _remove_empty(parents)
            raise
        return cls(path, content, mirrors)

    @classmethod
    def open(
        cls, path: str | Path, *, tensorboard: bool = False, wandb_mode: str = "disabled"
    ) -> "RunFolder":
        """Opens a run to go on with; removes a torn last line of each table.

        Raises:
            ValueError: no readable run of a known format is there.
        """
        path = Path(path)
        manifest = read_manifest(path)
        for kind, name in FILES.items():
            _mend(path / name, columns(kind))
        return cls(path, manifest, _Mirrors(path, read_lanes(path), tensorboard, wandb_mode))

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def append_evaluation(self, rows: Iterable[EvaluationRow]) -> None:
        """Appends to eval.csv and syncs; all rows or, if the disk is full, none (OSError)."""
        self._append(EvaluationRow, list(rows))

    def append_training(self, rows: Iterable[TrainingRow]) -> None:
        """Appends to train.csv, as `append_evaluation`."""
        self._append(TrainingRow, list(rows))

    def append_topology(self, rows: Iterable[TopologyRow]) -> None:
        """Appends to topology.csv, as `append_evaluation`."""
        self._append(TopologyRow, list(rows))

    def _append(self, kind: type, rows: Sequence[AnyRow]) -> None:
        if rows:
            _append_text(self.path / FILES[kind], "".join(_line(_cells(row)) for row in rows))
            self._mirrors.add(rows)

    def truncate_after(self, lane_steps: Mapping[int, int]) -> None:
        """Drops what a resumed run will record again: rows of a lane beyond its checkpoint's step.

        Args:
            lane_steps: lane -> step of the checkpoint; rows at that step stay. Rows of lanes that
                are not named stay too.
        """
        for kind, name in FILES.items():
            path = self.path / name
            lane_at, step_at = columns(kind).index("lane"), columns(kind).index("step")
            header, *rows = _whole_rows(path)
            kept = [
                row
                for row in rows
                if int(row[step_at]) <= lane_steps.get(int(row[lane_at]), sys.maxsize)
            ]
            if len(kept) < len(rows):
                write_atomic(path, "".join(map(_line, [header, *kept])).encode())
        self._mirrors.purge_after = dict(lane_steps)

    def set_status(self, status: str, **extra: Any) -> None:
        """Rewrites the manifest with a status of `STATUSES`, the time, and further JSON values.

        Raises:
            ValueError: unknown status. OSError: the old manifest is still there.
        """
        if status not in STATUSES:
            raise ValueError(f"status {status!r} is unknown: one of {', '.join(STATUSES)}")
        content = {**self.manifest, **extra, "status": status, "updated_at": _now()}
        write_atomic(self.path / "manifest.json", _manifest_bytes(content))
        self.manifest = content

    def close(self) -> None:
        """Ends the mirrors; the tables need no closing."""
        self._mirrors.close()

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


def read_lanes(path: str | Path) -> list[dict[str, Any]]:
    """The rows of lanes.csv as they were given to `RunFolder.create` (tuples as lists)."""
    header, *rows = _whole_rows(_file(path, "lanes.csv"))
    return [{key: _lane_value(cell) for key, cell in zip(header, row, strict=True)} for row in rows]


def read_evaluations(path: str | Path) -> list[EvaluationRow]:
    """The rows of eval.csv; `path` is the run folder or the file. A torn last line is skipped."""
    return _read(path, EvaluationRow)


def read_training(path: str | Path) -> list[TrainingRow]:
    """The rows of train.csv, as `read_evaluations`."""
    return _read(path, TrainingRow)


def read_topology(path: str | Path) -> list[TopologyRow]:
    """The rows of topology.csv, as `read_evaluations`."""
    return _read(path, TopologyRow)


class _Mirrors:
    """TensorBoard and wandb, imported when first written to; off after their first failure."""

    def __init__(
        self, path: Path, lane_rows: Sequence[Mapping[str, Any]], tensorboard: bool, wandb_mode: str
    ) -> None:
        if wandb_mode not in WANDB_MODES:
            raise ValueError(
                f"wandb_mode {wandb_mode!r} is unknown: one of {', '.join(WANDB_MODES)}"
            )
        if wandb_mode != "disabled" and util.find_spec("wandb") is None:
            raise ValueError(
                f"wandb_mode {wandb_mode!r} needs wandb: pip install 'fastanf[wandb]', or disabled"
            )
        if tensorboard and util.find_spec("tensorboard") is None:
            raise ValueError("tensorboard True needs tensorboard: pip install it, or use False")
        self.path = path
        self.labels = {int(row["lane"]): _mirror_label(row) for row in lane_rows}
        self.purge_after: dict[int, int] = {}
        self.tensorboard = tensorboard
        self.wandb_mode = wandb_mode
        self._writers: dict[int, Any] = {}
        self._wandb_run: Any = None

    def add(self, rows: Sequence[AnyRow]) -> None:
        if self.tensorboard:
            try:
                for row in rows:
                    writer = self._writer(row.lane)
                    for tag, value in _scalars(row).items():
                        writer.add_scalar(tag, value, row.step)
            except Exception as error:
                self.tensorboard = False
                log.warning("TensorBoard is off from here on: %s", error)
        if self.wandb_mode != "disabled":
            try:
                for row in rows:
                    label = self.labels[row.lane]
                    scalars = {f"{label}/{tag}": value for tag, value in _scalars(row).items()}
                    self._wandb().log({f"{label}/step": row.step, **scalars})
            except Exception as error:
                self.wandb_mode = "disabled"
                log.warning("wandb is off from here on: %s", error)

    def _writer(self, lane: int) -> Any:
        if lane not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            purge = self.purge_after.get(lane)
            self._writers[lane] = SummaryWriter(
                str(self.path / "tb" / self.labels[lane]),
                purge_step=None if purge is None else purge + 1,
            )
        return self._writers[lane]

    def _wandb(self) -> Any:
        if self._wandb_run is None:
            import wandb  # pyright: ignore[reportMissingImports]

            name = self.path.resolve().name
            self._wandb_run = wandb.init(
                project="fastanf", mode=self.wandb_mode, group=name, name=name, dir=str(self.path)
            )
            for (
                label
            ) in self.labels.values():  # blocks run one after the other: each lane its own axis
                self._wandb_run.define_metric(f"{label}/*", step_metric=f"{label}/step")
        return self._wandb_run

    def close(self) -> None:
        with contextlib.suppress(Exception):
            for writer in self._writers.values():
                writer.close()
            if self._wandb_run is not None:
                self._wandb_run.finish()
        self._writers, self._wandb_run = {}, None


def _scalars(row: AnyRow) -> dict[str, float]:
    """Tag -> value of what a mirror shows of a row; quantities that are nan are left out."""
    if isinstance(row, EvaluationRow):
        return {"eval/return_mean": row.return_mean, "eval/return_std": row.return_std}
    if isinstance(row, TopologyRow):
        prefix, names = f"topology/{row.network}_{row.layer}/", ("active", "precision")
    else:
        prefix, names = (
            "train/",
            columns(TrainingRow)[columns(TrainingRow).index("episode_return") :],
        )
    values = {prefix + name: float(getattr(row, name)) for name in names}
    return {tag: value for tag, value in values.items() if not math.isnan(value)}


def _mirror_label(row: Mapping[str, Any]) -> str:
    parts = [f"lane{int(row['lane']):02d}", str(row["policy"]), str(row.get("variant") or "")]
    label = "_".join(part for part in [*parts, f"seed{row['seed']}"] if part)
    return re.sub(r"[^\w.=+-]+", "-", label)


def _facts() -> dict[str, Any]:
    return {
        "started_at": _now(),
        "command_line": list(sys.argv),
        "commit": _commit(),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in VERSIONED},
        },
        "platform": platform.platform(),
        "num_threads": torch.get_num_threads(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the repository that tracks this file, "+changes" if it was edited; else None.

    An installed copy can lie inside some other repository (a virtual environment in a project),
    whose commit would say nothing about this code: hence the question whether the file is tracked.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(Path(__file__).resolve().parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _manifest_bytes(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, default=str) + "\n").encode()


def _remove_empty(folders: Iterable[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _line(cells: Iterable[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    line = buffer.getvalue()
    if line.count("\n") != 1 or "\r" in line:  # a line is a row: torn rows are found by it
        raise ValueError(f"record {line!r} has a line break inside a field: none is allowed")
    return line


def _cells(row: AnyRow) -> list[Any]:
    return [_typed(field.type, getattr(row, field.name)) for field in fields(row)]


def _typed(kind: Any, value: Any) -> Any:
    return kind(value)  # int, float and str also unwrap the scalars of numpy and torch


def _lanes_text(lane_rows: Sequence[Mapping[str, Any]]) -> str:
    header = list(dict.fromkeys(["lane", "block", *(key for row in lane_rows for key in row)]))
    rows = [[_lane_cell(row.get(key)) for key in header] for row in lane_rows]
    return "".join(map(_line, [header, *rows]))


def _lane_cell(value: Any) -> str:
    """A bare word for a string, JSON for all else; a string that would read as JSON is quoted."""
    if isinstance(value, str) and _lane_value(value) == value:
        return value
    return json.dumps(
        value, default=lambda other: other.item() if hasattr(other, "item") else str(other)
    )


def _lane_value(cell: str) -> Any:
    try:
        return json.loads(cell)
    except ValueError:
        return cell


def _append_text(path: Path, text: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        size = os.fstat(file).st_size
        try:
            rest = memoryview(text.encode())
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        except BaseException:
            os.ftruncate(file, size)
            raise
    finally:
        os.close(file)


def _mend(path: Path, header: Sequence[str]) -> None:
    """Removes a torn last line in place; makes the table where it is missing or has no header."""
    data = path.read_bytes() if path.exists() else b""
    whole = data.rfind(b"\n") + 1
    if whole == 0:
        write_atomic(path, _line(header).encode())
    elif whole < len(data):
        os.truncate(path, whole)
    found = _whole_rows(path)[0]
    if found != list(header):
        raise ValueError(f"{path.name} has columns {','.join(found)}: expected {','.join(header)}")


def _whole_rows(path: Path) -> list[list[str]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{str(path)!r} cannot be read ({error.strerror}): give a run folder"
        ) from error
    text = data[: data.rfind(b"\n") + 1].decode()
    rows = list(csv.reader(io.StringIO(text)))
    if not rows:
        raise ValueError(f"{str(path)!r} has no header: give a run folder")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise ValueError(
                f"{str(path)!r} line {number} has {len(row)} cells, not {len(rows[0])}"
            )
    return rows


def _file(path: str | Path, name: str) -> Path:
    path = Path(path)
    return path / name if path.is_dir() else path


def _read(path: str | Path, kind: type[Row]) -> list[Row]:
    path = _file(path, FILES[kind])
    header, *rows = _whole_rows(path)
    missing = [name for name in columns(kind) if name not in header]
    if missing:
        raise ValueError(f"{str(path)!r} lacks the columns {', '.join(missing)}")
    places = [(header.index(field.name), field.type) for field in fields(kind)]
    return [kind(*(_typed(convert, row[at]) for at, convert in places)) for row in rows]
