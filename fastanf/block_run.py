"""One block of a run on its way from the first random step to the last evaluation.

Steps are a lane's environment steps after its random ones, as in the published curves.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Protocol

import torch

from fastanf import recording
from fastanf.block import TrainingBlock
from fastanf.block_records import BlockRecords
from fastanf.checkpoint import BlockCheckpoints, Checkpoint
from fastanf.collect import train_step_
from fastanf.config import TrainConfig
from fastanf.feature_records import feature_rows
from fastanf.instrument import end_frame, skip_frame
from fastanf.memory import resolve_device
from fastanf.quarantine import CHECK_PERIOD, Causes
from fastanf.saving import RETRY_S, Saving
from fastanf.settings import RunConfig
from fastanf.stage_records import StageProfiler, stage_columns
from fastanf.stopping import Interrupted, StopSignals

PATIENCE_S = 1800.0
"""How long a finished block waits for a disk that takes nothing."""


class Refused(ValueError):
    """The run, or its next block, cannot start or go on; one line says why."""


@contextmanager
def value_errors_refuse() -> Iterator[None]:
    """Within, a ValueError is about what the run was given, not a mistake of the training."""
    try:
        yield
    except ValueError as error:
        raise Refused(str(error)) from error


class Display(Protocol):
    """Is told what the training of a block does (block_progress.py), here or from elsewhere."""

    def update(self, step: int, steps_per_s: float) -> None: ...

    def phase(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...

    def evaluated(self, lane: int, step: int, return_mean: float, return_std: float) -> None: ...

    def restore(self, lane: int, step: int, return_mean: float) -> None: ...

    def stopped(self, lane: int, cause: str) -> None: ...

    def restore_stopped(self, lane: int, step: int, cause: str) -> None: ...


class BlockRun:
    """Trains one block and writes its records and checkpoints.

    Args:
        records: of the block.
        checkpoints: of the block.
        run: settings of the command.
        configs: its lanes.
        lanes: their numbers in the run.
        progress: shows them.
        stop: asked at every step.
    """

    def __init__(
        self,
        records: BlockRecords,
        checkpoints: BlockCheckpoints,
        run: RunConfig,
        configs: Sequence[TrainConfig],
        lanes: range,
        progress: Display,
        stop: StopSignals,
    ):
        self.records, self.checkpoints, self.run, self.lanes = records, checkpoints, run, lanes
        self.progress, self.configs, self.stop = progress, configs, stop
        self.schedule, self.envs_per_lane = configs[0].schedule, configs[0].task.envs_per_lane
        self.saving = Saving(checkpoints, 60 * run.checkpoint_minutes, records.flush, progress.note)
        self.step = 0  # lock steps after the random ones
        self.evaluated_step = 0  # the step of the last evaluation that is in the records
        self.started_s = time.perf_counter()
        self.trained_s = 0.0  # wall time of earlier starts
        self.num_stopped = 0
        """Lanes that are in quarantine."""
        self.profiler: StageProfiler | None = None  # with --profile

    def train(self) -> None:
        """Train until `max_timesteps`, evaluating and saving on the way.

        Raises:
            Interrupted: a signal came; the state is saved, as far as the disk takes it.
            Refused: the block's checkpoint, or what it needs, cannot be had.
        """
        with value_errors_refuse():
            saved, damage = self.checkpoints.load()
            for line in damage:
                self.progress.note(f"{line}; the one before is taken")
            if saved is not None:
                last_step = saved.state["step"] * self.envs_per_lane
                self.records.check_seals(saved.state["seals"], last_step)
        if saved is not None and saved.state["is_finished"]:
            with value_errors_refuse():
                self._show_again()
            return
        self.progress.phase("building")
        with value_errors_refuse():
            device = torch.device(resolve_device(self.run.device))
            block = TrainingBlock(self.configs, device, self.run.num_threads, self._announce)
        try:
            if self.run.profile:
                self.progress.phase("measuring the machine")
                self.profiler = StageProfiler(block, device)
            if saved is not None:
                self._restore_(block, saved)
            else:  # a run that was killed before its first checkpoint begins again
                with value_errors_refuse():
                    self.records.truncate_after(-1)
            self._train_(block)
        finally:
            block.close()

    def _announce(self, text: str, stays: bool) -> None:
        (self.progress.note if stays else self.progress.phase)(text)

    def _train_(self, block: TrainingBlock) -> None:
        self.saving.begin_()
        try:
            self._random_steps_(block)
            with self.profiler.recorder.recording() if self.profiler else nullcontext():
                self._learn_(block)
        except Interrupted:
            self._save(block)
            raise
        self._save_finished(block)

    def _random_steps_(self, block: TrainingBlock) -> None:
        if block.replay.time < block.num_random_steps:
            self.progress.phase("random start")
        while block.replay.time < block.num_random_steps:
            self.stop.check()
            block.collector.random_step_()
            if self.saving.is_due:
                self._save(block)
        self.progress.phase("")

    def _learn_(self, block: TrainingBlock) -> None:
        E, schedule = self.envs_per_lane, self.schedule
        last_step, eval_period = -(-schedule.max_timesteps // E), max(1, schedule.eval_freq // E)
        meter = recording.Meter()

        def evaluate_if_due() -> None:
            is_due = self.step % eval_period == 0 or self.step == last_step
            if is_due and self.step > self.evaluated_step:
                self._evaluate(block, meter)

        while self.step < last_step and self.num_stopped < len(self.lanes):
            self.stop.check()
            self.step += 1
            is_warming_up = block.learner.is_warming_up
            if is_warming_up:
                self.progress.phase("compiling kernels")
            train_step_(block.collector, block.learner, self.step * E, schedule.updates_per_step)
            if is_warming_up:
                self.progress.phase("")
            meter.count(E)
            self.progress.update(self.step * E, meter.steps_per_s)
            if self.step % CHECK_PERIOD == 0:
                self._quarantine(block, block.learner.watch.broken(block.learner.num_updates))
            evaluate_if_due()
            if self.saving.is_due:
                self._save(block)

    def _evaluate(self, block: TrainingBlock, meter: recording.Meter) -> None:
        watch, updates = block.learner.watch, block.learner.num_updates
        self._quarantine(block, watch.broken(updates) | watch.unsound(updates))
        self.progress.phase("evaluating")
        with meter.paused():
            returns = block.evaluate()
        end_frame()
        self._quarantine(block, watch.check_returns(returns))
        step = self.step * self.envs_per_lane
        rows = recording.evaluation_rows(block, self.lanes, returns, step, updates, self._wall_s())
        stages = None
        if self.profiler:
            profile = self.profiler.rows(self.lanes[0], step, updates)
            self.records.append(profile)
            stages = stage_columns(profile)
        self.records.append(
            recording.training_rows(block, self.lanes, step, updates, meter.take(), stages)
        )
        self.records.append(recording.topology_rows(block, self.lanes, step, updates))
        self.records.append(feature_rows(block, self.lanes, step, updates))
        self.records.append(rows)
        self.evaluated_step = self.step
        for row in rows:
            self.progress.evaluated(row.lane, row.step, row.return_mean, row.return_std)
        self.progress.phase("")
        skip_frame()

    def _quarantine(self, block: TrainingBlock, found: Causes) -> None:
        """Write down the lanes that were stopped just now, and keep what was sound of them."""
        if not found:
            return
        step, updates = self.step * self.envs_per_lane, block.learner.num_updates
        rows = recording.quarantine_rows(block, self.lanes, found, step, updates)
        for row in rows:
            self.saving.keep_lane(
                row.lane,
                lambda state, row=row: state["step"] * self.envs_per_lane == row.checkpoint_step,
            )
            self.progress.stopped(row.lane, row.cause)
        self.records.append(rows)
        self.num_stopped += len(rows)

    def _wall_s(self) -> float:
        return self.trained_s + time.perf_counter() - self.started_s

    def _save(self, block: TrainingBlock, is_finished: bool = False) -> bool:
        """Whether the disk took a checkpoint."""
        self.progress.phase("saving")
        is_saved = self.saving.save(
            lambda: block.state_dict(is_finished),
            {
                "step": self.step,
                "evaluated_step": self.evaluated_step,
                "wall_s": self._wall_s(),
                "is_finished": is_finished,
                "seals": self.records.seals(),
            },
            # A finished block is never trained again: its replay would only fill the disk.
            None if is_finished else block.replay,
        )
        if is_saved and not is_finished:
            step = self.step * self.envs_per_lane
            block.learner.watch.note_checkpoint_(step, block.learner.num_updates)
        self.progress.phase("")
        skip_frame()
        return is_saved

    def _save_finished(self, block: TrainingBlock) -> None:
        deadline = time.perf_counter() + PATIENCE_S
        while not self._save(block, is_finished=True):
            if time.perf_counter() > deadline:
                raise Refused(
                    f"{self.checkpoints.place} takes nothing: free some space and resume the run, "
                    "which then repeats what came after the last checkpoint"
                )
            self.progress.phase("waiting for space on the disk")
            for _ in range(1 + int(RETRY_S)):
                self.stop.check()
                time.sleep(min(1.0, RETRY_S))

    def _restore_(self, block: TrainingBlock, saved: Checkpoint) -> None:
        self.progress.phase("going on")
        with value_errors_refuse():
            is_exact = block.restore_(saved)
        if not is_exact:
            self.progress.note(
                "the simulators give other numbers here than where the checkpoint was written: "
                "their episodes begin anew, and the run is no longer the one it would have been"
            )
        state = saved.state
        self.step, self.trained_s = state["step"], state["wall_s"]
        self.evaluated_step = state["evaluated_step"]
        # Rows of what came after the checkpoint may be there; all of it is repeated.
        last_step = int(self.step * self.envs_per_lane)
        watch = block.learner.watch
        with value_errors_refuse():  # of tables that are damaged behind what the checkpoint sealed
            self.records.truncate_after(last_step)
            stopped = self.records.quarantine()
            watch.restore_({self.lanes.index(row.lane): row.cause for row in stopped})
            watch.note_checkpoint_(self.step * self.envs_per_lane, block.learner.num_updates)
            self._show_again()

    def _show_again(self) -> None:
        for row in self.records.evaluations():
            self.progress.restore(row.lane, row.step, row.return_mean)
        for row in self.records.quarantine():
            self.num_stopped += 1
            self.progress.restore_stopped(row.lane, row.step, row.cause)
