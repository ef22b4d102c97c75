"""What a block of lanes held is free when the next one is built."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = """
import gc, sys, weakref
import torch
from fastanf.block import TrainingBlock
from fastanf.presets import lane_config

assert "envpool" not in sys.modules
lane = lane_config("SAC").replace(env="Hopper-v3", replay_capacity=500)
block = TrainingBlock([lane], torch.device("cpu"), 1)
block.collector.random_step_()
parts = [weakref.ref(part) for part in (block, block.replay, block.learner, block.env)]
block.close()
del block
gc.collect()
sys.exit(sum(part() is not None for part in parts))
"""


def test_the_block_that_loads_the_simulator_first_is_freed_like_any_other() -> None:
    """In a process of its own: an engine that keeps a traceback of its import would keep it."""
    pytest.importorskip("envpool")
    command = [sys.executable, "-c", PROGRAM]
    ending = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ending.returncode == 0, ending.stderr or f"{ending.returncode} parts are still there"
