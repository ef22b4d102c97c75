"""Single operations: counted as the update counts them, checked before they are timed."""

from __future__ import annotations

import json
from dataclasses import replace

import bench_kernels
import benchmark
import kernel_cases
import pytest
from kernel_cases import CASES, Sizes

from fastanf import kernels
from fastanf.workload import ADAM_FLOPS, NORMAL_FLOPS, POLYAK_FLOPS, QUANTILE_FLOPS

SMALL = Sizes("Hopper-v3", 0.5, 0.75, lanes=2, batch_size=3, impl="reference")
needs_native = pytest.mark.skipif(kernels.NATIVE is None, reason="kernels are not compiled")


@pytest.fixture(autouse=True)
def small_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_cases, "REPLAY_TRANSITIONS", 50)


@needs_native
@pytest.mark.parametrize("op", CASES)
def test_every_implementation_agrees_with_its_reference(op: str) -> None:
    make, impls = CASES[op]
    for impl in impls:
        case = make(replace(SMALL, impl=impl))
        case.call()
        case.check()


@pytest.mark.parametrize(
    ("op", "done", "useful"),
    [
        # F = 22, A = 3: 25 inputs of 2 critics with 256 units, a quarter of them active.
        ("forward", 2 * 3 * 2 * 2 * 256 * 25, 2 * 3 * 2 * 2 * 1600),
        ("weight_gradient", 2 * 3 * 2 * 2 * 256 * 25, 2 * 3 * 2 * 2 * 1600),
        ("adam", 18 * 2 * 2 * 6400, 18 * 2 * 2 * 1600),
        ("polyak", 3 * 2 * 2 * 6400, 3 * 2 * 2 * 1600),
        ("noise", 45 * 2 * 11 * 3, 45 * 2 * 11 * 3),
        ("empirical_noise", 22 * 2 * 11 * 3, 22 * 2 * 11 * 3),
    ],
)
def test_operations_agree_with_a_count_by_hand(op: str, done: int, useful: int) -> None:
    case = CASES[op][0](SMALL)
    assert (case.done_flops, case.useful_flops) == (done, useful)


def test_an_element_counts_as_in_an_update() -> None:
    assert (NORMAL_FLOPS, QUANTILE_FLOPS, POLYAK_FLOPS) == (45, 22, 3)
    assert ADAM_FLOPS + POLYAK_FLOPS == 18


def test_a_wrong_operation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(target, weight, tau, mask=None) -> None:
        target.zero_()

    monkeypatch.setattr(kernel_cases, "polyak_", wrong)
    case = CASES["polyak"][0](replace(SMALL, impl="native"))
    with pytest.raises(ValueError, match="polyak differs from its reference by"):
        case.check()


def test_points_are_the_combinations_that_there_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_kernels.KernelBenchmark, "machine", lambda self: {"peak_gb_s": 1.0})
    arguments = "--op polyak sample --impl reference torch --lanes 1 2 --env Hopper-v3 --json"
    rounds = "--rounds 1 --round_s 0.01"
    assert benchmark.main(bench_kernels.KernelBenchmark(), f"{arguments} {rounds}".split()) == 0
    whole = json.loads(capsys.readouterr().out)
    found = [(p["op"], p["impl"], p["lanes"]) for p in whole["points"]]
    assert found == [
        ("polyak", "reference", 1), ("polyak", "reference", 2),
        ("sample", "torch", 1), ("sample", "torch", 2),
    ]  # fmt: skip
    polyak, sample = whole["points"][0], whole["points"][2]
    assert polyak["useful_gflop_s"] == pytest.approx(polyak["done_gflop_s"] / 5, rel=1e-3)
    assert sample["call_us"] > 0 and "done_gflop_s" not in sample


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--op nois", "--op"),
        ("--env Hoper-v3", "Hopper-v3"),
        ("--sparsity 1", "[0, 1)"),
        ("--op evolve --sparsity 0", "--sparsity must be above 0"),
        ("--op noise --noise_fraction 0", "--noise_fraction must be above 0"),
        ("--op sample --impl native", "--impl must be one that --op has"),
        ("--policy SAC", "--policy"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        benchmark.main(bench_kernels.KernelBenchmark(), arguments.split())
    captured = capsys.readouterr()
    assert raised.value.code == 2 and captured.err.count("\n") == 1 and message in captured.err


def test_native_that_was_not_built_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kernels, "NATIVE", None)
    with pytest.raises(SystemExit):
        benchmark.main(bench_kernels.KernelBenchmark(), ["--op", "noise"])
    assert "install a C++17 compiler" in capsys.readouterr().err
