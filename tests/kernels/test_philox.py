"""The generator against published vectors and plain Python; the compiled form against torch."""

from __future__ import annotations

import pytest
import torch

from fastanf import kernels
from fastanf.kernels.philox import (
    normal_of_bits,
    philox_ref,
    random_bits,
    random_bits_ref,
    random_normal,
    random_normal_ref,
    random_uniform,
    random_uniform_ref,
    uniform_of_bits,
)

SIZES = (1, 3, 5, 171, 257)
# Both sides round once to float32; the compiled polynomials add their own rounding errors.
# 4 is the largest seen over 20 million draws.
NORMAL_ULPS = 6

needs_native = pytest.mark.skipif(kernels.NATIVE is None, reason="kernels are not compiled")


def philox_python(counter: list[int], key: list[int], rounds: int) -> list[int]:
    """Philox4x32 in plain integers, from the paper's figure."""
    (a, b, c, d), (k, m) = counter, key
    for _ in range(rounds):
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right >> 32) ^ b ^ k, right % 2**32, (left >> 32) ^ d ^ m, left % 2**32
        k, m = (k + 0x9E3779B9) % 2**32, (m + 0xBB67AE85) % 2**32
    return [a, b, c, d]


# Counter, key and result of the Random123 distribution's known answers, 10 rounds.
KNOWN_ANSWERS_10 = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    (
        [0xFFFFFFFF] * 4,
        [0xFFFFFFFF] * 2,
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
    ),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def philox_torch(counter: list[int], key: list[int], rounds: int) -> list[int]:
    c0, c1, c2, c3 = (torch.tensor([value]) for value in counter)
    k0, k1 = (torch.tensor([value]) for value in key)
    return [int(word) for word in philox_ref((c0, c1, c2, c3), (k0, k1), rounds)]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS_10)
def test_ten_rounds_give_the_published_known_answers(counter, key, words):
    assert philox_torch(counter, key, 10) == words
    assert philox_python(counter, key, 10) == words


def test_words_are_seven_rounds_of_block_row_and_stream():
    key, row, stream = 0x0123456789ABCDEF, 0x7EDCBA9876543210, 0xCAFEF00D
    expected = []
    for block in range(3):
        counter = [block, row % 2**32, row >> 32, stream]
        expected += philox_python(counter, [key % 2**32, key >> 32], 7)
    got = random_bits(torch.tensor([key]), torch.tensor([[row]]), stream, 12)
    assert got.flatten().tolist() == expected
    assert expected[:4] == [0x0C561C9F, 0x364294A9, 0xEE06AF19, 0xC52DA83D]


def lanes_and_rows(num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    key = torch.tensor([0, 5, 2**63 - 1])
    generator = torch.Generator().manual_seed(num_rows)
    return key, torch.randint(0, 2**63 - 1, (3, num_rows), generator=generator)


@needs_native
@pytest.mark.parametrize("num_rows", [*SIZES, 8, 10, 16, 100, 300])
@pytest.mark.parametrize("n", SIZES)
def test_native_and_reference_agree(num_rows: int, n: int):
    key, row = lanes_and_rows(num_rows)
    for first_word in (0, 1, 6):
        expected = random_bits_ref(key, row, 9, n, first_word)
        assert torch.equal(random_bits(key, row, 9, n, first_word), expected)
    assert torch.equal(random_uniform(key, row, 9, n), random_uniform_ref(key, row, 9, n))
    expected = random_normal_ref(key, row, 9, n)
    ulp = torch.nextafter(expected.abs(), torch.tensor(torch.inf)) - expected.abs()
    assert ((random_normal(key, row, 9, n) - expected).abs() <= NORMAL_ULPS * ulp).all()


@needs_native
def test_every_instruction_set_gives_the_same_bits():
    assert kernels.NATIVE is not None
    best = kernels.NATIVE.fastanf_variant()
    results = []
    try:
        for variant in range(best + 1):
            assert kernels.NATIVE.fastanf_set_variant(variant) == variant
            draws = []
            for num_rows in (1, 5, 37, 100):
                key, row = lanes_and_rows(num_rows)
                draws += [random_bits(key, row, 3, 30), random_normal(key, row, 3, 30)]
            results.append(draws)
    finally:
        kernels.NATIVE.fastanf_set_variant(best)
    for draws in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(draws, results[0], strict=True))


def test_uniforms_are_strictly_inside_the_unit_interval():
    key, row = torch.arange(4), torch.arange(4 * 250).view(4, 250)
    u = random_uniform(key, row, 0, 1000).double()
    assert u.min() > 0 and u.max() < 1
    # Mean 1/2 and variance 1/12 of a million draws, within 4 standard errors.
    assert abs(u.mean() - 0.5) < 4 * (1 / 12) ** 0.5 / 1000
    assert abs(u.var() - 1 / 12) < 4 * (1 / 180) ** 0.5 / 1000


@pytest.mark.parametrize("bits", [0, 2**32 - 1])
def test_extreme_words_stay_inside_the_unit_interval(bits: int):
    word = torch.full((1, 4, 1), bits)
    u = uniform_of_bits(word)
    assert (u > 0).all() and (u < 1).all()
    assert torch.equal(u.double(), torch.full_like(u.double(), ((bits >> 9) * 2 + 1) * 2.0**-24))
    assert normal_of_bits(word).isfinite().all()


def test_nothing_to_draw_gives_empty_tensors():
    key, row = torch.tensor([1]), torch.tensor([[2, 3]])
    assert random_bits(key, row, 0, 0).shape == (1, 0, 2)
    assert random_normal(key, row[:, :0], 0, 3).shape == (1, 3, 0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"stream": -1}, "stream"),
        ({"stream": 2**32}, "stream"),
        ({"num_words": -1}, "words"),
        ({"first_word": -1}, "first_word"),
        ({"key": torch.tensor([1, 2])}, "key"),
        ({"row": torch.tensor([[1.0]])}, "row"),
    ],
)
def test_wrong_arguments_are_named(change: dict, named: str):
    arguments = {"key": torch.tensor([1]), "row": torch.tensor([[1]]), "stream": 0, "num_words": 4}
    with pytest.raises(ValueError, match=named):
        random_bits(**{**arguments, **change})
