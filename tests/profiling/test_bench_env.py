"""Points, checks and accounting of the environment benchmark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

import bench_env
import benchmark
import numpy as np
import pytest
from bench_env import EnvBenchmark, EnvRound

import envs
from envs import registry
from tests.helpers import RandomVecEnv

RANDOM = ["--backend", "random", "--env", "Small-v0"]
SHORT = ["--rounds", "1", "--round_s", "0.001"]


class CountedEnv(RandomVecEnv):
    """Counts its steps; closing it twice fails."""

    made: ClassVar[list[CountedEnv]] = []
    seed_offset = 0
    """Added to the seeds of every second instance."""

    def __init__(self, spec: envs.EnvSpec, seeds: range, num_threads: int):
        offset = self.seed_offset * (len(self.made) % 2)
        super().__init__(spec, [seed + offset for seed in seeds], num_threads)
        self.num_threads, self.num_steps, self.is_closed = num_threads, 0, False
        self.made.append(self)

    def step(self, actions: Any) -> envs.Step:
        self.num_steps += 1
        return super().step(actions)

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


@pytest.fixture
def made() -> Iterator[list[CountedEnv]]:
    """The simulators that the backend `counted` has made."""

    CountedEnv.made.clear()
    envs.register_backend("counted", CountedEnv, [envs.spec("Small-v0", "random")])
    yield CountedEnv.made
    registry._BACKENDS.pop("counted")


def points_of(*argv: str) -> list[benchmark.Point]:
    """What the arguments stand for."""
    bench = EnvBenchmark()
    own, rest = benchmark._parser(bench).parse_known_args(argv)
    return bench.points(own, rest)


def test_every_combination_is_one_point_with_no_more_threads_than_rows() -> None:
    found = points_of(*RANDOM, "--rows", "1", "4", "--num_threads", "1", "3")
    sizes = [(point["rows"], point["num_threads"]) for point in found]
    assert sizes == [(1, 1), (4, 1), (4, 3)]
    assert list(found[0]) == ["impl", "backend", "env", "rows", "num_threads"]


def test_tasks_are_those_of_the_backends_first_version(monkeypatch) -> None:
    monkeypatch.setattr(bench_env, "usable_cores", lambda: 2)
    found = points_of("--backend", "envpool", "gymnasium", "--rows", "8")
    tasks = [(point["backend"], point["env"]) for point in found]
    names = ("HalfCheetah", "Hopper", "Walker2d", "Ant", "Humanoid")
    assert tasks == [("envpool", f"{name}-v3") for name in names] + [
        ("gymnasium", f"{name}-v4") for name in names
    ]
    assert {point["num_threads"] for point in found} == {2}
    assert len(points_of()) == len(names) * len(bench_env.ROWS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backend", "gym"], "--backend must be one of envpool, gymnasium"),
        (["--backend", "gymnasium", "--env", "Ant-v3"], "'Ant-v3', unknown to backend 'gymnasium'"),
        (["--env", "Nowhere-v3"], "Nowhere-v3"),
        (["--rows", "0"], "--rows: must be an integer of at least 1, got '0'"),
        (["--num_threads", "-1"], "--num_threads: must be an integer of at least 0, got '-1'"),
        (["--lanes", "8"], "--lanes is not an option of this script"),
    ],
)
def test_bad_input_ends_in_one_line(arguments: list[str], words: str, capsys) -> None:
    with pytest.raises(SystemExit) as exit_info:
        benchmark.main(EnvBenchmark(), arguments)
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error


def test_simulator_that_cannot_be_made_ends_in_one_line(capsys) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no such\nlibrary")

    envs.register_backend("broken", broken, [envs.spec("Small-v0", "random")])
    try:
        with pytest.raises(SystemExit) as exit_info:
            benchmark.main(EnvBenchmark(), ["--backend", "broken", "--rows", "2"])
    finally:
        registry._BACKENDS.pop("broken")
    assert exit_info.value.code == 2
    error = "--backend broken cannot make 2 rows of Small-v0: no such library\n"
    assert capsys.readouterr().err.endswith(error)


def test_one_point_as_json_has_the_promised_figure(capsys, made: list[CountedEnv]) -> None:
    bench = EnvBenchmark()
    arguments = ["--backend", "counted", "--rows", "3", "--num_threads", "2", *SHORT, "--json"]
    assert benchmark.main(bench, arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["env_steps_per_s"] == found["points"][0]["env_steps_per_s"] > 0
    measured, compared = made
    assert measured.num_rows == compared.num_rows == 3 and measured.num_threads == 2
    assert compared.num_steps == bench_env.CHECK_STEPS < measured.num_steps
    assert compared.is_closed and not measured.is_closed
    bench.close()
    assert measured.is_closed


def test_simulator_that_does_not_repeat_itself_is_refused(made: list[CountedEnv]) -> None:
    bench = EnvBenchmark()
    (point,) = points_of("--backend", "counted", "--rows", "2")
    bench.prepare(point)
    CountedEnv.seed_offset = 1
    try:
        with pytest.raises(ValueError, match="Small-v0 of --backend counted with 2 rows differs"):
            bench.prepare(point)
    finally:
        CountedEnv.seed_offset = 0
    bench.close()
    assert len(made) == 4 and all(env.is_closed for env in made)


def test_rate_counts_the_steps_of_all_rows(monkeypatch) -> None:
    env = RandomVecEnv(envs.spec("Small-v0", "random"), range(6))
    clock, given = [0.0], []

    def step(actions: np.ndarray) -> None:
        clock[0] += 0.5
        given.append(actions)

    monkeypatch.setattr(env, "step", step)
    monkeypatch.setattr(bench_env.time, "perf_counter", lambda: clock[0])
    actions = np.arange(3.0, dtype=np.float32)
    one_round = EnvRound(env, actions)
    assert one_round.measure(4.0) == {"env_steps_per_s": 6 / 0.5} and clock[0] == 4.0
    assert one_round.measure(0.1) == {"env_steps_per_s": 6 / 0.5}
    # The second round goes on with the actions where the first one ended.
    assert given == [0, 1, 2] * 4 and bench_env.MIN_STEPS == 4


def test_actions_fill_the_tasks_limits() -> None:
    spec = envs.spec("Humanoid-v0", "random")
    actions = bench_env.random_actions(spec, 50)
    assert actions.shape == (bench_env.NUM_ACTION_SETS, 50, 17) and actions.dtype == np.float32
    assert -0.4 <= actions.min() < -0.399 and 0.399 < actions.max() <= 0.4


def test_comparing_many_rows_takes_few_steps(made: list[CountedEnv]) -> None:
    (point,) = points_of("--backend", "counted", "--rows", "600")
    EnvBenchmark().prepare(point)
    assert [env.num_steps for env in made] == [6, 6]


def test_rows_of_envpool_and_gymnasium_repeat_themselves() -> None:
    with_both = ["--backend", "envpool", "gymnasium", "--env", "Hopper-v4", "--rows", "2"]
    bench = EnvBenchmark()
    for point in points_of(*with_both):
        figures = bench.prepare(point)(0.001)
        assert figures["env_steps_per_s"] > 0
    assert len(bench._open) == 2
    bench.close()
