"""Whole runs on the fake simulator whose checkpoints are in a store: workers and driver in one
process, one block after the other, each in a scratch folder of its own.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fastanf import runner
from fastanf.block_records import FolderRecords
from fastanf.block_run import BlockRun
from fastanf.checkpoint import block_path
from fastanf.cli import parse_command_line
from fastanf.cluster.remote_run import RemoteRun
from fastanf.cluster.url_checkpoints import UrlCheckpoints
from fastanf.files import write_atomic
from fastanf.progress import Progress
from fastanf.records import RunFolder
from fastanf.rows import FILES, PROFILED_FILES, AnyRow, row_lines
from fastanf.runner import Blocks, lane_numbers
from fastanf.settings import RunConfig
from fastanf.stopping import StopSignals
from tests.tiny_runs import OPTIONS


class KeptRecords(FolderRecords):
    """Those of a block in the driver's folder, with what its next commit is to keep of them."""

    def __init__(self, folder: RunFolder, lanes: range) -> None:
        super().__init__(folder, lanes)
        self.rows: list[tuple[str, str]] = []
        self.after: int | None = None

    def append(self, rows: Sequence[AnyRow]) -> None:
        super().append(rows)
        names = {**FILES, **PROFILED_FILES}
        self.rows += [(names[type(rows[0])], line) for line in row_lines(rows)]

    def truncate_after(self, last_step: int) -> None:
        self.rows, self.after = [], last_step
        super().truncate_after(last_step)


class UrlTrainer:
    """A `Trainer` that keeps the run under a URL."""

    def __init__(self, url: str) -> None:
        self.run = RemoteRun(url)

    def __call__(
        self,
        folder: RunFolder,
        run: RunConfig,
        blocks: Blocks,
        progress: Progress,
        stop: StopSignals,
    ) -> int:
        self.run.publish(folder.path)
        num_stopped = 0
        try:
            for index, lanes in enumerate(lane_numbers(blocks)):
                display, scratch = progress.block(lanes), Path(tempfile.mkdtemp())
                records = KeptRecords(folder, lanes)
                block = BlockRun(
                    records,
                    UrlCheckpoints(
                        scratch / f"block{index}",
                        lambda path, data, i=index, r=records: self.commit(
                            folder, i, r, path, data
                        ),
                        secrets.token_hex(4),
                        url=f"{self.run.url}/checkpoints/block{index}",
                    ),
                    run,
                    blocks[index],
                    lanes,
                    display,
                    stop,
                )
                try:
                    block.train()
                finally:
                    shutil.rmtree(scratch)
                display.leave()
                num_stopped += block.num_stopped
        finally:
            self.run.publish(folder.path)
        return num_stopped

    def commit(
        self, folder: RunFolder, index: int, records: KeptRecords, path: Path, data: bytes
    ) -> None:
        self.run.commit(index, path.name, data, records.rows, records.after)
        records.rows, records.after = [], None
        here = block_path(folder.path, index)
        here.mkdir(parents=True, exist_ok=True)
        write_atomic(here / path.name, data)


def train_at(url: str, path: Path, **options: Any) -> int:
    """A new run with a working folder; returns its exit code."""
    arguments = ["--plain", "--run_dir", str(path)]
    for name, value in (OPTIONS | options).items():
        arguments += [f"--{name}", *str(value).split()]
    return runner.train(parse_command_line(arguments), UrlTrainer(url))


def resume_at(url: str, path: Path) -> int:
    """Go on with a run, whose working folder may be missing; returns its exit code."""
    RemoteRun(url).fetch(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "train_here", UrlTrainer(url))
        return runner.resume(path)
