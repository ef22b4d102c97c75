"""Every stacked lane follows the plain lane of tests/oracle, update by update."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fastanf import kernels
from fastanf.block import TrainingBlock
from fastanf.nets import StackedMLP
from fastanf.replay import Batch
from fastanf.sparse.layers import CsrLinear
from tests.helpers import lane_of_batch, make_block, make_lane, to_float64_
from tests.oracle.plain_sac import PlainLane, PlainSAC
from tests.oracle.plain_sparse import PlainFeatures, PlainLayer, PlainNetwork, PlainRandom
from tests.oracle.plain_td3 import PlainTD3

# Both sides in float64: rounding of 2^-53, amplified by 100 steps of Adam, stays far below this.
FLOAT64_TOLERANCE = 1e-9
# The stacked side in float32. A step of Adam is lr * g / |g| also where g is little more than
# rounding, so a weight may be off by a part of lr = 1e-3, and two of nearly one size swap ranks.
FLOAT32_TOLERANCE = 2e-4

SAC_LANES = [
    ("ANF-SAC", 3, {"topology_period": 20, "input_layer_sparsity": 0.5, "new_weights": "xavier"}),
    ("SAC", 11, {"automatic_temperature": True, "learning_rate": 2e-3}),
    ("DS-SAC", 5, {"topology_period": 13, "target_period": 10, "batch_size": 16}),
    ("Static-SAC", 4, {"temperature": 0.05, "noise_std": 2.0}),
]
TD3_LANES = [
    ("ANF-TD3", 3, {"topology_period": 20, "drop_fraction": 0.2, "new_weights": "unif"}),
    ("TD3", 11, {"target_noise": 0.5, "target_noise_clip": 0.3, "discount": 0.9}),
    ("DS-TD3", 5, {"topology_period": 13, "target_period": 6, "tau": 1.0}),
    ("TowS-TD3", 4, {"global_sparsity": 0.6, "topology_period": 7, "noise_std": 2.0}),
]
LANES = {"sac": SAC_LANES, "td3": TD3_LANES}
# DS keeps moments where no connection is, which only masked layers can.
CSR_LANES = (0, 1, 3)


@pytest.fixture
def reference_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain torch computes in place of the compiled kernels."""
    monkeypatch.setattr(kernels, "NATIVE", None)


def block_of(
    algorithm: str, which: tuple[int, ...] = (0, 1, 2, 3), layout: str = "masked", **settings: Any
) -> TrainingBlock:
    """The chosen lanes of LANES, with 150 random steps in their replay."""
    settings["layout"] = layout
    chosen = [LANES[algorithm][index] for index in which]
    lanes = [make_lane(policy, seed, **{**settings, **own}) for policy, seed, own in chosen]
    return make_block(lanes, 150)


def plain_network(network: StackedMLP, row: int, dtype: torch.dtype) -> PlainNetwork:
    """Row g of a stacked network as an ordinary one."""
    layers = []
    for layer in network.layers:
        weight = layer.to_dense()[row].to(dtype)
        bias = layer.bias[row].detach().to(dtype, copy=True)
        masks = layer.connection_mask()
        active = torch.ones_like(weight, dtype=torch.bool)
        mask = active if masks is None else masks[row].clone()
        layers.append(PlainLayer(weight.requires_grad_(), bias.requires_grad_(), mask))
    return PlainNetwork(layers)


def plain_lanes(block: TrainingBlock) -> list[PlainSAC | PlainTD3]:
    """One oracle per lane, with the lane's initial weights and masks, computing in float64."""
    algorithm, spec, plain = block.algorithm, block.env.spec, []
    for index, config in enumerate(block.lanes):
        random = PlainRandom(config.algorithm.seed, torch.float64)
        actor = plain_network(algorithm.actor_mlp, index, torch.float64)
        q1, q2 = (plain_network(algorithm.critic.mlp, 2 * index + c, torch.float64) for c in (0, 1))
        features = PlainFeatures(random, config, algorithm.settings.num_features)
        low, high = (torch.tensor(x).double() for x in (spec.action_low, spec.action_high))
        lane = PlainLane(config, actor, q1, q2, random, features, low, high)
        plain.append((PlainSAC if config.algorithm.algorithm == "sac" else PlainTD3)(lane))
    return plain


def widened(batch: Batch) -> Batch:
    return Batch(*(t.double() if t.dtype == torch.float32 else t for t in batch))


def named_pairs(
    block: TrainingBlock, plain: PlainSAC | PlainTD3, lane: int
) -> list[tuple[str, Tensor, Tensor]]:
    """(name, stacked, plain) of every tensor of one lane."""
    networks, pairs = block.algorithm.networks(), []
    for kind, network in networks.items():
        own = [kind] if "actor" in kind else [kind.replace("critic", q) for q in ("q1", "q2")]
        for copy, name in enumerate(own):
            row = lane if len(own) == 1 else 2 * lane + copy
            for index, (stacked, layer) in enumerate(
                zip(network.layers, getattr(plain, name).layers, strict=True)
            ):
                pairs.append((f"{name}.{index}.weight", stacked.to_dense()[row], layer.weight))
                pairs.append((f"{name}.{index}.bias", stacked.bias[row], layer.bias))
                masks = stacked.connection_mask()
                if masks is not None and "target" not in name:
                    pairs.append((f"{name}.{index}.mask", masks[row], layer.mask))
    for kind, own in (("actor", ["actor"]), ("critic", ["q1", "q2"])):
        optimizer = getattr(block.algorithm, f"{kind}_optimizer")
        for copy, name in enumerate(own):
            row = lane if len(own) == 1 else 2 * lane + copy
            state = getattr(plain, f"{name}_optimizer").optimizer.state
            for index, parameter in enumerate(getattr(plain, name).parameters()):
                for moment in ("exp_avg", "exp_avg_sq"):
                    stacked = getattr(optimizer, moment)
                    if moment in state.get(parameter, {}):
                        dense = optimizer.parameters[index].to_dense(stacked[index])
                        pair = dense[row], state[parameter][moment]
                        pairs.append((f"{name}.{index}.{moment}", *pair))
    if isinstance(plain, PlainSAC):
        temperature = torch.tensor(plain.alpha, dtype=torch.float64)
        pairs.append(("temperature", block.algorithm.temperature[lane], temperature))  # pyright: ignore
    return pairs


def assert_follows(
    block: TrainingBlock,
    oracles: list[Any],
    tolerance: float,
    max_swapped: int = 0,
    share_off: float = 0.0,
) -> None:
    """Every number of every lane agrees.

    Args:
        block, oracles: what is compared.
        tolerance: largest difference of a number.
        max_swapped: connections of a mask that may differ.
        share_off: share of a tensor's numbers that may differ by more. A rounding that turns one
            unit of one transition on or off moves the weights around it by a learning rate, for
            Adam divides by the gradient's size.
    """
    for lane, plain in enumerate(oracles):
        for name, stacked, expected in named_pairs(block, plain, lane):
            label = f"lane {lane} ({block.lanes[lane].algorithm.policy}) {name}"
            if expected.dtype == torch.bool:
                assert int((stacked & ~expected).sum()) <= max_swapped, label
                continue
            gap = (stacked.detach().double() - expected.detach()).abs().flatten()
            allowed = max(2 * max_swapped, int(share_off * len(gap)))
            worst = float(gap.sort(descending=True).values[min(allowed, len(gap) - 1)])
            assert worst <= tolerance, f"{label}: off by {worst:.3g}"


def train_both(
    block: TrainingBlock, oracles: list[Any], num_updates: int, permutes_at: tuple[int, ...] = ()
) -> None:
    """Updates of the block and of the plain lanes on the same minibatches; lane 0 may permute."""
    learner = block.learner
    for update in range(1, num_updates + 1):
        if update in permutes_at:
            time = block.replay.time - 100 + update
            block.features.permute_(torch.arange(len(oracles)) == 0, time)
            oracles[0].lane.features.permute(time)
        batch = block.replay.sample(block.rng, update, learner.batch_size)
        for lane, plain in enumerate(oracles):
            plain.update(widened(lane_of_batch(batch, lane)), update)
        learner.update_()


def actor_masks(block: TrainingBlock) -> Tensor:
    """[L, O, I] connections of the actors' first layer."""
    masks = block.algorithm.actor_mlp.layers[0].connection_mask()
    assert masks is not None
    return masks


@pytest.mark.usefixtures("reference_kernels")
@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_lanes_follow_the_plain_lane(algorithm: str) -> None:
    block = block_of(algorithm)
    to_float64_(block)
    oracles = plain_lanes(block)
    first_masks = actor_masks(block).clone()
    train_both(block, oracles, 100)
    assert_follows(block, oracles, FLOAT64_TOLERANCE)
    # The agreement covers topologies that changed, and one that must not.
    masks = actor_masks(block)
    has_changed = (masks != first_masks).flatten(1).any(1).tolist()
    assert has_changed == [lane.sparsity.topology == "set" for lane in block.lanes]


@pytest.mark.usefixtures("reference_kernels")
@pytest.mark.parametrize(
    "settings",
    [
        {
            "noise_redraw": "per_step",
            "envs_per_lane": 2,
            "policy_delay": 3,
            "permute_replay": False,
        },
        {"target_sparsity": "trim", "hidden": (8, 7, 6), "permute_replay": True},
        {"optimizer": "SGD", "learning_rate": 0.02, "noise_fraction": 0.0, "hidden": (9,)},
    ],
    ids=["per_step", "trim", "sgd"],
)
@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_lanes_follow_the_plain_lane_with_other_settings(
    algorithm: str, settings: dict[str, Any]
) -> None:
    block = block_of(algorithm, **settings)
    to_float64_(block)
    oracles = plain_lanes(block)
    permutes_at = () if settings.get("optimizer") == "SGD" else (10, 25)
    train_both(block, oracles, 40, permutes_at)
    assert_follows(block, oracles, FLOAT64_TOLERANCE)


@pytest.mark.usefixtures("reference_kernels")
@pytest.mark.parametrize("optimizer", ["MaskAdam", "SGD"])
@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_lanes_that_store_active_connections_only_follow_the_plain_lane(
    algorithm: str, optimizer: str
) -> None:
    block = block_of(algorithm, CSR_LANES, "csr", optimizer=optimizer)
    to_float64_(block)
    assert isinstance(block.algorithm.actor_mlp.layers[0], CsrLinear)
    oracles = plain_lanes(block)
    first_masks = actor_masks(block).clone()
    train_both(block, oracles, 30)
    assert_follows(block, oracles, FLOAT64_TOLERANCE)
    has_changed = (actor_masks(block) != first_masks).flatten(1).any(1).tolist()
    assert has_changed == [lane.sparsity.topology == "set" for lane in block.lanes]


@pytest.mark.parametrize(("layout", "which"), [("masked", (0, 2)), ("csr", (0, 3))])
@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_wide_lanes_follow_the_plain_lane_in_float32(
    algorithm: str, layout: str, which: tuple[int, ...]
) -> None:
    wide = {"env": "Cheetah-v0", "noise_fraction": 0.9, "hidden": (256, 256), "batch_size": 100}
    block = block_of(algorithm, which, layout, **wide)
    is_csr = isinstance(block.algorithm.actor_mlp.layers[0], CsrLinear)
    assert is_csr == (layout == "csr")
    oracles = plain_lanes(block)
    train_both(block, oracles, 12)
    assert_follows(block, oracles, FLOAT32_TOLERANCE, max_swapped=1, share_off=0.02)
