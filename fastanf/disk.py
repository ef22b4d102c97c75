"""The disk space that a run needs for checkpoints and records, and what is free.

Axes: L lanes of a block, E environments of a lane, D real features, A actions. Blocks run one after
the other: those that are finished keep their networks alone, and the one in training has its replay
there too. What Weights & Biases keeps is not counted, nor the checkpoint that is kept of a lane
which breaks down. Bytes of a row or a scalar were measured on runs of HalfCheetah and Humanoid.
"""

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastanf.checkpoint import SPAN_BYTES, block_path
from fastanf.grouping import Block
from fastanf.memory import largest_capacity, mib_text
from fastanf.nets import NUM_CRITICS
from fastanf.rows import MAX_NOISE_FEATURES
from fastanf.settings import RunConfig
from fastanf.state_bytes import state_bytes

_KEPT_CHECKPOINTS = 2
"""The newest, and the one before, which is taken where the newest is damaged."""
_MERGED_SPANS = 2
"""Files of the replay whose times stand in a newer file too: of both checkpoints that stand, while
the next one is written."""
_LOCK_STEPS_PER_S = 1000
"""More than was measured of any block: what comes to a replay until its oldest part can go."""
_STEPS_PER_EPISODE = 16
"""Of a short one: each episode keeps its last observation too."""

_RUN_BYTES = 512 * 1024
"""The manifest, the picture of the curves, and heads of tables."""
_LANE_BYTES = 16 * 1024
"""A row of lanes.csv, and the folder and the head of a lane's TensorBoard file."""
_EVALUATION_BYTES, _TRAINING_BYTES, _TOPOLOGY_BYTES, _FEATURES_BYTES = 160, 200, 100, 100
_NUM_STAGES, _STAGE_BYTES, _COLUMN_BYTES = 18, 260, 22
"""Stages of a profile at most, a row of stages.csv, and a stage's column of train.csv."""
_SCALAR_BYTES = 48
"""One of TensorBoard, with its part of the event that it is in."""
_EVALUATION_SCALARS, _ROW_SCALARS = 11, 2
"""Of an evaluation and its row in train.csv; of a row in any other table."""


@dataclass(frozen=True)
class BlockDisk:
    """Bytes that a block takes on the disk."""

    replay: int
    """Transitions in the files of the checkpoints that stand and of the one that is written."""
    tensors: int
    """Everything else of one checkpoint."""
    final: int
    """The checkpoint that stays when the block is finished."""
    records: int
    """Tables and TensorBoard at its end."""

    @property
    def training(self) -> int:
        """Checkpoints, at the moment of the greatest need."""
        return self.replay + (_KEPT_CHECKPOINTS + 1) * self.tensors


def block_disk(block: Block, run: RunConfig, replay_capacity: int | None = None) -> BlockDisk:
    """Estimate of what a block takes, the most there can be.

    Args:
        block: the lanes.
        run: settings of the command.
        replay_capacity: transitions per lane; None for what the run can fill.
    """
    return BlockDisk(
        replay=_replay_bytes(block, run, replay_capacity),
        tensors=state_bytes(block),
        final=state_bytes(block, is_finished=True),
        records=_record_bytes(block, run),
    )


def run_disk_bytes(
    blocks: Sequence[Block],
    run: RunConfig,
    replay_capacity: int | None = None,
    num_at_once: int = 1,
) -> int:
    """What a run has on the disk at the moment of its greatest need.

    Args:
        blocks: in the order in which they train.
        run: settings of the command.
        replay_capacity: transitions per lane; None for what the run can fill.
        num_at_once: how many train at the same time, in whatever order where they are several.
    """
    disks = [block_disk(block, run, replay_capacity) for block in blocks]
    if num_at_once == 1:
        finished = most = 0
        for disk in disks:
            most = max(most, finished + disk.training)
            finished += disk.final
    else:
        growth = sorted((disk.training - disk.final for disk in disks), reverse=True)
        most = sum(disk.final for disk in disks) + sum(growth[:num_at_once])
    return _RUN_BYTES + most + sum(disk.records for disk in disks)


def _replay_bytes(block: Block, run: RunConfig, replay_capacity: int | None) -> int:
    """Of the files with all lanes' transitions, at most as many as the lanes ever make."""
    config = block.config
    E, schedule = config.task.envs_per_lane, config.schedule
    capacity = config.effective_replay_capacity
    capacity = min(capacity, replay_capacity or capacity) + E
    # A time is in a file with others: it can go when the oldest of two checkpoints goes.
    lock_steps = int(min(60 * run.checkpoint_minutes * _LOCK_STEPS_PER_S, capacity)) + 1
    since = min(capacity, lock_steps * E)
    most = schedule.start_timesteps + schedule.max_timesteps + 2 * E
    ring = len(block.lanes) * _transition_bytes(block) * capacity
    written = len(block.lanes) * _transition_bytes(block) * min(most, capacity + 2 * since)
    # Where a ring forgets, the oldest file holds times that it has left.
    num_spare = _MERGED_SPANS + (most > capacity + E)
    return written + num_spare * min(SPAN_BYTES, ring)


def _transition_bytes(block: Block) -> int:
    """Observation, action and reward, two marks, and a share of its episode's last observation."""
    D, A = block.spec.num_features, block.spec.num_actions
    return 4 * (D + A + 1) + 2 + -(-4 * D // _STEPS_PER_EPISODE)


def _record_bytes(block: Block, run: RunConfig) -> int:
    """Of all tables and of TensorBoard, at the end of the run."""
    config, F, D = block.config, block.num_features, block.spec.num_features
    E, schedule = config.task.envs_per_lane, config.schedule
    last_step = -(-schedule.max_timesteps // E)
    num_evaluations = -(-last_step // max(1, schedule.eval_freq // E))
    num_networks = 1 + NUM_CRITICS
    # Every feature's connections in words of as many digits as the hidden units have, and a blank.
    words = min(F, D + MAX_NOISE_FEATURES) * (len(str(config.network.hidden[0])) + 1)
    cells = scalars = 0
    for networks in block.networks:
        num_sparse = sum(
            copies * sum(a < n for a, n in zip(plan.active_counts, plan.connections, strict=True))
            for plan, copies in zip(networks, (1, NUM_CRITICS), strict=True)
        )
        cells += _EVALUATION_BYTES + _TRAINING_BYTES + _TOPOLOGY_BYTES * num_sparse
        cells += num_networks * (_FEATURES_BYTES + words * bool(num_sparse))
        scalars += _EVALUATION_SCALARS + _ROW_SCALARS * (num_networks + num_sparse)
    if run.profile:
        cells += _NUM_STAGES * (_STAGE_BYTES + _COLUMN_BYTES * len(block.lanes))
        scalars += _ROW_SCALARS * _NUM_STAGES
    each = cells + _SCALAR_BYTES * scalars * run.tensorboard
    return num_evaluations * each + len(block.lanes) * _LANE_BYTES


def free_disk_bytes(path: str | Path) -> int:
    """Bytes free for the user where a folder is or is going to be; a quota is not seen."""
    return shutil.disk_usage(nearest_folder(path)).free


def nearest_folder(path: str | Path) -> Path:
    """The folder itself where it is there, else the nearest one above it that is."""
    path = Path(path)
    return next(folder for folder in (path, *path.parents, Path("/")) if folder.is_dir())


def standing_bytes(run_dir: str | Path, block_indices: Iterable[int]) -> int:
    """What the checkpoints of some blocks take already; a file with two names counts once."""
    sizes: dict[tuple[int, int], int] = {}
    for index in block_indices:
        folder = block_path(run_dir, index)
        if folder.is_dir():
            with os.scandir(folder) as entries:
                for entry in entries:
                    facts = entry.stat(follow_symlinks=False)
                    sizes[facts.st_dev, facts.st_ino] = facts.st_size
    return sum(sizes.values())


@dataclass(frozen=True)
class DiskPlan:
    """What a run needs of the disk, and what there is."""

    blocks: tuple[Block, ...]
    """All that are to be trained."""
    run: RunConfig
    """Settings of the command."""
    folder: Path
    """On whose disk the run is."""
    free: int
    """Bytes there."""
    standing: int | None = None
    """Bytes that unfinished blocks of the run folder have there; None for a new folder."""
    num_at_once: int = 1
    """Blocks that train at the same time."""

    @property
    def needed(self) -> int:
        """Bytes beyond those that are there."""
        return self._needed(None)

    def _needed(self, replay_capacity: int | None) -> int:
        if not self.blocks:
            return 0
        total = run_disk_bytes(self.blocks, self.run, replay_capacity, self.num_at_once)
        return max(0, total - (self.standing or 0))

    def text(self) -> str:
        """One line, to be read."""
        more = "" if self.standing is None else " more"
        return (
            f"disk: {mib_text(self.needed)}{more} at most for checkpoints and records, "
            f"{mib_text(self.free)} free in {self.folder}/"
        )

    def check(self) -> None:
        """Refuse a run that does not fit.

        Raises:
            ValueError: names the replay capacity that would fit, or another disk.
        """
        if self.needed <= self.free:
            return
        fits = 0
        if self.standing is None:
            fits = largest_capacity(self.blocks, lambda n: self._needed(n) <= self.free)
        largest = max(block.config.schedule.replay_capacity for block in self.blocks)
        if fits:
            subject = f"replay_capacity {largest}"
            advice = f"allowed is --replay_capacity {fits} or less, or --run_dir on another disk"
        elif self.standing is None:
            subject = "even the smallest replay"
            advice = "allowed is --run_dir on another disk, or fewer lanes"
        else:
            subject, advice = f"run {self.run.run_dir}", "free some, or move it to another disk"
        raise ValueError(
            f"{subject} needs more disk for checkpoints and records than the "
            f"{mib_text(self.free)} free in {self.folder}/ ({mib_text(self.needed)} as given); "
            f"{advice}"
        )


def make_disk_plan(
    blocks: Sequence[Block],
    run: RunConfig,
    run_dir: str | Path,
    standing_blocks: Iterable[int] | None = None,
    num_at_once: int = 1,
) -> DiskPlan:
    """What a run needs of the disk that its folder is on.

    Args:
        blocks: all that are to be trained, those of the folder first.
        run: settings of the command.
        run_dir: the folder, which need not be there yet.
        standing_blocks: numbers of the unfinished blocks that are there; None for a new folder.
        num_at_once: blocks that train at the same time.
    """
    standing = None if standing_blocks is None else standing_bytes(run_dir, standing_blocks)
    folder = nearest_folder(run_dir)
    return DiskPlan(tuple(blocks), run, folder, free_disk_bytes(folder), standing, num_at_once)
