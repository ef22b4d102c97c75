"""FASTANF_KERNELS chooses the implementation, and a missing library is no obstacle."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastanf
from fastanf import kernels

PACKAGE = Path(fastanf.__file__).parent
PROBE = """
import torch
from fastanf import kernels
from fastanf.kernels.noise import noise_
from fastanf.kernels.mask_adam import mask_adam_
one = torch.ones(1, 3)
mask_adam_(one, one.clone(), one.clone(), one.clone(), 1, torch.ones(1), torch.ones(1))
out = noise_(torch.empty(1, 4, 2), torch.tensor([1]), torch.tensor([[2, 3]]), 4, torch.ones(1))
print(kernels.implementation(), kernels.variant(), f"{float(out.sum()):.4f}")
"""


def run_probe(choice: str | None, root: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "FASTANF_KERNELS"}
    if choice is not None:
        environment["FASTANF_KERNELS"] = choice
    environment["PYTHONPATH"] = str(root)
    return subprocess.run(
        [sys.executable, "-c", PROBE], env=environment, cwd=root, capture_output=True, text=True
    )


@pytest.fixture
def root_without_library(tmp_path: Path) -> Path:
    """A copy of the kernels as an installation without a compiler leaves them."""
    shutil.copytree(
        PACKAGE / "kernels",
        tmp_path / "fastanf" / "kernels",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )
    (tmp_path / "fastanf" / "__init__.py").write_text("")
    return tmp_path


def test_reference_is_chosen_by_the_environment_and_agrees():
    by_choice = {choice: run_probe(choice, PACKAGE.parent) for choice in ("reference", None)}
    assert all(result.returncode == 0 for result in by_choice.values())
    assert by_choice["reference"].stdout.startswith("reference reference ")
    assert by_choice["reference"].stderr == ""
    values = [float(result.stdout.split()[2]) for result in by_choice.values()]
    assert abs(values[0] - values[1]) < 1e-3  # printed to four places


@pytest.mark.skipif(kernels.NATIVE is None, reason="kernels are not compiled")
def test_native_is_chosen_where_it_was_built():
    result = run_probe("native", PACKAGE.parent)
    assert result.stdout.startswith("native ") and result.stderr == ""


def test_auto_without_library_warns_once_and_computes(root_without_library: Path):
    result = run_probe("auto", root_without_library)
    assert result.returncode == 0 and result.stdout.startswith("reference ")
    assert result.stderr.count("slower") == 1 and "compiler" in result.stderr


def test_native_without_library_is_refused(root_without_library: Path):
    result = run_probe("native", root_without_library)
    assert result.returncode != 0
    assert "FASTANF_KERNELS=native" in result.stderr.strip().splitlines()[-1]


def test_another_choice_is_refused():
    result = run_probe("fast", PACKAGE.parent)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert "FASTANF_KERNELS='fast'" in last and "auto, native, triton, reference" in last


@pytest.mark.skipif(
    kernels.NATIVE is None or not sys.platform.startswith("linux"), reason="reads /proc"
)
def test_torch_and_the_kernels_share_one_openmp_runtime():
    lines = Path("/proc/self/maps").read_text().splitlines()
    runtimes = {line.split()[-1] for line in lines if "libgomp" in line or "libiomp" in line}
    assert len(runtimes) <= 1


def test_use_chooses_anew_and_auto_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    before = kernels.NATIVE
    monkeypatch.setattr(kernels, "NATIVE", before)  # restored afterwards
    kernels.use("auto")
    assert kernels.NATIVE is before
    kernels.use("reference")
    assert kernels.implementation() == "reference"
    kernels.use("auto")
    assert kernels.implementation() == "reference"
    with pytest.raises(ValueError, match="auto, native, triton, reference"):
        kernels.use("fast")


def test_use_refuses_native_where_it_was_not_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(kernels, "LIBRARY", tmp_path / "none.so")
    with pytest.raises(ValueError, match="--impl=native: none"):
        kernels.use("native")


def test_precision_is_one_of_two_and_reaches_torchs_own_products() -> None:
    before = kernels.PRECISION, torch.backends.cuda.matmul.allow_tf32
    try:
        for precision in kernels.PRECISIONS:
            kernels.use_precision(precision)
            assert precision == kernels.PRECISION
            assert torch.backends.cuda.matmul.allow_tf32 == (precision == "tf32")
        with pytest.raises(ValueError, match="must be one of tf32, float32"):
            kernels.use_precision("half")
    finally:
        kernels.PRECISION, torch.backends.cuda.matmul.allow_tf32 = before


def test_triton_without_gpu_or_interpreter_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    before = kernels.NATIVE, kernels.TRITON
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1 to interpret"):
        kernels.use("triton")
    assert before == (kernels.NATIVE, kernels.TRITON)


def test_triton_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install triton"):
        kernels.use("triton")


def test_tensors_of_float64_are_left_to_the_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "TRITON", ("cpu",))
    assert kernels.is_triton(torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    assert not kernels.is_triton(torch.zeros(1), torch.zeros(1, dtype=torch.float64))
    assert kernels.implementation("cpu") == "triton"
