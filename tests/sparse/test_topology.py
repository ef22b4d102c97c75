"""SET and static topologies, and what all share: hand-drawn evolutions, invariants, rows that are
independent of each other.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastanf.sparse import masks
from fastanf.sparse.masks import exact_masks
from fastanf.sparse.schedule import Clock, RowSize, Schedule, num_to_drop
from fastanf.sparse.topology import (
    PRUNING,
    RIGL,
    SET,
    STATIC,
    TOPOLOGIES,
    Topology,
    drop_smallest,
    evolve_,
    grow_random,
    new_weight_values,
)
from tests.host_reads import NoHostReads

ODD_SIZES = (1, 3, 5, 171, 257)
NAN = float("nan")


@pytest.fixture(autouse=True, params=["looped", "at once"])
def way(request, monkeypatch):
    """Rows one by one, as on the CPU, and all at once, as on a GPU."""
    monkeypatch.setattr(masks, "is_looped", lambda tensor: request.param == "looped")
    return request.param


def random_layer(num_rows: int, n: int, seed: int, dtype=torch.float32):
    """Weights zero where inactive, masks of half the connections, keys and two moments."""
    generator = torch.Generator().manual_seed(seed)
    mask = exact_masks(torch.rand(num_rows, n, generator=generator), [(n + 1) // 2] * num_rows)
    draws = torch.randn(3, num_rows, n, generator=generator, dtype=dtype) * mask
    keys = torch.randint(0, 2**62, (2, num_rows, n), generator=generator)
    return draws[0].clone(), mask, keys[0], keys[1], [draws[1].clone(), draws[2].clone()]


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.view(torch.int32)


def test_updates_that_are_due_are_the_published_ones():
    every, each = Clock(1000, 1.0, 3), Clock(1, 1.0, 3)
    assert [u for u in range(3100) if SET.when(every, u)] == [2, 1002, 2002, 3002]
    assert [u for u in range(7) if SET.when(each, u)] == [2, 3, 4, 5, 6]


def test_num_to_drop_rounds_down_without_float_error():
    assert num_to_drop(8704, 0.05) == 435
    assert num_to_drop(100, 0.29) == 29  # floats: 28.999...
    assert num_to_drop(7, 0.0) == 0
    assert num_to_drop(7, 1.0) == 7


@given(st.integers(0, 10**6), st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_num_to_drop_equals_integer_arithmetic(num_active, thousandths):
    assert num_to_drop(num_active, thousandths / 1000) == num_active * thousandths // 1000


@pytest.mark.parametrize("fraction", [-0.1, 1.1, NAN])
def test_drop_fractions_out_of_range_are_refused(fraction):
    with pytest.raises(ValueError, match="drop_fraction="):
        num_to_drop(10, fraction)


def test_drop_takes_active_connections_nearest_to_zero():
    weight = torch.tensor([[0.5, -0.1, 0.0, 0.2, 0.0, -3.0]])
    mask = torch.tensor([[True, True, False, True, False, True]])
    keys = torch.zeros(1, 6, dtype=torch.int64)
    assert drop_smallest(weight, mask, [2], keys).nonzero()[:, 1].tolist() == [1, 3]


def test_drop_breaks_ties_by_the_random_keys():
    weight = torch.tensor([[0.1, -0.1, 0.1, 0.0, 0.1]])
    mask = torch.tensor([[True, True, True, True, False]])
    keys = torch.tensor([[7, 5, 9, 8, 0]])
    assert drop_smallest(weight, mask, [2], keys).nonzero()[:, 1].tolist() == [1, 3]


def test_positive_and_negative_zero_are_the_same_magnitude():
    weight = torch.tensor([[0.0, -0.0, 0.0]])
    keys = torch.tensor([[3, 1, 2]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert drop_smallest(weight, mask, [1], keys).tolist() == [[False, True, False]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_drop_keeps_nan_and_infinity_before_finite_weights(dtype):
    weight = torch.tensor([[NAN, math.inf, -1.0, -NAN, 0.5]], dtype=dtype)
    mask = torch.ones(1, 5, dtype=torch.bool)
    dropped = drop_smallest(weight, mask, [3], torch.arange(5)[None])
    assert dropped.tolist() == [[False, True, True, False, True]]


def test_grow_takes_inactive_connections_of_smallest_key():
    mask = torch.tensor([[True, False, False, True, False]])
    keys = torch.tensor([[0, 3, 1, 0, 2]])
    assert grow_random(mask, [2], keys).nonzero()[:, 1].tolist() == [2, 4]


def test_grow_is_uniform_over_the_inactive_connections():
    generator = torch.Generator().manual_seed(0)
    num_rows = 4000
    mask = torch.tensor([True, False] * 5).expand(num_rows, 10)
    grown = grow_random(mask, [2] * num_rows, torch.rand(num_rows, 10, generator=generator))
    share = grown.double().mean(0)
    assert share[::2].sum() == 0
    # Five standard deviations of a share of 2/5 over 4000 draws.
    assert (share[1::2] - 0.4).abs().max() < 5 * (0.4 * 0.6 / num_rows) ** 0.5


def test_evolve_follows_the_hand_drawn_example():
    weight = torch.tensor([[0.5, -0.1, 0.0, 0.2, 0.0, -3.0], [1.0, 0.0, 2.0, 0.0, 0.3, 0.0]])
    mask = weight != 0
    moment = torch.arange(1.0, 13.0).view(2, 6) * mask
    drop_keys = torch.zeros(2, 6, dtype=torch.int64)
    # Row 0 grows 4 and the just dropped 1; row 1 drops 4 and grows 5.
    grow_keys = torch.tensor([[0, 1, 9, 5, 2, 0], [0, 9, 0, 9, 8, 1]])
    evolution = evolve_(weight, mask, [2, 1], drop_keys, grow_keys, moments=[moment])
    assert evolution.dropped.nonzero().tolist() == [[0, 1], [0, 3], [1, 4]]
    assert evolution.grown.nonzero().tolist() == [[0, 1], [0, 4], [1, 5]]
    assert mask.int().tolist() == [[1, 1, 0, 0, 1, 1], [1, 0, 1, 0, 0, 1]]
    assert weight.tolist() == [[0.5, 0, 0, 0, 0, -3.0], [1.0, 0, 2.0, 0, 0, 0]]
    assert moment.tolist() == [[1, 0, 0, 0, 0, 6], [7, 0, 9, 0, 0, 0]]


def test_new_values_go_to_grown_connections_only():
    weight = torch.tensor([[0.5, 0.1, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False, False]])
    new_values = torch.tensor([[10.0, 11.0, 12.0, 13.0]])
    grow_keys = torch.tensor([[0, 3, 2, 1]])
    evolve_(weight, mask, [1], torch.zeros(1, 4), grow_keys, new_values)
    assert weight.tolist() == [[0.5, 0.0, 0.0, 13.0]]
    assert mask.tolist() == [[True, False, False, True]]


def test_a_connection_that_comes_straight_back_starts_fresh():
    weight, moment = torch.tensor([[0.5, 0.1]]), torch.tensor([[3.0, 4.0]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    evolution = evolve_(weight, mask, [1], torch.zeros(1, 2), torch.zeros(1, 2), None, [moment])
    assert evolution.dropped.tolist() == evolution.grown.tolist() == [[False, True]]
    assert mask.all()
    assert weight.tolist() == [[0.5, 0.0]] and moment.tolist() == [[3.0, 0.0]]


def test_moments_are_kept_in_rows_that_do_not_want_them_fresh():
    weight, mask, drop_keys, grow_keys, (moment, _) = random_layer(2, 171, 3)
    before = moment.clone()
    fresh = torch.tensor([False, True])
    evolution = evolve_(weight, mask, [20, 20], drop_keys, grow_keys, None, [moment], fresh)
    assert torch.equal(bits(moment[0]), bits(before[0]))
    changed = (evolution.dropped | evolution.grown)[1]
    assert moment[1][changed].abs().sum() == 0
    assert torch.equal(moment[1][~changed], before[1][~changed])


@pytest.mark.parametrize("n", ODD_SIZES)
@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.5, 1.0])
def test_evolve_keeps_active_count_per_row_and_zeros_where_inactive(n, fraction):
    weight, mask, drop_keys, grow_keys, moments = random_layer(4, n, n)
    before, weight_before = mask.clone(), weight.clone()
    num_drop = [num_to_drop(int(row.sum()), fraction) for row in mask]
    evolution = evolve_(weight, mask, num_drop, drop_keys, grow_keys, None, moments)
    assert torch.equal(mask.sum(1), before.sum(1))
    assert evolution.dropped.sum(1).tolist() == evolution.grown.sum(1).tolist() == num_drop
    assert not (evolution.dropped & ~before).any()
    assert torch.equal(mask, (before & ~evolution.dropped) | evolution.grown)
    for tensor in (weight, *moments):
        assert not tensor[~mask].any()
    untouched = ~(evolution.dropped | evolution.grown)
    assert torch.equal(weight[untouched], weight_before[untouched])
    kept, left = before & ~evolution.dropped, evolution.dropped
    for row in range(4):
        if kept[row].any() and left[row].any():
            magnitude = weight_before[row].abs()
            assert magnitude[kept[row]].min() >= magnitude[left[row]].max()


def test_rows_that_are_not_due_keep_every_bit():
    weight, mask, drop_keys, grow_keys, moments = random_layer(3, 171, 5)
    weight[1, 0], weight[1, 1], moments[0][1, 2] = NAN, -0.0, NAN
    before = [bits(x).clone() for x in (weight, *moments)]
    mask_before = mask.clone()
    new_values = torch.full_like(weight, NAN)
    evolve_(weight, mask, torch.tensor([9, 0, 9]), drop_keys, grow_keys, new_values, moments)
    for x, x_before in zip((weight, *moments), before, strict=True):
        assert torch.equal(bits(x)[1], x_before[1])
    assert torch.equal(mask[1], mask_before[1])
    assert not torch.equal(mask[0], mask_before[0])


@pytest.mark.parametrize("fill", [None, NAN])
def test_a_row_alone_equals_the_row_among_others_even_if_those_are_nan(fill):
    weight, mask, drop_keys, grow_keys, moments = random_layer(8, 257, 7)
    new_values = torch.randn(8, 257, generator=torch.Generator().manual_seed(8))
    num_drop = [0, 1, 5, 6, 10, 64, 128, 129]
    for row in range(8):
        only = slice(row, row + 1)
        w, m, *v = alone = [x[only].clone() for x in (weight, mask, *moments)]
        evolve_(w, m, num_drop[only], drop_keys[only], grow_keys[only], new_values[only], v)
        w, m, *v = among = [x.clone() for x in (weight, mask, *moments)]
        if fill is not None:
            for x in (w, *v):
                x[torch.arange(8) != row] = fill
        evolve_(w, m, num_drop, drop_keys, grow_keys, new_values, v)
        for one, many in zip(alone, among, strict=True):
            assert torch.equal(one[0], many[row])


def test_a_row_of_nan_keeps_its_active_count():
    weight, mask, drop_keys, grow_keys, _ = random_layer(1, 171, 9)
    weight[mask] = NAN
    evolve_(weight, mask, [30], drop_keys, grow_keys)
    assert int(mask.sum()) == 86
    assert int(weight.isnan().sum()) == 86 - 30


def test_evolve_writes_through_weights_that_require_gradients():
    weight, mask, drop_keys, grow_keys, _ = random_layer(1, 171, 10)
    weight.requires_grad_(True)
    evolve_(weight, mask, [30], drop_keys, grow_keys)
    assert weight.is_leaf and weight.grad_fn is None
    assert not weight[~mask].any()


@pytest.mark.parametrize("way", ["looped"], indirect=True)
def test_dropping_more_than_is_active_is_refused_where_the_host_sees_it(way):
    weight, mask, drop_keys, grow_keys, _ = random_layer(1, 5, 11)
    with pytest.raises(ValueError, match="count=4"):
        evolve_(weight, mask, [4], drop_keys, grow_keys)


@pytest.mark.parametrize("way", ["at once"], indirect=True)
def test_rows_at_once_make_no_host_wait(way):
    weight, mask, drop_keys, grow_keys, moments = random_layer(2, 171, 13)
    counts = torch.tensor([9, 30])
    with NoHostReads():
        evolution = evolve_(weight, mask, counts, drop_keys, grow_keys, None, moments)
    assert evolution.dropped.sum(1).tolist() == evolution.grown.sum(1).tolist() == [9, 30]


def test_static_topology_never_changes_anything():
    weight, mask, drop_keys, grow_keys, moments = random_layer(2, 171, 12)
    before = [x.clone() for x in (weight, mask, *moments)]
    evolution = evolve_(weight, mask, [9, 9], drop_keys, grow_keys, None, moments, topology=STATIC)
    assert not evolution.dropped.any() and not evolution.grown.any()
    for x, x_before in zip((weight, mask, *moments), before, strict=True):
        assert torch.equal(x, x_before)
    assert not STATIC.evolves


def test_set_topology_drops_its_fraction():
    schedule = Schedule(Clock(1000, 1.0, 10_000), 0.05, "constant")
    assert SET.evolves and SET.how_many(schedule, RowSize(43520, 8704), 9002) == 435
    assert SET.how_many(schedule, RowSize(8704, 8704), 9002) == 0  # nothing to grow


def test_topologies_are_found_by_their_names():
    named = {"set": SET, "static": STATIC, "rigl": RIGL, "pruning": PRUNING}
    assert dict(TOPOLOGIES) == named
    assert [name for name, t in named.items() if t.needs_gradient] == ["rigl"]
    assert [name for name, t in named.items() if t.starts_dense] == ["pruning"]


def test_a_topology_is_free_to_answer_which_leave():
    def drop_largest(weight, mask, num_drop, random_keys):
        return drop_smallest(1 / weight, mask, num_drop, random_keys)

    weight = torch.tensor([[0.5, 0.1, 0.0]])
    mask = torch.tensor([[True, True, False]])
    topology = Topology("drop_largest", drop_largest, grow_random)
    keys = torch.tensor([[2, 1, 0]])
    evolution = evolve_(weight, mask, [1], keys, keys, topology=topology)
    assert evolution.dropped.tolist() == [[True, False, False]]


def test_new_weights_are_uniform_within_their_bounds():
    uniforms = torch.tensor([[0.0, 0.25, 0.5, 1.0]], dtype=torch.float64)
    assert new_weight_values("zero", uniforms, 10, 14) is None
    xavier = new_weight_values("xavier", uniforms, 10, 14)
    unif = new_weight_values("unif", uniforms, 16, 5)
    assert xavier is not None and unif is not None
    assert xavier.tolist() == [[-0.5, -0.25, 0.0, 0.5]]  # sqrt(6 / 24)
    assert unif.tolist() == [[-0.25, -0.125, 0.0, 0.25]]  # 1 / sqrt(16)


def test_unknown_new_weights_are_refused():
    with pytest.raises(ValueError, match="init_new_weights_method='xavir'"):
        new_weight_values("xavir", torch.rand(1, 1), 1, 1)
