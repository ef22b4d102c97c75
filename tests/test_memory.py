"""The memory that a block needs, and what is free."""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from fastanf import kernels, memory
from fastanf.grouping import block_of, make_blocks
from fastanf.memory import block_memory
from fastanf.presets import expand
from fastanf.replay import replay_bytes
from fastanf.sparse.layers import CsrLinear, StackedLinear
from tests.helpers import make_block, make_lane


def test_memory_grows_with_lanes_and_replay() -> None:
    one, four = (make_blocks(expand(["ANF-SAC"], num_seeds=n).lanes)[0] for n in (1, 4))
    assert block_memory(four).total == 4 * block_memory(one).total
    assert block_memory(one).replay == replay_bytes(1_000_000, 17, 6, 1)
    assert block_memory(one, 1000).replay == replay_bytes(1000, 17, 6, 1)
    assert block_memory(one, 1000).weights == block_memory(one).weights


def bytes_of(tensors: list[Tensor]) -> int:
    """Of all memory that these tensors stand on, each piece once."""
    pieces = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(pieces.values())


def where(layer: StackedLinear) -> list[Tensor]:
    """The tensors that say where a layer's connections are, but for what is made when a layer is
    written out (a checkpoint).
    """
    if not isinstance(layer, CsrLinear):
        mask = layer.connection_mask()
        return [] if mask is None else [mask]
    at, turned = layer.at, vars(layer.at).get("transposed")
    held = [at.start, at.column, at.counts]
    return [*held, turned[0].start, turned[0].column, turned[1]] if turned else held


NEEDS_NATIVE = pytest.mark.skipif(
    kernels.NATIVE is None, reason="kernels are not compiled; plain torch turns no connections"
)
SMALL_PARTS = 1e-3
"""Share of an estimate that the counts of connections, a number a layer, may take."""


@pytest.mark.parametrize("layout", ["masked", pytest.param("csr", marks=NEEDS_NATIVE)])
@pytest.mark.parametrize("policies", [["ANF-SAC"], ["TowS-TD3"], ["Static-SAC", "ANF-SAC"]])
def test_the_estimate_is_what_a_block_holds_after_some_updates(
    policies: list[str], layout: str
) -> None:
    """Two lanes of the same policy, or two with other numbers of connections (ragged)."""
    own: list[dict[str, Any]] = [{}, {}]
    if len(policies) == 2:
        own = [{"input_layer_sparsity": 0.5}, {"input_layer_sparsity": 0.8}]
    settings: dict[str, Any] = {
        "env": "Humanoid-v0", "noise_fraction": 0.6, "hidden": (128, 96), "layout": layout,
        "topology_period": 4,
    }  # fmt: skip
    lanes = [
        make_lane((policies * 2)[i], i, **settings, **own[i]).replace(max_timesteps=1000)
        for i in range(2)
    ]
    block = make_block(lanes, 30)
    for _ in range(5):
        block.learner.update_()
    algorithm = block.algorithm
    networks = list(algorithm.networks().values())
    tensors = [parameter.tensor for network in networks for parameter in network.parameters()]
    tensors += [
        tensor for network in networks for layer in network.layers for tensor in where(layer)
    ]
    optimizers = (algorithm.actor_optimizer, algorithm.critic_optimizer)
    gradients = sum(4 * tensor.numel() for o in optimizers for tensor in o.tensors())
    moments = bytes_of([m for o in optimizers for m in (*o.exp_avg, *o.exp_avg_sq)])
    estimate = block_memory(block_of(lanes))
    assert estimate.weights == pytest.approx(bytes_of(tensors), rel=SMALL_PARTS)
    assert estimate.moments == gradients + moments


def test_a_ragged_block_has_room_for_the_lane_with_most_connections() -> None:
    def sized(*sparsities: float, layout: str = "csr") -> memory.BlockMemory:
        lanes = expand(
            ["ANF-SAC"], {"input_layer_sparsity": list(sparsities)}, overrides={"layout": layout}
        ).lanes
        return block_memory(block_of(lanes))

    assert sized(0.7, 0.9) == sized(0.9, 0.7) == sized(0.7, 0.75)
    assert (
        sized(0.9, 0.95).moments
        < sized(0.7, 0.9).moments
        < sized(0.7, 0.9, layout="masked").moments
    )


def test_an_actor_needs_no_turned_connections_of_its_input() -> None:
    """Both networks have the same first layer but for the actions; the critics' are turned too."""
    lanes = expand(["ANF-SAC"], overrides={"layout": "csr", "noise_fraction": 0.9}).lanes
    (block,) = make_blocks(lanes)
    actor, critic = memory._stored_layers(block)
    counts = [network.active_counts[0] for network in block.networks[0]]
    # Starts: 256 outputs over two blocks of inputs; turned, each input over three of outputs.
    assert actor[0].connection_bytes == 4 * (counts[0] + 2 * 256 + 1)
    turned = 2 * counts[1] + 3 * 176 + 1
    assert critic[0].connection_bytes == 4 * (counts[1] + 2 * 256 + 1 + turned)
    assert [layer.connection_bytes for layer in (*actor[1:], *critic[1:])] == [0] * 4


def test_a_dense_layer_has_no_mask() -> None:
    dense, sparse = (make_blocks(expand([policy]).lanes)[0] for policy in ("SAC", "TowS-SAC"))
    for block in (dense, sparse):
        assert all(layer.connection_bytes == 0 for layer in memory._stored_layers(block)[1][2:])
    assert all(layer.connection_bytes == 0 for layer in memory._stored_layers(dense)[0])
    masked = block_of([lane.replace(layout="masked") for lane in sparse.lanes])
    assert memory._stored_layers(masked)[0][0].connection_bytes == 17 * 256


def test_memory_limits_of_all_control_groups_above_count(tmp_path: Path) -> None:
    def group(path: str, limit: str, used: int, cache: int = 0) -> None:
        folder = tmp_path / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\n")

    group("outer", "1000", 400, cache=100)
    group("outer/inner", "max", 300)
    free = memory._control_group_free(tmp_path, "/outer/inner")
    assert free == [700]
    group("outer/inner", "500", 300)
    assert sorted(memory._control_group_free(tmp_path, "/outer/inner")) == [200, 700]
    assert memory._control_group_free(tmp_path, "/elsewhere") == []


def test_memory_of_this_machine_is_positive() -> None:
    assert memory.available_bytes("cpu") > 0
