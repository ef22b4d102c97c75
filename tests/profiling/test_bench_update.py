"""Points, sizes and accounting of the update benchmark, and its blocks."""

from __future__ import annotations

import itertools
import json
import sys
from types import SimpleNamespace
from typing import Any, cast

import bench_update
import benchmark
import pytest
import result_rows
import result_tables
import torch
from bench_update import BlockRound, UpdateBenchmark

import envs
import fastanf.collect
import fastanf.peaks
from fastanf import kernels
from fastanf.instrument import Stage
from tests.helpers import make_block, make_lane

SMALL = ["--env", "Small-v0", "--backend", "random", "--hidden", "8", "--replay_capacity", "400",
         "--batch_size", "8", "--num_threads", "1", "--device", "cpu"]  # fmt: skip
SHORT = ["--rounds", "1", "--round_s", "0.01"]


def points_of(*argv: str) -> list[benchmark.Point]:
    """What the arguments stand for."""
    bench = UpdateBenchmark()
    own, rest = benchmark._parser(bench).parse_known_args(argv)
    return bench.points(own, rest)


def test_without_lanes_and_sweep_there_is_one_point_of_eight_sparse_lanes() -> None:
    (point,) = points_of(*SMALL)
    assert point == {
        "impl": point["impl"], "policies": "ANF-SAC", "env": "Small-v0", "backend": "random",
        "noise_fraction": 0.0, "sparsity": "input 0.8", "batch_size": 8, "lanes": 8,
        "envs_per_lane": 1, "settings": "hidden=8",
    }  # fmt: skip


@pytest.mark.parametrize(("impl", "layout"), [("native", "csr"), ("reference", "masked")])
def test_a_point_names_the_layout_that_its_block_has(impl: str, layout: str, monkeypatch) -> None:
    monkeypatch.setattr(kernels, "NATIVE", object() if impl == "native" else None)
    monkeypatch.setattr(kernels, "use", lambda choice: None)
    asked = {
        name: points_of(*SMALL, "--policy", "ANF-SAC", "SAC", "--layout", name)
        for name in ("auto", "masked", "csr")
    }
    layouts = {name: [point["impl"] for point in points] for name, points in asked.items()}
    # The points are those of ANF-SAC and of SAC, which is dense.
    assert layouts == {
        "auto": [f"{layout}/{impl}", f"masked/{impl}"],
        "masked": [f"masked/{impl}"] * 2,
        "csr": [f"csr/{impl}", f"masked/{impl}"],
    }


def test_every_combination_of_policies_lanes_and_swept_settings_is_a_point() -> None:
    sweep = ["--sweep", "batch_size=4,8", "fake_features=0.5,0.9", "input_layer_sparsity=0.5"]
    found = points_of(*SMALL, "--lanes", "1", "3", "--policy", "ANF-SAC", "SAC", *sweep)
    sizes = [(p["batch_size"], p["noise_fraction"], p["lanes"], p["policies"]) for p in found]
    assert sizes == [
        (batch, noise, lanes, policy)
        for batch, noise, policy, lanes in itertools.product(
            (4, 8), (0.5, 0.9), ("ANF-SAC", "SAC"), (1, 3)
        )
    ]
    # SAC is dense whatever the sweep says.
    assert all(
        p["sparsity"] == ("input 0.5" if p["policies"] == "ANF-SAC" else "dense") for p in found
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lanes", "0"], "--lanes: must be an integer of at least 1, got '0'"),
        (["--sweep", "batch_size"], "--sweep must be field=v1,v2, got 'batch_size'"),
        (["--sweep", "batch_size="], "--sweep must be field=v1,v2"),
        (["--sweep", "batchsize=3"], "--sweep batchsize=3: batchsize is not a setting of training"),
        (["--sweep", "device=cpu"], "device is not a setting of training"),
        (
            ["--sweep", "batch_size=8,x"],
            "--batch_size must be an integer of at least 1 and at most 10000000, got 'x'",
        ),
        (["--sweep", "batch_size=8,8"], "--sweep must make points that differ"),
        (["--vary", "tau=0.1,0.2"], "--sweep"),
        (["--policy", "SAC", "TD3"], "lanes of one kind, got 2"),
        (["--env", "Nowhere-v3"], "Nowhere-v3"),
        (["--device", "tpu"], "device must be one of"),
    ],
)
def test_bad_input_ends_in_one_line(arguments: list[str], words: str, capsys) -> None:
    with pytest.raises(SystemExit) as exit_info:
        benchmark.main(UpdateBenchmark(), [*SMALL, *arguments])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error


class _FakeBlock:
    """Takes 1 s of the fake clock for a step and 3 s for an update."""

    def __init__(self, num_lanes: int, envs_per_lane: int, updates_per_step: int):
        self.now = 0.0
        self.lanes = [None] * num_lanes
        self.config = SimpleNamespace(schedule=SimpleNamespace(updates_per_step=updates_per_step))
        self.replay = SimpleNamespace(envs_per_lane=envs_per_lane, obs=torch.zeros(1))
        self.collector = SimpleNamespace(step_=lambda _: self.pass_(1.0))
        self.learner = SimpleNamespace(update_=lambda: self.pass_(3.0))

    def pass_(self, seconds: float) -> None:
        self.now += seconds


def test_rates_count_updates_of_all_lanes_and_steps_of_all_environments(monkeypatch) -> None:
    block = _FakeBlock(num_lanes=4, envs_per_lane=2, updates_per_step=5)
    monkeypatch.setattr(bench_update.time, "perf_counter", lambda: block.now)
    figures = BlockRound(cast(Any, block)).measure(160.0)
    # A step takes 1 + 5 x 3 s.
    assert figures == {"lane_updates_per_s": 4 / 3, "env_steps_per_s": 4 * 2 / 16}
    assert block.now == 160.0


def test_on_a_gpu_updates_and_steps_are_timed_apart_until_all_is_done(monkeypatch) -> None:
    events: list[str] = []
    block = _FakeBlock(num_lanes=4, envs_per_lane=2, updates_per_step=5)
    block.replay.obs = SimpleNamespace(device=torch.device("cuda:0"))

    def update() -> None:
        events.append("update")
        block.pass_(1.0)

    def step(collector: Any, learner: Any, num_learning_steps: int, num_updates: int) -> None:
        assert (collector, learner) == (block.collector, block.learner) and num_updates == 5
        events.append("step")
        block.pass_(7.0)

    block.learner.update_ = update
    monkeypatch.setattr(fastanf.collect, "train_step_", step)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append(str(device)))
    monkeypatch.setattr(bench_update.time, "perf_counter", lambda: block.now)
    figures = BlockRound(cast(Any, block)).measure(4.0)
    # Five updates take 5 s, a step with its own 7 s.
    assert figures == {"lane_updates_per_s": 4.0, "env_steps_per_s": 4 * 2 / 7}
    many = bench_update.WARM_STEPS
    assert events == [
        "cuda:0", *["update"] * 5 * many, "cuda:0", "cuda:0", *["step"] * many, "cuda:0",
    ]  # fmt: skip


def test_updates_are_measured_without_a_simulator(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    without = [*SMALL[4:], "--env", "Hopper-v3", "--backend", "stand_in", "--fake_features", "0.5"]
    bench = UpdateBenchmark()
    own, rest = benchmark._parser(bench).parse_known_args([*without, "--lanes", "2"])
    (point,) = bench.points(own, rest)
    assert (point["env"], point["backend"]) == ("Hopper-v3", "stand_in") and not bench.packages
    figures = bench.prepare(point)(0.01)
    assert figures["lane_updates_per_s"] > figures["env_steps_per_s"] > 0


def test_lane_zero_may_differ_by_rounding_on_a_gpu_only() -> None:
    weights = torch.zeros(100)
    rounded, wrong = weights.clone(), weights + 1e-3
    rounded[0] = 5e-4
    assert bench_update._agree_on_gpu(weights, rounded)
    assert not bench_update._agree_on_gpu(weights, wrong)


@pytest.fixture
def no_sgemm(monkeypatch) -> None:
    monkeypatch.setattr(fastanf.peaks, "sgemm_gflop_s", lambda device: 50.0)


@pytest.mark.usefixtures("no_sgemm")
def test_one_point_as_json_has_the_promised_figures(capsys) -> None:
    bench = UpdateBenchmark()
    flags = [*SMALL, "--fake_features", "0.5", "--lanes", "2"]
    assert benchmark.main(bench, [*flags, *SHORT, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["peak_gflop_s"] == 50.0
    assert found["lane_updates_per_s"] > found["env_steps_per_s"] > 0
    ((point, lanes),) = [(point, work.lanes) for point, work in bench._works.items()]
    from fastanf.workload import useful_update_flops

    flops = useful_update_flops(lanes, envs.spec("Small-v0", "random"))
    expected = flops * found["lane_updates_per_s"] / 2 / 1e9
    assert found["useful_gflop_s"] == pytest.approx(expected, rel=1e-3)
    assert dict(point)["lanes"] == 2


def test_stages_are_measured_for_comparisons_only(capsys) -> None:
    lanes = [make_lane("ANF-SAC", 0)]
    block = make_block(lanes, num_random_steps=30)
    names = BlockRound(block, with_stages=True).measure(0.01).keys()
    stages = {name for name in names if name.startswith("stage:")}
    expected = (Stage.CRITIC_OPTIMIZER, Stage.TARGET, Stage.ACT, Stage.ENV_STEP, Stage.OTHER)
    assert {f"stage:{stage}_ms" for stage in expected} <= stages
    assert not any(name.startswith("stage:") for name in BlockRound(block).measure(0.01))


@pytest.mark.usefixtures("no_sgemm")
def test_lane_zero_that_depends_on_the_number_of_lanes_is_refused() -> None:
    bench = UpdateBenchmark()
    own, rest = benchmark._parser(bench).parse_known_args([*SMALL, "--lanes", "1", "2"])
    one, two = bench.points(own, rest)
    bench.prepare(one)
    bench.prepare(two)
    for weights in bench._lane_zero.values():
        weights[0][0, 0] += 1e-6
    with pytest.raises(ValueError, match="lane 0 among 2 differs"):
        bench.prepare(two)


def test_recorded_rows_have_the_columns_that_are_written() -> None:
    rows = result_rows.read("update")
    (point,) = points_of(*SMALL)
    assert list(rows[0]) == benchmark._columns(point)
    assert result_tables._PAPERS.keys() <= rows[0].keys()
