"""Learners on csr layers: the same training as on masked ones, lane by lane and bit by bit.

Axes: L lanes, G = L lanes or L * C lanes x critics. Blocks learn from random steps alone, so that
both layouts see the same minibatches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastanf import kernels
from fastanf.block import TrainingBlock
from fastanf.config import TrainConfig
from fastanf.kernels.layer_input import LayerInput
from fastanf.sparse.layers import CsrLinear, StackedLinear
from tests.helpers import (
    copy_block,
    lane_state,
    make_block,
    make_lane,
    saved,
    to_float64_,
    unequal_names,
)

# The papers' settings are followed for long, others over a few changes of the connections.
NUM_UPDATES = {"ANF": 200, "TowS": 200}
FEW_UPDATES = 40
NUM_RANDOM = 40  # random steps that fill the replay
PERIOD = 10  # updates between two changes of the connections
# Both layouts in float64: they differ by rounding of 2^-53, amplified by 200 steps of Adam.
FLOAT64_TOLERANCE = 1e-9
# In float32 a step of Adam is lr * g / |g| also where g is little more than rounding, so a weight
# may be off by a part of lr = 1e-3. With these seeds no unit comes to life by a rounding.
FLOAT32_TOLERANCE = 2e-4

SHARED = {
    "env": "Cheetah-v0", "noise_fraction": 0.7, "hidden": (21, 13), "batch_size": 12,
    "topology_period": PERIOD,
}  # fmt: skip
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "ANF": ("ANF-{}", {}),
    "TowS": ("TowS-{}", {"global_sparsity": 0.7, "activation": "leakyrelu"}),
    "xavier": ("ANF-{}", {"new_weights": "xavier", "drop_fraction": 0.3}),
    "unif": ("TowS-{}", {"new_weights": "unif", "sparse_output_layer": True, "drop_fraction": 0.3}),
    "hard targets": ("ANF-{}", {"target_period": 7, "tau": 1.0, "noise_redraw": "per_step"}),
    "SGD": ("ANF-{}", {"optimizer": "SGD", "learning_rate": 1e-2}),
    "learnable activation": (
        "TowS-{}",
        {"activation": "srelu", "activation_per_neuron": True, "global_sparsity": 0.7},
    ),
}
RAGGED = (0.8, 0.55, 0.95)
"""Sparsities of the input layer of three lanes that share a block."""


@pytest.fixture
def keeps_num_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def lanes_of(algorithm: str, setting: str, layout: str, **more: Any) -> list[TrainConfig]:
    """Two lanes of different seeds, and for SAC of fixed and of tuned temperature."""
    policy, own = SETTINGS[setting]
    values = {**SHARED, **own, **more, "layout": layout}
    lanes = [make_lane(policy.format(algorithm), seed, **values) for seed in (13, 21)]
    if algorithm == "SAC":
        lanes[1] = lanes[1].replace(automatic_temperature=True)
    return lanes


def ragged_lanes(algorithm: str, layout: str, **more: Any) -> list[TrainConfig]:
    """Three lanes with different numbers of connections, one of them static."""
    values = {**SHARED, **more, "layout": layout}
    policies = ("ANF", "Static", "ANF")
    return [
        make_lane(f"{policy}-{algorithm}", 5 + i, input_layer_sparsity=sparsity, **values)
        for i, (policy, sparsity) in enumerate(zip(policies, RAGGED, strict=True))
    ]


def csr_layers(block: TrainingBlock) -> list[tuple[str, CsrLinear]]:
    """The csr layers of every network, targets too, by name."""
    return [
        (f"{name}.{index}", layer)
        for name, network in block.algorithm.networks().items()
        for index, layer in enumerate(network.layers)
        if isinstance(layer, CsrLinear)
    ]


def updates(block: TrainingBlock, num: int) -> TrainingBlock:
    for _ in range(num):
        block.learner.update_()
    return block


def trained(lanes: list[TrainConfig], num_updates: int) -> TrainingBlock:
    return updates(make_block(lanes, NUM_RANDOM), num_updates)


def connections(block: TrainingBlock) -> dict[str, Tensor]:
    """The masks of all sparse layers."""
    return {k: v.clone() for k, v in block.learner.state_dict().items() if k.endswith(".mask")}


def assert_close(one: Mapping[str, Tensor], other: Mapping[str, Tensor], tolerance: float) -> None:
    """Equal masks and counters; weights and moments within the tolerance, absolute and relative."""
    assert one.keys() == other.keys()
    torch.testing.assert_close(dict(one), dict(other), rtol=tolerance, atol=tolerance)


def changes(block: TrainingBlock, before: Mapping[str, Tensor]) -> list[str]:
    """Names of the layers whose connections are others than before."""
    return [
        name for name, mask in connections(block).items() if not torch.equal(mask, before[name])
    ]


def widen_(block: TrainingBlock) -> TrainingBlock:
    """Let a block's learner compute in float64, from the same random numbers."""
    draw = block.features.draw
    to_float64_(block)

    def wide(*args: Any, **kwargs: Any) -> LayerInput:
        return LayerInput(draw(*args, **kwargs).written_out.double())

    block.features.draw = wide
    return block


# --- the two layouts ------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_both_layouts_train_the_same_in_float64(algorithm: str, setting: str) -> None:
    """The definitions in plain torch compute: the compiled kernels know float32 only."""
    masked, csr = (
        widen_(make_block(lanes_of(algorithm, setting, layout), NUM_RANDOM))
        for layout in ("masked", "csr")
    )
    assert len(csr_layers(csr)) >= 3 and not csr_layers(masked)
    before = connections(csr)
    for _ in range(NUM_UPDATES.get(setting, FEW_UPDATES) // PERIOD):
        assert_close(
            updates(csr, PERIOD).learner.state_dict(),
            updates(masked, PERIOD).learner.state_dict(),
            FLOAT64_TOLERANCE,
        )
    assert csr.learner.state_dict()["actor.0.weight"].dtype == torch.float64
    assert changes(csr, before) == list(before)
    for one, other in zip(csr.algorithm.losses, masked.algorithm.losses, strict=True):
        torch.testing.assert_close(
            one, other, rtol=FLOAT64_TOLERANCE, atol=FLOAT64_TOLERANCE, equal_nan=True
        )


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_both_layouts_train_the_same_up_to_rounding(algorithm: str, setting: str) -> None:
    masked, csr = (
        make_block(lanes_of(algorithm, setting, layout), NUM_RANDOM) for layout in ("masked", "csr")
    )
    before = connections(csr)
    assert unequal_names(csr.learner.state_dict(), masked.learner.state_dict()) == []
    for _ in range(NUM_UPDATES.get(setting, FEW_UPDATES) // PERIOD):
        assert_close(
            updates(csr, PERIOD).learner.state_dict(),
            updates(masked, PERIOD).learner.state_dict(),
            FLOAT32_TOLERANCE,
        )
    assert changes(csr, before) == list(before)


@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_plain_torch_trains_csr_layers_as_compiled_kernels_do(
    algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = lanes_of(algorithm, "TowS", "csr", new_weights="unif")
    compiled = trained(lanes, FEW_UPDATES).learner.state_dict()
    monkeypatch.setattr(kernels, "NATIVE", None)
    assert_close(trained(lanes, FEW_UPDATES).learner.state_dict(), compiled, FLOAT32_TOLERANCE)


@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_static_connections_train_the_same_with_plain_adam(algorithm: str) -> None:
    """Where no connection ever comes back, moments of missing ones make no difference."""
    own = {"optimizer": "Adam", "topology": "static"}
    masked, csr = (
        trained(lanes_of(algorithm, "ANF", layout, **own), 40).learner.state_dict()
        for layout in ("masked", "csr")
    )
    weights = [name for name in csr if "optimizer" not in name]
    assert_close(
        {name: csr[name] for name in weights}, {name: masked[name] for name in weights},
        FLOAT32_TOLERANCE,
    )  # fmt: skip


@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_lanes_with_different_numbers_of_connections_train_as_on_masked_layers(
    algorithm: str,
) -> None:
    masked, csr = (
        make_block(ragged_lanes(algorithm, layout), NUM_RANDOM) for layout in ("masked", "csr")
    )
    assert all(layer.at.is_ragged for _, layer in csr_layers(csr))
    for _ in range(FEW_UPDATES // PERIOD):
        assert_close(
            updates(csr, PERIOD).learner.state_dict(),
            updates(masked, PERIOD).learner.state_dict(),
            FLOAT32_TOLERANCE,
        )


# --- connections ----------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_counts_never_change_and_places_without_a_connection_stay_zero(algorithm: str) -> None:
    block = make_block(
        ragged_lanes(algorithm, "csr", drop_fraction=0.5, topology_period=3), NUM_RANDOM
    )
    counts = {name: layer.active().clone() for name, layer in csr_layers(block)}
    before = connections(block)
    for _ in range(10):
        updates(block, 4)
        masks = connections(block)
        for name, layer in csr_layers(block):
            assert torch.equal(layer.active(), counts[name])
            if not name.startswith("target"):
                assert torch.equal(masks[f"{name}.weight.mask"].flatten(1).sum(1), counts[name])
            stored = [layer.value.detach()]
            for optimizer in (block.algorithm.actor_optimizer, block.algorithm.critic_optimizer):
                if any(tensor is layer.value for tensor in optimizer.tensors()):
                    stored += optimizer.moments_of(layer.value)
            for row, count in enumerate(counts[name].tolist()):
                assert all(tensor[row, count:].eq(0).all() for tensor in stored)
                assert all(tensor[row, :count].isfinite().all() for tensor in stored)
    after = connections(block)
    assert changes(block, before) == list(before)
    for name, mask in after.items():  # lane 1 is static
        C = mask.shape[0] // 3
        assert torch.equal(mask[C : 2 * C], before[name][C : 2 * C])


@pytest.mark.parametrize("setting", ["ANF", "TowS", "hard targets"])
@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_targets_live_on_the_connections_of_their_network(algorithm: str, setting: str) -> None:
    block = make_block(lanes_of(algorithm, setting, "csr"), NUM_RANDOM)
    pairs: list[tuple[StackedLinear, StackedLinear]] = []
    networks = block.algorithm.networks()
    for name in ("actor", "critic"):
        if f"target_{name}" in networks:
            pairs += zip(networks[name].layers, networks[f"target_{name}"].layers, strict=True)
    for _ in range(5):
        updates(block, 6)
        state = block.learner.state_dict()
        for name in (name for name in state if name.startswith("target")):
            mask = state.get(f"{name.removeprefix('target_')}.mask")
            if mask is not None:
                assert state[name][~mask].eq(0).all() and state[name][mask].ne(0).any()
        for online, target in pairs:
            if isinstance(online, CsrLinear):
                assert isinstance(target, CsrLinear) and target.at is online.at
                assert target.value.shape == online.value.shape


@pytest.mark.parametrize(
    ("drop_fraction", "new_weights"),
    [(0.0, "unif"), (0.25, "zero"), (0.25, "xavier"), (1.0, "unif")],
)
@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_as_many_leave_as_are_asked_to_and_new_ones_start_as_asked(
    algorithm: str, drop_fraction: float, new_weights: str
) -> None:
    own = {"drop_fraction": drop_fraction, "new_weights": new_weights, "topology_period": 1000}
    masked, csr = (
        trained(lanes_of(algorithm, "ANF", layout, **own), 1) for layout in ("masked", "csr")
    )
    before = connections(csr)
    updates(masked, 1)
    state = updates(csr, 1).learner.state_dict()  # connections change in update 2
    after = connections(csr)
    # The same leave and come in both layouts, with the same first values.
    assert all(torch.equal(mask, connections(masked)[name]) for name, mask in after.items())
    expected_state = masked.learner.state_dict()
    assert_close(state, expected_state, FLOAT32_TOLERANCE)
    for name, mask in after.items():
        layer = name.removesuffix(".mask")
        grown = mask & ~before[name]
        active, possible = int(mask[0].sum()), mask[0].numel()
        dropped = int(drop_fraction * active)
        # A connection that leaves may come back at once, by chance.
        expected = dropped * (1 - dropped / (possible - active + dropped))
        assert (grown.flatten(1).sum(1) - expected).abs().max() <= 5 * expected**0.5
        values = state[layer][grown]
        torch.testing.assert_close(values, expected_state[layer][grown], rtol=0, atol=0)
        if new_weights == "zero":
            assert values.eq(0).all()
        elif drop_fraction:
            num_outputs, num_inputs = mask.shape[1:]
            square = 6 / (num_inputs + num_outputs) if new_weights == "xavier" else 1 / num_inputs
            assert 0.8 * square**0.5 < values.abs().max() <= square**0.5
            assert values.ne(0).all()


# --- lanes and threads ----------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_a_lane_alone_has_the_same_bits_as_among_others(algorithm: str) -> None:
    lanes = ragged_lanes(algorithm, "csr", new_weights="unif")
    together = make_block(lanes, 100)
    before = connections(together)
    for step in range(1, 36):
        together.collector.step_(step)
        together.learner.update_()
    assert changes(together, before) == list(before)
    for lane in range(3):
        alone = make_block([lanes[lane]], 100)
        for step in range(1, 36):
            alone.collector.step_(step)
            alone.learner.update_()
        assert not any(layer.at.is_ragged for _, layer in csr_layers(alone))
        state = lane_state(together, lane)
        assert all(tensor.isfinite().all() for tensor in state.values())
        assert unequal_names(state, lane_state(alone, 0)) == []


@pytest.mark.parametrize("setting", ["ANF", "TowS"])
@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_the_number_of_threads_changes_no_bit(
    algorithm: str, setting: str, keeps_num_threads: None
) -> None:
    lanes = lanes_of(
        algorithm, setting, "csr", noise_fraction=0.9, hidden=(130, 70), batch_size=100
    )
    states = []
    for num_threads in (1, 2, 3):
        torch.set_num_threads(num_threads)
        states.append(trained(lanes, 4).learner.state_dict())
    for state in states[1:]:
        assert unequal_names(state, states[0]) == []


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_ragged", [False, True], ids=["even", "ragged"])
@pytest.mark.parametrize("layouts", [("csr", "csr"), ("csr", "masked"), ("masked", "csr")])
@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_a_checkpoint_goes_on_in_any_layout(
    tmp_path: Path, algorithm: str, layouts: tuple[str, str], is_ragged: bool
) -> None:
    first, second = (
        ragged_lanes(algorithm, layout) if is_ragged else lanes_of(algorithm, "TowS", layout)
        for layout in layouts
    )
    block = trained(first, 14)  # connections changed in updates 2 and 12
    resumed = copy_block(block, tmp_path, second)
    assert bool(csr_layers(resumed)) == (layouts[1] == "csr")
    assert unequal_names(resumed.learner.state_dict(), block.learner.state_dict()) == []
    before = connections(block)
    after, expected = (updates(each, 14).learner.state_dict() for each in (resumed, block))
    assert changes(block, before) == list(before)
    if layouts[0] == layouts[1]:
        assert unequal_names(after, expected) == []
    else:
        assert_close(after, expected, FLOAT32_TOLERANCE)


def test_a_checkpoint_of_another_number_of_connections_is_refused(tmp_path: Path) -> None:
    checkpoint = saved(trained(lanes_of("SAC", "ANF", "csr"), 3), tmp_path)
    other = make_block(lanes_of("SAC", "ANF", "csr", input_layer_sparsity=0.7))
    with pytest.raises(ValueError) as caught:
        other.restore_(checkpoint)
    assert "\n" not in str(caught.value)
