"""Lanes in blocks by their static settings and the layouts of their layers."""

import ctypes
from collections.abc import Mapping
from typing import Any

import pytest

from fastanf import kernels
from fastanf.grouping import make_blocks
from fastanf.presets import expand, lane_config
from fastanf.sparse.layers import CSR, MASKED

MASKED_LAYOUT = {"layout": "masked"}


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layouts are those of a machine with compiled kernels; nothing here computes with them."""
    monkeypatch.setattr(kernels, "NATIVE", ctypes.CDLL(None))


def test_policies_of_one_algorithm_share_a_block_on_the_masked_layout() -> None:
    lanes = expand(
        ["SAC", "Static-SAC", "ANF-SAC", "TowS-SAC"], num_seeds=2, overrides=MASKED_LAYOUT
    ).lanes
    blocks = make_blocks(lanes)
    assert [block.indices for block in blocks] == [tuple(range(8))]
    assert blocks[0].table.column("seed") == [0, 1] * 4


def test_blocks_part_where_layouts_do() -> None:
    lanes = expand(["SAC", "Static-SAC", "ANF-SAC", "TowS-SAC"], num_seeds=2).lanes
    blocks = make_blocks(lanes)
    assert [block.indices for block in blocks] == [(0, 1), (2, 3, 4, 5), (6, 7)]
    assert [block.layouts[0] for block in blocks] == [
        (MASKED, MASKED, MASKED), (CSR, MASKED, MASKED), (CSR, CSR, MASKED)
    ]  # fmt: skip


def test_sparse_and_dense_lanes_are_two_blocks_that_keep_the_order_of_lanes() -> None:
    blocks = make_blocks(
        [lane_config(policy) for policy in ("ANF-SAC", "SAC", "ANF-SAC", "Static-SAC", "SAC")]
    )
    assert [block.indices for block in blocks] == [(0, 2, 3), (1, 4)]


def test_sparsities_below_the_threshold_share_a_ragged_block() -> None:
    lanes = expand(["ANF-SAC"], {"input_layer_sparsity": [0.8, 0.95, 0.3]}).lanes
    blocks = make_blocks(lanes)
    assert [block.indices for block in blocks] == [(0, 1), (2,)]
    assert [block.layouts[0][0] for block in blocks] == [CSR, MASKED]
    counts = [actor.active_counts[0] for actor, _ in blocks[0].networks]
    assert counts[0] > counts[1]


def test_a_gpu_keeps_sparse_and_dense_lanes_in_one_block() -> None:
    lanes = expand(["SAC", "ANF-SAC", "TowS-SAC"]).lanes
    (block,) = make_blocks(lanes, "cuda:0")
    assert (block.indices, block.device) == ((0, 1, 2), "cuda:0")


@pytest.mark.parametrize(
    ("policies", "settings", "sizes"),
    [
        (["SAC", "TD3"], {}, [1, 1]),
        (["ANF-SAC", "DS-SAC"], {}, [1, 1]),  # batch 100 and 256
        (["TD3", "ANF-TD3", "Static-TD3", "TowS-TD3", "DS-TD3"], MASKED_LAYOUT, [5]),
        (["TD3", "ANF-TD3", "Static-TD3", "TowS-TD3", "DS-TD3"], {}, [2, 2, 1]),  # DS is masked
        (["ANF-SAC"], {"optimizer": ["Adam", "SGD", "MaskAdam"], **MASKED_LAYOUT}, [2, 1]),
        (["ANF-SAC"], {"optimizer": ["Adam", "SGD", "MaskAdam"]}, [1, 1, 1]),
        (["ANF-SAC"], {"layout": ["auto", "masked", "csr"]}, [1, 1, 1]),
        (["ANF-SAC"], {"noise_fraction": [0.9, 0.95], "learning_rate": [1e-3, 1e-4]}, [2, 2]),
        (["ANF-SAC"], {"hidden": [(64,), (32, 32)]}, [1, 1]),
        (["ANF-SAC"], {"drop_fraction": [0.1, 0.2], "weight_decay": [0.0, 1e-4]}, [4]),
    ],
)
def test_blocks_part_where_a_static_setting_differs(
    policies: list[str], settings: Mapping[str, Any], sizes: list[int]
) -> None:
    vary = {name: values for name, values in settings.items() if isinstance(values, list)}
    overrides = {name: value for name, value in settings.items() if name not in vary}
    blocks = make_blocks(expand(policies, vary, overrides=overrides).lanes)
    assert [len(block.lanes) for block in blocks] == sizes
