"""The smallest keys of all rows at once, and SET by them, against the definitions row by row."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastanf.kernels import select
from fastanf.kernels.philox import random_bits_ref, uniform_of_bits
from fastanf.kernels.select import (
    magnitude_bits,
    masked_evolve_,
    masked_evolve_ref_,
    select_smallest_rows,
)
from fastanf.sparse.masks import select_smallest
from fastanf.sparse.topology import drop_smallest, evolve_
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
    generator,
    layer,
    with_lanes,
)

SIZES = (1, 3, 5, 171, 257, 1000)


def one_by_one(counts: list[int], eligible: Tensor, *keys: Tensor) -> Tensor:
    chosen = torch.zeros_like(eligible)
    for row, count in enumerate(counts):
        places = eligible[row].nonzero().squeeze(1)
        among = select_smallest(count, *(key[row][places] for key in keys))
        chosen[row, places[among]] = True
    return chosen


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("num_values", [1, 2, 7, 2**32])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32])
def test_rows_at_once_choose_as_rows_one_by_one(
    n: int, num_values: int, dtype: torch.dtype
) -> None:
    seeded = generator(n)
    low = -(num_values // 2)
    keys = [
        torch.randint(low, low + num_values, (8, n), generator=seeded).to(dtype) for _ in range(2)
    ]
    eligible = torch.rand(8, n, generator=seeded) < 0.6
    counts = counts_of(eligible)
    for chosen in (keys, keys[:1]):
        found = select_smallest_rows(torch.tensor(counts), eligible, *chosen)
        assert found.sum(1).tolist() == counts
        assert torch.equal(found, one_by_one(counts, eligible, *chosen))


def test_equal_keys_go_to_the_next_keys_and_then_to_the_first_position() -> None:
    first = torch.tensor([[1, 1, 1, 0, 1], [4, 4, 4, 4, 4]])
    second = torch.tensor([[9, 2, 2, 9, 2], [5, 1, 5, 1, 5]])
    eligible = torch.tensor([[True] * 5, [True, False, True, True, True]])
    found = select_smallest_rows(torch.tensor([3, 2]), eligible, first, second)
    assert found.int().tolist() == [[0, 1, 1, 1, 0], [1, 0, 0, 1, 0]]


def test_more_than_are_eligible_takes_all_of_those() -> None:
    eligible = torch.tensor([[True, False, True], [False, False, False]])
    keys = torch.tensor([[2, 0, 1], [2, 0, 1]])
    assert torch.equal(select_smallest_rows(torch.tensor([9, 2]), eligible, keys), eligible)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        (torch.int64, torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max),
        (torch.int32, torch.iinfo(torch.int32).min, torch.iinfo(torch.int32).max),
        (torch.float32, -math.inf, math.inf),
    ],
)
def test_the_largest_key_of_a_type_is_chosen_last_and_only_where_eligible(
    dtype: torch.dtype, low: float, high: float
) -> None:
    keys = torch.tensor([[high, high, low, 0, high]], dtype=dtype).expand(4, 5)
    eligible = torch.tensor([[True, False, True, True, True]]).expand(4, 5)
    found = select_smallest_rows(torch.tensor([1, 2, 3, 4]), eligible, keys)
    assert found.int().tolist() == [
        [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [1, 0, 1, 1, 0], [1, 0, 1, 1, 1],
    ]  # fmt: skip


@pytest.mark.parametrize("chunk_bytes", [1, 171 * 64 * 3])
def test_chunks_of_rows_choose_alike(chunk_bytes: int) -> None:
    seeded = generator(2)
    keys = torch.randint(0, 9, (8, 171), generator=seeded)
    eligible = torch.rand(8, 171, generator=seeded) < 0.5
    counts = torch.tensor(counts_of(eligible))
    whole = select_smallest_rows(counts, eligible, keys)
    assert torch.equal(select_smallest_rows(counts, eligible, keys, chunk_bytes=chunk_bytes), whole)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_nothing_is_chosen_from_nothing(shape: tuple[int, int]) -> None:
    none = torch.zeros(shape, dtype=torch.bool)
    counts = torch.zeros(shape[0], dtype=torch.int64)
    assert select_smallest_rows(counts, none, none.long()).shape == shape


def test_shapes_that_do_not_fit_are_refused() -> None:
    eligible = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"counts has shape \[3\]"):
        select_smallest_rows(torch.zeros(3, dtype=torch.int64), eligible, torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"a key has shape \[2, 4\]"):
        select_smallest_rows(torch.zeros(2, dtype=torch.int64), eligible, torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"\[3\]: must be \[M, n\]"):
        select_smallest_rows(torch.zeros(2, dtype=torch.int64), eligible[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_magnitude_bits_order_as_magnitudes_with_nan_last(dtype: torch.dtype) -> None:
    weight = torch.tensor([0.0, -0.0, 1e-7, -0.5, 0.75, -3.0, math.inf, NAN, -NAN], dtype=dtype)
    bits = magnitude_bits(weight).tolist()
    assert bits == sorted(bits)
    assert bits[0] == bits[1] == 0 and bits[7] == bits[8] > bits[6]
    assert bits[2] < bits[3] < bits[4] < bits[5] < bits[6]


def changed_by_rules(held: dict[str, Tensor], num_drop: list[int]) -> dict[str, Tensor]:
    """The same by sparse/topology.py, row by row."""
    t = {name: tensor.clone() for name, tensor in held.items()}
    n = t["weight"].shape[1]
    step = torch.full_like(LANE_KEYS, KEYS.step)[:, None]

    def words(stream: int) -> Tensor:
        return random_bits_ref(LANE_KEYS, step, stream, COPIES * n).reshape(ROWS, n)

    values = (2 * uniform_of_bits(words(KEYS.value)) - 1) * BOUND[:, None]
    evolve_(
        t["weight"],
        t["mask"],
        num_drop,
        words(KEYS.drop),
        words(KEYS.grow),
        torch.where(BOUND[:, None] > 0, values, 0.0),
        [t["exp_avg"], t["exp_avg_sq"]],
        FRESH.repeat_interleave(COPIES),
    )
    t["target"] = torch.where(t["mask"], t["target"], 0.0)
    return t


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", ["distinct", "ties", "nan"])
def test_a_layer_changes_as_the_rules_say_row_by_row(n: int, kind: str) -> None:
    held = layer(n, kind)
    num_drop = counts_of(held["mask"])
    num_drop = [0, *num_drop[1:]]
    found = changed_by(masked_evolve_ref_, held, torch.tensor(num_drop))
    assert_same_bits(found, changed_by_rules(held, num_drop))
    assert torch.equal(found["mask"].sum(1), held["mask"].sum(1))


def test_nan_weights_leave_last() -> None:
    held = layer(257, "nan")
    num_finite = (held["mask"] & ~held["weight"].isnan()).sum(1)
    found = changed_by(masked_evolve_ref_, held, num_finite)
    assert torch.equal(found["weight"].isnan(), held["weight"].isnan())
    assert bool((num_finite > 5).all())


@pytest.mark.parametrize("chunk_bytes", [1, 171 * COPIES * 160 * 2])
def test_chunks_of_lanes_change_alike(chunk_bytes: int) -> None:
    held = layer(171, "ties")
    num_drop = torch.tensor(counts_of(held["mask"]))
    whole = changed_by(masked_evolve_ref_, held, num_drop)
    parts = changed_by(masked_evolve_ref_, held, num_drop, chunk_bytes=chunk_bytes)
    assert_same_bits(parts, whole)


@pytest.mark.parametrize("fill", [None, NAN])
def test_a_lane_alone_changes_as_among_others_even_if_those_are_nan(fill: float | None) -> None:
    held = layer(171, "ties")
    num_drop = torch.tensor(counts_of(held["mask"]))
    for lane in range(len(LANE_KEYS)):
        rows = slice(lane * COPIES, (lane + 1) * COPIES)
        only = slice(lane, lane + 1)
        alone = changed_by(
            masked_evolve_ref_,
            {name: tensor[rows] for name, tensor in held.items()},
            num_drop[rows],
            keys=with_lanes(LANE_KEYS[only]),
            bound=BOUND[rows],
            fresh=FRESH[only],
        )
        others = {name: tensor.clone() for name, tensor in held.items()}
        if fill is not None:
            is_other = torch.ones(ROWS, dtype=torch.bool)
            is_other[rows] = False
            for name in ("weight", "exp_avg", "exp_avg_sq", "target"):
                others[name][is_other] = fill
        among = changed_by(masked_evolve_ref_, others, num_drop)
        assert_same_bits({name: tensor[rows] for name, tensor in among.items()}, alone)


def test_rows_that_drop_nothing_keep_every_bit() -> None:
    held = layer(171, "nan")
    held["target"][:] = NAN
    held["weight"][1, 0] = -0.0
    num_drop = torch.tensor([9, 0, 0, 9, 0, 9])
    found = changed_by(masked_evolve_ref_, held, num_drop)
    still = num_drop == 0
    assert_same_bits(
        {name: tensor[still] for name, tensor in found.items()},
        {name: tensor[still] for name, tensor in held.items()},
    )
    assert not torch.equal(found["mask"][0], held["mask"][0])


def test_without_moments_and_target_the_connections_are_the_same() -> None:
    held = layer(257, "distinct")
    num_drop = torch.tensor(counts_of(held["mask"]))
    expected = changed_by(masked_evolve_, held, num_drop)
    weight, mask = held["weight"].clone(), held["mask"].clone()
    masked_evolve_(weight, mask, num_drop, KEYS, BOUND)
    assert_same_bits(
        {"weight": weight, "mask": mask}, {"weight": expected["weight"], "mask": expected["mask"]}
    )


def test_changing_connections_makes_no_host_wait() -> None:
    held = layer(171, "ties")
    num_drop = torch.tensor(counts_of(held["mask"]))
    keys = torch.randint(0, 9, (ROWS, 171), generator=generator(3))
    with NoHostReads():
        select_smallest_rows(num_drop, held["mask"], magnitude_bits(held["weight"]), keys)
        changed_by(masked_evolve_, held, num_drop)
        changed_by(masked_evolve_ref_, held, num_drop, chunk_bytes=1)
    with pytest.raises(AssertionError, match="nonzero makes the host wait"), NoHostReads():
        drop_smallest(held["weight"], held["mask"], [1] * ROWS, keys)


def test_a_change_is_seen_by_autograd() -> None:
    held = layer(5, "distinct")
    weight = held["weight"].clone().requires_grad_()
    loss = (weight * weight).sum()
    masked_evolve_(weight.detach(), held["mask"], torch.ones(ROWS, dtype=torch.int64), KEYS, BOUND)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_tensors_that_do_not_fit_are_refused() -> None:
    held = layer(5, "distinct")
    weight, mask = held["weight"], held["mask"]
    counts = torch.ones(ROWS, dtype=torch.int64)
    with pytest.raises(ValueError, match="6 rows for 4 lanes"):
        keys = with_lanes(torch.zeros(4, dtype=torch.int64))
        masked_evolve_(weight, mask, counts, keys, BOUND)
    with pytest.raises(ValueError, match=r"a mask of torch\.uint8"):
        masked_evolve_(weight, mask.to(torch.uint8), counts, KEYS, BOUND)
    with pytest.raises(ValueError, match="unlike the weight's"):
        masked_evolve_(weight, mask, counts, KEYS, BOUND, target=weight.double())
    with pytest.raises(ValueError, match=r"must be contiguous and \[6, 5\]"):
        masked_evolve_(weight, mask.t().contiguous().t(), counts, KEYS, BOUND)
    with pytest.raises(ValueError, match="1 moments are not allowed"):
        masked_evolve_(weight, mask, counts, KEYS, BOUND, [weight.clone()])
    with pytest.raises(ValueError, match=r"num_drop is \[6\] torch\.int32"):
        masked_evolve_(weight, mask, counts.int(), KEYS, BOUND)
    with pytest.raises(ValueError, match=r"new_bound is \[5\]"):
        masked_evolve_(weight, mask, counts, KEYS, BOUND[1:])
    with pytest.raises(ValueError, match=r"fresh_moments is \[6\]"):
        fresh = torch.ones(ROWS, dtype=torch.bool)
        masked_evolve_(weight, mask, counts, KEYS, BOUND, fresh_moments=fresh)


def test_temporary_memory_of_a_large_layer_is_a_chunk_of_rows() -> None:
    # HalfCheetah's first critic layer at 99% noise: 256 lanes of two critics.
    n, rows = 437_000, 512
    chunks = list(select._chunks(rows, n * select._SELECT_BYTES, select.CHUNK_BYTES))
    assert [chunk.start for chunk in chunks] == list(range(0, rows, 9))
    assert chunks[-1].stop == rows
