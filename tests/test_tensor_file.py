"""Files of tensors are what the package of the format reads, and known by their checksum."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fastanf import tensor_file
from fastanf.tensor_file import Seal, check_seal, read_row, read_tensors, write_tensors

TENSORS = {
    "a/weight": torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0)),
    "strided": torch.arange(24.0).view(4, 6).T,
    "grad": torch.ones(3, requires_grad=True),
    "mask": torch.tensor([[True, False, True]]),
    "time": torch.tensor(2**40 + 1),
    "slot": torch.arange(7, dtype=torch.int32),
    "byte": torch.arange(5, dtype=torch.uint8),
    "wide": torch.tensor([1.5, float("nan"), float("inf")], dtype=torch.float64),
    "key": torch.tensor([2**32 - 1], dtype=torch.uint32),
    "nothing": torch.empty(2, 0),
}
MOST = 1 << 20


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].contiguous().view(-1).view(torch.uint8).tolist()
        == other[name].detach().contiguous().view(-1).view(torch.uint8).tolist()
        for name in one
    )


def test_what_is_written_is_read_by_us_and_by_the_package(tmp_path: Path) -> None:
    file = tmp_path / "tensors.safetensors"
    seal = write_tensors(file, TENSORS)
    assert same(read_tensors(file, seal, MOST), TENSORS)
    assert same(load_file(file), TENSORS)
    data = file.read_bytes()
    assert seal == Seal(len(data), hashlib.sha256(data).hexdigest())
    check_seal(file, seal)
    assert not any(tensor.requires_grad for tensor in read_tensors(file, seal, MOST).values())


def test_one_row_is_read_without_the_others(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_tensors(file, TENSORS)
    for row in (0, 2):
        found = read_row(file, row, lambda name: name in ("a/weight", "strided", "time"))
        assert torch.equal(found["a/weight"], TENSORS["a/weight"][row : row + 1])
        assert torch.equal(found["strided"], TENSORS["strided"][row : row + 1])
        assert found["time"] == TENSORS["time"] and found["time"].dtype == torch.int64
    assert read_row(file, 1, lambda name: name == "nothing")["nothing"].shape == (1, 0)
    with pytest.raises(ValueError, match="mask has 1 rows, and no row 1"):
        read_row(file, 1, lambda name: name == "mask")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError):
        read_row(file, 0, lambda name: True)


def test_no_tensor_at_all_is_a_file_too(tmp_path: Path) -> None:
    seal = write_tensors(tmp_path / "a", {})
    assert read_tensors(tmp_path / "a", seal, MOST) == {} == load_file(tmp_path / "a")


@pytest.mark.parametrize("place", [0, 9, 100, -1])
def test_one_flipped_bit_is_seen(tmp_path: Path, place: int) -> None:
    file = tmp_path / "a"
    seal = write_tensors(file, TENSORS)
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)
    for read in (lambda: check_seal(file, seal), lambda: read_tensors(file, seal, MOST)):
        with pytest.raises(ValueError, match="is not what was written: its checksum differs"):
            read()


@pytest.mark.parametrize("change", [-1, 1])
def test_another_length_is_seen(tmp_path: Path, change: int) -> None:
    file = tmp_path / "a"
    seal = write_tensors(file, TENSORS)
    data = file.read_bytes()
    file.write_bytes(data[:change] if change < 0 else data + b"\0")
    for read in (lambda: check_seal(file, seal), lambda: read_tensors(file, seal, MOST)):
        with pytest.raises(ValueError) as caught:
            read()
        assert "\n" not in str(caught.value)


def test_a_larger_file_than_there_can_be_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal = write_tensors(tmp_path / "a", TENSORS)
    monkeypatch.setattr(tensor_file, "open_regular", lambda *_: pytest.fail("it was read"))
    with pytest.raises(ValueError, match=r"a has .* bytes; this run's has 100 at most"):
        read_tensors(tmp_path / "a", seal, 100)


@pytest.mark.parametrize("content", [b"", b"x" * 40, (2**62).to_bytes(8, "little") + b"{}"])
def test_what_is_no_file_of_tensors_is_refused_though_its_seal_is_right(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "a"
    file.write_bytes(content)
    seal = Seal(len(content), hashlib.sha256(content).hexdigest())
    with pytest.raises(ValueError, match=r"^a cannot be read"):
        read_tensors(file, seal, MOST)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check_seal(tmp_path / "a", Seal(1, ""))
    with pytest.raises(ValueError, match=r"^a cannot be read"):
        read_tensors(tmp_path / "a", Seal(1, ""), MOST)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_file.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_tensors(tmp_path / "a", TENSORS)
    assert list(tmp_path.iterdir()) == []


def test_a_second_name_of_a_replaced_file_keeps_its_content(tmp_path: Path) -> None:
    seal = write_tensors(tmp_path / "a", TENSORS)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    write_tensors(tmp_path / "a", {"other": torch.zeros(2)})
    check_seal(tmp_path / "b", seal)
