"""Writes files that are compared with the agent before they take their place.

A file's content is loaded as its users will load it, and run on random features and on zeros; only
if its actions are the agent's is it written. Allowed are differences of 1e-5 of the
action range, and no more than four times what the agent's own rounding makes where that is larger:
products are added up in another order, and in float32 the actions of a trained agent are not known
better (HalfCheetah-v3 with 90% noise after 59,000 steps: 7e-6 of the range away from float64).

Axes: n rows, F features, A actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastanf.agent import Agent
from fastanf.export.formats import FORMATS, Act
from fastanf.export.policy import Floats, Policy
from fastanf.files import write_atomic
from fastanf.kernels.layer_input import LayerInput
from fastanf.nets import ActionRange, StackedMLP
from fastanf.sparse.layers import MaskedLinear

TOLERANCE = 1e-5
"""Largest difference of an action from the agent's, as a share of its range."""
_ROUNDINGS = 4
"""The same, as a multiple of the agent's own rounding error."""
_BATCHES = (1, 7)


@dataclass(frozen=True)
class Exported:
    """A file that was written and compared."""

    path: Path
    num_bytes: int
    largest_difference: float
    """Of an action from the agent's, in the units of the task."""


def write_checked(agent: Agent, policy: Policy, format_name: str, path: Path) -> Exported:
    """Write one file, replacing the one at its place if the new one acts as the agent does.

    Args:
        agent: to write.
        policy: its arrays.
        format_name: one of `FORMATS`.
        path: the place; its folder is there.

    Raises:
        ValueError: the actions differ; nothing is written.
        OSError: it cannot be written.
    """
    entry = FORMATS[format_name]
    content = entry.content(agent, policy)
    difference = _difference(agent, entry.read(content), format_name)
    write_atomic(path, content)
    return Exported(path, len(content), difference)


def _difference(agent: Agent, act: Act, format_name: str) -> float:
    """The largest difference of an action, in the units of the task.

    Raises:
        ValueError: it is larger than allowed.
    """
    rng, F = np.random.default_rng(0), agent.num_features
    low, high = (np.array(limit) for limit in (agent.spec.action_low, agent.spec.action_high))
    differences, roundings = [], []
    for n in _BATCHES:
        for features in (rng.standard_normal((n, F), dtype=np.float32), np.zeros((n, F), "f4")):
            expected = agent.act_on_features(features)
            found = act(features)
            if found.shape != expected.shape:
                raise ValueError(
                    f"--format {format_name}: the file gives actions {[*found.shape]} where the "
                    f"agent gives {[*expected.shape]}; it is not written"
                )
            differences.append(np.abs(found.astype(np.float64) - expected))
            roundings.append(np.abs(_exact_actions(agent, features) - expected))
    difference, rounding = (np.concatenate(each) for each in (differences, roundings))
    share, own_share = (float((each / (high - low)).max()) for each in (difference, rounding))
    allowed = max(TOLERANCE, _ROUNDINGS * own_share)
    if not share < allowed:  # a NaN is not
        raise ValueError(
            f"--format {format_name}: the file's actions differ from the agent's by up to "
            f"{share:.1e} of the action range, allowed is {allowed:.0e}; it is not written"
        )
    return float(difference.max())


@torch.no_grad()
def _exact_actions(agent: Agent, features: Floats) -> NDArray[np.float64]:
    """What the agent does [n, A], computed in float64."""

    def wide(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.double() for name, tensor in tensors.items()}

    mlp, statistics = agent.mlp, agent.features.statistics
    network = StackedMLP(
        [MaskedLinear(layer.to_dense().double(), layer.bias.double()) for layer in mlp.layers],
        mlp.activation,
        [wide(tensors) for tensors in mlp.activation_parameters],
        [wide(tensors) for tensors in mlp.norm_parameters],
        None if mlp.gate is None else mlp.gate.double(),
    )
    x = torch.from_numpy(features).t().unsqueeze(0)  # [n, F] -> [1, F, n]
    x = x if statistics is None else statistics.normalised(x)
    head = network.forward(LayerInput(x.double()))[:, : agent.spec.num_actions]
    wide_range = ActionRange(*(limit.double() for limit in agent.action_range))
    return wide_range.squash(head)[0].t().numpy()
