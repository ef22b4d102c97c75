"""The run folder: what a run writes down while it trains, and how it is read again.

    manifest.json   versions, device, commit, command line, status; replaced as a whole
    lanes.csv       one row a lane, every field of its configuration
    eval.csv        one row a lane and evaluation           (EvaluationRow)
    train.csv       one row a lane and training interval    (TrainingRow)
    topology.csv    one row a lane, network, layer and step (TopologyRow)
    features.csv    one row a lane, network and evaluation  (FeatureRow)
    quarantine.csv  one row a lane that was stopped         (QuarantineRow)
    stages.csv      one row a stage and interval, with --profile (ProfileRow)
    lock            who trains the run                      (run_lock.py)
    tb/             TensorBoard events, one sub-folder a lane

The CSV files are the record; TensorBoard and wandb mirror them and may fail without stopping a
run. Rows are appended whole and synced, so that a killed process leaves at most one torn last line,
which readers skip and `RunFolder.open` removes. What a full disk does not take waits in memory.
"""

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from fastanf.files import check_own_entries, is_disk_trouble, remove_unfinished, write_atomic
from fastanf.mirrors import Mirrors
from fastanf.pending import DiskTrouble, RecordsPending
from fastanf.provenance import facts, now, start
from fastanf.rows import (
    FILES,
    PROFILED_FILES,
    AnyRow,
    Row,
    lanes_text,
    read_lanes,
)
from fastanf.run_birth import new_run_dir
from fastanf.run_lock import NAME as LOCK_NAME
from fastanf.run_lock import Owner, RunLock
from fastanf.run_manifest import (
    FORMAT_VERSION,
    STATUSES,
    check_lanes,
    lanes_entry,
    manifest_bytes,
    read_manifest,
)
from fastanf.run_tables import RunTables
from fastanf.table_seals import ALL_FILES, Seals

log = logging.getLogger(__name__)

OWN_FILES = ("manifest.json", "lanes.csv", *ALL_FILES, LOCK_NAME, "learning_curve.png")
OWN_FOLDERS = ("tb", "checkpoints")


class RunFolder:
    """Writes the records of one run. Use `create` for a new run, `open` for one that goes on."""

    def __init__(
        self,
        path: Path,
        manifest: dict[str, Any],
        mirrors: Mirrors,
        tables: RunTables,
        lock: RunLock,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.took_over: Owner | None = lock.took_over
        """The process that trained the run before, where that was killed."""
        self.on_trouble: Callable[[str], None] | None = None
        """Told once, in a line, that the disk takes no records, and once that it does again."""
        self._mirrors, self._tables, self._lock = mirrors, tables, lock
        self._trouble = DiskTrouble(path)
        self._to_mirror: list[AnyRow] = []
        self._is_status_waiting = self._is_closed = self._is_together = False

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
        """Makes the folder with manifest.json, lanes.csv and empty tables, as a whole.

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
        lanes_csv = lanes_text(lane_rows).encode()
        content = {**facts(), **manifest, **lanes_entry(lanes_csv)}
        content |= {"format_version": FORMAT_VERSION, "status": "running"}
        manifest_json = manifest_bytes(content)
        mirrors = Mirrors(path, lane_rows, tensorboard, wandb_mode)
        with new_run_dir(path) as (beside, lock):
            tables = RunTables(beside, PROFILED_FILES if profile else FILES)
            tables.make()
            write_atomic(beside / "lanes.csv", lanes_csv)
            write_atomic(beside / "manifest.json", manifest_json)
        tables.move(path)
        return cls(path, content, mirrors, tables, lock)

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
            ValueError: no readable run of a known format is there, it holds links or devices in
                place of its files, it cannot be written, or a process trains it.
        """
        path = Path(path)
        read_manifest(path)  # before a lock is put into what is no run
        try:
            check_own_entries(path, OWN_FILES, OWN_FOLDERS)
            lock = RunLock.take(path)
            try:
                manifest = read_manifest(path)  # as the last one that trained it left it
                manifest |= lanes_entry(check_lanes(path, manifest))
                mirrors = Mirrors(path, read_lanes(path), tensorboard, wandb_mode)
                tables = RunTables(path, PROFILED_FILES if profile else FILES)
                tables.mend()
                remove_unfinished(path, OWN_FILES)
            except BaseException:
                lock.release()
                raise
        except OSError as error:
            raise ValueError(
                f"run_dir {str(path)!r} cannot be written ({error.strerror}): give a writable "
                "folder with free space"
            ) from error
        return cls(path, manifest, mirrors, tables, lock)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def write_lanes(self, lane_rows: Sequence[Mapping[str, Any]]) -> None:
        """Replaces lanes.csv by one with further lanes, as a whole.

        Args:
            lane_rows: as for `create`; those that are there come first, with the same numbers.

        Raises:
            ValueError: lanes.csv was changed since the folder was opened, or cannot be written.
        """
        lanes_csv = lanes_text(lane_rows).encode()
        before = check_lanes(self.path, self.manifest)
        try:
            # A process that is killed between the writes leaves a manifest that knows both.
            self._write_manifest({**self.manifest, **lanes_entry(before, lanes_csv)})
            write_atomic(self.path / "lanes.csv", lanes_csv)
            self._write_manifest({**self.manifest, **lanes_entry(lanes_csv)})
        except OSError as error:
            raise ValueError(
                f"lanes.csv of {str(self.path)!r} cannot be written ({error.strerror}): free some "
                "space, and type the command again"
            ) from error
        self._mirrors.name_lanes(lane_rows)

    def append(self, rows: Sequence[AnyRow]) -> None:
        """Appends rows of one class to its table and syncs; all rows or none.

        Rows that a full or read-only disk does not take wait in memory, and come before later ones.
        So do rows that are appended within `together`, until its end.

        Raises:
            OSError: it failed for another reason; the rows are not recorded.
        """
        if rows:
            self._tables.take(rows)
            if not self._is_together:
                try:
                    self.flush()
                except OSError:
                    self._tables.forget_last(type(rows[0]))
                    raise
            self._to_mirror += rows
            if not self._is_together:
                self._mirror()

    def _mirror(self) -> None:
        rows, self._to_mirror = self._to_mirror, []
        self._mirrors.add(rows)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Within, rows of many blocks are taken, and written and synced at the end: once a table.

        `flush` and `seals` write what has come until then, as ever.

        Raises:
            OSError: at the end, as of `append`; the rows wait.
        """
        self._is_together = True
        try:
            yield
        finally:
            self._is_together = False
            self._mirror()
        self.flush()

    @property
    def has_pending(self) -> bool:
        """Whether rows or the status wait in memory for a disk that takes them."""
        return bool(self._tables.waiting) or self._is_status_waiting

    def flush(self) -> bool:
        """Writes what waits, in its order.

        Returns:
            Whether nothing waits any more.

        Raises:
            OSError: it failed for another reason than a full, read-only or failing disk.
        """
        try:
            self._tables.write()
            if self._is_status_waiting:
                self._write_manifest(self.manifest)
        except OSError as error:
            if not is_disk_trouble(error):
                raise
            self._trouble.begin(error, self.on_trouble)
            return False
        self._trouble.end(self.on_trouble)
        return True

    def seals(self, lanes: Collection[int]) -> dict[str, dict[str, Any]]:
        """Table -> {"bytes", "sha256"} of these lanes' rows on the disk, for a checkpoint to keep.

        What waits is written before, where the disk takes it.
        """
        self.flush()
        return self._tables.seals(lanes)

    def check_seals(self, seals: Seals, lanes: Collection[int], last_step: int) -> None:
        """Sees whether every table still holds what was sealed.

        Args:
            seals: as `seals` gave them.
            lanes: that were sealed.
            last_step: where they were then.

        Raises:
            ValueError: one was changed or damaged, or these are no seals of this run's tables.
        """
        self._tables.check(seals, lanes, last_step)

    def truncate(self, last_steps: Mapping[int, int]) -> None:
        """Drops what lanes that begin again will record again; other lanes' rows stay.

        Args:
            last_steps: by lane that begins again, the step of its checkpoint, -1 without one; rows
                at that step stay.

        Raises:
            OSError: a table is as it was.
        """
        self._tables.drop_beyond(last_steps)
        self._mirror()
        self._mirrors.forget_beyond(last_steps)

    def rows(self, kind: type[Row], lanes: Collection[int]) -> list[Row]:
        """The rows of some lanes on the disk, in their order; takes time by those alone.

        Args:
            kind: class of the rows.
            lanes: numbers of the lanes.

        Raises:
            ValueError: they are not as they were written, or cannot be read.
        """
        try:
            return self._tables.rows(kind, lanes)
        except OSError as error:
            raise ValueError(
                f"records of {str(self.path)!r} cannot be read ({error.strerror}): put them back"
            ) from error

    def sort_rows(self) -> None:
        """Brings the rows of blocks that trained at the same time into the order of blocks.

        Raises:
            OSError: a table is as it was.
        """
        self._tables.sort({row["lane"]: row.get("block", 0) for row in read_lanes(self.path)})

    def set_status(self, status: str, **extra: Any) -> None:
        """Rewrites the manifest with a status of `STATUSES`, the time, and further JSON values.

        On a full or read-only disk it waits in memory, as rows do, and comes after them.

        Raises:
            ValueError: unknown status. OSError: it failed for another reason; the old manifest is
                still there.
        """
        if status not in STATUSES:
            raise ValueError(f"status {status!r} is unknown: one of {', '.join(STATUSES)}")
        before = self.manifest, self._is_status_waiting
        self.manifest = {**self.manifest, **extra, "status": status, "updated_at": now()}
        self._is_status_waiting = True
        try:
            self.flush()
        except BaseException:
            self.manifest, self._is_status_waiting = before
            raise

    def _write_manifest(self, content: dict[str, Any]) -> None:
        write_atomic(self.path / "manifest.json", manifest_bytes(content))
        self.manifest, self._is_status_waiting = content, False

    def begin_again(self, **extra: Any) -> None:
        """Says in the manifest that another process goes on with the run, and with which code.

        Args:
            extra: further JSON values.
        """
        starts = [*self.manifest.get("starts", []), start()]
        self.set_status("running", starts=starts, **extra)

    def close(self) -> None:
        """Writes what waits, ends the mirrors and lets others open the run.

        Raises:
            RecordsPending: something could not be written; all is released nevertheless.
        """
        if self._is_closed:
            return
        self._is_closed, cause = True, None
        try:
            self.flush()
        except OSError as error:
            cause = error
        finally:
            self._mirrors.close()
            self._lock.release()
        if self.has_pending:
            status = str(self.manifest["status"]) if self._is_status_waiting else None
            raise RecordsPending(self.path, self._tables.waiting, status) from cause

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except RecordsPending as pending:
            if error is None:
                raise
            log.warning("%s", pending)  # why the run ended is the first thing to know
