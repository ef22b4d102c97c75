"""What blocks cost: the figures that were measured, and what they say of stacking."""

import csv
from pathlib import Path

import pytest

from fastanf.cluster import cost as costs
from fastanf.cluster.cost import relative_cost
from fastanf.grouping import block_of, make_blocks
from fastanf.presets import expand
from fastanf.workload import total, update_work

ROUNDING = 1e-9
"""Relative; sums in another order."""
MASKED = {"layout": "masked"}


def test_the_figures_of_a_cpu_are_those_that_were_measured() -> None:
    path = Path(__file__).parents[2] / "profiling" / "results" / "update.csv"
    wanted = {
        "commit": "4b9cedc",
        "policies": "ANF-SAC",
        "env": "HalfCheetah-v3",
        "batch_size": "100",
    }
    wanted |= {"noise_fraction": "0.9", "sparsity": "input 0.8", "threads": "2"}
    found: dict[tuple[str, int], float] = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            if wanted.items() <= row.items():
                found[row["metric"], int(row["lanes"])] = float(row["p50"])
    seconds = {lanes: lanes / found["lane_updates_per_s", lanes] for lanes in (1, 8)}
    lane_s = (seconds[8] - seconds[1]) / 7
    flops = found["useful_gflop_s", 8] * 1e9 * seconds[8] / 8
    assert seconds[1] - lane_s == pytest.approx(costs._UPDATE_S, rel=0.02)
    assert flops / lane_s / 2 == pytest.approx(costs._FLOPS_PER_S, rel=0.02)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_block_costs_a_fixed_part_and_its_lanes_work_in_every_update(device: str) -> None:
    sparsities = {"input_layer_sparsity": [0.5, 0.9]}
    lanes = expand(["ANF-SAC"], sparsities, 2, {**MASKED, "noise_fraction": 0.9}).lanes
    (block,) = make_blocks(lanes, device)
    work = total(update_work(lanes, block.spec, device))
    if device == "cpu":
        update_s = costs._UPDATE_S + work.done_flops / costs._FLOPS_PER_S
    else:
        update_s = costs._GPU_UPDATE_S + work.moved_bytes / costs._GPU_BYTES_PER_S
    assert relative_cost(block) == pytest.approx(block.config.num_updates * update_s, rel=ROUNDING)
    longer = block_of([lane.replace(max_timesteps=3_000_000) for lane in lanes], device)
    assert relative_cost(longer) == pytest.approx(3 * relative_cost(block), rel=ROUNDING)


def test_stacking_gains_little_on_a_cpu_and_nearly_all_on_a_gpu() -> None:
    lanes = expand(["ANF-SAC"], num_seeds=8, overrides={**MASKED, "noise_fraction": 0.9}).lanes
    ratios = {
        device: relative_cost(block_of(lanes, device)) / relative_cost(block_of(lanes[:1], device))
        for device in ("cpu", "cuda")
    }
    assert 4 < ratios["cpu"] < 8
    assert 1 < ratios["cuda"] < 1.2
