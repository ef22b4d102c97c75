"""Rounds of bench_checkpoint.py: one block saved and restored, and one run that saves as it trains.

Axes: L lanes, E environments per lane, B minibatch.
"""

from __future__ import annotations

import contextlib
import functools
import io
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import process_status
import torch
from benchmark import WARM_ROUND_S, Figures

import fastanf.block
from fastanf.block import TrainingBlock
from fastanf.checkpoint import BlockCheckpoints
from fastanf.cli import parse_command_line
from fastanf.collect import train_step_
from fastanf.runner import train
from fastanf.saving import Saving

CHECK_BATCHES = 16
MIN_STEPS = 8
MIB = 2**20
SAVE_EVERY_S = 1.0
"""Of a run: so short that it is the share of the time that keeps checkpoints apart."""
START_STEPS, MIN_SAVES = 1000, 4


def steps_per_s(block: TrainingBlock, seconds: float) -> float:
    """Lock steps a second with their updates, as a run makes them."""
    updates = block.config.schedule.updates_per_step
    num_steps, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or num_steps < MIN_STEPS:
        train_step_(block.collector, block.learner, num_steps + 1, updates)
        num_steps += 1
    return num_steps / elapsed


class BlockRound:
    """A round saves a block that has gone on, and restores it into a new one.

    Args:
        make: builds the block, its replay empty.
        block: one that was trained, its replay full.
        folder: for its checkpoints, on the disk to measure.
        num_steps: lock steps between two checkpoints. They are random ones here: what they store
            takes the same bytes.
        period_s: that these steps stand for.
        rate: lock steps a second while it trains.
    """

    def __init__(
        self,
        make: Callable[[], TrainingBlock],
        block: TrainingBlock,
        folder: Path,
        num_steps: int,
        period_s: float,
        rate: float,
    ):
        self._make, self._block, self._folder = make, block, folder
        self._num_steps, self._period_s, self._rate = num_steps, period_s, rate
        self._checkpoints = BlockCheckpoints(folder / "block0")
        self._save(self._checkpoints)

    def measure(self, seconds: float) -> Figures:
        """Both kinds of checkpoint, and the way back.

        Args:
            seconds: not regarded.

        Raises:
            ValueError: what was restored differs from what was saved.
        """
        for _ in range(self._num_steps):
            self._block.collector.random_step_()
        before = set(self._checkpoints.standing[0].seals)
        later = self._save(self._checkpoints)
        seals = self._checkpoints.standing[0].seals
        new_bytes = sum(seal.size for name, seal in seals.items() if name not in before)
        first = self._save_whole()
        figures = {
            "train_steps_per_s": self._rate,
            "first_s": first.seconds,
            "later_s": later.seconds,
            "later_state_s": later.state_s,
            "later_share": later.seconds / self._period_s,
            "whole_mib": sum(seal.size for seal in seals.values()) / MIB,
            "later_mib": new_bytes / MIB,
            "folder_mib": sum(file.stat().st_size for file in self._files()) / MIB,
            "replay_files_count": float(len(self._checkpoints.standing[0].spans)),
            "save_extra_mib": max(first.extra_mib, later.extra_mib),
        }
        return figures | self._restore()

    def _save(self, checkpoints: BlockCheckpoints) -> _Saved:
        """As `BlockRun` does it, but for the records."""
        rss_mib = _begin_peak()
        start = time.perf_counter()
        tensors = self._block.state_dict()
        middle = time.perf_counter()
        checkpoints.save(tensors, {"step": 0, "is_finished": False}, self._block.replay)
        end = time.perf_counter()
        extra_mib = process_status.status().peak_mib - rss_mib
        return _Saved(end - start, middle - start, extra_mib)

    def _save_whole(self) -> _Saved:
        folder = self._folder / "first"
        try:
            return self._save(BlockCheckpoints(folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _files(self) -> Iterator[Path]:
        return self._checkpoints.path.iterdir()

    def _restore(self) -> Figures:
        rss_mib = _begin_peak()
        start = time.perf_counter()
        saved, damage = BlockCheckpoints(self._checkpoints.path).load()
        load_s = time.perf_counter() - start
        load_extra_mib = process_status.status().peak_mib - rss_mib
        if saved is None or damage:
            raise ValueError(f"{self._checkpoints.path} is damaged: {'; '.join(damage)}")
        other = self._make()
        try:
            _begin_peak()
            start = time.perf_counter()
            with timed(fastanf.block, "restore_simulator_") as simulators:
                is_exact = other.restore_(saved)
            restore_s = time.perf_counter() - start
            peak_mib = process_status.status().peak_mib
            process_status.release_freed_memory()
            restore_extra_mib = peak_mib - process_status.status().rss_mib
            check_same(self._block, other, is_exact)
        finally:
            other.close()
        return {
            "load_s": load_s,
            "restore_s": restore_s,
            "restore_simulators_s": sum(end - start for start, end in simulators),
            "load_extra_mib": load_extra_mib,
            "restore_extra_mib": restore_extra_mib,
        }


def _begin_peak() -> float:
    """From now on the peak counts; MiB that are resident now."""
    process_status.release_freed_memory()
    process_status.clear_peak()
    return process_status.status().rss_mib


class _Saved(NamedTuple):
    """One checkpoint."""

    seconds: float
    state_s: float
    """Of these, for collecting the tensors."""
    extra_mib: float
    """Resident memory at the peak, beyond what was there before."""


def check_same(block: TrainingBlock, other: TrainingBlock, is_exact: bool) -> None:
    """See that a restored block is the one that was saved: its state, and what its replay samples.

    Args:
        block: that was saved.
        other: that was restored.
        is_exact: whether its simulators are where they were.

    Raises:
        ValueError: it is another one.
    """
    ours, theirs = block.state_dict(), other.state_dict()
    same = is_exact and ours.keys() == theirs.keys()
    same = same and all(_have_same_bits(ours[name], theirs[name]) for name in ours)
    size = block.config.algorithm.batch_size
    for update in range(1, 1 + CHECK_BATCHES):
        batches = [each.replay.sample(each.rng, update, size) for each in (block, other)]
        same = same and all(map(_have_same_bits, *batches))
    if not same:
        raise ValueError(
            f"a block of {block.config.task.env} that was restored differs from the one that was "
            "saved: the figures would mean nothing"
        )


def _have_same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    pair = (tensor.contiguous().view(-1).view(torch.uint8) for tensor in (one, other))
    return torch.equal(*pair)


class RunRound:
    """A round trains a run, its checkpoints `SAVE_EVERY_S` apart if the rule lets them.

    Args:
        flags: of train.py, schedule and run folder left out.
        folder: for the run.
        rate: lock steps a second.
        envs_per_lane: E.
    """

    def __init__(self, flags: Sequence[str], folder: Path, rate: float, envs_per_lane: int):
        self._flags, self._folder = list(flags), folder
        self._rate, self._envs_per_lane = rate, envs_per_lane

    def measure(self, seconds: float) -> Figures:
        """About so many seconds of training; nothing in the short round before the others, because
        a run has its own start.

        Raises:
            ValueError: the run failed, or hardly saved.
        """
        if seconds <= WARM_ROUND_S:
            return {}
        num_steps = int(self._rate * seconds) * self._envs_per_lane
        schedule = {
            "start_timesteps": START_STEPS, "max_timesteps": num_steps, "eval_freq": num_steps,
            "eval_episodes": 1, "checkpoint_minutes": SAVE_EVERY_S / 60, "tensorboard": "false",
            "run_dir": self._folder / "run",
        }  # fmt: skip
        flags = [*self._flags, "--plain", *(f"--{name}={v}" for name, v in schedule.items())]
        try:
            with (
                timed(Saving, "save") as saves,
                timed(TrainingBlock, "state_dict") as states,
                contextlib.redirect_stdout(io.StringIO()),
            ):
                code = train(parse_command_line(flags))
        finally:
            shutil.rmtree(self._folder / "run", ignore_errors=True)
        if code:
            raise ValueError(f"a run of {self._flags} ended with code {code}")
        if len(saves) < MIN_SAVES:
            raise ValueError(
                f"--round_s must be more than {seconds:g}, so that a run has {MIN_SAVES} "
                f"checkpoints: it had {len(saves)}"
            )
        return saving_figures(saves, states)


Calls = list[tuple[float, float]]
"""When each began and ended."""


def saving_figures(saves: Calls, states: Calls) -> Figures:
    """Shares of the time from the first checkpoint until the last but one: the last comes when the
    run is finished, however little time has passed.

    Args:
        saves: calls that wrote a checkpoint.
        states: those that collected its tensors, as many.
    """
    during_s = saves[-2][0] - saves[0][0]
    saving_s = sum(end - start for start, end in saves[:-2])
    state_s = sum(end - start for start, end in states[1:-1])  # of the first: before that time
    return {
        "saves_count": float(len(saves)),
        "saving_share": saving_s / during_s,
        "saving_and_state_share": (saving_s + state_s) / during_s,
    }


@contextlib.contextmanager
def timed(owner: object, name: str) -> Iterator[Calls]:
    """Within, every call of a class's or a module's function is timed."""
    original, calls = getattr(owner, name), []

    @functools.wraps(original)
    def wrapper(*args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return original(*args, **options)
        finally:
            calls.append((start, time.perf_counter()))

    setattr(owner, name, wrapper)
    try:
        yield calls
    finally:
        setattr(owner, name, original)
