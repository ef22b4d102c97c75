"""Checkpoints come back as they were written, or say in one line why they cannot."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch

from fastanf import checkpoint

PACKAGE = Path(checkpoint.__file__).parent
TENSORS = {
    "a/weight": torch.randn(3, 5, 7),
    "mask": torch.rand(3, 5) < 0.5,
    "time": torch.tensor(2**40 + 1),
    "slot": torch.arange(7, dtype=torch.int32),
    "byte": torch.arange(5, dtype=torch.uint8),
    "nothing": torch.empty(2, 0),
}
STATE = {"step": 12, "wall_s": 0.125, "is_finished": False}


def is_whole(path: Path, marker: int) -> bool:
    loaded = checkpoint.load(path)
    assert loaded is not None
    return loaded[1]["step"] == marker and torch.equal(
        loaded[0]["marker"], torch.full((2,), marker)
    )


def save_marked(path: Path, marker: int) -> None:
    checkpoint.save(path, {"marker": torch.full((2,), marker)}, {"step": marker})


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "block0"
    assert checkpoint.load(path) is None
    strided = {"strided": torch.randn(4, 6).T, "grad": torch.randn(3, requires_grad=True)}
    checkpoint.save(path, TENSORS | strided, STATE)
    loaded = checkpoint.load(path)
    assert loaded is not None
    tensors, state = loaded
    assert tensors.keys() == (TENSORS | strided).keys()
    for name, tensor in (TENSORS | strided).items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor)
        assert not tensors[name].requires_grad
    assert {name: state[name] for name in STATE} == STATE
    assert [file.name for file in path.parent.iterdir()] == ["block0"]


def test_a_later_checkpoint_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "block0"
    for marker in (1, 2, 3):
        save_marked(path, marker)
        assert is_whole(path, marker)
    assert [file.name for file in tmp_path.iterdir()] == ["block0"]


@pytest.mark.parametrize("step", ["save_file", "_flush"])
def test_an_interrupted_write_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "block0"
    save_marked(path, 1)

    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, step, fail)
        with pytest.raises(OSError, match="No space left"):
            save_marked(path, 2)
    assert is_whole(path, 1)
    save_marked(path, 3)
    assert is_whole(path, 3)
    assert [file.name for file in tmp_path.iterdir()] == ["block0"]


def test_a_crash_between_the_two_renames_leaves_one_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rename = tmp_path / "block0", Path.rename
    save_marked(path, 1)

    def crash(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            save_marked(path, 2)
    assert not path.exists()
    assert is_whole(path, 1)
    save_marked(path, 3)
    assert is_whole(path, 3)
    assert [file.name for file in tmp_path.iterdir()] == ["block0"]


def test_a_second_crash_between_the_renames_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "block0"
    save_marked(path, 1)
    path.rename(tmp_path / "block0.old")  # where a crash between the renames leaves it

    def crash(*_: object) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            save_marked(path, 2)
    assert is_whole(path, 1)


def damage_tensors(path: Path) -> None:
    file = path / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-3])


def damage_header(path: Path) -> None:
    (path / "tensors.safetensors").write_bytes(b"\xff" * 40)


def damage_state(path: Path) -> None:
    (path / "state.json").write_text('{"format": 1, "st')


def damage_encoding(path: Path) -> None:
    (path / "state.json").write_bytes(b"\xff\xfe\x00")


def remove_tensors(path: Path) -> None:
    (path / "tensors.safetensors").unlink()


def remove_state(path: Path) -> None:
    (path / "state.json").unlink()


def change_format(path: Path) -> None:
    (path / "state.json").write_text(json.dumps({"format": 999}))


def be_a_list(path: Path) -> None:
    (path / "state.json").write_text("[1]")


@pytest.mark.parametrize(
    "damage",
    [
        damage_tensors, damage_header, damage_state, damage_encoding, remove_tensors,
        remove_state, change_format, be_a_list,
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path, damage) -> None:
    path = tmp_path / "block0"
    save_marked(path, 1)
    damage(path)
    with pytest.raises(
        ValueError, match=r"^checkpoint .*block0 (cannot be read|has an unknown)"
    ) as e:
        checkpoint.load(path)
    assert "\n" not in str(e.value)


def test_nothing_in_the_package_reads_or_writes_pickles() -> None:
    modules = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
    for folder in (PACKAGE, PACKAGE.parent / "envs"):
        for file in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    names = {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    names = {(node.module or "").split(".")[0]}
                else:
                    names = set()
                assert not names & modules, f"{file.name} imports {names & modules}"
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    call = f"{node.value.id}.{node.attr}"
                    assert call not in ("torch.load", "torch.save"), f"{file.name} has {call}"
                if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                    value = node.value
                    assert isinstance(value, ast.Constant) and value.value is False, file.name


def test_the_state_is_read_without_the_tensors(tmp_path: Path) -> None:
    path = checkpoint.block_path(tmp_path, 3)
    assert checkpoint.load_state(path) is None
    save_marked(path, 7)
    (path / "tensors.safetensors").unlink()
    path.rename(path.with_name("block3.old"))  # as a crash between two renames leaves it
    state = checkpoint.load_state(path)
    assert state is not None and state["step"] == 7
    (path.with_name("block3.old") / "state.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        checkpoint.load_state(path)
