"""What cannot be loaded as an agent is said in one line, with what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastanf import checkpoint
from fastanf.agent import load_agent, save_agent
from tests import fake_env
from tests.agent_samples import change_checkpoint, make_lanes, make_run, save_run, train


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)


def random_obs(num_rows: int) -> Tensor:
    return torch.randn(num_rows, 3, generator=torch.Generator().manual_seed(0))


def test_a_lane_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", num_steps=0)
    with pytest.raises(ValueError, match=r"lane must be one of those in .*, 0\.\.1, got 2"):
        load_agent(path, 2)


def test_a_lane_without_a_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    blocks = [train(make_lanes(num=1, hidden=(size,)), 0) for size in (4, 5)]
    path = save_run(tmp_path / "run", *blocks)
    checkpoint.block_path(path, 1).rename(tmp_path / "elsewhere")
    load_agent(path, 0)
    with pytest.raises(ValueError, match=r"lane 1 .* no checkpoint yet .* of the lanes 0$"):
        load_agent(path, 1)


def test_the_checkpoint_before_a_crash_is_found(tmp_path: Path) -> None:
    """A process that was killed before its files became a checkpoint leaves them beside it."""
    block = train(make_lanes())
    path = save_run(tmp_path / "run", block)
    expected = load_agent(path).act(random_obs(2))
    block.learner.update_()
    folder = checkpoint.block_path(path, 0)
    checkpoints = checkpoint.BlockCheckpoints(folder)
    checkpoints.load()
    checkpoints.save(block.state_dict(), {}, block.replay)
    assert not torch.equal(load_agent(path).act(random_obs(2)), expected)
    (folder / "checkpoint-2.json").unlink()
    (folder / ".checkpoint-2.json.7.tmp").write_text("{")
    assert torch.equal(load_agent(path).act(random_obs(2)), expected)


@pytest.mark.parametrize("damage", ["cut", "no tensors", "no JSON", "other format", "no updates"])
def test_a_damaged_checkpoint_is_said_in_one_line(tmp_path: Path, damage: str) -> None:
    path = make_run(tmp_path / "run", num_steps=0)
    folder = checkpoint.block_path(path, 0)
    tensors, index = folder / "tensors-1.safetensors", folder / "checkpoint-1.json"
    if damage == "cut":
        tensors.write_bytes(tensors.read_bytes()[:-100])
    elif damage == "no tensors":
        tensors.unlink()
    elif damage == "no JSON":
        index.write_text(index.read_text()[:-9])
    elif damage == "other format":
        index.write_text(json.dumps({"format": 0}))
    else:
        change_checkpoint(path, lambda tensors: tensors.pop("learner/num_updates"))
    with pytest.raises(ValueError, match=r"checkpoint .* cannot be read") as caught:
        load_agent(path)
    assert "\n" not in str(caught.value)


def change_tensors(path: Path, **changes: Tensor | None) -> None:
    def change(held: dict[str, Tensor]) -> None:
        for name, tensor in changes.items():
            key = f"learner/actor.{name}"
            if tensor is None:
                del held[key]
            else:
                held[key] = tensor

    change_checkpoint(path, change)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("1.bias", None, r"tensor actor\.1\.bias must have the shape \(1, 5\).* got none"),
        ("1.bias", torch.zeros(2, 6), r"tensor actor\.1\.bias .* got \(1, 6\)"),
        ("0.wonder", torch.zeros(2, 6), r"no place for: actor\.0\.wonder"),
    ],
)
def test_tensors_that_do_not_fit_the_settings_are_named(
    tmp_path: Path, name: str, tensor: Tensor | None, message: str
) -> None:
    path = make_run(tmp_path / "run", num_steps=0, layout="masked")
    change_tensors(path, **{name: tensor})
    with pytest.raises(ValueError, match=message):
        load_agent(path)


def test_missing_statistics_are_said(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", num_steps=0, normalize_observations=True)

    def forget(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if "observed" in name]:
            del tensors[name]

    change_checkpoint(path, forget)
    with pytest.raises(ValueError, match="lacks features that its settings need"):
        load_agent(path)


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{      }", b"nonsense" * 9])
def test_a_file_that_is_no_agent_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "agent.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"agent file .* export it anew") as caught:
        load_agent(path)
    assert "\n" not in str(caught.value)


def test_a_cut_or_inconsistent_file_is_refused(tmp_path: Path) -> None:
    agent = load_agent(make_run(tmp_path / "run", num_steps=0))
    path = tmp_path / "agent.safetensors"
    save_agent(agent, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"agent file .* cannot be read"):
        load_agent(path)
    save_agent(agent, path)
    with safe_open(path, "pt") as stored:
        metadata = stored.metadata()
    held = load_file(path)
    held["actor.0.weight.values"] = held["actor.0.weight.values"][:-1].clone()
    save_file(held, path, metadata)
    with pytest.raises(ValueError, match=r"agent file .* is damaged"):
        load_agent(path)


def test_names_and_lanes_of_files_are_checked(tmp_path: Path) -> None:
    agent = load_agent(make_run(tmp_path / "run", num_steps=0), 1)
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        save_agent(agent, tmp_path / "agent.pt")
    with pytest.raises(ValueError, match="folder of a run or the file of an agent"):
        load_agent(tmp_path / "nothing")
    path = tmp_path / "agent.safetensors"
    save_agent(agent, path)
    assert load_agent(path).lane == load_agent(path, 1).lane == 1
    with pytest.raises(ValueError, match="lane must be 1, the only one"):
        load_agent(path, 0)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give the folder of a run"):
        load_agent(tmp_path)
