"""What the losses of actor-critics are made of, each a handful of operations on small tensors that
a GPU does in one launch.

Axes: L lanes, C critics, B minibatch.
"""

from __future__ import annotations

from torch import Tensor

from fastanf import kernels


def bellman_target_ref(
    q_next: Tensor,
    reward: Tensor,
    not_terminated: Tensor,
    discount: Tensor,
    log_density_next: Tensor | None = None,
    temperature: Tensor | None = None,
) -> Tensor:
    """Plain-torch definition of `bellman_target`."""
    value = q_next.amin(1)
    if log_density_next is not None:
        assert temperature is not None
        value = value - temperature.unsqueeze(1) * log_density_next
    return reward + discount.unsqueeze(1) * not_terminated * value


def bellman_target(
    q_next: Tensor,
    reward: Tensor,
    not_terminated: Tensor,
    discount: Tensor,
    log_density_next: Tensor | None = None,
    temperature: Tensor | None = None,
) -> Tensor:
    """y = r + discount * not_terminated * (min_c Q_c(s', a') - temperature * log pi(a'|s')).

    Args:
        q_next: [L, C, B].
        reward: [L, B].
        not_terminated: [L, B] in {0, 1}.
        discount: [L].
        log_density_next: [L, B], or None for no entropy.
        temperature: [L], with it.

    Returns:
        [L, B].
    """
    soft = (
        () if log_density_next is None or temperature is None else (log_density_next, temperature)
    )
    if not kernels.is_triton(q_next, reward, not_terminated, discount, *soft):
        return bellman_target_ref(
            q_next, reward, not_terminated, discount, log_density_next, temperature
        )
    from fastanf.kernels.gpu import losses

    return losses.bellman_target(q_next, reward, not_terminated, discount, soft)


def squared_error_ref(q: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Plain-torch definition of `squared_error`."""
    error = q - target.unsqueeze(1)
    return error, error * (2 / error.shape[2])


def squared_error(q: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """q_c - y, and the gradient of mean over B of (q_c - y)^2 with respect to q.

    Args:
        q: [L, C, B].
        target: [L, B] y.

    Returns:
        Two of [L, C, B].
    """
    if not kernels.is_triton(q, target):
        return squared_error_ref(q, target)
    from fastanf.kernels.gpu import losses

    return losses.squared_error(q, target)


def smallest_value_ref(q: Tensor) -> tuple[Tensor, Tensor]:
    """Plain-torch definition of `smallest_value`."""
    smallest = q.amin(1)
    is_smallest = (q == smallest.unsqueeze(1)).to(q.dtype)
    return smallest, is_smallest * (-1 / q.shape[2]) / is_smallest.sum(1, keepdim=True)


def smallest_value(q: Tensor) -> tuple[Tensor, Tensor]:
    """min_c Q_c, and the gradient of -mean over B of it with respect to q; critics that are equal
    share it.

    Args:
        q: [L, C, B].

    Returns:
        [L, B] and [L, C, B].
    """
    if not kernels.is_triton(q):
        return smallest_value_ref(q)
    from fastanf.kernels.gpu import losses

    return losses.smallest_value(q)


def mean_slope(like: Tensor, weight: Tensor) -> Tensor:
    """The gradient of weight * mean over B with respect to `like`: weight [L] / B, [L, B]."""
    return (weight.unsqueeze(1) / like.shape[1]).expand_as(like)
