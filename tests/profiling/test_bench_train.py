"""Points, processes and accounting of the training benchmark."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import bench_train
import benchmark
import pytest
from bench_train import Ended, TrainBenchmark, Trainings

TINY = ["--env", "Hopper-v3", "--hidden", "8", "--batch_size", "8", "--num_threads", "1",
        "--device", "cpu"]  # fmt: skip


def points_of(*argv: str, bench: TrainBenchmark | None = None) -> list[benchmark.Point]:
    """What the arguments stand for."""
    bench = bench or TrainBenchmark()
    own, rest = benchmark._parser(bench).parse_known_args(argv)
    return bench.points(own, rest)


def test_without_flags_eight_sparse_lanes_train_for_a_short_time() -> None:
    bench = TrainBenchmark()
    (point,) = points_of("--num_threads", "1", "--device", "cpu", bench=bench)
    expected = bench_train.SHORT | {"lanes": 8, "policies": "ANF-SAC", "settings": ""}
    assert expected.items() <= point.items() and point["replay_capacity"] == 1_000_000
    ((flags, evaluations),) = bench._commands.values()
    assert flags[-2:] == ["--num_seeds", "8"] and evaluations == 4


def test_flags_override_the_short_schedule_and_lanes_are_dealt_over_policies() -> None:
    bench = TrainBenchmark()
    given = [
        "--policy",
        "ANF-SAC",
        "SAC",
        "--layout=masked",
        "--max_timesteps",
        "900",
        "--Eval-Freq=400",
    ]
    run = ["--no_tensorboard", "--replay_capacity", "500"]
    found = points_of(*TINY, *given, *run, "--lanes", "2", "4", bench=bench)
    for point, count in zip(found, (2, 4), strict=True):
        expected = {
            "policies": "ANF-SAC+SAC", "lanes": count, "max_timesteps": 900, "eval_freq": 400,
            "start_timesteps": 1000, "replay_capacity": 500,
            "settings": "hidden=8 tensorboard=false",
        }  # fmt: skip
        assert expected.items() <= point.items()
    seeds = [(flags[-1], evaluations) for flags, evaluations in bench._commands.values()]
    assert seeds == [("1", 3), ("2", 3)]


def test_every_swept_value_is_a_point() -> None:
    found = points_of(*TINY, "--lanes", "1", "2", "--sweep", "eval_episodes=1,3")
    sizes = [(point["eval_episodes"], point["lanes"]) for point in found]
    assert sizes == [(1, 1), (1, 2), (3, 1), (3, 2)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lanes", "0"], "--lanes: must be an integer of at least 1, got '0'"),
        (["--policy", "ANF-SAC", "SAC", "--lanes", "3"], "a multiple of the 2 policies, got 3"),
        (["--max_timesteps", "500"], "--max_timesteps must be more than eval_freq (500)"),
        (["--Run-Dir=x"], "--Run-Dir=x must not be given"),
        (["--num_seeds", "2"], "--lanes says how many lanes"),
        (["--plan"], "--plan must not be given"),
        (["--policy", "SAC", "TD3"], "lanes of one kind, got 2"),
        (["--policy", "SAC", "ANF-SAC", "--layout", "csr"], "measure one policy at a time"),
        (["--sweep", "eval_freq=300,300"], "--sweep must make points that differ"),
        (["--sweep", "tensorboard=false"], "tensorboard is not a setting of training"),
        (["--env", "Nowhere-v3"], "Nowhere-v3"),
        (["--device", "tpu"], "device must be one of"),
    ],
)
def test_bad_input_ends_in_one_line(arguments: list[str], words: str, capsys) -> None:
    with pytest.raises(SystemExit) as exit_info:
        benchmark.main(TrainBenchmark(), arguments)
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error


def write_records(run_dir: Path, returns: Sequence[float]) -> None:
    """Two lanes, evaluated at 10, 20 and 25 steps; the last record is of 1050 s."""
    tables = {
        "eval.csv": [
            {"lane": lane, "step": step, "wall_s": wall_s, "return_mean": value}
            for step, wall_s, value in zip((10, 20, 25), (14.0, 24.0, 29.0), returns, strict=True)
            for lane in range(2)
        ],
        "train.csv": [
            {"lane": lane, "step": step, "env_steps_per_s": rate}
            for step, rate in ((10, 1.0), (20, 2.0), (25, 5.0))
            for lane in range(2)
        ],
    }
    run_dir.mkdir()
    for name, rows in tables.items():
        with (run_dir / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    os.utime(run_dir / "eval.csv", (1050.0, 1050.0))


@pytest.fixture
def trained(monkeypatch) -> list[list[float]]:
    """Returns that the next trainings reach; each lasts from 1000 s to 1052 s."""
    coming: list[list[float]] = []

    def fake_run(tree: Path, flags: Sequence[str], folder: Path) -> Ended:
        assert flags[:2] == ["--env", "E"] and flags[-2] == "--run_dir"
        write_records(Path(flags[-1]), coming.pop(0))
        return Ended(started_at=1000.0, whole_s=52.0, peak_mib=None)

    monkeypatch.setattr(bench_train, "run_train", fake_run)
    return coming


def make_trainings(num_evaluations: int = 3, is_exact: bool = True) -> Trainings:
    """Of two lanes."""
    return Trainings(Path(), ["--env", "E"], 2, num_evaluations, is_exact)


def test_figures_follow_from_the_records(trained: list[list[float]]) -> None:
    trained.append([1.0, 2.0, 3.0])
    # 2 lanes x 15 steps in 15 s. Without evaluations 10 steps at 2/s and 5 at 5/s take 6 s. The
    # first evaluation is at 1050 - 15 s; the 10 steps of each lane before it take 10 s.
    assert make_trainings().measure(1.0) == {
        "env_steps_per_s": 2.0,
        "training_steps_per_s": 5.0,
        "start_s": 25.0,
        "whole_s": 52.0,
    }


def test_trainings_that_differ_are_refused_where_they_are_exact(trained: list[list[float]]) -> None:
    trained += [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 4.0]] * 2
    exact, rounded = make_trainings(), make_trainings(is_exact=False)
    assert exact.measure(1.0) == exact.measure(1.0)
    with pytest.raises(ValueError, match="same seeds reached different returns"):
        exact.measure(1.0)
    assert all(rounded.measure(1.0)["whole_s"] == 52.0 for _ in range(3))


def test_missing_evaluations_are_refused(trained: list[list[float]]) -> None:
    trained.append([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"eval.csv of a training has 6 rows, it should have 8"):
        make_trainings(num_evaluations=4).measure(1.0)


def fake_tree(folder: Path, program: str) -> Path:
    """A tree whose train.py and package fastanf are given."""
    tree = folder / "tree"
    (tree / "fastanf").mkdir(parents=True)
    (tree / "fastanf" / "__init__.py").write_text("")
    (tree / "train.py").write_text(program)
    return tree


def test_process_sees_its_own_tree_only(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "other"))
    program = """
import os, sys, fastanf
from importlib.util import find_spec
assert sys.argv[1:] == ["--env", "E"] and sys.stdin.read() == ""
print(fastanf.__file__, find_spec("fastanf.cli"), os.getcwd(), sep="\\n")
"""
    tree = fake_tree(tmp_path, program)
    ended = bench_train.run_train(tree, ["--env", "E"], tmp_path)
    lines = (tmp_path / "stdout").read_text().splitlines()
    assert lines == [str(tree / "fastanf" / "__init__.py"), "None", str(tmp_path)]
    assert ended.whole_s > 0


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (
            "import sys; print('a'); sys.exit('first\\nfastanf: error: --x is wrong')",
            "train.py ended with exit code 1: --x is wrong",
        ),
        ("raise SystemExit(3)", "exit code 3: it said nothing"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "exit code -9: it said"),
    ],
)
def test_training_that_fails_is_one_line(program: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        bench_train.run_train(fake_tree(tmp_path, program), [], tmp_path)


def test_peak_of_the_process_that_started_it_is_not_shown(monkeypatch) -> None:
    usage = bench_train.resource.getrusage(bench_train.resource.RUSAGE_SELF)

    class Larger:
        ru_maxrss = usage.ru_maxrss * 3

    monkeypatch.setattr(bench_train.sys, "platform", "linux")
    assert bench_train._peak_mib(usage) is None
    assert bench_train._peak_mib(Larger()) == usage.ru_maxrss * 3 / 1024  # type: ignore[arg-type]


def test_a_real_training_has_all_figures() -> None:
    bench = TrainBenchmark()
    schedule = ["--start_timesteps", "20", "--max_timesteps", "30", "--eval_freq", "10"]
    flags = [*TINY, *schedule, "--eval_episodes", "1"]
    (point,) = points_of(*flags, "--lanes", "2", bench=bench)
    figures = bench.prepare(point)(1.0)
    names = {"env_steps_per_s", "training_steps_per_s", "start_s", "whole_s"}
    assert names <= figures.keys() <= names | {"peak_mib"}
    assert figures["training_steps_per_s"] > figures["env_steps_per_s"]
    assert 0 < figures["start_s"] < figures["whole_s"]
