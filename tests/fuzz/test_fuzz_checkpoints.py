"""Damaged checkpoints of a real run: it goes on from a whole one and ends right, or one line says
why not. How to try more of them: tests/fuzz/fuzzing.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st

from fastanf import runner, saving
from fastanf.__main__ import main
from fastanf.agent import load_agent
from fastanf.block import TrainingBlock
from fastanf.checkpoint import BlockCheckpoints, Checkpoint, block_path, read_checkpoint
from fastanf.lane_records import blocks_from_rows
from fastanf.rows import read_lanes
from tests import fake_env
from tests.fuzz.damage import damaged
from tests.fuzz.fuzzing import command_outcome, outcome, tries
from tests.helpers import all_state
from tests.interruptions import records, signal_at_update
from tests.tiny_runs import train

OPTIONS = {"checkpoint_minutes": 1e-9, "replay_capacity": 20}


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)
    monkeypatch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The whole run, and the same one stopped with two checkpoints and several spans."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        fake_env.register(patch)
        patch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())
        patch.setattr(saving, "MOST_SHARE", 1.0)  # a checkpoint at every step
        assert train(folder / "whole", **OPTIONS) == 0
        with signal_at_update(17):
            assert train(folder / "stopped", **OPTIONS) == 130
    yield folder


@st.composite
def damages(draw: Any, folder: Path) -> dict[str, bytes | None]:
    """New content of one to three files of a block's checkpoints; None where one is removed."""
    names = sorted(file.name for file in folder.iterdir())
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    changed: dict[str, bytes | None] = {}
    for name in chosen:
        kind = draw(st.sampled_from(["removed", "another's", "damaged", "damaged", "damaged"]))
        if kind == "removed":
            changed[name] = None
        elif kind == "another's":
            changed[name] = (folder / draw(st.sampled_from(names))).read_bytes()
        else:
            changed[name] = draw(damaged((folder / name).read_bytes()))
    return changed


def apply(changes: dict[str, bytes | None], folder: Path) -> None:
    for name, content in changes.items():
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)


def state_of(run: Path, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Everything that a block goes on with from a checkpoint."""
    block = TrainingBlock(blocks_from_rows(read_lanes(run))[0], torch.device("cpu"))
    try:
        assert block.restore_(checkpoint)
        return {name: tensor.clone() for name, tensor in all_state(block).items()}
    finally:
        block.close()


@tries(25, is_slow=True)
@given(data=st.data())
def test_a_damaged_checkpoint_is_one_that_was_written_or_none(
    runs: Path, tmp_path: Path, data: Any
) -> None:
    """Never a mixture of the two, nor anything else."""
    whole = block_path(runs / "stopped", 0)
    written = {each.number: each for each in _standing(whole)}
    folder = Path(shutil.copytree(whole, tmp_path / "block0"))
    try:
        apply(data.draw(damages(whole)), folder)
        found, _ = outcome(BlockCheckpoints(folder).load)
        if found is None or found[0] is None:
            return
        event(f"checkpoint {max(written) - found[0].number} before the newest")
        original = written[found[0].number]
        assert found[0].state == original.state
        one, other = (state_of(runs / "stopped", each) for each in (found[0], original))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    finally:
        shutil.rmtree(folder)


def _standing(path: Path) -> list[Checkpoint]:
    """Both checkpoints of a folder."""
    checkpoints = BlockCheckpoints(path)
    newest, damage = checkpoints.load()
    assert newest is not None and not damage
    return [newest, read_checkpoint(path, newest.number - 1)]


@tries(4, is_slow=True)
@given(data=st.data())
def test_a_run_with_damaged_checkpoints_ends_right_or_is_refused(
    runs: Path, tmp_path: Path, data: Any
) -> None:
    whole = block_path(runs / "stopped", 0)
    changes = data.draw(damages(whole))
    run = Path(shutil.copytree(runs / "stopped", tmp_path / "run"))
    try:
        apply(changes, block_path(run, 0))
        code, refusal = command_outcome(lambda: main(["resume", str(run)]))
        if refusal:
            shutil.rmtree(block_path(run, 0))
            shutil.copytree(whole, block_path(run, 0))
            code, refusal = command_outcome(lambda: main(["resume", str(run)]))
        assert (code, refusal) == (0, "")
        assert records(run) == records(runs / "whole")
    finally:
        shutil.rmtree(run)


@tries(20, is_slow=True)
@given(data=st.data())
def test_an_agent_in_a_damaged_checkpoint_is_loaded_or_refused(
    runs: Path, tmp_path: Path, data: Any
) -> None:
    whole = block_path(runs / "stopped", 0)
    run = Path(shutil.copytree(runs / "stopped", tmp_path / "run"))
    try:
        apply(data.draw(damages(whole)), block_path(run, 0))
        outcome(lambda: load_agent(run, 0))
    finally:
        shutil.rmtree(run)
