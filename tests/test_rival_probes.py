"""Known values are found with layer norm, normalised observations, penalties and gates too, and
what these are for is seen: noise loses its weight.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tests.test_probes as probes
from fastanf.block import TrainingBlock

CASES: dict[str, dict[str, Any]] = {
    "norm": {"layer_norm": True},
    "observations": {"normalize_observations": True, "noise_std": 4.0},
    "penalties": {"input_l1": 1e-4, "input_group_lasso": 1e-4},
    "gate": {"input_gate": True},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
def test_value_follows_the_observation(algorithm: str, case: str) -> None:
    block = probes.learn(algorithm, "Observation", 400, **CASES[case])
    for sign in (-1.0, 1.0):
        probes.assert_near(probes.value(block, sign), sign, 2 * probes.VALUE_TOLERANCE)


def noise_share(block: TrainingBlock) -> torch.Tensor:
    """[L] mean |weight| of the critics' noise features, in units of that of the real one."""
    weight = block.algorithm.critic.mlp.input_weight().abs().mean(1).view(2, 2, -1)  # [L, C, I]
    return (weight[..., 1:4].mean((1, 2)) / weight[..., 0].mean(1)).detach()


@pytest.mark.parametrize("name", ["input_l1", "input_group_lasso"])
def test_penalties_take_weight_from_noise(name: str) -> None:
    plain, penalised = (
        noise_share(probes.learn("SAC", "Observation", 400, **{name: strength}))
        for strength in (0.0, 0.003)
    )
    assert bool((penalised < plain / 2).all())
