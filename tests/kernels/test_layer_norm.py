"""Layer norm and the tree of additions below it: numbers, gradients, bits that know no place."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fastanf.kernels.layer_norm import EPS, layer_norm
from fastanf.kernels.tree_sum import tree_sum

SIZES = (1, 3, 5, 171, 257)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def arguments(G: int, H: int, B: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """h of other mean and deviation than 0 and 1, scale and shift; all learn."""
    h = 3 * random(G, H, B, dtype=dtype) + 2
    scale, shift = (random(G, H, 1, seed=seed, dtype=dtype) for seed in (1, 2))
    return [tensor.requires_grad_() for tensor in (h, scale, shift)]


def results(h: Tensor, scale: Tensor, shift: Tensor, direction: Tensor) -> list[Tensor]:
    """The output and all gradients."""
    y = layer_norm(h, scale, shift)
    return [y.detach(), *torch.autograd.grad(y, (h, scale, shift), direction)]


@pytest.mark.parametrize("B", SIZES)
@pytest.mark.parametrize("H", SIZES)
def test_numbers_and_gradients_are_torchs(H: int, B: int) -> None:
    G = 3
    h, scale, shift = arguments(G, H, B, torch.float64)
    direction = random(G, H, B, seed=4, dtype=torch.float64)
    found = results(h, scale, shift, direction)
    rows = [
        torch.nn.functional.layer_norm(
            h[g].T, (H,), scale[g].squeeze(1), shift[g].squeeze(1), eps=EPS
        ).T
        for g in range(G)
    ]
    expected = torch.stack(rows)
    grads = torch.autograd.grad(expected, (h, scale, shift), direction)
    # Sums of up to 257 terms in another order; one unit alone is divided by sqrt(eps).
    for one, other in zip(found, [expected.detach(), *grads], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(("H", "B"), [(1, 1), (3, 171), (257, 5), (256, 100), (17, 33)])
def test_bits_do_not_depend_on_place_neighbours_or_threads(
    H: int, B: int, num_threads: int
) -> None:
    torch.set_num_threads(1)
    G, h, scale, shift = 5, *arguments(5, H, B)
    direction = random(G, H, B, seed=4)
    together = results(h, scale, shift, direction)
    torch.set_num_threads(num_threads)
    for g in range(G):
        alone = [tensor[g : g + 1].detach().clone() for tensor in (h, scale, shift, direction)]
        own = results(
            alone[0].requires_grad_(),
            alone[1].requires_grad_(),
            alone[2].requires_grad_(),
            alone[3],
        )
        for one, many in zip(own, together, strict=True):
            assert torch.equal(one[0], many[g])
    # A column beside others, at another place.
    with torch.no_grad():
        some = layer_norm(h[:, :, B // 2 :].contiguous(), scale, shift)
    assert torch.equal(some, together[0][:, :, B // 2 :])


def test_broken_neighbours_change_nothing() -> None:
    h, scale, shift = (tensor.detach() for tensor in arguments(3, 17, 9))
    expected = layer_norm(h, scale, shift)
    h[[0, 2]] = float("nan")
    found = layer_norm(h, scale, shift)
    assert torch.equal(found[1], expected[1])
    assert bool(found[[0, 2]].isnan().all())


def test_only_wanted_gradients_are_computed() -> None:
    h, scale, shift = arguments(2, 5, 7)
    frozen = layer_norm(h, scale.detach(), shift.detach())
    (own,) = torch.autograd.grad(frozen.sum(), h)
    assert own.shape == h.shape
    assert not layer_norm(h.detach(), scale.detach(), shift.detach()).requires_grad
    (of_scale,) = torch.autograd.grad(layer_norm(h.detach(), scale, shift).sum(), scale)
    assert of_scale.shape == scale.shape


def test_wrong_shapes_are_refused() -> None:
    h, scale, shift = arguments(2, 5, 7)
    with pytest.raises(ValueError, match=r"must be \[2, 5, 1\]"):
        layer_norm(h, scale[:1], shift)


@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("n", [*SIZES, 2, 4, 100, 256])
def test_a_tree_of_additions_is_the_sum(n: int, dim: int) -> None:
    shape = [3, 4, 5]
    shape[dim] = n
    x = random(*shape, dtype=torch.float64)
    kept = x.clone()
    found = tree_sum(x, dim)
    torch.testing.assert_close(found, x.sum(dim, keepdim=True), rtol=1e-12, atol=1e-12)
    assert torch.equal(x, kept)


def test_a_tree_adds_in_the_order_that_it_says() -> None:
    a, b, c, d, e = x = random(5)
    assert torch.equal(tree_sum(x, 0)[0], ((a + c) + e) + (b + d))
    assert torch.equal(tree_sum(x[:3], 0)[0], (a + b) + c)
    with pytest.raises(ValueError, match="must have an entry"):
        tree_sum(x[:0], 0)
