"""Rounds of bench_gatherer.py: what the process that writes a run's records does, without Ray.

Axes: L lanes of a block, N blocks. CPU time is that of all threads of this process.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import process_status
from benchmark import Figures
from gatherer_rows import EVAL_FREQ, STEPS_PER_S, Speech

from fastanf.block_records import FolderRecords
from fastanf.cluster.desk import Desk, Store
from fastanf.cluster.mailbox import Message
from fastanf.progress import HEARTBEAT_S, Progress, lane_label
from fastanf.records import RunFolder

MOST_SPOKEN = 32
"""Blocks that speak in a round; the others have rows and a place on the screen."""
STORED_EVALUATIONS = 8
"""Between two checkpoints that are committed to a store."""
UPDATES = 2000
MIB = 2**20


class Timed(NamedTuple):
    """What something took, in seconds."""

    wall_s: float
    cpu_s: float


def timed(action: Callable[[], object]) -> Timed:
    """Do something once."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    action()
    return Timed(time.perf_counter() - wall_s, time.process_time() - cpu_s)


class Syncs:
    """How often files were synced, and how long that took."""

    def __init__(self) -> None:
        self.count, self.wall_s = 0, 0.0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Within, every os.fsync of this process counts."""
        sync = os.fsync

        def count(file: int) -> None:
            start = time.perf_counter()
            sync(file)
            self.wall_s += time.perf_counter() - start
            self.count += 1

        os.fsync = count
        try:
            yield
        finally:
            os.fsync = sync


class Gatherer:
    """A run folder, its display and a desk for each of N blocks, all of which train.

    Args:
        path: of the run folder, which does not exist yet.
        speech: of its workers.
        num_blocks: N.
        tensorboard: whether rows are mirrored.
        store: as of a Desk.
        is_live: whether the display is a table on a terminal; else it is lines.
    """

    def __init__(
        self,
        path: Path,
        speech: Speech,
        num_blocks: int,
        *,
        tensorboard: bool = False,
        store: Store | None = None,
        is_live: bool = False,
    ) -> None:
        self.path, self.speech, self.num_blocks = path, speech, num_blocks
        lane_rows = speech.lane_rows(num_blocks, is_whole=False)
        self.folder = speech.make_run(path, lane_rows, 1, tensorboard)
        labels = list(map(lane_label, lane_rows))
        self.now_s = 0.0
        steps = speech.lanes[0].schedule.max_timesteps
        stream = _Terminal() if is_live else io.StringIO()
        self.progress = Progress(
            labels, steps, plain=not is_live, stream=stream, clock=lambda: self.now_s
        )
        self.desks = [self._desk(block, store) for block in range(num_blocks)]
        for step in (1, EVAL_FREQ):  # so that every block has a pace
            self.now_s += 1.0
            for desk in self.desks:
                desk.handle([Message("update", (step, STEPS_PER_S))])
        self.step = EVAL_FREQ
        gc.collect()

    def _desk(self, block: int, store: Store | None) -> Desk:
        lanes = self.speech.numbers(block)
        return Desk(block, FolderRecords(self.folder, lanes), self.progress.block(lanes), store)

    def table_bytes(self) -> dict[str, int]:
        """Table -> bytes of its file."""
        return {path.stem: path.stat().st_size for path in self.path.glob("*.csv")}

    def close(self) -> None:
        """Release the run folder."""
        self.folder.close()


class RowsRound:
    """Blocks send their rows of one evaluation, and are heard in one round, as by driver.py.

    Args:
        gatherer: of N blocks.
    """

    def __init__(self, gatherer: Gatherer) -> None:
        self.gatherer, self.num_spoken = gatherer, min(gatherer.num_blocks, MOST_SPOKEN)

    def measure(self, seconds: float) -> Figures:
        """For that time at least; the rows are made beforehand, and are in no figure."""
        gatherer, syncs = self.gatherer, Syncs()
        before, tb_before = gatherer.table_bytes(), _folder_bytes(gatherer.path / "tb")
        wall_s = cpu_s = 0.0
        num = num_rounds = 0
        gc.collect()  # once: other gatherers of this process have millions of objects
        while wall_s < seconds or not num:
            gatherer.step += EVAL_FREQ
            num_rounds += 1
            said = [
                gatherer.speech.evaluation(block, gatherer.step) for block in range(self.num_spoken)
            ]
            with syncs.counted():
                took = timed(lambda said=said: self._handle(said))
            wall_s, cpu_s, num = wall_s + took.wall_s, cpu_s + took.cpu_s, num + len(said)
        num_lanes = num * gatherer.speech.num_lanes
        figures = {
            "block_eval_wall_ms": 1e3 * wall_s / num,
            "block_eval_cpu_ms": 1e3 * cpu_s / num,
            "heard_count": float(self.num_spoken),
            "fsyncs_count": syncs.count / num_rounds,
            "fsync_ms": 1e3 * syncs.wall_s / syncs.count,
        }
        for table, size in gatherer.table_bytes().items():
            if size > before[table]:
                figures[f"{table}_bytes"] = (size - before[table]) / num_lanes
        if gatherer.folder._mirrors.tensorboard:
            tb_bytes = _folder_bytes(gatherer.path / "tb") - tb_before
            figures["tb_bytes"] = tb_bytes / num_lanes
        return figures

    def _handle(self, said: list[list[Message]]) -> None:
        with self.gatherer.folder.together():
            for desk, messages in zip(self.gatherer.desks, said, strict=False):
                desk.handle(messages)


class IdleRound:
    """Nothing happens but that blocks say how far they are, and the display is drawn."""

    def __init__(self, gatherer: Gatherer) -> None:
        self.gatherer = gatherer

    def measure(self, seconds: float) -> Figures:
        """A number of messages, and one picture.

        Args:
            seconds: not regarded.
        """
        del seconds
        gatherer = self.gatherer
        gatherer.step += 1

        def update() -> None:
            for number in range(UPDATES):
                desk = gatherer.desks[number % gatherer.num_blocks]
                desk.handle([Message("update", (gatherer.step, STEPS_PER_S))])

        updates = timed(update)
        with gatherer.progress as progress:  # a live display takes the standard output meanwhile
            gatherer.now_s += 2 * HEARTBEAT_S
            draw = timed(progress.refresh_if_due)
        return {"update_us": 1e6 * updates.cpu_s / UPDATES, "draw_ms": 1e3 * draw.cpu_s}


class CommitRound:
    """A worker saves: records are flushed and sealed, and the checkpoint is committed.

    With a store, rows of `STORED_EVALUATIONS` evaluations go with it.
    """

    def __init__(self, gatherer: Gatherer) -> None:
        self.gatherer, self._number = gatherer, 0
        for block in range(min(gatherer.num_blocks, MOST_SPOKEN)):
            (gatherer.path / "checkpoints" / f"block{block}").mkdir(parents=True)

    def measure(self, seconds: float) -> Figures:
        """For that time at least."""
        gatherer, syncs = self.gatherer, Syncs()
        has_store = gatherer.desks[0].store is not None
        wall_s = cpu_s = 0.0
        num = 0
        while wall_s < seconds or not num:
            self._number += 1
            desk = gatherer.desks[self._number % min(gatherer.num_blocks, MOST_SPOKEN)]
            for _ in range(STORED_EVALUATIONS * has_store):
                gatherer.step += EVAL_FREQ
                desk.handle(gatherer.speech.evaluation(desk.index, gatherer.step))
            messages = gatherer.speech.checkpoint(self._number)
            with syncs.counted():
                took = timed(lambda desk=desk, messages=messages: desk.handle(messages))
            wall_s, cpu_s, num = wall_s + took.wall_s, cpu_s + took.cpu_s, num + 1
        return {
            "commit_wall_ms": 1e3 * wall_s / num,
            "commit_cpu_ms": 1e3 * cpu_s / num,
            "fsyncs_count": syncs.count / num,
        }


class RestartRound:
    """Another driver opens a run, each of whose blocks goes on; and one of them is lost.

    Args:
        path: of the run folder, which does not exist yet.
        speech: of its workers.
        num_blocks: N.
        num_evaluations: of every lane, whose rows are there.
    """

    def __init__(self, path: Path, speech: Speech, num_blocks: int, num_evaluations: int) -> None:
        lane_rows = speech.lane_rows(num_blocks)
        folder = speech.make_run(path, lane_rows, num_evaluations)
        self._every_lane = [row["lane"] for row in lane_rows]
        self._lanes, self._last_step = speech.numbers(0), num_evaluations * EVAL_FREQ
        self._seals = folder.seals(self._lanes)
        folder.close()
        self._path, self._whole = path, path.with_name(f"{path.name}-whole")
        shutil.copytree(path, self._whole)
        tables = [table for table in path.glob("*.csv") if table.name != "lanes.csv"]
        self._num_rows = sum(table.read_bytes().count(b"\n") - 1 for table in tables)

    def measure(self, seconds: float) -> Figures:
        """Each once, on tables as the run left them.

        Args:
            seconds: not regarded.
        """
        del seconds
        shutil.rmtree(self._path)
        shutil.copytree(self._whole, self._path)
        process_status.release_freed_memory()
        process_status.clear_peak()
        rss_mib = process_status.status().rss_mib
        opened: list[RunFolder] = []
        open_s = timed(lambda: opened.append(RunFolder.open(self._path))).wall_s
        extra_mib = process_status.status().peak_mib - rss_mib
        (folder,) = opened
        records = FolderRecords(folder, self._lanes)
        try:
            check = timed(lambda: records.check_seals(self._seals, self._last_step))
            nothing = timed(lambda: records.truncate_after(self._last_step))
            again = timed(lambda: (records.evaluations(), records.quarantine()))
            drop = timed(lambda: records.truncate_after(self._last_step - EVAL_FREQ))
            every = dict.fromkeys(self._every_lane, self._last_step - EVAL_FREQ)
            drop_all = timed(lambda: folder.truncate(every))
            order = timed(folder.sort_rows)
        finally:
            folder.close()
        return {
            "rows_count": float(self._num_rows),
            "open_s": open_s,
            "open_extra_mib": extra_mib,
            "check_s": check.wall_s,
            "truncate_s": nothing.wall_s,
            "evaluations_s": again.wall_s,
            "drop_s": drop.wall_s,
            "drop_all_s": drop_all.wall_s,
            "sort_s": order.wall_s,
        }


class _Terminal(io.StringIO):
    """Text that a display takes for a terminal; it is forgotten."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return len(text)


def _folder_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
