"""The arithmetic of the model of many GPUs, on numbers that can be worked out by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import cluster_model
import pytest
import result_rows
import scaling_tables
from cluster_costs import Costs, Line, Plane, read_costs
from cluster_model import Assumed, Run
from cluster_study import CPUS_PER_GPU, StudyBlock, gpu_steps_per_s, make_block

import tests.helpers  # noqa: F401  registers the task Small-v0
from fastanf.disk import _transition_bytes
from fastanf.presets import MOST_LANES
from fastanf.state_bytes import state_bytes
from fastanf.table_seals import MAX_BYTES

SMALL = ["--policy=ANF-SAC", "--env=Small-v0", "--backend=random", "--hidden=8",
         "--replay_capacity=100000", "--max_timesteps=10000", "--start_timesteps=1000",
         "--eval_freq=1000", "--eval_episodes=2"]  # fmt: skip
# 1,000 steps at 100 a second, and 4,000 of evaluation at 10 a second on each of eight CPUs.
PERIOD_S = 10.0 + 4000 / (10 * CPUS_PER_GPU)
FACTS = {"cpu": "Chip", "threads": "1", "versions": "v", "date": "d"}
COSTS = Costs(
    rows_s=Plane(0.001, 0.0, 0.0),
    tensorboard_s=Line((2.0,), (0.004,)),
    stored_rows_s=Line((2.0,), (0.003,)),
    stored_commit_s=Line((2.0,), (0.004,)),
    round_syncs=4.0,
    sync_wall_s=0.0005,
    table_bytes={"eval": 100.0, "features": 1000.0},
    rows_per_lane=8.0,
    draw_s=Plane(0.0, 0.0, 1e-6),
    commit_s=0.005,
    commit_syncs=2.0,
    share_of_exchanges=Line((1.0, 1000.0), (0.0, 0.4)),
    exchange_s=0.001,
    message_s=Line((2.0,), (0.006,)),
    message_bytes=Line((2.0,), (5000.0,)),
    open_s_per_row=1e-5,
    open_bytes_per_row=1000.0,
    drop_s_per_row=2e-6,
    goes_on_s_per_row=1e-5,
)
ASSUMED = Assumed(shared_sync_s=0.002, put_s=0.03)


def make_study_block(checkpoint_s: float = 300.0) -> StudyBlock:
    """Two small lanes that make 100 steps a second."""
    return StudyBlock(make_block(2, SMALL), 100.0, 10.0, checkpoint_s)


def make_run(**changes: Any) -> Run:
    return Run(make_study_block(), COSTS, ASSUMED, **changes)


# Functions of size


def test_a_plane_goes_through_points_that_lie_in_one() -> None:
    plane = Plane(2.0, 3.0, 0.5)
    points = [(n, lanes, 2 + 3 * lanes + 0.5 * n * lanes)
              for n in (1.0, 100.0) for lanes in (2.0, 16.0)]  # fmt: skip
    found = Plane.through(points)
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(plane))
    assert found(10, 4) == pytest.approx(2 + 12 + 20)
    assert Plane(-5.0, 1.0, 0.0)(1, 2) == 0
    sinking = Plane.through([(N, L, 2 + 3 * L - 1e-3 * N * L) for N, L, _ in points])
    assert sinking.per_run_lane == 0 < sinking.per_lane
    level = Plane.through([(1, 2, 5.0), (9, 4, 4.0), (9, 2, 4.0)])
    assert dataclasses.astuple(level) == pytest.approx((13 / 3, 0, 0))


def test_a_line_is_straight_between_points_and_goes_on_beyond_them() -> None:
    line = Line.through([(10.0, 3.0), (0.0, 1.0), (20.0, 7.0)])
    assert [line(x) for x in (0, 5, 10, 15, 30, -5)] == pytest.approx([1, 2, 3, 5, 11, 0])
    assert Line((8.0,), (2.0,))(100) == 2


# A block


def test_a_block_evaluates_and_ends_when_its_settings_say() -> None:
    block = make_study_block()
    assert block.evaluation_s == pytest.approx(50)
    assert block.period_s == pytest.approx(PERIOD_S)
    assert block.mean_steps_per_s == pytest.approx(1000 / PERIOD_S)
    assert block.num_evaluations == 10
    assert block.run_s == pytest.approx(1000 / 100 + 10 * PERIOD_S)


def test_the_bytes_of_checkpoints_are_those_of_what_came_and_of_the_state() -> None:
    block = make_study_block()
    transition, state = _transition_bytes(block.block), state_bytes(block.block)
    assert block.bytes_per_lock_step == 2 * transition
    steps = 300 * 1000 / PERIOD_S
    assert block.first_bytes == pytest.approx(2 * transition * steps + state)
    assert block.whole_bytes == pytest.approx(2 * transition * 11_000 + state)
    new = 2 * transition * 1000 / PERIOD_S
    assert block.checkpoint_bytes_per_s == pytest.approx(
        new * block.written.num_bytes + state / 300
    )


def test_small_additions_are_written_again_as_a_binary_counter_does() -> None:
    # Four checkpoints of equal additions write 1, 2, 1 and 4 of them: 8 for 4.
    block = make_study_block()
    four = dataclasses.replace(block, checkpoint_s=block.run_s / 4)
    assert four.written.num_bytes == pytest.approx(2.0)
    assert four.written.num_files == 1
    assert four.files_per_checkpoint == 3


def test_a_gpus_speed_is_what_placement_assumes() -> None:
    one, many = (gpu_steps_per_s(make_block(lanes)) for lanes in (1, 16))
    # 1 ms, and 24 MB a lane at 2 TB/s.
    assert one == pytest.approx(1 / (1e-3 + 12e-6), rel=0.01)
    assert many == pytest.approx(1 / (1e-3 + 16 * 12e-6), rel=0.01)


# The gatherer


def test_the_gatherers_thread_does_one_thing_after_the_other() -> None:
    evaluations, checkpoints = 30 / PERIOD_S, 30 / 300
    parts = make_run().thread(30)
    assert parts == pytest.approx({
        "TensorBoard": evaluations * 0.004,
        "rows into tables": evaluations * 0.001,
        "rows from Ray": evaluations * 0.006,
        "exchanges": 29 / 999 * 0.4 + checkpoints * 3 * 0.001,
        "display": evaluations * 60e-6,
        "commits": checkpoints * (0.005 + 6 * 0.002),  # the rows that came until then too
    })  # fmt: skip
    use = make_run().uses(30)["gatherer, its thread"]
    assert use.load == pytest.approx(sum(parts.values())) and use.capacity == 1
    assert make_run(tensorboard=False).thread(30)["TensorBoard"] == 0
    assert make_run().thread(10**5)["display"] == pytest.approx(4 * 0.2)  # not more than 4 a second


def test_a_store_costs_lines_and_puts_and_syncs_of_the_own_disk() -> None:
    evaluations, checkpoints = 30 / PERIOD_S, 30 / 300
    parts = make_run(has_url=True).thread(30)
    commits = checkpoints * (0.005 + 6 * 0.0005)
    assert parts["commits"] == pytest.approx(commits + evaluations * 0.007)
    assert parts["puts"] == pytest.approx(checkpoints * 2 * 0.03)


def test_uses_are_loads_over_capacities() -> None:
    run, block = make_run(), make_study_block()
    uses = run.uses(600)
    assert uses["gatherer, network"].share == pytest.approx(600 / PERIOD_S * 5000 / 1.25e9)
    assert uses["storage, checkpoints"].share == pytest.approx(
        600 * block.checkpoint_bytes_per_s / 1e9
    )
    assert uses["storage, new files"].share == pytest.approx(2 * block.files_per_checkpoint / 1000)
    assert uses["limit of lanes"].share == pytest.approx(1200 / MOST_LANES)
    assert uses["limit of features.csv"].share == pytest.approx(1200 * 10 * 1000 / MAX_BYTES)
    stored = make_run(has_url=True).uses(600)
    assert "storage, new files" not in stored
    puts = 2 * (block.files_per_checkpoint + 1)
    assert stored["store, puts"].share == pytest.approx(puts / 3500)
    copied = 1200 * 10 * 1100 / 60
    assert stored["store, tables for readers"].share == pytest.approx(copied / 100e6)


def test_a_resource_is_full_at_the_first_number_of_gpus_that_fills_it() -> None:
    run = make_run()
    assert run.full_at(lambda N: N / 250) == 250
    assert run.full_at(lambda N: N / 250.5) == 251
    assert run.full_at(lambda N: 7.0) == 1
    assert run.full_at(lambda N: 0.0) == cluster_model.MOST_GPUS
    order = run.order()
    assert [at for _, at in order] == sorted(at for _, at in order)
    assert dict(order)["limit of lanes"] == MOST_LANES // 2
    first, at = order[0]
    assert run.uses(at)[first].share >= 1 > run.uses(at - 1)[first].share


def test_times_are_of_loads_and_of_what_is_assumed() -> None:
    run, block = make_run(), make_study_block()
    times = run.times(1000, start_s=4.0)
    rows = 1000 * 2 * 10 * 8
    assert times["start"] == pytest.approx(1000 / 551 + 4 + 30)
    assert times["wait of an exchange"] == 10.0
    assert times["first checkpoint of all blocks"] == pytest.approx(block.first_bytes / 1e6)
    assert times["loss of a node, its blocks"] == pytest.approx(
        65 + 34 + 8 * block.whole_bytes / 1e9 + 150
    )
    assert times["loss of a node, gatherer"] == pytest.approx(rows * 2e-6 + 8 * rows * 1e-5 / 1000)
    assert times["new gatherer, opening"] == pytest.approx(rows * 1e-5)
    assert times["new gatherer, its blocks"] == pytest.approx(rows * (2e-6 + 1e-5))
    assert times["new gatherer, reading"] == pytest.approx(block.whole_bytes / 1e6)
    assert run.open_bytes(1000) == pytest.approx(rows * 1000)
    hours = 16384 * 54 * 24 / 419
    lost_s = times["loss of a node, its blocks"] * 8
    assert run.loss_share(1000, 4.0) == pytest.approx(lost_s / 3600 / hours)


# From measured rows


def measured_row(part: str, metric: str, p50: float, blocks: int, lanes: Any, **sizes: Any):
    usual = {"tensorboard": "no", "store": "", "display": "lines", "evaluations": 1}
    point = {"impl": part, "blocks": blocks, "lanes": lanes, **usual, **sizes}
    spread = {"p20": p50, "p50": p50, "p80": p50}
    return {
        name: str(value) for name, value in {**point, "metric": metric, **spread}.items()
    } | FACTS


def measured_rows() -> list[dict[str, str]]:
    """Of a gatherer whose costs are simple numbers."""
    rows = []
    for lanes in (2, 16):
        for blocks in (1, 1000):
            cpu_ms = 1 + lanes + blocks * lanes / 1000
            sizes = (blocks, lanes)
            rows += [
                measured_row("rows", "block_eval_cpu_ms", cpu_ms, *sizes),
                measured_row(
                    "rows", "block_eval_cpu_ms", cpu_ms + 5 * lanes, *sizes, tensorboard="yes"
                ),
                measured_row("idle", "draw_ms", blocks * lanes / 100, *sizes),
            ]
            for word in ("no", "yes"):
                for metric, value in (("fsyncs_count", 4), ("fsync_ms", 0.25), ("eval_bytes", 120),
                                      ("train_bytes", 130), ("topology_bytes", 220),
                                      ("features_bytes", 1700)):  # fmt: skip
                    rows.append(measured_row("rows", metric, value, *sizes, tensorboard=word))
        store = {"store": "memory"}
        rows += [
            measured_row("rows", "block_eval_cpu_ms", 1 + 3 * lanes, 1000, lanes, **store),
            measured_row("commit", "commit_cpu_ms", 2, 1000, lanes),
            measured_row("commit", "fsyncs_count", 2, 1000, lanes),
            measured_row("commit", "commit_cpu_ms", 2 + 8 * lanes, 1000, lanes, **store),
            measured_row("ray_rows", "exchange_cpu_ms", 1 + lanes / 10, 2, lanes),
            measured_row("ray_rows", "message_bytes", 500 * lanes, 2, lanes),
        ]
    rows.append(measured_row("ray_rows", "exchange_cpu_ms", 1, 2, ""))
    for blocks in (8, 1000):
        for metric, value in (("gatherer_share", blocks / 2000), ("exchanges_per_s", blocks / 4),
                              ("exchange_cpu_ms", 2.0)):  # fmt: skip
            rows.append(measured_row("ray", metric, value, blocks, ""))
    for evaluations in (10, 30):
        sizes, factor = {"evaluations": evaluations}, evaluations / 10
        for metric, value in (("rows_count", 80_000), ("open_s", 1.0), ("open_extra_mib", 100),
                              ("check_s", 0.125), ("truncate_s", 0.25), ("evaluations_s", 0.5),
                              ("drop_s", 0.5), ("drop_all_s", 0.75), ("sort_s", 0.5)):  # fmt: skip
            rows.append(measured_row("restart", metric, value * factor, 500, 2, **sizes))
    return rows


def test_costs_are_differences_of_what_was_measured() -> None:
    costs = read_costs(measured_rows())
    assert costs.rows_s(1000, 16) == pytest.approx(0.033)
    assert costs.tensorboard_s(8) == pytest.approx(0.040)
    assert costs.stored_rows_s(16) == pytest.approx((1 + 48 - 33) / 1e3)
    assert costs.stored_commit_s(16) == pytest.approx(16e-3)  # of one of eight evaluations
    assert (costs.round_syncs, costs.sync_wall_s, costs.commit_syncs) == (4, 0.25e-3, 2)
    assert costs.draw_s(1000, 2) == pytest.approx(0.020)
    assert costs.exchange_s == pytest.approx(1e-3)
    assert costs.message_s(16) == pytest.approx(1.6e-3)
    assert costs.message_bytes(16) == 8000
    assert costs.share_of_exchanges(504) == pytest.approx(0.252)
    assert costs.rows_per_lane == 240_000 / (500 * 2 * 30)
    assert costs.open_s_per_row == pytest.approx(3 / 240_000)
    assert costs.open_bytes_per_row == pytest.approx(300 * 2**20 / 240_000)
    assert costs.drop_s_per_row == pytest.approx(3 * 0.75 / 240_000)
    assert costs.goes_on_s_per_row == pytest.approx(3 * 0.875 / (240_000 / 500))
    assert math.fsum(costs.table_bytes.values()) == 2170


def test_newer_rows_count_and_missing_ones_say_what_to_type() -> None:
    newer = measured_row("ray_rows", "exchange_cpu_ms", 2, 2, "")
    assert read_costs([*measured_rows(), newer]).exchange_s == pytest.approx(2e-3)
    rows = [row for row in measured_rows() if row["impl"] != "commit"]
    with pytest.raises(ValueError, match=r"part commit, store none was not .*bench_gatherer\.py"):
        read_costs(rows)


# The command


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of every benchmark that the model reads."""
    rows = {
        "gatherer": measured_rows(),
        "env": [{"env": "HalfCheetah-v3", "impl": "envpool", "metric": "env_steps_per_s",
                 "rows": n, "p50": str(100 * n), "threads": "2"} for n in (8, 256)],
        "train": [{"metric": "start_s", "lanes": n, "p50": f"{n}.5"} for n in (1, 8)],
    }  # fmt: skip
    monkeypatch.setattr(result_rows, "read", rows.__getitem__)


@pytest.mark.usefixtures("recorded")
def test_the_command_shows_every_size_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--gpus", "8", "1000", "--lanes", "2", "16", "--speeds", "1", "--url"]
    assert cluster_model.main([*arguments, "--no-tensorboard"]) == 0
    text = capsys.readouterr().out
    assert text.count("without TensorBoard, in an object store") == 2
    assert "16 lanes a block, 839 lock steps/s (assumed)" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["limit", "of", "lanes", "0.1%", "10.0%", "10,000"] in lines
    assert ["limit", "of", "lanes", "0.6%", "80.0%", "1,250"] in lines
    assert ["TensorBoard", "0.0%", "0.0%"] in lines
    assert ["start", "38.5", "40.3"] in lines  # 8.5 s and 30 s, and n / 551


@pytest.mark.usefixtures("recorded")
def test_measured_speeds_are_those_of_the_largest_rows() -> None:
    run = cluster_model.make_run(16, 2.0, tensorboard=True, has_url=False)
    assert run.block.env_steps_per_s == 12_800
    assert run.block.lock_steps_per_s == pytest.approx(2 * gpu_steps_per_s(make_block(16)))
    assert cluster_model.measured_start_s() == 8.5


# The tables of profiling/README.md


@pytest.mark.usefixtures("recorded")
def test_what_was_measured_stands_in_the_tables_of_gathering() -> None:
    lines = scaling_tables.gatherer_table().splitlines()
    sizes = ("1 x 2 lanes", "1,000 x 2 lanes", "1 x 16 lanes", "1,000 x 16 lanes")
    assert lines[0] == f"| blocks x lanes | {' | '.join(sizes)} |"
    assert "| rows of an evaluation, CPU ms | 3.00 | 5.00 | 17.0 | 33.0 |" in lines
    assert "| with TensorBoard, CPU ms | 13.0 | 15.0 | 97.0 | 113 |" in lines
    assert "| kept for a store too, CPU ms |  | 7.00 |  | 49.0 |" in lines
    assert lines[-1] == "Chip, 1 thread, v, d."
    exchanges = scaling_tables.gatherer_ray_table().splitlines()
    assert "| of the gatherer's CPU, % | 0.4 | 50.0 |" in exchanges
    others = scaling_tables.gatherer_sizes_table().splitlines()
    assert "| features.csv | 1,700 |" in others
    assert "| nothing, brought by Ray, CPU ms | 1.00 |" in others
    assert "| rows of 16 lanes, bytes | 8,000 |" in others
    assert "| 240,000 rows: opened again, s | 3.00 |" in others


@pytest.mark.usefixtures("recorded")
def test_uses_stand_in_the_tables_of_growth() -> None:
    run = cluster_model.make_run(16, 1.0, tensorboard=True, has_url=False)
    lines = scaling_tables.scaling_table().splitlines()
    assert "| **limit of lanes** | 0.1% | 0.6% | 5.1% | 20% | 80% | **320%** | 1,250 |" in lines
    shown = next(line for line in lines if line.startswith("| TensorBoard |"))
    assert f"| {run.thread(64)['TensorBoard']:.0%} |" in shown
    times = scaling_tables.scaling_times_table()
    assert "| start | 39 s | 39 s | 39 s | 39 s | 40 s | 46 s |" in times
    first = scaling_tables.scaling_first_table().splitlines()
    name, at = run.order()[0]
    assert name == "gatherer, its thread"
    expected = f"| 16 lanes, 839 lock steps/s | folder | yes | {name} (TensorBoard) | {at} |"
    assert any(line.startswith(expected) for line in first)
    assert len([line for line in first if line.startswith(("| 2 lanes", "| 16 lanes"))]) == 18


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--gpus", "0"], "--gpus: must be an integer of at least 1, got '0'"),
     (["--speeds", "-1"], "--speeds: must be a number above 0, got '-1'"),
     (["--lane", "2"], "unrecognized arguments: --lane 2")],
)  # fmt: skip
def test_wrong_arguments_end_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ending:
        cluster_model.main(arguments)
    error = capsys.readouterr().err
    assert ending.value.code == 2 and error.count("\n") == 1 and words in error
