"""A run from the command to its exit code: a folder, its blocks one after the other (block_run.py),
and what is shown of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fastanf import kernels, recording
from fastanf.block_records import FolderRecords
from fastanf.block_run import BlockRun, Refused, value_errors_refuse
from fastanf.checkpoint import BlockCheckpoints, block_path
from fastanf.config import TrainConfig
from fastanf.curves import learning_curve_png
from fastanf.final_table import final_table
from fastanf.lane_records import blocks_from_rows
from fastanf.learner import keep_freed_memory
from fastanf.limits import check_limits
from fastanf.pending import RecordsPending
from fastanf.progress import Progress, lane_label
from fastanf.records import RunFolder
from fastanf.rows import read_evaluations, read_lanes
from fastanf.run_manifest import read_manifest, run_settings
from fastanf.settings import RunConfig
from fastanf.stopped import stopped_lanes
from fastanf.stopping import Interrupted, StopSignals

if TYPE_CHECKING:
    from fastanf.cli import Study
    from fastanf.study_folder import Standing

__all__ = ["Refused", "resume", "train"]

EXIT_FINISHED, EXIT_FAILED, EXIT_ALL_STOPPED, EXIT_INTERRUPTED = 0, 1, 3, 130


Blocks = Sequence[Sequence[TrainConfig]]
"""Configurations of a run, block by block."""
Trainer = Callable[[RunFolder, RunConfig, Blocks, Progress, StopSignals], int]
"""Trains all blocks of a run that are not finished, and says how many of all its lanes are stopped.
Raises Interrupted where it was asked to stop, Refused where a block cannot be trained."""


def train_here(
    folder: RunFolder, run: RunConfig, blocks: Blocks, progress: Progress, stop: StopSignals
) -> int:
    """A `Trainer` in this process: one block after the other."""
    num_stopped = 0
    for index, numbers in enumerate(lane_numbers(blocks)):
        display = progress.block(numbers)
        block = BlockRun(
            FolderRecords(folder, numbers),
            BlockCheckpoints(block_path(folder.path, index)),
            run,
            blocks[index],
            numbers,
            display,
            stop,
        )
        block.train()
        display.leave()
        num_stopped += block.num_stopped
    return num_stopped


def train(study: Study, trainer: Trainer = train_here) -> int:
    """Train every block of a study into its run folder, a new one or the one that it has.

    Args:
        study: what to train.
        trainer: does it.

    Returns:
        The process's exit code.

    Raises:
        Refused: the folder exists and is not the study's, or cannot be written.
    """
    if study.standing is not None:
        return _extend(study, study.standing, trainer)
    blocks = [block.lanes for block in study.blocks]
    with value_errors_refuse():
        rows = recording.lane_rows(blocks)
        manifest = recording.manifest(study.run, study.plan.device, study.command_line, study.spec)
        folder = RunFolder.create(
            study.run.run_dir or "", manifest, rows, **_record_options(study.run)
        )
    return _run(folder, study.run, blocks, trainer)


def _extend(study: Study, standing: Standing, trainer: Trainer) -> int:
    """Go on with a study's folder: what is unfinished there, then its further lanes."""
    path = Path(standing.path)
    if standing.is_finished and not study.blocks:
        with value_errors_refuse():
            _show_results(path)
        return EXIT_FINISHED
    blocks = [*standing.blocks, *(block.lanes for block in study.blocks)]
    with value_errors_refuse():
        folder = RunFolder.open(path, **_record_options(study.run))
        try:
            if read_lanes(path) != standing.rows:
                raise ValueError(f"{path} has changed since it was read: type the command again")
            facts = recording.continued_manifest(
                folder.manifest, study.run, study.plan.device, study.command_line, study.spec
            )
            # First: a folder that says it is finished holds no lane that is not.
            _begin_again(folder, **facts)
            if study.blocks:
                folder.write_lanes(recording.lane_rows(blocks))
        except BaseException:
            folder.close()
            raise
    return _run(folder, study.run, blocks, trainer)


def _record_options(run: RunConfig) -> dict[str, Any]:
    return {
        "tensorboard": run.tensorboard,
        "wandb_mode": run.wandb_mode,
        "profile": run.profile,
    }


def resume(run_dir: str | Path) -> int:
    """Continue a run from its checkpoints, as if it had never stopped: on the same machine its
    records are those of a run without interruption, but for what the clock says.

    Raises:
        Refused: there is no run, it is finished, or its checkpoint cannot be read.
    """
    with value_errors_refuse():
        run = run_settings(read_manifest(run_dir))
        kernels.use(run.impl)
        kernels.use_precision(run.matmul_precision)
        folder = RunFolder.open(run_dir, **_record_options(run))
        try:  # nobody else changes it from here on
            if folder.manifest["status"] == "finished":
                raise ValueError(f"run {str(run_dir)!r} is finished: there is nothing to resume")
            blocks = blocks_from_rows(read_lanes(run_dir))
            check_limits(blocks, run, run_dir)
            _begin_again(folder)
        except BaseException:
            folder.close()
            raise
    return _run(folder, run, blocks, train_here)


def _begin_again(folder: RunFolder, **extra: Any) -> None:
    """Say in the manifest that a process goes on with the run; args as `RunFolder.begin_again`."""
    folder.begin_again(**extra, num_starts=folder.manifest.get("num_starts", 0) + 1)


def _run(folder: RunFolder, run: RunConfig, blocks: Blocks, trainer: Trainer) -> int:
    keep_freed_memory()
    if run.num_threads:
        torch.set_num_threads(run.num_threads)
    lanes = [lane for block in blocks for lane in block]
    labels = [lane_label(lane.flat()) for lane in lanes]
    max_steps = [lane.schedule.max_timesteps for lane in lanes]
    status, code = "failed", EXIT_FAILED
    try:
        with (
            folder,
            StopSignals() as stop,
            Progress(labels, max_steps, run.plain or None) as progress,
        ):
            folder.on_trouble = progress.note
            if folder.took_over is not None:
                pid, host = folder.took_over.pid, folder.took_over.host
                progress.note(f"process {pid} on {host} was killed while it trained this run")
            try:
                num_stopped = trainer(folder, run, blocks, progress, stop)
                _sort_rows(folder, progress)
                status = "finished"
                code = EXIT_ALL_STOPPED if num_stopped == len(lanes) else EXIT_FINISHED
            except (Interrupted, KeyboardInterrupt):
                status, code = "interrupted", EXIT_INTERRUPTED
            finally:
                folder.set_status(status)
    except RecordsPending as error:
        status, code = "failed", EXIT_FAILED
        print(error)
    finally:
        _conclude(folder, status, is_here=trainer is train_here)
    return code


def _sort_rows(folder: RunFolder, progress: Progress) -> None:
    """Blocks that trained at the same time leave their rows as if one had followed the other."""
    try:
        if folder.flush():
            folder.sort_rows()
    except OSError as error:  # every row is there, only in another order
        progress.note(f"the rows stay in the order in which they came: {error.strerror}")


def lane_numbers(blocks: Sequence[Sequence[TrainConfig]]) -> list[range]:
    """The numbers of each block's lanes."""
    ends = list(itertools.accumulate(map(len, blocks)))
    return [range(end - len(block), end) for end, block in zip(ends, blocks, strict=True)]


def _conclude(folder: RunFolder, status: str, is_here: bool) -> None:
    try:
        _show_results(folder.path)
    except ValueError as error:  # a damaged table: what ended the run is to be heard too
        print(f"no results: {error}")
    if status != "finished":
        command = f"python -m fastanf resume {folder.path}" if is_here else "the same command"
        print(f"{status}; go on with: {command}")


def _show_results(path: Path) -> None:
    evaluations, stopped = read_evaluations(path), stopped_lanes(path)
    if not evaluations and not stopped:
        return
    print(final_table(evaluations, stopped=stopped))
    if not evaluations:
        return
    picture = path / "learning_curve.png"
    try:
        learning_curve_png(evaluations, picture, stopped=stopped)
    except OSError as error:
        print(f"no learning curves in {picture} ({error.strerror}): report draws them anew")
    else:
        print(f"learning curves: {picture}")
