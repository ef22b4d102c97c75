"""How fast the operations of an update are, each alone: native against plain torch.

    python profiling/bench_kernels.py
    python profiling/bench_kernels.py --op noise adam --lanes 1 8 --noise_fraction 0.9 0.99
    python profiling/bench_kernels.py --op hidden_linear hidden_csr_linear --impl native
    python profiling/bench_kernels.py --op linear csr_linear --sparsity 0 0.8 --compare HEAD~1
    python profiling/bench_kernels.py --device cuda --impl triton reference --lanes 1 8 64 256

Every combination of operation, implementation and sizes is a point (kernel_cases.py, layer_cases.py
and gpu_cases.py say what each computes); each is compared with its reference before it is timed.
The layers are measured at several sparsities unless --sparsity names others: where the call_us of
hidden_csr_linear falls below that of hidden_linear, csr becomes faster.

On a GPU calls are recorded as a CUDA graph and replayed, as an update is: what the host needs to
launch them is not in their time. They find their operands in the L2 cache if these fit. There,
`triton` and `reference-tf32` multiply in TF32, `triton-float32` and `reference` in float32.

* call_us: mean of a call in a round;
* done_gflop_s, useful_gflop_s: operations by that time, those that the layout multiplies and those
  of active connections, the noise that is drawn included in both;
* moved_gb_s: every operand counted once;
* peak_gflop_s, tf32_peak_gflop_s, peak_gb_s: a large product and copy, between the rounds
  (fastanf/peaks.py); the second on a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterator

import benchmark
import torch
from benchmark import Figures, Point, Round
from gpu_cases import GPU_OPERATIONS
from kernel_cases import OPERATIONS, TRITON, Operation, Sizes, has_native
from layer_cases import LAYER_OPERATIONS

import envs
from fastanf import kernels

CASES: dict[str, Operation] = OPERATIONS | LAYER_OPERATIONS | GPU_OPERATIONS
"""Everything that can be measured, by name."""
WARM_CALLS, CALLS_A_LOOK = 3, 4
GPU_CALLS = 20
"""Calls of one graph."""
GPU_PRODUCT_SIZE = 8192
"""Of the large product there: one of the usual size does not fill a GPU."""
DEVICES = ("cpu", "cuda")


class KernelBenchmark(benchmark.Benchmark):
    """Single operations."""

    name = "kernels"
    about = "How fast the operations of an update are, each alone."
    round_s = 0.2

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Operations, implementations and sizes; each takes several values."""
        add = parser.add_argument
        add("--op", nargs="+", choices=list(CASES), default=list(CASES), metavar="OP",
            help=f"operations, of {', '.join(CASES)} [default all]")  # fmt: skip
        add("--impl", nargs="+", choices=_IMPLS, default=list(_IMPLS), metavar="IMPL",
            help=f"implementations, of {', '.join(_IMPLS)} [default all]")  # fmt: skip
        add("--env", nargs="+", default=["HalfCheetah-v3"], metavar="ENV",
            help="tasks [default HalfCheetah-v3]")  # fmt: skip
        add("--noise_fraction", type=_share, nargs="+", metavar="X",
            help="shares of noise features [default 0.9; layers 0.9 0.99]")  # fmt: skip
        add("--sparsity", type=_share, nargs="+", metavar="X",
            help="of a layer [default 0.8; layers 0.8 0.95, hidden ones 0 0.3 0.4 0.5 0.7 0.8 0.9]"
            )  # fmt: skip
        add("--lanes", type=benchmark.positive_int, nargs="+", default=[1, 8], metavar="L",
            help="numbers of lanes [default 1 8]")  # fmt: skip
        add("--batch_size", type=benchmark.positive_int, nargs="+", default=[100], metavar="B",
            help="minibatch a lane [default 100]")  # fmt: skip
        add("--device", choices=DEVICES, default="cpu", help="where [default cpu]")

    def points(self, arguments: argparse.Namespace, rest: list[str]) -> list[Point]:
        """Every combination."""
        for env in arguments.env:
            envs.validate(env)
        self.device = arguments.device
        _check_device(arguments)
        points = [dict(point) for point in _points(arguments)]
        if not points:
            raise ValueError(
                f"--impl must be one that --op has, got {' '.join(arguments.impl)} for "
                f"{' '.join(arguments.op)}"
            )
        for point in points:
            _check_sizes(point)
        if any(point["impl"] == "native" for point in points) and not has_native():
            raise ValueError(
                "--impl native must be built: install a C++17 compiler and reinstall fastanf, or "
                "give --impl reference torch"
            )
        return points

    def prepare(self, point: Point) -> Round:
        """The operation after its check and some calls."""
        sizes = _sizes(point, self.device)
        if self.device == "cuda":
            kernels.use_precision("tf32" if sizes.is_tf32 else "float32")
        case = CASES[str(point["op"])].make(sizes)
        case.check()
        for _ in range(WARM_CALLS):
            case.call()
        call, calls_each = case.call, 1
        if self.device == "cuda":
            call, calls_each = _replayed(case.call), GPU_CALLS

        def measure(seconds: float) -> Figures:
            num_calls, start = 0, time.perf_counter()
            until = start + seconds
            while time.perf_counter() < until:
                for _ in range(CALLS_A_LOOK):
                    call()
                num_calls += CALLS_A_LOOK * calls_each
                if self.device == "cuda":
                    torch.cuda.synchronize()
            call_s = (time.perf_counter() - start) / num_calls
            figures = {"call_us": call_s * 1e6}
            if case.done_flops:
                figures["done_gflop_s"] = case.done_flops / call_s / 1e9
                figures["useful_gflop_s"] = case.useful_flops / call_s / 1e9
            if case.moved_bytes:
                figures["moved_gb_s"] = case.moved_bytes / call_s / 1e9
            return figures

        return measure

    def machine(self) -> Figures:
        """A large sgemm and a large copy."""
        from fastanf.peaks import MEMORY_COPY_BYTES, copy_gb_s, sgemm_gflop_s

        device = torch.device(self.device)
        figures = {"peak_gb_s": copy_gb_s(device, MEMORY_COPY_BYTES)}
        if device.type == "cpu":
            return {"peak_gflop_s": sgemm_gflop_s(device)} | figures
        for metric, precision in (("peak_gflop_s", "float32"), ("tf32_peak_gflop_s", "tf32")):
            kernels.use_precision(precision)
            figures[metric] = sgemm_gflop_s(device, GPU_PRODUCT_SIZE)
        return figures


def _replayed(call: Callable[[], object]) -> Callable[[], None]:
    """`GPU_CALLS` calls as one CUDA graph.

    Raises:
        ValueError: they cannot be recorded.
    """
    from fastanf.graphs import cuda_capture

    def calls() -> None:
        for _ in range(GPU_CALLS):
            call()

    try:
        return cuda_capture()(calls).replay
    except RuntimeError as error:
        raise ValueError(
            f"--impl must be one whose calls can be recorded as a CUDA graph: "
            f"{str(error).splitlines()[0]}"
        ) from None


def _check_device(arguments: argparse.Namespace) -> None:
    if arguments.device == "cpu":
        return
    if not torch.cuda.is_available():
        raise ValueError("--device cuda must be there: torch finds no CUDA device")
    if set(TRITON) & set(arguments.impl) and "cuda" not in kernels.TRITON:
        raise ValueError(
            "--impl triton must be installed: pip install triton, or give --impl reference"
        )


_IMPLS = tuple(
    dict.fromkeys(impl for case in CASES.values() for impl in (*case.impls, *case.gpu_impls))
)


def _points(arguments: argparse.Namespace) -> Iterator[Point]:
    names = ("env", "noise_fraction", "sparsity", "lanes", "batch_size")
    for op in dict.fromkeys(arguments.op):
        case, asked = CASES[op], vars(arguments)
        values = {name: asked[name] for name in names}
        values["sparsity"] = asked["sparsity"] or case.sparsities
        if asked["noise_fraction"] is None or not case.has_features:
            values["noise_fraction"] = case.noise_fractions
        for sizes in itertools.product(*(dict.fromkeys(of_name) for of_name in values.values())):
            for impl in case.impls if arguments.device == "cpu" else case.gpu_impls:
                if impl in arguments.impl:
                    yield {"impl": impl, "op": op, **dict(zip(names, sizes, strict=True))}


def _sizes(point: Point, device: str) -> Sizes:
    sizes = {name: value for name, value in point.items() if name != "op"}
    return Sizes(**sizes, device=device)  # type: ignore


def _check_sizes(point: Point) -> None:
    if "noise" in str(point["op"]) and point["noise_fraction"] == 0:
        raise ValueError(f"--noise_fraction must be above 0 for --op {point['op']}, got 0")
    if point["op"] in ("evolve", "masked_evolve") and point["sparsity"] == 0:
        raise ValueError(f"--sparsity must be above 0 for --op {point['op']}, got 0")


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be a number in [0, 1), got {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(benchmark.main(KernelBenchmark()))
