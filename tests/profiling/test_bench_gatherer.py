"""The benchmark of gathering: its points, that it says what a run's workers say, and each part."""

from __future__ import annotations

import contextlib
import csv
import io
from collections import Counter
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import bench_gatherer
import benchmark
import gatherer_rounds
import pytest
from bench_gatherer import GathererBenchmark
from gatherer_rounds import CommitRound, Gatherer, IdleRound, RestartRound, RowsRound
from gatherer_rows import EVAL_FREQ, Speech, index_file

import tests.helpers  # noqa: F401  registers the task Small-v0
from fastanf.checkpoint import read_checkpoint
from fastanf.cli import parse_command_line
from fastanf.cluster.mailbox import Message
from fastanf.records import RunFolder
from fastanf.rows import read_evaluations, read_features, read_topology, read_training
from fastanf.runner import train

SMALL = ["--policy=ANF-SAC", "--env=Small-v0", "--backend=random", "--hidden=8", "--batch_size=8",
         "--device=cpu", "--num_threads=1"]  # fmt: skip
READERS: dict[str, Any] = {
    "eval": read_evaluations,
    "train": read_training,
    "topology": read_topology,
    "features": read_features,
}


@pytest.fixture
def bench() -> Iterator[GathererBenchmark]:
    with contextlib.closing(GathererBenchmark()) as bench:
        yield bench


@pytest.fixture(scope="module")
def speech() -> Speech:
    return Speech(SMALL, 3)


@pytest.fixture
def gatherer(speech: Speech, tmp_path: Path) -> Iterator[Gatherer]:
    gatherer = Gatherer(tmp_path / "run", speech, 4)
    yield gatherer
    gatherer.close()


def points_of(bench: GathererBenchmark, *argv: str) -> list[benchmark.Point]:
    own, rest = benchmark._parser(bench).parse_known_args(argv)
    return bench.points(own, rest)


def rows_per_lane(path: Path, num_evaluations: int) -> dict[str, float]:
    """Table -> rows of a lane and evaluation."""
    num_lanes = len({row.lane for row in read_evaluations(path)})
    return {name: len(read(path)) / num_lanes / num_evaluations for name, read in READERS.items()}


# Points


def test_without_arguments_all_parts_are_measured_and_ray_comes_last(bench) -> None:
    found = points_of(bench)
    parts = [point["impl"] for point in found]
    assert list(dict.fromkeys(parts)) == list(bench_gatherer.PARTS)
    assert Counter(parts) == {"rows": 14, "idle": 12, "commit": 4, "restart": 2, "ray": 6,
                              "ray_rows": 3}  # fmt: skip
    mirrored = [point for point in found if point["tensorboard"] == "yes"]
    assert {point["impl"] for point in mirrored} == {"rows"} and len(mirrored) == 6


def test_arguments_choose_parts_and_sizes(bench) -> None:
    arguments = ["--parts", "rows", "--blocks", "5", "7", "--lanes", "3", "--tensorboard", "yes"]
    found = points_of(bench, *arguments)
    shown = [(point["blocks"], point["lanes"], point["tensorboard"], point["store"])
             for point in found]  # fmt: skip
    assert shown == [(5, 3, "yes", ""), (7, 3, "yes", ""), (7, 3, "no", "memory")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--parts", "cows"], "invalid choice: 'cows'"),
     (["--blocks", "0"], "must be an integer of at least 1, got '0'"),
     (["--folder", "/nowhere"], "--folder must be a folder, got '/nowhere'"),
     (["--policy", "SAC", "ANF-SAC", "--parts", "rows"], "--policy must be one, got SAC ANF-SAC")],
)  # fmt: skip
def test_arguments_that_are_wrong_are_refused_in_one_line(
    bench, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ending:
        benchmark.main(bench, [*SMALL[1:], *arguments])
    error = capsys.readouterr().err
    assert ending.value.code == 2 and error.count("\n") == 1 and words in error


def test_without_ray_the_parts_that_need_it_say_what_to_install(bench, monkeypatch) -> None:
    monkeypatch.setattr(bench_gatherer, "needs_ray", lambda: "it needs the package ray")
    with pytest.raises(ValueError, match="--parts: it needs the package ray"):
        points_of(bench, "--parts", "ray_rows")
    assert points_of(bench, "--parts", "rows")


# What is said


def test_a_block_says_as_many_rows_as_one_that_trains(speech: Speech, tmp_path: Path) -> None:
    flags = [*SMALL, "--num_seeds=3", "--max_timesteps=40", "--start_timesteps=20",
             "--eval_freq=20", "--eval_episodes=1", "--no-tensorboard", "--plain",
             f"--run_dir={tmp_path / 'trained'}"]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        assert train(parse_command_line(flags)) == 0
    speech.make_run(tmp_path / "said", speech.lane_rows(2), 2).close()
    said = rows_per_lane(tmp_path / "said", 2)
    assert said == rows_per_lane(tmp_path / "trained", 2)
    assert said["topology"] == 3 and said["features"] == 3


def test_rows_of_a_run_are_of_every_lane_and_step(speech: Speech, tmp_path: Path) -> None:
    path = tmp_path / "run"
    speech.make_run(path, speech.lane_rows(4), 2).close()
    RunFolder.open(path).close()
    every = {(lane, step) for lane in range(12) for step in (EVAL_FREQ, 2 * EVAL_FREQ)}
    for read in READERS.values():
        assert {(row.lane, row.step) for row in read(path)} == every


def test_the_index_of_a_checkpoint_is_read_as_one(tmp_path: Path) -> None:
    name, data = index_file(7)
    (tmp_path / name).write_bytes(data)
    assert read_checkpoint(tmp_path, 7).number == 7


# The parts


def test_rows_are_written_and_their_bytes_and_syncs_counted(gatherer: Gatherer) -> None:
    before = gatherer.table_bytes()
    figures = RowsRound(gatherer).measure(0.0)
    added = {name: size - before[name] for name, size in gatherer.table_bytes().items()}
    assert (figures["fsyncs_count"], figures["heard_count"]) == (4, 4)
    assert {name: figures[f"{name}_bytes"] * 12 for name in READERS} == pytest.approx(
        {name: added[name] for name in READERS}
    )
    assert "tb_bytes" not in figures and "quarantine_bytes" not in figures
    assert figures["block_eval_wall_ms"] > figures["fsync_ms"] > 0
    assert {row.step for row in read_evaluations(gatherer.path)} == {EVAL_FREQ, 2 * EVAL_FREQ}


def test_rows_are_mirrored_where_that_is_asked_for(speech: Speech, tmp_path: Path) -> None:
    gatherer = Gatherer(tmp_path / "run", speech, 2, tensorboard=True)
    try:
        assert RowsRound(gatherer).measure(0.0)["tb_bytes"] > 0
        assert len(list((tmp_path / "run" / "tb").iterdir())) == 6
    finally:
        gatherer.close()


@pytest.mark.parametrize("is_live", [False, True])
def test_the_display_is_drawn_in_each_round(speech: Speech, tmp_path: Path, is_live: bool) -> None:
    gatherer = Gatherer(tmp_path / "run", speech, 2, is_live=is_live)
    drawn: list[str] = []
    gatherer.progress.stream.write = drawn.append  # type: ignore[method-assign]
    try:
        figures = [IdleRound(gatherer).measure(0.0) for _ in range(2)]
    finally:
        gatherer.close()
    assert all(figure["draw_ms"] > 0 and figure["update_us"] > 0 for figure in figures)
    text = "".join(drawn)
    assert ("ANF-SAC seed 0" in text) if is_live else ("2 of 2 blocks at work" in text)


def test_a_checkpoint_is_committed(gatherer: Gatherer) -> None:
    figures = CommitRound(gatherer).measure(0.0)
    assert figures["fsyncs_count"] == 2  # of the file and its folder
    assert read_checkpoint(gatherer.path / "checkpoints" / "block1", 1).number == 1
    assert figures["commit_wall_ms"] > 0 and figures["commit_cpu_ms"] > 0


def test_rows_go_into_a_store_with_the_checkpoint(speech: Speech, tmp_path: Path) -> None:
    class Store:
        commits: list[tuple[int, str, int]] = []  # noqa: RUF012

        def commit(self, block: int, name: str, data: bytes, rows: Any, after: Any = None) -> None:
            self.commits.append((block, name, len(rows)))

    gatherer = Gatherer(tmp_path / "run", speech, 2, store=Store())
    try:
        CommitRound(gatherer).measure(0.0)
    finally:
        gatherer.close()
    assert Store.commits == [(1, "checkpoint-1.json", 8 * 3 * (1 + 1 + 3 + 3))]


def test_a_round_of_restarts_leaves_the_run_as_it_was(speech: Speech, tmp_path: Path) -> None:
    one_round = RestartRound(tmp_path / "run", speech, 4, 3)
    first, second = one_round.measure(0.0), one_round.measure(0.0)
    assert first["rows_count"] == second["rows_count"] == 4 * 3 * 3 * 8
    dropped = {row.step for row in read_evaluations(tmp_path / "run")}
    assert dropped == {EVAL_FREQ, 2 * EVAL_FREQ}
    lanes = [row.lane for row in read_evaluations(tmp_path / "run")]
    assert [lane // 3 for lane in lanes] == sorted(lane // 3 for lane in lanes)  # by blocks


def test_damaged_rows_are_no_figure(speech: Speech, tmp_path: Path) -> None:
    one_round = RestartRound(tmp_path / "run", speech, 2, 2)
    table = tmp_path / "run-whole" / "eval.csv"
    table.write_text(table.read_text().replace("Small", "Large"))
    with pytest.raises(ValueError, match="was changed or damaged"):
        one_round.measure(0.0)


# The command


def test_parts_without_ray_are_recorded(bench, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(gatherer_rounds, "UPDATES", 10)
    own = ["--parts", "rows", "idle", "commit", "restart", "--blocks", "1", "2", "--lanes", "2"]
    own += ["--restart_blocks", "2", "--evaluations", "1", "2", "--tensorboard", "no"]
    own += ["--rounds", "1", "--round_s", "0.001", "--out", str(tmp_path)]
    assert benchmark.main(bench, [*SMALL[1:], *own, "--folder", str(tmp_path)]) == 0
    with (tmp_path / "gatherer.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(row["impl"], row["blocks"], row["store"], row["metric"]) for row in rows}
    assert ("rows", "2", "memory", "block_eval_cpu_ms") in found
    assert ("commit", "2", "memory", "commit_cpu_ms") in found
    assert ("idle", "1", "", "draw_ms") in found
    assert ("restart", "2", "", "open_s") in found
    bench.close()
    assert [path.name for path in tmp_path.iterdir()] == ["gatherer.csv"]


@pytest.mark.skipif(util.find_spec("ray") is None, reason="needs Ray")
def test_exchanges_over_ray_bring_what_is_said(speech: Speech) -> None:
    import ray_rounds

    said = [*speech.evaluation(0, EVAL_FREQ), Message("update", (1, 1.0))]
    with ray_rounds.local_ray():
        silent = ray_rounds.ExchangesRound(3).measure(0.1)
        speaking = ray_rounds.ExchangesRound(1, said, 0.0).measure(0.1)
    assert "message_bytes" not in silent and silent["exchanges_per_s"] > 0
    assert silent["gatherer_share"] > 0 and silent["exchange_cpu_ms"] > 0
    assert speaking["message_bytes"] > 1000 and speaking["listens_per_s"] > 0
