"""The memory that a block needs, and what is free."""

import dataclasses
from typing import Any

import pytest
from torch import Tensor

from fastanf import kernels, memory
from fastanf.checkpoint import SPAN_BYTES
from fastanf.grouping import block_of, make_blocks
from fastanf.memory import block_memory
from fastanf.presets import expand
from fastanf.replay import replay_bytes
from fastanf.sparse.layers import CsrLinear, StackedLinear
from fastanf.state_bytes import spread_bytes, state_bytes
from tests.helpers import make_block, make_lane


def test_memory_grows_with_lanes_and_replay() -> None:
    one, four = (make_blocks(expand(["ANF-SAC"], num_seeds=n).lanes)[0] for n in (1, 4))
    for name in ("replay", "weights", "moments", "work", "building"):
        assert getattr(block_memory(four), name) == 4 * getattr(block_memory(one), name)
    rows = 1 + one.config.schedule.eval_episodes
    assert block_memory(four).host - block_memory(one).host == 3 * rows * memory._ROW_BYTES
    assert block_memory(four).addresses - block_memory(one).addresses == 3 * rows * (
        memory._ROW_ADDRESSES - memory._ROW_BYTES
    )
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


def test_what_comes_and_goes_counts_at_its_greatest() -> None:
    """On the host a checkpoint is read, too; what the first layers left is in pieces."""
    (block,) = make_blocks(expand(["ANF-SAC"], overrides={"noise_fraction": 0.95}).lanes)
    near = block_memory(block, 1000)
    standing = near.replay + near.weights + near.moments
    assert near.is_on_host
    assert near.reading > near.recording > near.work
    assert near.total == standing + near.building + near.reading + near.host
    assert near.passing == near.total - standing - near.work - near.host
    far = dataclasses.replace(near, is_on_host=False)
    assert far.total == standing + far.building + far.recording
    assert far.host_total == far.host + max(far.reading, SPAN_BYTES)


def test_checkpoints_write_out_what_csr_layers_leave_out() -> None:
    values = {"noise_fraction": 0.95, "input_layer_sparsity": 0.98}
    csr, masked = (
        block_of(expand(["ANF-SAC"], overrides={**values, "layout": layout}).lanes)
        for layout in ("csr", "masked")
    )
    assert block_memory(csr, 1000).weights < block_memory(masked, 1000).weights / 2
    assert spread_bytes(masked) == 0
    # Weights, two moments and a mask of 17 / 0.05 = 340 features; targets of the critics' alone.
    assert spread_bytes(csr) == 256 * (340 * (3 * 4 + 1) + 2 * 346 * (4 * 4 + 1))
    assert block_memory(csr, 1000).recording >= spread_bytes(csr)
    assert block_memory(csr, 1000).reading == 2 * state_bytes(csr) + spread_bytes(csr)


STATES: list[dict[str, Any]] = [
    {},
    {"layout": "csr"},
    {"policy": "TowS-TD3", "activation": "srelu", "activation_per_neuron": True},
    {"policy": "SAC", "optimizer": "SGD", "normalize_observations": True, "layer_norm": True},
    {"policy": "ANF-TD3", "topology": "rigl", "input_gate": True, "permute_period": 100},
]


@pytest.mark.parametrize("settings", STATES, ids=lambda settings: "-".join(settings) or "default")
def test_no_checkpoint_is_larger_than_it_is_counted_for(settings: dict[str, Any]) -> None:
    own = {"policy": "ANF-SAC", "env": "Humanoid-v0", "hidden": (128, 96), "eval_freq": 200}
    own |= settings
    policy = own.pop("policy")
    lanes = [make_lane(policy, seed, **own) for seed in (0, 1)]
    block = make_block(lanes, 30)
    for _ in range(5):
        block.learner.update_()
    for is_finished in (False, True):
        state = block.state_dict(is_finished)
        held = sum(tensor.nbytes for tensor in state.values())
        counted = state_bytes(block_of(lanes), is_finished)
        # The rest are orders and episodes that are still to come, and room for names.
        orders = 2 * 8 * (block.features.num_features + 1) * 9 * bool(own.get("permute_period"))
        episodes = 2 * (1 + 1) * (9 * 17 * 4 + 8 * 40)
        assert held <= counted <= held + orders + episodes + 72 * 1024


def test_the_host_is_asked_for_a_device_that_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "host_free_bytes", lambda: 700)
    monkeypatch.setattr(memory, "address_space_free", lambda: 900)
    assert memory.available_bytes("cpu") == 700
    assert (memory.host_beside("cpu"), memory.addresses_left("cpu")) == (None, 900)
    assert (memory.host_beside("cuda:1"), memory.addresses_left("cuda:1")) == (700, None)


def test_a_capacity_that_fits_is_one_that_is_allowed() -> None:
    """Two digits of it, but not less than a minibatch; the greatest was seen not to fit."""
    blocks = make_blocks(expand(["SAC"], overrides={"batch_size": 105}).lanes)
    found = [memory.largest_capacity(blocks, lambda n, most=most: n <= most) for most in
             (104, 105, 109, 1234, 99_999)]  # fmt: skip
    assert found == [0, 105, 105, 1200, 99_000]
