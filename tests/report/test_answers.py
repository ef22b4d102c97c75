"""Final returns, published ones beside them, and pairs of arms."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastanf.config import from_flat
from fastanf.published import find_published
from fastanf.report.answers import (
    Final,
    best_pairs,
    deviations,
    final_of,
    finals_by_panel,
    pairs_of,
    scores_at,
)
from fastanf.report.arms import Arm
from fastanf.report.collected import LaneRecord
from fastanf.report.costs import arm_work
from fastanf.report.merging import ArmRecord
from fastanf.report.section_efficiency import reaching, yardstick
from fastanf.report.task_scores import aggregates, improvements, task_scores
from tests.report_runs import run_lanes, write_run

STEPS = tuple(range(10_000, 1_000_001, 10_000))


def arm_of(
    last: int = 1_000_000, policy: str = "ANF-SAC", level: float = 0.0, **settings: Any
) -> ArmRecord:
    """Three lanes whose return is `level` + step / 1000 + seed."""
    fraction = settings.pop("noise_fraction", 0.98)
    env = settings.pop("env", "HalfCheetah-v3")
    configs = run_lanes([policy], [env], [fraction], 3, **settings)
    steps = np.array([step for step in STEPS if step <= last])
    returns = np.array([[level + step / 1000 + seed for step in steps] for seed in range(3)])
    lanes = tuple(
        LaneRecord("run", k, config.flat(), config, (), (), (), ())
        for k, config in enumerate(configs)
    )
    name = configs[0].algorithm.policy
    return ArmRecord(Arm(env, fraction, name, "", (0, 1, 2), steps, returns), lanes)


@pytest.mark.parametrize(
    ("last", "published_at", "ours_at"),
    [(50_000, 50_000, 50_000), (90_000, 50_000, 50_000), (100_000, 100_000, 100_000),
     (990_000, None, 990_000), (1_000_000, None, 1_000_000), (940_000, 800_000, 800_000)],
)  # fmt: skip
def test_the_nearest_published_step_not_beyond_ours_is_compared(
    last: int, published_at: int | None, ours_at: int
) -> None:
    final = final_of(arm_of(last))
    (one,) = final.comparisons
    assert final.beyond == ()
    assert (one.published.source, one.published.step, one.step) == ("ANF", published_at, ours_at)
    (expected,) = [
        p for p in find_published("HalfCheetah-v3", 0.98, "ANF-SAC") if p.step == published_at
    ]
    assert one.published is expected
    steps = [ours_at] if published_at else [s for s in STEPS if 900_000 < s <= ours_at]
    assert one.ours.value == pytest.approx(np.mean(steps) / 1000 + 1)
    assert one.ours.num_runs == 3


def test_a_run_that_is_shorter_than_every_published_one_is_not_compared() -> None:
    final = final_of(arm_of(40_000))
    assert final.comparisons == ()
    assert [(one.source, one.step) for one in final.beyond] == [("ANF", 50_000)]


def test_each_source_is_compared_by_itself() -> None:
    final = final_of(arm_of(policy="SAC", noise_fraction=0.0))
    assert [one.published.source for one in final.comparisons] == ["TowS", "DST"]
    assert [one.published.return_mean for one in final.comparisons] == [11719.6, 11415.0]


@pytest.mark.parametrize(
    "settings",
    [{"noise_fraction": 0.9}, {"env": "HalfCheetah-v4"}, {"input_layer_sparsity": 0.9},
     {"permute_period": 1000}],
)  # fmt: skip
def test_nothing_is_compared_that_was_not_published_so(settings: dict[str, Any]) -> None:
    final = final_of(arm_of(**settings))
    assert final.comparisons == () and final.beyond == ()


def test_settings_that_are_not_the_policys_own_are_named() -> None:
    assert deviations(arm_of().lanes[0].config) == ()
    changed = arm_of(hidden=(32, 32), eval_freq=700, policy="SAC", temperature=0.1)
    assert deviations(changed.lanes[0].config) == ("temperature=0.1", "hidden=32x32")


def test_the_best_arm_comes_first_and_pairs_are_compared_at_the_last_common_step() -> None:
    records = [arm_of(policy="SAC"), arm_of(500_000, level=600.0)]
    ((panel, finals),) = finals_by_panel(records).items()
    assert panel == ("HalfCheetah-v3", 0.98)
    assert [final.record.arm.policy for final in finals] == ["ANF-SAC", "SAC"]
    (pair,) = best_pairs(finals)
    assert pairs_of(finals)[0].step == pair.step == 500_000
    assert (pair.probability.value, pair.probability.num_runs) == (1.0, 6)
    assert (pair.better.policy, pair.worse.policy) == ("ANF-SAC", "SAC")


def test_a_final_return_is_the_mean_of_the_last_tenth() -> None:
    final = final_of(arm_of())
    assert final.num_averaged == 10 and final.step == 1_000_000
    assert final.mean.value == pytest.approx(np.mean(STEPS[-10:]) / 1000 + 1)
    assert scores_at(arm_of().arm, 5000).tolist() == pytest.approx([math.nan] * 3, nan_ok=True)


def finals_of(*records: ArmRecord) -> list[Final]:
    (finals,) = finals_by_panel(records).values()
    return finals


def test_the_best_dense_arm_is_the_yardstick_of_efficiency() -> None:
    finals = finals_of(arm_of(policy="SAC"), arm_of(level=200.0), arm_of(policy="TD3", level=-9.0))
    rule = yardstick(finals)
    assert rule is not None and rule.record.arm.policy == "SAC"
    assert yardstick(finals[:1]) is None
    # A lane's mean of ten evaluations is level + seed + (step - 45,000) / 1000.
    found = reaching(finals[0], 500.0)
    assert found.steps.tolist() == [350_000, 350_000, 350_000]
    assert found.estimate.value == 350_000
    never = reaching(finals[0], 1e9)
    assert np.isinf(never.steps).all() and math.isinf(never.estimate.value)


def test_scores_over_tasks_are_scaled_by_the_first_dense_and_the_best_last_return() -> None:
    records = [
        arm_of(env=env, policy=policy, level=level, noise_fraction=0.5)
        for env in ("Hopper-v3", "Ant-v3")
        for policy, level in (("SAC", 0.0), ("ANF-SAC", 100.0))
    ]
    other = arm_of(policy="TD3", env="Ant-v3", noise_fraction=0.5)
    found = task_scores(finals_by_panel([*records, other]))
    assert found is not None
    assert list(found.scores) == [("ANF-SAC", ""), ("SAC", "")]
    task = "Hopper-v3, 50% noise features"
    assert found.low[task] == pytest.approx(11.0)
    assert found.high[task] == pytest.approx(100 + np.mean(STEPS[-10:]) / 1000 + 1)
    best, other = aggregates(found)
    assert best.mean.value == pytest.approx(1.0)
    assert other.mean.value == pytest.approx((955 + 1 - 11) / (955 + 101 - 11))
    (pair,) = improvements(found)
    assert (pair.better, pair.estimate.value) == (("ANF-SAC", ""), 1.0)


def test_an_arm_that_is_not_on_every_task_is_left_out_of_scores_over_tasks() -> None:
    records = [arm_of(env=env) for env in ("Hopper-v3", "Ant-v3")]
    found = task_scores(finals_by_panel([*records, arm_of(policy="SAC", env="Ant-v3")]))
    assert found is not None and list(found.scores) == [("ANF-SAC", "")]
    assert found.left_out == ("SAC was not trained on every task",)
    assert task_scores(finals_by_panel(records[:1])) is None


def test_work_of_an_arm_follows_from_its_sizes() -> None:
    (config,) = run_lanes(["ANF-SAC"], num_seeds=1, hidden=(32, 16))
    work = arm_work(config)
    assert work is not None
    inputs, A = 170, 6
    rest = 32 * 16 + 16 * 2 * A
    assert work.action_flops_dense == 2 * (inputs * 32 + rest)
    assert work.action_flops_active == 2 * (inputs * 32 // 5 + rest)
    critic = (inputs + A) * 32 + 32 * 16 + 16 + (32 + 16 + 1)
    actor = inputs * 32 + rest + 32 + 16 + 2 * A
    assert work.parameters_dense == actor + 2 * critic
    assert work.parameters_active < work.parameters_dense
    assert 0 < work.update_flops_active < work.update_flops_dense
    (dense,) = run_lanes(["SAC"], num_seeds=1, hidden=(32, 16))
    plain = arm_work(dense)
    assert plain is not None and plain.update_flops_active == work.update_flops_dense
    assert arm_work(None) is None


def test_records_give_the_configuration_back(tmp_path: Path) -> None:
    (config,) = run_lanes(["ANF-SAC"], num_seeds=1)
    assert from_flat(config.flat()) == config
    assert write_run(tmp_path / "run", [config], 1).is_dir()
