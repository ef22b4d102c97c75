"""SET by Triton's kernels: the bits of the definition, at odd sizes, with ties, lane by lane."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastanf import kernels
from fastanf.activations import make_activation
from fastanf.kernels.csr_evolve import EvolutionKeys
from fastanf.kernels.gpu import select as triton_select
from fastanf.kernels.philox import random_bits_ref
from fastanf.kernels.select import masked_evolve_, masked_evolve_ref_
from fastanf.nets import build_mlp
from fastanf.rng import LaneRng
from fastanf.sparse.evolution import TopologyEvolution, TopologySettings
from fastanf.sparse.mask_adam import StackedOptimizer
from tests.host_reads import NoHostReads
from tests.masked_layers import (
    BOUND,
    COPIES,
    FRESH,
    KEYS,
    LANE_KEYS,
    NAN,
    ROWS,
    assert_same_bits,
    changed_by,
    counts_of,
    layer,
    with_lanes,
)

SIZES = (1, 3, 5, 171, 257, 1000)


def changed_on(
    device: torch.device, held: dict[str, Tensor], num_drop: Tensor, rows: slice, lanes: slice
) -> dict[str, Tensor]:
    """What Triton's kernels make of some rows, brought back."""
    found = changed_by(
        masked_evolve_,
        {name: tensor[rows].to(device) for name, tensor in held.items()},
        num_drop[rows].to(device),
        keys=with_lanes(LANE_KEYS[lanes].to(device)),
        bound=BOUND[rows].to(device),
        fresh=FRESH[lanes].to(device),
    )
    return {name: tensor.cpu() for name, tensor in found.items()}


ALL = slice(None)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", ["distinct", "ties", "nan"])
def test_a_layer_changes_as_defined(n: int, kind: str, device: torch.device) -> None:
    held = layer(n, kind)
    num_drop = torch.tensor([0, *counts_of(held["mask"])[1:]])
    expected = changed_by(masked_evolve_ref_, held, num_drop)
    assert_same_bits(changed_on(device, held, num_drop, ALL, ALL), expected)


@pytest.mark.parametrize("n", [3000, 3001])
def test_several_programs_share_a_row(
    n: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_select, "_MAX_TILES", 2)
    held = layer(n, "ties")
    num_drop = torch.tensor(counts_of(held["mask"]))
    expected = changed_by(masked_evolve_ref_, held, num_drop)
    assert_same_bits(changed_on(device, held, num_drop, ALL, ALL), expected)


def test_a_lane_alone_changes_as_among_others_that_are_nan(device: torch.device) -> None:
    held = layer(171, "ties")
    num_drop = torch.tensor(counts_of(held["mask"]))
    for lane in range(len(LANE_KEYS)):
        rows = slice(lane * COPIES, (lane + 1) * COPIES)
        alone = changed_on(device, held, num_drop, rows, slice(lane, lane + 1))
        others = {name: tensor.clone() for name, tensor in held.items()}
        for name in ("weight", "exp_avg", "exp_avg_sq", "target"):
            others[name][: rows.start] = NAN
            others[name][rows.stop :] = NAN
        among = changed_on(device, others, num_drop, ALL, ALL)
        assert_same_bits({name: tensor[rows] for name, tensor in among.items()}, alone)


def test_without_moments_and_target_the_connections_are_the_same(device: torch.device) -> None:
    held = layer(257, "distinct")
    num_drop = torch.tensor(counts_of(held["mask"]))
    expected = changed_by(masked_evolve_ref_, held, num_drop, fresh=None)
    keys = with_lanes(LANE_KEYS.to(device))
    for with_moments in (False, True):
        t = {name: tensor.clone().to(device) for name, tensor in held.items()}
        moments = [t["exp_avg"], t["exp_avg_sq"]] if with_moments else []
        masked_evolve_(t["weight"], t["mask"], num_drop.to(device), keys, BOUND.to(device), moments)
        names = ("weight", "mask", "exp_avg", "exp_avg_sq") if with_moments else ("weight", "mask")
        for name in names:
            assert torch.equal(t[name].cpu(), expected[name]), name


# Found by a search: row `step` of lane 7's words has the same word at both places.
EQUAL_WORDS_OF_DROP = (63283, 3, 276)
EQUAL_WORDS_OF_GROW = (99351, 95, 171)


@pytest.mark.parametrize("drops", [True, False])
def test_equal_words_go_by_position(drops: bool, device: torch.device) -> None:
    step, first, second = EQUAL_WORDS_OF_DROP if drops else EQUAL_WORDS_OF_GROW
    n, key = 300, torch.tensor([7])
    stream = KEYS.drop if drops else KEYS.grow
    words = random_bits_ref(key, torch.tensor([[step]]), stream, n)[0, :, 0]
    assert words[first] == words[second]
    mask = torch.zeros(1, n, dtype=torch.bool)
    if drops:
        # Active are the two and what would leave before them: of the two, only the first leaves.
        mask[0] = words <= words[first]
    else:
        # Inactive are the two, and what leaves has a larger word: only the first of them grows.
        mask[0] = words != words[first]
    num_drop = torch.tensor([int(mask.sum()) - 1 if drops else 1])
    weight = mask.float()
    if not drops:
        weight[0, words.argmax()] = 0.5
    keys = EvolutionKeys(key, step, KEYS.drop, KEYS.grow, KEYS.value)
    expected_weight, expected_mask = weight.clone(), mask.clone()
    masked_evolve_ref_(expected_weight, expected_mask, num_drop, keys, torch.zeros(1))
    left_or_grew = expected_weight if drops else expected_mask
    assert bool(left_or_grew[0, first]) != bool(left_or_grew[0, second])

    on_device = EvolutionKeys(key.to(device), step, KEYS.drop, KEYS.grow, KEYS.value)
    weight, mask = weight.to(device), mask.to(device)
    masked_evolve_(weight, mask, num_drop.to(device), on_device, torch.zeros(1, device=device))
    assert torch.equal(mask.cpu(), expected_mask)
    assert torch.equal(weight.cpu(), expected_weight)


@pytest.mark.parametrize("step", [2**31, 2**40 + 3])
def test_updates_beyond_32_bits_have_words_of_their_own(step: int, device: torch.device) -> None:
    held = layer(171, "distinct")
    num_drop = torch.tensor(counts_of(held["mask"]))
    keys = EvolutionKeys(LANE_KEYS, step, KEYS.drop, KEYS.grow, KEYS.value)
    expected = changed_by(masked_evolve_ref_, held, num_drop, keys=keys)
    weight, mask = held["weight"].to(device), held["mask"].to(device)
    masked_evolve_(
        weight, mask, num_drop.to(device), with_lanes(LANE_KEYS.to(device), keys), BOUND.to(device)
    )
    assert torch.equal(mask.cpu(), expected["mask"])
    assert torch.equal(weight.cpu(), expected["weight"])


class Counted:
    """A kernel that notes its launches."""

    def __init__(self, kernel, launches: list[str]):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        self.launches.append(self.kernel.__name__)
        return self.kernel[grid]


def test_launches_are_few_and_as_many_for_any_number_of_lanes(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches: list[str] = []
    for name in ("_count", "_leave", "_grow"):
        monkeypatch.setattr(triton_select, name, Counted(getattr(triton_select, name), launches))
    held = layer(257, "distinct")
    num_drop = torch.tensor(counts_of(held["mask"]))
    # 8 digits of magnitudes and words, 4 of words, twice 2 of positions below 2^16.
    expected = ["_count"] * 10 + ["_leave"] + ["_count"] * 6 + ["_grow"]
    for rows, lanes in [(ALL, ALL), (slice(COPIES), slice(1))]:
        launches.clear()
        changed_on(device, held, num_drop, rows, lanes)
        assert launches == expected
    # A million connections: one digit more.
    assert [len(triton_select._digits(10**6, levels)) for levels in ([0, 1, 2], [1, 2])] == [11, 7]


def test_a_change_is_seen_by_autograd(device: torch.device) -> None:
    held = {name: tensor.to(device) for name, tensor in layer(5, "distinct").items()}
    weight = held["weight"].clone().requires_grad_()
    loss = (weight * weight).sum()
    num_drop = torch.ones(ROWS, dtype=torch.int64, device=device)
    keys = with_lanes(LANE_KEYS.to(device))
    masked_evolve_(weight.detach(), held["mask"], num_drop, keys, BOUND.to(device))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_float64_is_left_to_plain_torch(device: torch.device) -> None:
    held = layer(5, "distinct")
    num_drop = torch.ones(ROWS, dtype=torch.int64)
    expected = changed_by(masked_evolve_ref_, held, num_drop)
    weight, mask = held["weight"].double().to(device), held["mask"].to(device)
    keys = with_lanes(LANE_KEYS.to(device))
    masked_evolve_(weight, mask, num_drop.to(device), keys, BOUND.to(device))
    assert torch.equal(weight.cpu().float(), expected["weight"])
    assert torch.equal(mask.cpu(), expected["mask"])


def evolving(
    device: torch.device | str, has_target: bool
) -> tuple[list[Tensor], TopologyEvolution]:
    """Three lanes of a twin critic that change at updates of their own, and all their tensors."""
    settings = TopologySettings(
        topology=["set", "static", "set"],
        drop_fraction=[0.5, 0.5, 0.3],
        drop_schedule=["constant"] * 3,
        period=[3, 3, 4],
        end_share=[1.0] * 3,
        new_weights=["zero", "zero", "xavier"],
        num_updates=20,
    )
    rng = LaneRng([3, 4, 9], device)
    active = [[60, 61, 77], [45, 20, 20], [15] * 3]  # a layer is dense, and a lane of another one
    relu = make_activation("relu")
    mlp = build_mlp(rng, 1, (17, 9, 5, 3), active, COPIES, relu, "fan_in")
    target = mlp.target_copy()
    optimizer = StackedOptimizer(
        mlp.parameters(),
        target.parameters() if has_target else (),
        torch.full((3,), 1e-2, device=device),
        torch.zeros(3, device=device),
        torch.tensor([True, True, False], device=device),
    )
    for moment in (*optimizer.exp_avg, *optimizer.exp_avg_sq):
        moment.fill_(1.0)
    layers = target.layers if has_target else ()
    evolution = TopologyEvolution(settings, 1, mlp.layers, layers, optimizer, rng)
    masks = [layer.connection_mask() for layer in mlp.layers]
    held = [layer.trained.detach() for layer in (*mlp.layers, *target.layers)]
    held += [*optimizer.exp_avg, *optimizer.exp_avg_sq, *(m for m in masks if m is not None)]
    return held, evolution


@pytest.mark.parametrize("has_target", [True, False])
def test_networks_evolve_as_on_the_cpu_without_a_host_read(
    has_target: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, evolution = evolving(device, has_target)
    # All, the first two and the last lane are due once: what leaves of each is on the device then.
    for update in range(1, 7):
        evolution.evolve_if_due_(update)
    with NoHostReads():
        was_due = [evolution.evolve_if_due_(update) for update in range(7, 12)]
    assert was_due == [False, True, False, True, True]
    monkeypatch.setattr(kernels, "TRITON", ())
    expected, on_cpu = evolving("cpu", has_target)
    for update in range(1, 12):
        on_cpu.evolve_if_due_(update)
    for index, (one, other) in enumerate(zip(held, expected, strict=True)):
        assert torch.equal(one.cpu(), other), index
