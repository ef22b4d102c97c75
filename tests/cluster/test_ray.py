"""Studies on a Ray cluster of several nodes, all of them processes of this machine: the records are
those of a run without it, whatever dies on the way.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from fastanf.__main__ import main
from fastanf.checkpoint import newest_checkpoint
from tests.cluster.ray_studies import (
    OPTIONS,
    add_node,
    kill_node,
    listening_addresses,
    once,
    ray_cluster,
    study,
    tables,
    wait_until,
    write_study,
)
from tests.interruptions import rows_of

pytestmark = pytest.mark.skipif(util.find_spec("ray") is None, reason="needs Ray")
if_all = pytest.mark.skipif(
    os.environ.get("FASTANF_RAY") != "all", reason="takes minutes: set FASTANF_RAY=all"
)
STEPS = 240
NUM_NODES = 2
OFTEN = ("--checkpoint_minutes", "0.002")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster(NUM_NODES) as found:
        yield found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_study(tmp_path_factory.mktemp("study"), STEPS)


@pytest.fixture(scope="module")
def local(file: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same study in this process alone."""
    path = tmp_path_factory.mktemp("local") / "run"
    assert study(file, path) == 0
    return path


def block_folders(path: Path) -> list[Path]:
    return sorted((path / "checkpoints").glob("block*"))


def steps_saved(path: Path) -> list[int]:
    """Steps of the newest checkpoint of each block that has one and is not finished."""
    found = [newest_checkpoint(folder) for folder in block_folders(path)]
    return [each.state["step"] for each in found if each and not each.state["is_finished"]]


def test_a_study_of_four_blocks_equals_the_local_run(
    cluster: Any, file: str, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    assert study(file, path, "--ray", cluster.address) == 0
    text = capsys.readouterr().out
    assert (
        f"cluster: {1 + NUM_NODES} nodes, {NUM_NODES} CPUs, 0 GPUs" in text
        and "4 lanes in 4 blocks" in text
    )
    assert tables(path) == tables(local)
    assert (path / "lanes.csv").read_text() == (local / "lanes.csv").read_text()
    assert [row["lane"] for row in rows_of(path)] == [row["lane"] for row in rows_of(local)]
    # And once more: there is nothing left to do.
    assert study(file, path, "--ray", cluster.address) == 0
    assert "nothing is left to train" in capsys.readouterr().out


def test_ray_listens_on_the_loopback_interface_alone(cluster: Any) -> None:
    addresses = listening_addresses()
    assert addresses and addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_a_node_that_is_killed_costs_nothing_but_time(
    cluster: Any, file: str, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, victim = tmp_path / "run", next(iter(cluster.worker_nodes))
    with once(
        lambda: len(steps_saved(path)) == NUM_NODES and min(steps_saved(path)) > 20,
        lambda: kill_node(victim),
    ):
        assert study(file, path, *OFTEN, "--ray", cluster.address) == 0
    cluster.remove_node(victim, allow_graceful=False)
    add_node(cluster)
    text = capsys.readouterr().out
    assert "another one goes on" in text
    assert "going on" in text.partition("the worker was lost")[2]
    assert tables(path) == tables(local)


@if_all
def test_workers_that_are_killed_again_and_again_cost_nothing_but_time(
    cluster: Any, file: str, local: Path, tmp_path: Path
) -> None:
    """By SIGKILL, at moments that nobody chose, one of them right after it has begun."""
    path, wanted = tmp_path / "run", itertools.count(1)
    pids: set[int] = set()

    def workers() -> set[int]:
        names = subprocess.run(
            ["pgrep", "-f", "^ray::BlockWorker"], capture_output=True, text=True, check=False
        )
        return {int(word) for word in names.stdout.split()}

    def kill_four() -> None:
        for _ in range(4):
            at_least = 15 * next(wanted)
            wait_until(
                lambda n=at_least: bool(workers() - pids) and max([0, *steps_saved(path)]) > n
            )
            victim = min(workers() - pids)
            pids.add(victim)
            os.kill(victim, signal.SIGKILL)

    with once(lambda: bool(workers()), kill_four):
        assert study(file, path, *OFTEN, "--ray", cluster.address) == 0
    assert tables(path) == tables(local)


@if_all
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_dies_or_is_stopped_goes_on_by_the_same_command(
    cluster: Any, file: str, local: Path, tmp_path: Path, number: signal.Signals
) -> None:
    path = tmp_path / "run"
    command = [sys.executable, "-m", "fastanf", "study", file, *OPTIONS, *OFTEN]
    command += ["--run_dir", str(path), "--ray", cluster.address]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(lambda: len(steps_saved(path)) == NUM_NODES and min(steps_saved(path)) > 20, 120)
    driver.send_signal(number)
    text = driver.communicate(timeout=120)[0]
    assert driver.returncode == (130 if number == signal.SIGINT else -number), text
    assert tables(path) != tables(local)
    assert study(file, path, *OFTEN, "--ray", cluster.address) == 0
    assert tables(path) == tables(local)


@if_all
def test_a_run_of_the_cluster_goes_on_here_and_the_other_way_round(
    cluster: Any, file: str, local: Path, tmp_path: Path
) -> None:
    """Half of the lanes there, the others here; then the reverse."""
    for number, (first, then) in enumerate(
        [(("--ray", cluster.address), ()), ((), ("--ray", cluster.address))]
    ):
        path = tmp_path / f"run{number}"
        assert study(file, path, "--num_seeds", "1", *first) == 0
        assert study(file, path, "--num_seeds", "2", *then) == 0
        assert sorted(map(str, tables(path)["eval.csv"])) == sorted(
            str({**row, "lane": {"1": "2", "2": "1"}.get(row["lane"], row["lane"])})
            for row in tables(local)["eval.csv"]
        )


def test_a_driver_s_machine_that_is_lost_costs_what_came_since_the_last_checkpoints(
    cluster: Any, file: str, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is in a store: the driver is killed, its disk forgotten, another one goes on."""
    url = f"file://{tmp_path / 'store' / 'run'}"
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    command = [sys.executable, "-m", "fastanf", "study", file, *OPTIONS, *OFTEN]
    command += ["--run_dir", url, "--ray", cluster.address]
    driver = subprocess.Popen(command, cwd=first, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: len(steps_saved(first / "runs" / "run")) == NUM_NODES, 120)
    driver.kill()
    driver.communicate(timeout=60)
    shutil.rmtree(first)
    monkeypatch.chdir(second)
    assert study(file, url, *OFTEN, "--ray", cluster.address) == 0
    assert tables(second / "runs" / "run") == tables(local)
    assert main(["fetch", url, "fetched"]) == 0
    assert tables(second / "fetched") == tables(local)
    assert main(["export", "fetched", "--lane", "1", "--format", "agent"]) == 0


@if_all
def test_a_dry_run_places_and_measures_and_leaves_nothing(
    cluster: Any, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    assert study(file, path, "--dry-run", "--ray", cluster.address) == 0
    text = capsys.readouterr().out
    assert "placement: 4 lanes in 4 blocks" in text
    assert "estimate: " in text and "?" not in text.split("placement")[1]
    assert not path.exists()
