"""What is measured of a block before it trains, and what a whole study is then said to take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastanf.block import TrainingBlock
from fastanf.cluster import probe
from fastanf.cluster.cost import relative_cost
from fastanf.cluster.probe import Pace, durations, kinds, measure, measure_here
from fastanf.collect import Collector
from fastanf.config import TrainConfig
from fastanf.grouping import Block, make_blocks
from fastanf.learner import Learner
from fastanf.presets import expand
from fastanf.progress import duration
from fastanf.settings import RunConfig
from tests import fake_env

RUN = RunConfig(num_threads=1)
TINY = {
    "backend": "fake", "hidden": (8, 5), "batch_size": 4, "noise_fraction": 0.7,
    "topology_period": 3, "max_timesteps": 25, "start_timesteps": 9, "eval_freq": 7,
    "eval_episodes": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fake_env.register(monkeypatch)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def lanes_of(*policies: str, num_seeds: int = 1, **settings: Any) -> tuple[TrainConfig, ...]:
    env = settings.pop("env", fake_env.ROWS_ENV_ID)
    overrides = TINY | settings
    return expand(list(policies), envs=[env], num_seeds=num_seeds, overrides=overrides).lanes


class Clock:
    """Seconds that pass while something is done, and at no other time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
        self.now, self.counts = 0.0, dict.fromkeys(seconds, 0)
        owners = {
            "building": (TrainingBlock, "__init__"),
            "random": (Collector, "random_step_"),
            "update": (Learner, "update_"),
            "evaluation": (TrainingBlock, "evaluate"),
        }
        for name, each_s in seconds.items():
            owner, attribute = owners[name]
            monkeypatch.setattr(
                owner, attribute, self._counted(getattr(owner, attribute), name, each_s)
            )
        clock = SimpleNamespace(perf_counter=lambda: self.now)
        monkeypatch.setattr(probe, "time", clock)

    def _counted(self, function: Any, name: str, each_s: float) -> Any:
        def counted(*arguments: Any) -> Any:
            self.counts[name] += 1
            self.now += each_s
            return function(*arguments)

        return counted


@pytest.mark.parametrize("policies", [("ANF-SAC",), ("TD3", "ANF-TD3")])
def test_a_block_is_measured_by_what_it_does(
    monkeypatch: pytest.MonkeyPatch, policies: tuple[str, ...]
) -> None:
    clock = Clock(monkeypatch, building=3.0, random=0.25, update=0.5, evaluation=2.0)
    pace = measure(lanes_of(*policies, layout="masked"), RUN, "cpu", 1)
    assert pace == Pace(building_s=3.0, random_step_s=0.25, step_s=0.5, evaluation_s=2.0)
    # Each way of acting is met often enough; the first updates are not counted.
    assert clock.counts == {"building": 1, "random": 201, "update": 30, "evaluation": 1}


def test_a_block_is_measured_for_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, update=0.05, random=0.0)
    assert measure(lanes_of("SAC"), RUN, "cpu", 1).step_s == pytest.approx(0.05)
    assert clock.counts["update"] == pytest.approx(10 + probe.PROBE_S / 0.05, abs=1)


def test_a_step_is_measured_with_all_its_updates_and_environments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch, random=1.0, update=0.5)
    lanes = lanes_of("SAC", envs_per_lane=4, updates_per_step=3, batch_size=300)
    pace = measure(lanes, RUN, "cpu", 1)
    assert (pace.random_step_s, pace.step_s) == (1.0, 1.5)
    assert clock.counts == {"random": 75, "update": 90}  # 51, and until a minibatch is there


def test_measuring_writes_nothing_and_frees_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probe, "PROBE_S", 0.0)
    closed: list[bool] = []
    close = TrainingBlock.close

    def noted(self: TrainingBlock) -> None:
        closed.append(True)
        close(self)

    monkeypatch.setattr(TrainingBlock, "close", noted)
    pace = measure(lanes_of("ANF-SAC", "SAC", layout="masked"), RUN, "cpu", 0)
    assert min(pace.building_s, pace.random_step_s, pace.step_s, pace.evaluation_s) > 0
    assert closed == [True] and not list(tmp_path.iterdir())

    def fail(self: TrainingBlock) -> None:
        raise RuntimeError("no evaluation")

    monkeypatch.setattr(TrainingBlock, "evaluate", fail)
    with pytest.raises(RuntimeError, match="no evaluation"):
        measure(lanes_of("SAC"), RUN, "cpu", 1)
    assert closed == [True, True]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # 9 random steps, 25 others, evaluations at 7, 14, 21 and 25.
        ({}, 100 + 9 * 0.5 + 25 * 2 + 4 * 10),
        ({"max_timesteps": 21}, 100 + 9 * 0.5 + 21 * 2 + 3 * 10),
        # 5 and 13 lock steps of two environments, an evaluation each 3 of them.
        ({"envs_per_lane": 2}, 100 + 5 * 0.5 + 13 * 2 + 5 * 10),
        ({"envs_per_lane": 2, "eval_freq": 1}, 100 + 5 * 0.5 + 13 * 2 + 13 * 10),
    ],
)
def test_a_block_takes_its_steps_and_evaluations(settings: dict[str, Any], expected: float) -> None:
    pace = Pace(building_s=100, random_step_s=0.5, step_s=2, evaluation_s=10)
    assert pace.block_s(lanes_of("SAC", **settings)[0]) == expected


# --- studies --------------------------------------------------------------------------------------


def study_blocks() -> list[Block]:
    """Blocks of three lanes and of two that differ in nothing else, and one of another task."""
    (block,) = make_blocks(lanes_of("ANF-SAC", num_seeds=5, layout="masked"))
    (other,) = make_blocks(lanes_of("ANF-SAC", env=fake_env.WHOLE_ENV_ID, layout="masked"))
    two, three = (
        Block(block.indices[a:b], block.lanes[a:b], block.device) for a, b in ((0, 2), (2, 5))
    )
    return [two, other, three]


def test_of_each_kind_the_block_that_takes_longest_is_measured() -> None:
    two, other, three = study_blocks()
    assert list(kinds([two, other, three]).values()) == [three, other]
    assert list(kinds([three, two]).values()) == [three]
    assert kinds([]) == {}
    # Layouts are another kind, as other static settings are.
    (csr,) = make_blocks(lanes_of("ANF-SAC", num_seeds=5, layout="csr"))
    (wide,) = make_blocks(lanes_of("ANF-SAC", num_seeds=5, layout="masked", hidden=(9, 5)))
    assert len(kinds([two, csr, wide])) == 3


def test_blocks_of_a_kind_take_in_proportion_to_their_cost() -> None:
    two, other, three = study_blocks()
    measured = kinds([two, other, three])
    pace, slow = Pace(1, 0, 1, 0), Pace(1, 0, 3, 0)
    paces = dict(zip(measured, (pace, slow), strict=True))
    share = relative_cost(two) / relative_cost(three)
    assert 0 < share < 1
    assert durations([two, other, three], paces) == [26 * share, 76, 26]
    assert durations([three], {next(iter(measured)): pace}) == [26]


def test_a_study_here_takes_the_sum_of_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str, int]] = []

    def look(configs: Sequence[TrainConfig], run: RunConfig, device: str, threads: int) -> Pace:
        asked.append((len(configs), device, threads))
        return Pace(3600, 0, 0, 0) if len(configs) == 3 else Pace(60, 0, 0, 0)

    monkeypatch.setattr(probe, "measure", look)
    two, other, three = study_blocks()
    share = relative_cost(two) / relative_cost(three)
    assert measure_here([two, other, three], RUN) == (
        f"estimate: {duration(3600 * (1 + share) + 60)} on cpu, by 2 measurements of some seconds; "
        f"longest block {duration(3600)}"
    )
    assert asked == [(3, "cpu", 1), (1, "cpu", 1)]
    assert "by 1 measurement of some seconds" in measure_here([other], RUN)
    assert measure_here([], RUN) == "estimate: nothing is left to train"


def test_a_study_here_is_really_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PROBE_S", 0.0)
    said = measure_here(make_blocks(lanes_of("ANF-SAC", "SAC")), RUN)
    assert said.startswith("estimate: ") and "on cpu, by " in said
