"""How many updates a second a block makes: lane updates, and environment steps with them.

    python profiling/bench_update.py --lanes 1 4 8 --policy ANF-SAC SAC --fake_features 0.9

Takes train.py's flags and `--lanes`. Lanes are dealt out evenly over the policies. The sizes are
measured in turn, several rounds, so that a drift of the machine's speed meets them all; figures
are the median over rounds with the 20th and 80th percentile. Before timing, lane 0 among all is
compared to the bit with lane 0 alone. `--record` appends the rows to profiling/results/update.csv.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np
import result_rows
import torch

from fastanf import kernels
from fastanf.block import TrainingBlock
from fastanf.cli import parse_command_line
from fastanf.config import TrainConfig
from fastanf.learner import keep_freed_memory

WARM_STEPS, ROUNDS, CHECK_UPDATES = 8, 9, 3


def main() -> int:
    """Measure, print a table, and append rows when asked to.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--lanes", type=int, nargs="+", default=[8], help="numbers of lanes")
    parser.add_argument("--round_s", type=float, default=2.0, help="seconds of a round")
    parser.add_argument("--record", action="store_true", help="append rows to update.csv")
    parser.add_argument("--json", action="store_true", help="print one JSON object per size")
    own, train_flags = parser.parse_known_args()
    study = parse_command_line(
        [*train_flags, "--num_seeds", str(max(own.lanes)), "--start_timesteps", "200"]
    )
    by_policy: dict[str, list[TrainConfig]] = {}
    for lane in study.lanes:
        by_policy.setdefault(lane.algorithm.policy, []).append(lane)
    keep_freed_memory()
    blocks = [_block(_deal(by_policy, count)) for count in own.lanes]
    _check_lane_zero(blocks)
    rows = _measure(blocks, own.round_s)
    for row in rows:
        print(json.dumps(row) if own.json else _line(row))
    if own.record:
        result_rows.append("update", rows)
    return 0


def _deal(by_policy: dict[str, list[TrainConfig]], count: int) -> list[TrainConfig]:
    policies = list(by_policy)
    return [by_policy[policies[i % len(policies)]][i // len(policies)] for i in range(count)]


def _block(lanes: list[TrainConfig]) -> TrainingBlock:
    block = TrainingBlock(lanes, torch.device("cpu"))
    while block.replay.time < block.num_random_steps:
        block.collector.random_step_()
    return block


def _check_lane_zero(blocks: list[TrainingBlock]) -> None:
    """The measured program computes the same, however many lanes it has."""
    weights = []
    for block in blocks:
        for _ in range(CHECK_UPDATES):
            block.learner.update_()
        weights.append(block.algorithm.actor_mlp.layers[0].weight[0].detach().clone())
    if not all(torch.equal(weights[0], other) for other in weights):
        raise SystemExit("lane 0 differs between numbers of lanes: the figures would mean nothing")


def _measure(blocks: list[TrainingBlock], round_s: float) -> list[dict[str, object]]:
    updates: list[list[float]] = [[] for _ in blocks]
    steps: list[list[float]] = [[] for _ in blocks]
    for round_index in range(ROUNDS + 1):
        for block, update_rates, step_rates in zip(blocks, updates, steps, strict=True):
            update_s, whole_s = _round(block, round_s if round_index else 0.2)
            if round_index:
                update_rates.append(len(block.lanes) / update_s)
                step_rates.append(len(block.lanes) / whole_s)
    rows = []
    for block, update_rates, step_rates in zip(blocks, updates, steps, strict=True):
        rows.append(_row(block, "lane_updates_per_s", update_rates))
        rows.append(_row(block, "env_steps_per_s", step_rates))
    return rows


def _round(block: TrainingBlock, seconds: float) -> tuple[float, float]:
    """Median seconds of an update, and of an environment step with its update."""
    update_s, whole_s = [], []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(update_s) < WARM_STEPS:
        start = time.perf_counter()
        block.collector.step_(0)
        middle = time.perf_counter()
        block.learner.update_()
        end = time.perf_counter()
        update_s.append(end - middle)
        whole_s.append(end - start)
    return float(np.median(update_s)), float(np.median(whole_s))


def _row(block: TrainingBlock, metric: str, rates: list[float]) -> dict[str, object]:
    config = block.config
    low, middle, high = np.percentile(rates, [20, 50, 80])
    return {
        "bench": "update",
        "impl": f"masked/{kernels.implementation()}",
        "policies": "+".join(dict.fromkeys(lane.algorithm.policy for lane in block.lanes)),
        "env": config.task.env,
        "noise_fraction": config.noise.noise_fraction,
        "batch_size": config.algorithm.batch_size,
        "lanes": len(block.lanes),
        "metric": metric,
        "p20": round(low, 1),
        "p50": round(middle, 1),
        "p80": round(high, 1),
        "unit": "1/s",
        **result_rows.conditions(),
    }


def _line(row: dict[str, object]) -> str:
    return (
        f"{row['policies']} {row['env']} noise {row['noise_fraction']} lanes {row['lanes']:>2}  "
        f"{row['metric']:<18} {row['p50']:>8} (p20 {row['p20']}, p80 {row['p80']})"
    )


if __name__ == "__main__":
    sys.exit(main())
