"""What the workers of a run say to the process that writes its records, without any training.

Axes: L lanes of a block, N blocks. The rows are those of a small block that was really trained for
some steps, with other numbers of lanes and steps: as many and as long as a run's.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import blocks
import numpy as np

from fastanf import recording
from fastanf.checkpoint import SPAN_BYTES, Checkpoint
from fastanf.cluster.mailbox import Message
from fastanf.collect import train_step_
from fastanf.config import TrainConfig
from fastanf.feature_records import feature_rows
from fastanf.records import RunFolder
from fastanf.replay_spans import Span
from fastanf.rows import AnyRow
from fastanf.tensor_file import Seal

TEMPLATE_LANES, TEMPLATE_STEPS = 2, 40
EVAL_FREQ, STEPS_PER_S = 5000, 123.4
NUM_SPANS = 26
"""Files of a replay of 16 lanes and a million transitions, of 64 MiB each."""
_NAMES = ("lane", "block", "policy", "env", "seed", "variant")


class Speech:
    """Messages of the workers of a run whose blocks have L lanes of one kind.

    Args:
        train_flags: of train.py, of one policy and one kind of lane.
        num_lanes: L.

    Raises:
        ValueError: the flags describe several policies or kinds of lanes.
    """

    def __init__(self, train_flags: Sequence[str], num_lanes: int) -> None:
        described = blocks.parse_lanes(train_flags, max(num_lanes, TEMPLATE_LANES))
        if len(described.by_policy) > 1:
            raise ValueError(f"--policy must be one, got {' '.join(described.by_policy)}")
        (configs,) = described.by_policy.values()
        self.lanes: list[TrainConfig] = configs[:num_lanes]
        self.num_lanes = num_lanes
        block = blocks.make_block(configs[:TEMPLATE_LANES], described.device, described.num_threads)
        try:
            for step in range(1, TEMPLATE_STEPS + 1):
                train_step_(block.collector, block.learner, step, 1)
            numbers = range(TEMPLATE_LANES)
            num_episodes = block.config.schedule.eval_episodes
            returns = np.random.default_rng(0).normal(5000, 500, (TEMPLATE_LANES, num_episodes))
            pace = (STEPS_PER_S, STEPS_PER_S)
            # In the order in which fastanf/block_run.py writes them.
            self._templates: list[list[list[AnyRow]]] = [
                _by_lane(rows)
                for rows in (
                    recording.training_rows(block, numbers, EVAL_FREQ, EVAL_FREQ, pace),
                    recording.topology_rows(block, numbers, EVAL_FREQ, EVAL_FREQ),
                    feature_rows(block, numbers, EVAL_FREQ, EVAL_FREQ),
                    recording.evaluation_rows(
                        block, numbers, returns, EVAL_FREQ, EVAL_FREQ, STEPS_PER_S
                    ),
                )
                if rows
            ]
        finally:
            block.close()

    def numbers(self, block: int) -> range:
        """Of a block's lanes in the run."""
        return range(block * self.num_lanes, (block + 1) * self.num_lanes)

    def rows(self, block: int, step: int) -> list[list[AnyRow]]:
        """A block's rows of one evaluation, a list for each call of `append`."""
        return [
            [
                dataclasses.replace(row, lane=lane, step=step, updates=step)
                for lane in self.numbers(block)
                for row in by_lane[lane % TEMPLATE_LANES]
            ]
            for by_lane in self._templates
        ]

    def evaluation(self, block: int, step: int) -> list[Message]:
        """All that a worker says from the beginning of an evaluation to the step after it."""
        rows = self.rows(block, step)
        return [
            Message("phase", ("evaluating",)),
            *(Message("append", (of_table,)) for of_table in rows),
            *(Message("evaluated", (lane, step, 5000.0, 500.0)) for lane in self.numbers(block)),
            Message("phase", ("",)),
            Message("update", (step, STEPS_PER_S)),
        ]

    def checkpoint(self, number: int) -> list[Message]:
        """What a worker asks for when it saves, as fastanf/saving.py does."""
        name, data = index_file(number)
        return [
            Message("phase", ("saving",)),
            Message("seals", (), 1),
            Message("flush", (), 2),
            Message("commit", (name, data), 3),
            Message("phase", ("",)),
        ]

    def lane_rows(self, num_blocks: int, is_whole: bool = True) -> list[dict[str, Any]]:
        """Rows of lanes.csv.

        Args:
            num_blocks: N.
            is_whole: whether with all settings; else with a lane's name alone, which is faster.
        """
        rows = recording.lane_rows([self.lanes] * num_blocks)
        if is_whole:
            return rows
        return [{name: row[name] for name in _NAMES} for row in rows]

    def make_run(
        self,
        path: Path,
        lane_rows: Sequence[Mapping[str, Any]],
        num_evaluations: int,
        tensorboard: bool = False,
    ) -> RunFolder:
        """A run folder with the rows of some evaluations, blocks in a new order in each.

        Args:
            path: does not exist yet.
            lane_rows: of all its lanes.
            num_evaluations: of every lane.
            tensorboard: whether to mirror the rows that come later.
        """
        folder = RunFolder.create(path, {"device": "cpu"}, lane_rows)
        order = list(range(len(lane_rows) // self.num_lanes))
        shuffle = random.Random(0).shuffle
        for number in range(1, num_evaluations + 1):
            shuffle(order)
            of_blocks = [self.rows(block, number * EVAL_FREQ) for block in order]
            for of_table in zip(*of_blocks, strict=True):
                folder.append([row for rows in of_table for row in rows])
        if not tensorboard:
            return folder
        folder.close()
        return RunFolder.open(path, tensorboard=True)


def index_file(number: int) -> tuple[str, bytes]:
    """Name and content of the file that makes others a checkpoint, of a large replay."""
    seal = Seal(SPAN_BYTES, "0" * 64)
    spans = [
        Span(first, first + 1000, f"replay-{number}-w00000000-{first}-{first + 1000}.safetensors")
        for first in range(0, 1000 * NUM_SPANS, 1000)
    ]
    names = [f"tensors-{number}-w00000000.safetensors", *(span.file for span in spans)]
    tables = ("eval.csv", "train.csv", "topology.csv", "features.csv", "quarantine.csv")
    sealed = {table: {"bytes": 1_000_000, "sha256": "0" * 64} for table in tables}
    state = {"step": number, "evaluated_step": number, "is_finished": False, "seals": sealed}
    checkpoint = Checkpoint(Path(), number, state, dict.fromkeys(names, seal), tuple(spans))
    path, data = checkpoint.index()
    return path.name, data


def _by_lane(rows: Sequence[AnyRow]) -> list[list[AnyRow]]:
    return [[row for row in rows if row.lane == lane] for lane in range(TEMPLATE_LANES)]
