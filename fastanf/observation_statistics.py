"""Running mean and variance of everything that lanes observe, and observations brought to them.

    x' = clip((x - mean) / sqrt(var + 1e-8), -10, 10)

For E new observations beside n old ones, with means m', m and sums of squared deviations s', s,

    m <- m + (m' - m) E / (n + E)          s <- s + s' + (m' - m)^2 n E / (n + E)

in float64. Nothing is added up over lanes, and over E by a tree (tree_sum.py): a lane's bits are
its own.

Axes: L lanes, F features by their place in the networks' input, E environments per lane, B rows.
Source of the update: Chan et al. 1979, "Updating formulae and a pairwise algorithm for computing
sample variances".
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastanf.kernels.tree_sum import tree_sum

EPS = 1e-8
CLIP = 10.0


class ObservationStatistics:
    """Of all lanes; every tensor keeps its place in memory, as a CUDA graph needs it.

    Args:
        num_lanes: L.
        num_features: F.
        device: of the observations.
    """

    def __init__(self, num_lanes: int, num_features: int, device: torch.device):
        shape = num_lanes, num_features, 1
        self.count = torch.zeros((), dtype=torch.float64, device=device)
        """Observations of each lane so far."""
        self.mean = torch.zeros(shape, dtype=torch.float64, device=device)
        self.squares = torch.zeros(shape, dtype=torch.float64, device=device)
        """Sum of squared deviations from the mean."""
        # As they are used; before anything was observed x' is x, but for the clip.
        self._shift = torch.zeros(shape, device=device)
        self._scale = torch.ones(shape, device=device)

    def observe_(self, x: Tensor) -> None:
        """Count the observations x [L, F, E]."""
        x, E = x.double(), x.shape[2]
        mean = tree_sum(x, 2) / E
        centred = x - mean
        delta, total = mean - self.mean, self.count + E
        self.squares += tree_sum(centred * centred, 2) + delta * delta * (self.count * E / total)
        self.mean += delta * (E / total)
        self.count.copy_(total)
        self._refresh_()

    def _refresh_(self) -> None:
        self._shift.copy_(self.mean)
        variance = self.squares / self.count.clamp(min=1)
        self._scale.copy_(torch.where(self.count > 0, (variance + EPS).sqrt(), 1.0))

    def normalised(self, x: Tensor) -> Tensor:
        """x' of x [L, F, B] float32."""
        return ((x - self._shift) / self._scale).clamp(-CLIP, CLIP)

    def state_dict(self) -> dict[str, Tensor]:
        """What was observed so far, in three tensors."""
        counted = {"observed": self.count, "observed_mean": self.mean}
        return counted | {"observed_squares": self.squares}

    def load_state_dict_(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            KeyError: the state was saved without statistics.
        """
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])
        self._refresh_()
