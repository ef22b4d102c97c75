"""The compile report: kernels of a small block compiled for Hopper here, and its arithmetic."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import blocks
import gpu_bounds
import gpu_code
import pytest

import envs
from fastanf.instrument import Stage
from fastanf.workload import NORMAL_FLOPS, update_work

SCRIPT = Path(gpu_code.__file__)
SMALL = ["--env", "Hopper-v3", "--fake_features", "0.5", "--hidden", "64", "--batch_size", "8",
         "--policy", "ANF-SAC"]  # fmt: skip
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """Of a small block, by a process of its own: here Triton may interpret."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    tree = str(SCRIPT.parents[1])
    paths = [tree, *filter(None, [environment.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *SMALL, "--lanes", "2", "--json"],
        capture_output=True, text=True, env=environment | {"PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_triton
def test_no_kernel_of_an_update_spills(report: dict[str, Any]) -> None:
    names = {variant["kernel"] for variant in report["variants"]}
    assert names >= {
        "sample", "fill", "forward", "weight_grad", "input_grad", "bellman_target",
        "squared_error", "smallest_value", "backward", "change", "count", "leave", "grow",
    }  # fmt: skip
    for variant in report["variants"]:
        assert variant["spills"] == 0, variant
        assert 0 < variant["registers"] <= 255 and variant["blocks_per_multiprocessor"] >= 1
    on_tensor_cores = [v for v in report["variants"] if v["hgmma"] + v["hmma"]]
    assert {v["kernel"] for v in on_tensor_cores} >= {"forward", "weight_grad", "input_grad"}


@needs_triton
def test_launches_of_an_update_are_those_of_its_variants(report: dict[str, Any]) -> None:
    by_part = {"update": 0.0, gpu_code.TOPOLOGY: 0.0}
    for variant in report["variants"]:
        by_part[variant["part"]] += variant["launches"]
    assert by_part["update"] == report["kernels_per_update"]
    assert by_part[gpu_code.TOPOLOGY] == report["topology_kernels"] > 0
    assert report["operators_per_update"] == sum(report["operators"].values())


@needs_triton
def test_products_agree_with_the_workload(report: dict[str, Any]) -> None:
    described = blocks.parse_lanes(SMALL, 1)
    lanes = blocks.deal(described.by_policy, 1)
    spec = envs.spec("Hopper-v3")
    works = update_work(lanes, spec, "cuda")
    products = sum(
        work.done_flops
        for stage, work in works.items()
        if stage not in (Stage.CRITIC_OPTIMIZER, Stage.ACTOR_OPTIMIZER)
    )
    # A call draws each of its 11 noise features for 8 rows; the workload counts 7 calls.
    values, demand = 11 * 8, report["demand"]
    noise = demand["noise_draws"] * values * NORMAL_FLOPS
    expected = products - 7 * values * NORMAL_FLOPS
    assert demand["tf32_flops"] + demand["float32_flops"] - noise == pytest.approx(expected)
    assert demand["noise_draws"] >= 7
    assert demand["moved_bytes"] == sum(work.moved_bytes for work in works.values())


@needs_triton
def test_bounds_grow_with_the_lanes_and_are_called_bounds(report: dict[str, Any]) -> None:
    bounds = report["bounds"]
    assert [bound["lanes"] for bound in bounds] == [1, 8, 64, 256]
    for fewer, more in itertools.pairwise(bounds):
        assert fewer["bound_ms"] <= more["bound_ms"]
        # What is added lane by lane.
        assert more["tf32_ms"] / fewer["tf32_ms"] == pytest.approx(more["lanes"] / fewer["lanes"])
    for bound in bounds:
        assert bound["bound_ms"] >= max(bound["tf32_ms"], bound["float32_ms"])
        assert bound["uncached_ms"] >= bound["bytes_ms"]


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "expected"),
    [
        (255, 0, 8, (1, "registers")),  # 255 are given as 256: 65,536 / (256 x 256)
        (128, 0, 8, (2, "registers")),
        (32, 100_000, 4, (2, "shared memory")),  # 233,472 / (100,000 + 1,024)
        (32, 0, 4, (16, "registers")),
        (16, 0, 4, (16, "threads")),
        (16, 0, 1, (32, "blocks")),
    ],
)
def test_occupancy_of_hopper(
    registers: int, shared: int, warps: int, expected: tuple[int, str]
) -> None:
    code = SimpleNamespace(registers=registers, shared_bytes=shared, num_warps=warps)
    found = gpu_code.occupancy(cast(Any, code), gpu_code.MULTIPROCESSORS[90])
    assert found == expected


def test_products_are_counted_from_their_arguments() -> None:
    arguments = {"num_units": 25, "UNIT": 4, "J": 512, "I": 176, "N": 153, "PRECISION": "tf32"}
    launch = SimpleNamespace(name="_forward", grid=(4, 2, 3), arguments=arguments)
    found = gpu_bounds.product_of(cast(Any, launch))
    assert found is not None
    assert found.flops == 2 * 3 * 100 * 512 * 176
    assert found.noise_flops == NORMAL_FLOPS * 3 * 100 * 153 * 4
    assert found.is_tf32 and found.num_blocks == 24
    # The squashed Gaussian has kernels of the same names.
    other = SimpleNamespace(name="_forward", grid=(1, 3), arguments={"A": 6, "B": 100})
    assert gpu_bounds.product_of(cast(Any, other)) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--arch 91", "--arch must be one of 80, 86, 89, 90"),
        ("--lanes 0", "--lanes"),
        ("--env Hoper-v3", "Hopper-v3"),
        ("--policy ANF-SAC ANF-TD3", "lanes of one kind, got 2"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(gpu_code, "_compiler", lambda architecture: (None, None))
    with pytest.raises(SystemExit) as raised:
        gpu_code.main(arguments.split())
    captured = capsys.readouterr()
    assert raised.value.code == 2 and captured.out == ""
    assert captured.err.count("\n") == 1 and message in captured.err


def test_without_the_tools_it_says_which(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compilation = pytest.importorskip("fastanf.kernels.gpu.compilation")
    monkeypatch.setenv("TRITON_INTERPRET", os.environ.get("TRITON_INTERPRET", ""))
    monkeypatch.setattr(compilation, "_TOOLS", Path("nowhere"))
    with pytest.raises(SystemExit):
        gpu_code.main([])
    assert "must have ptxas, cuobjdump, nvdisasm" in capsys.readouterr().err
