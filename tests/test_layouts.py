"""How layers are stored: by density, device, kernels and settings, and what is refused."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from fastanf import kernels
from fastanf.config import TrainConfig
from fastanf.grouping import block_of
from fastanf.layouts import CSR_BELOW_DENSITY, layer_layouts, layout_reason
from fastanf.presets import lane_config
from fastanf.sparse.layers import CSR, MASKED

INPUT_ONLY = ((CSR, MASKED, MASKED),) * 2
ALL_HIDDEN = ((CSR, CSR, MASKED),) * 2
ALL_MASKED = ((MASKED, MASKED, MASKED),) * 2
TRIM = {"target_sparsity": "trim"}


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices are those of a machine with compiled kernels; nothing here computes with them."""
    monkeypatch.setattr(kernels, "NATIVE", ctypes.CDLL(None))


def chosen(lane: TrainConfig, device: str = "cpu") -> tuple[tuple[str, ...], tuple[str, ...]]:
    return block_of([lane], device).layouts


@pytest.mark.parametrize("algorithm", ["SAC", "TD3"])
@pytest.mark.parametrize(
    ("policy", "settings", "expected"),
    [
        ("ANF-{}", {}, INPUT_ONLY),
        ("Static-{}", {}, INPUT_ONLY),
        ("TowS-{}", {}, ALL_HIDDEN),
        ("{}", {}, ALL_MASKED),
        ("ANF-{}", {"optimizer": "SGD"}, INPUT_ONLY),
        ("Static-{}", {"optimizer": "Adam"}, INPUT_ONLY),  # no connection ever comes or goes
        ("DS-{}", {"global_sparsity": 0.9}, ALL_MASKED),  # moments of missing connections go on
        ("ANF-{}", {"optimizer": "Adam"}, ALL_MASKED),
        ("ANF-{}", TRIM, ALL_MASKED),
    ],
)
def test_auto_takes_csr_for_sparse_layers_that_it_can_serve(
    algorithm: str, policy: str, settings: dict[str, Any], expected: tuple[tuple[str, ...], ...]
) -> None:
    lane = lane_config(policy.format(algorithm), {"noise_fraction": 0.9, **settings})
    assert chosen(lane) == expected


def test_auto_goes_by_the_density_of_each_layer() -> None:
    def of(input_sparsity: float) -> tuple[str, ...]:
        lane = lane_config("ANF-SAC", {"input_layer_sparsity": input_sparsity})
        return chosen(lane)[0]

    assert CSR_BELOW_DENSITY == 0.6
    assert of(0.41) == (CSR, MASKED, MASKED)
    assert of(0.39) == of(0.0) == (MASKED, MASKED, MASKED)


def test_networks_are_chosen_for_each_on_its_own() -> None:
    """The output layer of the actor can be sparse, that of the critics is dense."""
    lane = lane_config("TowS-SAC", {"sparse_output_layer": True})
    assert chosen(lane) == ((CSR, CSR, CSR), (CSR, CSR, MASKED))


@pytest.mark.parametrize("policy", ["ANF-SAC", "TowS-TD3", "TD3"])
def test_masked_is_masked_whatever_the_density(policy: str) -> None:
    lane = lane_config(policy, {"layout": "masked"})
    assert chosen(lane) == ALL_MASKED


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_csr_is_csr_wherever_a_connection_is_missing(device: str) -> None:
    lane = lane_config("ANF-SAC", {"layout": "csr", "input_layer_sparsity": 0.05})
    assert chosen(lane, device) == INPUT_ONLY
    assert chosen(lane_config("SAC", {"layout": "csr"}), device) == ALL_MASKED
    lane = lane_config("TowS-SAC", {"layout": "csr", "global_sparsity": 0.1})
    assert chosen(lane, device) == ALL_HIDDEN


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_auto_is_masked_on_a_gpu(device: str) -> None:
    lane = lane_config("TowS-SAC")
    assert chosen(lane, device) == ALL_MASKED
    assert layout_reason(lane, device) == f"masked on {device}"


def test_auto_is_masked_where_plain_torch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "NATIVE", None)
    lane = lane_config("TowS-SAC")
    assert chosen(lane) == ALL_MASKED
    assert layout_reason(lane, "cpu") == "masked, because plain torch computes (--impl)"
    assert chosen(lane.replace(layout="csr")) == ALL_HIDDEN


def test_the_layouts_of_a_block_are_those_of_its_first_lane() -> None:
    lanes = [lane_config("ANF-SAC", {"input_layer_sparsity": s}) for s in (0.8, 0.9)]
    block = block_of(lanes)
    assert block.layouts == layer_layouts(lanes[0], block.networks[0], "cpu")


@pytest.mark.parametrize(
    ("policy", "settings", "reason"),
    [
        ("ANF-SAC", {}, "csr below a density of 0.6, where it was measured to be faster"),
        ("DS-SAC", {}, "masked, because of optimizer Adam and a topology that changes"),
        ("ANF-TD3", TRIM, "masked, because of target_sparsity trim"),
        ("ANF-SAC", {"layout": "csr"}, "as asked (--layout csr)"),
        ("DS-SAC", {"layout": "masked"}, "as asked (--layout masked)"),
    ],
)
def test_the_reason_says_what_decided(policy: str, settings: dict[str, Any], reason: str) -> None:
    assert layout_reason(lane_config(policy, settings), "cpu").startswith(reason)


@pytest.mark.parametrize(
    ("policy", "settings", "obstacle"),
    [
        ("ANF-SAC", TRIM, "target_sparsity trim"),
        ("Static-TD3", TRIM, "target_sparsity trim"),
        ("DS-SAC", {}, "optimizer Adam and a topology that changes"),
        ("TowS-TD3", {"optimizer": "Adam"}, "optimizer Adam and a topology that changes"),
    ],
)
def test_csr_is_refused_with_what_it_cannot_serve(
    policy: str, settings: dict[str, Any], obstacle: str
) -> None:
    with pytest.raises(ValueError) as caught:
        lane_config(policy, {**settings, "layout": "csr"})
    message = str(caught.value)
    assert message.startswith(f"layout csr does not go with {obstacle}")
    assert message.endswith("allowed is layout masked, or auto") and "\n" not in message


def test_a_dense_lane_takes_any_layout() -> None:
    """It has no connection that csr could not serve; a study may mix it with sparse ones."""
    lane = lane_config("SAC", {**TRIM, "layout": "csr"})
    assert chosen(lane) == ALL_MASKED
