"""What a GPU needs at least for an update, from what the update launches.

Operations are counted from the launches of the layers' kernels, bytes by fastanf/workload.py, and
both are held against a device's peaks. **Bounds, not measurements.**

Axes: L lanes, J outputs of a lane, B minibatch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from fastanf.block import TrainingBlock
from fastanf.grouping import block_of
from fastanf.memory import block_memory
from fastanf.workload import NORMAL_FLOPS, total, update_work

if TYPE_CHECKING:
    from fastanf.kernels.gpu.compilation import Launch


class Roofs(NamedTuple):
    """The most that a device can do."""

    name: str
    tf32_flop_s: float
    """Dense products on the tensor cores."""
    float32_flop_s: float
    copy_bytes_s: float
    num_multiprocessors: int
    l2_bytes: int
    sources: str


H200 = Roofs(
    "NVIDIA H200 SXM", 495e12, 67e12, 4.3e12, 132, 50_000_000,
    "67 TFLOP/s float32 and 989 TFLOP/s TF32 with sparsity, half of that dense: NVIDIA H200 "
    "datasheet. 132 multiprocessors, 50 MB L2: NVIDIA H100 architecture whitepaper, the same chip. "
    "4.3 TB/s: taken for what a large copy reaches of the datasheet's 4.8 TB/s; "
    "fastanf/peaks.py measures it on the machine at hand.",
)  # fmt: skip


@dataclass(frozen=True)
class Demand:
    """What one lane's update asks of the device, counted from the launches."""

    tf32_flops: float
    """Products that may round their factors to TF32."""
    float32_flops: float
    """Exact products, and noise as often as it is drawn."""
    moved_bytes: float
    """Every operand once (fastanf/workload.py)."""
    noise_draws: float
    """How often each noise value is drawn in an update."""


@dataclass(frozen=True)
class Bound:
    """Milliseconds of one update of some lanes."""

    lanes: int
    tf32_ms: float
    float32_ms: float
    in_turn_ms: float
    """The products one after the other, each on as many multiprocessors as it has blocks."""
    touched_ms: float
    """What an update touches, once, less what fits the L2 cache."""
    bytes_ms: float
    """The bytes of each operation alone, as if nothing stayed in the L2 cache in between."""

    @property
    def bound_ms(self) -> float:
        """What the update takes at least."""
        return max(self.tf32_ms, self.float32_ms, self.in_turn_ms, self.touched_ms)

    @property
    def uncached_ms(self) -> float:
        """What it takes at least if nothing stays in the L2 cache."""
        return max(self.bound_ms, self.bytes_ms)


class Recorded(NamedTuple):
    """What one run of a program launches."""

    launches: list[Launch]
    operators: Counter[str]


class Product(NamedTuple):
    """What a launch of a layer's kernel multiplies."""

    flops: float
    noise_flops: float
    is_tf32: bool
    num_blocks: int


def product_of(launch: Launch) -> Product | None:
    """Operations of a launch, or None where it is no product."""
    if launch.name not in ("_forward", "_weight_grad", "_input_grad"):
        return None
    arguments, blocks_of = launch.arguments, launch.grid
    if "num_units" not in arguments:  # another kernel of the name
        return None
    B, matrices = arguments["num_units"] * arguments["UNIT"], blocks_of[2]
    is_tf32 = arguments["PRECISION"] == "tf32"
    if launch.name == "_input_grad":
        flops = 2.0 * matrices * B * arguments["O"] * arguments["num_inputs"]
        return Product(flops, 0.0, is_tf32, prod(blocks_of))
    flops = 2.0 * matrices * B * arguments["J"] * arguments["I"]
    # Every program that multiplies noise draws its own: once for each tile of outputs.
    drawn = matrices * B * arguments["N"] * blocks_of[0]
    return Product(flops, float(NORMAL_FLOPS * drawn), is_tf32, prod(blocks_of))


def demand_of(shares: Sequence[tuple[float, Recorded]], block: TrainingBlock) -> Demand:
    """Of one lane."""
    L = len(block.lanes)
    tf32 = exact = noise = 0.0
    for share, recorded in shares:
        for launch in recorded.launches:
            product = product_of(launch)
            if product is not None:
                tf32 += share * product.flops * product.is_tf32
                exact += share * product.flops * (not product.is_tf32)
                noise += share * product.noise_flops
    moved = total(update_work(block.lanes, block.env.spec, "cuda")).moved_bytes
    values = block.config.algorithm.batch_size * (
        block.features.num_features - block.features.num_real
    )
    draws = noise / NORMAL_FLOPS / L / values if values else 0.0
    return Demand(tf32 / L, (exact + noise) / L, moved / L, draws)


def bound_of(
    num_lanes: int,
    demand: Demand,
    shares: Sequence[tuple[float, Recorded]],
    num_built: int,
    block: TrainingBlock,
) -> Bound:
    factor = num_lanes / num_built
    in_turn = 0.0
    for share, recorded in shares:
        for launch in recorded.launches:
            product = product_of(launch)
            if product is not None:
                # Blocks and operations are as many times more as there are lanes.
                filled = min(1.0, product.num_blocks * factor / H200.num_multiprocessors)
                peak = H200.tf32_flop_s if product.is_tf32 else H200.float32_flop_s
                seconds = product.flops / peak + product.noise_flops / H200.float32_flop_s
                in_turn += share * seconds * factor / filled
    touched = block_memory(block_of(block.lanes, "cuda")).working_set * factor
    return Bound(
        num_lanes,
        demand.tf32_flops * num_lanes / H200.tf32_flop_s * 1e3,
        demand.float32_flops * num_lanes / H200.float32_flop_s * 1e3,
        in_turn * 1e3,
        max(0.0, touched - H200.l2_bytes) / H200.copy_bytes_s * 1e3,
        demand.moved_bytes * num_lanes / H200.copy_bytes_s * 1e3,
    )
