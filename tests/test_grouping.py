"""Lanes in blocks by their static settings."""

import pytest

from fastanf.grouping import make_blocks
from fastanf.presets import expand


def test_policies_of_one_algorithm_share_a_block() -> None:
    lanes = expand(["SAC", "Static-SAC", "ANF-SAC", "TowS-SAC"], num_seeds=2).lanes
    blocks = make_blocks(lanes)
    assert [block.indices for block in blocks] == [tuple(range(8))]
    assert blocks[0].table.column("seed") == [0, 1] * 4


@pytest.mark.parametrize(
    ("policies", "vary", "sizes"),
    [
        (["SAC", "TD3"], {}, [1, 1]),
        (["ANF-SAC", "DS-SAC"], {}, [1, 1]),  # batch 100 and 256
        (["TD3", "ANF-TD3", "Static-TD3", "TowS-TD3", "DS-TD3"], {}, [5]),
        (["ANF-SAC"], {"optimizer": ["Adam", "SGD", "MaskAdam"]}, [2, 1]),
        (["ANF-SAC"], {"noise_fraction": [0.9, 0.95], "learning_rate": [1e-3, 1e-4]}, [2, 2]),
        (["ANF-SAC"], {"hidden": [(64,), (32, 32)]}, [1, 1]),
        (["ANF-SAC"], {"drop_fraction": [0.1, 0.2], "weight_decay": [0.0, 1e-4]}, [4]),
    ],
)
def test_blocks_part_where_a_static_setting_differs(
    policies: list[str], vary: dict[str, list[object]], sizes: list[int]
) -> None:
    blocks = make_blocks(expand(policies, vary).lanes)
    assert [len(block.lanes) for block in blocks] == sizes
