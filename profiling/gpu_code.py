"""What the kernels of one update compile to for a GPU, and what that GPU could do at most.

    python profiling/gpu_code.py --arch 90 --env HalfCheetah-v3 --fake_features 0.9 --lanes 64

Takes train.py's flags. No GPU is needed: every kernel that an update launches, and a change of the
topology, is compiled and disassembled. Prints a line for each variant of a kernel, the launches of
an update, and for several numbers of lanes the time that an NVIDIA H200 needs at least.

**These are bounds, not measurements.** What a kernel takes is for bench_kernels.py to say.

Axes: L lanes, J outputs of a lane, B minibatch.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, lcm
from typing import TYPE_CHECKING, Any, NamedTuple

import benchmark
import blocks
import result_rows
import stand_in
import torch
from gpu_bounds import H200, Bound, Demand, Recorded, bound_of, demand_of
from torch.utils._python_dispatch import TorchDispatchMode

from fastanf import kernels
from fastanf.algorithms.actor_critic import UpdateKind
from fastanf.block import TrainingBlock
from fastanf.cli import complain
from fastanf.graphs import Graphs
from fastanf.learner import Learner
from fastanf.sparse.schedule import FIRST_UPDATE

if TYPE_CHECKING:
    from fastanf.kernels.gpu.compilation import Code, Launch

TOPOLOGY = "topology"
"""Where a kernel belongs that changes the topology; others belong to an update."""
BOUND_LANES = (1, 8, 64, 256)
_SMALL_REPLAY = 512
_VIEWS = ("aten::_unsafe_view", "aten::_reshape_alias")
_ALLOCATIONS = ("aten::empty", "aten::new_empty")


class Multiprocessor(NamedTuple):
    """Limits of one multiprocessor.

    Source: CUDA C++ Programming Guide, technical specifications per compute capability.
    """

    shared_kib: int
    threads: int
    blocks: int
    registers: int = 65536


MULTIPROCESSORS = {
    80: Multiprocessor(164, 2048, 32),
    86: Multiprocessor(100, 1536, 16),
    89: Multiprocessor(100, 1536, 24),
    90: Multiprocessor(228, 2048, 32),
}
"""By compute capability."""
_BLOCK_SHARED_BYTES = 1024  # what the system takes of each block's shared memory
_REGISTER_UNIT, _WARP = 256, 32  # registers are given to a warp in such units


@dataclass(frozen=True)
class Variant:
    """One compiled form of a kernel, and where it is launched."""

    kernel: str
    part: str
    """update or topology."""
    launches: float
    """In one update on average, or in one change of the topology of all lanes."""
    grids: tuple[str, ...]
    registers: int
    spills: int
    shared_kib: float
    warps: int
    blocks_per_multiprocessor: int
    limited_by: str
    hgmma: int
    hmma: int
    ffma: int
    loads: str


@dataclass(frozen=True)
class Report:
    """Everything about one block's kernels."""

    sizes: Mapping[str, Any]
    architecture: int
    variants: list[Variant]
    kernels_per_update: float
    operators_per_update: float
    operators: dict[str, float]
    """Operators of torch that launch something, per update."""
    topology_kernels: int
    topology_operators: int
    demand: Demand
    bounds: list[Bound]


class _Operators(TorchDispatchMode):
    """Counts the operators of torch that launch something on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        is_view = name in _VIEWS or any(
            result.alias_info is not None and not result.alias_info.is_write
            for result in func._schema.returns
        )
        if not is_view and not name.startswith(_ALLOCATIONS):
            self.names[name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


class _Captured:
    """A graph of which only is known what it launches."""

    def replay(self) -> None:
        """Nothing: nothing runs here."""


def main(argv: Sequence[str] | None = None) -> int:
    """Compile what the arguments describe and report it.

    Args:
        argv: arguments without the program's name; None for the process's own.

    Returns:
        The exit code.

    Raises:
        SystemExit: code 2 after one line on stderr for anything that is wrong.
    """
    try:
        own, train_flags = _parser().parse_known_args(argv)
        if own.arch not in MULTIPROCESSORS:
            known = ", ".join(map(str, MULTIPROCESSORS))
            raise ValueError(f"--arch must be one of {known}, got {own.arch}")
        report = make_report(own.arch, own.lanes, train_flags)
        print(json.dumps(as_json(report)) if own.json else as_text(report))
    except ValueError as error:
        complain(str(error))
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = benchmark.ArgumentParser(
        description="What the kernels of an update compile to, and a GPU's bounds. Takes "
        "train.py's flags too.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--arch", type=benchmark.positive_int, default=90, metavar="CC",
        help=f"compute capability, of {', '.join(map(str, MULTIPROCESSORS))} [default 90, Hopper]"
        )  # fmt: skip
    add("--lanes", type=benchmark.positive_int, default=64, metavar="L",
        help="lanes; their networks are built in the host's memory [default 64]")  # fmt: skip
    add("--json", action="store_true", help="print one JSON object")
    return parser


def make_report(architecture: int, num_lanes: int, train_flags: Sequence[str]) -> Report:
    """Compile the kernels of an update.

    Raises:
        ValueError: in one line, what is missing or cannot be.
    """
    start, code_of = _compiler(architecture)
    described = blocks.parse_lanes([*train_flags, "--device", "cpu"], num_lanes)
    lanes = [
        lane.replace(backend=stand_in.NAME, replay_capacity=_SMALL_REPLAY, layout="masked")
        for lane in blocks.deal(described.by_policy, num_lanes)
    ]
    # In plain torch, which every machine has: compiled kernels would leave the weights as found.
    kernels.use("reference")
    block = blocks.make_block(lanes, torch.device("cpu"))
    try:
        assert block.algorithm.is_capturable, "masked layers ask the host for nothing"
        launches = start()
        updates = _updates(block, launches)
        topology = _recorded(lambda: _evolve(block), launches)
    finally:
        block.close()
    sizes = blocks.block_sizes(lanes, torch.device("cuda"))
    shares = [(1 / len(updates), recorded) for recorded in updates]
    names: Counter[str] = Counter()
    for share, recorded in shares:
        for name, count in recorded.operators.items():
            names[name] += share * count  # pyright: ignore[reportArgumentType]
    demand = demand_of(shares, block)
    return Report(
        sizes,
        architecture,
        _variants("update", shares, architecture, code_of)
        + _variants(TOPOLOGY, [(1.0, topology)], architecture, code_of),
        sum(share * len(recorded.launches) for share, recorded in shares),
        sum(names.values()),
        dict(names.most_common()),
        len(topology.launches),
        sum(topology.operators.values()),
        demand,
        [bound_of(count, demand, shares, num_lanes, block) for count in BOUND_LANES],
    )


def _compiler(architecture: int) -> tuple[Callable[[], list[Launch]], Callable[[Any], Code]]:
    os.environ.pop("TRITON_INTERPRET", None)  # to be said before Triton is loaded
    try:
        from fastanf.kernels.gpu import compilation
    except ImportError as error:
        raise ValueError(f"Triton is needed to compile the kernels: {error}") from None
    missing = compilation.missing_tools()
    if missing:
        raise ValueError(f"Triton's package must have {', '.join(missing)}; this one has not")
    return lambda: compilation.compile_only(architecture), compilation.code_of


def _updates(block: TrainingBlock, launches: list[Launch]) -> list[Recorded]:
    """What the updates of one whole cycle of kinds launch, each as its graph would be recorded."""
    algorithm, old = block.algorithm, block.learner
    for optimizer in (algorithm.actor_optimizer, algorithm.critic_optimizer):
        # As on a GPU: counted where the weights are.
        optimizer.num_steps = torch.zeros((), dtype=torch.int64)
    of_kind: list[Recorded] = []

    def capture(program: Callable[[], None]) -> _Captured:
        of_kind.append(_recorded(program, launches))
        return _Captured()

    graphs = Graphs(lambda: capture)
    learner = Learner(algorithm, old.replay, old.rng, old.batch_size, graphs)
    periods = [algorithm.settings.policy_delay, *algorithm.settings.target_period]
    kinds = [algorithm.kind_of(update) for update in range(1, lcm(*periods) + 1)]
    by_kind: dict[UpdateKind, Recorded] = {}
    while len(by_kind) < len(set(kinds)):
        before = len(of_kind)
        learner.update_()
        if len(of_kind) > before:
            by_kind[algorithm.kind_of(learner.num_updates)] = of_kind[-1]
    return [by_kind[kind] for kind in kinds]


def _evolve(block: TrainingBlock) -> None:
    for topology in block.algorithm.topologies:
        topology.evolve_if_due_(FIRST_UPDATE)


def _recorded(program: Callable[[], None], launches: list[Launch]) -> Recorded:
    launches.clear()
    with _Operators() as operators:
        program()
    return Recorded(list(launches), operators.names)


def _variants(
    part: str,
    shares: Sequence[tuple[float, Recorded]],
    architecture: int,
    code_of: Callable[[Any], Code],
) -> list[Variant]:
    counts: Counter[str] = Counter()
    grids: dict[str, dict[str, None]] = {}
    launched: dict[str, Launch] = {}
    for share, recorded in shares:
        for launch in recorded.launches:
            key = launch.compiled.hash
            counts[key] += share  # pyright: ignore[reportArgumentType]
            grids.setdefault(key, {})["x".join(map(str, launch.grid))] = None
            launched.setdefault(key, launch)
    variants = []
    for key, launch in launched.items():
        code = code_of(launch.compiled)
        per_multiprocessor, limit = occupancy(code, MULTIPROCESSORS[architecture])
        count = code.instructions.get
        loads = " ".join(f"{bits}:{n}" for bits, n in sorted(code.load_bits.items()))
        variants.append(
            Variant(
                launch.name.removeprefix("_"), part, float(counts[key]), tuple(grids[key]),
                code.registers, code.spills, code.shared_bytes / 1024, code.num_warps,
                per_multiprocessor, limit, count("HGMMA", 0), count("HMMA", 0), count("FFMA", 0),
                loads,
            )
        )  # fmt: skip
    return variants


def occupancy(code: Code, limits: Multiprocessor) -> tuple[int, str]:
    """Blocks of a kernel that fit a multiprocessor at once, and what allows no more."""
    per_warp = ceil(code.registers * _WARP / _REGISTER_UNIT) * _REGISTER_UNIT
    allowed = {
        "registers": limits.registers // (per_warp * code.num_warps),
        "shared memory": limits.shared_kib * 1024 // (code.shared_bytes + _BLOCK_SHARED_BYTES),
        "threads": limits.threads // (_WARP * code.num_warps),
        "blocks": limits.blocks,
    }
    limit = min(allowed, key=lambda name: allowed[name])
    return allowed[limit], limit


def as_json(report: Report) -> dict[str, Any]:
    """One object."""
    bounds = [
        asdict(bound) | {"bound_ms": bound.bound_ms, "uncached_ms": bound.uncached_ms}
        for bound in report.bounds
    ]
    return asdict(report) | {"bounds": bounds, "roofs": H200._asdict()}


def as_text(report: Report) -> str:
    """Tables and the sentences that say what they are."""
    header = [
        "kernel", "of", "launches", "grid", "registers", "spills", "shared KiB", "warps",
        "blocks/SM", "by", "HGMMA", "HMMA", "FFMA", "loads bits:number",
    ]  # fmt: skip
    rows = [
        [
            v.kernel, v.part, f"{v.launches:g}", " ".join(v.grids), str(v.registers),
            str(v.spills), f"{v.shared_kib:.1f}", str(v.warps), str(v.blocks_per_multiprocessor),
            v.limited_by, str(v.hgmma), str(v.hmma), str(v.ffma), v.loads,
        ]
        for v in report.variants
    ]  # fmt: skip
    sizes = ", ".join(f"{k} {v}" for k, v in report.sizes.items() if k != "impl" and v != "")
    demand = report.demand
    bounds = [
        [
            str(b.lanes), f"{b.tf32_ms:.4f}", f"{b.float32_ms:.4f}", f"{b.in_turn_ms:.4f}",
            f"{b.touched_ms:.4f}", f"{b.bytes_ms:.4f}", f"{b.bound_ms:.4f}",
            f"{b.lanes / b.bound_ms * 1e3:,.0f}", f"{b.lanes / b.uncached_ms * 1e3:,.0f}",
        ]
        for b in report.bounds
    ]  # fmt: skip
    operators = ", ".join(f"{name} {count:g}" for name, count in report.operators.items())
    return "\n".join(
        [
            f"sm_{report.architecture}: {sizes}",
            "",
            result_rows.text_table(header, rows),
            "",
            f"An update: {report.kernels_per_update:g} kernels of Triton and "
            f"{report.operators_per_update:g} operators of torch ({operators}). A change of the "
            f"topology: {report.topology_kernels} and {report.topology_operators}.",
            f"One lane's update: {demand.tf32_flops / 1e6:.1f} million operations that may be "
            f"TF32, {demand.float32_flops / 1e6:.1f} million in float32, each noise value drawn "
            f"{demand.noise_draws:g} times; {demand.moved_bytes / 1e6:.2f} MB.",
            "",
            f"Bounds on an {H200.name}, not measurements, ms an update of all lanes: nothing is "
            "faster, how much slower is not said.",
            result_rows.text_table(
                ["lanes", "TF32", "float32", "products in turn", "touched once", "all bytes",
                 "at least", "lane updates/s at most", "and uncached"],
                bounds,
            ),
            "Products in turn: each on as many multiprocessors as it has blocks. Touched once: "
            "weights, moments and activations, less the L2 cache. All bytes: of each operation "
            "alone, as if the L2 cache kept nothing in between. Launches and all that is no "
            "product, noise apart, count as free.",
            f"Sources: {H200.sources}",
        ]
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
