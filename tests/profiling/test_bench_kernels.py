"""Single operations: counted as the update counts them, checked before they are timed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import bench_kernels
import benchmark
import kernel_cases
import layer_cases
import pytest
import torch
from bench_kernels import CASES
from kernel_cases import Sizes

from fastanf import kernels
from fastanf.workload import (
    ADAM_FLOPS,
    FLOAT_BYTES,
    INDEX_BYTES,
    NORMAL_FLOPS,
    POLYAK_FLOPS,
    QUANTILE_FLOPS,
)

SMALL = Sizes("Hopper-v3", 0.5, 0.75, lanes=2, batch_size=3, impl="reference")
# Operations of the noise that one network call draws.
DRAWN = 45 * 2 * 11 * 3
needs_native = pytest.mark.skipif(kernels.NATIVE is None, reason="kernels are not compiled")


@pytest.fixture(autouse=True)
def small_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_cases, "REPLAY_TRANSITIONS", 50)


@needs_native
@pytest.mark.parametrize("op", [op for op in CASES if CASES[op].impls])
def test_every_implementation_agrees_with_its_reference(op: str) -> None:
    for impl in CASES[op].impls:
        case = CASES[op].make(replace(SMALL, impl=impl))
        case.call()
        case.check()


@pytest.fixture
def triton() -> Iterator[str]:
    """The type of device where Triton's kernels compute: interpreted, or on a GPU."""
    pytest.importorskip("triton", reason="Triton is not installed")
    before = kernels.NATIVE, kernels.TRITON, kernels.PRECISION
    kernels.use("triton")
    yield kernels.TRITON[0]
    kernels.use_precision(before[2])
    kernels.NATIVE, kernels.TRITON, kernels.PRECISION = before


@pytest.mark.parametrize(
    ("op", "impl"), [(op, impl) for op in CASES for impl in CASES[op].gpu_impls]
)
def test_every_implementation_on_a_gpu_agrees_with_its_reference(
    op: str, impl: str, triton: str
) -> None:
    sizes = replace(SMALL, impl=impl, device=triton)
    kernels.use_precision("tf32" if sizes.is_tf32 else "float32")
    case = CASES[op].make(sizes)
    case.check()
    case.call()
    case.check()


def test_a_gpu_has_points_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(kernels, "TRITON", ("cuda",))
    bench = bench_kernels.KernelBenchmark()
    argv = "--device cuda --op hidden_linear csr_linear masked_evolve --sparsity 0.8 --lanes 64"
    own, rest = benchmark._parser(bench).parse_known_args(argv.split())
    points = bench.points(own, rest)
    products = ["triton", "triton-float32", "reference", "reference-tf32"]
    assert [(p["op"], p["impl"]) for p in points] == [
        *(("hidden_linear", impl) for impl in products),
        ("masked_evolve", "triton"), ("masked_evolve", "reference"),
    ]  # fmt: skip
    assert bench.device == "cuda" and "device" not in points[0]


@pytest.mark.parametrize(
    ("op", "flops", "num_bytes"),
    [
        # 2 lanes, policies of 3 actions on 256 units, 3 rows.
        ("head_linear", 2 * 2 * 3 * 6 * 256, 4 * 2 * (6 * 256 + 256 * 3 + 6 * 3)),
        ("squash", 0, 4 * 2 * 3 * (6 + 2 * 3)),
        ("masked_evolve", 0, 2 * 2 * 2 * 6400 * (4 * 4 + 1)),
    ],
)
def test_operations_of_a_gpu_agree_with_a_count_by_hand(
    op: str, flops: int, num_bytes: int
) -> None:
    case = CASES[op].make(SMALL)
    assert (case.done_flops, case.moved_bytes) == (flops, num_bytes)


@pytest.mark.parametrize(
    ("op", "done", "useful"),
    [
        # F = 22, A = 3: 25 inputs of 2 critics with 256 units, a quarter of them active. The
        # critics share 11 noise features; their gradients draw them again.
        ("linear", 2 * 3 * 2 * 2 * 6400 + DRAWN, 2 * 3 * 2 * 2 * 1600 + DRAWN),
        ("linear_weight_grad", 2 * 3 * 2 * 2 * 6400 + DRAWN, 2 * 3 * 2 * 2 * 1600 + DRAWN),
        ("csr_linear", 2 * 3 * 2 * 2 * 1600 + DRAWN, 2 * 3 * 2 * 2 * 1600 + DRAWN),
        ("csr_weight_grad", 2 * 3 * 2 * 2 * 1600 + DRAWN, 2 * 3 * 2 * 2 * 1600 + DRAWN),
        ("hidden_linear", 2 * 3 * 2 * 2 * 65536, 2 * 3 * 2 * 2 * 16384),
        ("hidden_linear_weight_grad", 2 * 3 * 2 * 2 * 65536, 2 * 3 * 2 * 2 * 16384),
        ("hidden_linear_input_grad", 2 * 3 * 2 * 2 * 65536, 2 * 3 * 2 * 2 * 16384),
        ("hidden_csr_linear", 2 * 3 * 2 * 2 * 16384, 2 * 3 * 2 * 2 * 16384),
        ("hidden_csr_weight_grad", 2 * 3 * 2 * 2 * 16384, 2 * 3 * 2 * 2 * 16384),
        ("hidden_csr_input_grad", 2 * 3 * 2 * 2 * 16384, 2 * 3 * 2 * 2 * 16384),
        ("adam", 18 * 2 * 2 * 6400, 18 * 2 * 2 * 1600),
        ("polyak", 3 * 2 * 2 * 6400, 3 * 2 * 2 * 1600),
        ("noise", 45 * 2 * 11 * 3, 45 * 2 * 11 * 3),
        ("empirical_noise", 22 * 2 * 11 * 3, 22 * 2 * 11 * 3),
    ],
)
def test_operations_agree_with_a_count_by_hand(op: str, done: int, useful: int) -> None:
    case = CASES[op].make(SMALL)
    assert (case.done_flops, case.useful_flops) == (done, useful)


def test_the_gradient_of_actions_takes_their_columns_only() -> None:
    dense = replace(SMALL, sparsity=0.0)
    for op in ("linear_input_grad", "csr_input_grad"):
        case = CASES[op].make(dense)
        assert case.done_flops == case.useful_flops == 2 * 3 * 2 * 2 * 256 * 3
    sparse = CASES["csr_input_grad"].make(SMALL)
    assert 0 < sparse.done_flops == sparse.useful_flops < case.done_flops / 2


@pytest.mark.parametrize(("op", "bytes_each"), [("linear", 4 * 6400), ("csr_linear", 8 * 1600)])
def test_a_layer_moves_its_weights_and_what_is_stored_of_its_input(
    op: str, bytes_each: int
) -> None:
    # 11 real features and 3 actions that the critics share; outputs of 2 critics.
    values = 3 * 2 * (11 + 3) + 3 * 2 * 2 * 256
    assert CASES[op].make(SMALL).moved_bytes == 2 * 2 * bytes_each + 4 * values


def test_layers_are_measured_at_the_densities_that_decide_between_the_layouts(monkeypatch) -> None:
    monkeypatch.setattr(bench_kernels, "has_native", lambda: True)
    bench = bench_kernels.KernelBenchmark()

    def sizes_of(op: str, *argv: str) -> list[tuple]:
        own, rest = benchmark._parser(bench).parse_known_args(["--op", op, "--lanes", "1", *argv])
        points = bench.points(own, rest)
        assert [p["impl"] for p in points] == ["native", "reference"] * (len(points) // 2)
        return [(p["noise_fraction"], p["sparsity"]) for p in points[::2]]

    for op in ("linear", "csr_weight_grad"):
        assert sizes_of(op) == [(0.9, 0.8), (0.9, 0.95), (0.99, 0.8), (0.99, 0.95)]
        assert sizes_of(op, "--noise_fraction", "0.5", "--sparsity", "0") == [(0.5, 0.0)]
    for op in ("hidden_linear", "hidden_csr_input_grad"):
        assert sizes_of(op) == [(0.0, s) for s in (0.0, 0.3, 0.4, 0.5, 0.7, 0.8, 0.9)]
        # No feature enters a hidden layer.
        assert sizes_of(op, "--noise_fraction", "0.5", "0.9", "--sparsity", "0.2") == [(0.0, 0.2)]
    assert sizes_of("adam") == [(0.9, 0.8)]


@pytest.mark.parametrize("op", ["linear", "csr_linear"])
def test_plain_torch_draws_the_noise_in_plain_torch_at_every_call(op: str, monkeypatch) -> None:
    calls = []

    def counted(*args):
        calls.append(args)
        return torch.zeros(2, 11, 3)

    monkeypatch.setattr(layer_cases, "noise_ref", counted)
    case = CASES[op].make(SMALL)
    case.call()
    case.call()
    assert len(calls) == 2


def test_a_revision_without_the_layers_is_refused_in_one_line(monkeypatch) -> None:
    def missing(*_: object) -> None:
        raise ImportError("no module named fastanf.kernels.csr")

    monkeypatch.setattr(layer_cases, "_case", missing)
    with pytest.raises(ValueError, match="--op must be one that every revision has"):
        CASES["csr_linear"].make(SMALL)


def test_an_element_counts_as_in_an_update() -> None:
    assert (NORMAL_FLOPS, QUANTILE_FLOPS, POLYAK_FLOPS) == (45, 22, 3)
    assert layer_cases.NORMAL_FLOPS == NORMAL_FLOPS
    assert (layer_cases.FLOAT_BYTES, layer_cases.INDEX_BYTES) == (FLOAT_BYTES, INDEX_BYTES)
    assert ADAM_FLOPS + POLYAK_FLOPS == 18


def test_a_wrong_operation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(target, weight, tau, mask=None) -> None:
        target.zero_()

    monkeypatch.setattr(kernel_cases, "polyak_", wrong)
    case = CASES["polyak"].make(replace(SMALL, impl="native"))
    with pytest.raises(ValueError, match="polyak differs from its reference by"):
        case.check()


def test_points_are_the_combinations_that_there_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_kernels.KernelBenchmark, "machine", lambda self: {"peak_gb_s": 1.0})
    arguments = "--op polyak evolve --impl reference torch --lanes 1 2 --env Hopper-v3 --json"
    rounds = "--rounds 1 --round_s 0.01"
    assert benchmark.main(bench_kernels.KernelBenchmark(), f"{arguments} {rounds}".split()) == 0
    whole = json.loads(capsys.readouterr().out)
    found = [(p["op"], p["impl"], p["lanes"]) for p in whole["points"]]
    assert found == [
        ("polyak", "reference", 1), ("polyak", "reference", 2),
        ("evolve", "torch", 1), ("evolve", "torch", 2),
    ]  # fmt: skip
    polyak, evolve = whole["points"][0], whole["points"][2]
    assert polyak["useful_gflop_s"] == pytest.approx(polyak["done_gflop_s"] / 5, rel=1e-3)
    assert evolve["call_us"] > 0 and "done_gflop_s" not in evolve


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--op nois", "--op"),
        ("--env Hoper-v3", "Hopper-v3"),
        ("--sparsity 1", "[0, 1)"),
        ("--op evolve --sparsity 0", "--sparsity must be above 0"),
        ("--op noise --noise_fraction 0", "--noise_fraction must be above 0"),
        ("--op evolve --impl native", "--impl must be one that --op has"),
        ("--policy SAC", "--policy"),
        ("--device cuda:3", "--device"),
        ("--op csr_linear --impl triton", "--impl must be one that --op has"),
        ("--op masked_evolve", "--impl must be one that --op has"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        benchmark.main(bench_kernels.KernelBenchmark(), arguments.split())
    captured = capsys.readouterr()
    assert raised.value.code == 2 and captured.err.count("\n") == 1 and message in captured.err


def test_a_gpu_that_is_missing_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        benchmark.main(bench_kernels.KernelBenchmark(), ["--device", "cuda"])
    assert "torch finds no CUDA device" in capsys.readouterr().err


def test_native_that_was_not_built_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kernels, "NATIVE", None)
    with pytest.raises(SystemExit):
        benchmark.main(bench_kernels.KernelBenchmark(), ["--op", "noise"])
    assert "install a C++17 compiler" in capsys.readouterr().err
