"""Trains one block in a process of its own, on any machine, for a driver that keeps the records.

The training has a thread, and whoever serves the process asks in another one (mailbox.py). What
the block ends with is its last message.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fastanf import kernels
from fastanf.block_run import BlockRun, Refused
from fastanf.checkpoint import BlockCheckpoints, block_path
from fastanf.cluster.mailbox import Answer, Mailbox, Message
from fastanf.cluster.remote_block import RemoteProgress, RemoteRecords
from fastanf.config import TrainConfig
from fastanf.learner import keep_freed_memory
from fastanf.paths import is_url
from fastanf.provenance import start
from fastanf.run_manifest import check_lanes
from fastanf.settings import RunConfig
from fastanf.stopping import Interrupted, StopSignals

FINISHED, INTERRUPTED, REFUSED, BROKEN = "finished", "interrupted", "refused", "broken"
"""How a block ends: with the number of its stopped lanes; as asked; for a reason that would be
there again; by an error, with its traceback."""
ENDS = (FINISHED, INTERRUPTED, REFUSED, BROKEN)


@dataclass(frozen=True)
class BlockTask:
    """All that the training of a block needs to know."""

    run: RunConfig
    """Settings of the command, `run_dir` as every machine finds it: absolute, or a URL."""
    index: int
    """Of the block in the run."""
    configs: tuple[TrainConfig, ...]
    lanes: range
    """Their numbers in the run."""
    num_threads: int
    writer: str
    """A token that no other training of the block has."""
    lanes_entry: dict[str, list[str]]
    """The manifest's checksums of lanes.csv, by which a machine knows the run folder again."""
    code: dict[str, object]
    """Commit and versions of the driver (provenance.start), which this machine must have too."""


class BlockWorker:
    """The process that trains a block. Begins at once.

    Args:
        task: what to train.
    """

    def __init__(self, task: BlockTask) -> None:
        self._mailbox, self._stop = Mailbox(), StopSignals()
        self._thread = threading.Thread(target=self._train, args=(task,), daemon=True)
        self._thread.start()

    def exchange(
        self, answers: Sequence[Answer], is_asked_to_stop: bool, wait_s: float
    ) -> list[Message]:
        """As `Mailbox.exchange`.

        Args:
            answers: to calls.
            is_asked_to_stop: whether the training is to save its state and end.
            wait_s: until which nothing need come.
        """
        self._stop.is_asked |= is_asked_to_stop
        return self._mailbox.exchange(answers, wait_s)

    def _train(self, task: BlockTask) -> None:
        mailbox = self._mailbox
        try:
            num_stopped = train_block(task, mailbox, self._stop)
        except Interrupted:
            mailbox.end(INTERRUPTED)
        except Refused as error:
            mailbox.end(REFUSED, f"{error} (on {socket.gethostname()})")
        except BaseException as error:
            mailbox.end(BROKEN, "".join(traceback.format_exception(error)))
        else:
            mailbox.end(FINISHED, num_stopped)


def train_block(task: BlockTask, mailbox: Mailbox, stop: StopSignals) -> int:
    """Train a block to its end.

    Returns:
        How many of its lanes were stopped.

    Raises:
        Interrupted: as asked. Refused: as `BlockRun.train`, or this machine is not as the driver's.
    """
    mailbox.tell("begins", socket.gethostname())
    problem = _unfit(task)
    if problem:
        raise Refused(problem)
    kernels.use(task.run.impl)
    kernels.use_precision(task.run.matmul_precision)
    keep_freed_memory()
    torch.set_num_threads(task.num_threads)
    records = RemoteRecords(mailbox)
    scratch = tempfile.mkdtemp(prefix="fastanf-") if is_url(str(task.run.run_dir)) else None
    try:
        block = BlockRun(
            records,
            _checkpoints(task, records, scratch),
            task.run,
            task.configs,
            task.lanes,
            RemoteProgress(mailbox),
            stop,
        )
        block.train()
        return block.num_stopped
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _checkpoints(task: BlockTask, records: RemoteRecords, scratch: str | None) -> BlockCheckpoints:
    run_dir = str(task.run.run_dir)
    if scratch is None:
        return BlockCheckpoints(block_path(run_dir, task.index), records.commit, task.writer)
    from fastanf.cluster.url_checkpoints import UrlCheckpoints

    return UrlCheckpoints(
        Path(scratch) / f"block{task.index}",
        records.commit,
        task.writer,
        url=f"{run_dir.rstrip('/')}/checkpoints/block{task.index}",
    )


def _unfit(task: BlockTask) -> str | None:
    """Why this machine cannot train the driver's block, in one line."""
    host, run_dir = socket.gethostname(), str(task.run.run_dir)
    here = start()
    for name in ("commit", "versions"):
        if here[name] != task.code[name]:
            return (
                f"fastanf on {host} is not the driver's: {name} {_difference(here, task, name)}; "
                "install the same on every machine"
            )
    if is_url(run_dir):
        return None
    try:
        check_lanes(run_dir, task.lanes_entry)
    except ValueError:
        return (
            f"{host} does not see the run folder {run_dir} as the driver does: give --run_dir a "
            "folder that all machines share, or a URL such as s3://BUCKET/RUN"
        )
    if not os.access(run_dir, os.W_OK):
        return (
            f"{host} may not write into the run folder {run_dir}: let the same user run Ray there"
        )
    return None


def _difference(here: dict[str, object], task: BlockTask, name: str) -> str:
    ours, theirs = here[name], task.code[name]
    if isinstance(ours, dict) and isinstance(theirs, dict):
        word = next(word for word in [*ours, *theirs] if ours.get(word) != theirs.get(word))
        return f"of {word} is {ours.get(word)}, not {theirs.get(word)}"
    return f"is {ours}, not {theirs}"
