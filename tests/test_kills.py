"""A run that is killed at any moment, again and again, writes what the unbroken run writes."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.killable import Trainer

NUM_KILLS, KILLS_OF_A_RUN = 25, 5
OPTIONS = {
    "policy": "ANF-SAC SAC", "env": "Hopper-v3", "noise_fraction": "0.8", "num_seeds": "1",
    "max_timesteps": "240", "start_timesteps": "60", "eval_freq": "60", "eval_episodes": "1",
    "hidden": "16x16", "batch_size": "16", "topology_period": "30", "checkpoint_minutes": "1e-6",
    "permute_period": "90", "layout": "masked", "tensorboard": "false", "device": "cpu",
    "replay_capacity": "150",  # it wraps around
}  # fmt: skip
CLOCKS = {"wall_s", "env_steps_per_s", "lane_updates_per_s"}
TABLES = ("eval.csv", "train.csv", "topology.csv", "features.csv", "quarantine.csv")


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    with Trainer(tmp_path_factory.mktemp("output") / "output.txt") as trainer:
        yield trainer


def command(path: Path, **options: str) -> list[str]:
    arguments = ["train", "--plain", "--run_dir", str(path)]
    for name, value in (OPTIONS | options).items():
        arguments += [f"--{name}", *value.split()]
    return arguments


def records(path: Path) -> dict[str, list[dict[str, str]]]:
    """Every table without what the clock says."""
    tables = {}
    for name in TABLES:
        with open(path / name, newline="") as file:
            rows = list(csv.DictReader(file))
        tables[name] = [{k: v for k, v in row.items() if k not in CLOCKS} for row in rows]
    return tables


def test_a_run_that_is_killed_at_random_moments_is_the_run_that_never_was(
    trainer: Trainer, tmp_path: Path
) -> None:
    """Exact resume, over kills while it trains, evaluates, writes records and checkpoints."""
    ending = trainer.run(*command(tmp_path / "whole"))
    assert ending.code == 0, trainer.output.read_text()
    expected = records(tmp_path / "whole")
    assert len(expected["eval.csv"]) == 2 * 4 and expected["topology.csv"]
    moments, num_kills = random.Random(8), 0
    for number in range(NUM_KILLS // KILLS_OF_A_RUN):
        path, num_of_run = tmp_path / f"killed{number}", 0
        while num_of_run < KILLS_OF_A_RUN:
            start = ("resume", str(path)) if path.exists() else command(path)
            # Restarts repeat what building takes: most moments are to come after it.
            after_s = moments.uniform(0.1, 0.8) * ending.seconds
            was_killed = trainer.run(*start, kill_after_s=after_s).code is None
            num_of_run += was_killed
            if not was_killed:
                assert records(path) == expected
                path = tmp_path / f"{path.name}+"
        num_kills += num_of_run
        if path.exists() and trainer.run("resume", str(path)).code != 0:
            assert "is finished" in trainer.output.read_text().splitlines()[-1]
        if path.exists():
            assert records(path) == expected
    assert num_kills == NUM_KILLS
