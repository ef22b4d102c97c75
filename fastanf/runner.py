"""The training loop: blocks one after the other, each through random steps, learning, evaluation
and records.

Steps are a lane's environment steps after its random ones, as in the published curves.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fastanf import checkpoint, kernels, recording
from fastanf.block import TrainingBlock
from fastanf.collect import train_step_
from fastanf.config import TrainConfig
from fastanf.curves import learning_curve_png
from fastanf.feature_records import feature_rows
from fastanf.final_table import final_table
from fastanf.instrument import end_frame, skip_frame
from fastanf.learner import keep_freed_memory
from fastanf.memory import resolve_device
from fastanf.progress import Progress, lane_label
from fastanf.records import RunFolder, read_manifest
from fastanf.rows import read_evaluations, read_lanes
from fastanf.settings import RunConfig
from fastanf.stage_records import StageProfiler, stage_columns
from fastanf.stopping import Interrupted, StopSignals

if TYPE_CHECKING:
    from fastanf.cli import Study
    from fastanf.study_folder import Standing

log = logging.getLogger(__name__)

EXIT_FINISHED, EXIT_INTERRUPTED = 0, 130


class Refused(ValueError):
    """The run, or its next block, cannot start or go on; one line says why."""


def train(study: Study) -> int:
    """Train every block of a study into its run folder, a new one or the one that it has.

    Returns:
        The process's exit code.

    Raises:
        Refused: the folder exists and is not the study's, or cannot be written.
    """
    if study.standing is not None:
        return _extend(study, study.standing)
    blocks = [block.lanes for block in study.blocks]
    with _value_errors_refuse():
        rows = recording.lane_rows(blocks)
        manifest = recording.manifest(study.run, study.command_line, study.spec)
        folder = RunFolder.create(
            study.run.run_dir or "", manifest, rows, **_record_options(study.run)
        )
    return _run(folder, study.run, blocks, num_starts=0)


def _extend(study: Study, standing: Standing) -> int:
    """Go on with a study's folder: what is unfinished there, then its further lanes."""
    path = Path(standing.path)
    if standing.is_finished and not study.blocks:
        _show_results(path)
        return EXIT_FINISHED
    blocks = [*standing.blocks, *(block.lanes for block in study.blocks)]
    with _value_errors_refuse():
        folder = RunFolder.open(path, **_record_options(study.run))
        try:
            if read_lanes(path) != standing.rows:
                raise ValueError(f"{path} has changed since it was read: type the command again")
            facts = recording.continued_manifest(
                folder.manifest, study.run, study.command_line, study.spec
            )
            num_starts = int(folder.manifest.get("num_starts", 0)) + 1
            # First: a folder that says it is finished holds no lane that is not.
            folder.begin_again(**facts, num_starts=num_starts)
            if study.blocks:
                folder.write_lanes(recording.lane_rows(blocks))
        except BaseException:
            folder.close()
            raise
    return _run(folder, study.run, blocks, num_starts)


def _record_options(run: RunConfig) -> dict[str, Any]:
    return {
        "tensorboard": run.tensorboard,
        "wandb_mode": run.wandb_mode,
        "profile": run.profile,
    }


def resume(run_dir: str | Path) -> int:
    """Continue a run from its checkpoints.

    Weights, moments, masks, temperature, permutation, replay and random counters go on where they
    were; the simulators begin new episodes.

    Raises:
        Refused: there is no run, it is finished, or its checkpoint cannot be read.
    """
    with _value_errors_refuse():
        manifest = read_manifest(run_dir)
        run = RunConfig(**manifest["run"])
        kernels.use(run.impl)
        kernels.use_precision(run.matmul_precision)
        blocks = recording.blocks_from_rows(read_lanes(run_dir))
        num_starts = int(manifest.get("num_starts", 0)) + 1
        if manifest["status"] == "finished":
            raise ValueError(f"run {str(run_dir)!r} is finished: there is nothing to resume")
        folder = RunFolder.open(run_dir, **_record_options(run))
    folder.begin_again(num_starts=num_starts)
    return _run(folder, run, blocks, num_starts)


def _run(
    folder: RunFolder, run: RunConfig, blocks: Sequence[Sequence[TrainConfig]], num_starts: int
) -> int:
    keep_freed_memory()
    if run.num_threads:
        torch.set_num_threads(run.num_threads)
    lanes = [lane for block in blocks for lane in block]
    labels = [lane_label(lane.flat()) for lane in lanes]
    max_steps = [lane.schedule.max_timesteps for lane in lanes]
    status, code = "failed", 1
    try:
        with (
            folder,
            StopSignals() as stop,
            Progress(labels, max_steps, run.plain or None) as progress,
        ):
            try:
                first_lane = 0
                for index, block in enumerate(blocks):
                    numbers = range(first_lane, first_lane + len(block))
                    block_run = _BlockRun(folder, run, index, block, numbers, progress, stop)
                    block_run.train(num_starts)
                    first_lane += len(block)
                status, code = "finished", EXIT_FINISHED
            except (Interrupted, KeyboardInterrupt):
                status, code = "interrupted", EXIT_INTERRUPTED
            finally:
                folder.set_status(status)
    finally:
        _conclude(folder, status)
    return code


def _conclude(folder: RunFolder, status: str) -> None:
    _show_results(folder.path)
    if status != "finished":
        print(f"{status}; go on with: python -m fastanf resume {folder.path}")


def _show_results(path: Path) -> None:
    evaluations = read_evaluations(path)
    if evaluations:
        print(final_table(evaluations))
        learning_curve_png(evaluations, path / "learning_curve.png")
        print(f"learning curves: {path / 'learning_curve.png'}")


class _BlockRun:
    """One block of a run on its way from the first random step to the last evaluation."""

    def __init__(
        self,
        folder: RunFolder,
        run: RunConfig,
        index: int,
        configs: Sequence[TrainConfig],
        lanes: range,
        progress: Progress,
        stop: StopSignals,
    ):
        self.folder, self.run, self.lanes, self.progress = folder, run, lanes, progress
        self.path = checkpoint.block_path(folder.path, index)
        self.configs, self.stop = configs, stop
        self.schedule = configs[0].schedule
        self.step = 0  # lock steps after the random ones
        self.evaluated_step = 0  # the step of the last evaluation that is in the records
        self.started_s = time.perf_counter()
        self.trained_s = 0.0  # wall time of earlier starts
        self.saved_s = self.started_s
        self.profiler: StageProfiler | None = None  # with --profile

    def train(self, num_starts: int) -> None:
        """Train until `max_timesteps`, evaluating and saving on the way.

        Args:
            num_starts: how often the run was resumed.
        """
        with _value_errors_refuse():
            saved = checkpoint.load(self.path)
        if saved is not None and saved[1]["is_finished"]:
            self._show_again()
            return
        self.progress.phase("building")
        with _value_errors_refuse():
            device = torch.device(resolve_device(self.run.device))
            block = TrainingBlock(
                self.configs,
                device,
                self.run.num_threads,
                num_starts if saved is not None else 0,  # what was lost is trained as it was
                self._announce,
            )
        try:
            if self.run.profile:
                self.progress.phase("measuring the machine")
                self.profiler = StageProfiler(block, device)
            if saved is not None:
                self._restore_(block, *saved)
            else:  # a run that was killed before its first checkpoint begins again
                self.folder.truncate_after(dict.fromkeys(self.lanes, -1))
            self._train_(block)
        finally:
            block.close()

    def _announce(self, text: str, stays: bool) -> None:
        (self.progress.note if stays else self.progress.phase)(text)

    def _train_(self, block: TrainingBlock) -> None:
        try:
            self._random_steps_(block)
            with self.profiler.recorder.recording() if self.profiler else nullcontext():
                self._learn_(block)
            self._save(block, is_finished=True)
        except Interrupted:
            self._save(block, is_finished=False)
            raise

    def _random_steps_(self, block: TrainingBlock) -> None:
        self.progress.phase("random start")
        while block.replay.time < block.num_random_steps:
            self.stop.check()
            block.collector.random_step_()
        self.progress.phase("")

    def _learn_(self, block: TrainingBlock) -> None:
        E, schedule = block.replay.envs_per_lane, self.schedule
        last_step, eval_period = -(-schedule.max_timesteps // E), max(1, schedule.eval_freq // E)
        meter = recording.Meter()

        def evaluate_if_due() -> None:
            is_due = self.step % eval_period == 0 or self.step == last_step
            if is_due and self.step > self.evaluated_step:
                self._evaluate(block, meter)

        evaluate_if_due()  # an evaluation that was interrupted
        while self.step < last_step:
            self.stop.check()
            self.step += 1
            is_warming_up = block.learner.is_warming_up
            if is_warming_up:
                self.progress.phase("compiling kernels")
            train_step_(block.collector, block.learner, self.step * E, schedule.updates_per_step)
            if is_warming_up:
                self.progress.phase("")
            meter.count(E)
            self.progress.update(self.lanes, self.step * E, meter.steps_per_s)
            evaluate_if_due()
            if time.perf_counter() - self.saved_s > 60 * self.run.checkpoint_minutes:
                self._save(block, is_finished=False)

    def _evaluate(self, block: TrainingBlock, meter: recording.Meter) -> None:
        block.replay.check()
        self.progress.phase("evaluating")
        with meter.paused():
            returns = block.evaluate()
        end_frame()
        step, updates = self.step * block.replay.envs_per_lane, block.learner.num_updates
        rows = recording.evaluation_rows(block, self.lanes, returns, step, updates, self._wall_s())
        stages = None
        if self.profiler:
            profile = self.profiler.rows(self.lanes[0], step, updates)
            self.folder.append_profile(profile)
            stages = stage_columns(profile)
        self.folder.append_training(
            recording.training_rows(block, self.lanes, step, updates, meter.take(), stages)
        )
        self.folder.append_topology(recording.topology_rows(block, self.lanes, step, updates))
        self.folder.append_features(feature_rows(block, self.lanes, step, updates))
        self.folder.append_evaluation(rows)
        self.evaluated_step = self.step
        for row in rows:
            self.progress.evaluated(row.lane, row.step, row.return_mean, row.return_std)
        self.progress.phase("")
        skip_frame()

    def _wall_s(self) -> float:
        return self.trained_s + time.perf_counter() - self.started_s

    def _save(self, block: TrainingBlock, is_finished: bool) -> None:
        self.progress.phase("saving")
        tensors, state = block.state_dict()
        if is_finished:  # it is never trained again, and its replay would only fill the disk
            tensors = {k: v for k, v in tensors.items() if not k.startswith("replay/")}
        progress = {
            "step": self.step,
            "evaluated_step": self.evaluated_step,
            "wall_s": self._wall_s(),
            "is_finished": is_finished,
        }
        checkpoint.save(self.path, tensors, state | progress)
        self.saved_s = time.perf_counter()
        self.progress.phase("")
        skip_frame()

    def _restore_(
        self, block: TrainingBlock, tensors: dict[str, Any], state: dict[str, Any]
    ) -> None:
        with _value_errors_refuse():
            block.load_state_dict_(tensors, state)
        self.step, self.trained_s = state["step"], state["wall_s"]
        self.evaluated_step = state["evaluated_step"]
        # Some rows of an interrupted evaluation may be there; it is repeated as a whole.
        is_pending = self.step > self.evaluated_step
        last_step = int(self.step * block.replay.envs_per_lane - is_pending)
        self.folder.truncate_after(dict.fromkeys(self.lanes, last_step))
        self._show_again()

    def _show_again(self) -> None:
        for row in read_evaluations(self.folder.path):
            if row.lane in self.lanes:
                self.progress.restore(row.lane, row.step, row.return_mean)


@contextmanager
def _value_errors_refuse() -> Iterator[None]:
    """Within, a ValueError is about what the run was given, not a mistake of the training."""
    try:
        yield
    except ValueError as error:
        raise Refused(str(error)) from error
