"""Lane random numbers: functions of the lane's seed, stream and step alone."""

from __future__ import annotations

import pytest
import torch

from fastanf.rng import LaneRng, Stream, row_seeds, stream_word

SEEDS = [0, 1, 2, 2**63 - 1]


def draws(rng: LaneRng, step: int = 7) -> list[torch.Tensor]:
    return [
        rng.bits(Stream.EVAL, step, (5,)),
        rng.uniform(Stream.INIT, step, (3, 4), sub=2),
        rng.normal(Stream.EXPLORE, step, (171,)),
        rng.integers(Stream.REPLAY, step, 1_000_000, (100,)),
        rng.permutation(Stream.PERMUTATION, step, 171),
    ]


def test_a_lane_depends_on_its_own_seed_only():
    together = draws(LaneRng(SEEDS))
    for lane, seed in enumerate(SEEDS):
        alone = draws(LaneRng([seed]))
        for all_lanes, one in zip(together, alone, strict=True):
            assert torch.equal(all_lanes[lane : lane + 1], one)
    selected = draws(LaneRng(SEEDS).select([3, 1]))
    for all_lanes, some in zip(together, selected, strict=True):
        assert torch.equal(all_lanes[[3, 1]], some)


def test_equal_names_repeat_and_other_names_differ():
    rng = LaneRng(SEEDS)
    first = rng.normal(Stream.INIT, 3, (50,))
    assert torch.equal(first, rng.normal(Stream.INIT, 3, (50,)))
    for stream, step, sub in ((Stream.MASK, 3, 0), (Stream.INIT, 4, 0), (Stream.INIT, 3, 1)):
        assert not (first == rng.normal(stream, step, (50,), sub=sub)).any()
    # Neighbouring seeds share nothing.
    assert not (first[0] == first[1]).any()


def test_a_tensor_of_steps_gives_each_lane_its_own_step():
    rng = LaneRng([5, 6])
    mixed = rng.uniform(Stream.INIT, torch.tensor([3, 9]), (4,))
    assert torch.equal(mixed[0], rng.uniform(Stream.INIT, 3, (4,))[0])
    assert torch.equal(mixed[1], rng.uniform(Stream.INIT, 9, (4,))[1])


def test_shapes_types_and_ranges():
    rng = LaneRng(torch.tensor(SEEDS))
    assert rng.num_lanes == 4
    assert rng.uniform(0, 0, ()).shape == (4,)
    assert rng.normal(0, 0, (2, 0)).shape == (4, 2, 0)
    uniform = rng.uniform(0, 0, (3, 5))
    assert uniform.shape == (4, 3, 5) and uniform.dtype == torch.float32
    for high in (1, 2, 17, 2**31):
        drawn = rng.integers(0, 0, high, (1000,))
        assert drawn.dtype == torch.int64 and drawn.min() >= 0 and drawn.max() < high


@pytest.mark.parametrize("high", [7, 1000])
def test_integers_are_uniform(high: int):
    drawn = LaneRng([11]).integers(Stream.REPLAY, 0, high, (200_000,))
    counts = torch.bincount(drawn[0], minlength=high).double()
    expected = 200_000 / high
    chi_square = ((counts - expected) ** 2 / expected).sum()
    # Mean high - 1, variance 2 (high - 1): four standard deviations.
    assert abs(chi_square - (high - 1)) < 4 * (2 * (high - 1)) ** 0.5


def test_permutations_are_uniform_orders():
    rng = LaneRng(range(20_000))
    order = rng.permutation(Stream.PERMUTATION, 1, 3)
    assert torch.equal(order.sort(dim=1).values, torch.arange(3).expand(20_000, 3))
    code = order[:, 0] * 9 + order[:, 1] * 3 + order[:, 2]
    counts = torch.bincount(code)
    counts = counts[counts > 0].double()
    assert counts.numel() == 6
    # Binomial with p = 1/6: standard deviation 53.
    assert (counts - 20_000 / 6).abs().max() < 4 * 53


def test_row_seeds_do_not_collide_between_neighbouring_lanes_or_purposes():
    seeds = row_seeds(range(8), 16) + row_seeds(range(8), 16, purpose=1)
    assert len(set(seeds)) == len(seeds) == 256
    assert all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds)
    assert row_seeds([3], 16) == row_seeds(range(8), 16)[48:64]
    assert row_seeds([3], 4) == row_seeds([3], 16)[:4]
    assert row_seeds([3], 0) == []


def test_stream_values_are_fixed():
    """A renumbered stream would silently change every recorded run."""
    assert [stream.name for stream in Stream] == [
        "INIT", "MASK", "TOPOLOGY_DROP", "TOPOLOGY_GROW", "TOPOLOGY_VALUE", "REPLAY",
        "ACTION_NOISE", "TARGET_NOISE", "EXPLORE", "RANDOM_ACTION", "LEARN_FEATURES",
        "COLLECT_FEATURES", "EVAL_FEATURES", "STEP_FEATURES", "PERMUTATION", "EVAL", "ROW_SEEDS",
    ]  # fmt: skip
    assert [int(stream) for stream in Stream] == list(range(len(Stream)))
    assert stream_word(Stream.REPLAY, 3) == 5 + 3 * 256


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70])
def test_seeds_out_of_range_are_named(seed: int):
    for refuse in (lambda: LaneRng([0, seed]), lambda: row_seeds([seed], 1)):
        with pytest.raises(ValueError, match=f"seed={seed}: must be in") as error:
            refuse()
        assert "\n" not in str(error.value)


def test_wrong_arguments_are_named():
    rng = LaneRng([0])
    with pytest.raises(ValueError, match="seed=-2"):
        LaneRng(torch.tensor([3, -2]))
    with pytest.raises(ValueError, match="int64"):
        LaneRng(torch.tensor([3.0]))
    with pytest.raises(ValueError, match="high=0"):
        rng.integers(0, 0, 0, (1,))
    with pytest.raises(ValueError, match="high="):
        rng.integers(0, 0, 2**31 + 1, (1,))
    with pytest.raises(ValueError, match="stream=256"):
        rng.bits(256, 0, (1,))
    with pytest.raises(ValueError, match="sub=-1"):
        rng.bits(0, 0, (1,), sub=-1)
    with pytest.raises(ValueError, match="step=-1"):
        rng.bits(0, -1, (1,))
    with pytest.raises(ValueError, match="num_rows=-1"):
        row_seeds([0], -1)
